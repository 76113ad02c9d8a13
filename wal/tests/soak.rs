//! Random operations, crashes, failing and lying devices, rot, full disks and repairs, against a model.
//!
//! A round is a log of its own, of [`ROUND`] operations, and follows from its seed (but for the order in which the
//! log's threads get to run). `make soak` runs many: `SOAK_SEED` is the first round's, `SOAK_OPS` how many operations
//! in all. Without them it is a short run. A failure prints the command that runs its round again.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use support::BUDGET;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::repair::plan;
use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions, OpenError,
    Record, RecordKind, Seq, SeqRange, ShardId, Storage, Term,
};

const ROUND: u64 = 1_000;
const OWNERS: u128 = 3;
const RECEIVER: u128 = 9;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What an owner was told.
#[derive(Default)]
struct Told {
    durable: Seq,
    flushed: Seq,
    /// Acknowledged, by Seq.
    acked: BTreeMap<Seq, Record>,
    /// Every record that was ever named: none may be named twice, and nothing else may be read.
    named: BTreeMap<(Seq, Term), u128>,
}

struct World {
    random: Random,
    storage: MemStorage,
    log: Option<Log>,
    told: BTreeMap<InstanceId, Told>,
    /// What the receiver acknowledged, and what it was ever offered.
    receiver: InstanceId,
    received: BTreeMap<Seq, u128>,
    offered: BTreeSet<(Seq, u128)>,
    /// The device lied, or rotted: what was acknowledged may be gone, but never wrong.
    lied: bool,
    faults: Vec<String>,
    repairs: u64,
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 2 << 20,
        buffered_sync_every: Duration::from_millis(3),
        recent_bytes: 8 << 10,
        ..LogOptions::default()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            storage: MemStorage::new(),
            log: None,
            told: BTreeMap::new(),
            receiver: InstanceId(RECEIVER),
            received: BTreeMap::new(),
            offered: BTreeSet::new(),
            lied: false,
            faults: Vec::new(),
            repairs: 0,
        }
    }

    /// The open log; opens it, repairing it where a lie has damaged it.
    fn log(&mut self) -> Option<Log> {
        if let Some(log) = &self.log {
            return Some(log.clone());
        }
        match Log::open(Arc::new(self.storage.clone()), options()) {
            Ok((log, _)) => {
                self.log = Some(log.clone());
                loop {
                    match self.serve(&log) {
                        Ok(()) => break,
                        // At its limit: as an engine does, flush what pins it.
                        Err(LogError::Full { .. }) => self.flush_all(&log),
                        Err(_) => {
                            self.log = None;
                            return None;
                        }
                    }
                }
                Some(log)
            }
            Err(OpenError::Damaged(_) | OpenError::MissingSegment { .. }) if self.lied => {
                self.storage.set_injector(None);
                // What the stores hold may be known, or not.
                let known = self.random.below(2) == 0;
                let told = self.told.iter().filter(|_| known);
                let stores = told.map(|(&id, told)| (id, told.flushed)).collect();
                let plan = plan(&self.storage, &stores).unwrap().unwrap();
                let shared: Arc<dyn Storage> = Arc::new(self.storage.clone());
                self.storage.set_capacity(None);
                plan.apply(&shared, &MemStorage::new()).unwrap();
                self.repairs += 1;
                self.log()
            }
            Err(OpenError::Io { .. } | OpenError::Full { .. }) => {
                self.reopen(Survival::All);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends the process or the power, and makes the device well.
    fn reopen(&mut self, survival: Survival) {
        self.storage.set_injector(None);
        self.log = None;
        self.storage = self.storage.crash(survival);
        self.storage.set_capacity(None);
        self.faults.clear();
    }

    /// After an opening: checks what is there, and starts the owners' terms.
    fn serve(&mut self, log: &Log) -> Result<(), LogError> {
        for id in (1..=OWNERS).map(InstanceId).chain([self.receiver]) {
            let instance = match log.instance(id) {
                Some(instance) => instance,
                None => {
                    // It may have been lost with a lie; then nothing of it is known any more.
                    let lost = self.lied && self.told.contains_key(&id);
                    assert!(lost || !self.told.contains_key(&id), "{id} is gone");
                    let named = self.told.remove(&id).map(|told| told.named);
                    let hosted = log.host(ShardId(id.0 as u64), id, Seq::ZERO, Vec::new())?;
                    let named = named.unwrap_or_default();
                    // A hosting made anew is another one: its terms begin above.
                    if let Some(opening) = named.keys().map(|(_, term)| term.opening).max() {
                        let term = Term::new(Epoch(1), opening + 1);
                        self.start(&hosted, term, named)?;
                    }
                    hosted
                }
            };
            if id == self.receiver {
                self.told.entry(id).or_default();
                self.check_receiver(&instance)?;
                continue;
            }
            if instance.term().is_some() {
                continue; // in an attempt that found the log full
            }
            self.check(&instance)?;
            let named = std::mem::take(&mut self.told.entry(id).or_default().named);
            self.start(&instance, instance.next_term(Epoch(1)), named)?;
        }
        self.lied = false;
        Ok(())
    }

    fn start(
        &mut self,
        log: &InstanceLog,
        term: Term,
        named: BTreeMap<(Seq, Term), u128>,
    ) -> Result<(), LogError> {
        let told = self.told.entry(log.id()).or_default();
        told.named = named;
        // The store that is flushed so far is further than a log that lost its end.
        let started = log.start_term(term, told.flushed)?;
        let seq = started.seq;
        let before = told.named.insert((seq, term), 0);
        assert!(before.is_none(), "{seq} of term {term} is named twice");
        started.wait()?;
        told.durable = seq;
        Ok(())
    }

    /// Nothing wrong is there, and all that must be there is.
    fn check(&mut self, log: &InstanceLog) -> Result<(), LogError> {
        let told = self.told.entry(log.id()).or_default();
        let found = log.watermarks().durable;
        assert!(
            self.lied || found >= told.durable,
            "{found} of {}",
            told.durable
        );
        let mut here = BTreeMap::new();
        // What is flushed may be gone.
        let kept = SeqRange::after(told.flushed, Seq(u64::MAX - 1)).expect("not the last");
        for range in log
            .has()
            .intervals()
            .filter_map(|range| range.intersect(kept))
        {
            for record in log.read(range) {
                match record {
                    Ok(record) => drop(here.insert(record.seq(), record)),
                    Err(LogError::Gap { .. } | LogError::Damaged(_)) if self.lied => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for (seq, record) in &here {
            let named = told.named.get(&(*seq, record.term()));
            let named = named.unwrap_or_else(|| panic!("{seq} was never written"));
            assert!(
                record.kind() == RecordKind::Start || *named == record.hash(),
                "{seq}"
            );
        }
        let must = told.acked.range(told.flushed.next()..);
        for (seq, record) in must.take_while(|(seq, _)| **seq <= told.durable) {
            assert!(
                self.lied || here.get(seq) == Some(record),
                "{seq} of {} is lost: durable {found}, told {}",
                log.id(),
                told.durable
            );
        }
        // What stands behind a hole is void from the next start on.
        told.acked
            .retain(|seq, record| here.get(seq) == Some(record) && (!self.lied || *seq <= found));
        told.durable = found;
        Ok(())
    }

    fn check_receiver(&mut self, log: &InstanceLog) -> Result<(), LogError> {
        let has = log.has();
        for range in has.intervals() {
            for record in log.read(range) {
                match record {
                    Ok(record) => {
                        let (seq, hash) = (record.seq(), record.hash());
                        assert!(self.offered.contains(&(seq, hash)), "{seq} was never sent");
                        let acked = self.received.get(&seq);
                        assert!(acked.is_none_or(|&acked| acked == hash), "{seq} is another");
                    }
                    Err(LogError::Gap { .. }) => {}
                    Err(LogError::Damaged(_)) if self.lied => {}
                    Err(error) => return Err(error),
                }
            }
        }
        assert!(self.lied || self.received.keys().all(|&seq| has.contains(seq)));
        // What is on its way may be there later: only what is there now is promised.
        self.received.retain(|&seq, _| has.contains(seq));
        Ok(())
    }

    fn flush_all(&mut self, log: &Log) {
        for instance in log.instances() {
            if instance.id().0 > OWNERS {
                continue;
            }
            let durable = instance.watermarks().durable;
            instance.set_flushed(durable);
            for hold in instance.holds() {
                // What can't be noted now is noted with the truncation.
                let _ = instance.release_hold(&hold.name);
            }
            let told = self.told.entry(instance.id()).or_default();
            told.flushed = told.flushed.max(durable);
        }
        // A receiver that lags too far starts anew, as another instance.
        self.told.remove(&self.receiver);
        self.received.clear();
        self.receiver = InstanceId(self.receiver.0 + 1);
        let receivers = log.instances().into_iter().map(|instance| instance.id());
        for id in receivers.filter(|id| id.0 > OWNERS) {
            let _ = log.forget(id);
        }
        std::thread::yield_now();
    }

    fn owner(&mut self, log: &Log) -> InstanceLog {
        let id = InstanceId(1 + u128::from(self.random.below(OWNERS as u64)));
        log.instance(id).expect("hosted")
    }

    /// A few writes at once, of which some are waited for.
    fn write(&mut self, log: &Log) -> Result<(), LogError> {
        let owner = self.owner(log);
        let count = 1 + self.random.below(4);
        let mut waiting = Vec::new();
        for _ in 0..count {
            let most = 16 << self.random.below(9);
            let (len, fill) = (self.random.below(most), self.random.0);
            let body: Vec<u8> = (0..len)
                .map(|i| {
                    if fill & 8 == 0 {
                        7
                    } else {
                        (i * i * 31) as u8 ^ fill as u8
                    }
                })
                .collect();
            let sync = self.random.below(3) > 0;
            let durability = if sync {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            let inline = if fill & 16 == 0 {
                Inline::Allowed
            } else {
                Inline::Never
            };
            let body = bytes::Bytes::from(body);
            let submitted = if (durability, inline) == (Durability::Buffered, Inline::Allowed) {
                owner.append(RecordKind::Batch, body.clone())?.into()
            } else {
                owner.submit(RecordKind::Batch, body.clone(), durability, inline)?
            };
            let record = Record::new(submitted.term, submitted.seq, RecordKind::Batch, body);
            let told = self.told.get_mut(&owner.id()).expect("told");
            let before = told
                .named
                .insert((record.seq(), record.term()), record.hash());
            assert!(before.is_none(), "{} is named twice", record.seq());
            waiting.push((submitted, record, sync));
        }
        for (submitted, record, sync) in waiting {
            submitted.wait()?;
            let told = self.told.get_mut(&owner.id()).expect("told");
            if sync {
                told.durable = told.durable.max(record.seq());
            }
            told.acked.insert(record.seq(), record);
        }
        Ok(())
    }

    fn flush(&mut self, log: &Log) {
        let owner = self.owner(log);
        let told = self.told.get_mut(&owner.id()).expect("told");
        let flushed = Seq(told.durable.0.saturating_sub(self.random.below(20)));
        told.flushed = told.flushed.max(flushed);
        owner.set_flushed(told.flushed);
        let flushed = told.flushed;
        told.acked.retain(|&seq, _| seq > flushed);
        told.named.retain(|&(seq, _), _| seq.0 + 200 > flushed.0);
    }

    fn note(&mut self, log: &Log) -> Result<(), LogError> {
        let owner = self.owner(log);
        let name = format!("hold {}", self.random.below(3));
        match self.random.below(3) {
            0 => owner.release_hold(&name),
            1 => match owner.hold(&name, owner.watermarks().durable, BUDGET) {
                // Truncated since.
                Err(LogError::Gap { .. }) => Ok(()),
                other => other,
            },
            _ => owner.put_note(&name, vec![3; 40].into())?.wait().map(drop),
        }
    }

    /// The receiver takes some of what the first owner has durable, in some order.
    fn receive(&mut self, log: &Log) -> Result<(), LogError> {
        let owner = log.instance(InstanceId(1)).expect("hosted");
        let Some(receiver) = log.instance(self.receiver) else {
            return Ok(());
        };
        let end = owner.watermarks().durable;
        let from = Seq(end.0.saturating_sub(self.random.below(30)));
        let Some(range) = SeqRange::after(from, end) else {
            return Ok(());
        };
        for record in owner.read(range).filter_map(Result::ok) {
            let seq = record.seq();
            // One Seq has one record in a lineage; ours may have been voided by a repair.
            if self.random.below(3) == 0 || self.received.contains_key(&seq) {
                continue;
            }
            let hash = record.hash();
            self.offered.insert((seq, hash));
            match receiver.append_at(vec![record]) {
                Ok(submitted) => {
                    // From now on it may be there; if it was refused or void it is not.
                    submitted.wait()?;
                    if receiver
                        .read(SeqRange::single(seq))
                        .any(|found| found.is_ok())
                    {
                        self.received.insert(seq, hash);
                    }
                }
                Err(LogError::Conflict { .. } | LogError::StaleTerm { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn inject(&mut self) {
        let on = ["write", "sync", "change", "create", "any"][self.random.below(5) as usize];
        let fault = ["eio", "short", "enospc", "crash", "lost", "misdirect"];
        let fault = fault[self.random.below(6) as usize];
        let text = format!("on({on})&nth({}):{fault}", 1 + self.random.below(12));
        self.storage
            .set_injector(Some(text.parse::<Injector>().unwrap()));
        self.lied |= ["lost", "misdirect"].contains(&fault);
        self.faults.push(text);
    }

    fn rot(&mut self) {
        let names = self.storage.list().unwrap_or_default();
        for _ in 0..1 + self.random.below(3) {
            let name = &names[self.random.below(names.len() as u64) as usize];
            let len = self
                .storage
                .contents(name)
                .map_or(1, |bytes| bytes.len() as u64);
            let at = self.random.below(len.max(1));
            let xor = 1 << self.random.below(8);
            if self.storage.corrupt(name, at, xor).is_ok() {
                self.faults.push(format!("{name}: byte {at} xor {xor}"));
            }
        }
        self.lied = true;
    }

    fn step(&mut self) {
        let Some(log) = self.log() else { return };
        let result = match self.random.below(100) {
            0..60 => self.write(&log),
            60..61 => {
                self.flush_all(&log);
                Ok(())
            }
            61..68 => {
                self.flush(&log);
                Ok(())
            }
            68..76 => self.note(&log),
            76..84 => self.receive(&log),
            84..86 => log.sync(),
            86..90 => {
                self.inject();
                Ok(())
            }
            90..92 => {
                let used = log.status().bytes;
                let room = (self.random.below(2) == 0).then_some(used + (16 << 10));
                self.storage.set_capacity(room);
                Ok(())
            }
            92..94 => {
                let closed = log.close();
                let rots = closed.is_ok() && self.random.below(3) == 0;
                self.reopen(Survival::All);
                if rots {
                    self.rot();
                }
                Ok(())
            }
            _ => {
                let seed = self.random.below(u64::MAX);
                let survival = [Survival::None, Survival::All, Survival::Seeded(seed)];
                drop(log);
                self.reopen(survival[seed as usize % 3]);
                return;
            }
        };
        match result {
            Ok(())
            | Err(
                LogError::Full { .. } | LogError::Busy { .. } | LogError::HoldOverBudget { .. },
            ) => {}
            Err(LogError::Damaged(_)) if self.lied => self.reopen(Survival::All),
            Err(LogError::Poisoned { .. } | LogError::Closed | LogError::Io { .. }) => {
                let seed = self.random.below(u64::MAX);
                self.reopen(Survival::Seeded(seed));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, no number")),
        Err(_) => default,
    }
}

#[test]
fn soak() {
    let (first, ops) = (env("SOAK_SEED", 1), env("SOAK_OPS", 8_000));
    let (mut done, mut repairs) = (0, 0);
    for seed in first.. {
        let mut world = World::new(seed);
        let round = ROUND.min(ops - done);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..round {
                world.step();
            }
        }));
        if let Err(panic) = ended {
            eprintln!("faults of its last life: {:?}", world.faults);
            eprintln!("again: make soak SOAK_SEED={seed} SOAK_OPS={round}");
            std::panic::resume_unwind(panic);
        }
        repairs += world.repairs;
        done += round;
        if done % 100_000 == 0 {
            println!(
                "{done} operations, {repairs} repairs, next seed {}",
                seed + 1
            );
        }
        if done >= ops {
            break;
        }
    }
    println!("{done} operations, {repairs} repairs");
}

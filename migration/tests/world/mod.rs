//! A small world under a seeded scheduler: one shard, its source, its target, drivers and the placement, with
//! messages lost, doubled and late, swaps that win after their reply was given up, and crashes of everybody.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use watershed_migration::machine::{Action, CallError, Event, Machine, Operator, Outcome, Peer};
use watershed_migration::messages::{
    EntryVersion, FileInfo, Manifest, PageEntry, RefusedKind, Request, Response, SourceState,
    TargetState,
};
use watershed_migration::source::{
    CallId, DrainedMarks, Hosting, SourceAction, SourceEvent, SourceNote, SourceRole,
};
use watershed_migration::target::{
    TargetAction, TargetEvent, TargetNote, TargetRole, VerifiedMarks,
};
use watershed_migration::{
    HighestSeen, MigrationConfig, MigrationCoordinator, MigrationId, MigrationRecord, NodeId, Now,
    Phase, PlacementRecord, Revision,
};
use watershed_wal::{
    Epoch, InstanceId, LogDigest, Record, RecordKind, Seq, SeqRange, SeqSet, ShardId, Term,
};

pub(crate) const S: InstanceId = InstanceId(0x5);
pub(crate) const T: InstanceId = InstanceId(0x7);

/// What may go wrong, in thousandths.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) lose: u64,
    pub(crate) double: u64,
    pub(crate) lose_swap_reply: u64,
    pub(crate) lose_forward: u64,
    pub(crate) crash: u64,
    pub(crate) delay_max: u64,
    /// After this moment nothing goes wrong any more.
    pub(crate) until: u64,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self {
            lose: 0,
            double: 0,
            lose_swap_reply: 0,
            lose_forward: 0,
            crash: 0,
            delay_max: 1,
            until: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Source,
    Target,
    Driver,
}

/// A swap or a read on its way to the placement, and whom to tell.
#[derive(Clone, Debug)]
enum Asker {
    Source(u64),
    Target(u64),
    Driver(usize),
}

#[derive(Clone, Debug)]
enum Ev {
    Start(usize),
    ToSource(u64, SourceEvent),
    ToTarget(u64, TargetEvent),
    ToDriver(usize, Event),
    Arrive {
        driver: usize,
        call: CallId,
        to: Peer,
        bytes: bytes::Bytes,
    },
    Forward(u64),
    Swap {
        asker: Asker,
        expected: Revision,
        record: Box<PlacementRecord>,
        give_up: bool,
    },
    GaveUp(Asker),
    Read(Asker),
    Write,
    Crash(Who),
    Restart(Who),
}

struct Source {
    role: SourceRole,
    generation: u64,
    up: bool,
    /// Writes and reads are answered.
    gate: bool,
    reads: bool,
    forwarding: bool,
    opening: u64,
    note: Option<SourceNote>,
    seen: HighestSeen,
    log: Vec<Record>,
    base: Option<(Seq, LogDigest)>,
    deleted: bool,
}

struct Target {
    role: TargetRole,
    generation: u64,
    up: bool,
    note: Option<TargetNote>,
    seen: HighestSeen,
    records: BTreeMap<u64, Record>,
    manifest: Option<Manifest>,
    opened: bool,
    term: Option<(Term, Seq)>,
    discarded: bool,
}

pub(crate) struct World {
    now: u64,
    order: u64,
    rng: u64,
    faults: Faults,
    queue: BTreeMap<(u64, u64), Ev>,
    pub(crate) placement: PlacementRecord,
    config: MigrationConfig,
    source: Source,
    target: Target,
    pub(crate) drivers: Vec<Option<Machine>>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) trace: Vec<String>,
    calls: BTreeMap<CallId, (usize, CallId)>,
    next_call: u64,
    acknowledged: u64,
    pub(crate) crash_at: Option<(Who, Phase)>,
    pub(crate) abort_at: Option<Phase>,
    pub(crate) takeover_at: Option<Phase>,
    pub(crate) slow_ms: u64,
    pub(crate) slow_attempts: u32,
    pub(crate) certified: Option<Box<watershed_migration::Certificate>>,
    loud: bool,
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn at(name: &str, instance: InstanceId) -> Hosting {
    Hosting {
        shard: ShardId(1),
        node: node(name),
        instance,
    }
}

fn record(term: Term, seq: u64) -> Record {
    Record::new(
        term,
        Seq(seq),
        RecordKind::Batch,
        bytes::Bytes::from(seq.to_le_bytes().to_vec()),
    )
}

fn digest<'a>(records: impl IntoIterator<Item = &'a Record>) -> LogDigest {
    let mut digest = LogDigest::default();
    records
        .into_iter()
        .for_each(|record| digest.add(record.hash()));
    digest
}

fn page(records: Vec<&Record>, after: Option<bytes::Bytes>, limit: usize) -> Response {
    let key = |r: &Record| bytes::Bytes::from(r.seq().0.to_be_bytes().to_vec());
    let rest: Vec<_> = records
        .into_iter()
        .filter(|r| after.as_ref().is_none_or(|a| key(r) > *a))
        .collect();
    let done = rest.len() <= limit;
    let entries = rest.into_iter().take(limit).map(|r| PageEntry {
        key: key(r),
        version: EntryVersion {
            term: r.term(),
            seq: r.seq(),
        },
        tombstone: false,
        hash: r.hash(),
    });
    Response::Page {
        entries: entries.collect(),
        done,
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, config: MigrationConfig) -> Self {
        let term = Term::new(Epoch(1), 1);
        let log: Vec<_> = (1..=20).map(|seq| record(term, seq)).collect();
        let placement = PlacementRecord::create(ShardId(1), node("s"), S);
        let gate = MigrationCoordinator::new(config.clone())
            .validate_safety()
            .unwrap();
        let migration = MigrationRecord::new(
            MigrationId(9),
            &placement,
            node("t"),
            node("d0"),
            &gate,
            "test",
        );
        let machine = Machine::new(gate, placement.clone(), migration);
        let mut world = Self {
            now: 0,
            order: 0,
            rng: seed,
            faults,
            queue: BTreeMap::new(),
            placement,
            config,
            source: Source {
                role: SourceRole::new(at("s", S), HighestSeen::default()),
                generation: 0,
                up: true,
                gate: true,
                reads: true,
                forwarding: false,
                opening: 1,
                note: None,
                seen: HighestSeen::default(),
                log,
                base: None,
                deleted: false,
            },
            target: Target {
                role: TargetRole::new(at("t", T), HighestSeen::default()),
                generation: 0,
                up: true,
                note: None,
                seen: HighestSeen::default(),
                records: BTreeMap::new(),
                manifest: None,
                opened: false,
                term: None,
                discarded: false,
            },
            drivers: vec![Some(machine)],
            outcomes: Vec::new(),
            trace: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            acknowledged: 20,
            crash_at: None,
            abort_at: None,
            takeover_at: None,
            slow_ms: 0,
            slow_attempts: 0,
            certified: None,
            loud: false,
        };
        world.after(0, Ev::Start(0));
        world.after(1, Ev::Write);
        world
    }

    /// Keeps a transcript.
    pub(crate) fn loud(mut self) -> Self {
        self.loud = true;
        self
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        let dice = self.random() % 1000;
        self.now < self.faults.until && dice < per_mille
    }

    fn after(&mut self, ms: u64, ev: Ev) {
        self.order += 1;
        self.queue.insert((self.now + ms, self.order), ev);
    }

    fn delay(&mut self) -> u64 {
        let max = if self.now < self.faults.until {
            self.faults.delay_max
        } else {
            1
        };
        1 + self.random() % max
    }

    fn soon(&mut self, ev: Ev) {
        let ms = self.delay();
        self.after(ms, ev);
    }

    fn say(&mut self, line: String) {
        if self.loud {
            self.trace.push(line);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        let ended = self
            .placement
            .migration
            .as_ref()
            .is_some_and(|m| m.phase.is_final());
        ended && self.drivers.iter().all(Option::is_none)
    }

    /// Runs to the end; panics where a rule breaks or the end doesn't come.
    pub(crate) fn run(&mut self) {
        for _ in 0..200_000 {
            if self.is_over() {
                return;
            }
            let Some(((now, _), ev)) = self.queue.pop_first() else {
                break;
            };
            self.now = now;
            self.step(ev);
            self.check();
        }
        panic!(
            "no end at {}: source {}, target {}, drivers {:?}, placement {:?}",
            self.now,
            self.source.role.state_name(),
            self.target.role.state_name(),
            self.drivers
                .iter()
                .map(|d| d.as_ref().map(Machine::step))
                .collect::<Vec<_>>(),
            self.placement
        );
    }

    fn check(&mut self) {
        self.placement.validate().unwrap();
        let owner = self.target.up && self.target.role.is_owner();
        assert!(
            !(owner && self.source.gate && self.source.up),
            "two owners take writes"
        );
        assert!(
            !(owner && self.source.reads && self.source.up),
            "the old owner answers reads"
        );
        assert!(
            !(self.target.discarded && self.placement.instance == T),
            "the owner's copy was deleted"
        );
        assert!(
            !(self.source.deleted && self.placement.instance == S),
            "the owner's copy was deleted"
        );
    }

    fn step(&mut self, ev: Ev) {
        match ev {
            Ev::Start(d) => {
                let now = Now(self.now);
                if let Some(machine) = &mut self.drivers[d] {
                    machine.start(now);
                }
                self.drain_driver(d);
            }
            Ev::ToDriver(d, event) => {
                let now = Now(self.now);
                if let Some(machine) = &mut self.drivers[d] {
                    machine.handle(now, event);
                }
                self.drain_driver(d);
            }
            Ev::ToSource(generation, event)
                if self.source.up && generation == self.source.generation =>
            {
                self.source_event(event);
            }
            Ev::ToTarget(generation, event)
                if self.target.up && generation == self.target.generation =>
            {
                self.target_event(event);
            }
            Ev::ToSource(..) | Ev::ToTarget(..) => {}
            Ev::Arrive {
                driver,
                call,
                to,
                bytes,
            } => self.arrive(driver, call, to, &bytes),
            Ev::Forward(seq) => self.store_at_target(&[seq]),
            Ev::Swap {
                asker,
                expected,
                record,
                give_up,
            } => self.swap(asker, expected, *record, give_up),
            Ev::GaveUp(asker) => self.tell(asker, None, false),
            Ev::Read(asker) => {
                let record = self.placement.clone();
                self.tell_read(asker, record);
            }
            Ev::Write => self.write(),
            Ev::Crash(who) => self.crash(who),
            Ev::Restart(who) => self.restart(who),
        }
        if self.chance(self.faults.crash) {
            let who = [Who::Source, Who::Target, Who::Driver][(self.random() % 3) as usize];
            self.crash(who);
        }
    }

    fn write(&mut self) {
        if self.source.up && self.source.gate {
            let seq = self.source.log.len() as u64 + 1;
            self.source
                .log
                .push(record(Term::new(Epoch(1), self.source.opening), seq));
            self.acknowledged = seq;
            if self.source.forwarding && !self.chance(self.faults.lose_forward) {
                self.soon(Ev::Forward(seq));
            }
        }
        if self.now < 3_000 {
            self.after(2, Ev::Write);
        }
    }

    fn crash(&mut self, who: Who) {
        self.say(format!("      crash {who:?}"));
        match who {
            Who::Source if self.source.up => {
                self.source.up = false;
                self.source.generation += 1;
                (self.source.gate, self.source.reads, self.source.forwarding) =
                    (false, false, false);
            }
            Who::Target if self.target.up => {
                self.target.up = false;
                self.target.generation += 1;
            }
            Who::Driver if self.drivers.last().is_some_and(Option::is_some) => {
                let zombie = self.random().is_multiple_of(2) && self.crash_at.is_none();
                if !zombie {
                    *self.drivers.last_mut().unwrap() = None;
                }
            }
            _ => return,
        }
        self.after(30, Ev::Restart(who));
    }

    fn restart(&mut self, who: Who) {
        match who {
            Who::Source => {
                let (role, actions) =
                    SourceRole::recover(at("s", S), self.source.seen, self.source.note.clone());
                self.source.role = role;
                self.source.up = true;
                self.source.opening += 1;
                self.source_actions(actions);
            }
            Who::Target => {
                self.target.up = true;
                match self.target.note.clone() {
                    Some(note) if !self.target.discarded => {
                        let (role, actions) =
                            TargetRole::recover(at("t", T), self.target.seen, note, 1 << 30);
                        self.target.role = role;
                        self.target_actions(actions);
                    }
                    _ => {
                        self.target.role =
                            TargetRole::new(at("t", InstanceId(0x77)), self.target.seen)
                    }
                }
                if self.target.note.is_none() && !self.target.discarded {
                    self.target.role = TargetRole::new(at("t", T), self.target.seen);
                }
            }
            Who::Driver => self.take_over(),
        }
    }

    pub(crate) fn take_over(&mut self) {
        let gate = MigrationCoordinator::new(self.config.clone())
            .validate_safety()
            .unwrap();
        let d = self.drivers.len();
        let name = node(&format!("d{d}"));
        match Machine::resume(gate.clone(), self.placement.clone(), name.clone()) {
            Some(machine) => self.drivers.push(Some(machine)),
            None => {
                let id = MigrationId(1000 + d as u128);
                let migration =
                    MigrationRecord::new(id, &self.placement, node("t"), name, &gate, "again");
                self.drivers
                    .push(Some(Machine::new(gate, self.placement.clone(), migration)));
            }
        }
        self.after(0, Ev::Start(d));
    }

    fn drain_driver(&mut self, d: usize) {
        while let Some(action) = self.drivers[d].as_mut().and_then(Machine::next_action) {
            self.driver_action(d, action);
        }
    }

    fn driver_action(&mut self, d: usize, action: Action) {
        match action {
            Action::Send {
                call, to, request, ..
            } => {
                self.say(format!("d{d}  -> {to:?} {}", request.name()));
                self.after(
                    60,
                    Ev::ToDriver(
                        d,
                        Event::Failed {
                            call,
                            error: CallError::Unreachable,
                        },
                    ),
                );
                let bytes = request.encode();
                for _ in 0..1 + u64::from(self.chance(self.faults.double)) {
                    if !self.chance(self.faults.lose) {
                        self.soon(Ev::Arrive {
                            driver: d,
                            call,
                            to,
                            bytes: bytes.clone(),
                        });
                    }
                }
            }
            Action::Swap { expected, record } => {
                let m = record.migration.as_ref().unwrap();
                self.say(format!(
                    "d{d}  swap r{} {} attempt {}",
                    record.revision, m.phase, m.attempt
                ));
                self.send_swap(Asker::Driver(d), expected, record);
            }
            Action::ReadPlacement => {
                self.say(format!("d{d}  read placement"));
                self.soon(Ev::Read(Asker::Driver(d)));
            }
            Action::SetTimer { timer, at } => {
                self.after(
                    at.since_ms(Now(self.now)),
                    Ev::ToDriver(d, Event::Timer(timer)),
                );
            }
            Action::Progress(progress) => self.phase(d, progress.phase),
            Action::Certified(certificate) => {
                certificate.check().unwrap();
                self.say(format!(
                    "d{d}  certified F={} {}",
                    certificate.f, certificate.verdict
                ));
                self.certified = Some(certificate);
            }
            Action::Finish(outcome) => {
                assert!(
                    !matches!(outcome, Outcome::CopiesDiffer { .. }),
                    "{outcome:?}"
                );
                self.say(format!("d{d}  finish {outcome:?}"));
                self.outcomes.push(outcome);
                self.drivers[d] = None;
            }
        }
    }

    fn phase(&mut self, d: usize, phase: Phase) {
        self.say(format!("d{d}  == {phase}"));
        if let Some((who, _)) = self.crash_at.filter(|(_, at)| *at == phase) {
            self.crash_at = None;
            self.after(0, Ev::Crash(who));
        }
        if self.abort_at == Some(phase) {
            self.abort_at = None;
            let reason = "asked".to_owned();
            self.after(
                0,
                Ev::ToDriver(d, Event::Operator(Operator::Abort { reason })),
            );
        }
        if self.takeover_at == Some(phase) {
            self.takeover_at = None;
            self.after(1, Ev::Restart(Who::Driver));
        }
    }

    fn send_swap(&mut self, asker: Asker, expected: Revision, record: Box<PlacementRecord>) {
        let lost = self.chance(self.faults.lose_swap_reply);
        if lost {
            self.after(20, Ev::GaveUp(asker.clone()));
            if self.chance(300) {
                return;
            }
            // It may well arrive after the asker has given up.
            let late = self.random() % 60;
            self.after(
                late,
                Ev::Swap {
                    asker,
                    expected,
                    record,
                    give_up: true,
                },
            );
        } else {
            self.soon(Ev::Swap {
                asker,
                expected,
                record,
                give_up: false,
            });
        }
    }

    fn swap(&mut self, asker: Asker, expected: Revision, record: PlacementRecord, silent: bool) {
        let won = self.placement.revision == expected;
        if won {
            assert_eq!(record.revision.0, expected.0 + 1);
            if record.epoch > self.placement.epoch {
                self.check_activation(&record);
            }
            self.placement = record;
        }
        if !silent {
            self.tell(asker, Some(self.placement.clone()), won);
        }
    }

    /// The promise itself: whoever is made owner has every acknowledged write, with the same bytes.
    fn check_activation(&mut self, record: &PlacementRecord) {
        let m = record.migration.as_ref().unwrap();
        let proof = m.proof.as_ref().unwrap();
        assert_eq!(
            Some(proof.source.attempt),
            self.placement.migration.as_ref().map(|m| m.attempt)
        );
        assert!(
            !self.source.gate,
            "the source takes writes while it gives the shard away"
        );
        assert!(
            self.acknowledged <= proof.source.f.0,
            "a write after F was acknowledged"
        );
        let base = self.target.manifest.as_ref().unwrap().base;
        assert!(self.target.opened);
        for record in &self.source.log {
            let have =
                record.seq() <= base || self.target.records.get(&record.seq().0) == Some(record);
            assert!(have, "record {} is lost", record.seq());
        }
    }

    fn tell(&mut self, asker: Asker, record: Option<PlacementRecord>, won: bool) {
        let record = record.map(Box::new);
        match asker {
            Asker::Source(generation) => {
                let event = match (record, won) {
                    (None, _) => SourceEvent::SwapUnknown,
                    (Some(record), true) => SourceEvent::Swapped(record),
                    (Some(record), false) => SourceEvent::SwapConflict(record),
                };
                self.soon(Ev::ToSource(generation, event));
            }
            Asker::Target(_) => {}
            Asker::Driver(d) => {
                let event = match (record, won) {
                    (None, _) => Event::SwapUnknown,
                    (Some(record), true) => Event::Swapped(record),
                    (Some(record), false) => Event::SwapConflict(record),
                };
                self.soon(Ev::ToDriver(d, event));
            }
        }
    }

    fn tell_read(&mut self, asker: Asker, record: PlacementRecord) {
        let lost = self.chance(self.faults.lose);
        let record = Box::new(record);
        match asker {
            Asker::Source(g) if lost => self.soon(Ev::ToSource(g, SourceEvent::PlacementUnread)),
            Asker::Source(g) => self.soon(Ev::ToSource(g, SourceEvent::PlacementRead(record))),
            Asker::Target(g) if lost => self.soon(Ev::ToTarget(g, TargetEvent::PlacementUnread)),
            Asker::Target(g) => self.soon(Ev::ToTarget(g, TargetEvent::PlacementRead(record))),
            Asker::Driver(d) if lost => self.soon(Ev::ToDriver(d, Event::PlacementUnread)),
            Asker::Driver(d) => self.soon(Ev::ToDriver(d, Event::PlacementRead(record))),
        }
    }

    fn arrive(&mut self, driver: usize, call: CallId, to: Peer, bytes: &[u8]) {
        let request = Box::new(Request::decode(bytes).unwrap());
        self.next_call += 1;
        let local = CallId(self.next_call);
        self.calls.insert(local, (driver, call));
        match to {
            Peer::Source if self.source.up => {
                self.source_event(SourceEvent::Request {
                    call: local,
                    request,
                });
            }
            Peer::Target if self.target.up => {
                let slow = self.slow_attempts > 0 && matches!(*request, Request::Verify { .. });
                let event = TargetEvent::Request {
                    call: local,
                    request,
                };
                if slow {
                    self.slow_attempts -= 1;
                    let generation = self.target.generation;
                    self.after(self.slow_ms, Ev::ToTarget(generation, event));
                } else {
                    self.target_event(event);
                }
            }
            _ => {}
        }
    }

    fn reply(&mut self, from: &str, call: CallId, response: &Response) {
        let Some((driver, call)) = self.calls.remove(&call) else {
            return;
        };
        let response = Response::decode(&response.encode()).unwrap();
        match &response {
            Response::Refused(r) => {
                self.say(format!("{from}   <- refused {:?}: {}", r.kind, r.message))
            }
            other => self.say(format!("{from}   <- {}", other.name())),
        }
        if !self.chance(self.faults.lose) {
            let response = Box::new(response);
            self.soon(Ev::ToDriver(driver, Event::Replied { call, response }));
        }
    }

    fn source_event(&mut self, event: SourceEvent) {
        let actions = self.source.role.handle(Now(self.now), event);
        self.source.seen = self.source.role.seen();
        self.source_actions(actions);
    }

    fn source_later(&mut self, event: SourceEvent) {
        let generation = self.source.generation;
        self.soon(Ev::ToSource(generation, event));
    }

    fn source_actions(&mut self, actions: Vec<SourceAction>) {
        let generation = self.source.generation;
        for action in actions {
            match action {
                SourceAction::Perform { call, request } => {
                    let response = self.source_performs(*request);
                    self.reply("s", call, &response);
                }
                SourceAction::Reply { call, response } => self.reply("s", call, &response),
                SourceAction::ReadPlacement => self.soon(Ev::Read(Asker::Source(generation))),
                SourceAction::CloseGate { attempt, note } => {
                    self.say("s   close gate".into());
                    self.source.gate = false;
                    self.source.note = Some(note);
                    let f = Some(Seq(self.source.log.len() as u64));
                    self.source_later(SourceEvent::GateClosed { attempt, f });
                }
                SourceAction::Drain { attempt, f } => {
                    self.source.reads = false;
                    assert_eq!(f.0, self.source.log.len() as u64);
                    let (base, digest_base) = self.source.base.unwrap();
                    let marks = Ok(DrainedMarks {
                        term: self.source.log.last().unwrap().term(),
                        base,
                        digest_base,
                        durable: f,
                        applied: f,
                        digest: digest(&self.source.log),
                    });
                    self.source_later(SourceEvent::Drained { attempt, marks });
                }
                SourceAction::PersistSent { attempt, note } => {
                    self.source.note = Some(note);
                    self.source_later(SourceEvent::NotePersisted {
                        attempt,
                        durable: true,
                    });
                }
                SourceAction::Swap { expected, record } => {
                    self.say(format!("s   swap r{} to {}", record.revision, record.owner));
                    assert!(
                        matches!(self.source.note, Some(SourceNote::Sent { .. })),
                        "sent without a note"
                    );
                    self.send_swap(Asker::Source(generation), expected, record);
                }
                SourceAction::Open => {
                    self.say("s   open".into());
                    assert_eq!(
                        self.placement.instance, S,
                        "opened a shard that was given away"
                    );
                    let term = Term::new(Epoch(1), self.source.opening);
                    if self.source.log.last().unwrap().term() < term {
                        let seq = self.source.log.len() as u64 + 1;
                        self.source.log.push(record(term, seq));
                    }
                    (self.source.gate, self.source.reads) = (true, true);
                }
                SourceAction::GiveAway { owner, epoch } => {
                    self.say(format!("s   give away to {owner} in epoch {epoch}"));
                    (self.source.gate, self.source.reads) = (false, false);
                }
                SourceAction::Release { call } => {
                    if let Some(call) = call {
                        self.reply(
                            "s",
                            call,
                            &Response::Released {
                                parked: 1,
                                pause_us: 1,
                            },
                        );
                    }
                }
                SourceAction::StopForwarding => self.source.forwarding = false,
                SourceAction::Delete { instance } => {
                    self.say("s   delete".into());
                    assert_eq!(instance, S);
                    self.source.deleted = true;
                    self.source_later(SourceEvent::Deleted(Ok(1)));
                }
                SourceAction::SetTimer { timer, at } => {
                    let ms = at.since_ms(Now(self.now));
                    self.after(ms, Ev::ToSource(generation, SourceEvent::Timer(timer)));
                }
            }
        }
    }

    fn source_performs(&mut self, request: Request) -> Response {
        let end = Seq(self.source.log.len() as u64);
        match request {
            Request::Prepare { .. } => Response::Prepared {
                source_instance: S,
                epoch: Epoch(1),
                assigned: end,
                applied: end,
                bytes_estimate: 1,
                terms: Vec::new(),
            },
            Request::Checkpoint { .. } => {
                let made = (end, digest(&self.source.log));
                let (base, digest) = *self.source.base.get_or_insert(made);
                let files = vec![FileInfo {
                    name: "1.sst".into(),
                    len: 10,
                    xxh3_128: 7,
                }];
                Response::CheckpointMade(Manifest {
                    base,
                    digest,
                    files,
                    terms: Vec::new(),
                })
            }
            Request::StartForward {
                target_instance, ..
            } => {
                assert_eq!(target_instance, T);
                self.source.forwarding = true;
                Response::Ok
            }
            Request::SourceStatus { .. } => Response::SourceState(SourceState {
                forwarding: self.source.forwarding,
                quiesced: !self.source.gate,
                assigned: end,
                durable: end,
                applied: end,
                forwarded: 0,
                forward_failed: 0,
            }),
            Request::Ship { ranges, .. } => {
                if !self.target.up || self.chance(self.faults.lose) {
                    return Response::refused(RefusedKind::Failed, "the target is not reachable");
                }
                let seqs: Vec<u64> = ranges.iter().flat_map(|r| r.iter()).map(|s| s.0).collect();
                self.store_at_target(&seqs);
                Response::Shipped {
                    records: seqs.len() as u64,
                    bytes: 0,
                }
            }
            Request::ComparePage { after, limit, .. } => page(
                self.source.log.iter().collect(),
                after,
                limit.min(7) as usize,
            ),
            other => panic!("the source was to perform {}", other.name()),
        }
    }

    fn store_at_target(&mut self, seqs: &[u64]) {
        let Some(m) = self.placement.migration.as_ref() else {
            return;
        };
        let env = watershed_migration::messages::Envelope {
            shard: ShardId(1),
            migration: m.id,
            attempt: m.attempt,
            driver_term: m.driver_term,
        };
        let admitted = self.target.role.admit_records(&env, S, [Epoch(1)]).is_ok();
        if !self.target.up || !admitted || self.target.manifest.is_none() {
            return;
        }
        for seq in seqs {
            let record = self.source.log[*seq as usize - 1].clone();
            let before = self.target.records.insert(*seq, record.clone());
            assert!(
                before.is_none_or(|before| before == record),
                "two bodies for {seq}"
            );
        }
    }

    fn target_event(&mut self, event: TargetEvent) {
        let actions = self.target.role.handle(event);
        self.target.seen = self.target.role.seen();
        self.target_actions(actions);
    }

    fn target_later(&mut self, event: TargetEvent) {
        let generation = self.target.generation;
        self.soon(Ev::ToTarget(generation, event));
    }

    fn target_has(&self) -> (Seq, SeqSet) {
        let base = self.target.manifest.as_ref().map_or(Seq::ZERO, |m| m.base);
        let has = self
            .target
            .records
            .keys()
            .map(|&s| SeqRange::single(Seq(s)))
            .collect();
        (base, has)
    }

    fn target_actions(&mut self, actions: Vec<TargetAction>) {
        let generation = self.target.generation;
        for action in actions {
            match action {
                TargetAction::Perform { call, request } => {
                    let response = self.target_performs(*request);
                    self.reply("t", call, &response);
                }
                TargetAction::Reply { call, response } => self.reply("t", call, &response),
                TargetAction::ReadPlacement => self.soon(Ev::Read(Asker::Target(generation))),
                TargetAction::Begin(note) => {
                    assert_eq!(note.instance, T);
                    self.target.note = Some(note);
                    self.target_later(TargetEvent::Begun(Ok(1 << 30)));
                }
                TargetAction::Verify { attempt, f } => {
                    let (base, has) = self.target_has();
                    let manifest = self.target.manifest.clone().unwrap();
                    let upto = has.contiguous_after(base);
                    let mine = self
                        .target
                        .records
                        .range(base.0 + 1..=upto.0)
                        .map(|(_, r)| r);
                    let marks = Ok(VerifiedMarks {
                        base,
                        digest_base: manifest.digest,
                        durable: upto.max(base),
                        applied: upto.max(base),
                        missing: watershed_migration::delta::plan(base, f, &has),
                        digest: manifest.digest.plus(digest(mine)),
                    });
                    self.target_later(TargetEvent::Verified { attempt, f, marks });
                }
                TargetAction::StartTerm { epoch, f } => {
                    self.say(format!("t   start term in epoch {epoch} after {f}"));
                    assert_eq!(self.placement.instance, T, "serves what it does not own");
                    assert_eq!(self.placement.epoch, epoch);
                    let opening = self.target.term.map_or(1, |(term, _)| term.opening + 1);
                    self.target.term = Some((Term::new(epoch, opening), f.next()));
                    self.target_later(TargetEvent::TermStarted(Ok(self.target.term.unwrap())));
                }
                TargetAction::Discard { instance } => {
                    self.say("t   discard".into());
                    assert_eq!(instance, T);
                    self.target.discarded = true;
                    self.target_later(TargetEvent::Discarded(Ok(1)));
                }
            }
        }
    }

    fn target_performs(&mut self, request: Request) -> Response {
        let (base, has) = self.target_has();
        match request {
            Request::Pull { manifest, .. } => {
                self.target.manifest.get_or_insert(manifest);
                self.target.opened = true;
                Response::Ok
            }
            Request::TargetStatus { .. } => Response::TargetState(TargetState {
                copied_bytes: 10,
                total_bytes: 10,
                opened: self.target.opened,
                base: self.target.manifest.as_ref().map(|m| m.base),
                has_max: has.max(),
                durable: has.contiguous_after(base),
                applied: has.contiguous_after(base),
                files: self
                    .target
                    .manifest
                    .as_ref()
                    .map_or_else(Vec::new, |m| m.files.clone()),
                error: None,
            }),
            Request::Missing { through, .. } => Response::MissingRanges {
                ranges: watershed_migration::delta::plan(base, through, &has),
                more: false,
            },
            Request::ComparePage { after, limit, .. } => {
                let mut all: BTreeMap<u64, Record> = self.target.records.clone();
                for record in self.source.log.iter().filter(|r| r.seq() <= base) {
                    all.insert(record.seq().0, record.clone());
                }
                page(all.values().collect(), after, limit.min(5) as usize)
            }
            other => panic!("the target was to perform {}", other.name()),
        }
    }

    pub(crate) fn phases_seen(&self) -> BTreeSet<String> {
        self.trace
            .iter()
            .filter_map(|l| l.split("== ").nth(1))
            .map(str::to_owned)
            .collect()
    }
}

//! The power goes at every call that changes something, with several outcomes of what was not synced; and a
//! device that fails at every call. Whatever was acknowledged must be there after reopening.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, HoldBudget, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions,
    OpenError, Record, RecordKind, Seq, SeqRange, ShardId, Submitted, Term, verify,
};

const BUDGET: HoldBudget = HoldBudget {
    bytes: 1 << 30,
    time: Duration::from_secs(1 << 20),
};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 4 << 20,
        buffered_sync_every: Duration::from_millis(2),
        recent_bytes: 4096,
        ..LogOptions::default()
    }
}

/// Submits as a blocking caller does: buffered writes directly where the log takes them so.
fn submit(log: &InstanceLog, body: Bytes, durability: Durability) -> Result<Submitted, LogError> {
    match durability {
        Durability::Buffered => Ok(log.append(RecordKind::Batch, body)?.into()),
        _ => log.submit(RecordKind::Batch, body, durability, Inline::Allowed),
    }
}

/// What one instance was told.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Durable at least to here.
    durable: u64,
    /// Every body that was submitted, by (opening, Seq): nothing else may be there.
    submitted: BTreeMap<(u64, u64), Bytes>,
    acked: BTreeMap<u64, (u64, Bytes)>,
    flushed: u64,
    hold: Option<u64>,
    note: Option<Bytes>,
    /// What a note that failed may have become.
    note_maybe: Option<Bytes>,
    hosted: bool,
    opening: u64,
}

type Model = BTreeMap<u128, Told>;

fn body(n: usize) -> Bytes {
    let mut body = format!("{n}:").into_bytes();
    // Some compress, some do not.
    body.extend((0..n * 131 % 5000).map(|i| {
        if n.is_multiple_of(2) {
            7
        } else {
            (i * i * 31 + n) as u8
        }
    }));
    body.into()
}

/// Submits and waits; `Ok` once told.
fn write(
    told: &mut Told,
    log: &InstanceLog,
    n: usize,
    durability: Durability,
) -> Result<(), LogError> {
    let body = body(n);
    let submitted = submit(log, body.clone(), durability)?;
    let (seq, opening) = (submitted.seq.0, submitted.term.opening);
    told.submitted.insert((opening, seq), body.clone());
    submitted.wait()?;
    if durability == Durability::Sync {
        told.durable = told.durable.max(seq);
    }
    told.acked.insert(seq, (opening, body));
    Ok(())
}

/// One life of the process: opens, checks, works until `stop` or an error.
fn live(storage: &MemStorage, model: &mut Model, steps: usize) -> Result<(), LogError> {
    let (log, _) = match Log::open(Arc::new(storage.clone()), options()) {
        Ok(opened) => opened,
        Err(OpenError::Io { .. } | OpenError::Full { .. }) => return Err(LogError::Closed),
        Err(error) => panic!("{error}"),
    };
    let mut hosted = Vec::new();
    for id in [1, 2] {
        let instance = match log.instance(InstanceId(id)) {
            Some(instance) => instance,
            None => {
                let told = model.entry(id).or_default();
                assert!(!told.hosted, "instance {id} is gone");
                let instance = log.host(ShardId(9), InstanceId(id), Seq::ZERO, Vec::new())?;
                told.hosted = true;
                instance
            }
        };
        let told = model.entry(id).or_default();
        told.hosted = true;
        check(told, &instance)?;
        let opening = instance
            .terms()
            .last()
            .map_or(0, |t| t.term.opening)
            .max(told.opening)
            + 1;
        told.opening = opening;
        let term = Term::new(Epoch(1), opening);
        let started = instance.start_term(term, Seq(told.durable))?;
        let seq = started.seq.0;
        started.wait()?;
        told.durable = seq;
        hosted.push((id, instance));
    }
    for step in 0..steps {
        let (id, instance) = &hosted[step % 2];
        let told = model.get_mut(id).unwrap();
        let durability = if step % 5 == 3 {
            Durability::Buffered
        } else {
            Durability::Sync
        };
        write(told, instance, step, durability)?;
        if step % 11 == 5 {
            let value = Bytes::from(format!("note {step}"));
            told.note_maybe = Some(value.clone());
            instance.put_note("quiesce", value.clone())?.wait()?;
            told.note = told.note_maybe.take();
        }
        if step == 12 {
            let from = told.durable;
            match instance.hold("hold", Seq(from), BUDGET) {
                Ok(()) => told.hold = Some(from),
                // Replaced by one that failed: either may be there.
                Err(error) => {
                    told.hold = told.hold.map(|before| before.max(from));
                    return Err(error);
                }
            }
        }
        if step % 9 == 8 {
            told.flushed = told.durable;
            instance.set_flushed(Seq(told.flushed));
        }
    }
    log.close()
}

fn check(told: &mut Told, log: &InstanceLog) -> Result<(), LogError> {
    let durable = log.watermarks().durable.0;
    assert!(
        durable >= told.durable,
        "durable {durable}, told {}",
        told.durable
    );
    let note = log.note("quiesce");
    assert!(
        note == told.note || (told.note_maybe.is_some() && note == told.note_maybe),
        "{note:?} {told:?}"
    );
    told.note = note;
    told.note_maybe = None;
    if let Some(from) = told.hold {
        let hold = log.holds().into_iter().find(|hold| hold.name == "hold");
        assert!(
            hold.is_some_and(|hold| hold.from.0 <= from),
            "the hold is gone"
        );
    }
    let kept = told
        .hold
        .map_or(told.flushed, |hold| hold.min(told.flushed));
    let Some(range) = SeqRange::after(Seq(kept), Seq(durable)) else {
        return Ok(());
    };
    let found = match log.read(range).collect::<Result<Vec<Record>, _>>() {
        Ok(found) => found,
        // The power went while it was read.
        Err(error @ LogError::Io { .. }) => return Err(error),
        Err(error) => panic!("{error}"),
    };
    for record in &found {
        if record.kind() == RecordKind::Batch {
            let key = (record.term().opening, record.seq().0);
            assert_eq!(told.submitted.get(&key), Some(record.body()), "{key:?}");
        }
    }
    let must = told
        .acked
        .iter()
        .filter(|(seq, _)| kept < **seq && **seq <= told.durable);
    for (seq, (opening, body)) in must {
        let here = found.iter().find(|record| record.seq().0 == *seq);
        // A buffered one that was cut before a later start is no longer told.
        if let Some(record) = here {
            assert_eq!((record.term().opening, record.body()), (*opening, body));
        } else {
            panic!("acknowledged record {seq} of {range} is lost");
        }
    }
    // What is beyond the durable mark was buffered, and is lost or here; from now on it is as it is.
    told.acked.retain(|seq, _| *seq <= durable);
    told.durable = durable;
    Ok(())
}

const STEPS: usize = 40;

fn total_changes() -> u64 {
    let storage = MemStorage::new();
    live(&storage, &mut Model::new(), STEPS).unwrap();
    storage.change_count()
}

#[test]
fn a_crash_at_every_change_loses_nothing_that_was_acknowledged() {
    let total = total_changes();
    for at in 1..=total + 5 {
        for survival in [
            Survival::None,
            Survival::All,
            Survival::Seeded(at),
            Survival::Seeded(!at),
        ] {
            let storage = MemStorage::new();
            storage.set_injector(Some(Injector::crash_at_change(at)));
            let mut model = Model::new();
            let _ = live(&storage, &mut model, STEPS);
            let storage = storage.crash(survival);
            // A second crash, soon after the first opening.
            storage.set_injector(Some(Injector::crash_at_change(at % 37 + 1)));
            let _ = live(&storage, &mut model, STEPS);
            let storage = storage.crash(survival);
            live(&storage, &mut model, STEPS)
                .unwrap_or_else(|error| panic!("crash at {at}, {survival:?}: {error}"));
            verify(Arc::new(storage)).unwrap();
        }
    }
}

#[test]
fn a_device_error_at_every_change_poisons_and_loses_nothing() {
    let total = total_changes();
    for fault in ["eio", "short", "enospc"] {
        for at in 1..=total {
            let storage = MemStorage::new();
            let injector: Injector = format!("on(change)&nth({at}):{fault}").parse().unwrap();
            storage.set_injector(Some(injector.clone()));
            let mut model = Model::new();
            match live(&storage, &mut model, STEPS) {
                Ok(())
                | Err(LogError::Poisoned { .. } | LogError::Closed | LogError::Full { .. }) => {}
                Err(error) => panic!("{injector}: {error}"),
            }
            let storage = storage.crash(Survival::Seeded(at));
            live(&storage, &mut model, STEPS).unwrap_or_else(|e| panic!("{injector}: {e}"));
        }
    }
}

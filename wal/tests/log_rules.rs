//! The rules of the design that the log keeps, each by its number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, HoldBudget, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions,
    Record, RecordKind, Seq, SeqRange, ShardId, StartBody, Storage as _, Submitted, Term,
};

const ID: InstanceId = InstanceId(11);
const SHARD: ShardId = ShardId(2);
const BUDGET: HoldBudget = HoldBudget {
    bytes: 1 << 30,
    time: Duration::from_secs(3600),
};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 16 << 20,
        buffered_sync_every: Duration::from_secs(3600),
        recent_bytes: 0,
        ..LogOptions::default()
    }
}

fn open(storage: &MemStorage) -> Log {
    Log::open(Arc::new(storage.clone()), options()).unwrap().0
}

fn term(opening: u64) -> Term {
    Term::new(Epoch(1), opening)
}

fn host(log: &Log) -> InstanceLog {
    let instance = log.host(SHARD, ID, Seq::ZERO, Vec::new()).unwrap();
    instance
        .start_term(term(1), Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    instance
}

/// Submits as a blocking caller does: buffered writes directly where the log takes them so.
fn submit(log: &InstanceLog, body: Bytes, durability: Durability) -> Result<Submitted, LogError> {
    match durability {
        Durability::Buffered => Ok(log.append(RecordKind::Batch, body)?.into()),
        _ => log.submit(RecordKind::Batch, body, durability, Inline::Allowed),
    }
}

fn put(log: &InstanceLog, body: &str, durability: Durability) -> Result<Seq, LogError> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    submit(log, body, durability)?.wait()
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).unwrap()
}

#[test]
fn rule_01_the_start_record_voids_what_the_log_lost() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let instance = host(&log);
    put(&instance, "kept", Durability::Sync).unwrap();
    for n in 0..5 {
        put(&instance, &format!("lost {n}"), Durability::Buffered).unwrap();
    }
    let storage = storage.crash(Survival::None);
    let log = open(&storage);
    let instance = log.instance(ID).unwrap();
    assert_eq!(instance.watermarks().assigned, Seq(2));
    assert!(matches!(
        put(&instance, "early", Durability::Sync),
        Err(LogError::GateClosed)
    ));
    let stale = instance.start_term(term(1), Seq(6)).unwrap_err();
    assert!(matches!(stale, LogError::StaleTerm { .. }));
    // The store had applied up to 6.
    let started = instance.start_term(term(2), Seq(6)).unwrap();
    assert_eq!((started.seq, started.wait().unwrap()), (Seq(7), Seq(7)));
    assert_eq!(put(&instance, "next", Durability::Sync).unwrap(), Seq(8));
    let check = |log: &InstanceLog| {
        let records: Vec<Record> = log.read(range(1, 8)).map(Result::unwrap).collect();
        let seqs: Vec<u64> = records.iter().map(|record| record.seq().0).collect();
        assert_eq!(seqs, [1, 2, 7, 8]);
        let start = StartBody::decode(records[2].body()).unwrap();
        assert_eq!(
            start,
            StartBody {
                instance: ID,
                void: Some(range(3, 6))
            }
        );
        assert_eq!(log.watermarks().durable, Seq(8));
        assert!(log.read_batch(range(4, 5), 100).unwrap().is_empty());
        assert_eq!(log.terms().len(), 2);
        records
    };
    let records = check(&instance);
    drop((log, instance));
    let log = open(&storage);
    check(&log.instance(ID).unwrap());
    // A receiver learns of the void from the record, whatever comes first.
    let target = log
        .host(SHARD, InstanceId(12), Seq::ZERO, Vec::new())
        .unwrap();
    target
        .append_at(records[2..].to_vec())
        .unwrap()
        .wait()
        .unwrap();
    target
        .append_at(records[..2].to_vec())
        .unwrap()
        .wait()
        .unwrap();
    let got: Vec<Record> = target.read(range(1, 8)).map(Result::unwrap).collect();
    assert_eq!((got, target.watermarks().durable), (records, Seq(8)));
}

#[test]
fn rule_02_only_durable_records_leave() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let instance = host(&log);
    let mut tail = instance.tail(Seq(1));
    assert_eq!(
        tail.next_timeout(1 << 20, Duration::from_secs(60))
            .unwrap()
            .unwrap()
            .len(),
        1
    );
    put(&instance, "buffered", Durability::Buffered).unwrap();
    // Written and acknowledged, readable by the owner, but not durable.
    assert_eq!(instance.read(range(2, 2)).count(), 1);
    assert!(!instance.has().contains(Seq(2)));
    assert!(
        tail.next_timeout(1 << 20, Duration::from_millis(20))
            .unwrap()
            .is_none()
    );
    assert!(
        instance
            .durable_past(Seq(1))
            .wait_timeout(Duration::ZERO)
            .unwrap()
            .is_none()
    );
    log.sync().unwrap();
    let records = tail
        .next_timeout(1 << 20, Duration::from_secs(60))
        .unwrap()
        .unwrap();
    assert_eq!(records[0].seq(), Seq(2));
    let log = open(&storage.crash(Survival::None));
    assert!(log.instance(ID).unwrap().has().contains(Seq(2)));
}

#[test]
fn rule_04_closing_the_gate_and_assigning_are_one_critical_section() {
    let log = open(&MemStorage::new());
    let instance = host(&log);
    for round in 0..50 {
        let greatest = AtomicU64::new(0);
        let first = instance.watermarks().assigned;
        let closed_at = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Ok(seq) = put(&instance, "body", Durability::Buffered) {
                        greatest.fetch_max(seq.0, Ordering::Relaxed);
                    }
                });
            }
            while instance.watermarks().assigned.0 < first.0 + 20 + round {
                std::thread::yield_now();
            }
            instance.close_gate().unwrap()
        });
        assert_eq!(greatest.into_inner(), closed_at.0);
        assert_eq!(instance.watermarks().assigned, closed_at);
        assert!(!instance.gate_is_open());
        instance.open_gate().unwrap();
    }
}

#[test]
fn rule_08_records_of_other_instances_are_ignored() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let first = host(&log);
    put(&first, "of the first hosting", Durability::Sync).unwrap();
    log.forget(ID).unwrap();
    assert!(matches!(
        put(&first, "late", Durability::Sync),
        Err(LogError::Closed)
    ));
    assert!(matches!(log.forget(ID), Err(LogError::UnknownInstance(_))));
    let again = InstanceId(99);
    let second = log.host(SHARD, again, Seq(10), Vec::new()).unwrap();
    second.start_term(term(5), Seq(10)).unwrap().wait().unwrap();
    drop((log, first, second));
    let log = open(&storage.crash(Survival::None));
    assert!(log.instance(ID).is_none());
    let second = log.instance(again).unwrap();
    let has: Vec<SeqRange> = second.has().intervals().collect();
    assert_eq!(has, [range(11, 11)]);
    assert!(matches!(
        second.read(range(2, 2)).next(),
        Some(Err(LogError::Gap { .. }))
    ));
}

#[test]
fn rule_09_a_cut_segment_is_never_appended_to_again() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let instance = host(&log);
    put(&instance, "a", Durability::Sync).unwrap();
    let mut used = BTreeSet::new();
    let mut storage = storage;
    for round in 0..5 {
        let before = storage.crash(Survival::All);
        let frozen: Vec<_> = before
            .list()
            .unwrap()
            .into_iter()
            .map(|name| (before.contents(&name), name))
            .collect();
        let log = open(&before);
        let instance = log.instance(ID).unwrap();
        instance
            .start_term(term(2 + round), Seq::ZERO)
            .unwrap()
            .wait()
            .unwrap();
        put(&instance, "b", Durability::Sync).unwrap();
        for (contents, name) in frozen {
            // Removed as a stray, or as it was: the log goes on elsewhere.
            let now = before.contents(&name);
            assert!(now.is_none() || now == contents, "{name}");
            used.insert(name);
        }
        storage = before;
    }
    assert!(used.len() >= 5);
}

#[test]
fn rule_09_frames_of_another_opening_never_pass() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let instance = host(&log);
    put(&instance, "mine", Durability::Sync).unwrap();
    let mut mine = storage.contents("0000000000000001.seg").unwrap();
    // The same segment and offsets, by another opening: its later frame, put behind mine.
    let other_storage = MemStorage::new();
    let other_log = open(&other_storage);
    let other = host(&other_log);
    put(&other, "mine", Durability::Sync).unwrap();
    put(&other, "theirs", Durability::Sync).unwrap();
    let theirs = other_storage.contents("0000000000000001.seg").unwrap();
    let last = (0..theirs.len())
        .step_by(4096)
        .rfind(|&at| theirs[at..].starts_with(b"WSHF"))
        .unwrap();
    mine[last..].copy_from_slice(&theirs[last..]);
    let mixed = MemStorage::new();
    mixed.put_file("0000000000000001.seg", mine);
    let log = open(&mixed);
    assert_eq!(log.instance(ID).unwrap().watermarks().durable, Seq(2));
}

#[test]
fn rule_14_a_hold_is_durable_when_it_returns_and_restored_before_truncation() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let instance = host(&log);
    for n in 0..40 {
        put(
            &instance,
            &format!("{n}{}", "z".repeat(2000)),
            Durability::Sync,
        )
        .unwrap();
    }
    instance.hold("migration", Seq(5), BUDGET).unwrap();
    let storage = storage.crash(Survival::None);
    let log = open(&storage);
    let instance = log.instance(ID).unwrap();
    assert_eq!(instance.holds()[0].name, "migration");
    instance.set_flushed(Seq(41));
    instance
        .start_term(term(2), Seq(41))
        .unwrap()
        .wait()
        .unwrap();
    for n in 0..40 {
        put(
            &instance,
            &format!("{n}{}", "z".repeat(2000)),
            Durability::Sync,
        )
        .unwrap();
    }
    assert_eq!(
        instance.read(range(6, 41)).filter(Result::is_ok).count(),
        36
    );
    let refused = instance.hold("tiny", Seq(5), HoldBudget { bytes: 1, ..BUDGET });
    assert!(matches!(refused, Err(LogError::HoldOverBudget { .. })));
    let short = HoldBudget {
        time: Duration::ZERO,
        ..BUDGET
    };
    instance.hold("migration", Seq(5), short).unwrap();
    while !instance.holds()[0].expired {
        std::thread::yield_now();
    }
    // Expired: a typed gap, never silence.
    loop {
        instance.set_flushed(Seq(41));
        match instance.read(range(6, 41)).next() {
            Some(Err(LogError::Gap { missing, .. })) => {
                assert_eq!(missing.first(), Seq(6));
                break;
            }
            Some(Ok(_)) => std::thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
    // A hold that could not be made durable is no hold.
    storage.set_injector(Some("on(sync):eio".parse::<Injector>().unwrap()));
    assert!(matches!(
        instance.hold("late", Seq(81), BUDGET),
        Err(LogError::Poisoned { .. })
    ));
}

#[test]
fn an_owner_takes_no_records_of_another() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let owner = log
        .host(ShardId(1), InstanceId(1), Seq::ZERO, Vec::new())
        .unwrap();
    let record = |seq| {
        Record::new(
            term(1),
            Seq(seq),
            RecordKind::Batch,
            Bytes::from_static(b"x"),
        )
    };
    // A receiver until it starts a term.
    owner.append_at(vec![record(1)]).unwrap().wait().unwrap();
    owner
        .start_term(term(2), Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    let refused = owner.append_at(vec![record(1), record(2), record(3)]);
    assert!(
        matches!(refused, Err(LogError::OwnsShard { shard: ShardId(1), term: t }) if t == term(2)),
        "{refused:?}"
    );
    assert_eq!(owner.watermarks().assigned, Seq(2));
}

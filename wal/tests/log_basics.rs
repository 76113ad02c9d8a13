//! The everyday paths of the log: host, submit, read, close, reopen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    CommitSink, Committed, Durability, Epoch, HoldBudget, Inline, InstanceId, InstanceLog, Log,
    LogEnd, LogError, LogOptions, LogView, Record, RecordKind, Seq, SeqRange, ShardId, Term,
    verify,
};

const SHARD: ShardId = ShardId(3);
const ID: InstanceId = InstanceId(77);

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        limit_bytes: 8 << 20,
        buffered_sync_every: Duration::from_millis(20),
        ..LogOptions::default()
    }
}

fn open(storage: &MemStorage) -> (Log, watershed_wal::OpenReport) {
    Log::open(Arc::new(storage.clone()), options()).unwrap()
}

fn term(opening: u64) -> Term {
    Term::new(Epoch(1), opening)
}

fn owner(storage: &MemStorage) -> (Log, InstanceLog) {
    let (log, _) = open(storage);
    let instance = log.host(SHARD, ID, Seq::ZERO, Vec::new()).unwrap();
    assert_eq!(
        instance
            .start_term(term(1), Seq::ZERO)
            .unwrap()
            .wait()
            .unwrap(),
        Seq(1)
    );
    (log, instance)
}

fn put(
    instance: &InstanceLog,
    body: impl Into<Bytes>,
    durability: Durability,
) -> Result<Seq, LogError> {
    instance
        .submit(RecordKind::Batch, body.into(), durability, Inline::Allowed)?
        .wait()
}

fn all(instance: &InstanceLog) -> Vec<Record> {
    let end = instance.watermarks().assigned;
    SeqRange::after(instance.base(), end)
        .map(|range| instance.read(range).map(Result::unwrap).collect())
        .unwrap_or_default()
}

fn body(n: usize) -> Bytes {
    Bytes::from(format!("body {n} {}", "x".repeat(n * 37 % 3000)))
}

#[test]
fn what_was_written_is_read_back_after_close_and_reopen() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    for n in 0..300 {
        let durability = if n % 3 == 0 {
            Durability::Buffered
        } else {
            Durability::Sync
        };
        assert_eq!(put(&instance, body(n), durability).unwrap().0, n as u64 + 2);
    }
    let records = all(&instance);
    assert_eq!(records.len(), 301);
    assert!(log.status().segments > 3, "it must have rolled");
    log.close().unwrap();
    assert!(matches!(
        put(&instance, body(1), Durability::Sync),
        Err(LogError::Closed)
    ));
    drop((log, instance));

    let report = verify(Arc::new(storage.clone())).unwrap();
    assert_eq!((report.records, report.tail), (301, LogEnd::Clean));
    let (log, report) = open(&storage);
    assert_eq!(report.tail, LogEnd::Clean);
    let instance = log.instance(ID).unwrap();
    assert_eq!(instance.watermarks().durable, Seq(301));
    assert_eq!(all(&instance), records);
    assert_eq!(instance.terms()[0].first, Seq(1));
    let (view, _) = LogView::open(Arc::new(storage)).unwrap();
    let range = SeqRange::new(Seq(1), Seq(301)).unwrap();
    assert_eq!(
        view.read(ID, range).map(Result::unwrap).collect::<Vec<_>>(),
        records
    );
    assert!(view.dump().count() > 301);
}

#[test]
fn records_come_from_disk_when_memory_keeps_none() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(
        Arc::new(storage),
        LogOptions {
            recent_bytes: 0,
            ..options()
        },
    )
    .unwrap();
    let instance = log.host(SHARD, ID, Seq::ZERO, Vec::new()).unwrap();
    instance
        .start_term(term(1), Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    for n in 0..200 {
        put(&instance, body(n), Durability::Sync).unwrap();
    }
    for (n, record) in all(&instance).iter().skip(1).enumerate() {
        assert_eq!(record.body(), &body(n));
    }
    let one = instance.read_batch(SeqRange::single(Seq(150)), 0).unwrap();
    assert_eq!(one[0].seq(), Seq(150));
}

#[derive(Default)]
struct Collect(Mutex<Vec<(Record, bool)>>);

impl CommitSink for Collect {
    fn committed(&self, batch: Vec<Committed>, inline: bool) {
        for committed in batch {
            self.0.lock().unwrap().push((committed.record, inline));
            committed.done.complete(Ok(()));
        }
    }
    fn failed(&self, _: &LogError) {}
}

#[test]
fn a_sink_gets_records_in_commit_order_and_completes_them() {
    let (_log, instance) = owner(&MemStorage::new());
    let sink = Arc::new(Collect::default());
    instance.set_sink(Some(sink.clone()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..100 {
                    put(&instance, body(n), Durability::Sync).unwrap();
                }
            });
        }
    });
    let got = sink.0.lock().unwrap();
    let seqs: Vec<u64> = got.iter().map(|(record, _)| record.seq().0).collect();
    assert_eq!(seqs, (2..=801).collect::<Vec<_>>());
    drop(got);
    instance.set_sink(None);
    put(&instance, body(0), Durability::Sync).unwrap();
}

#[test]
fn a_lone_writer_commits_on_its_own_thread() {
    let (_log, instance) = owner(&MemStorage::new());
    let sink = Arc::new(Collect::default());
    instance.set_sink(Some(sink.clone()));
    let submitted = instance
        .submit(
            RecordKind::Batch,
            body(1),
            Durability::Sync,
            Inline::Allowed,
        )
        .unwrap();
    let Some(lead) = submitted.lead else {
        // The log thread was still at its own work; then it is not a lone writer.
        submitted.done.wait().unwrap();
        return;
    };
    lead.commit();
    submitted.done.wait().unwrap();
    assert_eq!(sink.0.lock().unwrap().len(), 1);
}

#[test]
fn a_lead_dropped_or_leaked_wedges_nothing() {
    let (log, instance) = owner(&MemStorage::new());
    let submit = || {
        instance
            .submit(
                RecordKind::Batch,
                body(1),
                Durability::Sync,
                Inline::Allowed,
            )
            .unwrap()
    };
    let dropped = submit();
    drop(dropped.lead);
    dropped.done.wait().unwrap();
    let leaked = submit();
    std::mem::forget(leaked.lead);
    leaked.done.wait().unwrap();
    drop(submit());
    log.sync().unwrap();
    assert_eq!(instance.watermarks().durable, Seq(4));
}

#[test]
fn a_receiver_takes_records_in_any_order_and_twice() {
    let (_log, source) = owner(&MemStorage::new());
    for n in 0..50 {
        put(&source, body(n), Durability::Sync).unwrap();
    }
    let records = all(&source);
    let storage = MemStorage::new();
    let (log, _) = open(&storage);
    let target = log
        .host(SHARD, InstanceId(5), Seq::ZERO, Vec::new())
        .unwrap();
    for chunk in records.rchunks(7) {
        target.append_at(chunk.to_vec()).unwrap().wait().unwrap();
    }
    target
        .append_at(records[3..9].to_vec())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(target.watermarks().durable, Seq(51));
    assert_eq!(all(&target), records);
    assert_eq!(target.terms(), source.terms());
    let other = Record::new(
        term(1),
        Seq(5),
        RecordKind::Batch,
        Bytes::from_static(b"other"),
    );
    assert!(matches!(
        target.append_at(vec![other.clone()]),
        Err(LogError::Conflict { .. })
    ));
    drop((log, target));
    let (log, _) = open(&storage);
    let target = log.instance(InstanceId(5)).unwrap();
    assert!(matches!(
        target.append_at(vec![other]),
        Err(LogError::Conflict { .. })
    ));
    target.append_at(records.clone()).unwrap().wait().unwrap();
    assert_eq!(all(&target), records);
    let range = SeqRange::new(Seq(1), Seq(51)).unwrap();
    assert_eq!(target.digest(range).unwrap(), source.digest(range).unwrap());
}

#[test]
fn truncation_frees_segments_but_for_holds_and_gives_gaps() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    for n in 0..200 {
        put(&instance, body(n), Durability::Sync).unwrap();
    }
    let budget = HoldBudget {
        bytes: 8 << 20,
        time: Duration::from_secs(3600),
    };
    instance.hold("move", Seq(100), budget).unwrap();
    instance.set_flushed(Seq(201));
    // Whatever is freed, the held records stay.
    log.sync().unwrap();
    let held = SeqRange::new(Seq(101), Seq(201)).unwrap();
    drop((log, instance));
    let (log, _) = open(&storage);
    let instance = log.instance(ID).unwrap();
    assert_eq!(instance.holds().len(), 1);
    assert_eq!(instance.read(held).filter(Result::is_ok).count(), 101);
    instance.release_hold("move").unwrap();
    instance.set_flushed(Seq(201));
    while log.status().segments > 1 {
        std::thread::yield_now();
    }
    assert!(matches!(
        instance.read(held).next(),
        Some(Err(LogError::Gap { missing, .. })) if missing == held
    ));
    assert!(matches!(
        instance.hold("late", Seq(100), budget),
        Err(LogError::Gap { .. })
    ));
    put(&instance, body(1), Durability::Sync).unwrap_err();
    instance
        .start_term(term(2), Seq(201))
        .unwrap()
        .wait()
        .unwrap();
    drop((log, instance));
    let (log, _) = open(&storage);
    let instance = log.instance(ID).unwrap();
    assert_eq!(instance.watermarks().durable, Seq(202));
}

#[test]
fn a_tail_follows_durable_records() {
    let (_log, instance) = owner(&MemStorage::new());
    let mut tail = instance.tail(Seq(1));
    let first = tail
        .next_timeout(1 << 20, Duration::from_secs(60))
        .unwrap()
        .unwrap();
    assert_eq!(first[0].seq(), Seq(1));
    assert!(
        tail.next_timeout(1 << 20, Duration::ZERO)
            .unwrap()
            .is_none()
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100 {
                put(&instance, body(n), Durability::Buffered).unwrap();
            }
        });
        let mut seen = 1;
        while seen < 101 {
            let records = tail
                .next_timeout(4096, Duration::from_secs(60))
                .unwrap()
                .unwrap();
            for record in records {
                seen += 1;
                assert_eq!(record.seq(), Seq(seen));
                assert!(instance.watermarks().durable >= record.seq());
            }
        }
    });
}

#[test]
fn a_crash_keeps_every_synced_record() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    for n in 0..60 {
        put(&instance, body(n), Durability::Sync).unwrap();
    }
    let records = all(&instance);
    let crashed = storage.crash(Survival::None);
    drop((log, instance));
    let (log, _) = open(&crashed);
    assert_eq!(all(&log.instance(ID).unwrap()), records);
}

//! Buffered writes that their own thread appends: their order among all others, and what holds them up.

mod small;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use small::{host, options};
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Appended, CommitSink, Committed, DirStorage, Durability, Inline, InstanceId, InstanceLog, Log,
    LogEnd, LogError, LogOptions, Record, RecordKind, Seq, SeqRange, Storage, Submitted,
};

/// No background sync but those that a test waits for.
fn calm() -> LogOptions {
    LogOptions {
        buffered_sync_every: Duration::from_secs(3600),
        ..options()
    }
}

fn open(storage: &MemStorage, options: LogOptions) -> Log {
    Log::open(Arc::new(storage.clone()), options).unwrap().0
}

fn body(n: u64) -> Bytes {
    Bytes::from(format!("{n} ").repeat(1 + n as usize % 20))
}

/// Hosts an instance, and waits until its start record is handed over: until an append is direct.
fn host_settled(log: &Log, id: u128) -> InstanceLog {
    let instance = host(log, id);
    while let Appended::Queued(submitted) = instance.append(RecordKind::Batch, body(0)).unwrap() {
        submitted.wait().unwrap();
    }
    instance
}

/// Appends where nothing else is going on.
fn append(instance: &InstanceLog, n: u64) -> Record {
    match instance.append(RecordKind::Batch, body(n)).unwrap() {
        Appended::Written(record) => record,
        Appended::Queued(submitted) => panic!("the log was idle, and queued {}", submitted.seq),
    }
}

fn read_all(instance: &InstanceLog) -> Vec<Record> {
    let all = SeqRange::new(Seq(1), instance.watermarks().assigned).unwrap();
    instance.read(all).map(Result::unwrap).collect()
}

/// What an instance's records were handed over as: by the log, or by who appended.
#[derive(Debug, Default)]
struct Handed {
    seqs: Mutex<Vec<u64>>,
    /// In which a Seq is assigned and its record handed on.
    section: Mutex<()>,
}

impl CommitSink for Handed {
    fn committed(&self, batch: Vec<Committed>, _inline: bool) {
        for item in batch {
            self.seqs.lock().unwrap().push(item.record.seq().0);
            item.done.complete(Ok(()));
        }
    }

    fn failed(&self, error: &LogError) {
        panic!("{error}");
    }
}

/// Writers of all kinds to four instances; every record must be handed over once, in Seq order.
fn mixed_writers(storage: Arc<dyn Storage>, writes: u64) {
    let (log, _) = Log::open(Arc::clone(&storage), options()).unwrap();
    let hosted: Vec<_> = (1..=4)
        .map(|id| {
            let instance = host(&log, id);
            let handed = Arc::new(Handed::default());
            instance.set_sink(Some(handed.clone()));
            (instance, handed)
        })
        .collect();
    let direct = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (hosted, direct) = (&hosted, &direct);
            scope.spawn(move || {
                for n in 0..writes {
                    let (instance, handed) = &hosted[(thread + n) as usize % hosted.len()];
                    let kind = RecordKind::Batch;
                    let section = handed.section.lock().unwrap();
                    let submitted = if (thread + n / 50).is_multiple_of(4) {
                        let durability = if n % 3 == 0 {
                            Durability::Sync
                        } else {
                            Durability::Buffered
                        };
                        let inline = if n % 2 == 0 {
                            Inline::Allowed
                        } else {
                            Inline::Never
                        };
                        instance.submit(kind, body(n), durability, inline).unwrap()
                    } else {
                        match instance.append(kind, body(n)).unwrap() {
                            Appended::Written(record) => {
                                direct.fetch_add(1, Ordering::Relaxed);
                                handed.seqs.lock().unwrap().push(record.seq().0);
                                continue;
                            }
                            Appended::Queued(submitted) => submitted,
                        }
                    };
                    drop(section);
                    submitted.wait().unwrap();
                }
            });
        }
    });
    assert!(direct.into_inner() > 0, "none was appended directly");
    log.close().unwrap();
    drop(log);
    let (log, report) = Log::open(storage, options()).unwrap();
    assert_eq!(report.tail, LogEnd::Clean);
    for (instance, handed) in hosted {
        let last = 1 + 8 * writes / 4;
        let seqs = handed.seqs.lock().unwrap();
        assert_eq!(*seqs, (2..=last).collect::<Vec<_>>());
        let records = read_all(&log.instance(instance.id()).unwrap());
        assert_eq!(records.len() as u64, last);
    }
}

#[test]
fn direct_queued_and_led_writes_are_handed_over_in_seq_order() {
    mixed_writers(Arc::new(MemStorage::new()), 2000);
}

#[test]
fn direct_queued_and_led_writes_are_handed_over_in_seq_order_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    mixed_writers(Arc::new(DirStorage::new(dir.path()).unwrap()), 500);
}

#[test]
fn a_direct_append_is_its_own_frame_readable_at_once_and_durable_with_the_next_sync() {
    let storage = MemStorage::new();
    let log = open(&storage, calm());
    let instance = host_settled(&log, 1);
    log.sync().unwrap();
    let durable = instance.watermarks().durable;
    while let Appended::Queued(submitted) = instance.append(RecordKind::Batch, body(0)).unwrap() {
        submitted.wait().unwrap();
    }
    let frames = log.status().frames;
    let records: Vec<Record> = (0..20).map(|n| append(&instance, n)).collect();
    assert_eq!(log.status().frames, frames + 20);
    assert!(read_all(&instance).ends_with(&records));
    assert_eq!(instance.watermarks().durable, durable);
    log.sync().unwrap();
    let last = records.last().unwrap().seq();
    assert_eq!(instance.watermarks().durable, last);
    let lost = instance.append(RecordKind::Batch, body(20)).unwrap();
    assert_eq!(Submitted::from(lost).wait().unwrap(), last.next());
    let log = open(&storage.crash(Survival::None), calm());
    assert!(read_all(&log.instance(InstanceId(1)).unwrap()).ends_with(&records));
}

#[test]
fn direct_appends_go_on_in_the_next_segment() {
    let storage = MemStorage::new();
    let small_memory = LogOptions {
        recent_bytes: 2000,
        ..calm()
    };
    let log = open(&storage, small_memory.clone());
    let instances = [host(&log, 1), host(&log, 2)];
    let mut expected = [Vec::new(), Vec::new()];
    for n in 0..1500 {
        let which = n as usize % 3 % 2;
        let appended = instances[which].append(RecordKind::Batch, body(n)).unwrap();
        Submitted::from(appended).wait().unwrap();
        expected[which].push(body(n));
    }
    assert!(log.status().segments > 3, "{:?}", log.status());
    let bodies = |instance: &InstanceLog| -> Vec<Bytes> {
        let records = read_all(instance);
        records[1..].iter().map(|r| r.body().clone()).collect()
    };
    for (instance, expected) in instances.iter().zip(&expected) {
        assert_eq!(&bodies(instance), expected);
    }
    log.close().unwrap();
    drop((instances, log));
    let log = open(&storage, small_memory);
    for (id, expected) in [1, 2].into_iter().zip(&expected) {
        assert_eq!(&bodies(&log.instance(InstanceId(id)).unwrap()), expected);
    }
}

#[test]
fn a_log_at_its_limit_refuses_a_direct_append_without_taking_a_seq() {
    let storage = MemStorage::new();
    let limited = LogOptions {
        limit_bytes: 128 << 10,
        ..calm()
    };
    let log = open(&storage, limited);
    let instance = host(&log, 1);
    let mut last = Seq(1);
    let error = loop {
        match instance.append(RecordKind::Batch, body(19)) {
            Ok(appended) => last = Submitted::from(appended).wait().unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert_eq!(instance.watermarks().assigned, last);
    assert_eq!(read_all(&instance).len() as u64, last.0);
    // What frees room still goes.
    instance.set_flushed(last);
    log.sync().unwrap();
    while instance.append(RecordKind::Batch, body(19)).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn a_direct_append_that_fails_has_its_seq_and_poisons_the_log() {
    for fault in ["eio", "enospc", "short"] {
        let storage = MemStorage::new();
        let log = open(&storage, calm());
        let instance = host_settled(&log, 1);
        let before = read_all(&instance);
        let next = instance.watermarks().assigned.next();
        storage.set_injector(Some(format!("on(write):{fault}").parse().unwrap()));
        let Ok(Appended::Queued(submitted)) = instance.append(RecordKind::Batch, body(2)) else {
            panic!("{fault}: it was refused, or is said to be written");
        };
        assert_eq!(submitted.seq, next);
        let result = submitted.wait();
        assert!(matches!(result, Err(LogError::Poisoned { .. })), "{fault}");
        storage.set_injector(None);
        let changes = storage.change_count();
        let refused = instance.append(RecordKind::Batch, body(3));
        assert!(matches!(refused, Err(LogError::Poisoned { .. })), "{fault}");
        assert_eq!(instance.watermarks().assigned, next);
        assert!(log.close().is_err());
        assert_eq!(storage.change_count(), changes, "{fault}: written again");
        drop((instance, log));
        let log = open(&storage, calm());
        let found = read_all(&log.instance(InstanceId(1)).unwrap());
        assert_eq!(found, before, "{fault}");
    }
}

#[test]
fn direct_appends_go_on_beside_a_background_sync_which_promises_only_what_came_before() {
    let storage = MemStorage::new();
    let log = open(&storage, options());
    let instance = host_settled(&log, 1);
    let kind = RecordKind::Batch;
    // What stalls may also be the frame that marks a sync when the log is idle: then appends queue, and the next try is on.
    let (covered, beside) = loop {
        storage.set_injector(Some("on(sync):stall".parse().unwrap()));
        let queued = match instance.append(kind, body(1)).unwrap() {
            Appended::Queued(submitted) => submitted,
            Appended::Written(covered) => {
                while storage.stalled() == 0 {
                    std::thread::yield_now();
                }
                match instance.append(kind, body(2)).unwrap() {
                    Appended::Written(beside) => break (covered.seq(), beside.seq()),
                    Appended::Queued(submitted) => submitted,
                }
            }
        };
        storage.set_injector(None);
        queued.wait().unwrap();
    };
    let more: Vec<Record> = (10..30).map(|n| append(&instance, n)).collect();
    assert!(read_all(&instance).ends_with(&more));
    assert!(instance.watermarks().durable < covered);
    // This sync ends, and the next one stalls.
    storage.set_injector(Some("on(sync):stall".parse().unwrap()));
    while instance.watermarks().durable < covered {
        std::thread::yield_now();
    }
    assert!(instance.watermarks().durable < beside, "promised too much");
    let crashed = storage.crash(Survival::None);
    let after = open(&crashed, calm());
    let found = read_all(&after.instance(InstanceId(1)).unwrap());
    assert!(found.last().unwrap().seq() >= covered);
    storage.set_injector(None);
}

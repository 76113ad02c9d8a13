//! Full disks, failing devices, busy queues, many threads, and closing under all of it.

mod small;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{
    CommitSink, Committed, DirStorage, Durability, Inline, InstanceId, Log, LogError, LogOptions,
    Record, RecordKind, Seq, SeqRange, verify,
};

use small::{host, options, put};

fn intact(storage: &MemStorage, id: u128, last: Seq) {
    let (log, _) = Log::open(Arc::new(storage.crash(Survival::None)), options()).unwrap();
    let instance = log.instance(InstanceId(id)).unwrap();
    let range = SeqRange::new(Seq(1), last).unwrap();
    let seqs: Vec<u64> = instance
        .read(range)
        .map(|record| record.unwrap().seq().0)
        .collect();
    assert_eq!(seqs, (1..=last.0).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_refuses_writes_before_anything_is_written_and_lets_them_go_on_later() {
    let storage = MemStorage::new();
    storage.set_capacity(Some(160 << 10));
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let instance = host(&log, 1);
    let mut last = Seq(1);
    let error = loop {
        match put(&instance, 3000, Durability::Sync) {
            Ok(seq) => last = seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert_eq!(instance.watermarks().assigned, last, "no Seq was taken");
    let range = SeqRange::new(Seq(1), last).unwrap();
    assert_eq!(
        instance.read(range).filter(Result::is_ok).count() as u64,
        last.0
    );
    // Notes still go, as they are what frees room.
    instance
        .put_note("k", Bytes::from_static(b"v"))
        .unwrap()
        .wait()
        .unwrap();
    storage.set_capacity(None);
    let seq = loop {
        match put(&instance, 3000, Durability::Sync) {
            Ok(seq) => break seq,
            Err(LogError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(seq, last.next());
    intact(&storage, 1, seq);
}

#[test]
fn the_limit_refuses_writes_until_the_pinning_shard_is_flushed() {
    let storage = MemStorage::new();
    let limited = LogOptions {
        limit_bytes: 256 << 10,
        ..options()
    };
    let (log, _) = Log::open(Arc::new(storage), limited).unwrap();
    let (cold, hot) = (host(&log, 1), host(&log, 2));
    let last = loop {
        match put(&hot, 3000, Durability::Sync) {
            Ok(seq) => hot.set_flushed(seq),
            Err(LogError::Full { .. }) => break hot.watermarks().durable,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(log.pinning(), Some((cold.id(), Seq(1))));
    cold.set_flushed(Seq(1));
    loop {
        match put(&hot, 3000, Durability::Sync) {
            Ok(seq) => break assert_eq!(seq, last.next()),
            Err(LogError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(log.pinning().is_none());
}

#[test]
fn a_failed_sync_poisons_and_is_never_tried_again() {
    for fault in ["on(sync):eio", "on(write):eio", "on(write):short"] {
        let storage = MemStorage::new();
        let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
        let instance = host(&log, 1);
        let last = put(&instance, 100, Durability::Sync).unwrap();
        storage.set_injector(Some(
            format!("path(*01.seg)&{fault}")
                .parse::<Injector>()
                .unwrap(),
        ));
        let first = put(&instance, 100, Durability::Sync);
        assert!(
            matches!(first, Err(LogError::Poisoned { .. })),
            "{fault}: {first:?}"
        );
        storage.set_injector(None);
        let second = put(&instance, 100, Durability::Sync);
        assert!(
            matches!(second, Err(LogError::Poisoned { .. })),
            "{fault}: {second:?}"
        );
        assert!(log.status().poisoned.is_some());
        assert!(matches!(log.sync(), Err(LogError::Poisoned { .. })));
        let past = instance
            .durable_past(last)
            .wait_timeout(Duration::from_secs(60));
        assert!(matches!(past, Err(LogError::Poisoned { .. })));
        assert_eq!(
            instance
                .read(SeqRange::single(last))
                .filter(Result::is_ok)
                .count(),
            1
        );
        assert!(matches!(log.close(), Err(LogError::Poisoned { .. })));
        intact(&storage, 1, last);
    }
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_durable_once_reported_by_an_opening() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let instance = host(&log, 1);
    storage.set_injector(Some("on(sync):eio".parse::<Injector>().unwrap()));
    put(&instance, 100, Durability::Sync).unwrap_err();
    storage.set_injector(None);
    drop((log, instance));
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let durable = log.instance(InstanceId(1)).unwrap().watermarks().durable;
    intact(&storage, 1, durable);
}

#[test]
fn bodies_too_large_and_queues_too_long_are_refused() {
    let small = LogOptions {
        max_body_bytes: 100_000,
        max_pending_bytes: 20_000,
        ..options()
    };
    let (log, _) = Log::open(Arc::new(MemStorage::new()), small).unwrap();
    let instance = host(&log, 1);
    assert!(matches!(
        put(&instance, 100_001, Durability::Sync),
        Err(LogError::TooLarge { .. })
    ));
    // Larger than a segment, and than the queue: it goes alone.
    assert_eq!(put(&instance, 100_000, Durability::Sync).unwrap(), Seq(2));
    let whole = instance.read_batch(SeqRange::single(Seq(2)), 0).unwrap();
    assert_eq!(whole[0].body().len(), 100_000);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let body = Bytes::from(vec![1; 3000]);
            instance.submit(RecordKind::Batch, body, Durability::Sync, Inline::Allowed)
        })
        .collect();
    let busy = waiting
        .iter()
        .filter(|r| matches!(r, Err(LogError::Busy { .. })))
        .count();
    assert!(
        waiting
            .iter()
            .all(|r| matches!(r, Ok(_) | Err(LogError::Busy { .. })))
    );
    let mut last = 2;
    for submitted in waiting.into_iter().flatten() {
        last += 1;
        assert_eq!(submitted.wait().unwrap(), Seq(last));
    }
    assert_eq!(last + busy as u64, 102);
}

#[derive(Default)]
struct Order {
    last: Mutex<u64>,
    inside: AtomicUsize,
    failed: AtomicUsize,
}

impl CommitSink for Order {
    fn committed(&self, batch: Vec<Committed>, _: bool) {
        assert_eq!(
            self.inside.fetch_add(1, Ordering::SeqCst),
            0,
            "one call at a time"
        );
        for committed in batch {
            let mut last = self.last.lock().unwrap();
            assert!(committed.record.seq().0 > *last);
            *last = committed.record.seq().0;
            committed.done.complete(Ok(()));
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
    fn failed(&self, _: &LogError) {
        self.failed.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn many_threads_on_many_shards_share_syncs_and_keep_their_orders() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<DirStorage> = Arc::new(DirStorage::new(directory.path().join("wal")).unwrap());
    let large = LogOptions {
        segment_bytes: 1 << 20,
        ..options()
    };
    let (log, _) = Log::open(storage.clone(), large.clone()).unwrap();
    let instances: Vec<_> = (1..=8).map(|id| host(&log, id)).collect();
    let sinks: Vec<_> = instances
        .iter()
        .map(|instance| {
            let sink = Arc::new(Order::default());
            instance.set_sink(Some(sink.clone()));
            sink
        })
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let instances = &instances;
            scope.spawn(move || {
                for n in 0..100 {
                    let durability = if n % 4 == 0 {
                        Durability::Buffered
                    } else {
                        Durability::Sync
                    };
                    // Not appended directly: no sink is called for what its caller gets back.
                    let body = vec![n as u8; n * 20].into();
                    let instance = &instances[(thread + n) % 8];
                    let submitted =
                        instance.submit(RecordKind::Batch, body, durability, Inline::Allowed);
                    submitted.unwrap().wait().unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                instances[0].set_sink(Some(sinks[0].clone()));
                log.sync().unwrap();
            }
        });
    });
    let status = log.status();
    assert!(status.syncs < status.records, "{status:?}");
    for (instance, sink) in instances.iter().zip(&sinks) {
        assert_eq!(*sink.last.lock().unwrap(), 201);
        assert_eq!(instance.watermarks().assigned, Seq(201));
    }
    log.close().unwrap();
    drop((log, instances));
    assert_eq!(verify(storage.clone()).unwrap().records, 8 * 201);
    let (log, _) = Log::open(storage, large).unwrap();
    for id in 1..=8 {
        let instance = log.instance(InstanceId(id)).unwrap();
        let range = SeqRange::new(Seq(1), Seq(201)).unwrap();
        assert_eq!(instance.read(range).filter(Result::is_ok).count(), 201);
    }
}

#[test]
fn closing_under_load_ends_every_wait() {
    for round in 0..20 {
        let storage = MemStorage::new();
        let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
        let instance = host(&log, 1);
        let acked = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut last = Seq::ZERO;
                        loop {
                            match put(&instance, 50, Durability::Sync) {
                                Ok(seq) => last = seq,
                                Err(LogError::Closed) => break last,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    })
                })
                .collect();
            let tail = scope.spawn(|| {
                let mut tail = instance.tail(Seq(1));
                while tail.next_timeout(1 << 16, Duration::from_secs(60)).is_ok() {}
            });
            while instance.watermarks().durable.0 < 5 + round {
                std::thread::yield_now();
            }
            log.close().unwrap();
            tail.join().unwrap();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .max()
                .unwrap()
        });
        log.close().unwrap();
        intact(&storage, 1, acked);
    }
}

#[test]
fn a_panicking_sink_poisons_instead_of_wedging() {
    struct Panics;
    impl CommitSink for Panics {
        fn committed(&self, _: Vec<Committed>, _: bool) {
            panic!("planted");
        }
        fn failed(&self, _: &LogError) {}
    }
    let (log, _) = Log::open(Arc::new(MemStorage::new()), options()).unwrap();
    let instance = host(&log, 1);
    instance.set_sink(Some(Arc::new(Panics)));
    assert!(put(&instance, 10, Durability::Sync).is_err());
    while log.status().poisoned.is_none() {
        std::thread::yield_now();
    }
    assert!(matches!(
        put(&instance, 10, Durability::Sync),
        Err(LogError::Poisoned { .. })
    ));
}

#[test]
fn a_sink_that_panics_when_records_are_announced_poisons_and_no_sink_gets_them() {
    #[derive(Default)]
    struct Panics(AtomicUsize);
    impl CommitSink for Panics {
        fn appended(&self, _: &[Record], _: bool) {
            panic!("planted");
        }
        fn committed(&self, _: Vec<Committed>, _: bool) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn failed(&self, _: &LogError) {}
    }
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let (instance, other) = (host(&log, 1), host(&log, 2));
    let sink = Arc::new(Panics::default());
    instance.set_sink(Some(sink.clone()));
    let acked = put(&other, 10, Durability::Sync).unwrap();
    for writer in [&instance, &other] {
        let refused = put(writer, 10, Durability::Sync);
        assert!(
            matches!(refused, Err(LogError::Poisoned { .. })),
            "{refused:?}"
        );
    }
    assert!(log.status().poisoned.unwrap().contains("sink panicked"));
    assert_eq!(sink.0.load(Ordering::SeqCst), 0);
    // What was acknowledged before is there.
    intact(&storage, 2, acked);
}

#[test]
fn an_idle_log_marks_its_last_sync() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let instance = host(&log, 1);
    put(&instance, 10, Durability::Sync).unwrap();
    let before = storage.change_count();
    // The write's frame, and after a while one more without anybody's call.
    while storage.change_count() < before + 2 {
        std::thread::yield_now();
    }
    drop((log, instance));
}

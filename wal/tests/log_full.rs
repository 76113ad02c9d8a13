//! What a full log still does: the end of holds and hostings, and flushing, get through and free room.

mod small;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, HoldBudget, Inline, InstanceLog, Log, LogError, LogOptions, RecordKind, Seq,
    Storage, StorageFile,
};

use small::{host, options, put};

/// Runs a call that must end, in a thread of its own: one that hangs fails the test instead of wedging it.
fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(call()));
    receiver
        .recv_timeout(Duration::from_secs(60))
        .unwrap_or_else(|_| panic!("{what} never ended"))
}

/// A log at its limit of four segments, of two instances with many holds; nothing can be truncated.
fn filled(storage: &MemStorage) -> (Log, InstanceLog, InstanceLog, Seq) {
    let limited = LogOptions {
        limit_bytes: 128 << 10,
        ..options()
    };
    let (log, _) = Log::open(Arc::new(storage.clone()), limited).unwrap();
    let (held, other) = (host(&log, 1), host(&log, 2));
    let budget = HoldBudget {
        bytes: 1 << 40,
        time: Duration::from_secs(1 << 30),
    };
    for n in 0..4 {
        held.hold(&format!("hold-{n}"), Seq(1), budget).unwrap();
    }
    let last = loop {
        match put(&held, 700, Durability::Sync) {
            Ok(_) => {}
            Err(LogError::Full { .. }) => break held.watermarks().durable,
            Err(error) => panic!("{error}"),
        }
    };
    // Notes take what records left, and are refused in the end as well.
    let full = (0..1000).find_map(|n| match held.put_note("k", vec![1; 1 + n % 7].into()) {
        Ok(note) => {
            note.wait().unwrap();
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(full, Some(LogError::Full { .. })), "{full:?}");
    (log, held, other, last)
}

#[test]
fn at_its_limit_the_end_of_holds_and_hostings_gets_through_and_frees_room() {
    let storage = MemStorage::new();
    let (log, held, other, last) = filled(&storage);
    held.set_flushed(last);
    for n in 0..4 {
        let held = held.clone();
        ends("release_hold", move || {
            held.release_hold(&format!("hold-{n}"))
        })
        .unwrap();
        assert_eq!(log.status().holds.len(), 3 - n);
    }
    let (gone, id) = (log.clone(), other.id());
    ends("forget", move || gone.forget(id)).unwrap();
    let writer = held.clone();
    let seq = ends("writing again", move || {
        loop {
            match put(&writer, 3000, Durability::Sync) {
                Ok(seq) => break seq,
                Err(LogError::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(seq, last.next(), "what was refused took no Seq");
    while log.status().bytes > 128 << 10 {
        std::thread::yield_now();
    }
    ends("close", move || log.close()).unwrap();
    let (log, _) = Log::open(Arc::new(storage.crash(Survival::None)), options()).unwrap();
    assert!(log.status().holds.is_empty());
    assert!(log.instance(id).is_none());
}

#[test]
fn at_its_limit_a_flush_alone_frees_room() {
    let storage = MemStorage::new();
    let (log, held, other, _) = filled(&storage);
    for n in 0..4 {
        let held = held.clone();
        ends("release_hold", move || {
            held.release_hold(&format!("hold-{n}"))
        })
        .unwrap();
    }
    // What frees room goes beyond the limit; records do not.
    let refused = put(&held, 10, Durability::Sync);
    assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
    held.set_flushed(held.watermarks().durable);
    other.set_flushed(other.watermarks().durable);
    ends("writing again", move || {
        while let Err(LogError::Full { .. }) = put(&held, 3000, Durability::Sync) {
            std::thread::yield_now();
        }
    });
    ends("close", move || log.close()).unwrap();
}

#[test]
fn on_a_full_device_what_frees_room_ends_and_so_does_closing() {
    let storage = MemStorage::new();
    storage.set_capacity(Some(128 << 10));
    let (log, held, other, last) = filled(&storage);
    // Nothing else can free room here, so these must go through.
    for n in 0..4 {
        let instance = held.clone();
        ends("release_hold", move || {
            instance.release_hold(&format!("hold-{n}"))
        })
        .unwrap();
    }
    assert!(held.holds().is_empty());
    held.set_flushed(last);
    other.set_flushed(other.watermarks().durable);
    let writer = held.clone();
    let seq = ends("writing again", move || {
        loop {
            match put(&writer, 700, Durability::Sync) {
                Ok(seq) => break seq,
                Err(LogError::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(seq, last.next());
    // One ended without room for its note, then made again: the older end must not take it away.
    let budget = HoldBudget {
        bytes: 1 << 40,
        time: Duration::from_secs(1 << 30),
    };
    held.hold("hold-3", seq, budget).unwrap();
    ends("close", move || log.close()).unwrap();
    let (log, _) = Log::open(Arc::new(storage.crash(Survival::None)), options()).unwrap();
    let holds: Vec<_> = log
        .status()
        .holds
        .into_iter()
        .map(|hold| hold.name)
        .collect();
    assert_eq!(
        holds,
        ["hold-3"],
        "the ends are noted with the truncation that they allowed"
    );
}

/// Syncs as slowly as a device does: only then are frames gathered.
#[derive(Debug)]
struct Slow(MemStorage);

#[derive(Debug)]
struct SlowFile(Arc<dyn StorageFile>);

impl Storage for Slow {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowFile(self.0.create(name, len)?)))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowFile(self.0.open(name)?)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.0.free_bytes()
    }
}

impl StorageFile for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(2));
        self.0.sync()
    }
}

#[test]
fn the_first_write_calls_a_log_thread_that_waited_for_many() {
    let storage = Arc::new(Slow(MemStorage::new()));
    let rarely = LogOptions {
        buffered_sync_every: Duration::from_secs(3600),
        segment_bytes: 1 << 20,
        ..options()
    };
    let (log, _) = Log::open(storage, rarely).unwrap();
    let instance = host(&log, 1);
    for _ in 0..100 {
        // A frame of many leaves the thread expecting as many writers again.
        let many: Vec<_> = (0..8)
            .map(|_| {
                let body = Bytes::from_static(b"many");
                instance
                    .submit(RecordKind::Batch, body, Durability::Sync, Inline::Never)
                    .unwrap()
            })
            .collect();
        for one in many {
            one.wait().unwrap();
        }
        let lone = instance.clone();
        ends("a lone release", move || lone.release_hold("none")).unwrap();
        let log = log.clone();
        ends("a lone sync", move || log.sync()).unwrap();
    }
}

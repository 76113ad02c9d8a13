//! A small log of several segments and shards, and what it holds: for tests of damage and repair.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, HoldBudget, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions,
    LogView, Record, RecordKind, Seq, SeqRange, ShardId, Storage, Term,
};

pub(crate) const BUDGET: HoldBudget = HoldBudget {
    bytes: 1 << 40,
    time: Duration::from_secs(1 << 30),
};

/// Two owners and a receiver.
pub(crate) const OWNERS: [InstanceId; 2] = [InstanceId(1), InstanceId(2)];
pub(crate) const RECEIVER: InstanceId = InstanceId(3);

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 16 << 20,
        // No frame but the ones asked for.
        buffered_sync_every: Duration::from_secs(3600),
        ..LogOptions::default()
    }
}

pub(crate) fn open(storage: &MemStorage) -> Log {
    Log::open(Arc::new(storage.clone()), options()).unwrap().0
}

/// What each instance holds, by Seq.
pub(crate) type Contents = BTreeMap<InstanceId, BTreeMap<Seq, Record>>;

/// A body that says who and which; some compress, some do not.
pub(crate) fn body(id: InstanceId, n: u64, len: usize) -> Bytes {
    let mut body = format!("{id} {n} ").into_bytes();
    body.extend((0..len as u64).map(|i| {
        if n.is_multiple_of(3) {
            b'z'
        } else {
            (i * i * 31 + n * 7) as u8
        }
    }));
    body.into()
}

pub(crate) fn put(log: &InstanceLog, n: u64, len: usize, durability: Durability) -> Seq {
    let body = body(log.id(), n, len);
    log.submit(RecordKind::Batch, body, durability, Inline::Never)
        .unwrap()
        .wait()
        .unwrap()
}

/// One life of the process: starts terms, writes `rounds` records to each owner and forwards some to the receiver.
pub(crate) fn live(storage: &MemStorage, rounds: u64, len: usize) -> Log {
    let log = open(storage);
    work(&log, rounds, len);
    log
}

pub(crate) fn work(log: &Log, rounds: u64, len: usize) {
    for id in OWNERS.into_iter().chain([RECEIVER]) {
        if log.instance(id).is_none() {
            log.host(ShardId(id.0 as u64 % 3), id, Seq::ZERO, Vec::new())
                .unwrap();
        }
    }
    let owners = OWNERS.map(|id| log.instance(id).unwrap());
    for owner in &owners {
        let term = owner.next_term(Epoch(1));
        owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
    }
    let receiver = log.instance(RECEIVER).unwrap();
    for n in 0..rounds {
        for owner in &owners {
            let durability = if n % 4 == 1 {
                Durability::Buffered
            } else {
                Durability::Sync
            };
            let seq = put(owner, n, len + (n as usize * 37) % 300, durability);
            // A hole at every fifth: a receiver may have them.
            if owner.id() == OWNERS[0] && n % 5 != 2 {
                let record = owner.read_batch(SeqRange::single(seq), 0).unwrap();
                receiver.append_at(record).unwrap().wait().unwrap();
            }
        }
        if n == 3 {
            let at = owners[0].watermarks().durable;
            owners[0].hold("kept", at, BUDGET).unwrap();
            let note = Bytes::from_static(b"a note's value");
            owners[1].put_note("a note", note).unwrap().wait().unwrap();
        }
    }
}

/// Several lives, each on a fresh segment; the last ends as power is lost.
pub(crate) fn several_lives() -> MemStorage {
    let storage = MemStorage::new();
    live(&storage, 14, 900).close().unwrap();
    drop(live(&storage, 6, 300));
    let log = live(&storage, 5, 100);
    let crashed = storage.crash(Survival::None);
    drop(log);
    crashed
}

/// All records that a log holds.
pub(crate) fn contents(storage: &MemStorage) -> Contents {
    let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
    contents_of(&view)
}

pub(crate) fn contents_of(view: &LogView) -> Contents {
    let instances = view.instances().into_iter();
    instances
        .map(|instance| {
            let ranges = instance.has.intervals().collect::<Vec<_>>();
            let records = ranges
                .into_iter()
                .flat_map(|range| view.read(instance.id, range));
            let records = records.filter_map(|record| match record {
                Ok(record) => Some((record.seq(), record)),
                // Flushed, and truncated since.
                Err(LogError::Gap { .. }) => None,
                Err(error) => panic!("{error}"),
            });
            (instance.id, records.collect())
        })
        .collect()
}

/// The bytes of every file.
pub(crate) fn image(storage: &MemStorage) -> BTreeMap<String, Vec<u8>> {
    let names = storage.list().unwrap().into_iter();
    names
        .map(|name| {
            let bytes = storage.contents(&name).unwrap();
            (name, bytes)
        })
        .collect()
}

/// A storage with these files.
pub(crate) fn storage_of(files: &BTreeMap<String, Vec<u8>>) -> MemStorage {
    let storage = MemStorage::new();
    for (name, bytes) in files {
        storage.put_file(name, bytes.clone());
    }
    storage
}

/// Offsets of the frames of a segment.
pub(crate) fn frames(bytes: &[u8]) -> Vec<usize> {
    let starts = (0..bytes.len()).step_by(8);
    starts
        .filter(|&at| bytes[at..].starts_with(b"WSHF"))
        .collect()
}

/// Where the last frame of a segment ends.
pub(crate) fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

pub(crate) fn term(opening: u64) -> Term {
    Term::new(Epoch(1), opening)
}

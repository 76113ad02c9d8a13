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
            // A reader ends at the first that is gone: what is flushed is read by itself.
            let halves = |range: SeqRange| {
                let flushed = instance.flushed;
                let low = SeqRange::new(range.first(), range.last().min(flushed));
                let high = SeqRange::new(range.first().max(flushed.next()), range.last());
                low.into_iter().chain(high)
            };
            let ranges = instance.has.intervals().flat_map(halves);
            let ranges = ranges.collect::<Vec<_>>();
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

/// The bytes of every file, at a moment when none comes or goes: the keeper of an open log makes, renames and removes some.
pub(crate) fn image(storage: &MemStorage) -> BTreeMap<String, Vec<u8>> {
    loop {
        let names = storage.list().unwrap();
        let files = names
            .iter()
            .map(|name| Some((name.clone(), storage.contents(name)?)));
        if let Some(files) = files.collect()
            && storage.list().unwrap() == names
        {
            return files;
        }
    }
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

/// Waits for what the log's threads are about to do.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        // One that never comes fails the test instead of wedging it.
        assert!(begun.elapsed().as_secs() < 60, "never: {what}");
        std::thread::yield_now();
    }
}

/// Whether a segment's head says that its file was another's.
pub(crate) fn is_recycled(bytes: &[u8]) -> bool {
    bytes.starts_with(b"WSHF") && bytes[6] == 3
}

/// Whether a segment has a head.
pub(crate) fn has_head(bytes: &[u8]) -> bool {
    bytes.starts_with(b"WSHF") && bytes[6] & 1 == 1
}

/// Hosts an owner and starts its term.
pub(crate) fn owner(log: &Log, id: InstanceId) -> InstanceLog {
    let owner = log.instance(id).unwrap_or_else(|| {
        log.host(ShardId(id.0 as u64), id, Seq::ZERO, Vec::new())
            .unwrap()
    });
    let term = owner.next_term(Epoch(1));
    owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
    owner
}

/// Writes, and has all of it flushed, until `wait` files wait to be filled again.
pub(crate) fn let_wait(log: &Log, owner: &InstanceLog, wait: u64) {
    let segment = u64::from(options().segment_bytes);
    while log.status().segments < wait + 1 {
        put(owner, 1, 6000, Durability::Sync);
    }
    log.instances()
        .iter()
        .for_each(|i| i.set_flushed(i.watermarks().durable));
    until("files wait", || {
        log.status().recycled_bytes >= wait * segment
    });
}

/// A closed log of three segments, each in a file that was another's before, and a hold.
pub(crate) fn recycled() -> BTreeMap<String, Vec<u8>> {
    let storage = MemStorage::new();
    let log = open(&storage);
    let owners = OWNERS.map(|id| owner(&log, id));
    let_wait(&log, &owners[0], 5);
    // Fills the spare, too, which was made before.
    while log.status().segments < 3 {
        put(&owners[1], 1, 6000, Durability::Sync);
    }
    log.instances()
        .iter()
        .for_each(|i| i.set_flushed(i.watermarks().durable));
    until("one segment is left", || log.status().segments == 1);
    let mut n = 0;
    while log.status().segments < 3 {
        n += 1;
        let durability = if n % 3 == 0 {
            Durability::Sync
        } else {
            Durability::Buffered
        };
        put(&owners[n as usize % 2], n, 2500, durability);
    }
    let from = owners[0].watermarks().durable;
    owners[0].hold("kept", from, BUDGET).unwrap();
    log.close().unwrap();
    let mut files = image(&storage.crash(Survival::None));
    files.retain(|name, bytes| name.ends_with(".seg") && has_head(bytes));
    assert_eq!(files.len(), 3);
    assert!(files.values().all(|bytes| is_recycled(bytes)));
    files
}

//! A log of small segments with an owner in it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions, RecordKind, Seq,
    ShardId, Term,
};

/// Small segments, and a background sync that soon comes.
pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 64 << 20,
        buffered_sync_every: Duration::from_millis(5),
        ..LogOptions::default()
    }
}

/// Hosts an instance in the shard of the same number, and starts its first term.
pub(crate) fn host(log: &Log, id: u128) -> InstanceLog {
    let shard = ShardId(id as u64);
    let instance = log
        .host(shard, InstanceId(id), Seq::ZERO, Vec::new())
        .unwrap();
    let term = Term::new(Epoch(1), 1);
    instance
        .start_term(term, Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    instance
}

/// Writes a body of `len` bytes and waits for it.
pub(crate) fn put(log: &InstanceLog, len: usize, durability: Durability) -> Result<Seq, LogError> {
    let body: Vec<u8> = (0..len).map(|i| (i * i + i * 17) as u8).collect();
    let submitted = match durability {
        Durability::Buffered => log.append(RecordKind::Batch, body.into())?.into(),
        _ => log.submit(RecordKind::Batch, body.into(), durability, Inline::Allowed)?,
    };
    submitted.wait()
}

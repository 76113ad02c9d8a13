//! This engine's log alone: appended, durable, nothing applied. Each caller writes to a shard of its own.

use std::path::Path;
use std::sync::Arc;

use watershed_wal::{
    DirStorage, Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogOptions, RecordKind,
    Seq, ShardId, Term, single_put,
};

use crate::compare::contest::Contender;
use crate::compare::drive::{Slice, in_flight, threads};
use crate::compare::error::CompareError;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "Watershed's log";

/// An open log, and the shards it hosts.
pub(crate) struct Shards {
    pub(crate) log: Log,
    pub(crate) all: Vec<InstanceLog>,
}

impl Shards {
    pub(crate) fn open(dir: &Path, count: u64) -> Result<Self, CompareError> {
        let dir = dir.join("log");
        let storage = DirStorage::new(&dir).map_err(CompareError::io("create", &dir))?;
        let options = LogOptions {
            // Nothing is compressed on either side, and no slice fills it.
            compress_from_bytes: usize::MAX,
            limit_bytes: 16 << 30,
            ..LogOptions::default()
        };
        let (log, _) = Log::open(Arc::new(storage), options)?;
        let term = Term {
            epoch: Epoch(1),
            opening: 1,
        };
        let host = |number| {
            let id = InstanceId(u128::from(number) + 1);
            let hosted = log.host(ShardId(number), id, Seq::ZERO, Vec::new())?;
            hosted.start_term(term, Seq::ZERO)?.wait()?;
            Ok::<_, CompareError>(hosted)
        };
        let all = (0..count).map(host).collect::<Result<_, _>>()?;
        Ok(Self { log, all })
    }

    pub(crate) fn of_caller(&self, caller: u64) -> &InstanceLog {
        // Below the number of shards.
        &self.all[(caller % self.all.len() as u64) as usize]
    }

    /// Lets go of all records, as an engine does that has flushed.
    fn let_go(&self, slice: Slice) -> Slice {
        for shard in &self.all {
            shard.set_flushed(shard.watermarks().durable);
        }
        slice
    }
}

/// Threads that wait for each record.
pub(crate) fn blocking(writes: &Writes, count: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("{count} blocking threads, as many shards"),
        in_flight: Some(count),
        open: Box::new(move |dir| {
            let shards = Shards::open(dir, count)?;
            Ok(Box::new(move |slice, time| {
                let done = threads(count, slice, time, writes, |caller, key, value| {
                    let body = single_put(&key, value);
                    shards
                        .of_caller(caller)
                        .submit(RecordKind::Batch, body, Durability::Sync, Inline::Allowed)?
                        .wait()?;
                    Ok(())
                })?;
                Ok(shards.let_go(done))
            }))
        }),
    }
}

/// One caller with many records in flight.
pub(crate) fn many(writes: &Writes, count: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("one caller, {count} in flight, as many shards"),
        in_flight: Some(count),
        open: Box::new(move |dir| {
            let shards = Shards::open(dir, count)?;
            Ok(Box::new(move |slice, time| {
                let done = in_flight(1, count, slice, time, writes, |place, key, value| {
                    let body = single_put(&key, value);
                    let shard = shards.of_caller(place);
                    let kind = RecordKind::Batch;
                    let submitted = shard.submit(kind, body, Durability::Sync, Inline::Never);
                    async move { Ok(submitted?.done.await?) }
                })?;
                Ok(shards.let_go(done))
            }))
        }),
    }
}

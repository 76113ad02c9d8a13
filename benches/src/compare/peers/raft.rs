//! raft-engine: a log for the raft groups of one node. Each caller writes to a group of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::compare::contest::Contender;
use crate::compare::drive::threads;
use crate::compare::error::CompareError;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "raft-engine";
pub(crate) const MODE: &str = "entries, fdatasync for each write group, no compression, log files of 32 MiB that are recycled and were filled before";

/// Entries whose first eight bytes are their index.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let first = entry.value.first_chunk().copied();
        first.map_or(0, u64::from_le_bytes)
    }
}

/// Threads that wait for each entry.
pub(crate) fn blocking(writes: &Writes, count: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("{}, as many groups", super::threads_named(count)),
        in_flight: Some(count),
        open: Box::new(move |dir| {
            let engine = Engine::open(Config {
                dir: dir.join("raft").display().to_string(),
                batch_compression_threshold: ReadableSize(0),
                target_file_size: ReadableSize::mb(32),
                purge_threshold: ReadableSize::mb(128),
                enable_log_recycle: true,
                prefill_for_recycle: true,
                ..Config::default()
            })?;
            let last: Vec<_> = (0..count).map(|_| AtomicU64::new(0)).collect();
            Ok(Box::new(move |slice, time| {
                let done = threads(count, slice, time, writes, |caller, key, value| {
                    // One of the callers.
                    let index = 1 + last[caller as usize].fetch_add(1, Ordering::Relaxed);
                    let mut entry = BytesValue::new();
                    entry.value = [&index.to_le_bytes(), key.as_slice(), value].concat();
                    let mut batch = LogBatch::with_capacity(1);
                    batch.add_entries::<Indexed>(caller + 1, &[entry])?;
                    engine.write(&mut batch, true)?;
                    Ok(())
                })?;
                // Lets go of all entries, as whoever has applied them does.
                for (group, last) in (1..).zip(&last) {
                    engine.compact_to(group, last.load(Ordering::Relaxed) + 1);
                }
                engine.purge_expired_files().map_err(CompareError::from)?;
                Ok(done)
            }))
        }),
    }
}

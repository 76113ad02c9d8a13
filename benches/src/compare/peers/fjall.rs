//! fjall: each write is a batch of one, persisted as the workload says.

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use crate::compare::contest::Contender;
use crate::compare::drive::threads;
use crate::compare::error::CompareError;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "fjall";
pub(crate) const MODE: &str = "one database, one keyspace, block cache 128 MiB, else defaults; persisted by fdatasync after each write";
/// As the others have.
const CACHE_BYTES: u64 = 128 << 20;

/// Threads that wait for each write.
pub(crate) fn blocking(writes: &Writes, count: u64, sync: bool) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: super::threads_named(count),
        in_flight: sync.then_some(count),
        open: Box::new(move |dir| {
            let db = Database::builder(dir.join("db"))
                .cache_size(CACHE_BYTES)
                .open()?;
            let keyspace = db.keyspace("data", KeyspaceCreateOptions::default)?;
            let mode = if sync {
                PersistMode::SyncData
            } else {
                PersistMode::Buffer
            };
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |_, key, value| {
                    let mut batch = db.batch().durability(Some(mode));
                    batch.insert(&keyspace, key, value);
                    batch.commit().map_err(CompareError::from)
                })
            }))
        }),
    }
}

//! redb: each write is a transaction, durable when it has committed.

use redb::{Database, TableDefinition};

use crate::compare::contest::Contender;
use crate::compare::drive::threads;
use crate::compare::error::redb_error;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "redb";
pub(crate) const MODE: &str = "one database, defaults; a transaction for each write, durability immediate (one writer at a time)";

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");

/// Threads that wait for each write; redb has one writer at a time.
pub(crate) fn blocking(writes: &Writes, count: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: super::threads_named(count),
        in_flight: Some(count),
        open: Box::new(move |dir| {
            let db = Database::create(dir.join("db")).map_err(redb_error)?;
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |_, key, value| {
                    let write = db.begin_write().map_err(redb_error)?;
                    {
                        let mut table = write.open_table(TABLE).map_err(redb_error)?;
                        table.insert(key.as_slice(), value).map_err(redb_error)?;
                    }
                    write.commit().map_err(redb_error)
                })
            }))
        }),
    }
}

//! A shard's store: one RocksDB, told everything by the log and nothing by anyone else.
//!
//! Owns the directory of one shard instance, the form of keys and values in it (engine/STORE.md), and what is
//! read from it. RocksDB's own log is off: a record is applied after the shard's log has it, and the applied
//! mark (Seq, term, log digest) is written in the same batch as the data. So after any crash the store holds
//! exactly the records up to its mark, and the log is replayed from there.
//!
//! This is the only module that knows RocksDB; none of its types leave. Rules kept here: one column family,
//! and [`Store::flushed`] is read from what is persisted (18); a checkpoint's mark is read out of the finished
//! checkpoint (2). Left out: which records to apply and when they are durable (the shard), flush scheduling and
//! log truncation (the node), repairs and the removal of tombstones (anti-entropy; such records are refused).

mod apply;
mod checkpoint;
mod env;
mod error;
mod files;
mod format;
mod open;
mod read;
mod scan;
mod snapshot;
mod stats;
mod terms;
#[cfg(test)]
mod tests;
mod version;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::{DB, ReadOptions, ReadTier, WriteOptions};
use watershed_wal::Seq;

pub(crate) use env::{StoreEnv, StoreLimits};
pub use error::StoreError;
pub(crate) use format::{Applied, INTERNAL_KEYSPACE, USER_KEYSPACE};
pub(crate) use read::Shown;
pub use scan::ScanOptions;
pub(crate) use scan::{InternalEntry, ScanRange};
pub(crate) use snapshot::StoreSnapshot;
pub use version::{Entry, ParseVersionError, Version};

use snapshot::Snapshots;
use terms::Terms;

/// One shard instance's data. Clones are handles on the same store; the last one to go closes it.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

/// Locks are taken in the order of the fields.
struct Inner {
    dir: PathBuf,
    env: StoreEnv,
    read_only: bool,
    /// One `apply`, `reopen` or close at a time; holds the buffers that `apply` builds keys and values in.
    writer: Mutex<apply::Scratch>,
    /// `None` once closed. Every use holds the lock shared, so that whoever holds it alone has the only handle
    /// but those of snapshots, which can be taken back.
    db: RwLock<Option<Arc<DB>>>,
    /// Published before the records of a new term can be seen, so load it after the read it is for.
    terms: RwLock<Terms>,
    /// Published after the records can be seen.
    applied: Mutex<Applied>,
    snapshots: Snapshots,
    /// What RocksDB last failed to write, until it is re-opened.
    failure: Mutex<Option<String>>,
    reads: ReadOptions,
    persisted_reads: ReadOptions,
    writes: WriteOptions,
}

/// A panic while a lock was held is our bug, reported where it happened; what the locks guard is whole at
/// every point where one can happen, so others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The last record that reads see, with the digest of all up to it.
    pub(crate) fn applied(&self) -> Applied {
        *lock(&self.0.applied)
    }

    /// The term history up to the applied mark: what each Seq's version is made with.
    #[cfg(test)]
    pub(crate) fn term_starts(&self) -> Vec<watershed_wal::TermStart> {
        self.0.terms().starts().to_vec()
    }

    /// The mark as it is in SSTs, on the device: what a crash leaves, so the log at or below it may go.
    ///
    /// # Errors
    /// When the store is closed, or RocksDB fails.
    pub(crate) fn flushed(&self) -> Result<Applied, StoreError> {
        let inner = &self.0;
        let db = inner.db()?;
        let stored = db
            .get_pinned_opt(format::APPLIED_KEY, &inner.persisted_reads)
            .map_err(|e| StoreError::rocks("read the flushed mark", &inner.dir, e))?;
        stored
            .and_then(|bytes| Applied::decode(&bytes))
            .ok_or_else(|| StoreError::damaged(&inner.dir, "its applied mark is missing"))
    }

    /// Writes the memtables to SSTs and waits until they are on the device.
    ///
    /// # Returns
    /// The new flushed mark: at least what was applied when the call began.
    ///
    /// # Errors
    /// When the store is read-only or closed, or RocksDB fails: then nothing counts as flushed.
    pub(crate) fn flush(&self) -> Result<Seq, StoreError> {
        self.0.refuse_read_only()?;
        {
            let db = self.0.db()?;
            db.flush().map_err(|e| self.0.failed("flush", e))?;
        }
        Ok(self.flushed()?.seq)
    }

    /// What RocksDB failed to write since it was opened, if it did: then writes may fail until
    /// [`Store::reopen`] has dropped what was not flushed and the log is replayed.
    pub(crate) fn background_error(&self) -> Option<String> {
        if let Some(failure) = lock(&self.0.failure).clone() {
            return Some(failure);
        }
        let db = self.0.db().ok()?;
        let errors = db
            .property_int_value(rocksdb::properties::BACKGROUND_ERRORS)
            .ok()
            .flatten()?;
        (errors > 0).then(|| {
            format!(
                "RocksDB reports {errors} background errors in {:?}",
                self.0.dir
            )
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.0.dir)
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

/// A RocksDB kept open for as long as the value lives.
struct OpenDb<'a>(RwLockReadGuard<'a, Option<Arc<DB>>>);

impl std::ops::Deref for OpenDb<'_> {
    type Target = Arc<DB>;

    fn deref(&self) -> &Arc<DB> {
        self.0
            .as_ref()
            .expect("checked when the lock was taken, and the lock is held")
    }
}

impl Inner {
    fn db(&self) -> Result<OpenDb<'_>, StoreError> {
        let guard = read_lock(&self.db);
        if guard.is_none() {
            return Err(StoreError::Closed {
                dir: self.dir.clone(),
            });
        }
        Ok(OpenDb(guard))
    }

    fn terms(&self) -> Terms {
        read_lock(&self.terms).clone()
    }

    fn version(&self, seq: Seq) -> Version {
        read_lock(&self.terms).version(seq)
    }

    fn refuse_read_only(&self) -> Result<(), StoreError> {
        if self.read_only {
            return Err(StoreError::ReadOnly {
                dir: self.dir.clone(),
            });
        }
        Ok(())
    }

    /// A failed write of RocksDB, remembered for [`Store::background_error`]. A failed read says nothing about
    /// the next one, and opening again would not heal it.
    fn failed(&self, op: &'static str, error: rocksdb::Error) -> StoreError {
        let error = StoreError::rocks(op, &self.dir, error);
        *lock(&self.failure) = Some(error.to_string());
        error
    }
}

fn persisted_reads() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::Persisted);
    options
}

fn unlogged_writes() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

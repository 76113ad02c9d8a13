//! Making, opening, re-opening, closing and removing a store.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use rocksdb::{DB, IteratorMode, Options, ReadOptions, WriteBatch};
use watershed_wal::{Seq, Term, TermStart};

use super::env::StoreEnv;
use super::error::{OPEN, StoreError};
use super::format::{self, APPLIED_KEY, Applied, FORMAT, FORMAT_KEY, TERM_RANGE};
use super::snapshot::Snapshots;
use super::terms::Terms;
use super::{Inner, Store, files, lock, persisted_reads, unlogged_writes, write_lock};

/// A writer may remove files while they are being opened to read; the next attempt sees its newer list.
const READ_ONLY_ATTEMPTS: u32 = 5;

/// The manifest that an opening writes, with its preallocation, and more than the head of an SST.
const REOPEN_ROOM: u64 = 1 << 20;

impl Store {
    /// A fresh, empty store whose history begins at `base`. It is made under another name and renamed, so
    /// that after a crash `dir` is whole or not there; what an earlier crash left is removed.
    ///
    /// # Errors
    /// When `dir` exists, or the disk or RocksDB fail.
    pub(crate) fn create(env: &StoreEnv, dir: &Path, base: Applied) -> Result<Self, StoreError> {
        files::refuse_existing(dir)?;
        let making = files::beside(dir, ".new");
        files::remove_tree(&making)?;
        write_first_mark(env, &making, base)?;
        files::sync_dir_and_files(&making)?;
        files::publish(&making, dir)?;
        Self::open(env, dir)
    }

    /// Opens an existing store for writing.
    ///
    /// # Errors
    /// Missing, damaged, in use, of a newer format, or the disk fails; each names the directory.
    pub(crate) fn open(env: &StoreEnv, dir: &Path) -> Result<Self, StoreError> {
        Self::open_as(env, dir, false)
    }

    /// Opens a store to read what is flushed, also while another process writes it. Never writes.
    ///
    /// # Errors
    /// As [`Store::open`], but for "in use".
    pub(crate) fn open_read_only(env: &StoreEnv, dir: &Path) -> Result<Self, StoreError> {
        Self::open_as(env, dir, true)
    }

    fn open_as(env: &StoreEnv, dir: &Path, read_only: bool) -> Result<Self, StoreError> {
        let (db, applied, terms) = open_db(env, dir, read_only)?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            env: env.clone(),
            read_only,
            writer: Mutex::default(),
            db: RwLock::new(Some(Arc::new(db))),
            terms: RwLock::new(terms),
            applied: Mutex::new(applied),
            snapshots: Snapshots::default(),
            failure: Mutex::default(),
            reads: ReadOptions::default(),
            persisted_reads: persisted_reads(),
            writes: unlogged_writes(),
        })))
    }

    /// Closes RocksDB and opens it again, in place, after a background error. Snapshots expire, and the applied
    /// mark falls back to what is flushed: the log after it must be applied again. Where opening fails the
    /// store stays closed; another call tries again.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let inner = &self.0;
        let _writer = lock(&inner.writer);
        let mut slot = write_lock(&inner.db);
        inner.snapshots.revoke();
        close_db(slot.take());
        let (db, applied, terms) = open_db(&inner.env, &inner.dir, inner.read_only)?;
        *write_lock(&inner.terms) = terms;
        *lock(&inner.applied) = applied;
        *lock(&inner.failure) = None;
        *slot = Some(Arc::new(db));
        Ok(())
    }

    /// Proves that [`Store::reopen`] will find the directory, and room for what it writes and for the flush that the
    /// replay may bring. Closing first and finding out then would take a store away that still answers reads.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], or what else the disk says.
    pub(crate) fn can_reopen(&self) -> Result<(), StoreError> {
        let memtables = self.stats().map_or(0, |stats| stats.memtable_bytes);
        files::prove_room(&self.0.dir, REOPEN_ROOM + memtables)
    }

    /// Flushes, so that the next opening has nothing to replay, and closes: other handles get `Closed`,
    /// snapshots expire, RocksDB's threads and its lock are gone when this returns, also with an error.
    ///
    /// # Errors
    /// When the flush failed; nothing is lost that the log has.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        let flushed = if self.0.read_only {
            Ok(())
        } else {
            self.flush().map(drop)
        };
        self.0.shut();
        match flushed {
            Err(StoreError::Closed { .. }) => Ok(()),
            other => other,
        }
    }

    /// Closes like [`Store::close`], without the flush: for a store that is to be removed.
    pub(crate) fn discard(self) {
        self.0.shut();
    }

    /// Removes a closed store's directory. A crash on the way leaves it whole or gone, never half there under
    /// its name; calling again finishes.
    ///
    /// # Returns
    /// The bytes of the removed files; those a checkpoint still links to are freed when that goes.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn destroy(dir: &Path) -> Result<u64, StoreError> {
        let going = files::beside(dir, ".gone");
        let left = files::remove_tree(&going)?;
        match std::fs::rename(dir, &going) {
            Ok(()) => files::sync_parent(dir)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(left),
            Err(e) => return Err(StoreError::io("rename", dir, e)),
        }
        Ok(left + files::remove_tree(&going)?)
    }

    /// Removes what an interrupted making or deletion left under a name beside a store's; gives the bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn remove_remains(dir: &Path) -> Result<u64, StoreError> {
        files::remove_tree(dir)
    }
}

impl Inner {
    /// Waits for whoever uses RocksDB, takes snapshots back and drops the last handle.
    fn shut(&self) {
        let mut slot = write_lock(&self.db);
        self.snapshots.revoke();
        close_db(slot.take());
    }
}

/// Closes RocksDB; its lock is free when this returns. A snapshot that its user is just dropping can't be taken back any
/// more, and still holds a handle until it has been dropped.
fn close_db(db: Option<Arc<DB>>) {
    let mut last = db;
    while let Some(db) = last {
        last = Arc::try_unwrap(db).err();
        if last.is_some() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shut();
    }
}

fn write_first_mark(env: &StoreEnv, dir: &Path, base: Applied) -> Result<(), StoreError> {
    let failed = |e| StoreError::rocks("create a store", dir, e);
    let mut options = env.writable().clone();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    let db = DB::open(&options, dir).map_err(failed)?;
    let mut batch = WriteBatch::default();
    batch.put(FORMAT_KEY, [FORMAT]);
    batch.put(APPLIED_KEY, base.encode());
    if base.term != Term::default() {
        let (key, value) = format::encode_term_start(&TermStart {
            term: base.term,
            first: base.seq,
        });
        batch.put(key, value);
    }
    db.write_opt(batch, &unlogged_writes()).map_err(failed)?;
    db.flush().map_err(failed)
}

fn open_db(
    env: &StoreEnv,
    dir: &Path,
    read_only: bool,
) -> Result<(DB, Applied, Terms), StoreError> {
    // RocksDB's own words for this are many; its file CURRENT is there in every store that is whole.
    match std::fs::symlink_metadata(dir.join("CURRENT")) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(StoreError::Missing {
                dir: dir.to_owned(),
            });
        }
        Err(e) => return Err(StoreError::io("look at", dir, e)),
    }
    let db = if read_only {
        open_to_read(env.read_only(), dir)
    } else {
        DB::open(env.writable(), dir)
    };
    let db = db.map_err(|e| StoreError::rocks(OPEN, dir, e))?;
    let (applied, terms) = load_marks(&db, dir)?;
    Ok((db, applied, terms))
}

fn open_to_read(options: &Options, dir: &Path) -> Result<DB, rocksdb::Error> {
    let mut attempt = 1;
    loop {
        match DB::open_for_read_only(options, dir, false) {
            Err(_) if attempt < READ_ONLY_ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

/// The applied mark and the term history, from a RocksDB that may be anything.
pub(super) fn load_marks(db: &DB, dir: &Path) -> Result<(Applied, Terms), StoreError> {
    let read = |key: [u8; 2]| {
        db.get(key)
            .map_err(|e| StoreError::rocks("read its marks", dir, e))
    };
    match read(FORMAT_KEY)?.as_deref() {
        Some(&[found]) if found > FORMAT => {
            return Err(StoreError::NewerFormat {
                dir: dir.to_owned(),
                found,
                supported: FORMAT,
            });
        }
        Some(&[FORMAT]) => {}
        _ => return Err(StoreError::damaged(dir, "it has no mark of its format")),
    }
    let applied = read(APPLIED_KEY)?
        .and_then(|bytes| Applied::decode(&bytes))
        .ok_or_else(|| StoreError::damaged(dir, "its applied mark is missing or not valid"))?;
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(TERM_RANGE.1);
    let from = IteratorMode::From(&TERM_RANGE.0, rocksdb::Direction::Forward);
    let mut starts = Vec::new();
    for item in db.iterator_opt(from, options) {
        let (key, value) = item.map_err(|e| StoreError::rocks("read its terms", dir, e))?;
        let start = format::decode_term_start(&key, &value)
            .ok_or_else(|| StoreError::damaged(dir, "an entry of its term history is not valid"))?;
        starts.push(start);
    }
    let last_first = starts.last().map_or(Seq::ZERO, |start| start.first);
    Terms::new(starts)
        .filter(|terms| terms.last().unwrap_or_default() == applied.term)
        .filter(|_| last_first <= applied.seq)
        .map(|terms| (applied, terms))
        .ok_or_else(|| StoreError::damaged(dir, "its term history does not fit its applied mark"))
}

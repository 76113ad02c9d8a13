//! Snapshots: the store as it was at one Seq, owned and revocable.
//!
//! A snapshot holds RocksDB open. So that a store can close, re-open or be removed whatever its users hold,
//! the store keeps a weak list of its snapshots and takes them back: who is in the middle of a read of one is
//! waited for, the next read is [`StoreError::SnapshotExpired`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock, Weak};

use bytes::Bytes;
use rocksdb::{DB, DBPinnableSlice, SnapshotWithThreadMode};
use self_cell::self_cell;

use super::error::StoreError;
use super::format::{self, APPLIED_KEY, Applied};
use super::read::{owned_value, take_apart};
use super::terms::Terms;
use super::{Store, Version, lock, read_lock, write_lock};

pub(super) type RocksSnapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    struct Held {
        owner: Arc<DB>,
        #[covariant]
        dependent: RocksSnapshot,
    }
);

/// `None` once taken back.
type Slot = RwLock<Option<Held>>;

/// The snapshots of a store that may still be held.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Issued>);

#[derive(Default)]
struct Issued {
    slots: Vec<Weak<Slot>>,
    /// At this many the dead ones are swept out, so that issuing costs O(1) on average.
    sweep_at: usize,
}

impl Snapshots {
    fn add(&self, slot: &Arc<Slot>) {
        let mut issued = lock(&self.0);
        if issued.slots.len() >= issued.sweep_at {
            issued.slots.retain(|slot| slot.strong_count() > 0);
            issued.sweep_at = (2 * issued.slots.len()).max(16);
        }
        issued.slots.push(Arc::downgrade(slot));
    }

    /// Takes all back; waits for reads that are going on.
    pub(super) fn revoke(&self) {
        let slots = std::mem::take(&mut lock(&self.0).slots);
        for slot in slots.iter().filter_map(Weak::upgrade) {
            *write_lock(&slot) = None;
        }
    }
}

/// The store at one Seq. Clones are the same snapshot.
#[derive(Clone)]
pub(crate) struct StoreSnapshot {
    slot: Arc<Slot>,
    dir: Arc<PathBuf>,
    applied: Applied,
    terms: Terms,
}

impl Store {
    /// A snapshot of what reads see now.
    ///
    /// # Errors
    /// When the store is closed or damaged, or RocksDB fails.
    pub(crate) fn snapshot(&self) -> Result<StoreSnapshot, StoreError> {
        let inner = &self.0;
        let db = inner.db()?;
        let held = Held::new(Arc::clone(&db), |db| db.snapshot());
        // Out of the snapshot itself: a group may be applied at any moment.
        let applied = held
            .borrow_dependent()
            .get_pinned(APPLIED_KEY)
            .map_err(|e| StoreError::rocks("read its marks", &inner.dir, e))?
            .and_then(|bytes| Applied::decode(&bytes))
            .ok_or_else(|| StoreError::damaged(&inner.dir, "its applied mark is missing"))?;
        let slot = Arc::new(RwLock::new(Some(held)));
        inner.snapshots.add(&slot);
        Ok(StoreSnapshot {
            slot,
            dir: Arc::new(inner.dir.clone()),
            applied,
            terms: inner.terms(),
        })
    }

    /// Takes all snapshots back; returns when none holds RocksDB any more.
    pub(crate) fn revoke_snapshots(&self) {
        self.0.snapshots.revoke();
    }
}

impl StoreSnapshot {
    /// The Seq, term and digest that the snapshot shows.
    pub(crate) fn applied(&self) -> Applied {
        self.applied
    }

    /// The value of a key and its version; `None` where there is none or it was deleted.
    ///
    /// # Errors
    /// When the snapshot has expired, the store is damaged, or RocksDB fails.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<(Bytes, Version)>, StoreError> {
        let found = self.get_versioned(key)?;
        Ok(found.and_then(|(version, value)| Some((value?, version))))
    }

    /// The version of a key, with its value, or `None` for that of a delete.
    ///
    /// # Errors
    /// As [`StoreSnapshot::get`].
    pub(crate) fn get_versioned(
        &self,
        key: &[u8],
    ) -> Result<Option<(Version, Option<Bytes>)>, StoreError> {
        self.with(|snapshot| {
            let stored = format::with_user_key(key, |key| snapshot.get_pinned(key));
            let stored: Option<DBPinnableSlice<'_>> = stored.map_err(|e| self.failed(e))?;
            let Some(stored) = stored else {
                return Ok(None);
            };
            let (head, value) = take_apart(&self.dir, &stored)?;
            let value = (!head.tombstone).then(|| Bytes::copy_from_slice(value));
            Ok(Some((self.terms.version(head.seq), value)))
        })
    }

    /// Several keys, in the order given.
    ///
    /// # Errors
    /// As [`StoreSnapshot::get`]; one key's error is the whole call's.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<(Bytes, Version)>>, StoreError> {
        self.with(|snapshot| {
            let stored = keys.iter().map(|key| format::user_key(key.as_ref()));
            snapshot
                .multi_get(stored)
                .into_iter()
                .map(|found| {
                    let Some(stored) = found.map_err(|e| self.failed(e))? else {
                        return Ok(None);
                    };
                    Ok(owned_value(&self.dir, stored)?
                        .map(|(seq, value)| (value, self.terms.version(seq))))
                })
                .collect()
        })
    }

    pub(super) fn with<R>(
        &self,
        f: impl FnOnce(&RocksSnapshot<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        match &*read_lock(&self.slot) {
            Some(held) => f(held.borrow_dependent()),
            None => Err(StoreError::SnapshotExpired),
        }
    }

    pub(super) fn version(&self, seq: watershed_wal::Seq) -> Version {
        self.terms.version(seq)
    }

    pub(super) fn dir(&self) -> &PathBuf {
        &self.dir
    }

    pub(super) fn failed(&self, error: rocksdb::Error) -> StoreError {
        StoreError::rocks("read a snapshot", &self.dir, error)
    }
}

impl std::fmt::Debug for StoreSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSnapshot")
            .field("dir", &self.dir)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

//! Scans: which keys, in which order, and one page of them at a time.
//!
//! A page seeks anew from where the one before it ended, in the same snapshot. So nothing of RocksDB is held
//! between pages but the snapshot, and a page can be asked for over the network.

use std::ops::Bound;

use bytes::Bytes;
use rocksdb::ReadOptions;
use xxhash_rust::xxh3::Xxh3;

use super::error::StoreError;
use super::format::{self, ENTRY_RANGE, INTERNAL_RANGE, USER_RANGE, ValueHead};
use super::read::take_apart;
use super::snapshot::StoreSnapshot;
use super::version::{Entry, Version};

/// Which entries a scan yields. Bounds and prefix narrow each other; [`ScanOptions::all`] has neither.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ScanOptions {
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    prefix: Bytes,
    reverse: bool,
    limit: Option<u64>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self::all()
    }
}

impl ScanOptions {
    /// Every entry, in ascending order of keys (as bytes).
    #[must_use]
    pub const fn all() -> Self {
        Self {
            from: Bound::Unbounded,
            to: Bound::Unbounded,
            prefix: Bytes::new(),
            reverse: false,
            limit: None,
        }
    }

    /// Only keys within these bounds.
    pub(crate) fn between(from: Bound<Bytes>, to: Bound<Bytes>) -> Self {
        Self {
            from,
            to,
            ..Self::all()
        }
    }

    /// Its bounds in keys, the prefix folded in: what another node is asked for.
    pub(crate) fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        if self.prefix.is_empty() {
            return (self.from.clone(), self.to.clone());
        }
        let low = match &self.from {
            Bound::Included(key) | Bound::Excluded(key) if *key >= self.prefix => self.from.clone(),
            _ => Bound::Included(self.prefix.clone()),
        };
        let keep = self.prefix.iter().rposition(|&b| b != 0xff);
        let Some(last) = keep else {
            return (low, self.to.clone());
        };
        let mut end = self.prefix[..=last].to_vec();
        end[last] += 1;
        let high = match &self.to {
            Bound::Included(key) | Bound::Excluded(key) if key[..] < end[..] => self.to.clone(),
            _ => Bound::Excluded(end.into()),
        };
        (low, high)
    }

    /// Only keys at or above this one.
    #[must_use]
    pub fn from(mut self, key: impl Into<Bytes>) -> Self {
        self.from = Bound::Included(key.into());
        self
    }

    /// Only keys above this one.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Self {
        self.from = Bound::Excluded(key.into());
        self
    }

    /// Only keys below this one.
    #[must_use]
    pub fn to(mut self, key: impl Into<Bytes>) -> Self {
        self.to = Bound::Excluded(key.into());
        self
    }

    /// Only keys at or below this one.
    #[must_use]
    pub fn through(mut self, key: impl Into<Bytes>) -> Self {
        self.to = Bound::Included(key.into());
        self
    }

    /// Only keys that begin with these bytes.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// In descending order of keys.
    #[must_use]
    pub const fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// At most so many entries: the first ones in the scan's order.
    #[must_use]
    pub const fn limit(mut self, entries: u64) -> Self {
        self.limit = Some(entries);
        self
    }

    pub(crate) const fn is_reverse(&self) -> bool {
        self.reverse
    }

    pub(crate) const fn entries_limit(&self) -> Option<u64> {
        self.limit
    }

    /// The keys it covers. The limit is for who asks for the pages.
    pub(crate) fn range(&self) -> ScanRange {
        let mut lower = match &self.from {
            Bound::Unbounded => USER_RANGE.0.to_vec(),
            Bound::Included(key) => format::user_key(key),
            Bound::Excluded(key) => successor(format::user_key(key)),
        };
        let mut upper = match &self.to {
            Bound::Unbounded => USER_RANGE.1.to_vec(),
            Bound::Excluded(key) => format::user_key(key),
            Bound::Included(key) => successor(format::user_key(key)),
        };
        let prefix = format::user_key(&self.prefix);
        upper = upper.min(after_prefix(&prefix));
        lower = lower.max(prefix);
        ScanRange {
            lower,
            upper,
            reverse: self.reverse,
        }
    }
}

/// The least key above this one.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The least key above all keys that begin with these bytes, the first of which is never 0xff.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let keep = prefix.iter().rposition(|&b| b != 0xff);
    let mut key = prefix[..=keep.expect("a stored key begins with its keyspace's byte")].to_vec();
    if let Some(last) = key.last_mut() {
        *last += 1;
    }
    key
}

/// A half-open range of stored keys and an order: what a page is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanRange {
    lower: Vec<u8>,
    upper: Vec<u8>,
    reverse: bool,
}

impl ScanRange {
    /// All entries of all keyspaces: what two copies are compared by.
    pub(crate) fn entries() -> Self {
        Self::upward(ENTRY_RANGE)
    }

    fn upward((lower, upper): ([u8; 1], [u8; 1])) -> Self {
        Self {
            lower: lower.to_vec(),
            upper: upper.to_vec(),
            reverse: false,
        }
    }

    /// What is left of it after a stored key that a page ended with.
    fn after(&self, cursor: Option<Vec<u8>>) -> Self {
        let mut left = self.clone();
        if let Some(key) = cursor {
            if self.reverse {
                left.upper = left.upper.min(key);
            } else {
                left.lower = left.lower.max(successor(key));
            }
        }
        left
    }
}

/// Some entries of a scan, and where the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    pub(crate) entries: Vec<T>,
    /// The last key looked at; `None` when there is nothing after this page.
    pub(crate) cursor: Option<Bytes>,
}

/// An entry as the comparison of two copies sees it, tombstones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryHash {
    /// As it is stored: the byte of its keyspace, then the key.
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) tombstone: bool,
    /// xxh3-128 of key, version, tombstone and value.
    pub(crate) hash: u128,
}

/// An entry that the engine keeps for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InternalEntry {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) version: Version,
}

impl StoreSnapshot {
    /// Entries of the range after the cursor, deleted ones left out: at most `max_entries`, and no more once
    /// their keys and values have `max_bytes`; at least one if there is one.
    ///
    /// # Errors
    /// When the snapshot has expired, the store is damaged, or RocksDB fails.
    pub(crate) fn page(
        &self,
        range: &ScanRange,
        cursor: Option<&[u8]>,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Page<Entry>, StoreError> {
        let mut room = max_bytes;
        let left = range.after(cursor.map(format::user_key));
        let mut page = self.visit(&left, max_entries, true, |key, head, value| {
            if head.tombstone {
                return Ok(None);
            }
            let key = self.in_place(format::strip_user_key(key))?;
            room = room.saturating_sub(key.len() + value.len());
            let entry = Entry {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                version: self.version(head.seq),
            };
            Ok(Some((entry, room > 0)))
        })?;
        if page.cursor.is_some() {
            page.cursor = page.entries.last().map(|entry| entry.key.clone());
        }
        Ok(page)
    }

    /// What the engine keeps for itself, in the order of its keys, deleted entries left out.
    ///
    /// # Errors
    /// As [`StoreSnapshot::page`].
    pub(crate) fn internal_entries(&self) -> Result<Vec<InternalEntry>, StoreError> {
        let all = ScanRange::upward(INTERNAL_RANGE);
        let page = self.visit(&all, usize::MAX, true, |key, head, value| {
            if head.tombstone {
                return Ok(None);
            }
            let entry = InternalEntry {
                key: Bytes::copy_from_slice(self.in_place(format::strip_internal_key(key))?),
                value: Bytes::copy_from_slice(value),
                version: self.version(head.seq),
            };
            Ok(Some((entry, true)))
        })?;
        Ok(page.entries)
    }

    fn in_place<'a>(&self, key: Option<&'a [u8]>) -> Result<&'a [u8], StoreError> {
        key.ok_or_else(|| StoreError::damaged(self.dir(), "a key is not in its place"))
    }

    /// Like [`StoreSnapshot::page`], with tombstones, and a hash for each value. Keys, also that of the cursor, are as they
    /// are stored. Leaves the block cache alone.
    ///
    /// # Errors
    /// As [`StoreSnapshot::page`].
    pub(crate) fn hash_page(
        &self,
        range: &ScanRange,
        cursor: Option<&[u8]>,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Page<EntryHash>, StoreError> {
        let mut room = max_bytes;
        let left = range.after(cursor.map(<[u8]>::to_vec));
        self.visit(&left, max_entries, false, |key, head, value| {
            room = room.saturating_sub(key.len() + size_of::<EntryHash>());
            let version = self.version(head.seq);
            let entry = EntryHash {
                key: Bytes::copy_from_slice(key),
                version,
                tombstone: head.tombstone,
                hash: entry_hash(key, version, head.tombstone, value),
            };
            Ok(Some((entry, room > 0)))
        })
    }

    /// Calls `take` for each entry, by its stored key, in order; it says what to keep of it, and whether there is room for
    /// more. The cursor is a stored key, too.
    fn visit<T>(
        &self,
        left: &ScanRange,
        max_entries: usize,
        fill_cache: bool,
        mut take: impl FnMut(&[u8], ValueHead, &[u8]) -> Result<Option<(T, bool)>, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let mut page = Page {
            entries: Vec::new(),
            cursor: None,
        };
        if left.lower >= left.upper {
            return Ok(page);
        }
        self.with(|snapshot| {
            let mut options = ReadOptions::default();
            options.fill_cache(fill_cache);
            options.set_iterate_lower_bound(left.lower.as_slice());
            options.set_iterate_upper_bound(left.upper.as_slice());
            let mut iter = snapshot.raw_iterator_opt(options);
            if left.reverse {
                iter.seek_to_last();
            } else {
                iter.seek_to_first();
            }
            let max_entries = max_entries.max(1);
            while let Some((key, stored)) = iter.item() {
                let (head, value) = take_apart(self.dir(), stored)?;
                if let Some((entry, more)) = take(key, head, value)? {
                    page.entries.push(entry);
                    if !more || page.entries.len() >= max_entries {
                        page.cursor = Some(Bytes::copy_from_slice(key));
                        return Ok(page);
                    }
                }
                if left.reverse {
                    iter.prev();
                } else {
                    iter.next();
                }
            }
            // An iterator that met an error looks like one that came to its end.
            iter.status().map_err(|e| self.failed(e))?;
            Ok(page)
        })
    }
}

/// The hash of an entry: the same on every copy that has the same bytes under the same version.
fn entry_hash(key: &[u8], version: Version, tombstone: bool, value: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    // Each part has a fixed length or its length before it, so no two entries feed the same bytes.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(&version.term.epoch.0.to_le_bytes());
    hasher.update(&version.term.opening.to_le_bytes());
    hasher.update(&version.seq.0.to_le_bytes());
    hasher.update(&[u8::from(tombstone)]);
    hasher.update(value);
    hasher.digest128()
}

//! Point reads of the newest state. Reads of a snapshot are in `snapshot`; both take values apart here.

use std::path::Path;

use bytes::Bytes;

use super::error::StoreError;
use super::format::{self, VALUE_HEAD, ValueHead};
use super::{Store, Version};

impl Store {
    /// The value of a key and the version of the write that made it; `None` where there is none or it was
    /// deleted.
    ///
    /// # Errors
    /// When the store is closed or damaged, or RocksDB fails.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<(Bytes, Version)>, StoreError> {
        self.with_stored(key, |head, value| {
            (!head.tombstone).then(|| (Bytes::copy_from_slice(value), self.0.version(head.seq)))
        })
        .map(Option::flatten)
    }

    /// The version of a key, and whether it is that of a delete; `None` where nothing is known of the key.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub(crate) fn version_of(&self, key: &[u8]) -> Result<Option<(Version, bool)>, StoreError> {
        self.with_stored(key, |head, _| (self.0.version(head.seq), head.tombstone))
    }

    /// Several keys as they are at one moment, in the order given.
    ///
    /// # Errors
    /// As [`Store::get`]; one key's error is the whole call's.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<(Bytes, Version)>>, StoreError> {
        let inner = &self.0;
        let db = inner.db()?;
        let stored = keys.iter().map(|key| format::user_key(key.as_ref()));
        let found = db.multi_get_opt(stored, &inner.reads);
        let terms = inner.terms();
        found
            .into_iter()
            .map(|found| {
                let Some(stored) = found.map_err(|e| StoreError::rocks("read", &inner.dir, e))?
                else {
                    return Ok(None);
                };
                Ok(
                    owned_value(&inner.dir, stored)?
                        .map(|(seq, value)| (value, terms.version(seq))),
                )
            })
            .collect()
    }

    fn with_stored<R>(
        &self,
        key: &[u8],
        f: impl FnOnce(ValueHead, &[u8]) -> R,
    ) -> Result<Option<R>, StoreError> {
        let inner = &self.0;
        let db = inner.db()?;
        let stored = format::with_user_key(key, |key| db.get_pinned_opt(key, &inner.reads));
        match stored.map_err(|e| StoreError::rocks("read", &inner.dir, e))? {
            None => Ok(None),
            Some(stored) => {
                let (head, value) = take_apart(&inner.dir, &stored)?;
                Ok(Some(f(head, value)))
            }
        }
    }
}

/// The head of a stored value and what follows it.
pub(super) fn take_apart<'a>(
    dir: &Path,
    stored: &'a [u8],
) -> Result<(ValueHead, &'a [u8]), StoreError> {
    ValueHead::decode(stored).ok_or_else(|| StoreError::damaged(dir, "a value has no valid head"))
}

/// The value of a stored one that is no tombstone, without copying it.
pub(super) fn owned_value(
    dir: &Path,
    stored: Vec<u8>,
) -> Result<Option<(watershed_wal::Seq, Bytes)>, StoreError> {
    let (head, _) = take_apart(dir, &stored)?;
    Ok((!head.tombstone).then(|| (head.seq, Bytes::from(stored).slice(VALUE_HEAD..))))
}

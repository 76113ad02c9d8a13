//! Point reads of the newest state. Reads of a snapshot are in `snapshot`; both take values apart here.

use std::path::Path;

use bytes::Bytes;
use watershed_wal::Seq;

use super::error::StoreError;
use super::format::{self, VALUE_HEAD, ValueHead};
use super::{Store, Version};

/// A key's value and the version of the write that made it; `None` where there is none or it was deleted.
pub(crate) type Value = Option<(Bytes, Version)>;

/// What a read found, and the last record that it shows anything of: a value, or that it was deleted.
///
/// A store may be ahead of what is committed, so a read is answered only once that record is.
#[derive(Debug)]
pub(crate) struct Shown<T> {
    pub(crate) value: T,
    pub(crate) seq: Seq,
}

impl<T> Shown<T> {
    pub(crate) fn map<R>(self, f: impl FnOnce(T) -> R) -> Shown<R> {
        Shown {
            value: f(self.value),
            seq: self.seq,
        }
    }
}

impl Shown<Vec<Value>> {
    /// One key that nothing is known of.
    fn nothing() -> Self {
        Self {
            value: vec![None],
            seq: Seq::ZERO,
        }
    }
}

impl Store {
    /// Keys as they are at one moment, in the order given.
    ///
    /// # Errors
    /// When the store is closed or damaged, or RocksDB fails; one key's error is the whole call's.
    pub(crate) fn read<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Shown<Vec<Value>>, StoreError> {
        match keys {
            [key] => {
                let found = self.with_stored(key.as_ref(), |head, value| Shown {
                    value: (!head.tombstone)
                        .then(|| (Bytes::copy_from_slice(value), self.0.version(head.seq))),
                    seq: head.seq,
                })?;
                Ok(found.map_or_else(Shown::nothing, |found| found.map(|value| vec![value])))
            }
            keys => self.read_many(keys),
        }
    }

    /// The version of a key, and whether it is that of a delete; `None` where nothing is known of the key.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub(crate) fn version_of(&self, key: &[u8]) -> Result<Option<(Version, bool)>, StoreError> {
        self.with_stored(key, |head, _| (self.0.version(head.seq), head.tombstone))
    }

    fn read_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Shown<Vec<Value>>, StoreError> {
        let inner = &self.0;
        let db = inner.db()?;
        let stored = keys.iter().map(|key| format::user_key(key.as_ref()));
        let found = db.multi_get_opt(stored, &inner.reads);
        let terms = inner.terms();
        let mut shown = Seq::ZERO;
        let values = found.into_iter().map(|found| {
            let Some(stored) = found.map_err(|e| StoreError::rocks("read", &inner.dir, e))? else {
                return Ok(None);
            };
            let (head, _) = take_apart(&inner.dir, &stored)?;
            shown = shown.max(head.seq);
            let value = || Bytes::from(stored).slice(VALUE_HEAD..);
            Ok((!head.tombstone).then(|| (value(), terms.version(head.seq))))
        });
        let values = values.collect::<Result<_, StoreError>>()?;
        Ok(Shown {
            value: values,
            seq: shown,
        })
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
pub(super) fn owned_value(dir: &Path, stored: Vec<u8>) -> Result<Option<(Seq, Bytes)>, StoreError> {
    let (head, _) = take_apart(dir, &stored)?;
    Ok((!head.tombstone).then(|| (head.seq, Bytes::from(stored).slice(VALUE_HEAD..))))
}

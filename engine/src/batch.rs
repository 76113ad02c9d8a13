//! A batch of puts and deletes: what one write of one shard does, atomically.

use bytes::Bytes;
use watershed_wal::{BatchBuilder, BatchReader, Op, ShardId};

use crate::Error;
use crate::shard_of::shard_of;
use crate::store::USER_KEYSPACE;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 16 << 20;
/// The longest batch, in encoded bytes.
pub const MAX_BATCH_BYTES: usize = 32 << 20;

/// Puts and deletes that become visible together or not at all. Later operations on a key win over earlier ones.
///
/// Sizes are checked as operations are added; the first one out of bounds is reported when the batch is written, and
/// nothing of it is.
#[derive(Debug, Default)]
pub struct Batch {
    builder: BatchBuilder,
    /// One hash for each operation's key, to find the shard, or to see that there are several.
    hashes: Vec<u64>,
    error: Option<Error>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        let (key, value) = (key.as_ref(), value.as_ref());
        if self.admit(check_key(key).and_then(|()| check_value(value))) {
            self.builder.put(key, value);
            self.hashes.push(crate::shard_of::hash(key));
        }
        self
    }

    /// Removes `key`; removing an absent key is no error.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        let key = key.as_ref();
        if self.admit(check_key(key)) {
            self.builder.delete(key);
            self.hashes.push(crate::shard_of::hash(key));
        }
        self
    }

    /// The number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.builder.len()
    }

    /// Whether it has no operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Whether the batch may still grow; remembers the first error.
    fn admit(&mut self, check: Result<(), Error>) -> bool {
        if let (None, Err(error)) = (&self.error, check) {
            self.error = Some(error);
        }
        self.error.is_none()
    }

    /// The encoded body and the shard that all keys belong to, where `shards` count and no shard was named.
    pub(crate) fn finish(
        self,
        named: Option<ShardId>,
        shards: u64,
    ) -> Result<(ShardId, Bytes), Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let shard = match named {
            Some(shard) => shard,
            None => one_shard(&self.hashes, shards)?,
        };
        if self.builder.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let body = self.builder.finish();
        if body.len() > MAX_BATCH_BYTES {
            return Err(Error::BatchLength {
                len: body.len(),
                max: MAX_BATCH_BYTES,
            });
        }
        Ok((shard, body))
    }
}

fn one_shard(hashes: &[u64], shards: u64) -> Result<ShardId, Error> {
    let mut ids = hashes.iter().map(|hash| shard_of(*hash, shards));
    let first = ids.next().ok_or(Error::EmptyBatch)?;
    match ids.find(|id| *id != first) {
        Some(other) => Err(Error::CrossShard { first, other }),
        None => Ok(first),
    }
}

/// Checks a body that a stranger encoded as what this crate encodes is checked while it is built.
pub(crate) fn check_encoded(body: &Bytes) -> Result<(), Error> {
    let bad = |what: String| Error::BadBatch { what };
    if body.len() > MAX_BATCH_BYTES {
        return Err(Error::BatchLength {
            len: body.len(),
            max: MAX_BATCH_BYTES,
        });
    }
    let reader = BatchReader::new(body.clone()).map_err(|error| bad(error.to_string()))?;
    if reader.client().is_some() {
        return Err(bad("it has a client's section, which nothing reads".into()));
    }
    let mut ops = 0;
    for op in reader {
        ops += 1;
        // What a store can't apply must get no Seq: the shard would be out of service.
        match op.map_err(|error| bad(error.to_string()))? {
            Op::Put {
                keyspace: USER_KEYSPACE,
                flags: 0,
                key,
                value,
            } => check_key(&key).and_then(|()| check_value(&value))?,
            Op::Delete {
                keyspace: USER_KEYSPACE,
                flags: 0,
                key,
            } => check_key(&key)?,
            _ => {
                return Err(bad(format!(
                    "operation {ops} is no put or delete of a user's key"
                )));
            }
        }
    }
    if ops == 0 {
        return Err(Error::EmptyBatch);
    }
    Ok(())
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::KeyLength {
            len: key.len(),
            max: MAX_KEY_BYTES,
        });
    }
    Ok(())
}

pub(crate) fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::ValueLength {
            len: value.len(),
            max: MAX_VALUE_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use watershed_wal::ClientStamp;

    use super::*;

    #[test]
    fn what_a_stranger_encoded_is_held_to_the_same_rules() {
        let checked = |ops: &[Op]| {
            let mut builder = BatchBuilder::new();
            for op in ops {
                builder.push(op);
            }
            check_encoded(&builder.finish())
        };
        let bytes = Bytes::from_static;
        let put = |keyspace, flags, key, value| Op::Put {
            keyspace,
            flags,
            key: bytes(key),
            value,
        };
        let delete = |key| Op::Delete {
            keyspace: 0,
            flags: 0,
            key: bytes(key),
        };
        let good = put(0, 0, b"k", bytes(b"v"));
        checked(&[good.clone(), delete(b"k")]).unwrap();
        let empty = checked(&[]).unwrap_err();
        assert!(matches!(empty, Error::EmptyBatch), "{empty}");
        let no_key = checked(&[delete(b"")]).unwrap_err();
        assert!(matches!(no_key, Error::KeyLength { .. }), "{no_key}");
        let value = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        let long = checked(&[put(0, 0, b"k", value)]).unwrap_err();
        assert!(matches!(long, Error::ValueLength { .. }), "{long}");
        let range = Op::DeleteRange {
            keyspace: 0,
            flags: 0,
            from: bytes(b"a"),
            to: bytes(b"b"),
        };
        let [internal, other, flagged] =
            [(1, 0), (2, 0), (0, 1)].map(|(space, flags)| put(space, flags, b"k", bytes(b"v")));
        for op in [internal, other, flagged, range] {
            let bad = checked(&[good.clone(), op.clone()]).unwrap_err();
            assert!(bad.to_string().contains("operation 2"), "{op:?}: {bad}");
        }
        let stamp = ClientStamp {
            id: 1,
            number: 1,
            result: Bytes::new(),
        };
        let mut stamped = BatchBuilder::stamped(&stamp);
        stamped.put(b"k", b"v");
        for bad in [stamped.finish(), bytes(b""), bytes(&[1, 0, 9])] {
            let error = check_encoded(&bad).unwrap_err();
            assert!(matches!(error, Error::BadBatch { .. }), "{error}");
        }
    }

    #[test]
    fn sizes_are_checked_before_anything_is_encoded() {
        let mut batch = Batch::new();
        batch.put("a", "1").put("", "2").put("b", "3");
        assert!(matches!(
            batch.finish(None, 1),
            Err(Error::KeyLength { len: 0, .. })
        ));
        let mut batch = Batch::new();
        batch.put("a", vec![0; MAX_VALUE_BYTES + 1]);
        assert!(matches!(
            batch.finish(None, 1),
            Err(Error::ValueLength { .. })
        ));
        assert!(matches!(
            Batch::new().finish(None, 1),
            Err(Error::EmptyBatch)
        ));
        assert!(matches!(
            Batch::new().finish(Some(ShardId(1)), 1),
            Err(Error::EmptyBatch)
        ));
    }

    #[test]
    fn a_batch_over_the_limit_is_refused_whole() {
        let mut batch = Batch::new();
        for key in ["a", "b", "c"] {
            batch.put(key, vec![0; MAX_VALUE_BYTES]);
        }
        assert!(matches!(
            batch.finish(None, 1),
            Err(Error::BatchLength { .. })
        ));
    }

    #[test]
    fn keys_of_two_shards_are_refused_unless_the_shard_is_named() {
        let build = || {
            let mut batch = Batch::new();
            for key in 0..64u32 {
                batch.put(key.to_be_bytes(), "x");
            }
            batch
        };
        assert!(matches!(
            build().finish(None, 16),
            Err(Error::CrossShard { .. })
        ));
        assert_eq!(build().finish(Some(ShardId(9)), 16).unwrap().0, ShardId(9));
        assert_eq!(build().finish(None, 1).unwrap().0, ShardId(0));
    }
}

//! Keys and values as they lie in RocksDB, drawn in engine/STORE.md. Nothing here does I/O.
//!
//! A decoder returns `None` for bytes that this format does not write; its caller knows the directory and
//! makes the error.

use watershed_wal::{Epoch, LogDigest, Seq, Term, TermStart};

/// The newest format this program reads, and the one it writes.
pub(super) const FORMAT: u8 = 1;

/// Meta keys start with this byte, so they sort before all user keys and never meet one.
const META: u8 = 0x00;
/// Keys of keyspace 0, the users', start with this byte.
const USER: u8 = 0x01;
/// Keys of keyspace 1, which the engine keeps beside the users', start with this byte: no key of keyspace 0 is at or
/// above it.
const INTERNAL: u8 = 0x02;
/// Where the keys of other keyspaces begin.
const OTHER_KEYSPACES: u8 = 0x03;

/// The users' keyspace, as operations of a batch name it.
pub(crate) const USER_KEYSPACE: u32 = 0;
/// That of what the engine itself keeps, by ordinary writes: it is logged, moved and compared like users' entries, and
/// shown to nobody.
pub(crate) const INTERNAL_KEYSPACE: u32 = 1;

pub(super) const FORMAT_KEY: [u8; 2] = [META, b'f'];
pub(super) const APPLIED_KEY: [u8; 2] = [META, b'a'];
const TERM_TAG: u8 = b't';

/// How far a store is: the last record applied, and the running digest of all records up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Applied {
    pub(crate) seq: Seq,
    pub(crate) term: Term,
    pub(crate) digest: LogDigest,
}

const APPLIED_LEN: usize = 4 * 8 + 16;

impl Applied {
    pub(super) fn encode(&self) -> [u8; APPLIED_LEN] {
        let mut out = [0; APPLIED_LEN];
        out[..8].copy_from_slice(&self.seq.0.to_le_bytes());
        out[8..24].copy_from_slice(&encode_term(self.term));
        out[24..32].copy_from_slice(&self.digest.count.to_le_bytes());
        out[32..].copy_from_slice(&self.digest.sum.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; APPLIED_LEN] = bytes.try_into().ok()?;
        Some(Self {
            seq: Seq::try_from(u64_le(&bytes[..8])?).ok()?,
            term: decode_term(&bytes[8..24])?,
            digest: LogDigest {
                count: u64_le(&bytes[24..32])?,
                sum: u128::from_le_bytes(bytes[32..].try_into().ok()?),
            },
        })
    }
}

fn u64_le(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn encode_term(term: Term) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&term.epoch.0.to_le_bytes());
    out[8..].copy_from_slice(&term.opening.to_le_bytes());
    out
}

fn decode_term(bytes: &[u8]) -> Option<Term> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    let epoch = Epoch::try_from(u64_le(&bytes[..8])?).ok()?;
    Some(Term::new(epoch, u64_le(&bytes[8..])?))
}

/// The key and value of one entry of the term history. Big-endian, so that they sort by first Seq.
pub(super) fn encode_term_start(start: &TermStart) -> ([u8; 10], [u8; 16]) {
    let mut key = [0; 10];
    key[0] = META;
    key[1] = TERM_TAG;
    key[2..].copy_from_slice(&start.first.0.to_be_bytes());
    (key, encode_term(start.term))
}

pub(super) fn decode_term_start(key: &[u8], value: &[u8]) -> Option<TermStart> {
    let first = key.strip_prefix(&[META, TERM_TAG])?;
    let first = u64::from_be_bytes(first.try_into().ok()?);
    Some(TermStart {
        term: decode_term(value)?,
        first: Seq::try_from(first).ok()?,
    })
}

/// All entries of the term history lie in this half-open range.
pub(super) const TERM_RANGE: ([u8; 2], [u8; 2]) = ([META, TERM_TAG], [META, TERM_TAG + 1]);

/// All user keys of keyspace 0 lie in this half-open range.
pub(super) const USER_RANGE: ([u8; 1], [u8; 1]) = ([USER], [INTERNAL]);

/// All keys of keyspace 1 lie in this half-open range.
pub(super) const INTERNAL_RANGE: ([u8; 1], [u8; 1]) = ([INTERNAL], [OTHER_KEYSPACES]);

/// All entries of all keyspaces lie in this half-open range: what two copies have in common.
pub(super) const ENTRY_RANGE: ([u8; 1], [u8; 1]) = ([USER], [OTHER_KEYSPACES]);

/// Appends the stored form of a key. `None` where no store has such a keyspace.
pub(super) fn put_key(out: &mut Vec<u8>, keyspace: u32, key: &[u8]) -> Option<()> {
    let first = match keyspace {
        USER_KEYSPACE => USER,
        INTERNAL_KEYSPACE => INTERNAL,
        _ => return None,
    };
    out.reserve(1 + key.len());
    out.push(first);
    out.extend_from_slice(key);
    Some(())
}

/// The stored form of a user's key.
pub(super) fn user_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(USER);
    out.extend_from_slice(key);
    out
}

/// The user's key of a stored key of keyspace 0.
pub(super) fn strip_user_key(stored: &[u8]) -> Option<&[u8]> {
    stored.strip_prefix(&[USER])
}

/// The engine's key of a stored key of keyspace 1.
pub(super) fn strip_internal_key(stored: &[u8]) -> Option<&[u8]> {
    stored.strip_prefix(&[INTERNAL])
}

/// Most keys are short: they get their first byte on the stack, without an allocation.
pub(super) fn with_user_key<R>(key: &[u8], f: impl FnOnce(&[u8]) -> R) -> R {
    let mut buffer = [0; 256];
    match buffer.get_mut(..=key.len()) {
        Some(stored) => {
            stored[0] = USER;
            stored[1..].copy_from_slice(key);
            f(stored)
        }
        None => f(&user_key(key)),
    }
}

/// Flags u8, Seq u64 LE: what stands before each value.
pub(super) const VALUE_HEAD: usize = 9;
const TOMBSTONE: u8 = 1;

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueHead {
    pub(super) seq: Seq,
    pub(super) tombstone: bool,
}

impl ValueHead {
    pub(super) fn encode(self) -> [u8; VALUE_HEAD] {
        let mut out = [0; VALUE_HEAD];
        out[0] = if self.tombstone { TOMBSTONE } else { 0 };
        out[1..].copy_from_slice(&self.seq.0.to_le_bytes());
        out
    }

    /// The head and the value after it.
    pub(super) fn decode(stored: &[u8]) -> Option<(Self, &[u8])> {
        let (head, value) = stored.split_at_checked(VALUE_HEAD)?;
        let tombstone = match head[0] {
            0 => false,
            TOMBSTONE if value.is_empty() => true,
            _ => return None,
        };
        let seq = Seq::try_from(u64_le(&head[1..])?).ok()?;
        Some((Self { seq, tombstone }, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_read_back_and_refuse_what_is_not_theirs() {
        let applied = Applied {
            seq: Seq(7),
            term: Term::new(Epoch(3), 2),
            digest: LogDigest { count: 6, sum: 99 },
        };
        assert_eq!(Applied::decode(&applied.encode()), Some(applied));
        assert_eq!(Applied::decode(&applied.encode()[1..]), None);
        let start = TermStart {
            term: applied.term,
            first: Seq(5),
        };
        let (key, value) = encode_term_start(&start);
        assert_eq!(decode_term_start(&key, &value), Some(start));
        assert!(key[..] >= TERM_RANGE.0[..] && key[..] < TERM_RANGE.1[..]);
        let head = ValueHead {
            seq: Seq(1 << 40),
            tombstone: true,
        };
        assert_eq!(ValueHead::decode(&head.encode()), Some((head, &[][..])));
        for bad in [
            &[][..],
            &[0; 8],
            &[2; 9],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, b'x'],
            &[0, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(ValueHead::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn user_keys_of_every_length_are_built_alike() {
        for len in [0, 1, 254, 255, 256, 1000] {
            let key = vec![0xff; len];
            with_user_key(&key, |stored| {
                assert_eq!(stored, user_key(&key));
                assert_eq!(strip_user_key(stored), Some(&key[..]));
                assert!(stored >= &USER_RANGE.0[..] && stored < &USER_RANGE.1[..]);
                let mut put = Vec::new();
                assert_eq!(put_key(&mut put, USER_KEYSPACE, &key), Some(()));
                assert_eq!(put, stored);
            });
        }
    }

    #[test]
    fn no_key_of_one_keyspace_is_one_of_another() {
        for key in [&[][..], &[0], &[USER], &[INTERNAL], &[0xff; 300]] {
            let mut internal = Vec::new();
            assert_eq!(put_key(&mut internal, INTERNAL_KEYSPACE, key), Some(()));
            assert_eq!(strip_internal_key(&internal), Some(key));
            assert_eq!(strip_user_key(&internal), None);
            let within = |(low, high): ([u8; 1], [u8; 1])| {
                internal[..] >= low[..] && internal[..] < high[..]
            };
            assert!(within(INTERNAL_RANGE) && within(ENTRY_RANGE) && !within(USER_RANGE));
            assert_eq!(put_key(&mut internal, 2, key), None);
        }
    }
}

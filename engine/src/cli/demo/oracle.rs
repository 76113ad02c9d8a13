//! What must be true of each key: kept outside the engine, from acknowledgements only.
//!
//! A key's fact is its last acknowledged write, with the version that the engine gave and a hash of the value; a delete
//! is a fact too. A write whose outcome nobody knows (the engine said so) adds what it would have left as a second
//! possibility; its key is not written again. Each key has one writer, with one write in flight, so that facts need no order
//! among writers.

use std::collections::HashMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::Version;

/// What one key must be.
#[derive(Debug, Clone)]
struct Fact {
    version: Version,
    /// The hash of its value; `None` where it was deleted.
    value: Option<u128>,
}

/// What was found wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// As it must be.
    Right,
    /// An acknowledged write is gone: no value, or the value of an older version.
    Lost,
    /// A key that was deleted, or never written, has a value.
    Resurrected,
    /// Another value, or the right value under another version.
    WrongValue,
}

/// The facts about all keys.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    facts: HashMap<Bytes, Fact>,
    /// What writes with an unknown outcome may have left.
    maybe: HashMap<Bytes, Option<u128>>,
    out_of_order: u64,
}

impl Oracle {
    /// A write of `key` was acknowledged with this version; `None` is a delete.
    pub(super) fn acknowledged(&mut self, key: Bytes, version: Version, value: Option<&[u8]>) {
        let fact = Fact {
            version,
            value: value.map(xxh3_128),
        };
        match self.facts.insert(key, fact) {
            Some(before) if before.version >= version => self.out_of_order += 1,
            _ => {}
        }
    }

    /// A write of `key` may have happened.
    pub(super) fn unknown(&mut self, key: Bytes, value: Option<&[u8]>) {
        self.maybe.insert(key, value.map(xxh3_128));
    }

    /// Takes in the facts about other keys.
    pub(super) fn merge(&mut self, other: Self) {
        self.facts.extend(other.facts);
        self.maybe.extend(other.maybe);
        self.out_of_order += other.out_of_order;
    }

    /// Writes whose version was not above the version of the key's write before.
    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Writes with an unknown outcome.
    pub(super) fn unknowns(&self) -> u64 {
        u64::try_from(self.maybe.len()).unwrap_or(u64::MAX)
    }

    /// All keys that were ever written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.facts.keys().chain(
            self.maybe
                .keys()
                .filter(|key| !self.facts.contains_key(*key)),
        )
    }

    /// Compares what was read of `key` with what must be there.
    pub(super) fn judge(&self, key: &[u8], found: Option<(&[u8], Version)>) -> Finding {
        let found = found.map(|(value, version)| (xxh3_128(value), version));
        let fact = self.facts.get(key);
        if let Some(maybe) = self.maybe.get(key) {
            let newer =
                found.is_none_or(|(_, version)| fact.is_none_or(|fact| version > fact.version));
            if newer && *maybe == found.map(|(hash, _)| hash) {
                return Finding::Right;
            }
        }
        match (fact.map(|fact| (fact.value, fact.version)), found) {
            (None | Some((None, _)), None) => Finding::Right,
            (None | Some((None, _)), Some(_)) => Finding::Resurrected,
            (Some((Some(_), _)), None) => Finding::Lost,
            (Some((Some(hash), version)), Some(found)) if (hash, version) == found => {
                Finding::Right
            }
            (Some((Some(_), version)), Some((_, found))) if found < version => Finding::Lost,
            (Some((Some(_), _)), Some(_)) => Finding::WrongValue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Seq, Term};

    fn version(seq: u64) -> Version {
        Version {
            term: Term {
                epoch: Epoch(1),
                opening: 1,
            },
            seq: Seq(seq),
        }
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn every_way_to_be_wrong_is_told_apart() {
        let mut oracle = Oracle::default();
        oracle.acknowledged(key("a"), version(1), Some(b"old"));
        oracle.acknowledged(key("a"), version(5), Some(b"new"));
        oracle.acknowledged(key("b"), version(6), None);
        for (name, found, finding) in [
            ("a", Some((&b"new"[..], version(5))), Finding::Right),
            ("a", None, Finding::Lost),
            ("a", Some((&b"old"[..], version(1))), Finding::Lost),
            ("a", Some((&b"new"[..], version(6))), Finding::WrongValue),
            ("a", Some((&b"other"[..], version(5))), Finding::WrongValue),
            ("b", None, Finding::Right),
            ("b", Some((&b"back"[..], version(2))), Finding::Resurrected),
            ("never", Some((&b"x"[..], version(9))), Finding::Resurrected),
        ] {
            assert_eq!(
                oracle.judge(name.as_bytes(), found),
                finding,
                "{name} {found:?}"
            );
        }
        assert_eq!(oracle.out_of_order(), 0);
        oracle.acknowledged(key("a"), version(5), Some(b"again"));
        assert_eq!(oracle.out_of_order(), 1);
    }

    #[test]
    fn an_unknown_write_may_have_happened_or_not() {
        let mut oracle = Oracle::default();
        oracle.acknowledged(key("a"), version(3), Some(b"known"));
        oracle.unknown(key("a"), Some(b"maybe"));
        oracle.unknown(key("new"), Some(b"maybe"));
        oracle.acknowledged(key("gone"), version(4), Some(b"known"));
        oracle.unknown(key("gone"), None);
        for (name, found, finding) in [
            ("a", Some((&b"known"[..], version(3))), Finding::Right),
            ("a", Some((&b"maybe"[..], version(8))), Finding::Right),
            ("a", Some((&b"maybe"[..], version(2))), Finding::Lost),
            ("a", None, Finding::Lost),
            ("new", None, Finding::Right),
            ("new", Some((&b"maybe"[..], version(1))), Finding::Right),
            ("gone", None, Finding::Right),
            (
                "gone",
                Some((&b"other"[..], version(9))),
                Finding::WrongValue,
            ),
        ] {
            assert_eq!(
                oracle.judge(name.as_bytes(), found),
                finding,
                "{name} {found:?}"
            );
        }
        assert_eq!(oracle.keys().count(), 3);
        assert_eq!(oracle.unknowns(), 3);
    }
}

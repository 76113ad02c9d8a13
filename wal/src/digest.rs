//! Digests of the log: one hash per record, and their order-free sum over a range.
//!
//! The hash is xxh3-128 over a canonical encoding of a record (kind, term, Seq, body), the same on every
//! node and for ever: equal digests over the same range mean the same records, whatever order they came in.
//! The sum is of hashes that are nonlinear in their input, so swapped or altered records don't cancel out.
//! It guards against loss, mix-ups and rot, not against somebody who forges records on purpose.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::hex_id::hex_u128;
use crate::record::RecordKind;
use crate::words::{Seq, Term};

/// Kind u8, epoch, opening and Seq u64 little-endian.
const HEAD: usize = 1 + 3 * 8;
/// Below this a copy to the stack and one call beat the streaming hash's set-up.
const ONE_SHOT: usize = 1024;

/// The hash of one record.
pub(crate) fn record_hash(kind: RecordKind, term: Term, seq: Seq, body: &[u8]) -> u128 {
    let mut head = [0; HEAD];
    head[0] = kind.code();
    head[1..9].copy_from_slice(&term.epoch.0.to_le_bytes());
    head[9..17].copy_from_slice(&term.opening.to_le_bytes());
    head[17..25].copy_from_slice(&seq.0.to_le_bytes());
    if HEAD + body.len() <= ONE_SHOT {
        let mut whole = [0; ONE_SHOT];
        whole[..HEAD].copy_from_slice(&head);
        whole[HEAD..HEAD + body.len()].copy_from_slice(body);
        return xxh3_128(&whole[..HEAD + body.len()]);
    }
    let mut hasher = Xxh3::new();
    hasher.update(&head);
    hasher.update(body);
    hasher.digest128()
}

/// How many records, and the sum of their hashes modulo 2^128, each record once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogDigest {
    /// Records counted.
    pub count: u64,
    /// The sum of their hashes, modulo 2^128.
    #[serde(with = "hex_u128")]
    pub sum: u128,
}

impl LogDigest {
    /// Counts one record in, by its [hash](crate::Record::hash).
    pub fn add(&mut self, hash: u128) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// The digest of what came after `earlier`: of (B, F] from the running digests at F and at B.
    ///
    /// # Panics
    /// When `earlier` counts more records than `self`: they are not of one log, and a difference would lie.
    #[must_use]
    pub fn minus(self, earlier: Self) -> Self {
        assert!(
            earlier.count <= self.count,
            "log digest {earlier} is not earlier than {self}"
        );
        Self {
            count: self.count - earlier.count,
            sum: self.sum.wrapping_sub(earlier.sum),
        }
    }

    /// The digest of both, of disjoint records.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

impl fmt::Display for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.count, self.sum)
    }
}

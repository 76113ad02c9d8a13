//! The words every crate of Watershed shares: shard, sequence number, epoch, term, instance.
//!
//! Owns their order, their text and their serialised form. They carry no behaviour beyond arithmetic that
//! cannot go wrong silently: a `Seq` or `Epoch` of `u64::MAX` is refused when read back from bytes, so that
//! `next()` never overflows on what a peer or a disk sent. Sets of Seqs are in `seqset`.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names a shard: one independent sequence of writes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ShardId(pub u64);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A write's number in its shard: dense, from 1. [`Seq::ZERO`] is "before the first write".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first write; no record has it.
    pub const ZERO: Self = Self(0);

    /// The Seq after this one.
    ///
    /// # Panics
    /// At `u64::MAX`, which no decoder of this crate lets in and no log can count up to.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("Seq overflow"))
    }

    /// The Seq before this one, or `None` at [`Seq::ZERO`].
    #[must_use]
    pub const fn prev(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(seq) => Some(Self(seq)),
            None => None,
        }
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Seq> for u64 {
    fn from(seq: Seq) -> Self {
        seq.0
    }
}

impl TryFrom<u64> for Seq {
    type Error = NumberTooLarge;

    fn try_from(value: u64) -> Result<Self, NumberTooLarge> {
        NumberTooLarge::check("Seq", value).map(Self)
    }
}

/// A shard's term of ownership: each activation or promotion adds one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next owner.
    ///
    /// # Panics
    /// At `u64::MAX`, which no decoder of this crate lets in.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("Epoch overflow"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

impl TryFrom<u64> for Epoch {
    type Error = NumberTooLarge;

    fn try_from(value: u64) -> Result<Self, NumberTooLarge> {
        NumberTooLarge::check("Epoch", value).map(Self)
    }
}

/// `u64::MAX` where a Seq or an Epoch was expected: the bytes are not ours, or are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} {value} is out of range: the message or file is damaged, or not Watershed's")]
pub struct NumberTooLarge {
    what: &'static str,
    value: u64,
}

impl NumberTooLarge {
    fn check(what: &'static str, value: u64) -> Result<u64, Self> {
        if value == u64::MAX {
            return Err(Self { what, value });
        }
        Ok(value)
    }
}

/// Who may write, and which opening of the log it was: ordered by epoch, then opening.
///
/// A record's identity is (term, Seq); no (term, Seq) ever names two bodies, because each opening of the log
/// by an owner raises the second part.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term {
    /// The term of ownership.
    pub epoch: Epoch,
    /// Which opening of the log by that owner, from 1.
    pub opening: u64,
}

impl Term {
    /// A term from its two numbers.
    #[must_use]
    pub const fn new(epoch: Epoch, opening: u64) -> Self {
        Self { epoch, opening }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.opening)
    }
}

/// One entry of an instance's term history: the term and the Seq of its first record.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// The Seq of its start record.
    pub first: Seq,
}

impl fmt::Display for TermStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.term, self.first)
    }
}

hex_id! {
    /// The random durable id of one hosting of a shard on a node. A shard that leaves and comes back is a new one.
    ///
    /// Text and human-readable formats show 32 hexadecimal digits.
    pub InstanceId, ParseInstanceIdError, "an instance id"
}

impl InstanceId {
    /// A new random id, from the operating system's entropy.
    #[must_use]
    pub fn random() -> Self {
        // Each RandomState is keyed from the system's entropy; SipHash under an unknown key makes the two
        // halves, and the process id and address keep a forked child from repeating its parent.
        let keys = RandomState::new();
        let here = std::ptr::from_ref(&keys) as usize;
        let half = |which: u8| u128::from(keys.hash_one((which, std::process::id(), here)));
        Self((half(0) << 64) | half(1))
    }
}

/// How long a write must survive before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Survives power loss: acknowledged after the device has it.
    #[default]
    Sync,
    /// Survives the death of the process; power loss may take it (synced in the background).
    Buffered,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "sync",
            Self::Buffered => "buffered",
        })
    }
}

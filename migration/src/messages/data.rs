//! The parts of requests for data, between engines: versions, conditions, scans.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use watershed_wal::{Seq, Term};

use crate::words::SessionId;

/// The version of an entry: which write made it. Ordered as the writes were.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct EntryVersion {
    /// The term of the owner that wrote it.
    pub term: Term,
    /// The write.
    pub seq: Seq,
}

impl std::fmt::Display for EntryVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.term, self.seq)
    }
}

/// What a key must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The key.
    pub key: Bytes,
    /// What it must hold.
    pub expect: Expect,
}

/// What a condition expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// No value.
    Absent,
    /// The value that this write made.
    Version(EntryVersion),
}

/// Which write of a session this is, so that it can be sent again when its reply was lost: it is carried out once, and
/// whoever owns the shard then gives the first answer.
///
/// A session is opened in its shard before ([`Request::OpenSession`](super::Request::OpenSession)). What a client makes of
/// an answer to a write of it:
///
/// | answer | what it says | what the client does |
/// |---|---|---|
/// | `Written`, `ConditionFailed` | what became of the write, for good | settles the number |
/// | none, or `OutcomeUnknown` | it may have been carried out, or still be | sends it again, as it is |
/// | `Moved`, or any other refusal that time may end | this request was not carried out | sends it again, to the owner |
/// | `SessionFull` | the same | settles others first |
/// | `UnknownSession` | the same, and earlier tries can't be asked about any more | opens another session; the write is new there, if no earlier try may have been taken, else its outcome is unknown |
/// | `Settled` | the same: its client gave it up | nothing |
///
/// A number that was given up is settled, too: a try of it that is still on its way is refused from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionMark {
    /// The session.
    pub session: SessionId,
    /// The write's number: from 1, each used for one write. Numbers may be left out, and come in any order.
    pub number: u64,
    /// The client sends no write of this number or below again: it has their answers, or gave them up.
    pub low_water: u64,
}

/// A key with its value and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataEntry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Which write made it.
    pub version: EntryVersion,
}

/// Where a scan begins or ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScanBound {
    /// At the first or last key.
    #[default]
    Open,
    /// At this key, with it.
    Included(Bytes),
    /// At this key, without it.
    Excluded(Bytes),
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// The low end of the keys.
    pub from: ScanBound,
    /// The high end of the keys.
    pub to: ScanBound,
    /// From high to low.
    pub reverse: bool,
    /// The most entries to give.
    pub limit: u32,
    /// The most bytes of keys and values to give; one entry is given whatever its size.
    pub max_bytes: u32,
}

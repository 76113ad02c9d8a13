//! What a node answers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use watershed_wal::hex_id::hex_u128;
use watershed_wal::{Epoch, InstanceId, Seq, SeqRange, Term, TermStart};

use super::data::{DataEntry, EntryVersion};
use super::request::Manifest;
use super::{WireError, wire};
use crate::evidence::{SourceMarks, TargetMarks};
use crate::placement::PlacementRecord;
use crate::words::NodeId;

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name: one path component.
    pub name: String,
    /// Its length, in bytes.
    pub len: u64,
    /// The xxh3-128 of its bytes.
    #[serde(with = "hex_u128")]
    pub xxh3_128: u128,
}

impl FileInfo {
    /// Whether the name is one plain path component: what a receiver checks before it joins it to a directory.
    #[must_use]
    pub fn name_is_plain(&self) -> bool {
        !self.name.is_empty()
            && self.name != "."
            && self.name != ".."
            && !self.name.contains(['/', '\\', '\0'])
    }
}

/// How the source stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Durable records are being forwarded to the target.
    pub forwarding: bool,
    /// New writes are parked.
    pub quiesced: bool,
    /// Handed out.
    pub assigned: Seq,
    /// Survives power loss.
    pub durable: Seq,
    /// Visible to reads.
    pub applied: Seq,
    /// Records forwarded and acknowledged.
    pub forwarded: u64,
    /// Records whose forward failed or was dropped.
    pub forward_failed: u64,
}

/// How the target stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetState {
    /// Bytes of files fetched.
    pub copied_bytes: u64,
    /// Bytes of files in all; 0 before a manifest came.
    pub total_bytes: u64,
    /// The checkpoint is opened and its checksums are verified.
    pub opened: bool,
    /// B, once a manifest came.
    pub base: Option<Seq>,
    /// The highest Seq it has.
    pub has_max: Option<Seq>,
    /// Durable, without a hole, up to here.
    pub durable: Seq,
    /// Applied up to here.
    pub applied: Seq,
    /// The checkpoint's files, once opened.
    pub files: Vec<FileInfo>,
    /// Why the copy stopped, where it did and asking again won't help.
    pub error: Option<String>,
}

/// A key of a comparison's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageEntry {
    /// The key.
    pub key: Bytes,
    /// Which write made what it holds.
    pub version: EntryVersion,
    /// It is deleted.
    pub tombstone: bool,
    /// The hash of key, version, tombstone and value.
    pub hash: u128,
}

/// A refusal, with what the sender needs to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The cause.
    pub kind: RefusedKind,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// Who owns the shard now, where the refuser knows.
    pub owner: Option<(NodeId, Epoch)>,
}

impl Refused {
    /// A refusal that doesn't know the owner.
    #[must_use]
    pub fn new(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            owner: None,
        }
    }
}

/// The cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusedKind {
    /// Of an epoch that is over.
    StaleEpoch,
    /// Of a quiesce that is over.
    StaleAttempt,
    /// Of a driver that another took over from.
    StaleDriver,
    /// Of or for another copy.
    WrongInstance,
    /// The node does not own the shard.
    NotOwner,
    /// Not in this state; a later state may do.
    NotReady,
    /// Not enough room on the disk, or over a hold's budget.
    NoRoom,
    /// Records that are needed are gone.
    Gap,
    /// Two bodies for one record, or the placement says otherwise.
    Conflict,
    /// Damaged data.
    Damaged,
    /// At something else; try again soon.
    Busy,
    /// The node knows nothing of this shard or migration.
    Unknown,
    /// The safety gate refused.
    NotSafe,
    /// The node does not understand the request.
    Unsupported,
    /// It failed for a reason of the node's own, as the message says; trying again may help.
    Failed,
    /// A write that was taken: it may have been carried out, or still be. Every other refusal of a write says that this
    /// request was not; it says nothing of the same write sent before.
    OutcomeUnknown,
    /// The shard knows no such session (any more): open another.
    UnknownSession,
    /// The number of a write is not above what its client said to have settled.
    Settled,
    /// Too many writes of the session are not settled: raise its low-water mark.
    SessionFull,
}

/// An answer. The doc of each names the request it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// Done: `StartForward`, `AbortSource`, `Pull`, `DiscardTarget`.
    Ok,
    /// Not done, and why: any request.
    Refused(Refused),
    /// `Prepare`.
    Prepared {
        /// The source's copy.
        source_instance: InstanceId,
        /// The epoch it owns the shard in.
        epoch: Epoch,
        /// Handed out.
        assigned: Seq,
        /// Applied.
        applied: Seq,
        /// About how many bytes there are to copy.
        bytes_estimate: u64,
        /// The term history.
        terms: Vec<TermStart>,
    },
    /// `Checkpoint`.
    CheckpointMade(Manifest),
    /// `ReadFile`.
    FileChunk {
        /// The bytes.
        bytes: Bytes,
        /// Their CRC-32.
        crc32: u32,
    },
    /// `SourceStatus`.
    SourceState(SourceState),
    /// `Ship`: the target has them durably.
    Shipped {
        /// Records shipped.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// `Quiesce`: the gate is closed.
    Quiesced {
        /// F.
        f: Seq,
    },
    /// `Drain`.
    Drained(SourceMarks),
    /// `Reopen`: the source serves.
    Reopened,
    /// `Activate`: the swap won, as the record read back says.
    Activated {
        /// The record.
        record: Box<PlacementRecord>,
    },
    /// `Activate`: the swap lost; the source serves.
    NotActivated {
        /// The record.
        record: Box<PlacementRecord>,
    },
    /// `Release`.
    Released {
        /// Requests that had been parked.
        parked: u64,
        /// From quiesce to release, in microseconds.
        pause_us: u64,
    },
    /// `Retire`: the frozen copy is gone.
    Retired {
        /// Bytes freed.
        bytes: u64,
    },
    /// `BeginTarget`.
    TargetBegun {
        /// The target's copy.
        instance: InstanceId,
        /// Bytes free on its disk.
        free_bytes: u64,
    },
    /// `TargetStatus`.
    TargetState(TargetState),
    /// `Records`: they are durable.
    RecordsAck {
        /// Durable, without a hole, up to here.
        durable_contiguous: Seq,
        /// How many were new.
        stored: u64,
    },
    /// `Missing`.
    MissingRanges {
        /// The first ranges.
        ranges: Vec<SeqRange>,
        /// There are more.
        more: bool,
    },
    /// `Verify`.
    Verified(TargetMarks),
    /// `BecomeOwner`: the target serves.
    Serving {
        /// Its term.
        term: Term,
        /// The Seq of its start record.
        first_seq: Seq,
    },
    /// `ComparePage`.
    Page {
        /// The entries, in the order of the keys.
        entries: Vec<PageEntry>,
        /// No more follow.
        done: bool,
    },
    /// `Survey`.
    Surveyed {
        /// The version of the node's program, in words.
        version: String,
        /// Bytes of its disk that a copy may take.
        free_bytes: u64,
        /// About how many bytes its copy of the shard has; `None` where it does not own the shard.
        owned_bytes: Option<u64>,
    },
    /// `Write`.
    Written {
        /// The version it made.
        version: EntryVersion,
    },
    /// `Write`: it did not happen.
    ConditionFailed {
        /// Which condition.
        index: u32,
        /// What the key holds; `None` when it has no value.
        found: Option<EntryVersion>,
    },
    /// `OpenSession`: it can be used.
    SessionOpened {
        /// The version of the write that opened it.
        version: EntryVersion,
        /// The most writes that the session may have above its low-water mark.
        in_flight_max: u32,
    },
    /// `Get`: one for each key, in its order.
    Values(Vec<Option<(Bytes, EntryVersion)>>),
    /// `Scan`.
    Entries {
        /// The entries, in the scan's order.
        entries: Vec<DataEntry>,
        /// No more follow.
        done: bool,
    },
    /// Any request for data: ask the owner.
    Moved {
        /// The owner.
        owner: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
}

impl Response {
    /// Its bytes. A response beyond the bounds is refused by who decodes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::encode(self)
    }

    /// Reads what [`Response::encode`] made, of this version or another. What the response holds of bytes shares the memory
    /// of `bytes`, and keeps it.
    ///
    /// # Errors
    /// When the bytes are too long, cut, damaged, beyond a bound, or newer than what this node understands.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self, WireError> {
        wire::decode(bytes)
    }

    /// As [`Response::decode_bytes`], of a copy.
    ///
    /// # Errors
    /// The same.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode_slice(bytes)
    }

    /// A refusal that doesn't know the owner.
    #[must_use]
    pub fn refused(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self::Refused(Refused::new(kind, message))
    }

    /// Its name, for logs and transcripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Refused(_) => "Refused",
            Self::Prepared { .. } => "Prepared",
            Self::CheckpointMade(_) => "CheckpointMade",
            Self::FileChunk { .. } => "FileChunk",
            Self::SourceState(_) => "SourceState",
            Self::Shipped { .. } => "Shipped",
            Self::Quiesced { .. } => "Quiesced",
            Self::Drained(_) => "Drained",
            Self::Reopened => "Reopened",
            Self::Activated { .. } => "Activated",
            Self::NotActivated { .. } => "NotActivated",
            Self::Released { .. } => "Released",
            Self::Retired { .. } => "Retired",
            Self::TargetBegun { .. } => "TargetBegun",
            Self::TargetState(_) => "TargetState",
            Self::RecordsAck { .. } => "RecordsAck",
            Self::MissingRanges { .. } => "MissingRanges",
            Self::Verified(_) => "Verified",
            Self::Serving { .. } => "Serving",
            Self::Page { .. } => "Page",
            Self::Surveyed { .. } => "Surveyed",
            Self::Written { .. } => "Written",
            Self::ConditionFailed { .. } => "ConditionFailed",
            Self::SessionOpened { .. } => "SessionOpened",
            Self::Values(_) => "Values",
            Self::Entries { .. } => "Entries",
            Self::Moved { .. } => "Moved",
        }
    }
}

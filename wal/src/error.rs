//! What can go wrong with the log, by cause, each with what to do about it.
//!
//! [`LogError`] is what a call on an open log gives, [`OpenError`] what opening or verifying one gives, and
//! [`Damage`] is the one description of damaged segments that both carry, so that `open`, `verify` and a read
//! use the same words for the same bytes.

use std::fmt;
use std::io;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use crate::seqset::SeqRange;
use crate::words::{InstanceId, Seq, ShardId, Term};

/// Why the log refused or failed a call.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The gate is closed: the shard is quiesced, or this node does not own it. Nothing was assigned.
    #[error(
        "the shard's write gate is closed; retry when it serves again, here or at its new owner"
    )]
    GateClosed,
    /// A write or sync failed before. Nothing more is written until the log is opened again.
    #[error("the log is poisoned ({reason}); writes are refused until it is reopened, reads go on")]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
    /// No room for the next segment, on the disk or under the log's limit. Nothing was half written.
    #[error(
        "the log is full: {needed} bytes needed, {room} to be had; free disk space or flush the shards that pin the log, writes then go on"
    )]
    Full {
        /// Bytes that the write needs.
        needed: u64,
        /// Bytes that are left for writes.
        room: u64,
    },
    /// Too many bytes wait to be written: the bounded queue is full. Nothing was assigned; try again.
    #[error("{pending} bytes wait to be written, {max} may; submit again when some are committed")]
    Busy {
        /// Bytes that wait.
        pending: usize,
        /// The bound (`LogOptions::max_pending_bytes`).
        max: usize,
    },
    /// A body, note or name longer than the format or the options allow.
    #[error("{len} bytes are too many, at most {max} are allowed; split the write")]
    TooLarge {
        /// What was given.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Another owner's records for an instance that owns the shard itself. Nothing was taken.
    #[error(
        "shard {shard}: this instance owns the shard since term {term} and takes no records of another owner; read who owns the shard now"
    )]
    OwnsShard {
        /// The shard.
        shard: ShardId,
        /// The term that the instance started.
        term: Term,
    },
    /// A note under a name that the log keeps for itself.
    #[error(
        "{key:?} is a name for the log's own notes; take one that does not start with \"wal.\""
    )]
    ReservedNote {
        /// The name.
        key: String,
    },
    /// Two bodies for one (term, Seq), or two terms for one Seq: the copies are of different lineages.
    #[error(
        "shard {shard}: a different record is already here as {seq} of term {term}; this copy is of another lineage and must start again from a checkpoint"
    )]
    Conflict {
        /// The shard.
        shard: ShardId,
        /// The term of the record refused.
        term: Term,
        /// Its Seq.
        seq: Seq,
    },
    /// Records that are not here: truncated, or never received.
    #[error(
        "shard {shard}: Seqs {missing} are not in this log; take them from another copy, or start again from a checkpoint"
    )]
    Gap {
        /// The shard.
        shard: ShardId,
        /// The first range that is missing.
        missing: SeqRange,
    },
    /// A term that does not go on from what is here.
    #[error(
        "shard {shard}: term {offered} is stale, the log is at {current}; read who owns the shard now"
    )]
    StaleTerm {
        /// The shard.
        shard: ShardId,
        /// The term offered.
        offered: Term,
        /// The term that the log is at.
        current: Term,
    },
    /// A hold that would keep more than its budget from its first moment.
    #[error(
        "shard {shard}: hold {name:?} would keep {needed} bytes of log, its budget is {budget}; start from a newer checkpoint or raise the budget"
    )]
    HoldOverBudget {
        /// The shard.
        shard: ShardId,
        /// The hold.
        name: String,
        /// Physical bytes it would keep.
        needed: u64,
        /// Its budget.
        budget: u64,
    },
    /// The instance is not, or no longer, hosted here.
    #[error("instance {0} is not hosted in this log; look up the shard's current instance")]
    UnknownInstance(InstanceId),
    /// The instance is hosted already, or was asked for with Seqs of another.
    #[error("instance {0} is already hosted in this log; a new hosting needs a new random id")]
    AlreadyHosted(InstanceId),
    /// Bytes that were promised durable are damaged.
    #[error(transparent)]
    Damaged(Damage),
    /// The device failed.
    #[error(
        "{op} of log segment {segment:016x} failed: {source}; check the device, then reopen the log"
    )]
    Io {
        /// What was tried.
        op: &'static str,
        /// In which segment.
        segment: u64,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log, or this instance of it, was closed; or what should have completed a write went away.
    #[error("the log is closed; open it again")]
    Closed,
}

/// Why a log can't be opened or verified.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Bytes that were promised durable are damaged.
    #[error(transparent)]
    Damaged(Damage),
    /// Written by a newer version.
    #[error(
        "log segment {segment:016x} has format version {found}, this program reads up to {supported}: use a newer Watershed"
    )]
    NewerFormat {
        /// The version found.
        found: u16,
        /// The newest that can be read.
        supported: u16,
        /// The segment.
        segment: u64,
    },
    /// A segment file that is not ours.
    #[error("{file:?} in the log's directory is not a Watershed log segment; move it away")]
    Foreign {
        /// The file's name.
        file: String,
    },
    /// A segment that later ones still need is not there.
    #[error(
        "log segment {segment:016x} is missing (segment {needed_by:016x} follows it); restore it, or run `watershed wal repair`"
    )]
    MissingSegment {
        /// The segment.
        segment: u64,
        /// The segment that names it.
        needed_by: u64,
    },
    /// No room for a fresh segment. Reading ([`crate::LogView`]) needs none.
    #[error("no room for a fresh log segment of {needed} bytes; free disk space and open again")]
    Full {
        /// Bytes needed.
        needed: u64,
    },
    /// An option that can't be.
    #[error("log option {option} is {value}: {why}")]
    InvalidOption {
        /// Which.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The device failed.
    #[error("{op} of {file:?} in the log's directory failed: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What kind of damage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum DamageKind {
    /// No valid frame header where one was promised.
    Header,
    /// The header is whole, the payload's checksum does not match.
    Payload,
    /// The checksums match, the contents do not decode.
    Contents(String),
    /// The first frame of a segment, which says what the segment goes on from.
    Head,
    /// The segment ends before the place up to which its successor, or a later frame, promises it.
    CutShort {
        /// Up to which offset it was promised.
        promised: u64,
    },
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("no valid frame header"),
            Self::Payload => f.write_str("the frame's checksum does not match"),
            Self::Contents(why) => write!(f, "the frame does not decode ({why})"),
            Self::Head => f.write_str("the segment's head is not readable"),
            Self::CutShort { promised } => {
                write!(
                    f,
                    "no valid frame, though the segment was durable to offset {promised}"
                )
            }
        }
    }
}

/// Damage inside what was promised durable.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
pub struct Damage {
    /// The segment.
    pub segment: u64,
    /// Where in it the damaged frame starts.
    pub offset: u64,
    /// The shards that may have lost records, and which Seqs, where that is known.
    pub shards: Vec<(ShardId, Option<SeqRange>)>,
    /// What is wrong there.
    pub what: DamageKind,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log segment {:016x} is damaged at offset {}: {}; ",
            self.segment, self.offset, self.what
        )?;
        if self.shards.is_empty() {
            f.write_str("no shard's records are known to be in it")?;
        } else {
            f.write_str("it held records of ")?;
        }
        for (i, (shard, range)) in self.shards.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match range {
                Some(range) => write!(f, "{comma}shard {shard} (Seqs {range})")?,
                None => write!(f, "{comma}shard {shard} (Seqs unknown)")?,
            }
        }
        f.write_str("; restore the file, or give those records up with `watershed wal repair`")
    }
}

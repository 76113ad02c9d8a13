//! What can go wrong, classed by what to do next.
//!
//! Every fallible call of the crate gives an [`Error`]. [`Error::retry`] sorts the causes into four classes, so that
//! a caller never matches on text: give up, send again, send to the owner, or find out first whether it happened.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use watershed_migration::{EvidenceError, NodeId, Refusal, SessionId};
use watershed_wal::{Epoch, InstanceId, LogError, OpenError, Seq, ShardId};

use crate::placement::PlacementError;
use crate::store::StoreError;
use crate::store::Version;

/// What a caller does about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again: change it, or the machine.
    Never,
    /// It did not happen, and may succeed when sent again.
    Now,
    /// It did not happen here; the shard's owner takes it.
    Elsewhere,
    /// It may or may not have happened: read before sending it again.
    Unknown,
}

/// An error of the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is empty or too long.
    #[error("a key of {len} bytes is not allowed: keys have 1 to {max} bytes")]
    KeyLength {
        /// The key's length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The value is too long.
    #[error("a value of {len} bytes is too long: values have at most {max} bytes")]
    ValueLength {
        /// The value's length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The batch is too long.
    #[error("a batch of {len} bytes is too long: split it into batches of at most {max} bytes")]
    BatchLength {
        /// The batch's length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The batch has no operation.
    #[error("the batch is empty: put or delete something in it")]
    EmptyBatch,
    /// The batch was not encoded as this version does.
    #[error("the batch can't be written: {what}; send what this version encodes")]
    BadBatch {
        /// What is wrong with it.
        what: String,
    },
    /// The batch's keys belong to several shards.
    #[error(
        "the batch has keys of shards {first} and {other}, and a batch is atomic in one shard: name the shard, or split the batch"
    )]
    CrossShard {
        /// The shard of the first key.
        first: ShardId,
        /// Another key's shard.
        other: ShardId,
    },
    /// A condition of the write did not hold.
    #[error(
        "the condition on key {} does not hold: {}",
        show_key(key),
        found_version(found)
    )]
    ConditionFailed {
        /// The key of the condition.
        key: Bytes,
        /// The version found there, `None` where the key is absent.
        found: Option<Version>,
    },
    /// The request's deadline passed before it was given a Seq: it did not happen.
    #[error(
        "shard {shard}: the deadline passed before the request was taken, so it was not applied: send it again"
    )]
    DeadlineNotApplied {
        /// The shard asked.
        shard: ShardId,
    },
    /// The request's deadline passed after the write was assigned.
    #[error(
        "shard {shard}: the outcome of the write is unknown ({reason}): read the key before writing again"
    )]
    OutcomeUnknown {
        /// The shard asked.
        shard: ShardId,
        /// Why it is unknown.
        reason: String,
    },
    /// The shard does not know the session: it was never opened here, or went for newer ones. This request was not carried
    /// out; whether the same write was when it was sent before can't be told any more.
    #[error(
        "shard {shard} knows no session {session}: it was not opened there, or gave way to newer ones; open another. Whether writes of it without an answer were carried out is to be read from their keys"
    )]
    UnknownSession {
        /// The shard asked.
        shard: ShardId,
        /// The session named.
        session: SessionId,
    },
    /// A session of this id is open already.
    #[error("shard {shard} has a session {session} already: open one of another random id")]
    SessionExists {
        /// The shard asked.
        shard: ShardId,
        /// The session named.
        session: SessionId,
    },
    /// The number of a session's write is settled: the client said that it does not send it again.
    #[error(
        "shard {shard}: number {number} of the session is settled, as all up to {low_water}: a write that is sent once more must be above the low-water mark, a new one needs a new number"
    )]
    Settled {
        /// The shard asked.
        shard: ShardId,
        /// The write's number.
        number: u64,
        /// The session's low-water mark.
        low_water: u64,
    },
    /// Too many writes of a session are not settled.
    #[error(
        "shard {shard}: {max} writes of the session are not settled, and no more are kept: raise its low-water mark, then send this one again"
    )]
    SessionFull {
        /// The shard asked.
        shard: ShardId,
        /// The most that a session may have.
        max: u16,
    },
    /// Another node owns the shard, and it can't be reached from here.
    #[error("shard {shard} belongs to node {owner} since epoch {epoch}: send the request there")]
    Moved {
        /// The shard asked.
        shard: ShardId,
        /// The node which owns it.
        owner: NodeId,
        /// The epoch of its ownership.
        epoch: Epoch,
    },
    /// No node of the cluster answers.
    #[error(
        "no node of the cluster can be reached ({reason}): see that one is up and that its address is right"
    )]
    Unreachable {
        /// What was met at each address.
        reason: String,
    },
    /// A connection, or its certificates, can't be made.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Net(#[from] crate::net::NetError),
    /// No placement record names this shard.
    #[error("shard {shard} does not exist: create it, or name one of `shards()`")]
    NoShard {
        /// The shard asked.
        shard: ShardId,
    },
    /// The shard exists already.
    #[error("shard {shard} exists already")]
    ShardExists {
        /// The shard asked.
        shard: ShardId,
    },
    /// The shard is being moved, so it can't be dropped or moved again.
    #[error("shard {shard} is being moved: wait for the migration, or abort it")]
    ShardBusy {
        /// The shard asked.
        shard: ShardId,
    },
    /// The shard's store failed and could not be opened again.
    #[error(
        "shard {shard} is out of service: {reason}; re-open the engine after the cause is gone"
    )]
    ShardFailed {
        /// The shard.
        shard: ShardId,
        /// What its store said.
        reason: String,
    },
    /// The instance is not hosted here.
    #[error("instance {instance} of shard {shard} is not on this node")]
    NoInstance {
        /// The shard.
        shard: ShardId,
        /// The instance asked for.
        instance: InstanceId,
    },
    /// The snapshot was taken back: its shard closed, moved away for good, or re-opened.
    #[error("the snapshot has expired: its shard was closed, moved or re-opened; take a new one")]
    SnapshotExpired,
    /// The engine is closed.
    #[error("the engine is closed")]
    Closed,
    /// Another process or handle holds the data directory.
    #[error("{} is in use by another engine: close it first, or open it for reading only", dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory was written by a newer version.
    #[error("{} has format {found}, and this version reads up to {supported}: use a newer Watershed", dir.display())]
    NewerFormat {
        /// The data directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
        /// The newest this version reads.
        supported: u32,
    },
    /// The directory is not an engine's.
    #[error("{} is not a Watershed data directory ({reason}): name another directory", dir.display())]
    NotADataDirectory {
        /// The directory.
        dir: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The options contradict the directory or each other.
    #[error("{what}")]
    Options {
        /// What is wrong and what to do.
        what: String,
    },
    /// A shard's directory and the log disagree.
    #[error("shard {shard}: {what}")]
    Inconsistent {
        /// The shard.
        shard: ShardId,
        /// What does not fit, and what to do.
        what: String,
    },
    /// A file operation failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<std::io::Error>,
    },
    /// The safety gate refused the migration.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The evidence for an activation did not hold.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A migration ended without moving the shard.
    #[error("the migration of shard {shard} was aborted: {reason}")]
    MigrationAborted {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// Another node refused a request.
    #[error("node {node}: {message}")]
    Remote {
        /// Who said it.
        node: NodeId,
        /// What it said.
        message: String,
        /// What to do about it.
        retry: Retry,
    },
    /// The log could not be opened.
    #[error("the log in {}: {source}", dir.display())]
    LogOpen {
        /// The log's directory.
        dir: PathBuf,
        /// What the log found.
        source: Arc<OpenError>,
    },
    /// The log refused or failed.
    #[error(transparent)]
    Log(LogError),
    /// The placement refused or failed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A shard's RocksDB refused or failed.
    #[error(transparent)]
    Store(StoreError),
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Moved { .. } => Retry::Elsewhere,
            Self::DeadlineNotApplied { .. }
            | Self::SessionFull { .. }
            | Self::ShardBusy { .. }
            | Self::Locked { .. }
            | Self::SnapshotExpired
            | Self::Unreachable { .. } => Retry::Now,
            Self::OutcomeUnknown { .. } => Retry::Unknown,
            Self::Remote { retry, .. } => *retry,
            Self::Log(LogError::Full { .. } | LogError::Busy { .. }) => Retry::Now,
            Self::Log(LogError::Poisoned { .. } | LogError::Closed) | Self::Closed => {
                Retry::Unknown
            }
            Self::Store(error) if error.is_no_room() => Retry::Now,
            _ => Retry::Never,
        }
    }

    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            op,
            path: path.into(),
            source: Arc::new(source),
        }
    }

    /// The shard's write was assigned and what became of it is not known.
    pub(crate) fn unknown(shard: ShardId, error: &LogError) -> Self {
        Self::OutcomeUnknown {
            shard,
            reason: error.to_string(),
        }
    }

    pub(crate) fn inconsistent(shard: ShardId, what: impl Into<String>) -> Self {
        Self::Inconsistent {
            shard,
            what: what.into(),
        }
    }

    /// The log itself knows of a newer epoch than the placement.
    pub(crate) fn older_placement(shard: ShardId, found: Epoch, logged: Epoch) -> Self {
        Self::inconsistent(
            shard,
            format!(
                "the placement says epoch {found}, and the log has records of epoch {logged}: the placement went back in time; restore its newest copy"
            ),
        )
    }

    /// The message for a read beyond what a shard holds.
    pub(crate) fn behind(shard: ShardId, applied: Seq, wanted: Seq) -> Self {
        Self::inconsistent(
            shard,
            format!(
                "the store ends at {applied} and {wanted} was promised: restore it from another copy"
            ),
        )
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::SnapshotExpired => Self::SnapshotExpired,
            other => Self::Store(other),
        }
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Closed => Self::Closed,
            other => Self::Log(other),
        }
    }
}

fn show_key(key: &Bytes) -> String {
    const SHOWN: usize = 64;
    let text = String::from_utf8_lossy(&key[..key.len().min(SHOWN)]);
    let more = if key.len() > SHOWN { "…" } else { "" };
    format!("{:?}{more}", text)
}

fn found_version(found: &Option<Version>) -> String {
    found.map_or_else(
        || "the key is absent".into(),
        |version| format!("it has version {version}"),
    )
}

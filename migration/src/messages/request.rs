//! What a node asks of another.
//!
//! Each request of a migration is safe to send again: the receiver gives the same answer, or one that says how
//! things stand now. Each carries an [`Envelope`], by which a receiver refuses what is of an older driver or an
//! older quiesce.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use watershed_wal::{Durability, Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, TermStart};

use super::data::{Condition, ScanRequest, SessionMark};
use super::response::FileInfo;
use super::{WireError, wire};
use crate::config::MigrationConfig;
use crate::evidence::{SourceMarks, TargetMarks};
use crate::words::{Attempt, DriverTerm, MigrationId, NodeId, Revision, SessionId};

/// On whose behalf a command is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    /// The shard.
    pub shard: ShardId,
    /// The migration.
    pub migration: MigrationId,
    /// The quiesce.
    pub attempt: Attempt,
    /// The driver's term.
    pub driver_term: DriverTerm,
}

/// What a checkpoint is: where it ends and of which files it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// B.
    pub base: Seq,
    /// The running log digest at B.
    pub digest: LogDigest,
    /// Its files.
    pub files: Vec<FileInfo>,
    /// The source's term history up to B.
    pub terms: Vec<TermStart>,
}

impl Manifest {
    /// The bytes of all files, saturating.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum: u64, file| sum.saturating_add(file.len))
    }
}

/// A question or command to a node. See [`Response`](super::Response) for what answers what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// To the source: check that you own the shard and put durable holds on your log. -> `Prepared`
    Prepare {
        /// On whose behalf.
        env: Envelope,
        /// Who is to own it.
        target: NodeId,
        /// The migration's options.
        config: MigrationConfig,
    },
    /// To the source: make a checkpoint, or say which one you made for this migration. -> `CheckpointMade`
    Checkpoint {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the source: a piece of a checkpoint's file. -> `FileChunk`
    ReadFile {
        /// On whose behalf.
        env: Envelope,
        /// The file's name, as in the manifest.
        name: String,
        /// From which byte.
        offset: u64,
        /// How many bytes; fewer come at the file's end.
        len: u32,
    },
    /// To the source: send each durable record to the target from now on. -> `Ok`
    StartForward {
        /// On whose behalf.
        env: Envelope,
        /// The target's copy.
        target_instance: InstanceId,
    },
    /// To the source: how do you stand? -> `SourceState`
    SourceStatus {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the source: send these records to the target, in order, and answer when it has them durably. -> `Shipped`
    Ship {
        /// On whose behalf.
        env: Envelope,
        /// Which.
        ranges: Vec<SeqRange>,
        /// Begin no further call once so many bytes of bodies are sent; what is left is asked for again.
        max_bytes: u64,
    },
    /// To the source: close the gate. -> `Quiesced`
    Quiesce {
        /// On whose behalf.
        env: Envelope,
        /// The placement's revision, which raised the attempt to the envelope's.
        revision: Revision,
        /// The bound of the pause, in milliseconds.
        pause_max_ms: u64,
    },
    /// To the source: wait until durable = applied = F, and answer no read from then on. -> `Drained`
    Drain {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the source: give this quiesce up. -> `Reopened`
    Reopen {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the source: prove these marks yourself and give the shard away. -> `Activated` or `NotActivated`
    Activate {
        /// On whose behalf.
        env: Envelope,
        /// Your own marks, as you reported them.
        source: Box<SourceMarks>,
        /// The target's.
        target: Box<TargetMarks>,
    },
    /// To the source: the new owner serves; let the parked requests go to it. -> `Released`
    Release {
        /// On whose behalf.
        env: Envelope,
        /// The new owner's epoch.
        epoch: Epoch,
        /// The new owner.
        owner: NodeId,
    },
    /// To the source: delete your frozen copy, once the placement says so. -> `Retired`
    Retire {
        /// On whose behalf.
        env: Envelope,
        /// Which copy.
        instance: InstanceId,
    },
    /// To the source: the migration is aborted; serve on and drop what you kept for it. -> `Ok`
    AbortSource {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the target: host a new copy of the shard. -> `TargetBegun`
    BeginTarget {
        /// On whose behalf.
        env: Envelope,
        /// Who owns it.
        source: NodeId,
        /// The owner's copy.
        source_instance: InstanceId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The migration's options.
        config: MigrationConfig,
    },
    /// To the target: take records above B from now on, fetch these files and open them. -> `Ok` at once
    Pull {
        /// On whose behalf.
        env: Envelope,
        /// The checkpoint.
        manifest: Manifest,
    },
    /// To the target: how do you stand? -> `TargetState`
    TargetStatus {
        /// On whose behalf.
        env: Envelope,
    },
    /// To the target, from the source: keep these records. -> `RecordsAck`
    Records {
        /// On whose behalf.
        env: Envelope,
        /// The source's copy.
        from_instance: InstanceId,
        /// Shipped by a delta round, not forwarded.
        delta: bool,
        /// As `Record::encode_many` made them.
        records: Bytes,
    },
    /// To the target: what do you miss of (B, through]? -> `MissingRanges`
    Missing {
        /// On whose behalf.
        env: Envelope,
        /// Up to where.
        through: Seq,
    },
    /// To the target: report your marks at F. -> `Verified`
    Verify {
        /// On whose behalf.
        env: Envelope,
        /// F.
        f: Seq,
    },
    /// To the target: read the placement and serve, if it says so. -> `Serving`
    BecomeOwner {
        /// On whose behalf.
        env: Envelope,
        /// The epoch you own the shard in.
        epoch: Epoch,
    },
    /// To the target: delete your copy, once the placement says the migration is aborted. -> `Ok`
    DiscardTarget {
        /// On whose behalf.
        env: Envelope,
    },
    /// To either: a page of keys with their versions, in order, deleted ones too. -> `Page`
    ComparePage {
        /// On whose behalf.
        env: Envelope,
        /// After which key; `None` from the first.
        after: Option<Bytes>,
        /// The most entries.
        limit: u32,
    },
    /// To any node: what do you have of this shard, and what room? Changes nothing. -> `Surveyed`
    Survey {
        /// The shard.
        shard: ShardId,
    },
    /// To the owner: write this. -> `Written`, `ConditionFailed` or `Moved`
    Write {
        /// The shard.
        shard: ShardId,
        /// The owner's epoch as the sender knows it.
        epoch: Epoch,
        /// As `BatchBuilder::finish` made it.
        body: Bytes,
        /// How long it must survive.
        durability: Durability,
        /// What must hold for it to happen.
        conditions: Vec<Condition>,
        /// How long the sender waits, in milliseconds; 0 is for ever.
        deadline_ms: u64,
        /// Which write of which session it is; `None`: it is never sent again once it may have been carried out.
        session: Option<SessionMark>,
    },
    /// To the owner: open a session of this new id. Sent once; who gets no answer opens another, since an id that
    /// comes back late would bring back a session without what it knew. -> `SessionOpened` or `Moved`
    OpenSession {
        /// The shard.
        shard: ShardId,
        /// The session's id: random, never used before.
        session: SessionId,
        /// How long the sender waits, in milliseconds; 0 is for ever.
        deadline_ms: u64,
    },
    /// To the owner: the values of these keys. -> `Values` or `Moved`
    Get {
        /// The shard.
        shard: ShardId,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// To the owner: a page of a scan. -> `Entries` or `Moved`
    Scan {
        /// The shard.
        shard: ShardId,
        /// Which page.
        scan: ScanRequest,
    },
}

impl Request {
    /// Its bytes. A request beyond the bounds is refused by who decodes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        wire::encode(self)
    }

    /// Reads what [`Request::encode`] made, of this version or another. What the request holds of bytes shares the memory
    /// of `bytes`, and keeps it.
    ///
    /// # Errors
    /// When the bytes are too long, cut, damaged, beyond a bound, or newer than what this node understands.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self, WireError> {
        wire::decode(bytes)
    }

    /// As [`Request::decode_bytes`], of a copy.
    ///
    /// # Errors
    /// The same.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode_slice(bytes)
    }

    /// The envelope of a migration's command; `None` for data.
    #[must_use]
    pub const fn envelope(&self) -> Option<&Envelope> {
        match self {
            Self::Prepare { env, .. }
            | Self::Checkpoint { env }
            | Self::ReadFile { env, .. }
            | Self::StartForward { env, .. }
            | Self::SourceStatus { env }
            | Self::Ship { env, .. }
            | Self::Quiesce { env, .. }
            | Self::Drain { env }
            | Self::Reopen { env }
            | Self::Activate { env, .. }
            | Self::Release { env, .. }
            | Self::Retire { env, .. }
            | Self::AbortSource { env }
            | Self::BeginTarget { env, .. }
            | Self::Pull { env, .. }
            | Self::TargetStatus { env }
            | Self::Records { env, .. }
            | Self::Missing { env, .. }
            | Self::Verify { env, .. }
            | Self::BecomeOwner { env, .. }
            | Self::DiscardTarget { env }
            | Self::ComparePage { env, .. } => Some(env),
            Self::Survey { .. }
            | Self::Write { .. }
            | Self::OpenSession { .. }
            | Self::Get { .. }
            | Self::Scan { .. } => None,
        }
    }

    /// The shard it is about.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        match self {
            Self::Survey { shard }
            | Self::Write { shard, .. }
            | Self::OpenSession { shard, .. }
            | Self::Get { shard, .. }
            | Self::Scan { shard, .. } => *shard,
            _ => match self.envelope() {
                Some(env) => env.shard,
                None => panic!("a request without an envelope is one of data"),
            },
        }
    }

    /// Its name, for logs and transcripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "Prepare",
            Self::Checkpoint { .. } => "Checkpoint",
            Self::ReadFile { .. } => "ReadFile",
            Self::StartForward { .. } => "StartForward",
            Self::SourceStatus { .. } => "SourceStatus",
            Self::Ship { .. } => "Ship",
            Self::Quiesce { .. } => "Quiesce",
            Self::Drain { .. } => "Drain",
            Self::Reopen { .. } => "Reopen",
            Self::Activate { .. } => "Activate",
            Self::Release { .. } => "Release",
            Self::Retire { .. } => "Retire",
            Self::AbortSource { .. } => "AbortSource",
            Self::BeginTarget { .. } => "BeginTarget",
            Self::Pull { .. } => "Pull",
            Self::TargetStatus { .. } => "TargetStatus",
            Self::Records { .. } => "Records",
            Self::Missing { .. } => "Missing",
            Self::Verify { .. } => "Verify",
            Self::BecomeOwner { .. } => "BecomeOwner",
            Self::DiscardTarget { .. } => "DiscardTarget",
            Self::ComparePage { .. } => "ComparePage",
            Self::Survey { .. } => "Survey",
            Self::Write { .. } => "Write",
            Self::OpenSession { .. } => "OpenSession",
            Self::Get { .. } => "Get",
            Self::Scan { .. } => "Scan",
        }
    }
}

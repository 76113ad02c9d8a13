//! The target's role in a migration: the pure guard of a copy that is being made.
//!
//! ```text
//! Empty -> Beginning -> Receiving -> Elected -> Owner
//!                          |  ^ verified again at each quiesce
//!                          v
//!                     Discarding -> Discarded
//! ```
//!
//! A role is one copy of one migration: another migration to the same node has a role and an instance of its own.
//! The rules it keeps:
//!
//! 1. A copy is begun only for a migration that the placement names with this node as its target.
//! 2. Records count only from the source's copy and of the source's epoch.
//! 3. Lower attempts and driver terms are refused; the placement holds both, so a restart forgets nothing.
//! 4. It becomes owner only through [`Elected`], which only a record read back makes that names this node, this
//!    copy and this migration's activation; and it serves only once its start record is durable.
//! 5. It deletes itself only after it has read that the migration is aborted, or that another took its place.

mod outcomes;
mod record;
mod replies;
mod role;

use serde::{Deserialize, Serialize};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term};

pub use role::TargetRole;

use crate::messages::{Request, Response};
use crate::placement::PlacementRecord;
use crate::source::{CallId, Hosting};
use crate::words::{Attempt, MigrationId, NodeId};

/// What a target keeps durably of the copy it makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetNote {
    /// The migration.
    pub migration: MigrationId,
    /// The shard.
    pub shard: ShardId,
    /// This copy.
    pub instance: InstanceId,
    /// Who owns it.
    pub source: NodeId,
    /// The owner's copy.
    pub source_instance: InstanceId,
    /// The owner's epoch.
    pub epoch: Epoch,
}

/// What the store and the log say at F.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedMarks {
    /// B.
    pub base: Seq,
    /// The digest at B.
    pub digest_base: LogDigest,
    /// Durable without a hole.
    pub durable: Seq,
    /// Applied.
    pub applied: Seq,
    /// What is missing of (B, F]; the first few ranges.
    pub missing: Vec<SeqRange>,
    /// The digest at what is applied.
    pub digest: LogDigest,
}

/// A record read back that makes this copy the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    epoch: Epoch,
    f: Seq,
}

impl Elected {
    /// Reads it out of the record.
    #[must_use]
    pub fn by(record: &PlacementRecord, at: &Hosting, migration: MigrationId) -> Option<Self> {
        let m = record.migration.as_ref().filter(|m| m.id == migration)?;
        let proof = m.proof.as_ref()?;
        let names_us = record.shard == at.shard
            && record.is_owned_by(&at.node, at.instance)
            && proof.target.instance == at.instance;
        names_us.then_some(Self {
            epoch: record.epoch,
            f: proof.source.f,
        })
    }

    /// The epoch it owns the shard in.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// F: its start record comes after.
    #[must_use]
    pub const fn f(&self) -> Seq {
        self.f
    }
}

/// What happens to a target.
#[derive(Clone, Debug)]
pub enum TargetEvent {
    /// A request came in.
    Request {
        /// Which call.
        call: CallId,
        /// What.
        request: Box<Request>,
    },
    /// Answers [`TargetAction::ReadPlacement`]; also fed when a watch shows a new record.
    PlacementRead(Box<PlacementRecord>),
    /// Answers [`TargetAction::ReadPlacement`]: it could not be read.
    PlacementUnread,
    /// Answers [`TargetAction::Begin`]: bytes free on the disk, or an error's text.
    Begun(Result<u64, String>),
    /// Answers [`TargetAction::Verify`].
    Verified {
        /// Of this attempt.
        attempt: Attempt,
        /// At this F.
        f: Seq,
        /// The marks, or an error's text.
        marks: Result<VerifiedMarks, String>,
    },
    /// Answers [`TargetAction::StartTerm`]: the term and the Seq of its durable start record, or an error's text.
    TermStarted(Result<(Term, Seq), String>),
    /// Answers [`TargetAction::Discard`]: bytes freed, or an error's text.
    Discarded(Result<u64, String>),
}

/// What a target must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Carry the request out (it changes no state of the role) and answer the call with what it gives:
    /// `Pull`, `TargetStatus`, `Records`, `Missing`, `ComparePage`. Records are acknowledged once durable.
    Perform {
        /// Which call.
        call: CallId,
        /// What.
        request: Box<Request>,
    },
    /// Answer the call.
    Reply {
        /// Which call.
        call: CallId,
        /// With this.
        response: Response,
    },
    /// Read the shard's record. -> `PlacementRead` or `PlacementUnread`
    ReadPlacement,
    /// Make the copy's directory with this note in it, durably. -> `Begun`
    Begin(TargetNote),
    /// Say how it stands at F, once what came is applied. -> `Verified`
    Verify {
        /// Of this attempt.
        attempt: Attempt,
        /// F.
        f: Seq,
    },
    /// Serve: check that the log ends exactly at F (or, after a restart, that a term of this epoch follows F),
    /// start the term, and once its start record is durable and applied, open gate and reads. -> `TermStarted`
    StartTerm {
        /// The epoch.
        epoch: Epoch,
        /// F.
        f: Seq,
    },
    /// Delete this copy: log, store, directory. -> `Discarded`
    Discard {
        /// Which copy.
        instance: InstanceId,
    },
}

//! The source's role in a migration: the pure guard between what a driver asks and what the owner does.
//!
//! ```text
//! Serving -> Closing -> Quiesced -> Drained -> Noting -> Swapping -> GaveAway -> Retiring -> Retired
//!    ^                     |           |          (only a record)       |
//!    +---------------------+-----------+--------------------------------+
//! ```
//!
//! Events in, actions out. Every action that says so is answered by one event; one command is worked on at a
//! time. The rules it keeps:
//!
//! 1. The gate is closed only for the attempt and revision that the placement record, read for it, holds.
//! 2. From quiesce on it re-opens by itself at 80 % of the pause's bound, or when the record has moved on, but
//!    only as long as no "sent" note was begun.
//! 3. The swap leaves only after the note is durable. From then on only a record at a higher revision decides;
//!    the same swap may be sent again until there is one.
//! 4. An attempt that was re-opened is never quiesced again; lower attempts and driver terms are refused. (The
//!    placement holds both, so a restart forgets nothing.)
//! 5. No read is answered from the drain until it re-opens.
//! 6. After a restart with a note it serves nothing before a record was read.
//! 7. The copy is deleted only once a record names it as frozen and retiring; the deletion is asked for once, and
//!    again only after it failed.

mod commands;
mod outcomes;
mod record;
mod replies;
mod role;
mod states;

use serde::{Deserialize, Serialize};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, ShardId, Term};

pub use role::SourceRole;
pub use states::{Decision, Drained, Quiesced, Sent, SourceNote};

use crate::messages::{Request, Response};
use crate::placement::PlacementRecord;
use crate::words::{Attempt, NodeId, Now, Revision};

/// Names one call of a request, so that its answer finds it. Never used twice by one caller.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CallId(pub u64);

/// Which copy a role speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosting {
    /// The shard.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
    /// This copy.
    pub instance: InstanceId,
}

/// What the store and the log say once drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainedMarks {
    /// The term.
    pub term: Term,
    /// B of this migration's checkpoint.
    pub base: Seq,
    /// The digest at B.
    pub digest_base: LogDigest,
    /// Durable.
    pub durable: Seq,
    /// Applied.
    pub applied: Seq,
    /// The digest at what is applied.
    pub digest: LogDigest,
}

/// What happens to a source.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// A request came in.
    Request {
        /// Which call.
        call: CallId,
        /// What.
        request: Box<Request>,
    },
    /// Answers [`SourceAction::ReadPlacement`]; also fed when a watch shows a new record.
    PlacementRead(Box<PlacementRecord>),
    /// Answers [`SourceAction::ReadPlacement`]: it could not be read.
    PlacementUnread,
    /// Answers [`SourceAction::CloseGate`].
    GateClosed {
        /// Of this attempt.
        attempt: Attempt,
        /// F; `None` where the gate could not be closed (the log has failed).
        f: Option<Seq>,
    },
    /// Answers [`SourceAction::Drain`].
    Drained {
        /// Of this attempt.
        attempt: Attempt,
        /// The marks; an error's text where it failed.
        marks: Result<DrainedMarks, String>,
    },
    /// Answers [`SourceAction::PersistSent`]: durable, or not.
    NotePersisted {
        /// Of this attempt.
        attempt: Attempt,
        /// It is durable.
        durable: bool,
    },
    /// Answers [`SourceAction::Swap`]: it won.
    Swapped(Box<PlacementRecord>),
    /// Answers [`SourceAction::Swap`]: it lost to this record.
    SwapConflict(Box<PlacementRecord>),
    /// Answers [`SourceAction::Swap`]: no reply, or an error that doesn't say.
    SwapUnknown,
    /// Answers [`SourceAction::Delete`]: bytes freed, or an error's text.
    Deleted(Result<u64, String>),
    /// A timer set earlier.
    Timer(SourceTimer),
}

/// The source's timers; setting one again replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceTimer {
    /// The pause nears its bound: re-open.
    Reopen,
    /// A swap or a record is outstanding without a reply: read the record again.
    Decide,
    /// The shard was given away and no driver released the parked requests: do it alone.
    Release,
}

/// What a source must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAction {
    /// Carry the request out (it changes no state of the role) and answer the call with what it gives:
    /// `Prepare`, `Checkpoint`, `ReadFile`, `StartForward`, `SourceStatus`, `Ship`, `ComparePage`.
    /// A checkpoint needs a durable hold first; its B is used once the log is durable up to there.
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
    /// Close the log's gate and submit the note; needn't wait for the note, the drain's sync takes it along.
    /// -> `GateClosed`
    CloseGate {
        /// Of this attempt.
        attempt: Attempt,
        /// To submit, after the gate is closed.
        note: SourceNote,
    },
    /// Close reads at once, then wait until durable = applied = `f` and forwards in flight are done or given up.
    /// -> `Drained`
    Drain {
        /// Of this attempt.
        attempt: Attempt,
        /// F.
        f: Seq,
    },
    /// Make the note durable. -> `NotePersisted`
    PersistSent {
        /// Of this attempt.
        attempt: Attempt,
        /// What to keep.
        note: SourceNote,
    },
    /// Swap the record in; only ever asked once its note is durable. -> `Swapped`, `SwapConflict`, `SwapUnknown`
    Swap {
        /// Against this revision.
        expected: Revision,
        /// The record.
        record: Box<PlacementRecord>,
    },
    /// Open the gate and the reads: this copy owns the shard, as the record read says. After a restart, this is
    /// where the log's next term may start.
    Open,
    /// Freeze the copy: no write, no new read; parked and later requests are for the new owner.
    GiveAway {
        /// The new owner.
        owner: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Let the parked requests go to the new owner (once; again is harmless), and answer the call, where there
    /// is one, with `Released`.
    Release {
        /// Which call.
        call: Option<CallId>,
    },
    /// Stop forwarding, remove the migration's holds and checkpoint. A reply right behind it is sent when that is done.
    StopForwarding,
    /// Delete this copy: log, store, directory. -> `Deleted`
    Delete {
        /// Which copy.
        instance: InstanceId,
    },
    /// Set a timer.
    SetTimer {
        /// Which.
        timer: SourceTimer,
        /// When.
        at: Now,
    },
}

//! The driver: carries one migration out, from the gate to the deleted copy, through answers that get lost and
//! nodes that crash.
//!
//! Events in, actions out: [`Machine::handle`], then [`Machine::next_action`] until there is none. One command, one
//! swap or one read is outstanding at a time; a late answer to an earlier one is ignored. [`Step`] is what it is
//! at, and [`Step::after`] the one table of what follows. The rules it keeps:
//!
//! 1. It starts and resumes only with a [`SafeConfig`]; each driver raises the driver term in the record first.
//! 2. Nothing is decided by a swap without a reply: the record is read back.
//! 3. The attempt is raised by a swap before each quiesce; no swap of the driver lies in the pause.
//! 4. Activate is asked for only with marks that prove; the source proves again and makes the swap.
//! 5. Before Activate it gives up by an abort swap; once the record says that the target owns the shard, it goes
//!    only forward, and tries for ever.
//! 6. The old copy's deletion is asked for only after the comparison found no difference, the grace time is over
//!    and a swap decided it. The grace time counts while a driver is up, and is noted in the record in parts, so
//!    that a restart goes on from there.
//! 7. What it shows never runs ahead of the record: Activate, Cleanup, Done and Aborted are shown once a record says
//!    so. The phases go forward only, but for a pause that is given up, which goes back to dual-write.
//! 8. An operator's wish is in the record before it is acted on, and no swap for it lies in the pause.
//! 9. Paused by an operator it sends nothing, and looks at the record now and then; from Activate on it stands still in
//!    Cleanup only.
//! 10. No step follows itself without a wait unless it got something done; before Activate none goes on for ever:
//!     it ends, or the migration is aborted with a reason. Paused it waits for the operator.

mod answers;
mod ask;
mod catch_up;
mod pace;
mod progress;
mod reads;
mod reserve;
mod run;
mod steps;
mod wishes;

use std::fmt;

use thiserror::Error;

use crate::certificate::Certificate;
use crate::compare::Difference;
use crate::messages::{Request, Response};
use crate::placement::PlacementRecord;
use crate::source::CallId;
use crate::wishes::Limits;
use crate::words::{DriverTerm, NodeId, Now, Revision};

pub use progress::Progress;
pub use run::Machine;
pub use steps::{Signal, Step};

#[cfg(doc)]
use crate::gate::SafeConfig;

/// Whom a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The owner that gives the shard away.
    Source,
    /// The node that is to own it.
    Target,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "the source",
            Self::Target => "the target",
        })
    }
}

/// Why a call got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection, or none in time: it may or may not have arrived.
    #[error("no answer in time: see that the node is up and can be reached")]
    Unreachable,
    /// What came back was no answer.
    #[error("an answer that can't be read: see that both nodes are of the same version")]
    Garbled,
}

/// What an operator asks of a running migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operator {
    /// Give it up, if it has not activated.
    Abort {
        /// Why.
        reason: String,
    },
    /// End `hold`: cut over once caught up.
    Cutover,
    /// End the grace time now, also of a migration that was paused in Cleanup.
    Cleanup,
    /// Stand still; a quiesce under way is given up. No effect from Activate on, but in Cleanup.
    Pause,
    /// Go on.
    Resume,
    /// Change limits; refused out of their bounds.
    SetLimits(Limits),
}

/// The driver's timers; setting one again replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Try the failed step again.
    Backoff,
    /// Ask again how far it is.
    Poll,
    /// The grace time, or a part of it that is to be noted, is over.
    Grace,
}

/// What happens to a driver.
#[derive(Clone, Debug)]
pub enum Event {
    /// A call was answered.
    Replied {
        /// Which.
        call: CallId,
        /// With this.
        response: Box<Response>,
    },
    /// A call got no answer.
    Failed {
        /// Which.
        call: CallId,
        /// Why.
        error: CallError,
    },
    /// Answers [`Action::Swap`]: it won; the record as it is now.
    Swapped(Box<PlacementRecord>),
    /// Answers [`Action::Swap`]: it lost to this record.
    SwapConflict(Box<PlacementRecord>),
    /// Answers [`Action::Swap`]: no reply, or an error that doesn't say.
    SwapUnknown,
    /// Answers [`Action::ReadPlacement`].
    PlacementRead(Box<PlacementRecord>),
    /// Answers [`Action::ReadPlacement`]: it could not be read.
    PlacementUnread,
    /// A timer set earlier.
    Timer(Timer),
    /// An operator's wish.
    Operator(Operator),
}

/// What a driver must do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send it; give up by a deadline of the caller's. The swap that the command rests on is durable. -> `Replied`
    /// or `Failed`
    Send {
        /// Which call.
        call: CallId,
        /// To whom.
        to: Peer,
        /// Which node that is.
        node: NodeId,
        /// What.
        request: Box<Request>,
    },
    /// Swap the record in; durable before it is answered. -> `Swapped`, `SwapConflict` or `SwapUnknown`
    Swap {
        /// Against this revision.
        expected: Revision,
        /// The record.
        record: Box<PlacementRecord>,
    },
    /// Read the shard's record. -> `PlacementRead` or `PlacementUnread`
    ReadPlacement,
    /// Set a timer. -> `Timer`
    SetTimer {
        /// Which.
        timer: Timer,
        /// When.
        at: Now,
    },
    /// Show it to whoever watches, before the next action.
    Progress(Box<Progress>),
    /// The target serves and the record holds this certificate: write it down, tell who waits.
    Certified(Box<Certificate>),
    /// It is over for this driver; no event is wanted any more.
    Finish(Outcome),
}

/// How it ended for this driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The target serves and the old copy is deleted.
    Done,
    /// The source serves on.
    Aborted {
        /// Why.
        reason: String,
    },
    /// It could not even begin: nothing was changed.
    NotBegun {
        /// Why.
        reason: String,
    },
    /// Another driver carries it out, or another migration came after it.
    Superseded {
        /// Whose record it is now.
        driver: Option<(NodeId, DriverTerm)>,
    },
    /// The target serves, but its copy differs from the frozen one, which is kept.
    CopiesDiffer {
        /// How many differences were found.
        found: u64,
        /// The first ones.
        differences: Vec<Difference>,
    },
}

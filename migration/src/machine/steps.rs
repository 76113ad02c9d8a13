//! The driver's steps and the one table of how they follow each other.

use crate::words::Phase;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

names! {
    /// What the driver is at: one command to one peer, one swap, one read, or one wait.
    Step {
        /// Swap the migration in.
        Begin,
        /// Swap the driver's term up.
        TakeOver,
        /// Source: prechecks and holds.
        Prepare,
        /// Target: host a copy.
        BeginTarget,
        /// Swap the phase, with the target's copy.
        EnterBulkCopy,
        /// Source: make the checkpoint.
        Checkpoint,
        /// Target: fetch it.
        Pull,
        /// Source: forward, while the target fetches.
        ForwardCopy,
        /// Target: is it opened?
        Copying,
        /// Swap the phase, with B.
        EnterDualWrite,
        /// Source: forward (again, after a restart).
        Forward,
        /// Source: how far, and is it forwarding?
        Status,
        /// Target: what is missing?
        Missing,
        /// Source: ship a round of it.
        Ship,
        /// Swap the attempt up.
        RaiseAttempt,
        /// Source: close the gate.
        Quiesce,
        /// Source: reach F, close reads.
        Drain,
        /// Target: what is missing up to F?
        LastMissing,
        /// Source: ship it.
        LastShip,
        /// Target: marks at F.
        Verify,
        /// Source: give the shard away.
        Activate,
        /// Source: give this quiesce up.
        Reopen,
        /// Read what the placement says.
        Reread,
        /// Target: serve.
        BecomeOwner,
        /// Source: let the parked requests go.
        Release,
        /// Target: which files was it made of?
        Files,
        /// Swap the phase, with the certificate.
        EnterCleanup,
        /// Source: a page of the frozen copy.
        CompareSource,
        /// Target: a page of the serving copy.
        CompareTarget,
        /// Wait for the grace time's end.
        Grace,
        /// Swap: how much of the grace time is over, so that a restart goes on from there.
        NoteGrace,
        /// Swap: the frozen copy's deletion is decided.
        BeginRetire,
        /// Source: delete it.
        Retire,
        /// Swap: the end.
        FinishCleanup,
        /// Swap: what operators ask for.
        NoteWishes,
        /// Wait until an operator says to go on.
        Paused,
        /// Swap: aborted.
        Abort,
        /// Source: serve on, drop the holds.
        AbortSource,
        /// Target: delete the copy.
        DiscardTarget,
        /// Nothing more.
        Over,
    }
}

names! {
    /// How a step came out.
    Signal {
        /// Its aim is reached.
        Done,
        /// Its aim needs another step, or the step once more.
        More,
        /// Not yet: look again later.
        Wait,
        /// Failed in passing: the same once more, after a while.
        Again,
        /// The quiesce is over without an activation.
        Spoiled,
        /// The peer knows nothing of the migration any more.
        Forgotten,
        /// Nobody knows how it stands but the placement.
        Lost,
        /// It can't succeed, or the operator gave it up.
        Hopeless,
        /// The record says: nothing copied yet.
        AtStart,
        /// The record says: dual-write.
        AtDualWrite,
        /// The record says: the target owns the shard.
        AtActivate,
        /// The record says: cleanup.
        AtCleanup,
        /// The record says: the old copy's deletion is decided.
        AtRetire,
        /// The record says: aborted.
        AtAborted,
        /// The record says: another driver, another migration, or done.
        AtEnd,
    }
}

impl Step {
    /// The phase it shows as. Asking for the activation is the delta pass's end: the source may still refuse and
    /// re-open, so Activate is shown only once a record says that the target owns the shard, and there is no way
    /// back from it.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Begin
            | Self::TakeOver
            | Self::Prepare
            | Self::BeginTarget
            | Self::EnterBulkCopy => Phase::Plan,
            Self::Checkpoint
            | Self::Pull
            | Self::ForwardCopy
            | Self::Copying
            | Self::EnterDualWrite => Phase::BulkCopy,
            Self::Forward
            | Self::Status
            | Self::Missing
            | Self::Ship
            | Self::RaiseAttempt
            | Self::Reopen
            | Self::Reread
            | Self::NoteWishes
            | Self::Paused => Phase::DualWrite,
            Self::Quiesce => Phase::StopDualWrite,
            Self::Drain => Phase::Drain,
            Self::LastMissing | Self::LastShip | Self::Verify | Self::Activate => Phase::DeltaPass,
            Self::BecomeOwner | Self::Release | Self::Files | Self::EnterCleanup => Phase::Activate,
            Self::CompareSource
            | Self::CompareTarget
            | Self::Grace
            | Self::NoteGrace
            | Self::BeginRetire
            | Self::Retire
            | Self::FinishCleanup => Phase::Cleanup,
            Self::Abort | Self::AbortSource | Self::DiscardTarget => Phase::Aborted,
            Self::Over => Phase::Done,
        }
    }

    /// What it does, for the reasons that people read: "... took 40 ms", "gave up ...".
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Begin => "beginning the migration",
            Self::TakeOver => "taking the migration over",
            Self::Prepare => "the source's prechecks",
            Self::BeginTarget => "hosting a copy at the target",
            Self::EnterBulkCopy => "entering bulk-copy",
            Self::Checkpoint => "making the checkpoint",
            Self::Pull | Self::Copying => "the copy of the checkpoint",
            Self::ForwardCopy | Self::Forward => "forwarding",
            Self::EnterDualWrite => "entering dual-write",
            Self::Status => "asking the source how it stands",
            Self::Missing => "asking the target what it misses",
            Self::Ship => "a delta round",
            Self::RaiseAttempt => "raising the attempt",
            Self::Quiesce => "closing the gate",
            Self::Drain => "the drain",
            Self::LastMissing | Self::LastShip => "the delta pass",
            Self::Verify => "the target's verification",
            Self::Activate => "giving the shard away",
            Self::Reopen => "re-opening the source",
            Self::Reread => "reading the placement",
            Self::BecomeOwner => "the target's taking over",
            Self::Release => "releasing the parked requests",
            Self::Files => "asking for the copied files",
            Self::EnterCleanup => "entering cleanup",
            Self::CompareSource | Self::CompareTarget => "the comparison of the copies",
            Self::Grace | Self::NoteGrace => "the grace time",
            Self::BeginRetire | Self::Retire => "deleting the old copy",
            Self::FinishCleanup => "ending the migration",
            Self::NoteWishes => "noting the operator's wish",
            Self::Paused => "being paused",
            Self::Abort => "aborting",
            Self::AbortSource => "telling the source of the abort",
            Self::DiscardTarget => "deleting the target's copy",
            Self::Over => "nothing",
        }
    }

    /// Whether an abort may still be asked for.
    #[must_use]
    pub const fn may_abort(self) -> bool {
        self.phase().before_activate()
    }

    /// Whether the step is a swap.
    #[must_use]
    pub const fn is_swap(self) -> bool {
        matches!(
            self,
            Self::Begin
                | Self::TakeOver
                | Self::EnterBulkCopy
                | Self::EnterDualWrite
                | Self::RaiseAttempt
                | Self::EnterCleanup
                | Self::NoteGrace
                | Self::BeginRetire
                | Self::FinishCleanup
                | Self::NoteWishes
                | Self::Abort
        )
    }

    /// Whether it is met in several phases, or leads into one only once its swap has won: what was shown before stays.
    /// (Until an abort's swap has won, the shard may still be given away.)
    #[must_use]
    pub const fn shows_no_phase(self) -> bool {
        matches!(
            self,
            Self::Reread | Self::TakeOver | Self::NoteWishes | Self::Paused | Self::Abort
        )
    }

    /// Whether it may be put off: to note an operator's wish first, or as long as the migration is paused. Not what
    /// clients wait for, and not what only carries out a decision that the record holds.
    #[must_use]
    pub const fn may_wait(self) -> bool {
        matches!(
            self,
            Self::Prepare
                | Self::BeginTarget
                | Self::EnterBulkCopy
                | Self::Checkpoint
                | Self::Pull
                | Self::ForwardCopy
                | Self::Copying
                | Self::EnterDualWrite
                | Self::Forward
                | Self::Status
                | Self::Missing
                | Self::Ship
                | Self::RaiseAttempt
                | Self::Quiesce
                | Self::CompareSource
                | Self::CompareTarget
                | Self::Grace
                | Self::NoteGrace
                | Self::BeginRetire
        )
    }

    /// Whether it lies in the pause.
    #[must_use]
    pub const fn in_pause(self) -> bool {
        matches!(
            self,
            Self::Quiesce
                | Self::Drain
                | Self::LastMissing
                | Self::LastShip
                | Self::Verify
                | Self::Activate
        )
    }

    /// The step that follows: the one place where the order of a migration is written. `None` is a signal that
    /// this step does not give.
    #[must_use]
    pub const fn after(self, signal: Signal) -> Option<Self> {
        match signal {
            Signal::Done => self.after_done(),
            Signal::More => self.after_more(),
            Signal::Again => match self {
                Self::Over | Self::Grace | Self::Paused => None,
                // A swap is asked for again only after the record was read.
                _ if self.is_swap() => None,
                Self::Activate => None,
                _ => Some(self),
            },
            Signal::Wait => match self {
                Self::Copying => Some(Self::Copying),
                Self::Status => Some(Self::Forward),
                Self::Missing => Some(Self::Status),
                Self::LastMissing | Self::Verify => Some(Self::LastMissing),
                // Its record may say otherwise by now.
                Self::Paused => Some(Self::Reread),
                _ => None,
            },
            Signal::Spoiled => {
                if self.in_pause() {
                    Some(Self::Reopen)
                } else {
                    None
                }
            }
            Signal::Lost => match self {
                Self::Over | Self::Grace | Self::Paused | Self::Reread => None,
                _ => Some(Self::Reread),
            },
            Signal::Forgotten => match self {
                Self::AbortSource => Some(Self::DiscardTarget),
                Self::DiscardTarget => Some(Self::Over),
                Self::Release => Some(Self::Files),
                Self::CompareSource => Some(Self::Grace),
                Self::Retire => Some(Self::FinishCleanup),
                // A target that forgot has lost its copy; a source says so only as the placement does.
                Self::BeginTarget
                | Self::Pull
                | Self::Copying
                | Self::Missing
                | Self::LastMissing
                | Self::Verify => Some(Self::Abort),
                Self::Paused => None,
                _ if self.may_abort() && !self.is_swap() => Some(Self::Reread),
                _ => None,
            },
            Signal::Hopeless => match self {
                Self::Begin => Some(Self::Over),
                Self::CompareSource | Self::CompareTarget => Some(Self::Over),
                Self::AbortSource => Some(Self::DiscardTarget),
                Self::DiscardTarget => Some(Self::Over),
                Self::Release => Some(Self::Files),
                Self::NoteWishes | Self::Paused => None,
                _ if self.may_abort() => Some(Self::Abort),
                _ => None,
            },
            _ => self.after_record(signal),
        }
    }

    const fn after_done(self) -> Option<Self> {
        Some(match self {
            Self::Begin => Self::Prepare,
            Self::Prepare => Self::BeginTarget,
            Self::BeginTarget => Self::EnterBulkCopy,
            Self::EnterBulkCopy => Self::Checkpoint,
            Self::Checkpoint => Self::Pull,
            Self::Pull => Self::ForwardCopy,
            Self::ForwardCopy => Self::Copying,
            Self::Copying => Self::EnterDualWrite,
            Self::EnterDualWrite | Self::Forward | Self::Ship | Self::Reopen => Self::Status,
            Self::Status => Self::Missing,
            Self::Missing => Self::RaiseAttempt,
            Self::RaiseAttempt => Self::Quiesce,
            Self::Quiesce => Self::Drain,
            Self::Drain | Self::LastShip => Self::LastMissing,
            Self::LastMissing => Self::Verify,
            Self::Verify => Self::Activate,
            Self::BecomeOwner => Self::Release,
            Self::Release => Self::Files,
            Self::Files => Self::EnterCleanup,
            Self::EnterCleanup => Self::CompareSource,
            Self::CompareSource | Self::CompareTarget => Self::Grace,
            Self::Grace => Self::BeginRetire,
            Self::NoteGrace => Self::Grace,
            Self::BeginRetire => Self::Retire,
            Self::Retire => Self::FinishCleanup,
            Self::FinishCleanup => Self::Over,
            Self::Abort => Self::AbortSource,
            Self::AbortSource => Self::DiscardTarget,
            Self::DiscardTarget => Self::Over,
            // What follows a record read is what the record says.
            Self::TakeOver
            | Self::Activate
            | Self::Reread
            | Self::NoteWishes
            | Self::Paused
            | Self::Over => return None,
        })
    }

    const fn after_more(self) -> Option<Self> {
        Some(match self {
            // The record is past it already: a driver resumed.
            Self::EnterBulkCopy => Self::Forward,
            // The copy stands still: its fetching may have died with the target's process.
            Self::Copying => Self::Pull,
            Self::Status => Self::Forward,
            Self::Missing => Self::Ship,
            Self::LastMissing => Self::LastShip,
            Self::CompareSource | Self::CompareTarget => Self::CompareSource,
            Self::Grace => Self::NoteGrace,
            _ => return None,
        })
    }

    const fn after_record(self, signal: Signal) -> Option<Self> {
        if matches!(self, Self::Over) {
            return None;
        }
        let aborting = matches!(self, Self::Abort);
        Some(match signal {
            Signal::AtStart | Signal::AtDualWrite if aborting => Self::Abort,
            Signal::AtStart => Self::Prepare,
            Signal::AtDualWrite => match self {
                Self::TakeOver => Self::Prepare,
                _ => Self::Reopen,
            },
            Signal::AtActivate => Self::BecomeOwner,
            Signal::AtCleanup => Self::CompareSource,
            Signal::AtRetire => Self::Retire,
            Signal::AtAborted => Self::AbortSource,
            Signal::AtEnd => Self::Over,
            _ => return None,
        })
    }
}

//! The source's states that must not be skipped, as types: each step consumes one and gives the next.
//!
//! [`Quiesced`] and [`Drained`] can re-open; [`Sent`] can't: from there only a record read back decides. A
//! [`Sent`] comes only out of a [`Drained`] before its deadline, and only with proof.

use serde::{Deserialize, Serialize};
use watershed_wal::Seq;

use crate::evidence::{Evidence, SourceMarks, TargetMarks};
use crate::messages::{Refused, RefusedKind};
use crate::placement::PlacementRecord;
use crate::words::{Attempt, Now, Revision};

/// The gate is closed: F is fixed, new writes are parked.
#[derive(Debug)]
pub struct Quiesced {
    record: PlacementRecord,
    attempt: Attempt,
    f: Seq,
    deadline: Now,
}

impl Quiesced {
    /// The gate was closed at `f`, after `record` was read with this attempt; `deadline` is when it re-opens.
    #[must_use]
    pub const fn new(record: PlacementRecord, attempt: Attempt, f: Seq, deadline: Now) -> Self {
        Self {
            record,
            attempt,
            f,
            deadline,
        }
    }

    /// F.
    #[must_use]
    pub const fn f(&self) -> Seq {
        self.f
    }

    /// Which quiesce.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The placement's revision at quiesce.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.record.revision
    }

    /// Whether it is time to re-open.
    #[must_use]
    pub fn is_over(&self, now: Now) -> bool {
        now >= self.deadline
    }

    /// The watermarks are reached and no read is answered.
    #[must_use]
    pub const fn drained(self, marks: SourceMarks) -> Drained {
        Drained {
            quiesced: self,
            marks,
        }
    }
}

/// Durable = applied = F; no read is answered.
#[derive(Debug)]
pub struct Drained {
    quiesced: Quiesced,
    marks: SourceMarks,
}

impl Drained {
    /// What the source reported.
    #[must_use]
    pub const fn marks(&self) -> &SourceMarks {
        &self.marks
    }

    /// The quiesce it came from.
    #[must_use]
    pub const fn quiesced(&self) -> &Quiesced {
        &self.quiesced
    }

    /// Proves the marks and makes the swap. Past the deadline, or without proof, it stays drained.
    ///
    /// # Errors
    /// The state itself, and why.
    pub fn send(
        self,
        now: Now,
        source: &SourceMarks,
        target: &TargetMarks,
    ) -> Result<Sent, Box<(Self, Refused)>> {
        let refuse =
            |state, kind, message: String| Err(Box::new((state, Refused::new(kind, message))));
        if self.quiesced.is_over(now) {
            let message = "the pause is at its bound: raise the attempt and quiesce again";
            return refuse(self, RefusedKind::NotReady, message.into());
        }
        if *source != self.marks {
            let message = "these are not the marks this source reported: drain again";
            return refuse(self, RefusedKind::Conflict, message.into());
        }
        let record = &self.quiesced.record;
        let gate = match record.migration.as_ref().map(|m| m.safe_config()) {
            Some(Ok(gate)) => gate,
            Some(Err(refusal)) => return refuse(self, RefusedKind::NotSafe, refusal.to_string()),
            None => {
                let message = "the placement names no migration: begin one";
                return refuse(self, RefusedKind::Conflict, message.into());
            }
        };
        let next = Evidence::prove(&gate, &self.marks, target)
            .map_err(|error| error.to_string())
            .and_then(|proof| record.activate(&proof).map_err(|error| error.to_string()));
        match next {
            Ok(next) => Ok(Sent {
                expected: record.revision,
                next: Box::new(next),
            }),
            Err(message) => refuse(self, RefusedKind::Conflict, message),
        }
    }
}

/// The swap that gives the shard away, as noted durably before it leaves. There is no way back from here but a
/// record that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    expected: Revision,
    next: Box<PlacementRecord>,
}

/// What a record read back says of a swap that was sent.
#[derive(Debug)]
pub enum Decision {
    /// It won: the shard is the new owner's.
    WonBy(Box<PlacementRecord>),
    /// It lost, and can never win any more: the record moved on without it.
    LostTo(Box<PlacementRecord>),
    /// Not decided: the record has not moved. The same swap may be sent again.
    Undecided(Sent),
}

impl Sent {
    /// Against which revision.
    #[must_use]
    pub const fn expected(&self) -> Revision {
        self.expected
    }

    /// The record to swap in.
    #[must_use]
    pub const fn next(&self) -> &PlacementRecord {
        &self.next
    }

    /// Decides by the record read back, and by nothing else.
    ///
    /// A record at the expected revision decides nothing even where the swap got an error: it may be under way.
    #[must_use]
    pub fn decide(self, record: &PlacementRecord) -> Decision {
        if record.revision <= self.expected {
            return Decision::Undecided(self);
        }
        let given = record.epoch >= self.next.epoch;
        if given {
            Decision::WonBy(Box::new(record.clone()))
        } else {
            Decision::LostTo(Box::new(record.clone()))
        }
    }
}

/// What the source keeps durably about a pause, in a note of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceNote {
    /// The gate was closed for this attempt.
    Quiesced {
        /// Which.
        attempt: Attempt,
    },
    /// The swap may have left.
    Sent {
        /// Which attempt.
        attempt: Attempt,
        /// The swap.
        swap: Sent,
    },
}

impl SourceNote {
    /// Which quiesce it is of.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        match self {
            Self::Quiesced { attempt } | Self::Sent { attempt, .. } => *attempt,
        }
    }
}

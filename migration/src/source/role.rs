//! The source's role itself: its states, who is obeyed, and where each event goes. What is done with a command, a
//! record and an outcome is in the files of those names; the rules are one level up.

use std::mem;

use super::record::DECIDE_MS;
use super::states::{Drained, Quiesced, Sent, SourceNote};
use super::{CallId, Hosting, SourceAction, SourceEvent, SourceTimer};
use crate::messages::{Envelope, Refused, RefusedKind, Request, Response};
use crate::placement::{HighestSeen, PlacementRecord};
use crate::words::{Attempt, DriverTerm, MigrationId, Now};

#[derive(Debug)]
pub(super) enum State {
    /// The owner; forwarding or not is the engine's to know.
    Serving,
    /// The gate is being closed.
    Closing {
        record: Box<PlacementRecord>,
        attempt: Attempt,
        deadline: Now,
    },
    Quiesced(Quiesced),
    Drained(Drained),
    /// The note is being made durable: the swap has not left.
    Noting(Attempt, Sent),
    /// The swap may have left.
    Swapping(Attempt, Sent),
    /// The note could not be made durable, but may be found after a restart: neither the swap nor opening is
    /// safe. A record that moved on, or the restart that a failed log needs anyway, decides.
    Stuck(Attempt, Sent),
    /// A note was found at the start and no record has been read yet.
    Restarted(Option<(Attempt, Sent)>),
    GaveAway(Box<PlacementRecord>),
    /// The copy is being deleted: asked for once, whatever records and commands come meanwhile.
    Retiring(Box<PlacementRecord>),
    Retired {
        bytes: u64,
    },
}

/// Whose commands are obeyed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Obeyed {
    pub(super) migration: MigrationId,
    pub(super) attempt: Attempt,
    pub(super) driver_term: DriverTerm,
}

/// The source's role: see the [module](crate::source).
#[derive(Debug)]
pub struct SourceRole {
    pub(super) at: Hosting,
    pub(super) seen: HighestSeen,
    pub(super) obeyed: Option<Obeyed>,
    /// Attempts up to here were re-opened.
    pub(super) spent: Attempt,
    pub(super) state: State,
    /// The command being worked on.
    pub(super) pending: Option<(CallId, Box<Request>)>,
    pub(super) out: Vec<SourceAction>,
}

impl SourceRole {
    /// The role of a copy that serves, as the record its node read says. `seen` is what the node kept of it.
    #[must_use]
    pub const fn new(at: Hosting, seen: HighestSeen) -> Self {
        Self {
            at,
            seen,
            obeyed: None,
            spent: Attempt(0),
            state: State::Serving,
            pending: None,
            out: Vec::new(),
        }
    }

    /// The role after a restart, before any record was read: it serves nothing until one was.
    #[must_use]
    pub fn recover(
        at: Hosting,
        seen: HighestSeen,
        note: Option<SourceNote>,
    ) -> (Self, Vec<SourceAction>) {
        let mut role = Self::new(at, seen);
        role.spent = note.as_ref().map_or(Attempt(0), SourceNote::attempt);
        role.state = State::Restarted(match note {
            Some(SourceNote::Sent { attempt, swap }) => Some((attempt, swap)),
            _ => None,
        });
        (role, vec![SourceAction::ReadPlacement])
    }

    /// Whether this copy may answer reads and take writes.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Serving)
    }

    /// Whether the copy was given away: every request is for the new owner.
    #[must_use]
    pub const fn gave_away(&self) -> bool {
        matches!(
            self.state,
            State::GaveAway(_) | State::Retiring(_) | State::Retired { .. }
        )
    }

    /// The highest record seen, for the node to keep (rule 16).
    #[must_use]
    pub const fn seen(&self) -> HighestSeen {
        self.seen
    }

    /// The state's name, for status and transcripts.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            State::Serving => "serving",
            State::Closing { .. } => "closing",
            State::Quiesced(_) => "quiesced",
            State::Drained(_) => "drained",
            State::Noting(..) => "noting",
            State::Swapping(..) => "swapping",
            State::Stuck(..) => "stuck",
            State::Restarted(_) => "restarted",
            State::GaveAway(_) => "gave-away",
            State::Retiring(_) => "retiring",
            State::Retired { .. } => "retired",
        }
    }

    /// Takes an event, gives what to do.
    pub fn handle(&mut self, now: Now, event: SourceEvent) -> Vec<SourceAction> {
        match event {
            SourceEvent::Request { call, request } => self.request(now, call, request),
            SourceEvent::PlacementRead(record) => self.placement(now, &record),
            SourceEvent::PlacementUnread => self.unread(now),
            SourceEvent::GateClosed { attempt, f } => self.gate_closed(now, attempt, f),
            SourceEvent::Drained { attempt, marks } => self.drained(now, attempt, marks),
            SourceEvent::NotePersisted { attempt, durable } => self.noted(now, attempt, durable),
            SourceEvent::Swapped(record) | SourceEvent::SwapConflict(record) => {
                self.placement(now, &record);
            }
            SourceEvent::SwapUnknown => self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS)),
            SourceEvent::Deleted(result) => self.deleted(result),
            SourceEvent::Timer(timer) => self.fired(now, timer),
        }
        mem::take(&mut self.out)
    }

    fn request(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Some(env) = request.envelope().copied() else {
            return self.refuse(call, RefusedKind::Unsupported, "no command of a migration");
        };
        if env.shard != self.at.shard {
            return self.refuse(call, RefusedKind::Unknown, "another shard: ask its owner");
        }
        self.expire(now);
        match self.obeyed {
            Some(obeyed) if obeyed.migration == env.migration => {
                if let Err(refused) = self.obey(&env, obeyed) {
                    return self.reply(call, Response::Refused(refused));
                }
                self.dispatch(now, call, request);
            }
            // Only the placement says which migration this is.
            _ => self.read_for(call, request),
        }
    }

    pub(super) fn obey(&mut self, env: &Envelope, obeyed: Obeyed) -> Result<(), Refused> {
        if env.driver_term < obeyed.driver_term {
            let message = format!("driver term {} took over", obeyed.driver_term);
            return Err(Refused::new(RefusedKind::StaleDriver, message));
        }
        if env.attempt < obeyed.attempt {
            let message = format!("attempt {} has begun", obeyed.attempt);
            return Err(Refused::new(RefusedKind::StaleAttempt, message));
        }
        self.obeyed = Some(Obeyed {
            attempt: env.attempt,
            driver_term: env.driver_term,
            ..obeyed
        });
        Ok(())
    }
}

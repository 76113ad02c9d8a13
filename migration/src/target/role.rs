//! The target's role itself: its states, who is obeyed, and where each event goes. What is done with a record and an
//! outcome is in the files of those names; the rules are one level up.

use std::mem;

use watershed_wal::{Epoch, InstanceId, Seq, Term};

use super::{TargetAction, TargetEvent, TargetNote};
use crate::messages::{Envelope, Refused, RefusedKind, Request, Response};
use crate::placement::HighestSeen;
use crate::source::{CallId, Hosting};
use crate::words::{Attempt, DriverTerm};

#[derive(Debug)]
pub(super) enum State {
    /// Nothing is hosted.
    Empty,
    /// The copy's directory is being made.
    Beginning,
    /// Files and records come in; `free_bytes` is as it was when it began.
    Receiving {
        free_bytes: u64,
    },
    /// The start record is being made durable.
    Elected,
    Owner {
        term: Term,
        first_seq: Seq,
    },
    Discarding,
    Discarded,
}

/// The target's role: see the [module](crate::target).
#[derive(Debug)]
pub struct TargetRole {
    pub(super) at: Hosting,
    pub(super) seen: HighestSeen,
    pub(super) note: Option<TargetNote>,
    pub(super) attempt: Attempt,
    pub(super) driver_term: DriverTerm,
    pub(super) state: State,
    /// The command being worked on.
    pub(super) pending: Option<(CallId, Box<Request>)>,
    pub(super) out: Vec<TargetAction>,
}

impl TargetRole {
    /// The role of a node that hosts nothing of the shard yet. The instance in `at` is a new random one, which
    /// the copy will have if it is begun.
    #[must_use]
    pub const fn new(at: Hosting, seen: HighestSeen) -> Self {
        Self {
            at,
            seen,
            note: None,
            attempt: Attempt(0),
            driver_term: DriverTerm(0),
            state: State::Empty,
            pending: None,
            out: Vec::new(),
        }
    }

    /// The role after a restart, of a copy whose note was found: reads the record first. Where that fails, the
    /// next command of a driver, or a watch, makes it read again.
    #[must_use]
    pub fn recover(
        at: Hosting,
        seen: HighestSeen,
        note: TargetNote,
        free_bytes: u64,
    ) -> (Self, Vec<TargetAction>) {
        let mut role = Self::new(at, seen);
        role.note = Some(note);
        role.state = State::Receiving { free_bytes };
        (role, vec![TargetAction::ReadPlacement])
    }

    /// Whether this copy may answer reads and take writes.
    #[must_use]
    pub const fn is_owner(&self) -> bool {
        matches!(self.state, State::Owner { .. })
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
            State::Empty => "empty",
            State::Beginning => "beginning",
            State::Receiving { .. } => "receiving",
            State::Elected => "elected",
            State::Owner { .. } => "owner",
            State::Discarding => "discarding",
            State::Discarded => "discarded",
        }
    }

    /// Whether records of these epochs, from this copy, may be kept: the check of each `Records` request, which
    /// the caller makes before it appends.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn admit_records(
        &self,
        env: &Envelope,
        from: InstanceId,
        epochs: impl IntoIterator<Item = Epoch>,
    ) -> Result<(), Refused> {
        let refuse = |kind, what: &str| Err(self.refused(kind, what));
        let Some(note) = self.note.as_ref().filter(|n| n.migration == env.migration) else {
            return refuse(RefusedKind::Unknown, "no copy of that migration");
        };
        if !matches!(self.state, State::Receiving { .. }) {
            return refuse(RefusedKind::NotReady, "no records are taken in this state");
        }
        if from != note.source_instance {
            return refuse(
                RefusedKind::WrongInstance,
                "records of another copy than the source's",
            );
        }
        if epochs.into_iter().any(|epoch| epoch != note.epoch) {
            return refuse(
                RefusedKind::StaleEpoch,
                "records of another epoch than the source's",
            );
        }
        Ok(())
    }

    /// Takes an event, gives what to do.
    pub fn handle(&mut self, event: TargetEvent) -> Vec<TargetAction> {
        match event {
            TargetEvent::Request { call, request } => self.request(call, request),
            TargetEvent::PlacementRead(record) => self.placement(&record),
            TargetEvent::PlacementUnread => {
                if self.waits_for_record() {
                    self.fail_pending(
                        RefusedKind::Failed,
                        "the placement can't be read: try again",
                    );
                }
            }
            TargetEvent::Begun(result) => self.begun(result),
            TargetEvent::Verified { attempt, f, marks } => self.verified(attempt, f, marks),
            TargetEvent::TermStarted(result) => self.term_started(result),
            TargetEvent::Discarded(result) => self.discarded(result),
        }
        mem::take(&mut self.out)
    }

    fn request(&mut self, call: CallId, request: Box<Request>) {
        let Some(env) = request.envelope().copied() else {
            return self.refuse(call, RefusedKind::Unsupported, "no command of a migration");
        };
        if env.shard != self.at.shard {
            return self.refuse(call, RefusedKind::Unknown, "another shard");
        }
        let known = self.note.as_ref().map(|note| note.migration);
        match (known, &*request) {
            (None, Request::BeginTarget { .. } | Request::DiscardTarget { .. }) => {
                self.read_for(call, request);
            }
            (Some(id), _) if id == env.migration => {
                if let Err(refused) = self.obey(&env) {
                    return self.reply(call, Response::Refused(refused));
                }
                self.dispatch(call, request);
            }
            _ => self.refuse(call, RefusedKind::Unknown, "no copy of that migration"),
        }
    }

    fn obey(&mut self, env: &Envelope) -> Result<(), Refused> {
        if env.driver_term < self.driver_term {
            let message = format!("driver term {} took over", self.driver_term);
            return Err(Refused::new(RefusedKind::StaleDriver, message));
        }
        if env.attempt < self.attempt {
            let message = format!("attempt {} has begun", self.attempt);
            return Err(Refused::new(RefusedKind::StaleAttempt, message));
        }
        (self.attempt, self.driver_term) = (env.attempt, env.driver_term);
        Ok(())
    }

    fn dispatch(&mut self, call: CallId, request: Box<Request>) {
        match (&self.state, &*request) {
            (State::Beginning, Request::BeginTarget { .. }) => {
                self.take_up(call, request);
            }
            (State::Receiving { free_bytes }, Request::BeginTarget { .. }) => {
                let free_bytes = *free_bytes;
                self.reply(call, self.begun_reply(free_bytes));
            }
            // A copy that serves has been begun, too.
            (State::Elected | State::Owner { .. }, Request::BeginTarget { .. }) => {
                self.reply(call, self.begun_reply(0));
            }
            (
                State::Receiving { .. },
                Request::Records {
                    env, from_instance, ..
                },
            ) => match self.admit_records(env, *from_instance, []) {
                Ok(()) => self.perform(call, request),
                Err(refused) => self.reply(call, Response::Refused(refused)),
            },
            (State::Receiving { .. }, Request::Pull { .. } | Request::Missing { .. })
            | (
                State::Receiving { .. } | State::Elected | State::Owner { .. },
                Request::TargetStatus { .. },
            )
            | (State::Owner { .. }, Request::ComparePage { .. }) => self.perform(call, request),
            (State::Receiving { .. }, Request::Verify { env, f }) => {
                let (attempt, f) = (env.attempt, *f);
                if self.take_up(call, request) {
                    self.out.push(TargetAction::Verify { attempt, f });
                }
            }
            (State::Owner { term, first_seq }, Request::BecomeOwner { epoch, .. })
                if term.epoch == *epoch =>
            {
                let (term, first_seq) = (*term, *first_seq);
                self.reply(call, Response::Serving { term, first_seq });
            }
            (State::Elected, Request::BecomeOwner { .. }) => {
                self.take_up(call, request);
            }
            (
                State::Receiving { .. },
                Request::BecomeOwner { .. }
                | Request::DiscardTarget { .. }
                | Request::ComparePage { .. },
            ) => {
                self.read_for(call, request);
            }
            (State::Discarded, Request::DiscardTarget { .. }) => self.reply(call, Response::Ok),
            (State::Discarding, Request::DiscardTarget { .. }) => {
                self.take_up(call, request);
            }
            _ => self.refuse(call, RefusedKind::NotReady, "not in this state"),
        }
    }
}

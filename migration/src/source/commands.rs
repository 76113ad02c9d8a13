//! What the source's role does with each command: carried out, read a record for, or refused.

use std::mem;

use super::role::{SourceRole, State};
use super::states::{Quiesced, SourceNote};
use super::{CallId, SourceAction};
use crate::messages::{Envelope, RefusedKind, Request, Response};
use crate::placement::{MigrationRecord, PlacementRecord};
use crate::words::{Now, Phase};

impl SourceRole {
    pub(super) fn dispatch(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Some(&env) = request.envelope() else {
            return;
        };
        match *request {
            Request::SourceStatus { .. } => self.perform(call, request),
            Request::Prepare { .. } | Request::Checkpoint { .. } | Request::StartForward { .. } => {
                match self.state {
                    State::Serving => self.perform(call, request),
                    _ => self.not_ready(call),
                }
            }
            Request::ReadFile { .. } | Request::Ship { .. } => match self.state {
                State::Serving | State::Quiesced(_) | State::Drained(_) => {
                    self.perform(call, request);
                }
                _ => self.not_ready(call),
            },
            Request::ComparePage { .. } => match self.state {
                State::GaveAway(_) => self.perform(call, request),
                _ => self.not_ready(call),
            },
            Request::Quiesce { .. } => self.quiesce(call, env, request),
            Request::Drain { .. } => self.drain(call, env, request),
            Request::Reopen { .. } => self.reopen_asked(call, request),
            Request::Activate { .. } => self.activate(now, call, request),
            Request::Release { epoch, .. } => match &self.state {
                State::GaveAway(record) if record.epoch >= epoch => {
                    self.out.push(SourceAction::Release { call: Some(call) });
                }
                _ => self.not_ready(call),
            },
            Request::Retire { instance, .. } if instance != self.at.instance => {
                self.refuse(call, RefusedKind::WrongInstance, "another copy was named");
            }
            Request::Retire { .. } => match self.state {
                State::Retired { bytes } => self.reply(call, Response::Retired { bytes }),
                // The deletion under way answers the last call.
                State::Retiring(_) => {
                    self.take_up(call, request);
                }
                _ => self.read_for(call, request),
            },
            Request::AbortSource { .. } => self.read_for(call, request),
            _ => self.refuse(call, RefusedKind::Unsupported, "a command for the target"),
        }
    }

    fn quiesce(&mut self, call: CallId, env: Envelope, request: Box<Request>) {
        let open = match &self.state {
            State::Quiesced(q) => Some(q),
            State::Drained(d) => Some(d.quiesced()),
            _ => None,
        };
        if let Some(f) = open.filter(|q| q.attempt() == env.attempt).map(Quiesced::f) {
            return self.reply(call, Response::Quiesced { f });
        }
        if env.attempt <= self.spent {
            return self.refuse(
                call,
                RefusedKind::StaleAttempt,
                "it was re-opened: raise the attempt",
            );
        }
        self.read_for(call, request);
    }

    fn drain(&mut self, call: CallId, env: Envelope, request: Box<Request>) {
        match &self.state {
            State::Quiesced(q) if q.attempt() == env.attempt => {
                let (attempt, f) = (q.attempt(), q.f());
                if self.take_up(call, request) {
                    self.out.push(SourceAction::Drain { attempt, f });
                }
            }
            State::Drained(d) if d.quiesced().attempt() == env.attempt => {
                let marks = d.marks().clone();
                self.reply(call, Response::Drained(marks));
            }
            _ => self.spent_or_not_ready(call, env.attempt),
        }
    }

    fn reopen_asked(&mut self, call: CallId, request: Box<Request>) {
        match self.state {
            State::Serving => self.reply(call, Response::Reopened),
            State::Quiesced(_) | State::Drained(_) => {
                self.reopen("the driver asked to re-open");
                self.reply(call, Response::Reopened);
            }
            _ => self.read_for(call, request),
        }
    }

    fn activate(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Request::Activate {
            env,
            source,
            target,
        } = &*request
        else {
            return;
        };
        let env = *env;
        match mem::replace(&mut self.state, State::Serving) {
            State::Drained(drained) if drained.quiesced().attempt() == env.attempt => {
                match drained.send(now, source, target) {
                    Ok(sent) => {
                        let attempt = env.attempt;
                        let note = SourceNote::Sent {
                            attempt,
                            swap: sent.clone(),
                        };
                        self.state = State::Noting(attempt, sent);
                        self.supersede_pending();
                        self.pending = Some((call, request));
                        self.out.push(SourceAction::PersistSent { attempt, note });
                    }
                    Err(refused) => {
                        let (drained, refused) = *refused;
                        self.state = State::Drained(drained);
                        self.reply(call, Response::Refused(refused));
                    }
                }
            }
            state @ (State::Noting(attempt, _) | State::Swapping(attempt, _))
                if attempt == env.attempt =>
            {
                // The first call's reply may be lost: the outcome answers the last one.
                self.state = state;
                self.supersede_pending();
                self.pending = Some((call, request));
            }
            State::GaveAway(record) => {
                self.reply(
                    call,
                    Response::Activated {
                        record: record.clone(),
                    },
                );
                self.state = State::GaveAway(record);
            }
            state => {
                self.state = state;
                self.spent_or_not_ready(call, env.attempt);
            }
        }
    }

    /// A record was read: goes on with the command that asked for it.
    pub(super) fn resume_pending(&mut self, now: Now, record: &PlacementRecord) {
        if !self.waits_for_record() {
            return;
        }
        let Some((call, request)) = self.pending.take() else {
            return;
        };
        let Some(env) = request.envelope().copied() else {
            return;
        };
        let named = record.migration.as_ref().filter(|m| m.id == env.migration);
        match *request {
            Request::AbortSource { .. } => self.abort_source(call, named),
            _ if named.is_none() => {
                self.refuse(
                    call,
                    RefusedKind::Unknown,
                    "the placement knows no such migration",
                );
            }
            Request::Quiesce { .. } => self.close(now, call, request, record),
            Request::Retire { .. } => self.retire(call, record, request),
            Request::Reopen { .. } if matches!(self.state, State::Serving) => {
                self.reply(call, Response::Reopened);
            }
            Request::Reopen { .. } => self.not_ready(call),
            _ => match self.obeyed {
                Some(obeyed) if obeyed.migration == env.migration => {
                    match self.obey(&env, obeyed) {
                        Ok(()) => self.dispatch(now, call, request),
                        Err(refused) => self.reply(call, Response::Refused(refused)),
                    }
                }
                _ => self.refuse(
                    call,
                    RefusedKind::NotOwner,
                    "this copy is not that migration's source",
                ),
            },
        }
    }

    /// Whether the command being worked on waits for a record, and not for an outcome.
    fn waits_for_record(&self) -> bool {
        let busy = matches!(
            self.state,
            State::Closing { .. }
                | State::Noting(..)
                | State::Swapping(..)
                | State::Stuck(..)
                | State::Restarted(_)
                | State::Retiring(_)
        );
        !busy
            && self.pending.as_ref().is_some_and(|(_, request)| {
                !matches!(**request, Request::Drain { .. } | Request::Activate { .. })
                    || self.obeyed.is_none()
            })
    }

    fn abort_source(&mut self, call: CallId, named: Option<&MigrationRecord>) {
        if named.is_some_and(|m| m.phase != Phase::Aborted) {
            return self.refuse(
                call,
                RefusedKind::Conflict,
                "the placement does not say aborted",
            );
        }
        self.out.push(SourceAction::StopForwarding);
        self.reply(call, Response::Ok);
    }

    /// Closes the gate, where the record allows exactly this quiesce.
    fn close(&mut self, now: Now, call: CallId, request: Box<Request>, record: &PlacementRecord) {
        let Request::Quiesce {
            env,
            revision,
            pause_max_ms,
        } = *request
        else {
            return;
        };
        let allowed = record.migration.as_ref().filter(|m| {
            record.revision == revision
                && m.phase == Phase::DualWrite
                && !m.paused
                && m.attempt == env.attempt
                && m.driver_term == env.driver_term
        });
        let (Some(m), State::Serving) = (allowed, &self.state) else {
            return self.refuse(
                call,
                RefusedKind::NotReady,
                "the placement allows no such quiesce now",
            );
        };
        let attempt = env.attempt;
        // The placement's bound is the contract; a driver may only ask for less.
        let pause_ms = pause_max_ms.min(m.config.pause_max_ms);
        self.state = State::Closing {
            record: Box::new(record.clone()),
            attempt,
            deadline: now.plus_ms(pause_ms / 5 * 4),
        };
        self.pending = Some((call, request));
        let note = SourceNote::Quiesced { attempt };
        self.out.push(SourceAction::CloseGate { attempt, note });
    }

    fn retire(&mut self, call: CallId, record: &PlacementRecord, request: Box<Request>) {
        let allowed = record.frozen.as_ref().is_some_and(|f| {
            f.instance == self.at.instance && f.node == self.at.node && f.retiring
        });
        if !allowed || !matches!(self.state, State::GaveAway(_)) {
            return self.refuse(
                call,
                RefusedKind::NotReady,
                "the placement does not retire this copy",
            );
        }
        self.pending = Some((call, request));
        self.state = State::Retiring(Box::new(record.clone()));
        // A deleted copy has nobody left who could let its parked requests go.
        self.out.push(SourceAction::Release { call: None });
        self.out.push(SourceAction::Delete {
            instance: self.at.instance,
        });
    }
}

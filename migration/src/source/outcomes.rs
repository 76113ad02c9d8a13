//! What came of the source's own actions: the gate, the drain, the note, the deletion; and its timers.

use std::mem;

use watershed_wal::Seq;

use super::record::DECIDE_MS;
use super::role::{SourceRole, State};
use super::states::Quiesced;
use super::{DrainedMarks, SourceAction, SourceTimer};
use crate::evidence::SourceMarks;
use crate::messages::{RefusedKind, Request, Response};
use crate::words::{Attempt, MigrationId, Now};

impl SourceRole {
    pub(super) fn gate_closed(&mut self, now: Now, attempt: Attempt, f: Option<Seq>) {
        match mem::replace(&mut self.state, State::Serving) {
            State::Closing {
                record,
                attempt: closing,
                deadline,
            } if closing == attempt => match f {
                Some(f) => {
                    self.state = State::Quiesced(Quiesced::new(*record, attempt, f, deadline));
                    self.timer(SourceTimer::Reopen, deadline);
                    if let Some((call, _)) = self.pending.take() {
                        self.reply(call, Response::Quiesced { f });
                    }
                    self.expire(now);
                }
                None => {
                    self.spent = self.spent.max(attempt);
                    self.fail_pending(
                        RefusedKind::Failed,
                        "the log's gate can't be closed: see its status",
                    );
                }
            },
            state => self.state = state,
        }
    }

    pub(super) fn drained(
        &mut self,
        now: Now,
        attempt: Attempt,
        marks: Result<DrainedMarks, String>,
    ) {
        self.expire(now);
        match mem::replace(&mut self.state, State::Serving) {
            State::Quiesced(q) if q.attempt() == attempt => match marks {
                Ok(m) => {
                    let marks = SourceMarks {
                        migration: self.obeyed.map_or(MigrationId(0), |o| o.migration),
                        attempt,
                        instance: self.at.instance,
                        term: m.term,
                        base: m.base,
                        f: q.f(),
                        durable: m.durable,
                        applied: m.applied,
                        digest_base: m.digest_base,
                        digest: m.digest,
                        revision: q.revision(),
                    };
                    self.state = State::Drained(q.drained(marks.clone()));
                    if let Some((call, _)) = self.pending.take() {
                        self.reply(call, Response::Drained(marks));
                    }
                }
                Err(error) => {
                    self.state = State::Quiesced(q);
                    self.fail_pending(RefusedKind::Failed, &error);
                    self.reopen("the drain failed");
                }
            },
            state => self.state = state,
        }
    }

    pub(super) fn noted(&mut self, now: Now, attempt: Attempt, durable: bool) {
        match mem::replace(&mut self.state, State::Serving) {
            State::Noting(noting, sent) if noting == attempt => {
                if durable {
                    self.out.push(SourceAction::Swap {
                        expected: sent.expected(),
                        record: Box::new(sent.next().clone()),
                    });
                    self.state = State::Swapping(attempt, sent);
                } else {
                    self.fail_pending(RefusedKind::Failed, "the log failed: see its status");
                    self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS));
                    self.state = State::Stuck(attempt, sent);
                }
            }
            state => self.state = state,
        }
    }

    pub(super) fn deleted(&mut self, result: Result<u64, String>) {
        match (mem::replace(&mut self.state, State::Serving), result) {
            (State::Retiring(_), Ok(bytes)) => {
                self.state = State::Retired { bytes };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, Response::Retired { bytes });
                }
            }
            (State::Retiring(record), Err(error)) => {
                self.state = State::GaveAway(record);
                self.fail_pending(RefusedKind::Failed, &error);
            }
            (state, _) => self.state = state,
        }
    }

    pub(super) fn fired(&mut self, now: Now, timer: SourceTimer) {
        match timer {
            SourceTimer::Reopen => self.expire(now),
            SourceTimer::Decide => {
                if matches!(
                    self.state,
                    State::Swapping(..) | State::Stuck(..) | State::Restarted(_)
                ) {
                    self.out.push(SourceAction::ReadPlacement);
                }
            }
            SourceTimer::Release => {
                if matches!(self.state, State::GaveAway(_)) {
                    self.out.push(SourceAction::Release { call: None });
                }
            }
        }
    }

    pub(super) fn expire(&mut self, now: Now) {
        let over = match &self.state {
            State::Quiesced(q) => q.is_over(now),
            State::Drained(d) => d.quiesced().is_over(now),
            _ => false,
        };
        if over {
            self.reopen("the pause is at its bound");
        }
    }

    /// Only from where no "sent" note was begun.
    pub(super) fn reopen(&mut self, why: &str) {
        let attempt = match &self.state {
            State::Quiesced(q) => q.attempt(),
            State::Drained(d) => d.quiesced().attempt(),
            _ => return,
        };
        self.spent = self.spent.max(attempt);
        self.state = State::Serving;
        self.out.push(SourceAction::Open);
        if matches!(&self.pending, Some((_, r)) if matches!(**r, Request::Drain { .. })) {
            self.fail_pending(RefusedKind::StaleAttempt, why);
        }
    }
}

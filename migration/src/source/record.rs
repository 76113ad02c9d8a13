//! What a placement record that was read means to the source's role, and what it does where none can be read.

use std::mem;

use super::role::{Obeyed, SourceRole, State};
use super::states::{Decision, Sent};
use super::{CallId, SourceAction, SourceTimer};
use crate::messages::{RefusedKind, Request, Response};
use crate::placement::PlacementRecord;
use crate::words::{Attempt, Now};

/// How long to wait before a record is read again that decides a swap.
pub(super) const DECIDE_MS: u64 = 20;

impl SourceRole {
    pub(super) fn placement(&mut self, now: Now, record: &PlacementRecord) {
        if record.shard != self.at.shard {
            return self.unread(now);
        }
        if let Err(back) = self.seen.observe(record) {
            self.fail_pending(RefusedKind::Conflict, &back.to_string());
            return self.wait_for_record(now);
        }
        self.learn(record);
        let ours = record.is_owned_by(&self.at.node, self.at.instance);
        match mem::replace(&mut self.state, State::Serving) {
            State::Restarted(Some((attempt, sent))) | State::Swapping(attempt, sent) => {
                self.decide(now, attempt, sent, record);
            }
            State::Stuck(attempt, sent) if record.revision <= sent.expected() => {
                self.state = State::Stuck(attempt, sent);
                self.wait_for_record(now);
            }
            State::Stuck(attempt, sent) => self.decide(now, attempt, sent, record),
            State::Restarted(None) if ours => self.out.push(SourceAction::Open),
            State::Serving if ours => {}
            State::Quiesced(q) if ours => {
                let moved = record.revision > q.revision();
                self.state = State::Quiesced(q);
                if moved {
                    self.reopen("the placement has moved on");
                }
            }
            State::Drained(d) if ours => {
                let moved = record.revision > d.quiesced().revision();
                self.state = State::Drained(d);
                if moved {
                    self.reopen("the placement has moved on");
                }
            }
            state @ (State::Closing { .. }
            | State::Noting(..)
            | State::Retiring(_)
            | State::Retired { .. }) => self.state = state,
            State::GaveAway(_) => self.state = State::GaveAway(Box::new(record.clone())),
            // Somebody else owns it: an operator promoted a follower, or this node slept through a move.
            State::Serving | State::Restarted(None) | State::Quiesced(_) | State::Drained(_) => {
                self.give_away(now, record);
            }
        }
        self.resume_pending(now, record);
    }

    fn decide(&mut self, now: Now, attempt: Attempt, sent: Sent, record: &PlacementRecord) {
        match sent.decide(record) {
            Decision::WonBy(record) => {
                self.give_away(now, &record);
                self.answer_activate(Response::Activated { record });
            }
            Decision::LostTo(record) => {
                // The swap is void for ever, so opening is safe again.
                self.spent = self.spent.max(attempt);
                if record.is_owned_by(&self.at.node, self.at.instance) {
                    self.out.push(SourceAction::Open);
                } else {
                    self.give_away(now, &record);
                }
                self.answer_activate(Response::NotActivated { record });
            }
            Decision::Undecided(sent) => {
                self.out.push(SourceAction::Swap {
                    expected: sent.expected(),
                    record: Box::new(sent.next().clone()),
                });
                self.state = State::Swapping(attempt, sent);
            }
        }
    }

    fn give_away(&mut self, now: Now, record: &PlacementRecord) {
        self.out.push(SourceAction::GiveAway {
            owner: record.owner.clone(),
            epoch: record.epoch,
        });
        let pause = record
            .migration
            .as_ref()
            .map_or(0, |m| m.config.pause_max_ms);
        self.timer(SourceTimer::Release, now.plus_ms(pause));
        self.state = State::GaveAway(Box::new(record.clone()));
    }

    fn answer_activate(&mut self, response: Response) {
        let activating = |(_, request): &mut (CallId, Box<Request>)| {
            matches!(**request, Request::Activate { .. })
        };
        if let Some((call, _)) = self.pending.take_if(activating) {
            self.reply(call, response);
        }
    }

    /// Whose commands count from here on, as the record says.
    fn learn(&mut self, record: &PlacementRecord) {
        let Some(m) = &record.migration else { return };
        if m.source_instance != self.at.instance || m.source != self.at.node {
            return;
        }
        self.obeyed = Some(match self.obeyed {
            Some(o) if o.migration == m.id => Obeyed {
                attempt: o.attempt.max(m.attempt),
                driver_term: o.driver_term.max(m.driver_term),
                ..o
            },
            _ => {
                // Attempts count from 0 in each migration.
                if self.obeyed.is_some() {
                    self.spent = Attempt(0);
                }
                Obeyed {
                    migration: m.id,
                    attempt: m.attempt,
                    driver_term: m.driver_term,
                }
            }
        });
    }

    pub(super) fn unread(&mut self, now: Now) {
        let decided = matches!(
            self.state,
            State::Noting(..) | State::Swapping(..) | State::Retiring(_)
        );
        if !decided {
            self.fail_pending(
                RefusedKind::Failed,
                "the placement can't be read: try again",
            );
        }
        self.wait_for_record(now);
    }

    fn wait_for_record(&mut self, now: Now) {
        if matches!(
            self.state,
            State::Swapping(..) | State::Stuck(..) | State::Restarted(_)
        ) {
            self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS));
        }
    }
}

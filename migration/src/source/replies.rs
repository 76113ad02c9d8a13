//! The command that a source is working on, and its answers.

use super::role::{SourceRole, State};
use super::{CallId, Hosting, SourceAction, SourceTimer};
use crate::messages::{Refused, RefusedKind, Request, Response};
use crate::words::{Attempt, Now};

impl SourceRole {
    pub(super) fn read_for(&mut self, call: CallId, request: Box<Request>) {
        if self.take_up(call, request) {
            self.out.push(SourceAction::ReadPlacement);
        }
    }

    /// Makes it the command being worked on; a repetition of the same one takes the earlier call's place, and
    /// needs no second action. False where nothing is to be done.
    pub(super) fn take_up(&mut self, call: CallId, request: Box<Request>) -> bool {
        match &self.pending {
            None => {
                self.pending = Some((call, request));
                true
            }
            Some((_, working)) if *working == request => {
                self.supersede_pending();
                self.pending = Some((call, request));
                false
            }
            Some(_) => {
                self.refuse(
                    call,
                    RefusedKind::Busy,
                    "another command is being worked on",
                );
                false
            }
        }
    }

    pub(super) fn supersede_pending(&mut self) {
        self.fail_pending(
            RefusedKind::Busy,
            "a later call of the same command took its place",
        );
    }

    pub(super) fn fail_pending(&mut self, kind: RefusedKind, message: &str) {
        if let Some((call, _)) = self.pending.take() {
            self.refuse(call, kind, message);
        }
    }

    pub(super) fn perform(&mut self, call: CallId, request: Box<Request>) {
        self.out.push(SourceAction::Perform { call, request });
    }

    pub(super) fn reply(&mut self, call: CallId, response: Response) {
        self.out.push(SourceAction::Reply { call, response });
    }

    pub(super) fn refuse(&mut self, call: CallId, kind: RefusedKind, what: &str) {
        let Hosting { shard, node, .. } = &self.at;
        let state = self.state_name();
        let mut refused = Refused::new(
            kind,
            format!("source {node}, shard {shard}, {state}: {what}"),
        );
        if let State::GaveAway(record) | State::Retiring(record) = &self.state {
            refused.owner = Some((record.owner.clone(), record.epoch));
        }
        self.reply(call, Response::Refused(refused));
    }

    pub(super) fn not_ready(&mut self, call: CallId) {
        self.refuse(call, RefusedKind::NotReady, "not in this state");
    }

    pub(super) fn spent_or_not_ready(&mut self, call: CallId, attempt: Attempt) {
        if attempt <= self.spent {
            self.refuse(
                call,
                RefusedKind::StaleAttempt,
                "it was re-opened: raise the attempt",
            );
        } else {
            self.not_ready(call);
        }
    }

    pub(super) fn timer(&mut self, timer: SourceTimer, at: Now) {
        self.out.push(SourceAction::SetTimer { timer, at });
    }
}

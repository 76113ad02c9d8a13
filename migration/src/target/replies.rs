//! The command that a target is working on, and its answers.

use super::TargetAction;
use super::role::TargetRole;
use crate::messages::{Refused, RefusedKind, Request, Response};
use crate::source::{CallId, Hosting};

impl TargetRole {
    pub(super) fn read_for(&mut self, call: CallId, request: Box<Request>) {
        if self.take_up(call, request) {
            self.out.push(TargetAction::ReadPlacement);
        }
    }

    /// Makes it the command being worked on; a repetition takes the earlier call's place and needs no second
    /// action. False where nothing is to be done.
    pub(super) fn take_up(&mut self, call: CallId, request: Box<Request>) -> bool {
        match &self.pending {
            None => {
                self.pending = Some((call, request));
                true
            }
            Some((_, working)) if *working == request => {
                self.fail_pending(
                    RefusedKind::Busy,
                    "a later call of the same command took its place",
                );
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

    pub(super) fn fail_pending(&mut self, kind: RefusedKind, message: &str) {
        if let Some((call, _)) = self.pending.take() {
            self.refuse(call, kind, message);
        }
    }

    pub(super) fn perform(&mut self, call: CallId, request: Box<Request>) {
        self.out.push(TargetAction::Perform { call, request });
    }

    pub(super) fn reply(&mut self, call: CallId, response: Response) {
        self.out.push(TargetAction::Reply { call, response });
    }

    pub(super) fn refused(&self, kind: RefusedKind, what: &str) -> Refused {
        let Hosting { shard, node, .. } = &self.at;
        let state = self.state_name();
        Refused::new(
            kind,
            format!("target {node}, shard {shard}, {state}: {what}"),
        )
    }

    pub(super) fn refuse(&mut self, call: CallId, kind: RefusedKind, what: &str) {
        let refused = self.refused(kind, what);
        self.reply(call, Response::Refused(refused));
    }

    pub(super) fn begun_reply(&self, free_bytes: u64) -> Response {
        Response::TargetBegun {
            instance: self.at.instance,
            free_bytes,
        }
    }
}

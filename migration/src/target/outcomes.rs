//! What came of the target's own actions: the copy begun, its marks, the term's start, the deletion.

use std::mem;

use watershed_wal::{Seq, Term};

use super::VerifiedMarks;
use super::role::{State, TargetRole};
use crate::evidence::TargetMarks;
use crate::messages::{MARKS_MISSING_MAX, RefusedKind, Request, Response};
use crate::words::Attempt;

impl TargetRole {
    pub(super) fn begun(&mut self, result: Result<u64, String>) {
        if !matches!(self.state, State::Beginning) {
            return;
        }
        match result {
            Ok(free_bytes) => {
                self.state = State::Receiving { free_bytes };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, self.begun_reply(free_bytes));
                }
            }
            Err(error) => {
                self.state = State::Empty;
                self.note = None;
                self.fail_pending(RefusedKind::Failed, &error);
            }
        }
    }

    pub(super) fn verified(
        &mut self,
        attempt: Attempt,
        f: Seq,
        marks: Result<VerifiedMarks, String>,
    ) {
        let waits = self.pending.as_ref().is_some_and(|(_, request)| {
            matches!(&**request, Request::Verify { env, f: asked } if env.attempt == attempt && *asked == f)
        });
        let (true, Some(note)) = (waits, &self.note) else {
            return;
        };
        match marks {
            Ok(mut m) => {
                m.missing.truncate(MARKS_MISSING_MAX);
                let marks = TargetMarks {
                    migration: note.migration,
                    attempt,
                    instance: self.at.instance,
                    source_instance: note.source_instance,
                    base: m.base,
                    f,
                    durable: m.durable,
                    applied: m.applied,
                    missing: m.missing,
                    digest_base: m.digest_base,
                    digest: m.digest,
                };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, Response::Verified(marks));
                }
            }
            Err(error) => self.fail_pending(RefusedKind::Failed, &error),
        }
    }

    pub(super) fn term_started(&mut self, result: Result<(Term, Seq), String>) {
        match (mem::replace(&mut self.state, State::Discarded), result) {
            (State::Elected, Ok((term, first_seq))) => {
                self.state = State::Owner { term, first_seq };
                match self.pending.take() {
                    Some((call, request)) if matches!(*request, Request::BecomeOwner { .. }) => {
                        self.reply(call, Response::Serving { term, first_seq });
                    }
                    Some((call, _)) => {
                        self.refuse(call, RefusedKind::Busy, "it has just begun to serve")
                    }
                    None => {}
                }
            }
            (State::Elected, Err(error)) => {
                // Asked again, it reads the record again: nothing was promised yet.
                self.state = State::Receiving { free_bytes: 0 };
                self.fail_pending(RefusedKind::Failed, &error);
            }
            (state, _) => self.state = state,
        }
    }

    pub(super) fn discarded(&mut self, result: Result<u64, String>) {
        if !matches!(self.state, State::Discarding) {
            return;
        }
        match result {
            Ok(_) => {
                self.state = State::Discarded;
                match self.pending.take() {
                    Some((call, request)) if matches!(*request, Request::DiscardTarget { .. }) => {
                        self.reply(call, Response::Ok);
                    }
                    Some((call, _)) => {
                        self.refuse(call, RefusedKind::Unknown, "the copy is deleted")
                    }
                    None => {}
                }
            }
            Err(error) => {
                self.state = State::Receiving { free_bytes: 0 };
                self.fail_pending(RefusedKind::Failed, &error);
            }
        }
    }
}

//! What a placement record that was read means to the target's role.

use super::role::{State, TargetRole};
use super::{Elected, TargetAction, TargetNote};
use crate::messages::{RefusedKind, Request, Response};
use crate::placement::PlacementRecord;
use crate::source::CallId;
use crate::words::Phase;

impl TargetRole {
    pub(super) fn placement(&mut self, record: &PlacementRecord) {
        if record.shard != self.at.shard {
            return self.fail_pending(
                RefusedKind::Conflict,
                "the placement gave another shard's record",
            );
        }
        if let Err(back) = self.seen.observe(record) {
            return self.fail_pending(RefusedKind::Conflict, &back.to_string());
        }
        if let Some(note) = &self.note {
            if let Some(m) = record.migration.as_ref().filter(|m| m.id == note.migration) {
                self.attempt = self.attempt.max(m.attempt);
                self.driver_term = self.driver_term.max(m.driver_term);
            }
            if matches!(self.state, State::Receiving { .. }) {
                if let Some(elected) = Elected::by(record, &self.at, note.migration) {
                    self.out.push(TargetAction::StartTerm {
                        epoch: elected.epoch(),
                        f: elected.f(),
                    });
                    self.state = State::Elected;
                } else if self.is_void(record) {
                    self.out.push(TargetAction::Discard {
                        instance: self.at.instance,
                    });
                    self.state = State::Discarding;
                }
            }
        }
        self.resume_pending(record);
    }

    /// Whether the record says that this copy will never be needed.
    pub(super) fn is_void(&self, record: &PlacementRecord) -> bool {
        let Some(note) = &self.note else { return false };
        let ours = record.migration.as_ref().filter(|m| m.id == note.migration);
        let aborted = ours.is_some_and(|m| {
            m.phase == Phase::Aborted && m.target_instance.is_none_or(|i| i == self.at.instance)
        });
        // Another migration can only have begun once ours was over.
        let replaced = ours.is_none()
            && record.migration.is_some()
            && record.instance != self.at.instance
            && record
                .frozen
                .as_ref()
                .is_none_or(|f| f.instance != self.at.instance);
        aborted || replaced
    }

    pub(super) fn waits_for_record(&self) -> bool {
        self.pending.as_ref().is_some_and(|(_, request)| {
            let early = matches!(self.state, State::Empty | State::Receiving { .. });
            early && !matches!(**request, Request::Verify { .. })
        })
    }

    pub(super) fn resume_pending(&mut self, record: &PlacementRecord) {
        if !self.waits_for_record() {
            return;
        }
        let Some((call, request)) = self.pending.take() else {
            return;
        };
        match &*request {
            Request::BeginTarget { .. } => self.begin(call, request, record),
            Request::BecomeOwner { .. } => {
                self.refuse(
                    call,
                    RefusedKind::NotOwner,
                    "the placement does not name this copy the owner",
                );
            }
            Request::DiscardTarget { env } => {
                let live = record
                    .migration
                    .as_ref()
                    .is_some_and(|m| m.id == env.migration && m.phase != Phase::Aborted);
                if live || self.note.is_some() {
                    self.refuse(
                        call,
                        RefusedKind::Conflict,
                        "the placement does not say aborted",
                    );
                } else {
                    self.reply(call, Response::Ok);
                }
            }
            _ => self.refuse(call, RefusedKind::NotReady, "not in this state"),
        }
    }

    pub(super) fn begin(&mut self, call: CallId, request: Box<Request>, record: &PlacementRecord) {
        let Request::BeginTarget {
            env,
            source,
            source_instance,
            epoch,
            ..
        } = &*request
        else {
            return;
        };
        let named = record.migration.as_ref().filter(|m| m.id == env.migration);
        let Some(m) = named.filter(|m| m.phase.before_activate() && m.target == self.at.node)
        else {
            return self.refuse(
                call,
                RefusedKind::Conflict,
                "the placement names no such migration to this node",
            );
        };
        if m.target_instance.is_some_and(|i| i != self.at.instance) {
            return self.refuse(
                call,
                RefusedKind::WrongInstance,
                "the copy that the placement names is lost",
            );
        }
        if m.driver_term > env.driver_term {
            return self.refuse(call, RefusedKind::StaleDriver, "another driver took over");
        }
        if record.epoch != *epoch || !record.is_owned_by(source, *source_instance) {
            return self.refuse(
                call,
                RefusedKind::StaleEpoch,
                "the placement names another owner",
            );
        }
        let note = TargetNote {
            migration: env.migration,
            shard: self.at.shard,
            instance: self.at.instance,
            source: source.clone(),
            source_instance: *source_instance,
            epoch: *epoch,
        };
        (self.attempt, self.driver_term) = (m.attempt, m.driver_term);
        self.note = Some(note.clone());
        self.state = State::Beginning;
        self.pending = Some((call, request));
        self.out.push(TargetAction::Begin(note));
    }
}

//! What each answer means: facts are kept, and a signal says how the step came out.

use watershed_wal::SeqRange;

use super::run::Machine;
use super::steps::{Signal, Step};
use crate::compare::Side;
use crate::delta;
use crate::evidence::{Evidence, EvidenceError, SourceMarks, TargetMarks};
use crate::messages::{Refused, RefusedKind, Response, SourceState, TargetState};
use crate::words::Now;

impl Machine {
    pub(super) fn answer(&mut self, now: Now, response: Response) -> Signal {
        match (self.step, response) {
            (_, Response::Refused(refused)) => self.refused(now, &refused),
            (Step::Prepare, Response::Prepared { bytes_estimate, .. }) => {
                self.facts.bytes_estimate = bytes_estimate;
                Signal::Done
            }
            (
                Step::BeginTarget,
                Response::TargetBegun {
                    instance,
                    free_bytes,
                },
            ) => self.target_begun(instance, free_bytes),
            (Step::Checkpoint, Response::CheckpointMade(manifest)) => {
                self.progress.total_bytes = manifest.total_bytes();
                self.facts.manifest = Some(manifest);
                Signal::Done
            }
            (
                Step::Pull
                | Step::ForwardCopy
                | Step::Forward
                | Step::AbortSource
                | Step::DiscardTarget,
                Response::Ok,
            ) => Signal::Done,
            (Step::Copying, Response::TargetState(state)) => self.copying(state),
            (Step::Status, Response::SourceState(state)) => self.status(&state),
            (Step::Missing, Response::MissingRanges { ranges, more }) => self.missing(ranges, more),
            (Step::LastMissing, Response::MissingRanges { ranges, more }) => {
                self.last_missing(now, ranges, more)
            }
            (Step::Ship | Step::LastShip, Response::Shipped { records, .. }) => {
                self.progress.delta_records = self.progress.delta_records.saturating_add(records);
                let holes = u64::try_from(self.facts.ranges.len()).unwrap_or(u64::MAX);
                self.progress.holes_filled = self.progress.holes_filled.saturating_add(holes);
                Signal::Done
            }
            (Step::Quiesce, Response::Quiesced { f }) => {
                self.facts.f = f;
                Signal::Done
            }
            (Step::Drain, Response::Drained(marks)) => self.drained(marks),
            (Step::Verify, Response::Verified(marks)) => self.verified(now, marks),
            (
                Step::Activate,
                Response::Activated { record } | Response::NotActivated { record },
            ) => self.source_read(*record),
            (Step::Files, Response::TargetState(state)) => {
                self.facts.files = state.files;
                Signal::Done
            }
            (Step::Reopen, Response::Reopened) => Signal::Done,
            (Step::BecomeOwner, Response::Serving { term, first_seq }) => {
                if term.epoch != self.record.epoch {
                    return Signal::Again;
                }
                self.facts.serving = Some((term, first_seq));
                Signal::Done
            }
            (Step::Release, Response::Released { pause_us, .. }) => {
                self.progress.pause_us = Some(pause_us);
                Signal::Done
            }
            (Step::CompareSource, Response::Page { entries, done }) => {
                self.page(Side::Source, entries, done)
            }
            (Step::CompareTarget, Response::Page { entries, done }) => {
                self.page(Side::Target, entries, done)
            }
            (Step::Retire, Response::Retired { .. }) => Signal::Done,
            (step, other) => {
                self.trouble(format!("{step:?} was answered with {}", other.name()));
                match step {
                    Step::Activate => Signal::Lost,
                    _ => Signal::Again,
                }
            }
        }
    }

    fn refused(&mut self, now: Now, refused: &Refused) -> Signal {
        self.trouble(refused.message.clone());
        if self.step == Step::Activate {
            return Signal::Lost;
        }
        if self.step.in_pause() {
            return match refused.kind {
                RefusedKind::Busy if now < self.facts.pause_ends => Signal::Again,
                RefusedKind::StaleDriver => Signal::Lost,
                RefusedKind::Damaged | RefusedKind::NotSafe | RefusedKind::Gap => Signal::Hopeless,
                RefusedKind::Unknown if matches!(self.step, Step::LastMissing | Step::Verify) => {
                    Signal::Forgotten
                }
                _ => Signal::Spoiled,
            };
        }
        let may_abort = self.step.may_abort();
        match refused.kind {
            RefusedKind::Unknown => match self.step.after(Signal::Forgotten) {
                Some(_) => Signal::Forgotten,
                None => Signal::Again,
            },
            RefusedKind::StaleDriver | RefusedKind::StaleAttempt | RefusedKind::StaleEpoch
                if self.step.after(Signal::Lost).is_some() =>
            {
                Signal::Lost
            }
            RefusedKind::Busy | RefusedKind::Failed => Signal::Again,
            RefusedKind::NotReady | RefusedKind::NotOwner if may_abort => match self.step {
                Step::Reopen => Signal::Lost,
                _ => Signal::Again,
            },
            RefusedKind::NoRoom
            | RefusedKind::Gap
            | RefusedKind::Conflict
            | RefusedKind::Damaged
            | RefusedKind::NotSafe
            | RefusedKind::WrongInstance
            | RefusedKind::Unsupported
                if may_abort =>
            {
                Signal::Hopeless
            }
            _ => Signal::Again,
        }
    }

    fn target_begun(&mut self, instance: watershed_wal::InstanceId, free_bytes: u64) -> Signal {
        let named = self
            .record
            .migration
            .as_ref()
            .and_then(|m| m.target_instance);
        match named {
            Some(named) if named != instance => {
                self.trouble("the target lost the copy that the placement names".into());
                return Signal::Hopeless;
            }
            Some(_) => {}
            None if free_bytes < self.facts.bytes_estimate => {
                let needed = self.facts.bytes_estimate;
                self.trouble(format!(
                    "the target has {free_bytes} bytes free, the copy needs about {needed}: make room"
                ));
                return Signal::Hopeless;
            }
            None => {}
        }
        self.facts.target_instance = Some(instance);
        Signal::Done
    }

    fn copying(&mut self, state: TargetState) -> Signal {
        self.progress.copied_bytes = state.copied_bytes;
        self.progress.total_bytes = state.total_bytes.max(self.progress.total_bytes);
        self.tell();
        if let Some(error) = state.error {
            self.trouble(error);
            return Signal::Hopeless;
        }
        let base = self.facts.manifest.as_ref().map(|manifest| manifest.base);
        if state.opened && state.base == base {
            return Signal::Done;
        }
        Signal::Wait
    }

    fn status(&mut self, state: &SourceState) -> Signal {
        self.facts.durable = state.durable;
        if state.forwarding {
            Signal::Done
        } else {
            Signal::More
        }
    }

    fn missing(&mut self, ranges: Vec<SeqRange>, more: bool) -> Signal {
        let lag = delta::records(&ranges);
        self.progress.lag = lag;
        self.tell();
        let config = self.config.config();
        let holding = config.hold && !self.cutover;
        let fits = !more && lag <= config.catch_up_lag;
        self.facts.ranges = ranges;
        match (fits, holding) {
            (true, false) => Signal::Done,
            (true, true) if self.facts.ranges.is_empty() => Signal::Wait,
            _ => Signal::More,
        }
    }

    fn last_missing(&mut self, now: Now, ranges: Vec<SeqRange>, more: bool) -> Signal {
        if now >= self.facts.pause_ends {
            return Signal::Spoiled;
        }
        self.facts.ranges = ranges;
        if self.facts.ranges.is_empty() && !more {
            return Signal::Done;
        }
        Signal::More
    }

    fn drained(&mut self, marks: SourceMarks) -> Signal {
        if marks.f != self.facts.f {
            self.trouble("the source drained to another F than it quiesced at".into());
            return Signal::Spoiled;
        }
        self.facts.source_marks = Some(marks);
        Signal::Done
    }

    fn verified(&mut self, now: Now, marks: TargetMarks) -> Signal {
        let Some(source) = &self.facts.source_marks else {
            return Signal::Spoiled;
        };
        let proof = Evidence::prove(&self.config, source, &marks);
        self.facts.target_marks = Some(marks);
        let error = match proof {
            Ok(_) => return Signal::Done,
            Err(error) => error,
        };
        self.trouble(error.to_string());
        match error {
            EvidenceError::Missing { .. } | EvidenceError::Behind { .. }
                if now < self.facts.pause_ends =>
            {
                Signal::More
            }
            EvidenceError::Digest { .. } | EvidenceError::Impossible { .. } => Signal::Hopeless,
            _ => Signal::Spoiled,
        }
    }

    fn page(&mut self, side: Side, entries: Vec<crate::messages::PageEntry>, done: bool) -> Signal {
        let Some(comparison) = self.facts.comparison.as_mut() else {
            return Signal::More;
        };
        match comparison.page(side, entries, done) {
            Ok(()) => Signal::More,
            Err(error) => {
                self.trouble(error.to_string());
                Signal::Again
            }
        }
    }
}

//! What each answer means: facts are kept, and a signal says how the step came out.

use watershed_wal::{Seq, SeqRange};

use super::ask::{ROUND_BYTES, ROUND_RECORDS};
use super::catch_up::{Next, STALLED_ROUNDS};
use super::run::Machine;
use super::steps::{Signal, Step};
use crate::compare::Side;
use crate::delta;
use crate::evidence::{Evidence, EvidenceError, SourceMarks, TargetMarks};
use crate::messages::{Refused, RefusedKind, Response, SourceState, TargetState};
use crate::words::{Now, Phase};

/// After how long without a byte more the copy is asked for again, in milliseconds.
const COPY_STILL_MS: u64 = 1_000;
/// How often in a row the source may be found not forwarding.
const FORWARDS_LOST_MAX: u32 = 40;

impl Machine {
    pub(super) fn answer(&mut self, now: Now, response: Response) -> Signal {
        if let Response::Refused(refused) = &response {
            return self.refused(now, refused);
        }
        match self.step.phase() {
            Phase::Plan | Phase::BulkCopy => self.copy_answer(now, response),
            Phase::DualWrite | Phase::StopDualWrite | Phase::Drain | Phase::DeltaPass => {
                self.delta_answer(now, response)
            }
            _ => self.late_answer(response),
        }
    }

    /// Up to the dual-write phase.
    fn copy_answer(&mut self, now: Now, response: Response) -> Signal {
        match (self.step, response) {
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
            (Step::Pull | Step::ForwardCopy, Response::Ok) => Signal::Done,
            (Step::Copying, Response::TargetState(state)) => self.copying(now, state),
            (_, other) => self.no_answer(&other),
        }
    }

    /// The dual-write phase's rounds, and the pause.
    fn delta_answer(&mut self, now: Now, response: Response) -> Signal {
        match (self.step, response) {
            (Step::Forward, Response::Ok) => Signal::Done,
            (Step::Status, Response::SourceState(state)) => self.status(&state),
            (Step::Missing, Response::MissingRanges { ranges, more }) => {
                self.missing(now, ranges, more)
            }
            (Step::LastMissing, Response::MissingRanges { ranges, more }) => {
                self.last_missing(now, ranges, more)
            }
            (Step::Ship | Step::LastShip, Response::Shipped { records, bytes }) => {
                self.shipped(records, bytes)
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
            (Step::Reopen, Response::Reopened) => Signal::Done,
            (_, other) => self.no_answer(&other),
        }
    }

    /// From the activation, or the abort, on.
    fn late_answer(&mut self, response: Response) -> Signal {
        match (self.step, response) {
            (Step::AbortSource | Step::DiscardTarget, Response::Ok) => Signal::Done,
            (Step::Files, Response::TargetState(state)) => {
                self.facts.files = state.files;
                Signal::Done
            }
            (Step::BecomeOwner, Response::Serving { term, first_seq })
                if term.epoch == self.record.epoch =>
            {
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
            (_, other) => self.no_answer(&other),
        }
    }

    fn no_answer(&mut self, other: &Response) -> Signal {
        let (what, name) = (self.step.what(), other.name());
        self.trouble(format!(
            "{what} was answered with {name}, which is no answer to it"
        ));
        match self.step {
            Step::Activate => Signal::Lost,
            _ => Signal::Again,
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
                let target = &self.progress.target;
                self.trouble(format!(
                    "node {target} has {free_bytes} bytes to spare, and the copy needs about {needed}: make room there, \
                     or name another target"
                ));
                return Signal::Hopeless;
            }
            None => {}
        }
        self.facts.target_instance = Some(instance);
        Signal::Done
    }

    fn copying(&mut self, now: Now, state: TargetState) -> Signal {
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
        if state.opened {
            self.trouble("the target opened another checkpoint than the source made".into());
            return Signal::Hopeless;
        }
        let began = *self.facts.copy.began.get_or_insert(now);
        let hold_ms = self.config.config().hold_ms;
        if now.since_ms(began) > hold_ms {
            let (copied, total) = (state.copied_bytes, self.progress.total_bytes);
            self.trouble(format!(
                "the copy took longer than the source keeps its log for it ({hold_ms} ms, hold_ms), with {copied} \
                 of {total} bytes copied: see the link and the target's disk, or raise rate_bytes_per_s or hold_ms"
            ));
            return Signal::Hopeless;
        }
        let (bytes, since) = *self
            .facts
            .copy
            .last
            .get_or_insert((state.copied_bytes, now));
        if bytes != state.copied_bytes {
            self.facts.copy.last = Some((state.copied_bytes, now));
        } else if now.since_ms(since) >= COPY_STILL_MS {
            self.facts.copy.last = Some((bytes, now));
            return Signal::More;
        }
        Signal::Wait
    }

    fn status(&mut self, state: &SourceState) -> Signal {
        self.facts.durable = state.durable;
        if state.forwarding {
            self.facts.forwards_lost = 0;
            return Signal::Done;
        }
        self.facts.forwards_lost = self.facts.forwards_lost.saturating_add(1);
        match self.facts.forwards_lost {
            // Restarted, or not asked yet by this driver.
            1 => Signal::More,
            2..=FORWARDS_LOST_MAX => Signal::Wait,
            lost => {
                self.trouble(format!(
                    "the source did not go on forwarding, {lost} times in a row: see its log"
                ));
                Signal::Hopeless
            }
        }
    }

    fn missing(&mut self, now: Now, ranges: Vec<SeqRange>, more: bool) -> Signal {
        let lag = at_most_missing(&ranges, more, self.facts.durable);
        self.progress.lag = lag;
        self.tell();
        let config = self.config.config();
        let holding = config.hold && !self.own().is_some_and(|m| m.cutover_asked);
        let fits = !more && lag <= config.catch_up_lag;
        let attempts_max = config.attempts_max;
        self.facts.ranges = ranges;
        if fits && !holding {
            let ready = self.facts.catch_up.may_quiesce(now);
            return if ready { Signal::Done } else { Signal::Wait };
        }
        if self.facts.ranges.is_empty() {
            return Signal::Wait;
        }
        match self.facts.catch_up.saw(now, lag, holding) {
            Next::Round => Signal::More,
            Next::Wait => Signal::Wait,
            // So little may fit into the pause all the same: the attempt tells.
            Next::Stalled if !more && lag <= ROUND_RECORDS => Signal::Done,
            Next::Stalled => {
                self.facts.stalls = self.facts.stalls.saturating_add(1);
                self.trouble(format!(
                    "the target does not keep up with the writers: after {STALLED_ROUNDS} more delta rounds it misses \
                     {lag} records, no fewer than before"
                ));
                if self.facts.stalls >= attempts_max {
                    let last = self.last_trouble();
                    self.trouble(format!(
                        "{last}, {attempts_max} times over: write less, or see the link and the target's disk"
                    ));
                    return Signal::Hopeless;
                }
                Signal::More
            }
        }
    }

    fn shipped(&mut self, records: u64, bytes: u64) -> Signal {
        self.progress.delta_records = self.progress.delta_records.saturating_add(records);
        let round = self.round();
        // A round that was not cut by its bytes is whole, though a Seq that a start record voided holds no record.
        let holes = if bytes < ROUND_BYTES {
            round.len()
        } else {
            let mut left = records;
            let whole = |range: &&SeqRange| {
                let fits = range.len() <= left;
                left = left.saturating_sub(range.len());
                fits
            };
            round.iter().take_while(whole).count()
        };
        let holes = u64::try_from(holes).unwrap_or(u64::MAX);
        self.progress.holes_filled = self.progress.holes_filled.saturating_add(holes);
        Signal::Done
    }

    fn last_missing(&mut self, now: Now, ranges: Vec<SeqRange>, more: bool) -> Signal {
        let lag = at_most_missing(&ranges, more, self.facts.f);
        let before = self.facts.pause.lag.replace(lag);
        if now >= self.facts.pause_ends {
            return Signal::Spoiled;
        }
        self.facts.ranges = ranges;
        if self.facts.ranges.is_empty() && !more {
            return Signal::Done;
        }
        if before.is_none_or(|before| lag < before) {
            return Signal::More;
        }
        // Shipping gained nothing: once more, but not at once.
        self.facts.pause.lag = None;
        Signal::Wait
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
                Signal::Wait
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

/// How many records up to `through` are missing at most: of what a cut list does not name, each may be.
fn at_most_missing(ranges: &[SeqRange], more: bool, through: Seq) -> u64 {
    let unlisted = match ranges.last() {
        Some(last) if more => through.0.saturating_sub(last.last().0),
        _ => 0,
    };
    delta::records(ranges).saturating_add(unlisted)
}

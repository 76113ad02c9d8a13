//! What a placement record that was read, or swapped in, says of the migration and of this driver.

use super::run::Machine;
use super::steps::{Signal, Step};
use super::{Action, Outcome};
use crate::placement::PlacementRecord;
use crate::transitions::Claim;
use crate::wishes::Asked;
use crate::words::{DriverTerm, Now, Phase};

impl Machine {
    /// A record came: of a swap that won or lost, or read back.
    pub(super) fn read(&mut self, now: Now, record: PlacementRecord) {
        if record.shard != self.record.shard || record.revision < self.record.revision {
            self.trouble("the placement gave an older record than before".into());
            return self.wait_to_retry(now);
        }
        let tried = self.swapping.take();
        if tried.as_ref().is_some_and(|tried| **tried == record) {
            self.facts.reserve.swap_won(now);
            self.strays = 0;
            self.record = record;
            self.begin = None;
            self.noting = Asked::default();
            self.learn_term();
            self.learn_wishes();
            return self.swapped(now);
        }
        self.facts.reserve.swap_ended();
        let unchanged = record.revision == self.record.revision;
        if !unchanged {
            self.strays = 0;
        }
        self.record = record;
        if let (Some(tried), true) = (tried, unchanged) {
            // Not arrived, or still under way: the same swap again is harmless.
            return self.swap(now, *tried);
        }
        self.note_again();
        self.learn_wishes();
        if self
            .record
            .migration
            .as_ref()
            .is_some_and(|m| m.id == self.id)
        {
            // It began, though nobody said so.
            if self.begin.take().is_some() {
                self.learn_term();
            }
        } else if self.begin.is_some() {
            return self.enter(now, Step::Begin);
        }
        // Who won instead may be dead, its swap a late one: the last to take over drives, the others find out.
        if self.step == Step::TakeOver && !self.is_final() {
            return self.enter(now, Step::TakeOver);
        }
        let signal = self.standing();
        self.signal(now, signal);
    }

    pub(super) fn swapped(&mut self, now: Now) {
        let certificate = self
            .record
            .migration
            .as_ref()
            .and_then(|m| m.certificate.clone());
        if let (Step::EnterCleanup, Some(certificate)) = (self.step, certificate) {
            self.out.push_back(Action::Certified(certificate));
        }
        let signal = match self.step {
            Step::TakeOver | Step::NoteWishes => self.standing(),
            _ => Signal::Done,
        };
        self.signal(now, signal);
    }

    /// What the record says of this migration and this driver.
    pub(super) fn standing(&mut self) -> Signal {
        let Some(m) = self.record.migration.as_ref().filter(|m| m.id == self.id) else {
            self.outcome = Some(Outcome::Superseded { driver: None });
            return Signal::AtEnd;
        };
        let mine = m.driver == self.me && self.term.is_none_or(|term| term == m.driver_term);
        if !mine && !m.phase.is_final() {
            self.outcome = Some(Outcome::Superseded {
                driver: Some((m.driver.clone(), m.driver_term)),
            });
            return Signal::AtEnd;
        }
        let retiring = self.record.frozen.as_ref().is_some_and(|f| f.retiring);
        match m.phase {
            Phase::Plan | Phase::BulkCopy => Signal::AtStart,
            Phase::DualWrite | Phase::StopDualWrite | Phase::Drain | Phase::DeltaPass => {
                Signal::AtDualWrite
            }
            Phase::Activate => Signal::AtActivate,
            Phase::Cleanup if retiring => Signal::AtRetire,
            Phase::Cleanup => Signal::AtCleanup,
            Phase::Aborted => Signal::AtAborted,
            Phase::Done => Signal::AtEnd,
        }
    }

    /// The source says what the placement holds; it read that itself.
    pub(super) fn source_read(&mut self, record: PlacementRecord) -> Signal {
        if record.shard != self.record.shard || record.revision <= self.record.revision {
            return Signal::Lost;
        }
        self.record = record;
        self.learn_wishes();
        self.standing()
    }

    pub(super) fn driver_term(&self) -> Option<DriverTerm> {
        let migration = self.record.migration.as_ref();
        migration.filter(|m| m.id == self.id).map(|m| m.driver_term)
    }

    pub(super) fn learn_term(&mut self) {
        if self.term.is_none() {
            self.term = self.driver_term();
        }
    }

    pub(super) fn is_final(&self) -> bool {
        self.record
            .migration
            .as_ref()
            .filter(|m| m.id == self.id)
            .is_none_or(|m| m.phase.is_final())
    }

    pub(super) fn claim(&self) -> Claim {
        let term = self.record.migration.as_ref().map(|m| m.driver_term);
        Claim {
            migration: self.id,
            driver_term: term.unwrap_or_default(),
        }
    }
}

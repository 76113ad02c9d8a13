//! What operators ask for: noted in the record first, then acted on.
//!
//! The pause is the one time in which nothing is noted: a swap there would void the quiesce. A wish to stand still ends
//! that attempt, any other waits until it is over.

use super::Operator;
use super::run::Machine;
use super::steps::{Signal, Step};
use crate::placement::MigrationRecord;
use crate::wishes::{Asked, Limits};
use crate::words::{Now, Phase};

impl Machine {
    pub(super) fn wish(&mut self, now: Now, wish: Operator) {
        let asked = match wish {
            Operator::Abort { reason } => return self.wish_abort(now, reason),
            Operator::Cutover => Asked {
                cutover: true,
                ..Asked::default()
            },
            Operator::Cleanup => Asked {
                cleanup: true,
                // Who wants the copy deleted now does not want to wait for a word more.
                paused: (self.own().is_some_and(|m| m.phase == Phase::Cleanup)).then_some(false),
                ..Asked::default()
            },
            Operator::Pause | Operator::Resume => Asked {
                paused: Some(wish == Operator::Pause),
                ..Asked::default()
            },
            Operator::SetLimits(limits) => match self.config.with_limits(limits) {
                Ok(_) => Asked {
                    limits,
                    ..Asked::default()
                },
                Err(refusal) => {
                    self.trouble(refusal.to_string());
                    return self.tell();
                }
            },
        };
        self.asked = self.asked.then(asked);
        self.heed(now);
    }

    fn wish_abort(&mut self, now: Now, reason: String) {
        self.abort.get_or_insert(reason);
        // A swap or a read must be answered first; a command or a wait need not.
        if self.interruptible() && self.step.may_abort() {
            self.call = None;
            self.enter(now, Step::Abort);
        }
    }

    /// Whether what it is at may be left at once.
    fn interruptible(&self) -> bool {
        let idle = self.call.is_some() || (self.waiting.is_some() && self.swapping.is_none());
        idle && self.step != Step::Reread
    }

    /// Interrupts what need not be waited for; else the next step will look.
    fn heed(&mut self, now: Now) {
        if !self.interruptible() || !self.unnoted() {
            return;
        }
        if self.step.in_pause() {
            // From here on only the source knows whether the shard is given away.
            let decided = self.step == Step::Activate;
            if self.asked.paused == Some(true) && !decided {
                self.trouble("the operator paused the migration".into());
                self.call = None;
                self.waiting = None;
                self.signal(now, Signal::Spoiled);
            }
        } else if self.step.may_wait() || self.step == Step::Paused {
            self.call = None;
            self.enter(now, Step::NoteWishes);
        }
    }

    /// What is done in place of `step`: the migration is given up, a wish is noted, or it stands still.
    pub(super) fn diverted(&self, step: Step) -> Step {
        let begins = matches!(step, Step::Begin | Step::TakeOver | Step::Reread);
        if self.abort.is_some() && step.may_abort() && !begins {
            return Step::Abort;
        }
        if step.may_wait() && self.unnoted() {
            return Step::NoteWishes;
        }
        // A gate that may be closed is opened before anything stands still.
        let open = step == Step::Reopen && !self.facts.pause.open;
        if self.own().is_some_and(|m| m.paused) && (step.may_wait() || open) {
            return Step::Paused;
        }
        step
    }

    /// Whether something is asked for that the record does not say yet.
    pub(super) fn unnoted(&self) -> bool {
        self.asked != Asked::default() && self.own().is_some_and(|m| self.asked.is_new_to(m))
    }

    /// A swap that was to note wishes did not: they are still to be noted, before what was asked for since.
    pub(super) fn note_again(&mut self) {
        self.asked = std::mem::take(&mut self.noting).then(self.asked);
    }

    /// A record was read: its limits hold, and what it grants is shown.
    pub(super) fn learn_wishes(&mut self) {
        let Some(m) = self.own() else { return };
        let (paused, cutover, limits) = (m.paused, m.cutover_asked, Limits::of(&m.config));
        if let Ok(config) = self.config.with_limits(limits) {
            self.config = config;
        }
        let config = self.config.config();
        let before = &self.progress;
        let changed = before.paused != paused
            || before.cutover != cutover
            || before.rate_bytes_per_s != config.rate_bytes_per_s
            || before.pause_max_ms != config.pause_max_ms;
        if changed {
            self.progress.paused = paused;
            self.progress.cutover = cutover;
            self.progress.rate_bytes_per_s = config.rate_bytes_per_s;
            self.progress.pause_max_ms = config.pause_max_ms;
            self.tell();
        }
    }

    /// What the record says of this migration.
    pub(super) fn own(&self) -> Option<&MigrationRecord> {
        self.record.migration.as_ref().filter(|m| m.id == self.id)
    }
}

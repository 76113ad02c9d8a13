//! When the driver asks again, and when it gives up: no step repeats without a wait, and none repeats for ever
//! before Activate.

use super::run::Machine;
use super::steps::{Signal, Step};
use super::{Action, Timer};
use crate::words::Now;

/// Failures in a row before a step is given up, where it may be.
const FAILURES_MAX: u32 = 40;
/// The same where giving up costs nothing: the peer finds out from the placement by itself.
const FAREWELL_MAX: u32 = 12;
/// After how many failures in a row the record is read.
const LOOK_EVERY: u32 = 8;
/// How often a wait looks again.
pub(super) const POLL_MS: u64 = 50;
const BACKOFF_MIN_MS: u64 = 5;
const BACKOFF_MAX_MS: u64 = 2_000;

impl Machine {
    /// Turns failures beyond the budget into what gives up, where giving up is possible.
    pub(super) fn budgeted(&mut self, now: Now, signal: Signal) -> Signal {
        let retries = matches!(signal, Signal::Again | Signal::Lost | Signal::Forgotten);
        if !retries {
            return signal;
        }
        self.failures = self.failures.saturating_add(1);
        let farewell = matches!(
            self.step,
            Step::AbortSource | Step::DiscardTarget | Step::Release
        );
        let budget = if farewell { FAREWELL_MAX } else { FAILURES_MAX };
        if self.step.in_pause() && signal == Signal::Again && now >= self.facts.pause_ends {
            return Signal::Spoiled;
        }
        let may_give_up = farewell || (self.step.may_abort() && self.step != Step::Reread);
        if self.failures > budget && may_give_up && !self.step.is_swap() {
            return Signal::Hopeless;
        }
        // After Activate nothing is given up, but another driver may have gone on: the record says so.
        let look =
            self.failures.is_multiple_of(LOOK_EVERY) && self.step.after(Signal::Lost).is_some();
        if signal == Signal::Again && look && !self.step.may_abort() {
            return Signal::Lost;
        }
        signal
    }

    pub(super) fn wait_to_retry(&mut self, now: Now) {
        let doublings = self.failures.min(10);
        let ms = BACKOFF_MIN_MS
            .saturating_mul(1 << doublings)
            .min(if self.step.in_pause() {
                BACKOFF_MIN_MS
            } else {
                BACKOFF_MAX_MS
            });
        self.wait(Timer::Backoff, now.plus_ms(ms));
    }

    pub(super) fn wait(&mut self, timer: Timer, at: Now) {
        self.waiting = Some((timer, at));
        self.out.push_back(Action::SetTimer { timer, at });
    }

    pub(super) fn fired(&mut self, now: Now, timer: Timer) {
        match self.waiting {
            Some((armed, at)) if armed == timer && now >= at => self.waiting = None,
            _ => return,
        }
        match timer {
            Timer::Grace => self.signal(now, Signal::Done),
            // The swap's outcome is unknown: the record tells.
            Timer::Backoff if self.swapping.is_some() => self.out.push_back(Action::ReadPlacement),
            Timer::Backoff => self.enter(now, self.step),
            Timer::Poll => {
                let next = self.step.after(Signal::Wait).unwrap_or(self.step);
                self.enter(now, next);
            }
        }
    }
}

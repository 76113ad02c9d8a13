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
const POLL_MS: u64 = 50;
/// The same in the pause, where each millisecond counts.
const PAUSE_POLL_MS: u64 = 1;
/// How long clients are left alone after the first pause that was given up; doubled after each, up to a bound.
const BREATHE_MIN_MS: u64 = 10;
const BREATHE_MAX_MS: u64 = 500;
const BACKOFF_MIN_MS: u64 = 5;
const BACKOFF_MAX_MS: u64 = 2_000;

impl Machine {
    /// Turns failures beyond the budget into what gives up, where giving up is possible.
    pub(super) fn budgeted(&mut self, now: Now, signal: Signal) -> Signal {
        if !matches!(signal, Signal::Again | Signal::Lost | Signal::Forgotten) {
            return signal;
        }
        self.failures = self.failures.saturating_add(1);
        if signal != Signal::Again {
            self.strays = self.strays.saturating_add(1);
        }
        let farewell = matches!(
            self.step,
            Step::AbortSource | Step::DiscardTarget | Step::Release
        );
        let budget = if farewell { FAREWELL_MAX } else { FAILURES_MAX };
        if self.step.in_pause() && signal == Signal::Again && now >= self.facts.pause_ends {
            return Signal::Spoiled;
        }
        let failures = self.failures.max(self.strays);
        let may_give_up = farewell || (self.step.may_abort() && self.step != Step::Reread);
        if failures > budget && may_give_up && !self.step.is_swap() {
            let (what, last) = (self.step.what(), self.last_trouble());
            self.trouble(format!(
                "{what} failed {failures} times in a row; the last time: {last}"
            ));
            return Signal::Hopeless;
        }
        // After Activate nothing is given up, but another driver may have gone on: the record says so. A farewell ends
        // by itself: the way back to it would begin its count again, and never end where nobody hears it.
        let look = !farewell
            && self.failures.is_multiple_of(LOOK_EVERY)
            && self.step.after(Signal::Lost).is_some();
        if signal == Signal::Again && look && !self.step.may_abort() {
            return Signal::Lost;
        }
        signal
    }

    /// The same step again, later the more often it failed.
    pub(super) fn wait_to_retry(&mut self, now: Now) {
        let most = if self.step.in_pause() {
            BACKOFF_MIN_MS
        } else {
            BACKOFF_MAX_MS
        };
        let ms = doubled(BACKOFF_MIN_MS, self.failures.max(self.strays), most);
        self.wait(Timer::Backoff, now.plus_ms(ms));
    }

    /// A look again at what is not yet.
    pub(super) fn wait_to_poll(&mut self, now: Now) {
        let ms = if self.step.in_pause() {
            PAUSE_POLL_MS
        } else {
            POLL_MS
        };
        self.wait(Timer::Poll, now.plus_ms(ms));
    }

    /// When the next pause may begin, after one that was given up.
    pub(super) fn next_pause(&self, now: Now) -> Now {
        now.plus_ms(doubled(
            BREATHE_MIN_MS,
            self.progress.re_opens,
            BREATHE_MAX_MS,
        ))
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
            Timer::Grace => {
                let signal = self.grace_passed();
                self.signal(now, signal);
            }
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

fn doubled(least: u64, times: u32, most: u64) -> u64 {
    least.saturating_mul(1 << times.min(20)).min(most)
}

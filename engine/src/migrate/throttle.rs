//! The speed of a copy: a bound in bytes a second, and standing still, both changed while it runs.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::sync::lock;

/// What an operator may change of a copy that is running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Speed {
    pub(super) bytes_per_s: Option<u64>,
    pub(super) paused: bool,
}

/// Keeps the average rate of all files together under its bound.
#[derive(Debug)]
pub(super) struct Throttle {
    speed: watch::Receiver<Speed>,
    debt: Mutex<Debt>,
}

impl Throttle {
    pub(super) fn new(speed: watch::Receiver<Speed>) -> Self {
        Self {
            speed,
            debt: Mutex::new(Debt {
                at: Instant::now(),
                bytes: 0,
            }),
        }
    }

    pub(super) fn bytes_per_s(&self) -> Option<u64> {
        self.speed.borrow().bytes_per_s
    }

    /// Whether so many bytes may be asked for now; they count, then.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        self.wait_for(bytes).is_none()
    }

    /// Returns when so many bytes may be asked for.
    pub(super) async fn take(&self, bytes: u64) {
        let mut speed = self.speed.clone();
        loop {
            speed.mark_unchanged();
            match self.wait_for(bytes) {
                None => return,
                // Another speed may make it shorter, or longer. The sender outlives the copy.
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, speed.changed()).await;
                }
            }
        }
    }

    fn wait_for(&self, bytes: u64) -> Option<Duration> {
        let speed = *self.speed.borrow();
        if speed.paused {
            return Some(Duration::MAX);
        }
        let rate = speed.bytes_per_s?;
        lock(&self.debt).take(Instant::now(), rate, bytes)
    }
}

/// What was asked for beyond what the rate has allowed so far, as of a moment.
#[derive(Debug)]
struct Debt {
    at: Instant,
    bytes: u64,
}

impl Debt {
    /// Adds these bytes where there is no debt; else says for how long there is one.
    fn take(&mut self, now: Instant, rate: u64, bytes: u64) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let paid = passed.saturating_mul(u128::from(rate)) / 1_000_000;
        if paid > 0 {
            self.at = now;
            let paid = u64::try_from(paid).unwrap_or(u64::MAX);
            self.bytes = self.bytes.saturating_sub(paid);
        }
        if self.bytes == 0 {
            self.at = now;
            self.bytes = bytes;
            return None;
        }
        let left = u128::from(self.bytes) * 1_000_000 / u128::from(rate.max(1)) + 1;
        Some(Duration::from_micros(
            u64::try_from(left).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes go through in so many milliseconds, in chunks, with waiters that look each millisecond.
    fn through(rate: impl Fn(u64) -> u64, ms: u64, chunk: u64) -> u64 {
        let start = Instant::now();
        let mut debt = Debt {
            at: start,
            bytes: 0,
        };
        let mut taken = 0;
        for at in 0..ms {
            let now = start + Duration::from_millis(at);
            while debt.take(now, rate(at), chunk).is_none() {
                taken += chunk;
            }
        }
        taken
    }

    #[test]
    fn the_average_rate_is_the_bound() {
        for (rate, chunk) in [(1 << 20, 64 << 10), (10 << 20, 1 << 20), (1024, 1024)] {
            let taken = through(|_| rate, 10_000, chunk);
            let most = 10 * rate + chunk;
            assert!(taken <= most, "{taken} of {most}");
            assert!(taken + 2 * chunk >= 9 * rate, "{taken} of {rate} a second");
        }
    }

    #[test]
    fn a_bound_that_changes_counts_at_once() {
        let chunk = 64 << 10;
        // At the old rate the first chunk alone would take a minute.
        let taken = through(|ms| if ms < 1_000 { 1024 } else { 1 << 20 }, 2_000, chunk);
        assert!(taken >= 15 * chunk, "{taken}");
        let taken = through(|ms| if ms < 1_000 { 1 << 20 } else { 1024 }, 60_000, chunk);
        assert!(taken <= 18 * chunk, "{taken}");
    }

    #[test]
    fn the_wait_is_as_long_as_the_debt() {
        let start = Instant::now();
        let mut debt = Debt {
            at: start,
            bytes: 0,
        };
        assert_eq!(debt.take(start, 1000, 500), None);
        let wait = debt.take(start, 1000, 500).unwrap();
        assert_eq!(wait, Duration::from_micros(500_001));
        assert_eq!(debt.take(start + wait, 1000, 500), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_paused_copy_waits_until_it_is_resumed() {
        let (sender, speed) = watch::channel(Speed {
            bytes_per_s: None,
            paused: true,
        });
        let throttle = Throttle::new(speed);
        assert!(!throttle.try_take(1));
        let resume = async {
            tokio::task::yield_now().await;
            sender.send_replace(Speed::default());
        };
        tokio::join!(throttle.take(1 << 40), resume);
        assert!(throttle.try_take(1));
    }
}

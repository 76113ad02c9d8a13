//! How much of the pause is kept for what comes after the source can re-open no more.
//!
//! From the "sent" note on the pause can't be given up, and three things still have to be made durable: the note, the
//! swap, the target's start record. How long a disk and a scheduler take for one such thing right now is what the swaps
//! of this very migration took, so the source is asked to re-open early enough for twice the slowest of the last ones.
//! Where nothing fits into what is left, the reserve shrinks with the attempts: a machine that slow could never move a
//! shard otherwise.

use crate::words::Now;

/// Swaps that count.
const LAST: usize = 4;

/// After so many attempts without success the reserve is halved, and again.
const ATTEMPTS: u32 = 3;

/// What the last swaps took.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    began: Option<Now>,
    took_ms: [u64; LAST],
    next: usize,
}

impl Reserve {
    /// A swap leaves.
    pub(super) fn swap_began(&mut self, now: Now) {
        self.began.get_or_insert(now);
    }

    /// It won.
    pub(super) fn swap_won(&mut self, now: Now) {
        if let Some(began) = self.began.take() {
            self.took_ms[self.next] = now.since_ms(began);
            self.next = (self.next + 1) % LAST;
        }
    }

    /// What came of it is not known, or it lost: it tells nothing of a disk.
    pub(super) fn swap_ended(&mut self) {
        self.began = None;
    }

    /// The bound to ask the source for, of which it uses four fifths before it re-opens: what is left then of the
    /// agreed bound is at least a fifth and at most three. `attempt` counts from 1.
    pub(super) fn bound_ms(&self, pause_max_ms: u64, attempt: u32) -> u64 {
        let slowest = self.took_ms.into_iter().max().unwrap_or(0);
        let fifth = pause_max_ms / 5;
        let halved = (attempt.saturating_sub(1) / ATTEMPTS).min(63);
        let reserve = ((2 * slowest).min(3 * fifth) >> halved).max(fifth);
        ((pause_max_ms - reserve) * 5 / 4).min(pause_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(swaps_ms: &[u64]) -> Reserve {
        let mut reserve = Reserve::default();
        for &ms in swaps_ms {
            reserve.swap_began(Now(100));
            reserve.swap_won(Now(100 + ms));
        }
        reserve
    }

    #[test]
    fn quick_swaps_leave_the_source_four_fifths_of_the_pause() {
        assert_eq!(after(&[]).bound_ms(50, 1), 50);
        assert_eq!(after(&[1, 2, 5, 3]).bound_ms(50, 1), 50);
        assert_eq!(after(&[]).bound_ms(5, 1), 5);
    }

    #[test]
    fn slow_swaps_make_it_re_open_earlier_and_never_at_once() {
        // 50 ms less 2 * 9 ms are 32 ms, four fifths of 40 ms.
        assert_eq!(after(&[1, 9, 2]).bound_ms(50, 1), 40);
        assert_eq!(after(&[700]).bound_ms(50, 1), 25);
        assert_eq!(after(&[700, 1, 1, 1]).bound_ms(50, 1), 25);
        assert_eq!(after(&[700, 1, 1, 1, 1]).bound_ms(50, 1), 50, "it is over");
    }

    #[test]
    fn it_shrinks_where_no_attempt_fits() {
        let slow = after(&[700]);
        let bounds: Vec<u64> = [1, 3, 4, 6, 7, 1_000_000]
            .map(|attempt| slow.bound_ms(50, attempt))
            .into();
        assert_eq!(bounds, [25, 25, 43, 43, 50, 50]);
    }

    #[test]
    fn a_swap_without_an_outcome_tells_nothing() {
        let mut reserve = after(&[]);
        reserve.swap_began(Now(0));
        reserve.swap_ended();
        reserve.swap_won(Now(900));
        assert_eq!(reserve.bound_ms(50, 1), 50);
    }
}

//! The delta rounds of one dual-write phase: when the next may begin, and whether they get anywhere.
//!
//! A round that left less to ship than any before is followed at once by the next. One that did not is followed
//! after a while; so many of those in a row are a stall. Nothing here sends anything.

use crate::words::Now;

/// How many rounds in a row may leave no less to ship than the best one before.
pub(super) const STALLED_ROUNDS: u32 = 16;
/// How long after a round without a gain the next one waits, in milliseconds.
const ROUND_EVERY_MS: u64 = 50;

/// What comes after a look at what the target misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ship a round.
    Round,
    /// Too early: look again later.
    Wait,
    /// So many rounds gained nothing.
    Stalled,
}

/// The rounds since the dual-write phase was entered, or re-entered after a pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CatchUp {
    least: Option<u64>,
    without_gain: u32,
    not_before: Now,
}

impl CatchUp {
    /// Begins anew; no round and no quiesce before `not_before`.
    pub(super) const fn starting(not_before: Now) -> Self {
        Self {
            least: None,
            without_gain: 0,
            not_before,
        }
    }

    /// Whether a quiesce may be tried.
    pub(super) fn may_quiesce(&self, now: Now) -> bool {
        now >= self.not_before
    }

    /// The target misses `distance` records. `idle` rounds are not in a hurry and never stall: the operator holds
    /// the migration here.
    pub(super) fn saw(&mut self, now: Now, distance: u64, idle: bool) -> Next {
        if now < self.not_before {
            return Next::Wait;
        }
        let gained = self.least.is_none_or(|least| distance < least);
        if gained {
            self.least = Some(distance);
            self.without_gain = 0;
        }
        if !gained || idle {
            self.not_before = now.plus_ms(ROUND_EVERY_MS);
        }
        if !gained && !idle {
            self.without_gain += 1;
            if self.without_gain > STALLED_ROUNDS {
                self.without_gain = 0;
                self.least = Some(distance);
                return Next::Stalled;
            }
        }
        Next::Round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_gain_follow_at_once_and_others_wait() {
        let mut rounds = CatchUp::default();
        for distance in (1..100).rev() {
            assert_eq!(rounds.saw(Now(0), distance, false), Next::Round);
        }
        assert_eq!(rounds.saw(Now(0), 1, false), Next::Round);
        assert_eq!(rounds.saw(Now(0), 0, false), Next::Wait);
        assert!(!rounds.may_quiesce(Now(49)) && rounds.may_quiesce(Now(50)));
    }

    #[test]
    fn rounds_without_a_gain_stall_unless_the_operator_holds() {
        let mut rounds = CatchUp::default();
        let mut later = (0..).map(|n| Now(n * 50));
        let mut look = |idle| rounds.saw(later.next().unwrap(), 7, idle);
        assert_eq!(look(false), Next::Round);
        for _ in 0..STALLED_ROUNDS {
            assert_eq!(look(false), Next::Round);
        }
        assert_eq!(look(false), Next::Stalled);
        for _ in 0..10 * STALLED_ROUNDS {
            assert_eq!(look(true), Next::Round);
        }
    }
}

//! Medians and spreads of interleaved rounds.

use std::time::Duration;

use serde::Serialize;

/// The middle of some numbers and how far they reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of some numbers; of none it is not a number.
    #[must_use]
    pub fn of(numbers: &[f64]) -> Self {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let upper = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 if upper > 0 => f64::midpoint(at(upper - 1), at(upper)),
            _ => at(upper),
        };
        Self {
            median,
            min: at(0),
            max: at(sorted.len().saturating_sub(1)),
        }
    }
}

/// Which of two results is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The greater, as of rates.
    More,
    /// The lesser, as of times and bytes.
    Less,
}

/// The ratios of two sides, round by round, turned so that more is better for `ours`.
///
/// Both sides of a round ran next to each other in time, so what disturbs the machine for longer than a round disturbs
/// both; a ratio of medians would not have that.
#[must_use]
pub fn ratios(ours: &[f64], theirs: &[f64], better: Better) -> Spread {
    let pairs = ours.iter().zip(theirs);
    let ratios: Vec<f64> = pairs
        .map(|(ours, theirs)| match better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        })
        .collect();
    Spread::of(&ratios)
}

/// The least time that `percent` of the times do not exceed; zero of none.
#[must_use]
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 10.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 10.0));
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn a_ratio_compares_what_ran_side_by_side() {
        // The machine was ten times slower in the second round: for both.
        let (ours, theirs) = ([200.0, 20.0, 220.0], [100.0, 10.0, 100.0]);
        let spread = ratios(&ours, &theirs, Better::More);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 2.0, 2.2));
    }

    #[test]
    fn a_ratio_of_times_is_turned_so_that_more_is_better() {
        let spread = ratios(&[10.0, 20.0, 40.0], &[20.0, 20.0, 20.0], Better::Less);
        assert_eq!((spread.median, spread.min, spread.max), (1.0, 0.5, 2.0));
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&mut times, 99), Duration::from_micros(99));
        assert_eq!(percentile(&mut times, 50), Duration::from_micros(50));
        assert_eq!(percentile(&mut times[..1], 99), Duration::from_micros(1));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }
}

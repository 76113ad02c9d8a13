//! Times counted by how long they were: cheap enough to note each sync, and each pause of a migration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper ends of the buckets, in microseconds: 1, 2, 5 of each decade, from below a fast device's sync to above any
/// pause.
const UP_TO_US: [u64; 18] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 60_000_000,
];

/// Counts times as they come; noting one is two additions to atomic numbers.
#[derive(Debug, Default)]
pub struct TimeCounts {
    /// The last is of those longer than any bucket.
    counts: [AtomicU64; UP_TO_US.len() + 1],
    sum_us: AtomicU64,
}

impl TimeCounts {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = UP_TO_US.partition_point(|&up_to| up_to < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Times {
        let count = |at: usize| self.counts[at].load(Ordering::Relaxed);
        let buckets = UP_TO_US.iter().enumerate();
        Times {
            buckets: buckets
                .map(|(at, &up_to_us)| TimeBucket {
                    up_to_us,
                    count: count(at),
                })
                .collect(),
            longer: count(UP_TO_US.len()),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

/// Times by how long they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// By length, the shortest first; each has those that no bucket before it has.
    pub buckets: Vec<TimeBucket>,
    /// Those longer than any bucket.
    pub longer: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

/// Times of about one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeBucket {
    /// The longest, in microseconds.
    pub up_to_us: u64,
    /// How many.
    pub count: u64,
}

impl Times {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counted = self.buckets.iter().map(|bucket| bucket.count);
        counted.sum::<u64>().saturating_add(self.longer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_in_the_first_bucket_that_holds_it() {
        let counts = TimeCounts::default();
        for us in [0, 50, 51, 1_000, 60_000_000, 60_000_001] {
            counts.note(Duration::from_micros(us));
        }
        let times = counts.read();
        let of = |up_to: u64| {
            let mut buckets = times.buckets.iter();
            buckets.find(|it| it.up_to_us == up_to).unwrap().count
        };
        assert_eq!((of(50), of(100), of(1_000)), (2, 1, 1));
        assert_eq!((of(60_000_000), times.longer, times.count()), (1, 1, 6));
        assert_eq!(times.sum_us, 50 + 51 + 1_000 + 60_000_000 + 60_000_001);
        let lengths: Vec<u64> = times.buckets.iter().map(|it| it.up_to_us).collect();
        assert!(lengths.is_sorted());
    }
}

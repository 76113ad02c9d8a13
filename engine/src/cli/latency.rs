//! A histogram of times in microseconds: constant memory, about 3 % wide, merged without loss.

use std::time::Duration;

/// Steps within each power of two.
const STEPS_BITS: u32 = 5;
const STEPS: u64 = 1 << STEPS_BITS;
/// Times up to 2^40 us, twelve days; longer ones count as that.
const BUCKETS: usize = (40 - STEPS_BITS as usize + 1) << STEPS_BITS;

/// Times, counted by size.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)] += 1;
        self.count += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// The time that `percent` of all times do not pass, in microseconds; 0 where nothing was counted.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        self.quantile(percent, 100)
    }

    /// The time that so many `part`s `of` all times do not pass: 999 of 1000.
    pub(super) fn quantile(&self, part: u64, of: u64) -> u64 {
        let rank = (self.count * part).div_ceil(of).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(index);
            }
        }
        0
    }
}

fn bucket(us: u64) -> usize {
    let index = if us < STEPS {
        us
    } else {
        let shift = us.ilog2() - STEPS_BITS;
        (u64::from(shift) << STEPS_BITS) + (us >> shift)
    };
    usize::try_from(index)
        .unwrap_or(usize::MAX)
        .min(BUCKETS - 1)
}

/// The greatest time that falls into a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((index % STEPS + STEPS + 1) << shift) - 1
}

/// The value that `percent` of the sorted `values` do not pass; 0 where there is none.
pub(super) fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_a_bucket_at_most_one_step_wide() {
        for us in (0..100_000).chain([u64::from(u32::MAX), 1 << 39]) {
            let upper = upper(bucket(us));
            assert!(
                upper >= us && upper - us <= us / STEPS,
                "{us} became {upper}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_one_to_a_thousand() {
        let mut times = Latencies::default();
        assert_eq!(times.percentile(50), 0);
        for us in 1..=1000 {
            times.add(Duration::from_micros(us));
        }
        let mut twice = times.clone();
        twice.merge(&times);
        for (percent, exact) in [(50u64, 500u64), (99, 990), (100, 1000)] {
            for found in [times.percentile(percent), twice.percentile(percent)] {
                assert!(
                    found >= exact && found <= exact + exact / STEPS,
                    "{percent} %: {found}"
                );
            }
        }
        assert!(times.quantile(999, 1000) >= 999);
        assert_eq!(percentile(&[3, 1, 2], 50), 2);
        assert_eq!(percentile(&[], 99), 0);
    }
}

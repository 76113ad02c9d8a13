//! How a copy gives way to the writers of the node that serves it.
//!
//! While somebody watches, the time of each write is counted in buckets; else a write pays for one look at a number. What
//! writes took just before the copy is its *calm*: no chunk is served before that is known. From then on chunks are
//! served one after the other, with a wait before each that doubles while the writes' p99 is above so many percent of the
//! calm, and halves while it is not. The wait has a bound, so that the copy ends; what it asks the writers to bear beyond
//! that, a rate is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Eight for each doubling of the time: an eighth is the finest that is told apart.
const BUCKETS: usize = 240;
/// The calm is of so many writes, or of those in so long a time.
const CALM_WRITES: u64 = 200;
const CALM_LONGEST: Duration = Duration::from_secs(1);
const CALM_LOOK: Duration = Duration::from_millis(20);
/// A later judgement is of so many writes, or of those in so long a time.
const WRITES: u64 = 50;
const WINDOW_LONGEST: Duration = Duration::from_secs(1);
const WINDOW_LEAST: Duration = Duration::from_millis(50);
/// Fewer than so many say nothing.
const WRITES_LEAST: u64 = 5;
/// With as many chunks as a target asks for at once, the last one still comes long before it is given up.
const WAIT_FIRST: Duration = Duration::from_millis(5);
const WAIT_LONGEST: Duration = Duration::from_millis(500);

/// The times of a node's writes, counted while somebody watches.
#[derive(Debug)]
pub(crate) struct Foreground {
    watchers: AtomicUsize,
    counts: Box<[AtomicU32]>,
}

impl Default for Foreground {
    fn default() -> Self {
        Self {
            watchers: AtomicUsize::new(0),
            counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Foreground {
    /// A write begins; when, if anybody wants to know.
    pub(crate) fn begin(&self) -> Option<Instant> {
        (self.watchers.load(Ordering::Relaxed) > 0).then(Instant::now)
    }

    /// A write that began then was acknowledged.
    pub(crate) fn note(&self, began: Option<Instant>) {
        if let Some(began) = began {
            let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
            if let Some(count) = self.counts.get(bucket(micros)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn read(&self) -> Vec<u32> {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

fn bucket(micros: u32) -> usize {
    let octave = micros.max(1).ilog2().max(3) - 3;
    let within = micros >> octave;
    // The first eight are one microsecond each, and 8 to 15 in each octave are the eighths of it.
    usize::try_from(octave * 8 + within).unwrap_or(BUCKETS - 1)
}

/// The least time of a bucket, in microseconds.
fn least(bucket: usize) -> u64 {
    let octave = (bucket / 8).saturating_sub(1);
    let within = bucket - octave * 8;
    u64::try_from(within).unwrap_or(0) << octave
}

/// What one copy knows of the writers beside it.
#[derive(Debug)]
pub(super) struct Pace {
    foreground: Arc<Foreground>,
    before: Vec<u32>,
    since: Instant,
    judge: Option<Judge>,
}

impl Pace {
    /// Watches from now on, until it is dropped.
    pub(super) fn start(foreground: Arc<Foreground>) -> Self {
        foreground.watchers.fetch_add(1, Ordering::Relaxed);
        Self {
            before: foreground.read(),
            since: Instant::now(),
            foreground,
            judge: None,
        }
    }

    /// Returns when the next chunk may be served.
    pub(super) async fn turn(&mut self, percent: u32) {
        if self.judge.is_none() {
            while self.counted().0 < CALM_WRITES && self.since.elapsed() < CALM_LONGEST {
                tokio::time::sleep(CALM_LOOK).await;
            }
            let judge = Judge::new(self.window());
            self.judge = Some(judge);
        }
        let (count, elapsed) = (self.counted().0, self.since.elapsed());
        let due = elapsed >= WINDOW_LEAST && (count >= WRITES || elapsed >= WINDOW_LONGEST);
        let window = due.then(|| self.window());
        let Some(judge) = &mut self.judge else { return };
        if let Some(p99) = window {
            judge.saw(p99, percent);
        }
        let wait = judge.wait;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// The writes since the last window, and all counts as they are now.
    fn counted(&self) -> (u64, Vec<u32>) {
        let now = self.foreground.read();
        let new = now.iter().zip(&self.before);
        let count = new.map(|(now, before)| u64::from(now.wrapping_sub(*before)));
        (count.sum(), now)
    }

    /// The p99 of the writes since the last window, in microseconds, where there were enough; begins another.
    fn window(&mut self) -> Option<u64> {
        let (count, now) = self.counted();
        let before = std::mem::replace(&mut self.before, now);
        self.since = Instant::now();
        let new = self.before.iter().zip(&before);
        p99(count, new.map(|(now, before)| now.wrapping_sub(*before)))
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.foreground.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn p99(count: u64, buckets: impl Iterator<Item = u32>) -> Option<u64> {
    if count < WRITES_LEAST {
        return None;
    }
    let rank = (count * 99).div_ceil(100);
    let mut seen = 0;
    for (bucket, new) in buckets.enumerate() {
        seen += u64::from(new);
        if seen >= rank {
            return Some(least(bucket));
        }
    }
    None
}

/// How long to wait, by what was seen.
#[derive(Debug)]
struct Judge {
    /// In microseconds; of the first writes there are, where nobody wrote before the copy.
    calm: Option<u64>,
    wait: Duration,
}

impl Judge {
    fn new(calm: Option<u64>) -> Self {
        Self {
            calm,
            wait: Duration::ZERO,
        }
    }

    /// Writes took so long; `None` where there were hardly any.
    fn saw(&mut self, p99: Option<u64>, percent: u32) {
        let disturbed = match (p99, self.calm) {
            (Some(p99), Some(calm)) => {
                u128::from(p99) * 100 > u128::from(calm.max(1)) * u128::from(percent)
            }
            (first, _) => {
                self.calm = self.calm.or(first);
                false
            }
        };
        self.wait = if disturbed {
            (self.wait * 2).clamp(WAIT_FIRST, WAIT_LONGEST)
        } else {
            let half = self.wait / 2;
            Some(half)
                .filter(|half| *half >= WAIT_FIRST)
                .unwrap_or_default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_an_eighth_wide() {
        let mut last = 0;
        for micros in (0..5_000).chain([1 << 20, 1 << 30, u32::MAX - 1, u32::MAX]) {
            let bucket = bucket(micros);
            assert!(bucket >= last && bucket < BUCKETS, "{micros}");
            last = bucket;
            let least = least(bucket);
            assert!(least <= u64::from(micros), "{micros}");
            assert!(
                u64::from(micros) <= least + least / 8 + 1,
                "{micros}: {least}"
            );
        }
    }

    #[test]
    fn the_p99_is_that_of_the_writes_of_a_window() {
        let mut buckets = vec![0; BUCKETS];
        buckets[bucket(100)] = 990;
        buckets[bucket(9_000)] = 10;
        assert_eq!(p99(1000, buckets.iter().copied()), Some(least(bucket(100))));
        buckets[bucket(9_000)] = 11;
        let p99_of_more = p99(1001, buckets.iter().copied());
        assert_eq!(p99_of_more, Some(least(bucket(9_000))));
        assert_eq!(p99(4, [4].into_iter()), None, "too few");
    }

    #[test]
    fn a_copy_gives_way_while_writers_are_disturbed_and_comes_back() {
        let mut judge = Judge::new(Some(1_000));
        judge.saw(Some(1_500), 200);
        assert_eq!(judge.wait, Duration::ZERO);
        for _ in 0..20 {
            let before = judge.wait;
            judge.saw(Some(2_500), 200);
            assert!(judge.wait > before || judge.wait == WAIT_LONGEST);
        }
        assert_eq!(judge.wait, WAIT_LONGEST);
        for _ in 0..20 {
            judge.saw(Some(2_000), 200);
        }
        assert_eq!(judge.wait, Duration::ZERO);
        judge.saw(Some(9_000), 200);
        assert!(judge.wait > Duration::ZERO);
        for _ in 0..20 {
            judge.saw(None, 200);
        }
        assert_eq!(judge.wait, Duration::ZERO, "nobody writes");
    }

    #[test]
    fn the_first_writes_are_the_calm_where_nobody_wrote_before() {
        let mut judge = Judge::new(None);
        judge.saw(None, 100);
        judge.saw(Some(500), 100);
        assert_eq!((judge.calm, judge.wait), (Some(500), Duration::ZERO));
        judge.saw(Some(501), 100);
        assert_eq!(judge.wait, WAIT_FIRST);
    }

    #[test]
    fn writes_are_timed_only_while_somebody_watches() {
        let foreground = Arc::new(Foreground::default());
        assert_eq!(foreground.begin(), None);
        let mut pace = Pace::start(foreground.clone());
        for _ in 0..10 {
            foreground.note(foreground.begin());
        }
        assert_eq!(pace.counted().0, 10);
        assert!(pace.window().is_some() && pace.window().is_none());
        drop(pace);
        assert_eq!(foreground.begin(), None);
    }
}

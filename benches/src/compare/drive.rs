//! The callers: threads that wait for each write, few callers with many writes in flight, an even stream of writes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::error::CompareError;
use super::load::{Key, Writes, numbers};
use crate::stats::percentile;

/// How often somebody looks whether writes are still being acknowledged. Rarely enough to cost nothing with a thousand
/// callers; a stall that matters is fifty times as long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The same once the callers are told to end.
const LOOK_AT_END: Duration = Duration::from_millis(1);

/// What came of one side in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Acknowledged.
    pub(crate) writes: u64,
    /// From the common start until the last of the callers had its last acknowledgement.
    pub(crate) time: Duration,
    /// The longest time in which no caller had a write acknowledged; shorter ones than `LOOK_EVERY` are not seen.
    pub(crate) stall: Duration,
    /// The 99th percentile of a stream's latencies.
    pub(crate) p99: Option<Duration>,
}

type Done<T> = Result<T, CompareError>;

/// The acknowledged writes of one caller, on a cache line that no other caller writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// What a caller sees of its slice.
struct Turn<'a> {
    over: &'a AtomicBool,
    acknowledged: &'a Counter,
}

impl Turn<'_> {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn acknowledged(&self, writes: u64) {
        self.acknowledged.0.fetch_add(writes, Ordering::Relaxed);
    }
}

/// Runs a caller on each of `count` threads, which begin together and are told to end after `time`.
fn on_threads<T: Send>(
    count: u64,
    time: Duration,
    caller: impl Fn(u64, &Turn<'_>) -> Done<T> + Sync,
) -> Done<(Vec<T>, Slice)> {
    let (over, caller) = (&AtomicBool::new(false), &caller);
    let counters: Vec<Counter> = (0..count).map(|_| Counter::default()).collect();
    // Who comes here last lets all begin.
    let begin = &Barrier::new(counters.len().saturating_add(1));
    std::thread::scope(|scope| {
        let numbered = counters.iter().zip(0..);
        let callers: Vec<_> = numbered
            .map(|(acknowledged, number)| {
                scope.spawn(move || {
                    begin.wait();
                    let done = caller(number, &Turn { over, acknowledged });
                    (done, Instant::now())
                })
            })
            .collect();
        begin.wait();
        let started = Instant::now();
        let ended = || callers.iter().all(|caller| caller.is_finished());
        let stall = longest_stall(started, time, over, &counters, ended);
        let (mut results, mut last) = (Vec::new(), started);
        for caller in callers {
            let joined = caller.join();
            let (done, at) = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            results.push(done?);
            last = last.max(at);
        }
        let slice = Slice {
            writes: acknowledged(&counters),
            time: last - started,
            stall,
            p99: None,
        };
        Ok((results, slice))
    })
}

/// What looks at a count tell of the times in which it stood still.
#[derive(Debug)]
struct Stalls {
    longest: Duration,
    count: u64,
    /// When the count was first seen as it is.
    since: Instant,
}

impl Stalls {
    fn from(started: Instant) -> Self {
        Self {
            longest: Duration::ZERO,
            count: 0,
            since: started,
        }
    }

    /// A count that has changed may have done so just now: until then it stood still.
    fn look(&mut self, now: Instant, count: u64) {
        self.longest = self.longest.max(now - self.since);
        if count != self.count {
            (self.count, self.since) = (count, now);
        }
    }
}

/// Ends the slice after `time`, and looks on until the callers have ended.
fn longest_stall(
    started: Instant,
    time: Duration,
    over: &AtomicBool,
    counters: &[Counter],
    ended: impl Fn() -> bool,
) -> Duration {
    let mut stalls = Stalls::from(started);
    loop {
        // Asked before the counters are read: what is acknowledged at the very end is seen, too.
        let last_look = ended();
        let now = Instant::now();
        stalls.look(now, acknowledged(counters));
        if last_look {
            return stalls.longest;
        }
        let left = time.saturating_sub(now - started);
        if left.is_zero() {
            over.store(true, Ordering::Relaxed);
            std::thread::sleep(LOOK_AT_END);
        } else {
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

fn acknowledged(counters: &[Counter]) -> u64 {
    let counts = counters.iter();
    counts
        .map(|counter| counter.0.load(Ordering::Relaxed))
        .sum()
}

/// `count` threads, each of which waits for its write before it makes the next.
pub(crate) fn threads(
    count: u64,
    slice: u64,
    time: Duration,
    writes: &Writes,
    put: impl Fn(u64, Key, &[u8]) -> Done<()> + Sync,
) -> Done<Slice> {
    let (_, done) = on_threads(count, time, |caller, turn| {
        for number in numbers(slice, caller) {
            let (key, value) = writes.nth(number);
            put(caller, key, value)?;
            turn.acknowledged(1);
            if turn.over() {
                break;
            }
        }
        Ok(())
    })?;
    Ok(done)
}

/// `count` threads that write `size` at a time.
pub(crate) fn batches(
    count: u64,
    size: usize,
    slice: u64,
    time: Duration,
    writes: &Writes,
    write: impl Fn(u64, &mut dyn Iterator<Item = (Key, &[u8])>) -> Done<()> + Sync,
) -> Done<Slice> {
    let (_, done) = on_threads(count, time, |caller, turn| {
        let mut all = numbers(slice, caller).map(|number| writes.nth(number));
        while !turn.over() {
            write(caller, &mut all.by_ref().take(size))?;
            turn.acknowledged(size as u64);
        }
        Ok(())
    })?;
    Ok(done)
}

/// `callers` threads that have `in_flight` writes under way between them, a new one for each that ends.
pub(crate) fn in_flight<F: Future<Output = Done<()>>>(
    callers: u64,
    in_flight: u64,
    slice: u64,
    time: Duration,
    writes: &Writes,
    put: impl Fn(u64, Key, &[u8]) -> F + Sync,
) -> Done<Slice> {
    let (_, done) = on_threads(callers, time, |caller, turn| {
        pollster::block_on(async {
            let mut all = numbers(slice, caller).enumerate().map(|(place, number)| {
                let (key, value) = writes.nth(number);
                put(place as u64, key, value)
            });
            let share = usize::try_from(in_flight / callers).unwrap_or(usize::MAX);
            let mut under_way: FuturesUnordered<F> = all.by_ref().take(share).collect();
            while let Some(ended) = under_way.next().await {
                ended?;
                turn.acknowledged(1);
                if !turn.over() {
                    under_way.extend(all.next());
                }
            }
            Ok(())
        })
    })?;
    Ok(done)
}

/// An open loop: writes are due at fixed times, `per_second` of them, and each one's latency counts from when it was
/// due, whether or not a caller was free then.
pub(crate) fn stream(
    callers: u64,
    per_second: u64,
    slice: u64,
    time: Duration,
    writes: &Writes,
    put: impl Fn(u64, Key, &[u8]) -> Done<()> + Sync,
) -> Done<Slice> {
    let every = Duration::from_nanos(1_000_000_000 / per_second);
    let (times, done) = on_threads(callers, time, |caller, turn| {
        let started = Instant::now();
        let mut latencies = Vec::new();
        let mut due = every * u32::try_from(caller).unwrap_or(0);
        for number in numbers(slice, caller) {
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            if turn.over() {
                break;
            }
            let (key, value) = writes.nth(number);
            put(caller, key, value)?;
            latencies.push(started.elapsed().saturating_sub(due));
            turn.acknowledged(1);
            due += every * u32::try_from(callers).unwrap_or(1);
        }
        Ok(latencies)
    })?;
    Ok(Slice {
        p99: Some(percentile(&mut times.concat(), 99)),
        ..done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: Duration = Duration::from_millis(50);

    #[test]
    fn a_stall_lasts_from_the_look_that_saw_the_count_to_the_one_that_saw_another() {
        let started = Instant::now();
        let longest = |looks: &[(u64, u64)]| {
            let mut stalls = Stalls::from(started);
            for &(ms, count) in looks {
                stalls.look(started + Duration::from_millis(ms), count);
            }
            u64::try_from(stalls.longest.as_millis()).unwrap()
        };
        assert_eq!(longest(&[]), 0);
        assert_eq!(longest(&[(20, 5), (40, 9), (60, 12)]), 20);
        assert_eq!(longest(&[(20, 0), (40, 0), (70, 1), (90, 2)]), 70);
        assert_eq!(longest(&[(20, 5), (40, 5), (60, 5), (85, 6), (90, 7)]), 65);
        // One that lasts until the end.
        assert_eq!(longest(&[(20, 5), (50, 5), (100, 5)]), 80);
    }

    #[test]
    fn a_slice_is_looked_at_until_its_callers_have_ended() {
        let pause = 6 * SLICE;
        let (_, slice) = on_threads(1, SLICE, |_, turn| {
            turn.acknowledged(1);
            std::thread::sleep(pause);
            turn.acknowledged(1);
            Ok(())
        })
        .unwrap();
        assert_eq!(slice.writes, 2);
        // Two changes of the count part the time in three, each without a change.
        assert!(slice.stall >= slice.time / 3, "{slice:?}");
    }

    #[test]
    fn the_writes_of_a_slice_end_with_its_last_acknowledgement() {
        let writes = Writes::new(10);
        let put = |_, _, _: &[u8]| Ok(());
        let slice = threads(3, 0, SLICE, &writes, put).unwrap();
        assert!(slice.writes >= 3 && slice.time >= SLICE, "{slice:?}");
        let all = in_flight(2, 8, 1, SLICE, &writes, |_, _, _| {
            std::future::ready(Ok(()))
        });
        assert!(all.unwrap().writes >= 8);
        let grouped = batches(1, 7, 2, SLICE, &writes, |_, group| {
            assert_eq!(group.count(), 7);
            Ok(())
        });
        assert_eq!(grouped.unwrap().writes % 7, 0);
    }

    #[test]
    fn a_stream_has_latencies() {
        let writes = Writes::new(10);
        let late = Duration::from_millis(5);
        let put = |_, _, _: &[u8]| {
            std::thread::sleep(late);
            Ok(())
        };
        let slice = stream(1, 1000, 0, SLICE, &writes, put).unwrap();
        assert!(slice.p99.unwrap() >= late, "{slice:?}");
    }

    #[test]
    fn a_caller_that_fails_ends_its_slice_with_its_error() {
        let failed = on_threads(2, SLICE, |caller, _| match caller {
            0 => Ok(()),
            _ => Err(CompareError::NothingNamed("x".into())),
        });
        assert!(matches!(failed, Err(CompareError::NothingNamed(_))));
    }
}

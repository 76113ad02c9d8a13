//! The callers: threads that wait for each write, few callers with many writes in flight, an even stream of writes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::error::CompareError;
use super::load::{Key, Writes, numbers};
use crate::stats::percentile;

/// What came of one side in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Acknowledged.
    pub(crate) writes: u64,
    /// The longest time that a caller with many in flight waited for the next acknowledgement.
    pub(crate) stall: Duration,
    /// What the workload is about: writes a second, or microseconds.
    pub(crate) result: f64,
}

impl Slice {
    pub(crate) fn of_rate(writes: u64, time: Duration) -> Self {
        Self {
            writes,
            stall: Duration::ZERO,
            result: writes as f64 / time.as_secs_f64(),
        }
    }
}

type Done<T> = Result<T, CompareError>;

/// Runs a caller on each of `count` threads, which begin together and are told to end after `time`.
fn on_threads<T: Send>(
    count: u64,
    time: Duration,
    caller: impl Fn(u64, &AtomicBool) -> Done<T> + Sync,
) -> Done<(Vec<T>, Duration)> {
    let (over, caller) = (&AtomicBool::new(false), &caller);
    // Who comes here last lets all begin.
    let begin = &Barrier::new(
        usize::try_from(count)
            .unwrap_or(usize::MAX)
            .saturating_add(1),
    );
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || {
                    begin.wait();
                    caller(number, over)
                })
            })
            .collect();
        begin.wait();
        let started = Instant::now();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let ended: Done<Vec<T>> = callers
            .into_iter()
            .map(|caller| match caller.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect();
        Ok((ended?, started.elapsed()))
    })
}

/// `count` threads, each of which waits for its write before it makes the next.
pub(crate) fn threads(
    count: u64,
    slice: u64,
    time: Duration,
    writes: &Writes,
    put: impl Fn(u64, Key, &[u8]) -> Done<()> + Sync,
) -> Done<Slice> {
    let (counts, took) = on_threads(count, time, |caller, over| {
        let mut done = 0;
        for number in numbers(slice, caller) {
            let (key, value) = writes.nth(number);
            put(caller, key, value)?;
            done += 1;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(done)
    })?;
    Ok(Slice::of_rate(counts.iter().sum(), took))
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
    let (counts, took) = on_threads(count, time, |caller, over| {
        let mut done = 0;
        let mut all = numbers(slice, caller).map(|number| writes.nth(number));
        while !over.load(Ordering::Relaxed) {
            write(caller, &mut all.by_ref().take(size))?;
            done += size as u64;
        }
        Ok(done)
    })?;
    Ok(Slice::of_rate(counts.iter().sum(), took))
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
    let (counts, took) = on_threads(callers, time, |caller, over| {
        pollster::block_on(async {
            let mut all = numbers(slice, caller).enumerate().map(|(place, number)| {
                let (key, value) = writes.nth(number);
                put(place as u64, key, value)
            });
            let share = usize::try_from(in_flight / callers).unwrap_or(usize::MAX);
            let mut under_way: FuturesUnordered<F> = all.by_ref().take(share).collect();
            let (mut done, mut stall, mut last) = (0, Duration::ZERO, Instant::now());
            while let Some(ended) = under_way.next().await {
                ended?;
                done += 1;
                let now = Instant::now();
                stall = stall.max(now - last);
                last = now;
                if !over.load(Ordering::Relaxed) {
                    under_way.extend(all.next());
                }
            }
            Ok((done, stall))
        })
    })?;
    let stalls = counts.iter().map(|(_, stall)| *stall);
    Ok(Slice {
        stall: stalls.max().unwrap_or_default(),
        ..Slice::of_rate(counts.iter().map(|(done, _)| done).sum(), took)
    })
}

/// An open loop: writes are due at fixed times, `per_second` of them, and each one's latency counts from when it was
/// due, whether or not a caller was free then. The result is the 99th percentile in microseconds.
pub(crate) fn stream(
    callers: u64,
    per_second: u64,
    slice: u64,
    time: Duration,
    writes: &Writes,
    put: impl Fn(u64, Key, &[u8]) -> Done<()> + Sync,
) -> Done<Slice> {
    let every = Duration::from_nanos(1_000_000_000 / per_second);
    let (times, _) = on_threads(callers, time, |caller, over| {
        let started = Instant::now();
        let mut latencies = Vec::new();
        let mut due = every * u32::try_from(caller).unwrap_or(0);
        for number in numbers(slice, caller) {
            std::thread::sleep(due.saturating_sub(started.elapsed()));
            if over.load(Ordering::Relaxed) {
                break;
            }
            let (key, value) = writes.nth(number);
            put(caller, key, value)?;
            latencies.push(started.elapsed().saturating_sub(due));
            due += every * u32::try_from(callers).unwrap_or(1);
        }
        Ok(latencies)
    })?;
    let mut times = times.concat();
    Ok(Slice {
        writes: times.len() as u64,
        stall: Duration::ZERO,
        result: percentile(&mut times, 99).as_secs_f64() * 1e6,
    })
}

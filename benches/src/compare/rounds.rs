//! Running a contest: contenders that take turns on one machine and one file system.

use std::path::Path;
use std::time::{Duration, Instant};

use super::contest::{Contender, Contest, Pace, Run};
use super::drive::Slice;
use super::error::CompareError;
use super::rows::{Outcome, Round, Taken, calm, calmest};
use super::shim::{Probe, Shim};
use crate::report::Row;

/// How long a side may go on in the background before the next one begins.
const REST: Duration = Duration::from_secs(5);

/// A contender that is open.
struct Side<'a> {
    peer: &'static str,
    caller: String,
    in_flight: Option<u64>,
    run: Run<'a>,
}

impl Side<'_> {
    fn take(&mut self, number: usize, pace: Pace, shim: &Shim) -> Result<Taken, CompareError> {
        settle(REST);
        let (before, ticks, bytes) = (shim.counts()?, used_ticks(), written_bytes());
        let mut slice = (self.run)(number as u64, pace.slice)?;
        // Before the debts: syncs of flushes and compactions acknowledge no write.
        let syncs = shim.counts()?.since(before);
        let contender = || format!("{} ({})", self.peer, self.caller);
        check_durable(contender, self.in_flight, slice.writes, syncs)?;
        if pace.pays_debts {
            slice.time += settle(pace.slice * 10);
        }
        let (used, written) = (used_ticks() - ticks, written_bytes() - bytes);
        Ok(taken(&slice, syncs, used, written))
    }
}

/// What a slice was, for each of its writes.
fn taken(slice: &Slice, syncs: u64, ticks: u64, written: u64) -> Taken {
    let writes = slice.writes.max(1) as f64;
    let rate = slice.writes as f64 / slice.time.as_secs_f64();
    Taken {
        result: slice.p99.map_or(rate, |p99| p99.as_secs_f64() * 1e6),
        syncs_per_1000: syncs as f64 * 1000.0 / writes,
        cpu_us: ticks as f64 * TICK_US / writes,
        written_bytes: written as f64 / writes,
        stall: slice.stall.as_secs_f64(),
    }
}

impl<'a> Contest<'a> {
    /// Runs all rounds in `dir`, and gives a row for each match.
    pub(crate) fn run(
        self,
        dir: &Path,
        pace: Pace,
        shim: &Shim,
        probe: &Probe,
    ) -> Result<Vec<Row>, CompareError> {
        let dir =
            tempfile::tempdir_in(dir).map_err(CompareError::io("make a directory in", dir))?;
        let mut sides = open_all(self.contenders, dir.path())?;
        shim.set_least(self.least_sync)?;
        let mut rounds = Vec::new();
        let mut patience = pace.patience;
        // The first round warms up and does not count.
        for number in 0..=pace.rounds + pace.spare_rounds {
            let before = probe.calm_fsync_ms(self.least_sync, &mut patience)?;
            let mut slices = vec![Taken::default(); sides.len()];
            for turn in 0..sides.len() {
                // Each begins a round in its turn: no side has always the same one before it.
                let place = (turn + number) % sides.len();
                slices[place] = sides[place].take(number, pace, shim)?;
            }
            let fsync_ms = before.max(probe.fsync_ms()?);
            if number > 0 {
                rounds.push(Round { fsync_ms, slices });
            }
            if calm(&rounds) >= pace.rounds {
                break;
            }
        }
        shim.set_least(Duration::ZERO)?;
        let names = sides.iter().map(|side| (side.peer, side.caller.clone()));
        let rounds = calmest(rounds, pace.rounds);
        let outcome = Outcome::of(&rounds, pace.slice, names.collect(), self.unit, self.better);
        Ok(self.matches.iter().map(|one| outcome.row(one)).collect())
    }
}

/// Opens each contender in a directory of its own.
fn open_all<'a>(contenders: Vec<Contender<'a>>, dir: &Path) -> Result<Vec<Side<'a>>, CompareError> {
    let open = |(place, contender): (usize, Contender<'a>)| {
        let own = dir.join(place.to_string());
        std::fs::create_dir(&own).map_err(CompareError::io("create", &own))?;
        Ok(Side {
            peer: contender.peer,
            caller: contender.caller,
            in_flight: contender.in_flight,
            run: (contender.open)(&own)?,
        })
    };
    contenders.into_iter().enumerate().map(open).collect()
}

/// One sync acknowledges at most what was in flight when it began.
fn check_durable(
    contender: impl FnOnce() -> String,
    in_flight: Option<u64>,
    writes: u64,
    syncs: u64,
) -> Result<(), CompareError> {
    match in_flight {
        Some(in_flight) if writes > syncs.saturating_mul(in_flight) => {
            Err(CompareError::NotDurable {
                contender: contender(),
                writes,
                syncs,
                in_flight,
            })
        }
        _ => Ok(()),
    }
}

/// Waits until this process rests, for a while at most: what one side has left to do in the background must not be
/// charged to the next. Gives how long it did not rest.
fn settle(most: Duration) -> Duration {
    const LOOK_EVERY: Duration = Duration::from_millis(30);
    let started = Instant::now();
    let mut before = used_ticks();
    loop {
        let busy = started.elapsed();
        std::thread::sleep(LOOK_EVERY);
        let now = used_ticks();
        if now <= before + 1 || busy >= most {
            return busy;
        }
        before = now;
    }
}

/// The kernel tells processor times in these: Linux' USER_HZ is 100 on every machine that matters here.
const TICK_US: f64 = 10_000.0;

/// Processor time of this process, in ticks.
fn used_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may have spaces; behind it user and system time are the 12th and 13th.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let times = fields.skip(11).take(2);
    times.filter_map(|time| time.parse::<u64>().ok()).sum()
}

/// Bytes that this process has handed to write calls. What the system counts as written to a device would not do: it counts
/// whole folios, up to 2 MiB, for every 4 KiB that make one dirty.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_that_no_sync_covers_are_found() {
        let side = || "peer (4 threads)".to_owned();
        assert!(check_durable(side, Some(4), 40, 10).is_ok());
        assert!(check_durable(side, Some(4), 41, 10).is_err());
        assert!(check_durable(side, None, 41, 0).is_ok());
    }

    #[test]
    fn a_slice_is_told_for_each_of_its_writes() {
        let slice = Slice {
            writes: 2000,
            time: Duration::from_secs(4),
            stall: Duration::from_millis(20),
            p99: None,
        };
        let rate = taken(&slice, 10, 8, 600_000);
        assert_eq!((rate.result, rate.syncs_per_1000), (500.0, 5.0));
        assert_eq!((rate.cpu_us, rate.written_bytes), (40.0, 300.0));
        let latency = Slice {
            p99: Some(Duration::from_micros(250)),
            ..slice
        };
        assert_eq!(taken(&latency, 10, 8, 0).result, 250.0);
    }

    #[test]
    fn what_is_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let before = written_bytes();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        std::io::Write::write_all(&mut &file, &vec![1; 1 << 20]).unwrap();
        assert!(written_bytes() - before >= 1 << 20);
    }
}

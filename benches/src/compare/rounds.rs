//! Contests: contenders that take turns on one machine and one file system, and the rows that come of it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::drive::Slice;
use super::error::CompareError;
use super::shim::{Probe, Shim};
use crate::report::{Goal, Row};
use crate::stats::{Better, Spread, ratios};

/// Runs one slice: its number, and how long.
pub(crate) type Run<'a> = Box<dyn FnMut(u64, Duration) -> Result<Slice, CompareError> + 'a>;
/// Opens a contender in an empty directory.
pub(crate) type Open<'a> = Box<dyn FnOnce(&Path) -> Result<Run<'a>, CompareError> + 'a>;

/// One side of a contest.
pub(crate) struct Contender<'a> {
    /// Of whom the caller is.
    pub(crate) peer: &'static str,
    /// Who calls, and how.
    pub(crate) caller: String,
    /// The most writes that one sync can acknowledge; none for a contender that does not sync.
    pub(crate) in_flight: Option<u64>,
    pub(crate) open: Open<'a>,
}

/// One comparison out of a contest.
pub(crate) struct Match {
    pub(crate) workload: String,
    /// A place among the contenders.
    pub(crate) ours: usize,
    /// Places of which the best one counts.
    pub(crate) theirs: Vec<usize>,
    pub(crate) goal: Option<Goal>,
}

/// Contenders in one workload.
pub(crate) struct Contest<'a> {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// How long a sync takes at least.
    pub(crate) least_sync: Duration,
    pub(crate) contenders: Vec<Contender<'a>>,
    pub(crate) matches: Vec<Match>,
}

/// Rounds, and the seconds of each side in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
}

/// What one contender did, round by round.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) results: Vec<f64>,
    pub(crate) syncs_per_1000: Vec<f64>,
}

impl Measured {
    pub(crate) fn median(&self) -> f64 {
        Spread::of(&self.results).median
    }

    pub(crate) fn syncs_per_1000(&self) -> Option<f64> {
        let spread = Spread::of(&self.syncs_per_1000);
        spread.median.is_finite().then_some(spread.median)
    }
}

/// A contest that has been run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measured: Vec<Measured>,
    pub(crate) fsync_ms: f64,
}

impl Contest<'_> {
    /// Runs all rounds in `dir`, and gives a row for each match.
    pub(crate) fn run(
        self,
        dir: &Path,
        pace: Pace,
        shim: &Shim,
    ) -> Result<(Vec<Row>, Outcome), CompareError> {
        let dir =
            tempfile::tempdir_in(dir).map_err(CompareError::io("make a directory in", dir))?;
        let probe = Probe::new(dir.path())?;
        let sides: Vec<_> = self
            .contenders
            .iter()
            .map(|c| (c.peer, c.caller.clone()))
            .collect();
        let mut sides_in_flight = Vec::new();
        let mut runs = Vec::new();
        for (place, contender) in self.contenders.into_iter().enumerate() {
            let own = dir.path().join(place.to_string());
            std::fs::create_dir(&own).map_err(CompareError::io("create", &own))?;
            runs.push((contender.open)(&own)?);
            sides_in_flight.push(contender.in_flight);
        }
        shim.set_least(self.least_sync)?;
        let mut outcome = Outcome {
            measured: sides.iter().map(|_| Measured::default()).collect(),
            fsync_ms: f64::NAN,
        };
        let mut syncs = Vec::new();
        // The first round warms up and does not count.
        for round in 0..=pace.rounds {
            syncs.push(probe.fsync_ms()?);
            for turn in 0..runs.len() {
                // Each begins a round in its turn: no side has always the same one before it.
                let place = (turn + round) % runs.len();
                settle();
                let before = shim.counts()?;
                let slice = runs[place](round as u64, pace.slice)?;
                let synced = shim.counts()?.since(before);
                check_durable(&sides[place], sides_in_flight[place], slice.writes, synced)?;
                if round > 0 {
                    let measured = &mut outcome.measured[place];
                    measured.results.push(slice.result);
                    let per_1000 = synced as f64 * 1000.0 / slice.writes.max(1) as f64;
                    measured.syncs_per_1000.push(per_1000);
                }
            }
        }
        shim.set_least(Duration::ZERO)?;
        outcome.fsync_ms = Spread::of(&syncs).median;
        let rows = self
            .matches
            .iter()
            .map(|wanted| row(wanted, &sides, self.unit, self.better, &outcome))
            .collect();
        Ok((rows, outcome))
    }
}

fn row(
    wanted: &Match,
    sides: &[(&'static str, String)],
    unit: &'static str,
    better: Better,
    outcome: &Outcome,
) -> Row {
    let medians = wanted
        .theirs
        .iter()
        .map(|&place| (outcome.measured[place].median(), place));
    let best = match better {
        Better::More => medians.max_by(|a, b| a.0.total_cmp(&b.0)),
        Better::Less => medians.min_by(|a, b| a.0.total_cmp(&b.0)),
    };
    let best = best.map_or(wanted.ours, |(_, place)| place);
    let (ours, theirs) = (&outcome.measured[wanted.ours], &outcome.measured[best]);
    let mut row = Row {
        workload: wanted.workload.clone(),
        peer: sides[best].0.to_owned(),
        ours: ours.median(),
        theirs: theirs.median(),
        unit,
        ratio_median: f64::NAN,
        ratio_min: f64::NAN,
        ratio_max: f64::NAN,
        goal: wanted.goal.and_then(|goal| goal.at(outcome.fsync_ms)),
        fsync_ms: outcome.fsync_ms,
        ours_caller: sides[wanted.ours].1.clone(),
        theirs_caller: sides[best].1.clone(),
        ours_syncs_per_1000: ours.syncs_per_1000(),
        theirs_syncs_per_1000: theirs.syncs_per_1000(),
    };
    row.set_ratio(ratios(&ours.results, &theirs.results, better));
    row
}

/// One sync acknowledges at most what was in flight when it began.
fn check_durable(
    side: &(&'static str, String),
    in_flight: Option<u64>,
    writes: u64,
    syncs: u64,
) -> Result<(), CompareError> {
    match in_flight {
        Some(in_flight) if writes > syncs.saturating_mul(in_flight) => {
            Err(CompareError::NotDurable {
                contender: format!("{} ({})", side.0, side.1),
                writes,
                syncs,
                in_flight,
            })
        }
        _ => Ok(()),
    }
}

/// Waits until this process rests, for a while at most: what one side has left to do in the background must not be
/// charged to the next.
fn settle() {
    const LOOK_EVERY: Duration = Duration::from_millis(30);
    let started = Instant::now();
    let mut before = used_ticks();
    while started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(LOOK_EVERY);
        let now = used_ticks();
        if now <= before + 1 {
            return;
        }
        before = now;
    }
}

/// Processor time of this process, in the kernel's ticks of 10 ms.
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

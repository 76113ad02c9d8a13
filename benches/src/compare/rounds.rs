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
    pub(crate) beside: Beside,
    pub(crate) goal: Option<Goal>,
}

/// What a contender is compared with, and in what.
#[derive(Clone, Debug)]
pub(crate) enum Beside {
    /// Other contenders, of which the best one counts.
    Best(Vec<usize>),
    /// The device, were each of its syncs one after the other to acknowledge so many writes.
    Device { in_flight: u64 },
    /// A most of syncs for 1,000 writes.
    Syncs { most: f64 },
    /// A most of seconds without any acknowledgement.
    Stall { most: f64 },
}

/// Contenders in one workload.
pub(crate) struct Contest<'a> {
    pub(crate) name: String,
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
    /// How many more there may be where others disturbed the device; the calmest count.
    pub(crate) spare_rounds: usize,
    pub(crate) slice: Duration,
    /// How long a contest may wait, all in all, for a device that others keep busy.
    pub(crate) patience: Duration,
}

/// What one contender did, round by round.
#[derive(Debug, Default)]
struct Measured {
    results: Vec<f64>,
    syncs_per_1000: Vec<f64>,
    cpu_us: Vec<f64>,
    stalls: Vec<f64>,
}

/// The median, where anything was measured.
fn median(numbers: &[f64]) -> Option<f64> {
    let median = Spread::of(numbers).median;
    median.is_finite().then_some(median)
}

/// One side of one round.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    result: f64,
    syncs_per_1000: f64,
    /// Microseconds of processor time for a write.
    cpu_us: f64,
    /// Seconds.
    stall: f64,
}

/// One round: how long the device took for a sync before or after it, whichever was longer, and all sides.
#[derive(Clone, Debug)]
struct Round {
    fsync_ms: f64,
    slices: Vec<Taken>,
}

/// How many rounds met the device as it is when nobody else uses it.
fn calm(rounds: &[Round]) -> usize {
    let least = rounds
        .iter()
        .map(|round| round.fsync_ms)
        .fold(f64::INFINITY, f64::min);
    rounds
        .iter()
        .filter(|round| round.fsync_ms <= 2.0 * least)
        .count()
}

/// So many rounds in which the device was least disturbed by others. What the sides achieved plays no part.
fn calmest(mut rounds: Vec<Round>, count: usize) -> Vec<Round> {
    rounds.sort_by(|a, b| a.fsync_ms.total_cmp(&b.fsync_ms));
    rounds.truncate(count);
    rounds
}

/// A contest that has been run.
#[derive(Debug)]
struct Outcome {
    measured: Vec<Measured>,
    fsync_ms: f64,
}

impl Outcome {
    fn of(rounds: Vec<Round>, sides: usize) -> Self {
        let of_side = |side: usize, what: fn(&Taken) -> f64| {
            rounds
                .iter()
                .map(|round| what(&round.slices[side]))
                .collect()
        };
        let measured = (0..sides).map(|side| Measured {
            results: of_side(side, |taken| taken.result),
            syncs_per_1000: of_side(side, |taken| taken.syncs_per_1000),
            cpu_us: of_side(side, |taken| taken.cpu_us),
            stalls: of_side(side, |taken| taken.stall),
        });
        let syncs: Vec<f64> = rounds.iter().map(|round| round.fsync_ms).collect();
        Self {
            measured: measured.collect(),
            fsync_ms: Spread::of(&syncs).median,
        }
    }
}

/// A contender that is open.
struct Side<'a> {
    peer: &'static str,
    caller: String,
    in_flight: Option<u64>,
    run: Run<'a>,
}

impl Side<'_> {
    fn take(&mut self, number: usize, time: Duration, shim: &Shim) -> Result<Taken, CompareError> {
        settle();
        let (before, ticks) = (shim.counts()?, used_ticks());
        let slice = (self.run)(number as u64, time)?;
        let used = used_ticks() - ticks;
        let syncs = shim.counts()?.since(before);
        let contender = || format!("{} ({})", self.peer, self.caller);
        check_durable(contender, self.in_flight, slice.writes, syncs)?;
        let writes = slice.writes.max(1) as f64;
        Ok(Taken {
            result: slice.result,
            syncs_per_1000: syncs as f64 * 1000.0 / writes,
            cpu_us: used as f64 * TICK_US / writes,
            stall: slice.stall.as_secs_f64(),
        })
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
                slices[place] = sides[place].take(number, pace.slice, shim)?;
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
        let outcome = Outcome::of(calmest(rounds, pace.rounds), sides.len());
        let names: Vec<_> = sides
            .iter()
            .map(|side| (side.peer, side.caller.clone()))
            .collect();
        let matches = self.matches.iter();
        let row = |wanted| row(wanted, &names, self.unit, self.better, &outcome);
        Ok(matches.map(row).collect())
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

fn row(
    wanted: &Match,
    sides: &[(&'static str, String)],
    unit: &'static str,
    better: Better,
    outcome: &Outcome,
) -> Row {
    let ours = &outcome.measured[wanted.ours];
    let constant = |number: f64| vec![number; ours.results.len()];
    // Who, called by whom, with which results beside which of ours.
    let (peer, caller, results, theirs, unit, better) = match &wanted.beside {
        Beside::Best(places) => {
            let best = best(places, better, outcome).unwrap_or(wanted.ours);
            let (peer, caller) = sides[best].clone();
            let theirs = outcome.measured[best].results.clone();
            (peer, caller, ours.results.clone(), theirs, unit, better)
        }
        Beside::Device { in_flight } => {
            let limit = constant(*in_flight as f64 * 1e3 / outcome.fsync_ms);
            let how = format!("{in_flight} writes a sync, one sync after the other");
            ("the device", how, ours.results.clone(), limit, unit, better)
        }
        Beside::Syncs { most } => {
            let (counts, limit) = (ours.syncs_per_1000.clone(), constant(*most));
            (
                "a limit",
                String::new(),
                counts,
                limit,
                "syncs/1000",
                Better::Less,
            )
        }
        Beside::Stall { most } => {
            let (stalls, limit) = (ours.stalls.clone(), constant(*most));
            ("a limit", String::new(), stalls, limit, "s", Better::Less)
        }
    };
    let other = match &wanted.beside {
        Beside::Best(places) => best(places, better, outcome).map(|at| &outcome.measured[at]),
        _ => None,
    };
    let mut row = Row {
        workload: wanted.workload.clone(),
        peer: peer.to_owned(),
        ours: Spread::of(&results).median,
        theirs: Spread::of(&theirs).median,
        unit,
        ratio_median: f64::NAN,
        ratio_min: f64::NAN,
        ratio_max: f64::NAN,
        goal: wanted.goal.and_then(|goal| goal.at(outcome.fsync_ms)),
        fsync_ms: outcome.fsync_ms,
        ours_caller: sides[wanted.ours].1.clone(),
        theirs_caller: caller,
        ours_syncs_per_1000: median(&ours.syncs_per_1000),
        theirs_syncs_per_1000: other.and_then(|other| median(&other.syncs_per_1000)),
        ours_cpu_us_per_write: median(&ours.cpu_us),
        theirs_cpu_us_per_write: other.and_then(|other| median(&other.cpu_us)),
    };
    row.set_ratio(ratios(&results, &theirs, better));
    row
}

/// The contender with the best median.
fn best(places: &[usize], better: Better, outcome: &Outcome) -> Option<usize> {
    let of = |place: &usize| Spread::of(&outcome.measured[*place].results).median;
    let by_median = |a: &&usize, b: &&usize| of(a).total_cmp(&of(b));
    let places = places.iter();
    match better {
        Better::More => places.max_by(by_median),
        Better::Less => places.min_by(by_median),
    }
    .copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn round(fsync_ms: f64, result: f64) -> Round {
        let taken = Taken {
            result,
            syncs_per_1000: 4.0,
            cpu_us: 8.0,
            stall: 0.0,
        };
        Round {
            fsync_ms,
            slices: vec![taken, taken],
        }
    }

    #[test]
    fn rounds_are_chosen_by_the_device_alone() {
        let rounds = vec![
            round(0.1, 1.0),
            round(4.0, 9.0),
            round(0.15, 2.0),
            round(0.3, 8.0),
        ];
        assert_eq!(calm(&rounds), 2);
        let outcome = Outcome::of(calmest(rounds, 2), 2);
        assert_eq!(outcome.measured[1].results, [1.0, 2.0]);
        assert_eq!(outcome.fsync_ms, 0.125);
    }

    #[test]
    fn acknowledgements_that_no_sync_covers_are_found() {
        let side = || "peer (4 threads)".to_owned();
        assert!(check_durable(side, Some(4), 40, 10).is_ok());
        assert!(check_durable(side, Some(4), 41, 10).is_err());
        assert!(check_durable(side, None, 41, 0).is_ok());
    }

    #[test]
    fn the_best_of_several_callers_counts() {
        let measured = |results: [f64; 2]| Measured {
            results: results.to_vec(),
            syncs_per_1000: vec![20.0],
            cpu_us: vec![],
            stalls: vec![],
        };
        let outcome = Outcome {
            measured: vec![
                measured([8.0, 8.0]),
                measured([1.0, 1.0]),
                measured([2.0, 4.0]),
            ],
            fsync_ms: 0.1,
        };
        let sides = ["ours", "few", "many"].map(|caller| ("peer", caller.to_owned()));
        let of = |beside| {
            let wanted = Match {
                workload: "w".into(),
                ours: 0,
                beside,
                goal: None,
            };
            row(&wanted, &sides, "writes/s", Better::More, &outcome)
        };
        let row = of(Beside::Best(vec![1, 2]));
        assert_eq!(row.theirs_caller, "many");
        assert_eq!(
            (row.ratio_min, row.ratio_median, row.ratio_max),
            (2.0, 3.0, 4.0)
        );
        // Two writes for each sync of 0.1 ms are 20,000 a second; more syncs than the most is worse.
        let device = of(Beside::Device { in_flight: 2 });
        assert_eq!((device.theirs, device.ratio_median), (20_000.0, 0.0004));
        let syncs = of(Beside::Syncs { most: 10.0 });
        assert_eq!((syncs.ours, syncs.ratio_median), (20.0, 0.5));
    }
}

//! From what was measured, round by round, to the rows.

use std::time::Duration;

use super::contest::{Beside, Match};
use crate::report::Row;
use crate::stats::{Better, Spread, ratios};

/// One side of one round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) result: f64,
    pub(crate) syncs_per_1000: f64,
    /// Microseconds of processor time for a write.
    pub(crate) cpu_us: f64,
    /// Bytes handed to write calls for a write: log, flushes, compactions.
    pub(crate) written_bytes: f64,
    /// Seconds.
    pub(crate) stall: f64,
}

/// One round: how long the device took for a sync before or after it, whichever was longer, and all sides.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) fsync_ms: f64,
    pub(crate) slices: Vec<Taken>,
}

/// How many rounds met the device as it is when nobody else uses it.
pub(crate) fn calm(rounds: &[Round]) -> usize {
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
pub(crate) fn calmest(mut rounds: Vec<Round>, count: usize) -> Vec<Round> {
    rounds.sort_by(|a, b| a.fsync_ms.total_cmp(&b.fsync_ms));
    rounds.truncate(count);
    rounds
}

/// What one contender did, round by round.
#[derive(Debug, Default)]
struct Measured {
    results: Vec<f64>,
    syncs_per_1000: Vec<f64>,
    cpu_us: Vec<f64>,
    written_bytes: Vec<f64>,
    stalls: Vec<f64>,
}

impl Measured {
    fn median(&self) -> f64 {
        Spread::of(&self.results).median
    }

    fn longest_stall(&self) -> f64 {
        Spread::of(&self.stalls).max
    }
}

/// The median, where anything was measured.
fn median(numbers: &[f64]) -> Option<f64> {
    let median = Spread::of(numbers).median;
    median.is_finite().then_some(median)
}

/// A contest that has been run.
#[derive(Debug)]
pub(crate) struct Outcome {
    measured: Vec<Measured>,
    /// Of each, whom it was and how it was called.
    sides: Vec<(&'static str, String)>,
    fsync_ms: f64,
    slice: Duration,
    unit: &'static str,
    better: Better,
}

/// What one of our contenders is compared with.
struct Other {
    peer: &'static str,
    caller: String,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    unit: &'static str,
    better: Better,
    /// Its place, where it is a contender.
    place: Option<usize>,
}

impl Outcome {
    pub(crate) fn of(
        rounds: &[Round],
        slice: Duration,
        sides: Vec<(&'static str, String)>,
        unit: &'static str,
        better: Better,
    ) -> Self {
        let of_side = |side: usize, what: fn(&Taken) -> f64| {
            let taken = rounds.iter().map(|round| what(&round.slices[side]));
            taken.collect()
        };
        let measured = (0..sides.len()).map(|side| Measured {
            results: of_side(side, |taken| taken.result),
            syncs_per_1000: of_side(side, |taken| taken.syncs_per_1000),
            cpu_us: of_side(side, |taken| taken.cpu_us),
            written_bytes: of_side(side, |taken| taken.written_bytes),
            stalls: of_side(side, |taken| taken.stall),
        });
        let syncs: Vec<f64> = rounds.iter().map(|round| round.fsync_ms).collect();
        Self {
            measured: measured.collect(),
            sides,
            fsync_ms: Spread::of(&syncs).median,
            slice,
            unit,
            better,
        }
    }

    /// The row of one comparison.
    pub(crate) fn row(&self, wanted: &Match) -> Row {
        let ours = &self.measured[wanted.ours];
        let other = self.other(wanted);
        let theirs = other.place.map(|place| &self.measured[place]);
        let median_of = |what: fn(&Measured) -> &[f64]| {
            let theirs = theirs.and_then(|theirs| median(what(theirs)));
            (median(what(ours)), theirs)
        };
        let (syncs, cpu) = (
            median_of(|one| &one.syncs_per_1000),
            median_of(|one| &one.cpu_us),
        );
        let bytes = median_of(|one| &one.written_bytes);
        let mut row = Row {
            workload: wanted.workload.clone(),
            peer: other.peer.to_owned(),
            ours: Spread::of(&other.ours).median,
            theirs: Spread::of(&other.theirs).median,
            unit: other.unit,
            ratio_median: f64::NAN,
            ratio_min: f64::NAN,
            ratio_max: f64::NAN,
            goal: wanted.goal.and_then(|goal| goal.at(self.fsync_ms)),
            fsync_ms: self.fsync_ms,
            rounds: ours.results.len(),
            slice_seconds: Some(self.slice.as_secs_f64()),
            ours_caller: self.sides[wanted.ours].1.clone(),
            theirs_caller: other.caller,
            ours_syncs_per_1000: syncs.0,
            theirs_syncs_per_1000: syncs.1,
            ours_cpu_us_per_write: cpu.0,
            theirs_cpu_us_per_write: cpu.1,
            ours_written_bytes_per_write: bytes.0,
            theirs_written_bytes_per_write: bytes.1,
        };
        row.set_ratio(ratios(&other.ours, &other.theirs, other.better));
        row
    }

    fn other(&self, wanted: &Match) -> Other {
        let ours = &self.measured[wanted.ours];
        // A limit that one number tells.
        let limit = |peer, caller: String, ours: Vec<f64>, limit: f64, unit, better| Other {
            peer,
            caller,
            theirs: vec![limit; ours.len()],
            ours,
            unit,
            better,
            place: None,
        };
        let results = || ours.results.clone();
        let longest = || vec![ours.longest_stall()];
        match &wanted.beside {
            Beside::Best(places) => self.contender(self.best(places).unwrap_or(wanted.ours), ours),
            Beside::Device { in_flight } => {
                let (rate, how) = self.device(*in_flight);
                limit("the device", how, results(), rate, self.unit, self.better)
            }
            Beside::Limit {
                in_flight,
                memtables,
            } => {
                let (rate, how) = self.device(*in_flight);
                match self.best(memtables) {
                    Some(place) if self.measured[place].median() < rate => {
                        self.contender(place, ours)
                    }
                    _ => limit("the device", how, results(), rate, self.unit, self.better),
                }
            }
            Beside::Syncs { most } => {
                let counts = ours.syncs_per_1000.clone();
                limit(
                    "a limit",
                    String::new(),
                    counts,
                    *most,
                    "syncs/1000",
                    Better::Less,
                )
            }
            Beside::Stall { most } => limit(
                "a limit",
                String::new(),
                longest(),
                *most,
                "s",
                Better::Less,
            ),
            Beside::StallOf(place) => {
                let (peer, caller) = self.sides[*place].clone();
                let theirs = self.measured[*place].longest_stall();
                limit(peer, caller, longest(), theirs, "s", Better::Less)
            }
        }
    }

    fn contender(&self, place: usize, ours: &Measured) -> Other {
        let (peer, caller) = self.sides[place].clone();
        Other {
            peer,
            caller,
            ours: ours.results.clone(),
            theirs: self.measured[place].results.clone(),
            unit: self.unit,
            better: self.better,
            place: Some(place),
        }
    }

    /// How many writes a second its syncs could acknowledge, one after the other.
    fn device(&self, in_flight: u64) -> (f64, String) {
        let how = format!("{in_flight} writes a sync, one sync after the other");
        (in_flight as f64 * 1e3 / self.fsync_ms, how)
    }

    /// The contender with the best median.
    fn best(&self, places: &[usize]) -> Option<usize> {
        let of = |place: &usize| self.measured[*place].median();
        let by_median = |a: &&usize, b: &&usize| of(a).total_cmp(&of(b));
        let places = places.iter();
        match self.better {
            Better::More => places.max_by(by_median),
            Better::Less => places.min_by(by_median),
        }
        .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(result: f64) -> Taken {
        Taken {
            result,
            syncs_per_1000: 20.0,
            cpu_us: 8.0,
            written_bytes: 300.0,
            stall: 0.0,
        }
    }

    fn round(fsync_ms: f64, results: &[f64]) -> Round {
        let slices = results.iter().map(|result| taken(*result)).collect();
        Round { fsync_ms, slices }
    }

    fn outcome(rounds: &[Round]) -> Outcome {
        let sides = ["ours", "few", "many"].map(|caller| ("peer", caller.to_owned()));
        let slice = Duration::from_millis(250);
        Outcome::of(rounds, slice, sides.into(), "writes/s", Better::More)
    }

    fn row(outcome: &Outcome, beside: Beside) -> Row {
        outcome.row(&Match {
            workload: "w".into(),
            ours: 0,
            beside,
            goal: None,
        })
    }

    #[test]
    fn rounds_are_chosen_by_the_device_alone() {
        let of = |fsync_ms, result| round(fsync_ms, &[result, result, result]);
        let rounds = vec![of(0.1, 1.0), of(4.0, 9.0), of(0.15, 2.0), of(0.3, 8.0)];
        assert_eq!(calm(&rounds), 2);
        let outcome = outcome(&calmest(rounds, 2));
        assert_eq!(outcome.measured[1].results, [1.0, 2.0]);
        assert_eq!(outcome.fsync_ms, 0.125);
    }

    #[test]
    fn the_best_of_several_callers_counts() {
        let outcome = outcome(&[round(0.1, &[8.0, 1.0, 2.0]), round(0.1, &[8.0, 1.0, 4.0])]);
        let best = row(&outcome, Beside::Best(vec![1, 2]));
        assert_eq!(best.theirs_caller, "many");
        assert_eq!((best.rounds, best.slice_seconds), (2, Some(0.25)));
        let ratio = (best.ratio_min, best.ratio_median, best.ratio_max);
        assert_eq!(ratio, (2.0, 3.0, 4.0));
        assert_eq!(best.theirs_written_bytes_per_write, Some(300.0));
        // Two writes for each sync of 0.1 ms are 20,000 a second; more syncs than the most is worse.
        let device = row(&outcome, Beside::Device { in_flight: 2 });
        assert_eq!((device.theirs, device.ratio_median), (20_000.0, 0.0004));
        let syncs = row(&outcome, Beside::Syncs { most: 10.0 });
        assert_eq!((syncs.ours, syncs.ratio_median), (20.0, 0.5));
    }

    #[test]
    fn the_smaller_limit_is_the_one_that_counts() {
        let outcome = outcome(&[round(0.1, &[10_000.0, 40_000.0, 30_000.0])]);
        let beside = |in_flight| Beside::Limit {
            in_flight,
            memtables: vec![1, 2],
        };
        // The device takes 20,000 a second with two in flight, 100,000 with ten: more than the better memtable.
        let device = row(&outcome, beside(2));
        assert_eq!(
            (device.peer.as_str(), device.theirs),
            ("the device", 20_000.0)
        );
        assert_eq!(device.ratio_median, 0.5);
        let memtable = row(&outcome, beside(10));
        assert_eq!((memtable.theirs, memtable.ratio_median), (40_000.0, 0.25));
        assert_eq!(memtable.theirs_caller, "few");
    }

    #[test]
    fn one_long_stall_in_any_round_counts() {
        let mut rounds = vec![round(0.1, &[1.0; 3]); 5];
        rounds[3].slices[0].stall = 4.0;
        rounds[1].slices[2].stall = 2.0;
        let outcome = outcome(&rounds);
        let stall = row(&outcome, Beside::Stall { most: 1.0 });
        assert_eq!((stall.ours, stall.ratio_median), (4.0, 0.25));
        let beside = row(&outcome, Beside::StallOf(2));
        assert_eq!((beside.theirs, beside.ratio_median), (2.0, 0.5));
        assert_eq!(beside.theirs_caller, "many");
    }
}

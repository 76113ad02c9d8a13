//! What a contest is: its contenders, and which of them are compared in what.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::drive::Slice;
use super::error::CompareError;
use crate::report::Goal;
use crate::stats::Better;

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
    /// The smaller of two limits of any engine on this machine: the device as above, and the best of the contenders
    /// that fill memtables without a log.
    Limit {
        in_flight: u64,
        memtables: Vec<usize>,
    },
    /// A most of syncs for 1,000 writes.
    Syncs { most: f64 },
    /// A most of seconds without any acknowledgement, in all rounds.
    Stall { most: f64 },
    /// The longest time without any acknowledgement of another contender, in all rounds.
    StallOf(usize),
}

impl Beside {
    /// The places of contenders in it.
    fn places(&mut self) -> &mut [usize] {
        match self {
            Self::Best(places)
            | Self::Limit {
                memtables: places, ..
            } => places,
            Self::StallOf(place) => std::slice::from_mut(place),
            Self::Device { .. } | Self::Syncs { .. } | Self::Stall { .. } => &mut [],
        }
    }
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

/// Rounds, and the time of each side in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    /// How many more there may be where others disturbed the device; the calmest count.
    pub(crate) spare_rounds: usize,
    pub(crate) slice: Duration,
    /// How long a contest may wait, all in all, for a device that others keep busy.
    pub(crate) patience: Duration,
    /// Whether what a side has left to flush and compact counts as its time: so it must in a run so long that the next
    /// one's would otherwise pay for it.
    pub(crate) pays_debts: bool,
}

impl Pace {
    /// About how long a contest with so many sides takes, on a device that nobody else uses.
    pub(crate) fn expected(&self, sides: usize) -> Duration {
        // Opening with full-sized recycled logs, and waiting before and after each slice.
        const OPEN: Duration = Duration::from_millis(1500);
        const AROUND: Duration = Duration::from_millis(150);
        let rounds = u32::try_from(self.rounds + 1).unwrap_or(u32::MAX);
        let sides = u32::try_from(sides).unwrap_or(u32::MAX);
        ((self.slice + AROUND) * rounds + OPEN) * sides
    }
}

impl Contest<'_> {
    /// What `only` names of it: the whole contest by its name, else single comparisons and who takes part in them.
    pub(crate) fn only(mut self, only: &str) -> Option<Self> {
        if self.name.contains(only) {
            return Some(self);
        }
        self.matches.retain(|one| one.workload.contains(only));
        let places = |one: &mut Match| {
            let others = one.beside.places().iter().copied();
            others.chain([one.ours]).collect::<Vec<_>>()
        };
        let needed: BTreeSet<usize> = self.matches.iter_mut().flat_map(places).collect();
        let moved = |old: usize| needed.range(..old).count();
        for one in &mut self.matches {
            one.ours = moved(one.ours);
            let places = one.beside.places().iter_mut();
            places.for_each(|place| *place = moved(*place));
        }
        let mut place = 0;
        self.contenders.retain(|_| {
            place += 1;
            needed.contains(&(place - 1))
        });
        (!self.matches.is_empty()).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{against, contest, limit};
    use super::*;

    fn contender(caller: &str) -> Contender<'static> {
        Contender {
            peer: "peer",
            caller: caller.to_owned(),
            in_flight: None,
            open: Box::new(|_| Err(CompareError::NothingNamed("opened".into()))),
        }
    }

    fn four() -> Contest<'static> {
        contest(
            "sync, 64 in flight",
            ["a", "b", "c", "d"].map(contender).into(),
            vec![
                against("sync, 64 in flight, 16 shards", 0, &[1], None),
                against("threads", 2, &[1, 3], None),
                limit(
                    "distance",
                    2,
                    Beside::Limit {
                        in_flight: 64,
                        memtables: vec![3],
                    },
                    None,
                ),
            ],
        )
    }

    fn callers<'a>(contest: &'a Contest<'_>) -> Vec<&'a str> {
        let contenders = contest.contenders.iter();
        contenders.map(|one| one.caller.as_str()).collect()
    }

    #[test]
    fn a_contest_is_named_as_a_whole() {
        let all = four().only("64 in flight").unwrap();
        assert_eq!((all.matches.len(), all.contenders.len()), (3, 4));
        assert!(four().only("no such").is_none());
    }

    #[test]
    fn of_a_single_comparison_only_its_sides_run() {
        let mut one = four().only("threads").unwrap();
        assert_eq!(callers(&one), ["b", "c", "d"]);
        assert_eq!(one.matches[0].ours, 1);
        assert_eq!(one.matches[0].beside.places(), [0, 2]);
        let mut distance = four().only("distance").unwrap();
        assert_eq!(callers(&distance), ["c", "d"]);
        assert_eq!(
            (
                distance.matches[0].ours,
                distance.matches[0].beside.places()
            ),
            (0, [1].as_mut_slice())
        );
    }

    #[test]
    fn the_time_grows_with_rounds_sides_and_slices() {
        let pace = Pace {
            rounds: 9,
            spare_rounds: 3,
            slice: Duration::from_secs(1),
            patience: Duration::ZERO,
            pays_debts: false,
        };
        assert!(pace.expected(4) >= Duration::from_secs(40));
        assert_eq!(pace.expected(8), pace.expected(4) * 2);
    }
}

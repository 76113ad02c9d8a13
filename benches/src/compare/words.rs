//! The words that contests are written in.

use std::time::Duration;

use super::contest::{Beside, Contender, Contest, Match};
use crate::report::Goal;
use crate::stats::Better;

const RATE: &str = "writes/s";
/// A sync of the disks that the goals were set on, in milliseconds.
pub(crate) const FAST: f64 = 0.1;
/// A slow disk's.
pub(crate) const SLOW: f64 = 1.0;

pub(crate) fn contest<'a>(
    name: &str,
    contenders: Vec<Contender<'a>>,
    matches: Vec<Match>,
) -> Contest<'a> {
    Contest {
        name: name.to_owned(),
        unit: RATE,
        better: Better::More,
        least_sync: Duration::ZERO,
        contenders,
        matches,
    }
}

pub(crate) fn against(workload: &str, ours: usize, theirs: &[usize], goal: Option<Goal>) -> Match {
    Match {
        workload: workload.to_owned(),
        ours,
        beside: Beside::Best(theirs.to_vec()),
        goal,
    }
}

pub(crate) fn limit(workload: &str, ours: usize, beside: Beside, goal: Option<Goal>) -> Match {
    Match {
        workload: workload.to_owned(),
        ours,
        beside,
        goal,
    }
}

pub(crate) fn goal(ratio: f64, fsync_ms: f64) -> Option<Goal> {
    Some(Goal {
        ratio,
        fsync_ms: Some(fsync_ms),
    })
}

pub(crate) fn anywhere(ratio: f64) -> Option<Goal> {
    Some(Goal {
        ratio,
        fsync_ms: None,
    })
}

//! What a driver shows goes forward only, but for a pause that is given up; and what can't be taken back is shown only
//! once the placement says it.

use watershed_migration::Phase;

use super::Property;
use crate::world::{Bug, Report, World};

pub(crate) const PROPERTY: Property = Property {
    name: "phases in order",
    check,
    planted: Bug::ShowsActivateEarly,
};

fn check(world: &World) -> Result<(), String> {
    match world.reports.last() {
        Some(report) if !follows(report) => Err(format!("{report:?}")),
        Some(report) if !is_recorded(report) => Err(format!("ahead of the record: {report:?}")),
        _ => Ok(()),
    }
}

fn follows(report: &Report) -> bool {
    let Some(before) = report.before else {
        return true;
    };
    let in_pause = |phase| (Phase::StopDualWrite..=Phase::DeltaPass).contains(&phase);
    match (before, report.phase) {
        (before, after) if before == after => true,
        // A pause that is given up, and the one way into the next.
        (before, Phase::DualWrite) if in_pause(before) => true,
        (before, Phase::Aborted) => before.before_activate(),
        (before, Phase::StopDualWrite) => before == Phase::DualWrite,
        (before, Phase::Drain) => before == Phase::StopDualWrite,
        (before, Phase::DeltaPass) => before == Phase::Drain,
        (before, after) => before < after,
    }
}

fn is_recorded(report: &Report) -> bool {
    let Some(recorded) = report.recorded else {
        return report.phase == Phase::Plan;
    };
    match report.phase {
        Phase::Aborted => recorded == Phase::Aborted,
        Phase::Activate | Phase::Cleanup | Phase::Done => {
            recorded >= report.phase && recorded != Phase::Aborted
        }
        _ => true,
    }
}

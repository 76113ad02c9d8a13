//! A paused migration takes no step towards its end: it may be aborted, resumed or taken over, and is as far as before.

use watershed_migration::Phase;

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "it went on while paused",
    check,
    planted: Bug::ReadsNoPause,
};

fn check(world: &World) -> Result<(), String> {
    if let Some(report) = world.reports.last()
        && report.still_paused
        && report.phase != Phase::Aborted
        && report.before.is_some_and(|before| before != report.phase)
        && report.before.is_some_and(Phase::before_activate)
    {
        return Err(format!("{report:?}"));
    }
    let Some(change) = &world.change else {
        return Ok(());
    };
    let (Some(before), Some(after)) = (&change.before.migration, &world.placement.migration) else {
        return Ok(());
    };
    if !before.paused || before.id != after.id {
        return Ok(());
    }
    let retiring = world.placement.frozen.as_ref().is_some_and(|f| f.retiring)
        && change.before.frozen.as_ref().is_some_and(|f| !f.retiring);
    // What the new owner is to do after the swap is done all the same.
    let goes_on = before.phase == Phase::Activate || after.phase == Phase::Aborted;
    let stood = (before.phase, before.attempt) == (after.phase, after.attempt);
    match (stood || goes_on) && !retiring && change.before.owner == world.placement.owner {
        true => Ok(()),
        false => Err(format!("{before:?} became {after:?}")),
    }
}

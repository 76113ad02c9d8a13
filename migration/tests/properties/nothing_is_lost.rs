//! Whoever owns the shard has each acknowledged write, with its bytes: at each change of the owner, and at the end.

use super::Property;
use crate::world::{Bug, S, World};

pub(crate) const PROPERTY: Property = Property {
    name: "nothing is lost",
    check,
    planted: Bug::GateStaysOpen,
};

fn check(world: &World) -> Result<(), String> {
    let moved = world
        .change
        .as_ref()
        .is_some_and(|change| change.before.instance != world.placement.instance);
    if !moved && !world.is_over() {
        return Ok(());
    }
    let by_source = world.placement.instance == S;
    let lost = world.acknowledged.values().find(|written| {
        let at = written.seq().0 as usize;
        match by_source {
            true => world.source.log.get(at - 1) != Some(written),
            false => !world.target.has(written),
        }
    });
    match lost {
        Some(written) => Err(format!("write {} is not at the owner", written.seq())),
        None => Ok(()),
    }
}

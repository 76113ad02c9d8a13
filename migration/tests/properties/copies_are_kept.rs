//! No copy is deleted that the placement still names: the owner's, and the frozen one before its deletion is decided.

use super::Property;
use crate::world::{Bug, S, T, World};

pub(crate) const PROPERTY: Property = Property {
    name: "copies are kept",
    check,
    planted: Bug::DeletesWhenStopped,
};

fn check(world: &World) -> Result<(), String> {
    let deleted = [(world.source.deleted, S), (world.target.discarded, T)];
    for (gone, instance) in deleted {
        if !gone {
            continue;
        }
        if world.placement.instance == instance {
            return Err(format!("the owner's copy {instance} was deleted"));
        }
        let frozen = world.placement.frozen.as_ref();
        if frozen.is_some_and(|f| f.instance == instance && !f.retiring) {
            return Err(format!("the frozen copy {instance} was deleted, undecided"));
        }
    }
    Ok(())
}

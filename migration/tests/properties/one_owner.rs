//! Never two nodes take writes of the shard.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "one owner",
    check,
    planted: Bug::OpensWithoutRecord,
};

fn check(world: &World) -> Result<(), String> {
    let source = world.source.up && world.source.gate;
    if source && world.target.serves() {
        return Err("source and target take writes".into());
    }
    Ok(())
}

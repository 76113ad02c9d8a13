//! A read sees every write that was acknowledged before it, wherever it is answered.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "reads are current",
    check,
    planted: Bug::ReadsStayOpen,
};

fn check(world: &World) -> Result<(), String> {
    match world.reads.iter().find(|read| read.seen < read.newest) {
        Some(stale) => Err(format!("{stale:?}")),
        None => Ok(()),
    }
}

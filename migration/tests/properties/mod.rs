//! What must hold in the simulated world: one file for each property, looked at after every step, each with a bug that
//! it must catch.

mod certificate_is_true;
mod copies_are_kept;
mod it_ends;
mod nothing_is_lost;
mod one_owner;
mod paused_stands_still;
mod phases_in_order;
mod placement_keeps_its_rules;
mod reads_are_current;
mod wishes_are_kept;

use super::world::{Bug, World};

/// A property of the world.
pub(crate) struct Property {
    pub(crate) name: &'static str,
    /// After each step: what is wrong, if anything.
    pub(crate) check: fn(&World) -> Result<(), String>,
    /// The bug that shows that it notices.
    #[allow(dead_code, reason = "scripts only look, the simulation plants")]
    pub(crate) planted: Bug,
}

pub(crate) const ALL: [Property; 10] = [
    one_owner::PROPERTY,
    reads_are_current::PROPERTY,
    nothing_is_lost::PROPERTY,
    copies_are_kept::PROPERTY,
    placement_keeps_its_rules::PROPERTY,
    phases_in_order::PROPERTY,
    certificate_is_true::PROPERTY,
    wishes_are_kept::PROPERTY,
    paused_stands_still::PROPERTY,
    it_ends::PROPERTY,
];

/// Runs the world to its end under these properties.
pub(crate) fn run(world: &mut World, properties: &[&Property]) -> Result<(), String> {
    world.run(|world| {
        properties.iter().try_for_each(|property| {
            (property.check)(world).map_err(|what| format!("{}: {what}", property.name))
        })
    })
}

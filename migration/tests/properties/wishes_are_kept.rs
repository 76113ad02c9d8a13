//! An operator's wish that a driver showed as kept is never forgotten. The world says a cutover again only until it was
//! shown, so a held migration that forgot it would not end, either.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "a wish was forgotten",
    check,
    planted: Bug::ForgetsWishes,
};

fn check(world: &World) -> Result<(), String> {
    match &world.placement.migration {
        Some(m) if world.cutover_kept.contains(&m.id) && !m.cutover_asked => {
            Err(format!("the cutover of {}", m.id))
        }
        _ => Ok(()),
    }
}

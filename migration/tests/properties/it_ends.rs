//! Once nothing goes wrong any more, every migration ends, and every driver with it. The world itself reports an end
//! that does not come.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "no end",
    check,
    planted: Bug::NeverAnswers,
};

/// A minute after the last fault, and no end.
const PATIENCE_MS: u64 = 60_000;

fn check(world: &World) -> Result<(), String> {
    let late = world.now > world.faults.until.max(3_000) + PATIENCE_MS;
    if late && !world.is_over() {
        return Err(format!("at {} ms", world.now));
    }
    Ok(())
}

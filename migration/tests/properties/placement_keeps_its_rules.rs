//! Each swap is one step forward: the record's rules hold, the revision rises by one, and only the source gives away.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "the placement keeps its rules",
    check,
    planted: Bug::SwapsWithoutComparing,
};

fn check(world: &World) -> Result<(), String> {
    let Some(change) = &world.change else {
        return Ok(());
    };
    let (before, after) = (&change.before, &world.placement);
    after.validate().map_err(|broken| broken.to_string())?;
    if after.revision.0 != before.revision.0 + 1 {
        return Err(format!(
            "from revision {} to {}",
            before.revision, after.revision
        ));
    }
    let given = after.instance != before.instance || after.owner != before.owner;
    if given && !(change.by_source && after.epoch == before.epoch.next()) {
        return Err(format!("the owner changed in epoch {}", after.epoch));
    }
    if !given && after.epoch != before.epoch {
        return Err("the epoch changed without the owner".into());
    }
    Ok(())
}

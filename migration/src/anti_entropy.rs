//! The safety gate as anti-entropy sees it: the same gate by its other name, the warning, and what keeps
//! anti-entropy on while a migration relies on it.

use crate::config::MigrationConfig;
use crate::gate::{Refusal, SafeConfig};
use crate::placement::MigrationRecord;

/// The gate of [`MigrationCoordinator::validate_safety`](crate::MigrationCoordinator::validate_safety).
///
/// # Errors
/// When the policy could lose an acknowledged write, or an option is out of bounds.
pub fn validate_migration_safety(config: &MigrationConfig) -> Result<SafeConfig, Refusal> {
    SafeConfig::check(config)
}

/// What to tell the operator when anti-entropy is off and the delta pass is on: safe, but the only net.
#[must_use]
pub const fn migration_warning_if_ae_disabled(config: &MigrationConfig) -> Option<&'static str> {
    if config.safety.anti_entropy || !config.safety.delta_pass {
        return None;
    }
    Some(
        "anti-entropy is off: the delta pass alone makes this migration whole, and damage that comes later \
         will not be found; turn anti-entropy on (MigrationConfig::safety.anti_entropy)",
    )
}

/// Whether anti-entropy may be turned off while these migrations run.
///
/// # Errors
/// [`Refusal::AntiEntropyInUse`] under one that skips the delta pass and is not over: the gate's promise holds
/// through Cleanup.
pub fn anti_entropy_may_turn_off(active: &[MigrationRecord]) -> Result<(), Refusal> {
    let relies = |m: &&MigrationRecord| !m.config.safety.delta_pass && !m.phase.is_final();
    match active.iter().find(relies) {
        Some(migration) => Err(Refusal::AntiEntropyInUse {
            migration: migration.id,
        }),
        None => Ok(()),
    }
}

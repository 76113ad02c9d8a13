//! The safety gate: what starts or resumes a migration needs a [`SafeConfig`], and only this module makes one.
//!
//! | anti-entropy | delta pass | |
//! |---|---|---|
//! | on  | on  | allowed |
//! | off | on  | allowed, with [a warning](crate::anti_entropy::migration_warning_if_ae_disabled) |
//! | off | skipped | refused: nothing would ever find a forward that failed |
//! | on  | skipped | refused until anti-entropy passes exist: nothing would repair the holes yet |
//!
//! It is a hard refusal. A [`SafeConfig`] has no public field, no default and no way in from bytes: a record
//! read back from the placement goes through the gate again.

use thiserror::Error;

use crate::config::{MigrationConfig, OutOfBounds};
use crate::wishes::Limits;
use crate::words::MigrationId;

/// Asks the gate for one migration.
#[derive(Clone, Debug)]
pub struct MigrationCoordinator {
    config: MigrationConfig,
}

impl MigrationCoordinator {
    /// A coordinator of a migration with these options.
    #[must_use]
    pub const fn new(config: MigrationConfig) -> Self {
        Self { config }
    }

    /// The options as given.
    #[must_use]
    pub const fn config(&self) -> &MigrationConfig {
        &self.config
    }

    /// The gate.
    ///
    /// # Errors
    /// When the policy could lose an acknowledged write, or an option is out of bounds.
    pub fn validate_safety(&self) -> Result<SafeConfig, Refusal> {
        SafeConfig::check(&self.config)
    }
}

/// A configuration that passed the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeConfig {
    config: MigrationConfig,
}

impl SafeConfig {
    /// The gate itself: everything else calls it.
    pub(crate) fn check(config: &MigrationConfig) -> Result<Self, Refusal> {
        config.validate()?;
        match (config.safety.anti_entropy, config.safety.delta_pass) {
            (_, true) => Ok(Self {
                config: config.clone(),
            }),
            (false, false) => Err(Refusal::AntiEntropyOffAndDeltaPassSkipped),
            (true, false) => Err(Refusal::NeedsAntiEntropyPass),
        }
    }

    /// The options that passed.
    #[must_use]
    pub const fn config(&self) -> &MigrationConfig {
        &self.config
    }

    /// The same options with other limits: all that may change of a migration that runs. Its safety policy may not, and
    /// nothing here could change it.
    ///
    /// # Errors
    /// When a limit is out of bounds.
    pub fn with_limits(&self, limits: Limits) -> Result<Self, Refusal> {
        let mut config = self.config.clone();
        limits.set(&mut config);
        Self::check(&config)
    }
}

/// Why the gate refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither net: a write whose forward failed would be lost.
    #[error(
        "refused: anti-entropy is off and the delta pass is skipped, so a write whose forward failed would be \
         lost; run the delta pass (drop --no-delta-pass, or set MigrationConfig::safety.delta_pass) or turn \
         anti-entropy on (drop --no-anti-entropy, or set MigrationConfig::safety.anti_entropy)"
    )]
    AntiEntropyOffAndDeltaPassSkipped,
    /// The net that is left cannot repair holes yet.
    #[error(
        "refused: the delta pass is skipped, and anti-entropy passes that would repair the holes are not \
         available; run the delta pass (drop --no-delta-pass, or set MigrationConfig::safety.delta_pass)"
    )]
    NeedsAntiEntropyPass,
    /// Anti-entropy can't be turned off now.
    #[error(
        "refused: migration {migration} skips the delta pass and relies on anti-entropy until its cleanup is \
         done; turn anti-entropy off after that, or abort the migration first"
    )]
    AntiEntropyInUse {
        /// The migration that relies on it.
        migration: MigrationId,
    },
    /// An option is out of bounds.
    #[error("refused: {0}")]
    InvalidConfig(#[from] OutOfBounds),
}

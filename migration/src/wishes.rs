//! What operators ask of a migration that runs.
//!
//! A wish is kept in the migration's record, by a swap, before a driver acts on it: a driver that takes over or restarts
//! acts on it, too. An abort needs no such note, since it is a swap itself, the first one after it was asked for.

use crate::config::{MigrationConfig, OutOfBounds};
use crate::placement::MigrationRecord;

/// Limits of a migration that may change while it runs; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The bound of the copy's speed, in bytes a second; `Some(None)` takes the bound away.
    pub rate_bytes_per_s: Option<Option<u64>>,
    /// The bound of the pause, in milliseconds; what is under way keeps the one it began with.
    pub pause_max_ms: Option<u64>,
}

impl Limits {
    /// Those that these options set.
    #[must_use]
    pub const fn of(config: &MigrationConfig) -> Self {
        Self {
            rate_bytes_per_s: Some(config.rate_bytes_per_s),
            pause_max_ms: Some(config.pause_max_ms),
        }
    }

    /// Checks each bound, as [`MigrationConfig::validate`] does.
    ///
    /// # Errors
    /// Names the first limit that is out of bounds.
    pub fn validate(self) -> Result<(), OutOfBounds> {
        let mut config = MigrationConfig::default();
        self.set(&mut config);
        config.validate()
    }

    pub(crate) const fn set(self, config: &mut MigrationConfig) {
        if let Some(rate) = self.rate_bytes_per_s {
            config.rate_bytes_per_s = rate;
        }
        if let Some(pause) = self.pause_max_ms {
            config.pause_max_ms = pause;
        }
    }

    fn then(self, later: Self) -> Self {
        Self {
            rate_bytes_per_s: later.rate_bytes_per_s.or(self.rate_bytes_per_s),
            pause_max_ms: later.pause_max_ms.or(self.pause_max_ms),
        }
    }
}

/// What is asked for and not yet in the record: the default asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// End `hold`.
    pub cutover: bool,
    /// End the grace time.
    pub cleanup: bool,
    /// Stand still, or go on.
    pub paused: Option<bool>,
    /// Other limits.
    pub limits: Limits,
}

impl Asked {
    /// Both, the later word counting where they disagree.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self {
            cutover: self.cutover || later.cutover,
            cleanup: self.cleanup || later.cleanup,
            paused: later.paused.or(self.paused),
            limits: self.limits.then(later.limits),
        }
    }

    /// Whether the record says otherwise so far.
    pub(crate) fn is_new_to(self, migration: &MigrationRecord) -> bool {
        let limits = Limits::of(&migration.config);
        (self.cutover && !migration.cutover_asked)
            || (self.cleanup && !migration.cleanup_asked)
            || self.paused.is_some_and(|paused| paused != migration.paused)
            || limits.then(self.limits) != limits
    }
}

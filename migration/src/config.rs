//! What a migration may be told: its safety policy and its bounds.
//!
//! A [`MigrationConfig`] is plain data, freely made, stored in the placement record and sent between nodes. It
//! permits nothing: only the [gate](crate::gate) turns one into a [`SafeConfig`](crate::SafeConfig), and checks
//! the bounds below on the way.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The two safety nets of a migration. Without both, lost forwards would be lost writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SafetyPolicy {
    /// Anti-entropy compares and repairs copies in the background.
    pub anti_entropy: bool,
    /// The delta pass ships what the target misses before activation.
    pub delta_pass: bool,
}

impl Default for SafetyPolicy {
    fn default() -> Self {
        Self {
            anti_entropy: true,
            delta_pass: true,
        }
    }
}

/// The options of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationConfig {
    /// The safety nets.
    pub safety: SafetyPolicy,
    /// The bound of the pause, from quiesce to release, in milliseconds: 5 to 60,000.
    pub pause_max_ms: u64,
    /// How many quiesces are tried before giving up: 1 to 10,000.
    pub attempts_max: u32,
    /// How long the old copy is kept after the cutover, in milliseconds.
    pub grace_ms: u64,
    /// How many missing records fit into the pause: delta rounds go on until the target misses no more.
    pub catch_up_lag: u64,
    /// Stay in the dual-write phase until the operator says `cutover`.
    pub hold: bool,
    /// A bound of the copy's speed; `None` is unbounded.
    pub rate_bytes_per_s: Option<u64>,
    /// The copy gives way while the p99 of the source node's writes is above so many percent of what it was just before
    /// the copy, 100 to 100,000; `None` never gives way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_percent: Option<u32>,
    /// How much log the source may have to keep for this migration, in bytes; at most half of its log's limit, so that
    /// the hold ends before the source has to refuse writes.
    pub hold_bytes: u64,
    /// How long the source may have to keep log for this migration, in milliseconds.
    pub hold_ms: u64,
}

impl Default for MigrationConfig {
    fn default() -> Self {
        Self {
            safety: SafetyPolicy::default(),
            pause_max_ms: 50,
            attempts_max: 10,
            grace_ms: 3_600_000,
            catch_up_lag: 512,
            hold: false,
            rate_bytes_per_s: None,
            adaptive_percent: None,
            hold_bytes: 1 << 30,
            hold_ms: 24 * 3_600_000,
        }
    }
}

/// An option out of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("MigrationConfig::{field} is {found}: use {least} to {most}")]
pub struct OutOfBounds {
    /// The field's name.
    pub field: &'static str,
    /// What it holds.
    pub found: u64,
    /// The least allowed.
    pub least: u64,
    /// The most allowed.
    pub most: u64,
}

/// A hundred years: no sum of such times overflows.
const MS_MAX: u64 = 100 * 366 * 24 * 3_600_000;

impl MigrationConfig {
    /// Checks each bound.
    ///
    /// # Errors
    /// Names the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        let rate = self.rate_bytes_per_s.unwrap_or(u64::MAX);
        let adaptive = u64::from(self.adaptive_percent.unwrap_or(100));
        let bounds = [
            ("pause_max_ms", self.pause_max_ms, 5, 60_000),
            ("attempts_max", u64::from(self.attempts_max), 1, 10_000),
            ("grace_ms", self.grace_ms, 0, MS_MAX),
            ("catch_up_lag", self.catch_up_lag, 1, 1 << 32),
            ("rate_bytes_per_s", rate, 1024, u64::MAX),
            ("adaptive_percent", adaptive, 100, 100_000),
            ("hold_bytes", self.hold_bytes, 1 << 16, u64::MAX),
            ("hold_ms", self.hold_ms, 1_000, MS_MAX),
        ];
        for (field, found, least, most) in bounds {
            if found < least || found > most {
                return Err(OutOfBounds {
                    field,
                    found,
                    least,
                    most,
                });
            }
        }
        Ok(())
    }
}

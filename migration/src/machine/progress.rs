//! What a driver shows of its migration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watershed_wal::ShardId;

use crate::words::{Attempt, MigrationId, NodeId, Phase};

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The migration.
    pub migration: MigrationId,
    /// The shard.
    pub shard: ShardId,
    /// Who owned it when it began.
    pub source: NodeId,
    /// Who is to own it.
    pub target: NodeId,
    /// Where it is, the pause's phases told apart.
    pub phase: Phase,
    /// Which quiesce.
    pub attempt: Attempt,
    /// Bytes of the checkpoint fetched.
    pub copied_bytes: u64,
    /// Bytes of the checkpoint.
    pub total_bytes: u64,
    /// Records the target misses, as last seen; where there are too many holes to list, at most so many.
    pub lag: u64,
    /// Ranges of missing records that were shipped.
    pub holes_filled: u64,
    /// Records that were shipped.
    pub delta_records: u64,
    /// The pause, once it is over, in microseconds.
    pub pause_us: Option<u64>,
    /// How often the source re-opened without an activation.
    pub re_opens: u32,
    /// How long each phase took so far, as this driver saw it, in milliseconds.
    pub phase_ms: BTreeMap<Phase, u64>,
    /// It stands still, as an operator asked: durable once it is shown.
    #[serde(default)]
    pub paused: bool,
    /// `hold` is over, as an operator asked: durable once it is shown.
    #[serde(default)]
    pub cutover: bool,
    /// The bound of the copy's speed now, in bytes a second.
    #[serde(default)]
    pub rate_bytes_per_s: Option<u64>,
    /// The bound of the pause now, in milliseconds.
    #[serde(default)]
    pub pause_max_ms: u64,
    /// The last thing that went wrong, where something did.
    pub trouble: Option<String>,
}

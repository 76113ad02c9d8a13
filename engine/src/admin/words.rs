//! What operators say to nodes, and hear from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use watershed_migration::balance::Goal;
use watershed_migration::{MigrationConfig, MigrationId, NodeId};
use watershed_wal::ShardId;

use crate::Error;
use crate::error::Retry;

/// An order to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Tell of itself: a [`Report`].
    Report,
    /// Tell the placement's records.
    Records,
    /// Tell the placement's members.
    Members,
    /// Move a shard to a node, driven by the node that is asked.
    Migrate {
        shard: ShardId,
        to: NodeId,
        config: MigrationConfig,
    },
    /// Steer a migration that the node drives.
    Steer { shard: ShardId, wish: Wish },
    /// Make a shard, owned by the node.
    Create { shard: ShardId },
    /// Delete a shard that the node owns.
    Drop { shard: ShardId },
    /// Say what is wanted of a node; any node passes it on.
    Goal { node: NodeId, goal: Option<Goal> },
    /// Forget a node that has left for good.
    Forget { node: NodeId },
}

impl Order {
    /// Whether it is more than a question.
    pub(crate) const fn changes(&self) -> bool {
        !matches!(self, Self::Report | Self::Records | Self::Members)
    }
}

/// What an operator may want of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Wish {
    /// End `hold`.
    Cutover,
    /// Give it up.
    Cancel,
    /// End the grace time.
    Cleanup,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Change limits; what is not named stays.
    Limits {
        /// What the copy may take, in bytes a second; 0 takes the bound away.
        rate_bytes_per_s: Option<u64>,
        /// How long writers may be paused, in milliseconds.
        pause_max_ms: Option<u64>,
    },
}

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// As [`crate::EngineStatus`] is written.
    pub(crate) status: Value,
    /// Since when each migration that it drives shows no progress.
    pub(crate) idle_ms: BTreeMap<MigrationId, u64>,
    /// Why migrations that it drove ended without moving their shard, as far back as it remembers.
    #[serde(default)]
    pub(crate) failed: BTreeMap<MigrationId, String>,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// For programs.
    pub(crate) kind: String,
    /// For people.
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(kind: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let kind = match (&error, error.retry()) {
            (Error::Refused(_), _) => "refused",
            (Error::NoShard { .. }, _) => "no-shard",
            (_, Retry::Now) => "later",
            _ => "failed",
        };
        Self::new(kind, error.to_string())
    }
}

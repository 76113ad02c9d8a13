//! The keys, and what they hold.

use std::path::PathBuf;

use etcd_client::KeyValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

use crate::placement::map::{Entry, Removed};
use crate::placement::{NodeInfo, PlacementError};

/// The version of keys and values written here.
pub(super) const FORMAT: u32 = 1;

/// Names of keys.
pub(super) struct Keys {
    /// Ends with a slash.
    prefix: String,
}

/// What a shard's key holds.
pub(super) enum Slot {
    Record(Box<PlacementRecord>),
    Removed(Removed),
}

/// A shard's key, as it is now.
pub(super) struct Found {
    /// What the next change compares; none where there is no key.
    pub(super) value: Option<Vec<u8>>,
    pub(super) slot: Option<Slot>,
}

/// What a member's key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Joined {
    pub(super) info: NodeInfo,
    pub(super) goal: Option<Goal>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        Self { prefix }
    }

    pub(super) fn all(&self) -> String {
        self.prefix.clone()
    }

    pub(super) fn format(&self) -> String {
        format!("{}format", self.prefix)
    }

    pub(super) fn cluster(&self) -> String {
        format!("{}cluster", self.prefix)
    }

    pub(super) fn shards(&self) -> String {
        format!("{}shards/", self.prefix)
    }

    pub(super) fn shard(&self, shard: ShardId) -> String {
        format!("{}shards/{:020}", self.prefix, shard.0)
    }

    pub(super) fn members(&self) -> String {
        format!("{}members/", self.prefix)
    }

    pub(super) fn member(&self, node: &NodeId) -> String {
        format!("{}members/{node}", self.prefix)
    }

    pub(super) fn lives(&self) -> String {
        format!("{}alive/", self.prefix)
    }

    pub(super) fn life(&self, node: &NodeId) -> String {
        format!("{}alive/{node}", self.prefix)
    }
}

/// The node that a key below `under` is of.
pub(super) fn node_of(under: &str, key: &KeyValue) -> Result<NodeId, PlacementError> {
    let name = key.key().strip_prefix(under.as_bytes()).unwrap_or_default();
    let node = String::from_utf8_lossy(name).parse();
    node.map_err(|error| damaged(key, format!("{error}")))
}

impl Found {
    /// What a shard's key was found to hold.
    pub(super) fn read(
        shard: Option<ShardId>,
        key: Option<&KeyValue>,
    ) -> Result<Self, PlacementError> {
        let Some(key) = key else {
            return Ok(Self {
                value: None,
                slot: None,
            });
        };
        let slot = match decode(key)? {
            Entry::Record(record) => {
                let sound = record.validate();
                sound.map_err(|error| damaged(key, error.to_string()))?;
                Slot::Record(record)
            }
            Entry::Removed(removed) => Slot::Removed(removed),
            _ => return Err(damaged(key, "it is no record of a shard".into())),
        };
        if shard.is_some_and(|shard| shard != slot.shard()) {
            return Err(damaged(key, format!("it is of shard {}", slot.shard())));
        }
        Ok(Self {
            value: Some(key.value().to_vec()),
            slot: Some(slot),
        })
    }

    pub(super) fn record(&self) -> Option<&PlacementRecord> {
        match &self.slot {
            Some(Slot::Record(record)) => Some(record),
            _ => None,
        }
    }

    /// The revision of the record, where there is one.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.record().map(|record| record.revision)
    }
}

impl Slot {
    pub(super) fn shard(&self) -> ShardId {
        match self {
            Self::Record(record) => record.shard,
            Self::Removed(removed) => removed.shard,
        }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it serialises into memory: its maps have string keys")
}

pub(super) fn decode<T: DeserializeOwned>(key: &KeyValue) -> Result<T, PlacementError> {
    serde_json::from_slice(key.value()).map_err(|error| damaged(key, error.to_string()))
}

/// As a journal's line that can't be trusted.
fn damaged(key: &KeyValue, what: String) -> PlacementError {
    PlacementError::Damaged {
        file: path(&String::from_utf8_lossy(key.key())),
        line: 1,
        what,
    }
}

/// A key's name, as errors have it.
pub(super) fn path(key: &str) -> PathBuf {
    PathBuf::from(format!("etcd:{key}"))
}

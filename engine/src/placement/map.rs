//! The map that [`FilePlacement`](super::FilePlacement) keeps, as the lines of its journal make it: the newest line of a
//! shard wins.
//!
//! ```text
//! {"cluster":{..}} | {"record":{..}} | {"removed":{"shard":..,"revision":..,"epoch":..}}
//! {"member":{"node":..,"info":{..},"goal":..,"alive_for_ms":..}} | {"left":{"node":..}}      from version 2 on
//! ```
//!
//! A journal of version 1 is written again as version 2 when it is opened, so that what knows no members refuses it by its
//! version, and not as damaged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::{Epoch, ShardId};

use super::journal::Ledger;
use super::{ClusterInfo, NodeInfo};

/// One change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Entry {
    Cluster(ClusterInfo),
    Record(Box<PlacementRecord>),
    Removed(Removed),
    Member(Joined),
    Left(Left),
}

/// The last of a shard that was removed: a new record of it goes on from here, so that neither a swap nor a version of
/// before can be taken for one of after.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removed {
    pub(super) shard: ShardId,
    /// The revision that the removal itself made.
    pub(super) revision: Revision,
    /// The last epoch of ownership; journals of before it was kept have none.
    #[serde(default)]
    pub(super) epoch: Epoch,
}

impl Removed {
    pub(super) fn of(record: &PlacementRecord) -> Self {
        Self {
            shard: record.shard,
            revision: Revision(record.revision.0.saturating_add(1)),
            epoch: record.epoch,
        }
    }

    /// Makes the first record of a shard go on from its removal.
    pub(super) fn go_on(&self, record: &mut PlacementRecord) {
        let revision = Revision(self.revision.0.saturating_add(1));
        record.revision = record.revision.max(revision);
        record.epoch = record.epoch.max(Epoch(self.epoch.0.saturating_add(1)));
    }
}

/// A member, as it is from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Joined {
    pub(super) node: NodeId,
    pub(super) info: NodeInfo,
    pub(super) goal: Option<Goal>,
    /// For how long it asked last to count as alive, in milliseconds; 0 where it never did.
    pub(super) alive_for_ms: u64,
}

/// A member that was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Left {
    pub(super) node: NodeId,
}

/// What the lines add up to.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    pub(super) cluster: Option<ClusterInfo>,
    pub(super) records: BTreeMap<ShardId, PlacementRecord>,
    pub(super) removed: BTreeMap<ShardId, Removed>,
    pub(super) members: BTreeMap<NodeId, Joined>,
}

impl Map {
    /// The highest revision the shard ever had.
    fn revision(&self, shard: ShardId) -> Option<Revision> {
        let record = self.records.get(&shard).map(|record| record.revision);
        record.or_else(|| self.removed.get(&shard).map(|removed| removed.revision))
    }

    fn goes_on(&self, shard: ShardId, revision: Revision) -> Result<(), String> {
        match self.revision(shard) {
            Some(known) if known >= revision => Err(format!(
                "shard {shard} has revision {revision} after revision {known}"
            )),
            _ => Ok(()),
        }
    }
}

impl Ledger for Map {
    type Entry = Entry;

    const VERSION: u32 = 2;

    fn take(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Cluster(info) => match self.cluster {
                Some(made) => {
                    return Err(format!(
                        "the cluster was made before, with {} shards",
                        made.shards
                    ));
                }
                None => self.cluster = Some(info),
            },
            Entry::Record(record) => {
                self.goes_on(record.shard, record.revision)?;
                self.removed.remove(&record.shard);
                self.records.insert(record.shard, *record);
            }
            Entry::Removed(removed) => {
                self.goes_on(removed.shard, removed.revision)?;
                self.records.remove(&removed.shard);
                self.removed.insert(removed.shard, removed);
            }
            Entry::Member(member) => {
                self.members.insert(member.node.clone(), member);
            }
            Entry::Left(left) => {
                let known = self.members.remove(&left.node);
                known.ok_or_else(|| format!("node {} leaves and had not joined", left.node))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        let cluster = self.cluster.map(Entry::Cluster).into_iter();
        let records = self.records.values().cloned();
        let records = records.map(|record| Entry::Record(Box::new(record)));
        let removed = self.removed.values().copied().map(Entry::Removed);
        let members = self.members.values().cloned().map(Entry::Member);
        cluster
            .chain(records)
            .chain(removed)
            .chain(members)
            .collect()
    }
}

//! What a node has seen of the placement, kept in its own directory, so that it refuses one that went back in time
//! (rule 16): a placement restored from a backup would revive old owners, and have newer copies deleted as left over.
//!
//! [`Witness`] stands between a node and its placement. Every record that the node reads, swaps or meets in a conflict
//! goes through it: a lower (epoch, revision) than one seen before is refused, a higher one is durable in the journal
//! `seen` before the caller gets it. What is as high as before, nearly everything, costs a look into a map.
//!
//! A record may be missing because its shard was dropped, so that alone is no going back. It is for the node that held
//! the shard's data by the last record it saw and did not begin to drop it: [`Witness::may_delete`].

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use watershed_migration::balance::Goal;
use watershed_migration::{HighestSeen, NodeId, PlacementRecord, Revision};
use watershed_wal::{InstanceId, ShardId};

use super::journal::{self, Journal, Ledger};
use super::{ClusterInfo, Member, NodeInfo, Placement, PlacementError};
use crate::link::BoxFuture;
use crate::sync::{self, lock};

/// The last that was seen of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sighting {
    shard: ShardId,
    highest: HighestSeen,
    /// This node's copy that owns the shard or is kept frozen.
    here: Option<InstanceId>,
    /// This node has begun to remove the record.
    dropping: bool,
}

impl Sighting {
    fn of(record: &PlacementRecord, node: &NodeId) -> Self {
        let frozen = record.frozen.as_ref().filter(|frozen| frozen.node == *node);
        let owned = (record.owner == *node).then_some(record.instance);
        Self {
            shard: record.shard,
            highest: HighestSeen {
                epoch: record.epoch,
                revision: record.revision,
            },
            here: owned.or(frozen.map(|frozen| frozen.instance)),
            dropping: false,
        }
    }

    /// Whether a record may be believed after this one.
    fn admit(&self, record: &PlacementRecord) -> Result<(), PlacementError> {
        let mut highest = self.highest;
        match highest.observe(record) {
            Ok(_) => Ok(()),
            Err(back) => Err(PlacementError::WentBack {
                shard: self.shard,
                found: Some(HighestSeen {
                    epoch: back.found_epoch,
                    revision: back.found_revision,
                }),
                seen: self.highest,
            }),
        }
    }

    /// Whether it may be believed that there is no record any more.
    fn admit_none(&self) -> Result<(), PlacementError> {
        if self.here.is_none() || self.dropping {
            return Ok(());
        }
        Err(PlacementError::WentBack {
            shard: self.shard,
            found: None,
            seen: self.highest,
        })
    }
}

/// The sightings of all shards. One line holds those made at once.
#[derive(Debug, Clone, Default)]
struct Sightings(BTreeMap<ShardId, Sighting>);

impl Ledger for Sightings {
    type Entry = Vec<Sighting>;

    const VERSION: u32 = 1;

    fn take(&mut self, entry: Vec<Sighting>) -> Result<(), String> {
        for sighting in entry {
            self.0.insert(sighting.shard, sighting);
        }
        Ok(())
    }

    fn entries(&self) -> Vec<Vec<Sighting>> {
        self.0.values().map(|sighting| vec![*sighting]).collect()
    }
}

/// A placement as one node may see it: never older than it saw it before.
#[derive(Debug)]
pub(crate) struct Witness {
    placement: Arc<dyn Placement>,
    runtime: Handle,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Kept {
    node: NodeId,
    /// Durable, so what is read here counts.
    sightings: RwLock<Sightings>,
    journal: Mutex<Journal>,
}

impl Witness {
    /// Stands before `placement` with what is kept at `path`.
    ///
    /// # Errors
    /// When the journal is damaged, of a newer format, or the disk fails.
    pub(crate) fn open(
        placement: Arc<dyn Placement>,
        node: NodeId,
        path: &Path,
        runtime: Handle,
    ) -> Result<Self, PlacementError> {
        let (journal, sightings) = Journal::open(path)?;
        Ok(Self {
            placement,
            runtime,
            kept: Arc::new(Kept {
                node,
                sightings: RwLock::new(sightings),
                journal: Mutex::new(journal),
            }),
        })
    }

    /// Whether a copy that no record names may be deleted as left over.
    ///
    /// # Errors
    /// [`PlacementError::WentBack`] where the placement has lost the shard's record.
    pub(crate) fn may_delete(
        &self,
        shard: ShardId,
        instance: InstanceId,
    ) -> Result<(), PlacementError> {
        match self.sighting(shard) {
            Some(sighting) if sighting.here == Some(instance) => sighting.admit_none(),
            _ => Ok(()),
        }
    }

    fn sighting(&self, shard: ShardId) -> Option<Sighting> {
        sync::read(&self.kept.sightings).0.get(&shard).copied()
    }

    /// Admits a record that was asked for after `before` had been seen, and keeps it where it is news.
    async fn admit(
        &self,
        before: Option<Sighting>,
        record: &PlacementRecord,
    ) -> Result<(), PlacementError> {
        if let Some(before) = before {
            before.admit(record)?;
        }
        self.keep(vec![Sighting::of(record, &self.kept.node)]).await
    }

    /// Keeps what is higher than what is kept; durable when it returns.
    async fn keep(&self, found: Vec<Sighting>) -> Result<(), PlacementError> {
        if self.kept.news(&found).is_empty() {
            return Ok(());
        }
        let kept = self.kept.clone();
        let keeping = self
            .runtime
            .spawn_blocking(move || kept.append(|kept| kept.news(&found)));
        keeping.await.unwrap_or(Err(PlacementError::Closed))
    }

    /// Replaces a shard's sighting.
    async fn replace(&self, sighting: Sighting) -> Result<(), PlacementError> {
        let kept = self.kept.clone();
        let keeping = self
            .runtime
            .spawn_blocking(move || kept.append(|_| vec![sighting]));
        keeping.await.unwrap_or(Err(PlacementError::Closed))
    }
}

impl Kept {
    fn news(&self, found: &[Sighting]) -> Vec<Sighting> {
        let sightings = sync::read(&self.sightings);
        // Of two readers one may come with what the other has seen surpassed: only what is higher is news.
        let news = found.iter().filter(|found| {
            let known = sightings.0.get(&found.shard);
            known.is_none_or(|known| known.highest < found.highest)
        });
        news.copied().collect()
    }

    fn append(&self, what: impl FnOnce(&Self) -> Vec<Sighting>) -> Result<(), PlacementError> {
        let mut journal = lock(&self.journal);
        let entry = what(self);
        if entry.is_empty() {
            return Ok(());
        }
        journal.append(&entry)?;
        let mut sightings = sync::write(&self.sightings);
        sightings
            .0
            .extend(entry.into_iter().map(|sighting| (sighting.shard, sighting)));
        journal.compact_if_due(&*sightings)
    }
}

impl Placement for Witness {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        self.placement.cluster()
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        self.placement.create_cluster(info)
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        Box::pin(async move {
            // Before asking: the answer may be older than what another reader sees meanwhile.
            let before = self.sighting(shard);
            let found = self.placement.read(shard).await?;
            if let Some(record) = &found {
                self.admit(before, record).await?;
            }
            Ok(found)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        Box::pin(async {
            let before = sync::read(&self.kept.sightings).clone();
            let found = self.placement.list().await?;
            before.admit_all(&found, false)?;
            let sighting = |record| Sighting::of(record, &self.kept.node);
            self.keep(found.iter().map(sighting).collect()).await?;
            Ok(found)
        })
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        Box::pin(async move {
            let before = self.sighting(record.shard);
            let swapped = self.placement.swap(expected, record).await;
            match &swapped {
                Ok(record) => self.admit(before, record).await?,
                Err(PlacementError::Conflict {
                    current: Some(record),
                    ..
                }) => self.admit(before, record).await?,
                Err(_) => {}
            }
            swapped
        })
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move {
            let Some(before) = self.sighting(shard) else {
                return self.placement.remove(shard, expected).await;
            };
            // First, so that after a crash the copy is known for one that may go.
            self.replace(Sighting {
                dropping: true,
                ..before
            })
            .await?;
            let removed = self.placement.remove(shard, expected).await;
            match &removed {
                Ok(()) => {
                    let highest = HighestSeen {
                        epoch: before.highest.epoch,
                        revision: Revision(expected.0.saturating_add(1)),
                    };
                    let gone = Sighting {
                        highest,
                        here: None,
                        ..before
                    };
                    // The record is gone in any case: what is not kept here is only that it was.
                    if let Err(error) = self.replace(gone).await {
                        tracing::warn!(%shard, %error, "the end of a removal could not be kept");
                    }
                }
                Err(PlacementError::Conflict { .. }) => self.replace(before).await?,
                Err(_) => {}
            }
            removed
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        self.placement.members()
    }

    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.placement.announce(node, info, alive_for)
    }

    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.placement.set_goal(node, goal)
    }

    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.placement.remove_member(node)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.placement.watch()
    }
}

impl Sightings {
    /// Whether these records, all that there are, may be believed.
    fn admit_all(&self, records: &[PlacementRecord], missing: bool) -> Result<(), PlacementError> {
        let mut left = self.0.clone();
        for record in records {
            if let Some(sighting) = left.remove(&record.shard) {
                sighting.admit(record)?;
            }
        }
        if missing {
            left.values().try_for_each(Sighting::admit_none)?;
        }
        Ok(())
    }
}

/// What was seen, as the journal at `path` says, to be compared with what a placement says: for who opens a directory
/// without its lock, and so changes nothing.
#[derive(Debug)]
pub(crate) struct SeenBefore(Sightings);

impl SeenBefore {
    /// Reads the journal; a missing one has seen nothing.
    ///
    /// # Errors
    /// As [`Witness::open`].
    pub(crate) fn read(path: &Path) -> Result<Self, PlacementError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Self(journal::parse(path, &bytes)?.state)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self(Sightings::default())),
            Err(error) => Err(PlacementError::io("read", path, error)),
        }
    }

    /// Whether records that were read later may be believed.
    ///
    /// # Errors
    /// [`PlacementError::WentBack`].
    pub(crate) fn admit(&self, records: &[PlacementRecord]) -> Result<(), PlacementError> {
        self.0.admit_all(records, true)
    }
}

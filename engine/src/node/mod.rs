//! A node: one data directory, its log, its stores, and the shards hosted in it.
//!
//! ```text
//! open.rs       opening: which copies are owned, received, frozen, or left over
//! replay.rs     ... the log is read once, and brought into the stores
//! at_once.rs    ... several shards at once
//! local.rs      requests for shards owned here
//! route.rs      requests for shards owned elsewhere
//! serve.rs      what other nodes ask
//! goals.rs      moves that operators' goals ask for, begun by their targets
//! member.rs     this node among the others, and whose driving it takes over
//! leftovers.rs  what crashes left under shards/
//! keep.rs       the background: flushed marks, and flushing what pins the log
//! ```
//!
//! Which node owns a shard is said by the placement alone; what a copy may do now by its [`Hosted`]. What happens in a
//! migration is in migrate/.

mod at_once;
mod goals;
mod keep;
mod leftovers;
mod local;
mod member;
mod open;
mod replay;
mod route;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use watershed_migration::messages::EntryVersion;
use watershed_migration::{NodeId, PlacementRecord};
use watershed_wal::{InstanceId, Log, ShardId, TermStart};

#[cfg(feature = "net")]
pub(crate) use goals::plan;
pub(crate) use local::Local;

use crate::Error;
use crate::datadir::DataDir;
use crate::link::Link;
use crate::migrate::{Foreground, Migrations};
use crate::placement::{FilePlacement, Placement, Witness};
use crate::shard::{ApplyPool, Hosted, Role};
use crate::store::{Applied, Store, StoreEnv, Version};
use crate::sync;

/// How long closing waits for requests under way: all but forgotten ones end at once.
const CLOSING_PATIENCE: Duration = Duration::from_millis(500);

/// A handle on a node; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Node(Arc<NodeInner>);

impl std::ops::Deref for Node {
    type Target = NodeInner;

    fn deref(&self) -> &NodeInner {
        &self.0
    }
}

/// What a node consists of.
#[derive(Debug)]
pub(crate) struct NodeInner {
    pub(crate) id: NodeId,
    pub(crate) dir: PathBuf,
    data: DataDir,
    pub(crate) log: Log,
    pub(crate) env: StoreEnv,
    /// The placement behind the witness: what it says is never older than what was seen before.
    pub(crate) placement: Arc<dyn Placement>,
    witness: Arc<Witness>,
    /// The placement, where it is the engine's own and so closes with it.
    pub(crate) own_placement: Option<Arc<FilePlacement>>,
    pub(crate) link: Option<Arc<dyn Link>>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) migrations: Migrations,
    pub(crate) shards: u64,
    pool: ApplyPool,
    keeper: keep::Keeper,
    member: member::Membership,
    hosted: RwLock<HashMap<InstanceId, Arc<Hosted>>>,
    /// The copy of a shard that owns it, or did last: found on every request.
    owned: RwLock<HashMap<ShardId, Arc<Hosted>>>,
    closed: AtomicBool,
    /// Requests of this process under way.
    pub(crate) requests: AtomicU64,
    /// Requests of other nodes that were refused since they came with an epoch of before.
    pub(crate) stale_epochs: AtomicU64,
    /// The times of writes to shards owned here, for copies that give way to them.
    pub(crate) foreground: Arc<Foreground>,
    /// The runtime's timers may be used; see [`crate::request::Entered`].
    pub(crate) alive: RwLock<bool>,
}

impl Node {
    /// The copy of a shard to ask first: its owner's; else one being received; else a frozen one.
    pub(crate) fn hosted(&self, shard: ShardId) -> Option<Arc<Hosted>> {
        if let Some(hosted) = self.owner(shard) {
            return Some(hosted);
        }
        let all = sync::read(&self.hosted);
        let with = |want: fn(&Role) -> bool| {
            all.values()
                .find(|hosted| hosted.shard == shard && want(&hosted.role()))
                .cloned()
        };
        with(|role| matches!(role, Role::Owner { .. }))
            .or_else(|| with(|role| matches!(role, Role::Receiver)))
            .or_else(|| with(|_| true))
    }

    /// The copy that owns the shard now.
    pub(crate) fn owner(&self, shard: ShardId) -> Option<Arc<Hosted>> {
        let known = sync::read(&self.owned).get(&shard).cloned();
        if let Some(hosted) = known
            && hosted.is_owner()
        {
            return Some(hosted);
        }
        let found = sync::read(&self.hosted)
            .values()
            .find(|hosted| hosted.shard == shard && hosted.is_owner())
            .cloned();
        if let Some(hosted) = &found {
            sync::write(&self.owned).insert(shard, hosted.clone());
        }
        found
    }

    pub(crate) fn hosted_instance(&self, instance: InstanceId) -> Option<Arc<Hosted>> {
        sync::read(&self.hosted).get(&instance).cloned()
    }

    pub(crate) fn hosted_all(&self) -> Vec<Arc<Hosted>> {
        let mut all: Vec<_> = sync::read(&self.hosted).values().cloned().collect();
        all.sort_by_key(|hosted| (hosted.shard, hosted.instance));
        all
    }

    fn add_hosted(&self, hosted: Arc<Hosted>) {
        sync::write(&self.hosted).insert(hosted.instance, hosted);
    }

    /// Hosts a copy that is to be made: records may arrive at once, its store comes later. The same instance twice is
    /// the same copy.
    pub(crate) fn install_receiver(
        &self,
        shard: ShardId,
        instance: InstanceId,
        base: Applied,
        terms: Vec<TermStart>,
    ) -> Result<Arc<Hosted>, Error> {
        if let Some(hosted) = self.hosted_instance(instance) {
            return Ok(hosted);
        }
        let log = self.log.host(shard, instance, base.seq, terms)?;
        let dir = self.shard_dir(shard, instance);
        let hosted = Hosted::new(log, dir, None, Role::Receiver, self.pool.clone());
        self.add_hosted(hosted.clone());
        Ok(hosted)
    }

    /// Deletes a copy: its records, its store, its directory. Gives the bytes freed; 0 where it is gone already.
    pub(crate) fn remove(&self, instance: InstanceId) -> Result<u64, Error> {
        let Some(hosted) = sync::write(&self.hosted).remove(&instance) else {
            return Ok(0);
        };
        let mut owned = sync::write(&self.owned);
        if owned
            .get(&hosted.shard)
            .is_some_and(|known| known.instance == instance)
        {
            owned.remove(&hosted.shard);
        }
        drop(owned);
        let store = hosted.store().ok();
        hosted.close();
        self.log.forget(instance)?;
        if let Some(store) = store {
            store.discard();
        }
        Ok(Store::destroy(&hosted.dir)?)
    }

    pub(crate) fn shard_dir(&self, shard: ShardId, instance: InstanceId) -> PathBuf {
        self.data.shard(shard, instance)
    }

    /// Called with each newer record that migrations read. What must be kept of it the [`Witness`] has kept.
    pub(crate) fn saw(&self, record: &PlacementRecord) {
        tracing::debug!(shard = %record.shard, owner = %record.owner, epoch = %record.epoch, "placement");
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends everything in order: migrations, writes, applying, stores, the log.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.leave().await;
        self.migrations.stop().await;
        self.closed.store(true, Ordering::Release);
        let node = self.clone();
        self.runtime
            .spawn_blocking(move || node.close_blocking())
            .await
            .unwrap_or(Err(Error::Closed))
    }

    /// After [`Node::close`]: gives requests a moment to end as they should, then ends the others.
    pub(crate) fn retire_requests(&self) {
        let waits = CLOSING_PATIENCE.as_millis() / 5;
        for _ in 0..waits {
            if self.requests.load(Ordering::Acquire) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *sync::write(&self.alive) = false;
    }

    /// The last step of closing, when nothing runs any more: others may have the directory. Forgotten futures and scans
    /// may hold on to this node for ever.
    pub(crate) fn release(&self) {
        if let Some(placement) = &self.own_placement {
            placement.close();
        }
        self.data.release();
    }

    fn close_blocking(&self) -> Result<(), Error> {
        self.keeper.stop();
        let all: Vec<_> = sync::write(&self.hosted)
            .drain()
            .map(|(_, hosted)| hosted)
            .collect();
        sync::write(&self.owned).clear();
        // The log commits what it was given and hands it to the appliers, which finish before the stores close.
        let logged = self.log.close();
        self.pool.stop();
        let mut result = match logged {
            Ok(()) | Err(watershed_wal::LogError::Closed) => Ok(()),
            Err(error) => Err(Error::Log(error)),
        };
        for hosted in all {
            let store = hosted.store().ok();
            hosted.close();
            let closed = store.map_or(Ok(()), Store::close);
            result = result.and(closed.map_err(Error::from));
        }
        result
    }
}

pub(crate) fn to_wire(version: Version) -> EntryVersion {
    EntryVersion {
        term: version.term,
        seq: version.seq,
    }
}

pub(crate) fn from_wire(version: EntryVersion) -> Version {
    Version {
        term: version.term,
        seq: version.seq,
    }
}

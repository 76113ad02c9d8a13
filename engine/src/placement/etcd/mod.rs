//! The placement on an etcd cluster, for engines on more than one machine.
//!
//! ```text
//! PREFIX/format              the version of what is below
//! PREFIX/cluster             what the cluster was made with
//! PREFIX/shards/N            a shard's record, or the last of one that was removed; N with 20 digits, so in order
//! PREFIX/members/NODE        what a node said of itself, and what is wanted of it
//! PREFIX/alive/NODE          there while the node is alive: bound to a lease that the node's announcements renew
//! ```
//!
//! Values are JSON, a shard's as in the journal of a [`FilePlacement`](super::FilePlacement). A swap is one transaction,
//! which compares the record that is there with the one of the expected revision, as it was seen last. Reads are linearizable. Whatever ends without an answer (etcd is gone, hangs, or has no quorum) is
//! [`PlacementError::Unreachable`] within the time of [`EtcdOptions::timeout`]: a swap may still win then, until the
//! record changes otherwise.
//!
//! ```text
//! options.rs   where etcd is, and who asks       pool.rs      connections: which endpoint, how long, what failed
//! keys.rs      the keys, and what they hold      watching.rs  changes, told also after a gap
//! shards.rs    records and the cluster           members.rs   nodes, and their leases
//! ```

mod keys;
mod members;
mod options;
mod pool;
mod shards;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

use self::keys::Keys;
use self::members::Leases;
use self::pool::Pool;
use self::shards::Known;
pub use options::{EtcdOptions, EtcdTls};

use super::{ClusterInfo, Member, NodeInfo, Placement, PlacementError};
use crate::link::BoxFuture;

/// A placement kept in etcd (version 3.4 or newer).
///
/// It has a small runtime of its own, so it may be used from any runtime and from none. While etcd can't be reached no
/// shard changes its owner; those that have one are read and written as before.
///
/// ```no_run
/// use std::sync::Arc;
/// use watershed::{Engine, EtcdOptions, EtcdPlacement};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"];
/// let placement = EtcdPlacement::connect(EtcdOptions::new(endpoints)).await?;
/// let options = Engine::options().node("a").placement(Arc::new(placement));
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
pub struct EtcdPlacement {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    pool: Pool,
    keys: Keys,
    /// The records as they were seen last, encoded.
    known: Mutex<BTreeMap<ShardId, Known>>,
    leases: Leases,
    changes: watch::Sender<u64>,
}

impl EtcdPlacement {
    /// Connects to etcd, and begins to watch what is there.
    ///
    /// # Errors
    /// [`PlacementError::Options`] where the options can't be meant; [`PlacementError::Unreachable`] where no endpoint
    /// answers in time, which may be tried again; [`PlacementError::NewerFormat`] where a newer version keeps its map
    /// there.
    pub async fn connect(options: EtcdOptions) -> Result<Self, PlacementError> {
        options.check()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ws-etcd")
            .enable_all()
            .build()
            .map_err(|error| PlacementError::io("start the runtime of", "etcd", error))?;
        let shared = Arc::new(Shared {
            keys: Keys::new(&options.prefix),
            pool: Pool::new(options),
            known: Mutex::default(),
            leases: Leases::default(),
            changes: watch::Sender::new(0),
        });
        let placement = Self {
            shared: shared.clone(),
            runtime: Some(runtime),
        };
        let watched = placement.run(|shared| async move {
            let seen = shared.check_format().await?;
            watching::begin(&shared, Some(seen + 1)).await
        });
        let watched = watched.await?;
        placement.spawn(watching::keep(shared, watched));
        Ok(placement)
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<tokio::task::JoinHandle<T>> {
        let runtime = self.runtime.as_ref();
        runtime.map(|runtime| runtime.spawn(work))
    }

    /// Runs `work` in its own runtime, whole also when the future is dropped after it was polled.
    fn run<T, F>(
        &self,
        work: impl FnOnce(Arc<Shared>) -> F + Send + 'static,
    ) -> BoxFuture<'_, Result<T, PlacementError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PlacementError>> + Send + 'static,
    {
        Box::pin(async move {
            match self.spawn(work(self.shared.clone())) {
                Some(running) => running.await.unwrap_or(Err(PlacementError::Closed)),
                None => Err(PlacementError::Closed),
            }
        })
    }
}

impl Drop for EtcdPlacement {
    fn drop(&mut self) {
        // Not waited for: this may be dropped inside of a runtime, where waiting is a panic.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for EtcdPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdPlacement")
            .field("options", self.shared.pool.options())
            .finish_non_exhaustive()
    }
}

impl Placement for EtcdPlacement {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        self.run(|shared| async move { shared.cluster().await })
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        self.run(move |shared| async move { shared.create_cluster(info).await })
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        self.run(move |shared| async move { shared.read(shard).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        self.run(|shared| async move { shared.list().await })
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        self.run(move |shared| async move { shared.swap(expected, record).await })
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.run(move |shared| async move { shared.remove(shard, expected).await })
    }

    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        self.run(|shared| async move { shared.members().await })
    }

    /// As [`Placement::announce`] says, but in etcd's whole seconds, of which it gives two at least.
    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.run(move |shared| async move { shared.announce(node, info, alive_for).await })
    }

    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.run(move |shared| async move { shared.set_goal(node, goal).await })
    }

    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.run(move |shared| async move { shared.remove_member(node).await })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

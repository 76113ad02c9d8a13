//! The engine as a user holds it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::runtime::Runtime;
use watershed_migration::NodeId;
use watershed_wal::{LogStatus, ShardId};

use crate::backend::Backend;
use crate::link::{LocalLink, Service};
use crate::migrate::{Migrate, Migration};
use crate::node::Node;
use crate::options::EngineOptions;
use crate::placement::{NodeInfo, Placement};
use crate::request::{Read, Write};
use crate::scan::{Scan, Snapshot};
use crate::status::{self, EngineStatus};
use crate::store::{ScanOptions, Version};
use crate::sync::lock;
use crate::{Batch, Error};

/// Threads for migrations, requests of other nodes and timers; writes and reads of this process do not go through them.
const RUNTIME_THREADS: usize = 2;

/// A storage engine: many shards in one directory, each a log and a store.
///
/// Clones are handles on the same engine. Any engine serves any shard of its cluster: what it does not own it asks the
/// owner for, where it has a link. The last handle dropped closes it; [`Engine::close`] does so and tells of errors.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    id: NodeId,
    open: Mutex<Option<Open>>,
    local: Option<LocalLink>,
}

struct Open {
    node: Node,
    service: Arc<dyn Service>,
    runtime: Runtime,
}

impl Engine {
    /// Options to open an engine with.
    #[must_use]
    pub fn options() -> EngineOptions {
        EngineOptions::default()
    }

    /// Opens the engine in `dir` with default options, making the directory where there is none.
    ///
    /// # Errors
    /// As [`EngineOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().open(dir)
    }

    pub(crate) fn open_with(options: EngineOptions, dir: &Path) -> Result<Self, Error> {
        let id = options.node_id()?;
        let local = options.local.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("ws-run")
            .enable_time()
            .build()
            .map_err(|error| Error::io("start threads for", dir, error))?;
        let opened = apart(|| runtime.block_on(Node::open(options, dir)));
        let node = match opened {
            Ok(node) => node,
            Err(error) => {
                apart(|| drop(runtime));
                return Err(error);
            }
        };
        let service: Arc<dyn Service> = Arc::new(node.clone());
        if let Some(local) = &local {
            local.register(id.clone(), &service);
        }
        Ok(Self(Arc::new(Inner {
            id,
            open: Mutex::new(Some(Open {
                node,
                service,
                runtime,
            })),
            local,
        })))
    }

    pub(crate) fn node(&self) -> Result<Node, Error> {
        let open = lock(&self.0.open);
        open.as_ref()
            .map(|open| open.node.clone())
            .ok_or(Error::Closed)
    }

    fn backend(&self) -> Result<Backend, Error> {
        self.node().map(Backend::from)
    }

    /// The node's name.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        &self.0.id
    }

    /// What answers other nodes' requests: for a link of your own.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn service(&self) -> Result<Arc<dyn Service>, Error> {
        let open = lock(&self.0.open);
        open.as_ref()
            .map(|open| open.service.clone())
            .ok_or(Error::Closed)
    }

    /// The map of owners that this engine keeps in its own directory: to be served to other nodes. `None` where it was
    /// opened with another one.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn own_placement(&self) -> Result<Option<Arc<dyn Placement>>, Error> {
        let own = self.node()?.own_placement.clone();
        Ok(own.map(|own| own as Arc<dyn Placement>))
    }

    /// Sets `key` to `value`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
        Write::put(self.backend(), key.as_ref(), value.as_ref())
    }

    /// Removes `key`; removing an absent key is no error.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Write {
        Write::delete(self.backend(), key.as_ref())
    }

    /// Writes a batch of keys of one shard, atomically.
    pub fn write(&self, batch: Batch) -> Write {
        Write::batch(self.backend(), batch)
    }

    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Read<Option<Bytes>> {
        Read::value(self.backend(), key.as_ref())
    }

    /// The value of `key` with its version.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Read<Option<(Bytes, Version)>> {
        Read::versioned(self.backend(), key.as_ref())
    }

    /// The values of several keys of any shards, in the keys' order. Each shard is read at one moment, not all at the
    /// same.
    pub fn multi_get(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Read<Vec<Option<(Bytes, Version)>>> {
        Read::several(self.backend(), keys)
    }

    /// The entries of all shards in key order. Each shard owned here is seen at one Seq, those of other nodes page by
    /// page.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan::of_all(self.backend(), options)
    }

    /// One shard, for requests that name it. Those of a shard that does not exist give [`Error::NoShard`].
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Shard {
        Shard {
            engine: self.clone(),
            shard,
        }
    }

    /// The shard that `key` belongs to.
    ///
    /// # Panics
    /// Never: a closed engine answers for one shard.
    #[must_use]
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> ShardId {
        let shards = self.node().map_or(1, |node| node.shards);
        crate::shard_of::shard_of(crate::shard_of::hash(key.as_ref()), shards)
    }

    /// The shards that this node owns now, in order.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        let Ok(node) = self.node() else {
            return Vec::new();
        };
        let all = node.hosted_all();
        all.iter()
            .filter(|hosted| hosted.is_owner())
            .map(|hosted| hosted.shard)
            .collect()
    }

    /// Makes an empty shard of this number, owned by this node. Keys do not go to it by hash unless it is one of the
    /// cluster's.
    ///
    /// # Errors
    /// [`Error::ShardExists`], and what the log, the store or the placement say.
    pub fn create_shard(&self, shard: ShardId) -> Result<Shard, Error> {
        let node = self.node()?;
        apart(|| node.runtime.block_on(node.create_shard(shard)))?;
        Ok(self.shard(shard))
    }

    /// Deletes a shard that this node owns, with all its data; gives the bytes freed.
    ///
    /// # Errors
    /// [`Error::NoShard`], [`Error::Moved`], and [`Error::ShardBusy`] while it is moved or an old copy of it is kept.
    pub fn drop_shard(&self, shard: ShardId) -> Result<u64, Error> {
        let node = self.node()?;
        apart(|| node.runtime.block_on(node.drop_shard(shard)))
    }

    /// Announces this node in the placement, so that other nodes find it, and that they take over the migrations that it
    /// drives when it dies; learns where the others are. It stays announced until it closes; joining again replaces what
    /// was announced. An engine by itself, or of a [`LocalCluster`](crate::LocalCluster), need not join.
    ///
    /// # Errors
    /// [`Error::Options`] for an address that is not HOST:PORT and for a weight of 0, and what the placement says.
    pub fn join(&self, info: NodeInfo) -> Result<(), Error> {
        let node = self.node()?;
        apart(|| node.runtime.block_on(node.join(info)))
    }

    /// A migration of `shard`, to be given a target and started.
    pub fn migrate(&self, shard: ShardId) -> Migrate {
        Migrate::new(self.node(), shard)
    }

    /// The migrations that this node drives, or has driven lately.
    #[must_use]
    pub fn migrations(&self) -> Vec<Migration> {
        self.node()
            .map(|node| node.migrations.list())
            .unwrap_or_default()
    }

    /// Puts what is in memory into SSTs, so that the next opening has nothing to replay.
    ///
    /// # Errors
    /// What RocksDB said first; the other shards are flushed all the same.
    pub fn flush(&self) -> Result<(), Error> {
        let node = self.node()?;
        let mut result = Ok(());
        for hosted in node.hosted_all() {
            let Ok(store) = hosted.store() else { continue };
            match store.flush() {
                Ok(flushed) => hosted.log.set_flushed(flushed),
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }

    /// The shards, the log and the migrations now.
    ///
    /// # Errors
    /// [`Error::Closed`]. What RocksDB says against a shard is in its [`crate::ShardStatus::store_error`].
    pub fn status(&self) -> Result<EngineStatus, Error> {
        Ok(status::of_node(&self.node()?))
    }

    /// The log alone: what [`Engine::status`] asks all stores for is left out.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn log_status(&self) -> Result<LogStatus, Error> {
        Ok(self.node()?.log.status())
    }

    /// Closes the engine: waits for what was taken, joins its threads, frees the directory's lock. Later requests, of
    /// other handles too, get [`Error::Closed`]. Closing twice is no error.
    ///
    /// # Errors
    /// What the log or a store could not finish; the engine is closed all the same.
    pub fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

impl Inner {
    fn close(&self) -> Result<(), Error> {
        let Some(open) = lock(&self.open).take() else {
            return Ok(());
        };
        if let Some(local) = &self.local {
            local.unregister(&self.id, &open.service);
        }
        apart(move || {
            let Open {
                node,
                service,
                runtime,
            } = open;
            let closed = runtime.block_on(node.close());
            node.retire_requests();
            drop(service);
            // Joins its threads.
            drop(runtime);
            node.release();
            closed
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(node = %self.id, %error, "closing the engine");
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("node", &self.0.id)
            .finish_non_exhaustive()
    }
}

/// Runs `work` on a thread of its own and waits for it: a runtime can neither block nor end inside of another, and
/// callers may be in one.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// One shard: the same requests, pinned to it whatever the keys' hashes say.
#[derive(Debug, Clone)]
pub struct Shard {
    engine: Engine,
    shard: ShardId,
}

impl Shard {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.shard
    }

    /// Sets `key` to `value`.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
        self.engine.put(key, value).shard(self.shard)
    }

    /// Removes `key`.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Write {
        self.engine.delete(key).shard(self.shard)
    }

    /// Writes a batch, atomically.
    pub fn write(&self, batch: Batch) -> Write {
        self.engine.write(batch).shard(self.shard)
    }

    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Read<Option<Bytes>> {
        self.engine.get(key).shard(self.shard)
    }

    /// The value of `key` with its version.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Read<Option<(Bytes, Version)>> {
        self.engine.get_versioned(key).shard(self.shard)
    }

    /// The values of several keys, all at one moment.
    pub fn multi_get(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Read<Vec<Option<(Bytes, Version)>>> {
        self.engine.multi_get(keys).shard(self.shard)
    }

    /// A consistent view of the shard at one Seq, if this node owns it.
    ///
    /// # Errors
    /// [`Error::Moved`] where another node owns it.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::take(&self.engine.node()?, self.shard)
    }

    /// The shard's entries in key order.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan::of_one(self.engine.backend(), self.shard, options)
    }
}

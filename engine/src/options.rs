//! How an engine is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use watershed_migration::machine::Progress;
use watershed_migration::{MigrationConfig, NodeId};
use watershed_wal::{LogOptions, Storage};

use crate::Error;
use crate::cluster::LocalCluster;
use crate::engine::Engine;
use crate::link::{Link, LocalLink};
use crate::migrate::NodeObserver;
use crate::placement::Placement;
use crate::readonly::ReadOnly;
use crate::store::StoreLimits;

/// How many shards a cluster has unless it is made with another number.
pub const DEFAULT_SHARDS: u64 = 16;

/// What an engine is opened with; made by [`Engine::options`].
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub(crate) node: String,
    pub(crate) shards: Option<u64>,
    pub(crate) placement: Option<Arc<dyn Placement>>,
    pub(crate) link: Option<Arc<dyn Link>>,
    pub(crate) local: Option<LocalLink>,
    pub(crate) log: LogOptions,
    /// Where the log's files are, if not in the directory.
    pub(crate) log_storage: Option<Arc<dyn Storage>>,
    pub(crate) store: StoreLimits,
    pub(crate) migrations_at_once: usize,
    pub(crate) migration_defaults: MigrationConfig,
    pub(crate) migration_observer: Option<NodeObserver>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            node: "local".into(),
            shards: None,
            placement: None,
            link: None,
            local: None,
            log: LogOptions::default(),
            log_storage: None,
            store: StoreLimits::default(),
            migrations_at_once: 4,
            migration_defaults: MigrationConfig::default(),
            migration_observer: None,
        }
    }
}

impl EngineOptions {
    /// The node's name in its cluster: 1 to 64 letters, digits, `.`, `_`, `-`. Default `local`.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.node = name.into();
        self
    }

    /// How many shards the keys are spread over: decided when the cluster is made, for ever. Default
    /// [`DEFAULT_SHARDS`]; for a cluster that exists it must be its number.
    #[must_use]
    pub fn shards(mut self, count: u64) -> Self {
        self.shards = Some(count);
        self
    }

    /// Joins the engines of this process.
    #[must_use]
    pub fn cluster(mut self, cluster: &LocalCluster) -> Self {
        self.placement = Some(cluster.placement());
        self.link = Some(cluster.link());
        self.local = Some(cluster.local());
        self
    }

    /// Where the map of owners is kept. Default: a file in the engine's directory, for an engine by itself.
    #[must_use]
    pub fn placement(mut self, placement: Arc<dyn Placement>) -> Self {
        self.placement = Some(placement);
        self
    }

    /// The way to other nodes. Default: none. What other nodes send is given to [`Engine::service`].
    #[must_use]
    pub fn link(mut self, link: Arc<dyn Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// The most bytes of log kept; shards that pin it are flushed. Default 1 GiB.
    #[must_use]
    pub fn log_limit_bytes(mut self, bytes: u64) -> Self {
        self.log.limit_bytes = bytes;
        self
    }

    /// The size of a log segment. Default 16 MiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u32) -> Self {
        self.log.segment_bytes = bytes;
        self
    }

    /// How long a [`Durability::Buffered`](crate::Durability) write may stay unsynced. Default 200 ms.
    #[must_use]
    pub fn buffered_sync_every(mut self, time: Duration) -> Self {
        self.log.buffered_sync_every = time;
        self
    }

    /// Memory for blocks read from disk, of all shards together. Default 128 MiB.
    #[must_use]
    pub fn block_cache_bytes(mut self, bytes: usize) -> Self {
        self.store.block_cache_bytes = bytes;
        self
    }

    /// Memory for writes not yet in SSTs, of all shards together. Default 256 MiB.
    #[must_use]
    pub fn write_buffer_bytes(mut self, bytes: usize) -> Self {
        self.store.write_buffer_bytes = bytes;
        self
    }

    /// What flushes and compactions may write, bytes a second. Default: no limit.
    #[must_use]
    pub fn background_bytes_per_second(mut self, bytes: u64) -> Self {
        self.store.background_bytes_per_second = Some(bytes);
        self
    }

    /// How many migrations this node drives at once; more wait. Default 4.
    #[must_use]
    pub fn migrations_at_once(mut self, count: usize) -> Self {
        self.migrations_at_once = count;
        self
    }

    /// How migrations that are started here are done, unless they are told otherwise. Each start checks it.
    #[must_use]
    pub fn migration_defaults(mut self, config: MigrationConfig) -> Self {
        self.migration_defaults = config;
        self
    }

    /// Called with the progress of each migration that this node drives and that has no observer of its own, also of
    /// those that it goes on with or takes over; as [`Migrate::observer`](crate::Migrate::observer).
    #[must_use]
    pub fn migration_observer(mut self, observer: Arc<dyn Fn(&Progress) + Send + Sync>) -> Self {
        self.migration_observer = Some(NodeObserver(observer));
        self
    }

    /// Opens the engine in `dir`, making the directory where there is none.
    ///
    /// # Errors
    /// When the directory is locked, foreign, damaged or of a newer format, and when the options contradict it: each
    /// error says what to do. Nothing was changed then, but what recovery does by itself.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Engine, Error> {
        Engine::open_with(self, dir.as_ref())
    }

    /// Opens what is in `dir` for reading only, also while an engine runs there: nothing is locked or written.
    ///
    /// # Errors
    /// As [`EngineOptions::open`], but for the lock.
    pub fn open_read_only(self, dir: impl AsRef<Path>) -> Result<ReadOnly, Error> {
        ReadOnly::open(&self.store, dir.as_ref())
    }

    pub(crate) fn node_id(&self) -> Result<NodeId, Error> {
        self.node
            .parse()
            .map_err(|error: watershed_migration::InvalidNodeId| Error::Options {
                what: error.to_string(),
            })
    }
}

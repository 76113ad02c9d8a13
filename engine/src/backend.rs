//! Whom requests are made of: an engine of this process, or a cluster over the network.

use std::sync::RwLock;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::Instant;
use watershed_migration::messages::ScanRequest;
use watershed_wal::{Inline, ShardId};

use crate::Error;
#[cfg(feature = "net")]
use crate::client::Remote;
use crate::node::Node;
use crate::shard::WriteRequest;
use crate::store::{Entry, Version};

/// What carries requests out.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Node(Node),
    #[cfg(feature = "net")]
    Remote(Remote),
}

impl Backend {
    /// How many shards the keys are spread over.
    pub(crate) fn shards(&self) -> u64 {
        match self {
            Self::Node(node) => node.shards,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.shards(),
        }
    }

    /// Whether every request is a call over the network.
    pub(crate) const fn is_remote(&self) -> bool {
        match self {
            Self::Node(_) => false,
            #[cfg(feature = "net")]
            Self::Remote(_) => true,
        }
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> ShardId {
        crate::shard_of::shard_of(crate::shard_of::hash(key), self.shards())
    }

    /// Where its timers and connections live.
    pub(crate) fn runtime(&self) -> &Handle {
        match self {
            Self::Node(node) => &node.runtime,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.runtime(),
        }
    }

    /// How many requests of this process are under way.
    pub(crate) fn requests(&self) -> &AtomicU64 {
        match self {
            Self::Node(node) => &node.requests,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.requests(),
        }
    }

    /// Whether the runtime's timers may be used; see [`crate::request::Entered`].
    pub(crate) fn alive(&self) -> &RwLock<bool> {
        match self {
            Self::Node(node) => &node.alive,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.alive(),
        }
    }

    /// Writes to a shard, wherever it is.
    pub(crate) async fn write(
        &self,
        shard: ShardId,
        request: &WriteRequest,
        inline: Inline,
    ) -> Result<Version, Error> {
        match self {
            Self::Node(node) => node.write(shard, request, inline).await,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.write(shard, request).await,
        }
    }

    /// Reads keys of one shard, wherever it is.
    pub(crate) async fn get(
        &self,
        shard: ShardId,
        keys: Vec<Bytes>,
        deadline: Option<Instant>,
        on_this_thread: bool,
    ) -> Result<Vec<Option<(Bytes, Version)>>, Error> {
        match self {
            Self::Node(node) => node.get(shard, keys, deadline, on_this_thread).await,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.get(shard, keys, deadline).await,
        }
    }

    /// One page of a scan of a shard that is owned elsewhere.
    pub(crate) async fn remote_page(
        &self,
        shard: ShardId,
        scan: ScanRequest,
    ) -> Result<(Vec<Entry>, bool), Error> {
        match self {
            Self::Node(node) => node.remote_page(shard, scan).await,
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.page(shard, scan).await,
        }
    }

    /// All shards, in order.
    pub(crate) async fn all_shards(&self) -> Result<Vec<ShardId>, Error> {
        match self {
            Self::Node(node) => {
                let records = node.placement.list().await?;
                Ok(records.iter().map(|record| record.shard).collect())
            }
            #[cfg(feature = "net")]
            Self::Remote(remote) => remote.all_shards().await,
        }
    }
}

impl From<Node> for Backend {
    fn from(node: Node) -> Self {
        Self::Node(node)
    }
}

//! What an engine says about itself.

use std::fmt;
use std::sync::atomic::Ordering;

use serde::Serialize;
use watershed_migration::NodeId;
use watershed_migration::machine::Progress;
use watershed_wal::{Epoch, HoldInfo, InstanceId, LogStatus, Seq, ShardId, Term};

use crate::migrate::MigrationCounts;
use crate::node::Node;
use crate::shard::{Hosted, Role};
use crate::store::{Store, StoreError};

/// An engine's shards, log and migrations at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EngineStatus {
    /// The node's name.
    pub node: NodeId,
    /// The log.
    pub log: LogStatus,
    /// Memory that the stores' block cache uses, in bytes.
    pub cache_bytes: u64,
    /// Memory that the stores' memtables use, in bytes.
    pub memtable_bytes: u64,
    /// The copies of shards that are here, by number.
    pub shards: Vec<ShardStatus>,
    /// The migrations that this node drives or has driven lately.
    pub migrations: Vec<Progress>,
    /// What was counted of migrations since the engine was opened.
    pub migration_counts: MigrationCounts,
    /// Requests of other nodes that were refused since they came with an epoch of before.
    pub stale_epochs: u64,
}

/// What a copy is to its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ShardRole {
    /// It owns the shard.
    Owner,
    /// It is being made from another node's.
    Receiver,
    /// It gave the shard away and waits for Cleanup.
    Frozen,
    /// Its store is out of service.
    Failed,
}

impl fmt::Display for ShardRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Owner => "owner",
            Self::Receiver => "receiver",
            Self::Frozen => "frozen",
            Self::Failed => "failed",
        })
    }
}

/// One copy of a shard.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// This hosting of it.
    pub instance: InstanceId,
    /// What it is to the shard.
    pub role: ShardRole,
    /// The epoch of its last term.
    pub epoch: Epoch,
    /// Its last term, `None` before the first record.
    pub term: Option<Term>,
    /// The last Seq handed out, or received.
    pub assigned: Seq,
    /// Everything up to it survives power loss.
    pub durable: Seq,
    /// Everything up to it is visible.
    pub applied: Seq,
    /// Everything up to it is in SSTs.
    pub flushed: Seq,
    /// About how many keys it has, deleted ones included.
    pub keys_estimate: u64,
    /// Bytes of its SSTs and memtables.
    pub bytes: u64,
    /// What keeps its log.
    pub holds: Vec<HoldInfo>,
    /// What RocksDB failed with last, until the store was opened again.
    pub store_error: Option<String>,
    /// Requests that wait for it to re-open.
    pub parked: u64,
    /// How long the first of them has waited, in milliseconds; 0 where none does.
    pub parked_longest_ms: u64,
    /// Writes acknowledged by this copy since the engine was opened.
    pub writes: u64,
}

pub(crate) fn of_node(node: &Node) -> EngineStatus {
    let hosted = node.hosted_all();
    let shards = hosted.iter().filter_map(|hosted| of_hosted(hosted));
    let (cache, memtables) = node.env.memory_bytes();
    EngineStatus {
        node: node.id.clone(),
        cache_bytes: u64::try_from(cache).unwrap_or(u64::MAX),
        memtable_bytes: u64::try_from(memtables).unwrap_or(u64::MAX),
        log: node.log.status(),
        shards: shards.collect(),
        migrations: node
            .migrations
            .list()
            .iter()
            .map(|migration| migration.progress())
            .collect(),
        migration_counts: node.migrations.counts().read(),
        stale_epochs: node.stale_epochs.load(Ordering::Relaxed),
    }
}

fn of_hosted(hosted: &Hosted) -> Option<ShardStatus> {
    let role = match hosted.role() {
        Role::Owner { .. } => ShardRole::Owner,
        Role::Receiver => ShardRole::Receiver,
        Role::Frozen { .. } => ShardRole::Frozen,
        Role::Failed { .. } => ShardRole::Failed,
        Role::Closed => return None,
    };
    let marks = hosted.log.watermarks();
    let (parked, longest) = hosted.parked();
    let term = hosted.log.terms().last().map(|start| start.term);
    let mut status = ShardStatus {
        shard: hosted.shard,
        instance: hosted.instance,
        role,
        epoch: term.map(|term| term.epoch).unwrap_or_default(),
        term,
        assigned: marks.assigned,
        durable: marks.durable,
        applied: hosted.log.base(),
        flushed: hosted.log.flushed(),
        keys_estimate: 0,
        bytes: 0,
        holds: hosted.log.holds(),
        store_error: None,
        parked,
        parked_longest_ms: longest.map_or(0, |longest| {
            u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
        }),
        writes: hosted.writes(),
    };
    if let Ok(store) = hosted.store() {
        status.applied = hosted.visible();
        // One store that fails must not hide the others, nor why.
        status.store_error = match of_store(&store, &mut status) {
            Ok(()) => store.background_error(),
            Err(error) => Some(error.to_string()),
        };
    }
    if let Role::Failed { reason } = hosted.role() {
        status.store_error = Some(reason);
    }
    Some(status)
}

fn of_store(store: &Store, status: &mut ShardStatus) -> Result<(), StoreError> {
    status.flushed = store.flushed()?.seq;
    let stats = store.stats()?;
    status.keys_estimate = stats.keys_estimate;
    status.bytes = stats.sst_bytes + stats.memtable_bytes;
    Ok(())
}

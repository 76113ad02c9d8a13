//! Placement: the durable map from each shard to who owns it, changed only by compare-and-swap.
//!
//! Owns the trait [`Placement`], its errors, and the embedded implementation [`FilePlacement`]. What a record says and
//! which change of it is allowed is decided in `watershed-migration`; here a record is a value with a revision.
//!
//! The contract of an implementation:
//! 1. A swap takes effect only if the record's revision is still the expected one, and it is durable before anybody
//!    can read it.
//! 2. Revisions and epochs of a shard only grow, also across removing and creating it again, so that a stale swap never
//!    wins and no version names two writes.
//! 3. An error other than [`PlacementError::Conflict`] says nothing about whether the swap happened: read it back.
//!    An implementation that can't tell refuses to be read as well.

#[cfg(test)]
pub(crate) mod contract;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod journal;
mod lives;
mod map;
mod seen;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use watershed_migration::balance::Goal;
use watershed_migration::{HighestSeen, NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdPlacement, EtcdTls};
pub use file::FilePlacement;
pub(crate) use seen::{SeenBefore, Witness};

use crate::link::BoxFuture;

/// A member that asks for a longer time than this gets this: nobody means to be thought alive for longer without a word.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What was decided when the cluster was made, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// How many shards the keys are spread over.
    pub shards: u64,
}

/// What a node says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Where nodes and clients reach it, as HOST:PORT.
    pub address: String,
    /// Its part of the shards beside the other nodes' parts: one of weight 2 is to have twice as many as one of 1.
    pub weight: u32,
}

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it said last.
    pub info: NodeInfo,
    /// What an operator wants of it.
    pub goal: Option<Goal>,
    /// It was heard of within the time that it asked for; else it counts as dead, and others take over what it drove.
    pub alive: bool,
}

/// The map from shard to owner, and the nodes that there are.
pub trait Placement: fmt::Debug + Send + Sync + 'static {
    /// What the cluster was made with, `None` before it was made.
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>>;

    /// Makes the cluster, or gives what it was made with before: the first caller decides.
    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>>;

    /// A shard's record, `None` where the shard does not exist.
    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>>;

    /// All records, by shard.
    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>>;

    /// Replaces a shard's record if its revision is `expected` (`None`: if the shard has none). Gives the record as
    /// it is stored; revision and epoch of a shard that existed before are raised beyond what it had.
    ///
    /// A future dropped after it was polled leaves a swap that happens whole or not at all.
    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>>;

    /// Removes a shard's record if its revision is `expected`.
    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>>;

    /// The nodes that have joined, by name.
    ///
    /// Default: none. Without members nodes must be told of each other in another way, and only the node that began a
    /// migration goes on with it.
    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        Box::pin(async { Ok(BTreeMap::new()) })
    }

    /// A node joins, or says that it is still there: it counts as alive for `alive_for` from now, counted where the
    /// placement is. Zero: it is about to stop. What is wanted of it stays as it was.
    ///
    /// Renewing changes nothing durable; a changed [`NodeInfo`] is durable when this returns.
    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        let _ = (node, info, alive_for);
        Box::pin(async { Ok(()) })
    }

    /// Says what is wanted of a member, or takes that back; durable.
    ///
    /// # Errors
    /// [`PlacementError::NoMember`] where the node has not joined.
    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        let _ = goal;
        Box::pin(async { Err(PlacementError::NoMember { node }) })
    }

    /// Forgets a member that has left for good; no error where there is none.
    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        let _ = node;
        Box::pin(async { Ok(()) })
    }

    /// A counter that changes after every change of the map, and of the members: who they are, where, and whether they
    /// are alive.
    fn watch(&self) -> watch::Receiver<u64>;
}

/// Why the placement refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Somebody else changed the record. Nothing was changed by this call.
    #[error(
        "shard {shard}: the placement record is at {}, not as expected; read it and decide again",
        at(current)
    )]
    Conflict {
        /// The shard.
        shard: ShardId,
        /// Its record now.
        current: Option<Box<PlacementRecord>>,
    },
    /// The new record's revision does not go on from the expected one. Nothing was changed.
    #[error(
        "shard {shard}: a record of revision {offered} can't follow revision {expected}; make it by a transition of the record read"
    )]
    Revision {
        /// The shard.
        shard: ShardId,
        /// The revision expected in place.
        expected: Revision,
        /// The new record's.
        offered: Revision,
    },
    /// Another process, or another handle of this one, has the placement open.
    #[error("the placement in {} is open elsewhere; close it there, or share one handle between this process's engines", dir.display())]
    Locked {
        /// The placement's directory.
        dir: PathBuf,
    },
    /// The placement is older than this node has seen it: restored from a backup. To believe it would revive an old
    /// owner, and have newer copies deleted (rule 16).
    #[error(
        "the placement has {} for shard {shard}, but this node has seen {}: it went back in time; restore its newest copy, an older one would lose what was written since",
        show_seen(.found.as_ref()), show_seen(Some(seen))
    )]
    WentBack {
        /// The shard.
        shard: ShardId,
        /// What its record says now, `None` where it has none.
        found: Option<HighestSeen>,
        /// The highest that this node has seen.
        seen: HighestSeen,
    },
    /// A line that was promised durable is damaged.
    #[error("{} line {line}: {what}; who owns the shards can't be told from it, restore the file from a copy", file.display())]
    Damaged {
        /// The journal.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A newer version wrote the journal.
    #[error("{} has format {found}, this version reads up to {supported}; use a newer Watershed", file.display())]
    NewerFormat {
        /// The journal.
        file: PathBuf,
        /// The format found.
        found: u32,
        /// The newest this version reads.
        supported: u32,
    },
    /// A file operation failed before anything was changed.
    #[error("{op} {}: {source}; nothing was changed, free the cause and try again", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A write or sync failed and what is durable is not known, so that nothing is answered any more.
    #[error(
        "the placement failed ({reason}) and what is durable is not known; open it again after the cause is gone"
    )]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
    /// No such node has joined. Nothing was changed.
    #[error("node {node} is no member of this cluster; `watershed status` names its members")]
    NoMember {
        /// The node.
        node: NodeId,
    },
    /// A remote placement can't be reached, or gave no answer.
    #[error(
        "the placement can't be reached ({reason}); try again, and read before assuming that a swap failed"
    )]
    Unreachable {
        /// What was met.
        reason: String,
    },
    /// The options of a placement can't be meant. Nothing was done.
    #[error("{what}")]
    Options {
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The placement is closed.
    #[error("the placement is closed")]
    Closed,
}

impl PlacementError {
    fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            op,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

fn at(current: &Option<Box<PlacementRecord>>) -> String {
    match current {
        Some(record) => format!(
            "revision {} (owner {}, epoch {})",
            record.revision, record.owner, record.epoch
        ),
        None => "no record".into(),
    }
}

fn show_seen(seen: Option<&HighestSeen>) -> String {
    match seen {
        Some(HighestSeen { epoch, revision }) => format!("epoch {epoch} (revision {revision})"),
        None => "no record".into(),
    }
}

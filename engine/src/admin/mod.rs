//! A cluster as its operator holds it: what it is doing, and orders to its nodes.
//!
//! Each order goes to the node that carries it out: a migration begins at its target, and is steered at its driver. What
//! is wanted of whole nodes stands in the placement, where every node reads it (see `watershed_migration::balance`).
//!
//! ```text
//! words.rs     what is said      cluster.rs   what a cluster is doing, put together from what its nodes say
//! ```

mod cluster;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use watershed_migration::balance::{Goal, Move};
use watershed_migration::{MigrationConfig, MigrationId, NodeId, Phase, PlacementRecord};
use watershed_wal::ShardId;

pub use cluster::{ClusterStatus, CopyView, MoveStatus, NodeStatus, ShardMap};
pub use words::Wish;
pub(crate) use words::{Fault, Order, Report};

use crate::Error;
use crate::client::Remote;
use crate::engine::apart;
use crate::net::{ADMIN_DO, Security};
use crate::node::plan;
use crate::placement::Member;

/// How long an order may take. A deletion is the longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to tell of itself; one that does not is shown as such.
const REPORT_WITHIN: Duration = Duration::from_secs(5);

/// An operator's hold on a cluster. Its certificate is one of role `admin`.
pub struct Admin {
    remote: Remote,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// What has become of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It waits for its turn, or goes on.
    Waits,
    /// The shard has moved.
    Moved,
    /// It was given up, for this reason.
    GaveUp(String),
}

/// Why an order was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The node refused.
    #[error("{message}")]
    Refused {
        /// In a word, for programs.
        kind: String,
        /// Why.
        message: String,
    },
    /// No answer: it may or may not have been carried out.
    #[error(
        "node {node} gave no answer ({reason}); look at the cluster's status before ordering it again"
    )]
    NoAnswer {
        /// The node.
        node: NodeId,
        /// What was met.
        reason: String,
    },
    /// The cluster can't be reached, or it has no such shard or node.
    #[error(transparent)]
    Cluster(#[from] Error),
}

impl AdminError {
    fn refused(kind: &str, message: impl Into<String>) -> Self {
        Self::Refused {
            kind: kind.into(),
            message: message.into(),
        }
    }
}

impl Admin {
    /// Connects to the cluster of which some nodes are at these addresses (HOST:PORT).
    ///
    /// # Errors
    /// As [`Client::connect`](crate::Client::connect).
    pub fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        security: Security,
    ) -> Result<Self, Error> {
        let seeds: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let (remote, runtime) = Remote::start(seeds, security)?;
        Ok(Self {
            remote,
            runtime: Some(runtime),
        })
    }

    fn run<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        let runtime = self.remote.runtime();
        apart(|| runtime.block_on(work))
    }

    /// What the cluster is doing. Nodes that do not answer are shown so.
    ///
    /// # Errors
    /// When no node can read the placement.
    pub fn status(&self) -> Result<ClusterStatus, AdminError> {
        self.run(async {
            let records = self.any::<Vec<PlacementRecord>>(&Order::Records).await?;
            let members = self.members().await?;
            let mut asked = Vec::new();
            for node in members.keys() {
                let report = self.tell::<Report>(node, &Order::Report);
                asked.push((node.clone(), report));
            }
            let mut reports = BTreeMap::new();
            for (node, report) in asked {
                let report = tokio::time::timeout(REPORT_WITHIN, report).await;
                let report = match report {
                    Ok(report) => report.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {REPORT_WITHIN:?}")),
                };
                reports.insert(node, report);
            }
            Ok(cluster::put_together(&records, &members, reports))
        })
    }

    /// Why a shard does not move, or how it moves: sentences, the weightiest first.
    ///
    /// # Errors
    /// As [`Admin::status`], and [`Error::NoShard`].
    pub fn explain(&self, shard: ShardId) -> Result<Vec<String>, AdminError> {
        let status = self.status()?;
        let planned = self.planned(None)?;
        cluster::explain(&status, &planned, shard)
            .ok_or(AdminError::Cluster(Error::NoShard { shard }))
    }

    /// Moves a shard to a node, which drives the migration. Returns once it is under way, or waits for its turn.
    ///
    /// # Errors
    /// What the safety gate, the prechecks or the node say against it.
    pub fn migrate(
        &self,
        shard: ShardId,
        to: &NodeId,
        config: MigrationConfig,
    ) -> Result<MigrationId, AdminError> {
        self.migrate_by(to, shard, to, config)
    }

    /// As [`Admin::migrate`], driven by another node than the target: one that has no part in it, for example.
    ///
    /// # Errors
    /// As [`Admin::migrate`].
    pub fn migrate_by(
        &self,
        driver: &NodeId,
        shard: ShardId,
        to: &NodeId,
        config: MigrationConfig,
    ) -> Result<MigrationId, AdminError> {
        let to = to.clone();
        let order = Order::Migrate { shard, to, config };
        let begun = self.run(self.tell::<Begun>(driver, &order));
        begun.map(|begun| begun.migration)
    }

    /// What the placement says of a shard.
    ///
    /// # Errors
    /// As [`Admin::status`], and [`Error::NoShard`].
    pub fn placement_record(&self, shard: ShardId) -> Result<PlacementRecord, AdminError> {
        self.run(self.record(shard))
    }

    /// Steers the migration that a shard is in.
    ///
    /// # Errors
    /// When the shard is not being moved, or is beyond that wish.
    pub fn steer(&self, shard: ShardId, wish: Wish) -> Result<MigrationId, AdminError> {
        self.run(async {
            let record = self.record(shard).await?;
            let Some(migration) = record.active_migration() else {
                let what = format!("shard {shard} is not being moved");
                return Err(AdminError::refused("not-moving", what));
            };
            let order = Order::Steer { shard, wish };
            let told = self.tell::<Begun>(&migration.driver, &order).await;
            told.map(|begun| begun.migration)
        })
    }

    /// What has become of a migration to `target` that its shard's status shows no more, or not yet.
    ///
    /// # Errors
    /// As [`Admin::status`], and [`Error::NoShard`].
    pub fn outcome(
        &self,
        shard: ShardId,
        migration: MigrationId,
        target: &NodeId,
    ) -> Result<Outcome, AdminError> {
        let record = self.run(self.record(shard))?;
        Ok(match record.migration.filter(|last| last.id == migration) {
            Some(last) if last.phase == Phase::Aborted => {
                Outcome::GaveUp(last.reason.unwrap_or_else(|| "no reason was kept".into()))
            }
            Some(last) if !last.phase.before_activate() => Outcome::Moved,
            // It has not begun, and never will where its driver has given it up.
            _ => match self.run(self.tell::<Report>(target, &Order::Report)) {
                Ok(mut report) => match report.failed.remove(&migration) {
                    Some(reason) => Outcome::GaveUp(reason),
                    None => Outcome::Waits,
                },
                Err(_) => Outcome::Waits,
            },
        })
    }

    /// Makes an empty shard on a node.
    ///
    /// # Errors
    /// [`Error::ShardExists`] as a refusal, and what the node says.
    pub fn create_shard(&self, shard: ShardId, on: &NodeId) -> Result<(), AdminError> {
        self.run(self.tell::<Value>(on, &Order::Create { shard }))
            .map(drop)
    }

    /// Deletes a shard with its data; gives the bytes freed.
    ///
    /// # Errors
    /// While it is moved or an old copy of it is kept, and what the node says.
    pub fn drop_shard(&self, shard: ShardId) -> Result<u64, AdminError> {
        self.run(async {
            let record = self.record(shard).await?;
            let order = Order::Drop { shard };
            let dropped = self.tell::<Dropped>(&record.owner, &order).await?;
            Ok(dropped.freed_bytes)
        })
    }

    /// Says what is wanted of a node, or takes that back. The nodes see to it by themselves from then on.
    ///
    /// # Errors
    /// When the node is no member, and what the placement says.
    pub fn set_goal(&self, node: &NodeId, goal: Option<Goal>) -> Result<(), AdminError> {
        let node = node.clone();
        self.run(self.any::<Value>(&Order::Goal { node, goal }))
            .map(drop)
    }

    /// Forgets a node that has left for good.
    ///
    /// # Errors
    /// While it owns a shard, keeps a copy, or has a part in a migration.
    pub fn forget(&self, node: &NodeId) -> Result<(), AdminError> {
        let node = node.clone();
        self.run(self.any::<Value>(&Order::Forget { node }))
            .map(drop)
    }

    /// The moves that the goals ask for that stand in the placement, and this one beside them.
    ///
    /// # Errors
    /// When no node can read the placement, and when the node is no member.
    pub fn planned(&self, also: Option<(&NodeId, Goal)>) -> Result<Vec<Move>, AdminError> {
        self.run(async {
            let records = self.any::<Vec<PlacementRecord>>(&Order::Records).await?;
            let mut members = self.members().await?;
            if let Some((node, goal)) = also {
                let Some(member) = members.get_mut(node) else {
                    let what = format!("node {node} is no member of this cluster");
                    return Err(AdminError::refused("no-member", what));
                };
                member.goal = Some(goal);
            }
            Ok(plan(&members, &records))
        })
    }

    async fn members(&self) -> Result<BTreeMap<NodeId, Member>, AdminError> {
        self.any(&Order::Members).await
    }

    async fn record(&self, shard: ShardId) -> Result<PlacementRecord, AdminError> {
        let records = self.any::<Vec<PlacementRecord>>(&Order::Records).await?;
        let found = records.into_iter().find(|record| record.shard == shard);
        found.ok_or(AdminError::Cluster(Error::NoShard { shard }))
    }

    /// Gives an order that any node may carry out.
    async fn any<T: DeserializeOwned>(&self, order: &Order) -> Result<T, AdminError> {
        let nodes = self.remote.nodes();
        let mut last = None;
        for node in nodes {
            let told = tokio::time::timeout(REPORT_WITHIN, self.tell(&node, order)).await;
            match told {
                Ok(Err(error @ AdminError::NoAnswer { .. })) => last = Some(error),
                Ok(told) => return told,
                Err(_) => {
                    let reason = format!("no answer within {REPORT_WITHIN:?}");
                    last = Some(AdminError::NoAnswer { node, reason });
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            let reason = "no node has joined".into();
            AdminError::Cluster(Error::Unreachable { reason })
        }))
    }

    async fn tell<T: DeserializeOwned>(
        &self,
        node: &NodeId,
        order: &Order,
    ) -> Result<T, AdminError> {
        let no_answer = |reason: String| AdminError::NoAnswer {
            node: node.clone(),
            reason,
        };
        let document = Bytes::from(json!(order).to_string());
        let asked = self.remote.link().ask(node, ADMIN_DO, document);
        let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
        let answer = answer
            .map_err(|_| no_answer(format!("none within {ANSWER_WITHIN:?}")))?
            .map_err(|error| no_answer(error.to_string()))?;
        let answer: Answer<T> =
            serde_json::from_slice(&answer).map_err(|error| no_answer(error.to_string()))?;
        match answer {
            Answer::Done(done) => Ok(done),
            Answer::Fault(Fault { kind, message }) => Err(AdminError::Refused { kind, message }),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer<T> {
    Done(T),
    Fault(Fault),
}

#[derive(serde::Deserialize)]
struct Begun {
    migration: MigrationId,
}

#[derive(serde::Deserialize)]
struct Dropped {
    freed_bytes: u64,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.remote.retire();
        let runtime = self.runtime.take();
        apart(|| drop(runtime));
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admin").field(&self.remote).finish()
    }
}

//! The placement record of a shard: who owns it, and the migration it is in.
//!
//! The placement is a durable map of shard to record, changed by compare-and-swap on the record's revision. This
//! module owns the record; how it may change is [`transitions`](crate::transitions); storing and swapping it is
//! the caller's. Nothing is decided by a swap that got no reply, only by the record read back.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use watershed_wal::{Epoch, InstanceId, Seq, ShardId};

use crate::certificate::Certificate;
use crate::config::MigrationConfig;
use crate::evidence::{SourceMarks, TargetMarks};
use crate::gate::{Refusal, SafeConfig};
use crate::words::{Attempt, DriverTerm, MigrationId, NodeId, Phase, Revision};

/// Who owns a shard, as every node must see it.
///
/// Rules, kept by every transition and checked by [`PlacementRecord::validate`]: (1) the owner is no follower;
/// (2) a migration before Activate has the owner as its source, by node and instance, and no frozen copy;
/// (3) from Activate to Cleanup the owner is the target, and the source is the frozen copy; (4) a final
/// migration has no frozen copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRecord {
    /// The shard.
    pub shard: ShardId,
    /// The term of ownership.
    pub epoch: Epoch,
    /// The owner.
    pub owner: NodeId,
    /// The owner's copy.
    pub instance: InstanceId,
    /// Nodes that keep a copy fed by the owner.
    pub followers: Vec<NodeId>,
    /// The migration under way, or the last one, which is final.
    pub migration: Option<MigrationRecord>,
    /// The old owner's copy, from Activate until its deletion.
    pub frozen: Option<Frozen>,
    /// This record's version: each swap adds one.
    pub revision: Revision,
}

/// A copy that was the owner's and takes no write any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Where it is.
    pub node: NodeId,
    /// Which copy.
    pub instance: InstanceId,
    /// It holds every write up to this Seq, and none after.
    pub f: Seq,
    /// The migration that froze it.
    pub migration: MigrationId,
    /// Its deletion is decided: it can't be promoted any more.
    pub retiring: bool,
    /// How much of the grace time is over, in milliseconds that a driver counted while it was up: a new driver
    /// goes on from here.
    #[serde(default)]
    pub grace_over_ms: u64,
}

/// The durable state of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its id.
    pub id: MigrationId,
    /// The last quiesce allowed; 0 before the first.
    pub attempt: Attempt,
    /// The node whose driver carries it out.
    pub driver: NodeId,
    /// Which driver: lower ones are refused everywhere.
    pub driver_term: DriverTerm,
    /// Where it is. Dual-write stands for stop-dual-write, drain and delta-pass too: no swap lies in the pause.
    pub phase: Phase,
    /// The node that owned the shard when it began.
    pub source: NodeId,
    /// The source's copy.
    pub source_instance: InstanceId,
    /// The node that is to own it.
    pub target: NodeId,
    /// The target's copy, once it is hosted.
    pub target_instance: Option<InstanceId>,
    /// Its options, as asked for; [`MigrationRecord::safe_config`] takes them through the gate.
    pub config: MigrationConfig,
    /// B of the checkpoint that the target opened.
    pub base: Option<Seq>,
    /// Who asked for it.
    pub started_by: String,
    /// Why it was aborted.
    pub reason: Option<String>,
    /// The marks that proved the activation.
    pub proof: Option<Box<Proof>>,
    /// The certificate, once the target serves.
    pub certificate: Option<Box<Certificate>>,
    /// An operator ended `hold`: cut over once caught up. Never taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cutover_asked: bool,
    /// An operator ended the grace time. Never taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleanup_asked: bool,
    /// It stands still until an operator resumes it. Before Activate nothing is copied or shipped and no quiesce begins;
    /// the source keeps its log, and forwards as before. In Cleanup nothing is compared or deleted, and the grace time
    /// does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// The marks that made an activation's evidence, kept so that a later driver can certify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The source's.
    pub source: SourceMarks,
    /// The target's.
    pub target: TargetMarks,
}

impl MigrationRecord {
    /// A migration about to begin, driven by `driver`.
    #[must_use]
    pub fn new(
        id: MigrationId,
        placement: &PlacementRecord,
        target: NodeId,
        driver: NodeId,
        config: &SafeConfig,
        started_by: impl Into<String>,
    ) -> Self {
        Self {
            id,
            attempt: Attempt(0),
            driver,
            driver_term: DriverTerm(1),
            phase: Phase::Plan,
            source: placement.owner.clone(),
            source_instance: placement.instance,
            target,
            target_instance: None,
            config: config.config().clone(),
            base: None,
            started_by: started_by.into(),
            reason: None,
            proof: None,
            certificate: None,
            cutover_asked: false,
            cleanup_asked: false,
            paused: false,
        }
    }

    /// Takes the stored options through the gate again, as whoever resumes the migration must.
    ///
    /// # Errors
    /// When the gate refuses them.
    pub fn safe_config(&self) -> Result<SafeConfig, Refusal> {
        SafeConfig::check(&self.config)
    }
}

impl PlacementRecord {
    /// The first record of a shard: epoch 1, revision 1.
    #[must_use]
    pub fn create(shard: ShardId, owner: NodeId, instance: InstanceId) -> Self {
        Self {
            shard,
            epoch: Epoch(1),
            owner,
            instance,
            followers: Vec::new(),
            migration: None,
            frozen: None,
            revision: Revision(1),
        }
    }

    /// The migration that is not over yet.
    #[must_use]
    pub fn active_migration(&self) -> Option<&MigrationRecord> {
        self.migration.as_ref().filter(|m| !m.phase.is_final())
    }

    /// Whether this copy on this node owns the shard.
    #[must_use]
    pub fn is_owned_by(&self, node: &NodeId, instance: InstanceId) -> bool {
        self.owner == *node && self.instance == instance
    }

    /// Checks the rules above, as tests and simulations do after every step.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn validate(&self) -> Result<(), BrokenRule> {
        let broken = |rule| Err(BrokenRule { rule });
        if self.followers.contains(&self.owner) {
            return broken("the owner is no follower");
        }
        let Some(m) = &self.migration else {
            return match self.frozen {
                Some(_) => broken("a frozen copy belongs to a migration"),
                None => Ok(()),
            };
        };
        if m.source == m.target {
            return broken("source and target are two nodes");
        }
        if m.phase.before_activate() {
            if !self.is_owned_by(&m.source, m.source_instance) {
                return broken("before Activate the source owns the shard");
            }
        } else if self.frozen.is_some() && Some(self.instance) != m.target_instance {
            return broken("from Activate on the target owns the shard");
        }
        let in_between = matches!(m.phase, Phase::Activate | Phase::Cleanup);
        match &self.frozen {
            Some(_) if !in_between => broken("only Activate and Cleanup have a frozen copy"),
            None if in_between => broken("Activate and Cleanup have a frozen copy"),
            Some(f) if f.instance != m.source_instance || f.migration != m.id => {
                broken("the frozen copy is the source's")
            }
            _ => Ok(()),
        }
    }
}

/// A rule of a record that does not hold: a bug, or a damaged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the placement record breaks its rule \"{rule}\": restore it from a good copy")]
pub struct BrokenRule {
    /// The rule.
    pub rule: &'static str,
}

/// The highest (epoch, revision) a node has seen of one shard: what it refuses to go back behind (rule 16).
///
/// The caller keeps it durably and hands it in again after a restart.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct HighestSeen {
    /// The epoch.
    pub epoch: Epoch,
    /// The revision.
    pub revision: Revision,
}

/// A record older than one seen before: the placement was restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the placement record is at epoch {found_epoch} revision {found_revision}, but epoch {seen_epoch} revision \
     {seen_revision} was seen before: the placement was set back; restore the newer one"
)]
pub struct WentBack {
    /// The record's epoch.
    pub found_epoch: Epoch,
    /// The record's revision.
    pub found_revision: Revision,
    /// The highest epoch seen.
    pub seen_epoch: Epoch,
    /// The highest revision seen.
    pub seen_revision: Revision,
}

impl HighestSeen {
    /// Takes note of a record; true where it is newer than what was seen, and must be kept durably.
    ///
    /// # Errors
    /// When the record is older in either number: it must not be believed.
    pub fn observe(&mut self, record: &PlacementRecord) -> Result<bool, WentBack> {
        let found = Self {
            epoch: record.epoch,
            revision: record.revision,
        };
        if found.epoch < self.epoch || found.revision < self.revision {
            return Err(WentBack {
                found_epoch: found.epoch,
                found_revision: found.revision,
                seen_epoch: self.epoch,
                seen_revision: self.revision,
            });
        }
        let newer = found != *self;
        *self = found;
        Ok(newer)
    }
}

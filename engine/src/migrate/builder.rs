//! Starting a migration: the gate first, then what can be told at once, then a driver.

use std::fmt;
use std::sync::Arc;

use watershed_migration::anti_entropy::migration_warning_if_ae_disabled;
use watershed_migration::machine::Progress;
use watershed_migration::{
    Attempt, MigrationConfig, MigrationCoordinator, MigrationId, NodeId, Phase, PlacementRecord,
    SafeConfig,
};
use watershed_wal::{InstanceId, ShardId};

use super::driver::{Begin, Driver, Job};
use super::handle::{Migration, Observer};
use super::last_move;
use super::plan::{self, MigrationPlan};
use crate::Error;
use crate::node::Node;

/// A migration to be started: name its target, then [`Migrate::start`].
#[must_use = "nothing happens before `start`"]
pub struct Migrate {
    node: Result<Node, Error>,
    shard: ShardId,
    target: Option<String>,
    config: MigrationConfig,
    observer: Option<Observer>,
    started_by: Option<String>,
}

impl Migrate {
    pub(crate) fn new(node: Result<Node, Error>, shard: ShardId) -> Self {
        let defaults = node.as_ref().ok().map(|node| node.migrations.defaults());
        let config = defaults.cloned().unwrap_or_default();
        Self {
            node,
            shard,
            target: None,
            config,
            observer: None,
            started_by: None,
        }
    }

    /// The node that is to own the shard.
    pub fn to(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// How it is to be done. Default: [`EngineOptions::migration_defaults`](crate::EngineOptions::migration_defaults).
    pub fn config(mut self, config: MigrationConfig) -> Self {
        self.config = config;
        self
    }

    /// Called with each progress, on a thread of its own; at a change of phase the driver waits for it before it does
    /// anything of the new phase.
    pub fn observer(mut self, observer: Arc<dyn Fn(&Progress) + Send + Sync>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Who asked for it, as the placement and the certificate are to say. Default: the node that drives it.
    pub fn started_by(mut self, who: impl Into<String>) -> Self {
        self.started_by = Some(who.into());
        self
    }

    /// What it would do and meet, with nothing changed anywhere: the gate and the prechecks of [`Migrate::start`]; source
    /// and target are asked for their versions, the shard's size and the room.
    ///
    /// # Errors
    /// As [`Migrate::start`]; [`Error::Remote`] where source or target can't be reached, [`Error::Options`] where the
    /// target has too little room.
    pub fn plan(self) -> Result<MigrationPlan, Error> {
        let Checked {
            node,
            record,
            target,
            config,
            ..
        } = pollster::block_on(self.check())?;
        let config = config.config().clone();
        let made = node
            .runtime
            .spawn(plan::make(node.clone(), record, target, config));
        pollster::block_on(made).unwrap_or(Err(Error::Closed))
    }

    /// Starts it. It waits for its turn when as many as may run do. Where the old copy of the shard's last move is
    /// still kept, that move's grace time ends now: the copies are compared and the old one is deleted first.
    ///
    /// # Errors
    /// [`Error::Refused`] by the safety gate, [`Error::Options`] without a target or with the owner as target,
    /// [`Error::NoShard`], [`Error::ShardBusy`] while the shard is moved. Nothing was changed then.
    pub fn start(self) -> Result<Migration, Error> {
        pollster::block_on(self.start_async())
    }

    /// As [`Migrate::start`], without blocking.
    ///
    /// # Errors
    /// As [`Migrate::start`].
    pub async fn start_async(mut self) -> Result<Migration, Error> {
        let shard = self.shard;
        let started_by = self.started_by.take();
        let Checked {
            node,
            record,
            target,
            config,
            observer,
        } = self.check().await?;
        if let Some(warning) = migration_warning_if_ae_disabled(config.config()) {
            tracing::warn!(%shard, "{warning}");
        }
        let id = MigrationId(InstanceId::random().0);
        let first = Progress {
            source: record.owner,
            target: target.clone(),
            ..waiting(id, shard, &node.id, config.config())
        };
        let job = Job::Begin(Box::new(Begin {
            id,
            shard,
            target,
            config,
            started_by: started_by.unwrap_or_else(|| node.id.to_string()),
        }));
        let started = node
            .migrations
            .add_driver(|at_once| Driver::start(&node, at_once, first, None, observer, job));
        started.ok_or(Error::Closed)
    }

    /// The gate, and what can be told at once.
    async fn check(self) -> Result<Checked, Error> {
        let config = MigrationCoordinator::new(self.config).validate_safety()?;
        let Some(target) = self.target else {
            let what = "a migration needs a target: name it with `to`".into();
            return Err(Error::Options { what });
        };
        let target: NodeId =
            target
                .parse()
                .map_err(|error: watershed_migration::InvalidNodeId| Error::Options {
                    what: error.to_string(),
                })?;
        let node = self.node?;
        let shard = self.shard;
        let record = node.placement.read(shard).await?;
        let record = record.ok_or(Error::NoShard { shard })?;
        if record.active_migration().is_some() && last_move::in_cleanup(&record).is_none() {
            return Err(Error::ShardBusy { shard });
        }
        if record.owner == target {
            let what = format!("shard {shard} is on node {target} already: name another target");
            return Err(Error::Options { what });
        }
        Ok(Checked {
            node,
            record,
            target,
            config,
            observer: self.observer,
        })
    }
}

/// A migration that may be started, as far as can be told here.
struct Checked {
    node: Node,
    record: PlacementRecord,
    target: NodeId,
    config: SafeConfig,
    observer: Option<Observer>,
}

/// The progress of a migration whose turn has not come.
pub(super) fn waiting(
    id: MigrationId,
    shard: ShardId,
    node: &NodeId,
    config: &MigrationConfig,
) -> Progress {
    Progress {
        migration: id,
        shard,
        source: node.clone(),
        target: node.clone(),
        phase: Phase::Plan,
        attempt: Attempt(0),
        copied_bytes: 0,
        total_bytes: 0,
        lag: 0,
        holes_filled: 0,
        delta_records: 0,
        pause_us: None,
        re_opens: 0,
        phase_ms: std::collections::BTreeMap::new(),
        paused: false,
        cutover: false,
        rate_bytes_per_s: config.rate_bytes_per_s,
        pause_max_ms: config.pause_max_ms,
        trouble: None,
    }
}

impl fmt::Debug for Migrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrate")
            .field("shard", &self.shard)
            .field("target", &self.target)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

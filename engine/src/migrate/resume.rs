//! After a start: what was under way goes on, what ended meanwhile is cleaned up.
//!
//! The placement record decides each time. Targets are taken up before drivers, so that no driver of this node meets a
//! target of this node that has forgotten itself.

use std::collections::HashSet;

use watershed_migration::machine::Progress;
use watershed_migration::{MigrationId, PlacementRecord};

use super::builder::waiting;
use super::checkpoint;
use super::driver::{Driver, Job};
use super::handle::Migration;
use super::target::files;
use crate::Error;
use crate::node::Node;

/// Called once, when what the node hosts is known and before other nodes can reach it.
pub(crate) async fn resume(node: &Node) {
    if let Err(error) = take_up_targets(node).await {
        tracing::error!(%error, "copies that migrations have begun can't be gone on with");
    }
    let records = match node.placement.list().await {
        Ok(records) => records,
        Err(error) => {
            return tracing::error!(%error, "migrations can't be gone on with: the placement can't be read");
        }
    };
    if let Err(error) = drop_leftovers(node, &records).await {
        tracing::warn!(%error, "what ended migrations have left stays until the next opening");
    }
    for record in records {
        take_up_driver(node, record);
    }
}

async fn take_up_targets(node: &Node) -> Result<(), Error> {
    let data = node.dir.clone();
    let kept = node.migrations.tasks().blocking(move || {
        files::sweep(&data)?;
        files::list(&data)
    });
    for kept in kept.await? {
        node.migrations.resume_target(node, kept);
    }
    Ok(())
}

/// Removes checkpoints and holds of migrations that this node is no longer the source of.
async fn drop_leftovers(node: &Node, records: &[PlacementRecord]) -> Result<(), Error> {
    let serving: HashSet<MigrationId> = records
        .iter()
        .filter_map(PlacementRecord::active_migration)
        .filter(|m| m.source == node.id && m.phase.before_activate())
        .map(|m| m.id)
        .collect();
    let (data, log) = (node.dir.clone(), node.log.clone());
    let dropped = node.migrations.tasks().blocking(move || {
        for migration in checkpoint::list(&data)? {
            if !serving.contains(&migration) {
                checkpoint::remove(&data, migration)?;
            }
        }
        for instance in log.instances() {
            for hold in instance.holds() {
                let migration = hold
                    .name
                    .strip_prefix("migration-")
                    .and_then(|id| id.parse().ok());
                if migration.is_some_and(|id: MigrationId| !serving.contains(&id)) {
                    instance.release_hold(&hold.name)?;
                }
            }
        }
        Ok(())
    });
    dropped.await
}

/// Goes on with the shard's migration, if this node is its driver.
pub(super) fn take_up_driver(node: &Node, record: PlacementRecord) -> Option<Migration> {
    let migration = record.active_migration().filter(|m| m.driver == node.id)?;
    let (id, shard) = (migration.id, record.shard);
    let config = match migration.safe_config() {
        Ok(config) => config,
        Err(refusal) => {
            tracing::error!(%shard, migration = %id, %refusal, "the gate refuses to go on with a migration: abort it");
            return None;
        }
    };
    let first = Progress {
        source: migration.source.clone(),
        target: migration.target.clone(),
        phase: migration.phase,
        attempt: migration.attempt,
        paused: migration.paused,
        cutover: migration.cutover_asked,
        ..waiting(id, shard, &node.id, &migration.config)
    };
    let certificate = migration.certificate.as_deref().cloned();
    let job = Job::Resume(Box::new((config, record)));
    tracing::info!(%shard, migration = %id, phase = %first.phase, "going on with a migration");
    node.migrations
        .add_driver(|at_once| Driver::start(node, at_once, first, certificate, None, job))
}

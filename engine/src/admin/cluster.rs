//! What a cluster is doing, put together from its placement and from what its nodes tell of themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use watershed_migration::balance::{Goal, Move};
use watershed_migration::machine::Progress;
use watershed_migration::{MigrationId, MigrationRecord, NodeId, Phase, PlacementRecord};
use watershed_wal::{Epoch, Seq, ShardId};

use super::Report;
use crate::placement::Member;

/// A cluster at one moment, or nearly: each node is asked by itself.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Its nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// Its shards, by number.
    pub shards: Vec<ShardMap>,
}

/// A node that has joined.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeId,
    /// Where it is.
    pub address: String,
    /// Its part of the shards beside the others'.
    pub weight: u32,
    /// Whether the placement hears of it.
    pub alive: bool,
    /// What is wanted of it.
    pub goal: Option<Goal>,
    /// How many shards it owns.
    pub owns: usize,
    /// Why it tells nothing of itself, where it does not.
    pub silent: Option<String>,
    /// What it tells of itself: an [`EngineStatus`](crate::EngineStatus) as JSON.
    pub status: Option<Value>,
}

/// A shard.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ShardMap {
    /// The shard.
    pub shard: ShardId,
    /// Who owns it.
    pub owner: NodeId,
    /// Since which epoch.
    pub epoch: Epoch,
    /// What the owner tells of its copy; `None` while it is silent.
    pub copy: Option<CopyView>,
    /// The migration that it is in.
    pub moving: Option<MoveStatus>,
    /// Why its last migration was given up, where it was.
    pub gave_up: Option<String>,
}

/// A copy, as its node tells of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopyView {
    shard: ShardId,
    /// What it is to the shard: `owner`, `frozen`, `receiver`, `failed`.
    pub role: String,
    /// The last Seq handed out.
    pub assigned: Seq,
    /// Everything up to it survives power loss.
    pub durable: Seq,
    /// Everything up to it is visible.
    pub applied: Seq,
    /// Everything up to it is in SSTs.
    pub flushed: Seq,
    /// About how many keys it has.
    pub keys_estimate: u64,
    /// Bytes of its SSTs and memtables.
    pub bytes: u64,
    /// Requests that wait for it to re-open.
    pub parked: u64,
    /// What RocksDB failed with last.
    pub store_error: Option<String>,
}

/// A migration under way.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MoveStatus {
    /// Its id.
    pub migration: MigrationId,
    /// Who gives the shard away.
    pub source: NodeId,
    /// Who gets it.
    pub target: NodeId,
    /// Who drives it.
    pub driver: NodeId,
    /// Who asked for it.
    pub started_by: String,
    /// Where it is.
    pub phase: Phase,
    /// How much of the copy is there, 0 to 100; `None` before its size is known.
    pub percent: Option<u8>,
    /// Bytes of the copy that are there.
    pub copied_bytes: u64,
    /// Bytes of the copy.
    pub total_bytes: u64,
    /// How many seconds the rest of the copy takes at its pace until now; `None` where there is no copy going on.
    pub copy_eta_s: Option<u64>,
    /// Records that the target misses.
    pub lag: u64,
    /// Cutovers that were tried.
    pub attempts: u32,
    /// Cutovers that were given up because the pause would have grown too long.
    pub re_opens: u32,
    /// Since when it shows no progress, in milliseconds; `None` where its driver is silent.
    pub idle_ms: Option<u64>,
    /// It waits for an operator's `cutover`.
    pub held: bool,
    /// It stands still, as an operator asked.
    pub paused: bool,
    /// The last thing that went wrong.
    pub trouble: Option<String>,
    /// What the old copy's deletion will free, in bytes; 0 before there is an old copy.
    pub frees_bytes: u64,
}

/// What is read of a node's own status; what is not known here is passed by.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    shards: Vec<CopyView>,
    migrations: Vec<Progress>,
}

/// One node's report, as far as it came.
struct Heard {
    told: Told,
    idle_ms: BTreeMap<MigrationId, u64>,
}

pub(super) fn put_together(
    records: &[PlacementRecord],
    members: &BTreeMap<NodeId, Member>,
    reports: BTreeMap<NodeId, Result<Report, String>>,
) -> ClusterStatus {
    let mut heard = BTreeMap::new();
    let mut nodes = Vec::new();
    for (node, member) in members {
        let report = reports.get(node).cloned();
        let (status, silent) = match report {
            Some(Ok(report)) => {
                let told = Told::deserialize(&report.status).unwrap_or_default();
                let idle_ms = report.idle_ms;
                heard.insert(node.clone(), Heard { told, idle_ms });
                (Some(report.status), None)
            }
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, Some("it was not asked".to_owned())),
        };
        nodes.push(NodeStatus {
            node: node.clone(),
            address: member.info.address.clone(),
            weight: member.info.weight,
            alive: member.alive,
            goal: member.goal,
            owns: records.iter().filter(|r| r.owner == *node).count(),
            silent,
            status,
        });
    }
    let shards = records.iter().map(|record| shard(record, &heard));
    ClusterStatus {
        nodes,
        shards: shards.collect(),
    }
}

fn shard(record: &PlacementRecord, heard: &BTreeMap<NodeId, Heard>) -> ShardMap {
    let copy_at = |node: &NodeId, role: &str| {
        let copies = &heard.get(node)?.told.shards;
        let mut copies = copies.iter();
        copies
            .find(|copy| copy.shard == record.shard && copy.role == role)
            .cloned()
    };
    let frozen = record.frozen.as_ref();
    let frozen = frozen.and_then(|frozen| copy_at(&frozen.node, "frozen"));
    let moving = record.active_migration();
    let gave_up = record
        .migration
        .as_ref()
        .filter(|migration| migration.phase == Phase::Aborted);
    ShardMap {
        shard: record.shard,
        owner: record.owner.clone(),
        epoch: record.epoch,
        copy: copy_at(&record.owner, "owner"),
        moving: moving.map(|migration| MoveStatus {
            frees_bytes: frozen.map_or(0, |copy| copy.bytes),
            ..move_status(migration, heard.get(&migration.driver))
        }),
        gave_up: gave_up.and_then(|migration| migration.reason.clone()),
    }
}

fn move_status(migration: &MigrationRecord, driver: Option<&Heard>) -> MoveStatus {
    let told = driver.and_then(|driver| {
        let mut known = driver.told.migrations.iter();
        known.find(|progress| progress.migration == migration.id)
    });
    let copied = told.map_or(0, |told| told.copied_bytes);
    let total = told.map_or(0, |told| told.total_bytes);
    let phase = told.map_or(migration.phase, |told| told.phase);
    let copying_ms = told.and_then(|told| told.phase_ms.get(&Phase::BulkCopy).copied());
    let left = total.saturating_sub(copied);
    let eta = copying_ms.filter(|_| phase == Phase::BulkCopy && copied > 0);
    MoveStatus {
        migration: migration.id,
        source: migration.source.clone(),
        target: migration.target.clone(),
        driver: migration.driver.clone(),
        started_by: migration.started_by.clone(),
        phase,
        percent: (total > 0)
            .then(|| u8::try_from(u128::from(copied.min(total)) * 100 / u128::from(total)))
            .and_then(Result::ok),
        copied_bytes: copied,
        total_bytes: total,
        copy_eta_s: eta.map(|ms| {
            let left_ms = u128::from(left) * u128::from(ms) / u128::from(copied);
            u64::try_from(left_ms / 1000).unwrap_or(u64::MAX)
        }),
        lag: told.map_or(0, |told| told.lag),
        attempts: migration.attempt.0,
        re_opens: told.map_or(0, |told| told.re_opens),
        idle_ms: driver.and_then(|driver| driver.idle_ms.get(&migration.id).copied()),
        held: migration.config.hold && !migration.cutover_asked && phase == Phase::DualWrite,
        paused: migration.paused,
        trouble: told.and_then(|told| told.trouble.clone()),
        frees_bytes: 0,
    }
}

/// Sentences on why a shard does not move, or how it does; `None` where there is no such shard.
pub(super) fn explain(
    status: &ClusterStatus,
    planned: &[Move],
    shard: ShardId,
) -> Option<Vec<String>> {
    let of = status.shards.iter().find(|known| known.shard == shard)?;
    let node = |name: &NodeId| status.nodes.iter().find(|node| node.node == *name);
    let mut said = vec![format!(
        "node {} owns it since epoch {}",
        of.owner, of.epoch
    )];
    let mut silent = |name: &NodeId, what: &str| match node(name) {
        Some(node) if !node.alive => {
            said.push(format!("node {name}, {what}, is not alive: start it"))
        }
        Some(NodeStatus {
            silent: Some(reason),
            ..
        }) => {
            said.push(format!("node {name}, {what}, gives no answer: {reason}"));
        }
        None => said.push(format!("node {name}, {what}, has not joined the cluster")),
        _ => {}
    };
    silent(&of.owner, "its owner");
    if let Some(moving) = &of.moving {
        silent(&moving.target, "the target of its migration");
        if moving.driver != moving.target {
            silent(&moving.driver, "the driver of its migration");
        }
        said.extend(explain_move(moving));
    } else if let Some(step) = planned.iter().find(|step| step.shard == shard) {
        said.push(format!("it is to move to node {}, which begins that when fewer of its migrations, and of the source's, are under way", step.to));
        if node(&step.to).is_none_or(|node| !node.alive) {
            said.push(format!("node {} is not alive: start it", step.to));
        }
    } else {
        said.push("nobody has asked for it to move".into());
    }
    if let Some(reason) = &of.gave_up {
        said.push(format!("its last migration was given up: {reason}"));
    }
    if let Some(error) = of.copy.as_ref().and_then(|copy| copy.store_error.as_ref()) {
        said.push(format!("its store is in trouble: {error}"));
    }
    Some(said)
}

fn explain_move(moving: &MoveStatus) -> Vec<String> {
    let mut said = vec![format!(
        "it is moving from node {} to node {}, asked for by {}, in phase {}",
        moving.source, moving.target, moving.started_by, moving.phase
    )];
    if moving.paused {
        said.push("it stands still until `watershed shard resume`".into());
    }
    if moving.held {
        said.push("it waits for `watershed shard cutover`, as asked for with --hold".into());
    }
    match moving.phase {
        Phase::Plan => said.push("its copy has not begun".into()),
        Phase::BulkCopy => {
            let percent = moving.percent.map_or("an unknown part".into(), |p| format!("{p} %"));
            said.push(format!("{percent} of the copy is there"));
        }
        Phase::DualWrite if moving.lag > 0 => {
            said.push(format!("the target still misses {} records", moving.lag));
        }
        Phase::Cleanup => said.push(format!(
            "the new owner serves; {} bytes are freed when the grace time is over, or with `watershed shard cleanup`",
            moving.frees_bytes
        )),
        _ => {}
    }
    if moving.re_opens > 0 {
        said.push(format!(
            "{} cutovers were given up, since the pause would have grown too long",
            moving.re_opens
        ));
    }
    if let Some(trouble) = &moving.trouble {
        said.push(format!("the last trouble: {trouble}"));
    }
    said
}

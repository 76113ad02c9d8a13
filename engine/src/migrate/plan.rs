//! What a migration would do, found out without changing anything anywhere.

use serde::Serialize;
use watershed_migration::anti_entropy::migration_warning_if_ae_disabled;
use watershed_migration::messages::{RefusedKind, Request, Response};
use watershed_migration::{MigrationConfig, NodeId, PlacementRecord};
use watershed_wal::{Epoch, ShardId};

use super::last_move;
use super::peer::Peer;
use super::refusal::refused;
use super::room::spare_bytes;
use crate::node::Node;
use crate::{Error, Retry};

/// What a migration would do and meet; made by [`Migrate::plan`](super::Migrate::plan).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// The shard.
    pub shard: ShardId,
    /// Who owns it.
    pub source: NodeId,
    /// Who is to own it.
    pub target: NodeId,
    /// The owner's epoch; the target's will be the next.
    pub epoch: Epoch,
    /// About how many bytes are copied; what is written meanwhile comes on top. `None` where the source can't tell.
    pub bytes: Option<u64>,
    /// Bytes of the target's disk that a copy may take; `None` where the target can't tell.
    pub target_free_bytes: Option<u64>,
    /// The version of the source's program; `None` where it is too old to tell.
    pub source_version: Option<String>,
    /// The version of the target's program; `None` where it is too old to tell.
    pub target_version: Option<String>,
    /// How long the copy takes at `rate_bytes_per_s`, in seconds; `None` without that bound, as nobody knows then.
    pub copy_seconds: Option<u64>,
    /// The bound of the copy's speed, in bytes a second.
    pub rate_bytes_per_s: Option<u64>,
    /// The bound of the pause of the shard's writers, in milliseconds.
    pub pause_max_ms: u64,
    /// What to know before it is started.
    pub warnings: Vec<String>,
}

/// What a node says of itself and a shard.
struct Surveyed {
    version: String,
    free_bytes: u64,
    owned_bytes: Option<u64>,
}

/// Makes the plan of a migration whose options passed the gate.
pub(super) async fn make(
    node: Node,
    record: PlacementRecord,
    target: NodeId,
    config: MigrationConfig,
) -> Result<MigrationPlan, Error> {
    let shard = record.shard;
    let source = record.owner.clone();
    let at_source = survey(&node, &source, shard).await?;
    let at_target = survey(&node, &target, shard).await?;
    let bytes = at_source.as_ref().and_then(|source| source.owned_bytes);
    let free = at_target.as_ref().map(|target| target.free_bytes);
    if let (Some(needed), Some(free)) = (bytes, free)
        && free < needed
    {
        let what = format!(
            "node {target} has {free} bytes to spare, and the copy of shard {shard} needs about {needed}: make room \
             there, or name another target"
        );
        return Err(Error::Options { what });
    }
    let mut plan = MigrationPlan {
        shard,
        epoch: record.epoch,
        bytes,
        target_free_bytes: free,
        source_version: at_source.map(|source| source.version),
        target_version: at_target.map(|target| target.version),
        copy_seconds: config
            .rate_bytes_per_s
            .and_then(|rate| Some(bytes?.div_ceil(rate.max(1)))),
        rate_bytes_per_s: config.rate_bytes_per_s,
        pause_max_ms: config.pause_max_ms,
        warnings: Vec::new(),
        source,
        target,
    };
    plan.warnings = warnings(&plan, &record, &config);
    Ok(plan)
}

fn warnings(
    plan: &MigrationPlan,
    record: &PlacementRecord,
    config: &MigrationConfig,
) -> Vec<String> {
    let mut warnings: Vec<String> = migration_warning_if_ae_disabled(config)
        .map(ToString::to_string)
        .into_iter()
        .collect();
    if let Some(last) = last_move::in_cleanup(record) {
        warnings.push(format!(
            "the old copy that the last move left on node {} is compared and deleted first: its grace time ends",
            last.source
        ));
    }
    for (node, version) in [
        (&plan.source, &plan.source_version),
        (&plan.target, &plan.target_version),
    ] {
        if version.is_none() {
            warnings.push(format!(
                "node {node} runs an older version, which does not tell its room: see to that yourself"
            ));
        }
    }
    if let (Some(source), Some(target)) = (&plan.source_version, &plan.target_version)
        && source != target
    {
        warnings.push(format!(
            "node {} runs version {source}, node {} version {target}",
            plan.source, plan.target
        ));
    }
    if let Some(seconds) = plan.copy_seconds
        && seconds.saturating_mul(1000) > config.hold_ms
    {
        warnings.push(format!(
            "the copy takes {seconds} s at this rate, and the source keeps its log for {} s: raise rate_bytes_per_s or \
             hold_ms, or the migration ends without moving the shard",
            config.hold_ms / 1000
        ));
    }
    warnings
}

/// Asks a node; `None` where it is too old to know the question.
async fn survey(node: &Node, of: &NodeId, shard: ShardId) -> Result<Option<Surveyed>, Error> {
    let remote = |message: String, retry| Error::Remote {
        node: of.clone(),
        message,
        retry,
    };
    let peer = Peer::new(node, of.clone());
    let answer = peer
        .call_within(super::CALL_TIMEOUT, Request::Survey { shard })
        .await
        .map_err(|error| remote(error.to_string(), Retry::Now))?;
    match answer {
        Response::Surveyed {
            version,
            free_bytes,
            owned_bytes,
        } => Ok(Some(Surveyed {
            version,
            free_bytes,
            owned_bytes,
        })),
        Response::Refused(refused) if refused.kind == RefusedKind::Unsupported => Ok(None),
        Response::Refused(refused) => Err(remote(refused.message, Retry::Now)),
        other => {
            let message = format!("{} is no answer to a survey", other.name());
            Err(remote(message, Retry::Never))
        }
    }
}

/// Answers [`Request::Survey`].
pub(crate) async fn answer(node: &Node, shard: ShardId) -> Response {
    let (dir, owned) = (node.dir.clone(), node.owner(shard));
    let looked = node.migrations.tasks().blocking(move || {
        let stats = owned.map(|hosted| Ok::<_, Error>(hosted.store()?.stats()?));
        let owned_bytes = stats
            .transpose()?
            .map(|stats| stats.sst_bytes + stats.memtable_bytes);
        Ok((spare_bytes(&dir)?, owned_bytes))
    });
    match looked.await {
        Ok((free_bytes, owned_bytes)) => Response::Surveyed {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            free_bytes,
            owned_bytes,
        },
        Err(error) => Response::Refused(refused(error)),
    }
}

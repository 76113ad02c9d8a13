//! The numbers of a node, as OpenMetrics: names end in their unit, and each has its help.
//!
//! A page is made of one look at the engine, by the thread of whoever asks; nothing here is on the way of a write.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use super::health::Health;
use super::openmetrics::{Labels, NONE, Page};
use crate::migration::machine::Progress;
use crate::net::RefusalClass;
use crate::{EngineStatus, LogStatus, MigrationCounts, ShardStatus};

/// What a page is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All numbers now.
pub(super) fn page(health: &Health) -> String {
    text(Look::at(health))
}

fn text(look: Look) -> String {
    let mut registry = Registry::with_prefix("watershed");
    registry.register_collector(Box::new(look));
    let mut page = String::new();
    // Writing to a string can't fail.
    let _ = prometheus_client::encoding::text::encode(&mut page, &registry);
    page
}

/// A node as it stood at one moment.
#[derive(Debug)]
struct Look {
    serving: bool,
    placement_answers: bool,
    engine: Option<EngineLook>,
}

#[derive(Debug)]
struct EngineLook {
    status: EngineStatus,
    /// Those that are under way.
    moves: Vec<Progress>,
    refused: Vec<(RefusalClass, u64)>,
    now: SystemTime,
}

impl Look {
    fn at(health: &Health) -> Self {
        let engine = health.engine().and_then(|(engine, refused)| {
            let moves = engine.migrations().into_iter();
            Some(EngineLook {
                status: engine.status().ok()?,
                moves: moves
                    .filter(|migration| !migration.is_over())
                    .map(|migration| migration.progress())
                    .collect(),
                refused,
                now: SystemTime::now(),
            })
        });
        Self {
            serving: health.verdict().serving,
            placement_answers: health.placement_answers(),
            engine,
        }
    }
}

impl Collector for Look {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        let flag = |value: bool| [(NONE, u64::from(value))];
        page.gauge(
            "serving",
            "Whether requests for the shards that are here are answered, as /healthz says",
            flag(self.serving),
        )?;
        let Some(look) = &self.engine else {
            return Ok(());
        };
        page.gauge(
            "placement_reachable",
            "Whether the placement answered when it was asked last",
            flag(self.placement_answers),
        )?;
        let EngineLook {
            status,
            moves,
            refused,
            now,
        } = look;
        page.info(
            "node",
            "The node",
            [
                ("node", status.node.to_string()),
                ("version", env!("CARGO_PKG_VERSION").into()),
            ],
        )?;
        shards(&mut page, &status.shards)?;
        holds(&mut page, &status.log)?;
        log(&mut page, &status.log)?;
        page.bytes(
            "block_cache_size",
            "Memory that the stores' block cache uses",
            [(NONE, status.cache_bytes)],
        )?;
        page.bytes(
            "memtable_size",
            "Memory that the stores' memtables use",
            [(NONE, status.memtable_bytes)],
        )?;
        migrations(&mut page, moves)?;
        migration_counts(&mut page, &status.migration_counts, *now)?;
        page.counter(
            "stale_epoch_requests",
            "Requests of other nodes refused since they came with an epoch of before",
            [(NONE, status.stale_epochs)],
        )?;
        let refused = refused
            .iter()
            .map(|(class, count)| (vec![("reason", class.name().to_owned())], *count));
        page.counter("connections_refused", "Peers refused on the port for nodes: by their TLS handshake, for being slow at it, for a certificate that names nobody, or for what their role may not ask", refused)
    }
}

fn shards(page: &mut Page<'_>, shards: &[ShardStatus]) -> fmt::Result {
    let each = |value: fn(&ShardStatus) -> u64| {
        shards
            .iter()
            .map(move |shard| (labels_of(shard), value(shard)))
    };
    page.gauge(
        "shard_epoch",
        "The epoch of the copy's last term",
        each(|shard| shard.epoch.0),
    )?;
    page.gauge(
        "shard_assigned_seq",
        "The last Seq handed out, or received",
        each(|shard| shard.assigned.0),
    )?;
    page.gauge(
        "shard_durable_seq",
        "Everything up to this Seq survives power loss",
        each(|shard| shard.durable.0),
    )?;
    page.gauge(
        "shard_applied_seq",
        "Everything up to this Seq is visible to reads",
        each(|shard| shard.applied.0),
    )?;
    page.gauge(
        "shard_flushed_seq",
        "Everything up to this Seq is in SSTs",
        each(|shard| shard.flushed.0),
    )?;
    page.bytes(
        "shard_size",
        "SSTs and memtables of the copy",
        each(|shard| shard.bytes),
    )?;
    page.gauge(
        "shard_keys",
        "About how many keys the copy has, deleted ones included",
        each(|shard| shard.keys_estimate),
    )?;
    page.gauge(
        "shard_parked_requests",
        "Requests that wait for the shard to re-open",
        each(|shard| shard.parked),
    )?;
    let longest = shards
        .iter()
        .map(|shard| (labels_of(shard), shard.parked_longest_ms as f64 / 1e3));
    page.seconds(
        "shard_parked_longest",
        "How long the first of the parked requests has waited",
        longest,
    )?;
    page.counter(
        "shard_writes",
        "Writes acknowledged by the copy",
        each(|shard| shard.writes),
    )?;
    page.gauge(
        "shard_store_failed",
        "Whether the copy's RocksDB has failed and was not opened again",
        each(|shard| u64::from(shard.store_error.is_some())),
    )
}

fn labels_of(shard: &ShardStatus) -> Labels {
    vec![
        ("shard", shard.shard.to_string()),
        ("instance", shard.instance.to_string()),
        ("role", shard.role.to_string()),
    ]
}

fn holds(page: &mut Page<'_>, log: &LogStatus) -> fmt::Result {
    let labels = |hold: &crate::HoldInfo| {
        vec![
            ("shard", hold.shard.to_string()),
            ("instance", hold.instance.to_string()),
            ("hold", hold.name.clone()),
        ]
    };
    let holds = &log.holds;
    let each = |value: fn(&crate::HoldInfo) -> u64| {
        holds.iter().map(move |hold| (labels(hold), value(hold)))
    };
    let ages = holds
        .iter()
        .map(|hold| (labels(hold), hold.age.as_secs_f64()));
    page.seconds("hold_age", "How long the hold has kept log", ages)?;
    page.bytes(
        "hold_size",
        "Log that the hold keeps",
        each(|hold| hold.bytes),
    )?;
    page.bytes(
        "hold_limit",
        "Log that the hold may keep",
        each(|hold| hold.budget.bytes),
    )?;
    page.gauge(
        "hold_expired",
        "Whether the hold went over its budget and keeps nothing any more",
        each(|hold| u64::from(hold.expired)),
    )
}

fn log(page: &mut Page<'_>, log: &LogStatus) -> fmt::Result {
    page.bytes(
        "log_size",
        "Segment files of the log, spares and those to be filled again included",
        [(NONE, log.bytes)],
    )?;
    page.bytes(
        "log_recycled",
        "Segment files that wait to be filled again",
        [(NONE, log.recycled_bytes)],
    )?;
    page.bytes(
        "log_limit",
        "What the log's segment files may take",
        [(NONE, log.limit)],
    )?;
    page.gauge(
        "log_segments",
        "Segment files in use",
        [(NONE, log.segments)],
    )?;
    page.bytes(
        "log_pending",
        "Writes that wait to be written to the log",
        [(NONE, log.pending_bytes)],
    )?;
    page.counter(
        "log_frames",
        "Frames written to the log: one for each group commit",
        [(NONE, log.frames)],
    )?;
    page.counter(
        "log_records",
        "Records written to the log: writes, and what was received of other nodes",
        [(NONE, log.records)],
    )?;
    page.times(
        "log_sync_duration",
        "How long the log's syncs took",
        &log.sync_times,
    )?;
    page.gauge(
        "log_poisoned",
        "Whether the log has failed: writes are refused until the node is started again",
        [(NONE, u64::from(log.poisoned.is_some()))],
    )?;
    page.gauge(
        "log_full",
        "Whether writes are refused for want of room",
        [(NONE, u64::from(log.full))],
    )
}

fn migrations(page: &mut Page<'_>, moves: &[Progress]) -> fmt::Result {
    let labels = |progress: &Progress| {
        vec![
            ("shard", progress.shard.to_string()),
            ("migration", progress.migration.to_string()),
            ("source", progress.source.to_string()),
            ("target", progress.target.to_string()),
        ]
    };
    let each = |value: fn(&Progress) -> u64| {
        moves
            .iter()
            .map(move |progress| (labels(progress), value(progress)))
    };
    let phases = moves.iter().map(|progress| {
        let mut labels = labels(progress);
        labels.push(("phase", progress.phase.to_string()));
        (labels, 1)
    });
    page.gauge(
        "migration_phase",
        "Migrations that this node drives: 1 for the phase that each is in",
        phases,
    )?;
    page.bytes(
        "migration_copied",
        "Bytes of the checkpoint that the target has fetched",
        each(|progress| progress.copied_bytes),
    )?;
    page.bytes(
        "migration_checkpoint",
        "Bytes of the checkpoint",
        each(|progress| progress.total_bytes),
    )?;
    page.gauge(
        "migration_lag_records",
        "Records that the target misses, as last seen",
        each(|progress| progress.lag),
    )?;
    page.gauge(
        "migration_attempt",
        "Which quiesce the migration is at",
        each(|progress| progress.attempt.0.into()),
    )
}

fn migration_counts(page: &mut Page<'_>, counts: &MigrationCounts, now: SystemTime) -> fmt::Result {
    page.times("migration_pause_duration", "How long writes of a shard that this node owned were parked, from closing the gate to release or re-opening", &counts.pauses)?;
    page.counter(
        "migration_reopens",
        "Pauses that ended in re-opening, since they would have taken too long",
        [(NONE, counts.re_opens)],
    )?;
    page.counter(
        "migrations_done",
        "Migrations driven by this node to their end",
        [(NONE, counts.done)],
    )?;
    page.counter(
        "migrations_aborted",
        "Migrations driven by this node that ended otherwise",
        [(NONE, counts.aborted)],
    )?;
    page.counter(
        "migration_holes_filled",
        "Ranges of missing records that were found and shipped",
        [(NONE, counts.holes_filled)],
    )?;
    page.counter(
        "migration_delta_records",
        "Records that delta rounds and delta passes shipped",
        [(NONE, counts.delta_records)],
    )?;
    let last = counts
        .last_clean_comparison
        .and_then(|ago| timestamp(now, ago));
    page.seconds("comparison_last_clean_timestamp", "When an old copy was last compared and found equal to the new owner's; absent before the first time", last.map(|at| (NONE, at)))?;
    page.counter(
        "comparison_differences",
        "Entries in which old copies differed from the new owner's",
        [(NONE, counts.differences)],
    )
}

fn timestamp(now: SystemTime, ago: Duration) -> Option<f64> {
    let at = now.checked_sub(ago)?.duration_since(UNIX_EPOCH).ok()?;
    Some(at.as_secs_f64())
}

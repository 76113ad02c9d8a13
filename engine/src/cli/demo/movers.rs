//! Moves the shards while writers write: two at a time, spread over the writes.
//!
//! A pair of moves starts each time a further share of the asked-for writes is acknowledged, and the last pair when all
//! are: so that many writes lie under each move, and all asked-for writes under moves, however fast the machine is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::boundary::Boundary;
use super::cluster::{Cluster, Move};
use super::tally::{Period, Tally};
use crate::cli::failure::Failure;
use crate::cli::output::{bytes, micros, thousands};
use crate::cli::progress::Watch;
use crate::migration::machine::Progress;
use crate::migration::{Certificate, MigrationConfig, Phase};
use crate::{Engine, Error, Migration};

/// Moves that start together.
const TOGETHER: usize = 2;
/// How often a move is tried again with twice the pause: up to eight times what was asked for.
const LONGER_PAUSES: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A move and what observes it.
pub(super) struct Moving {
    pub(super) step: Move,
    pub(super) boundary: Arc<Boundary>,
}

/// A shard that has moved.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    pub(super) step: Move,
    pub(super) certificate: Certificate,
    pub(super) progress: Progress,
}

/// What came of all moves.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) moved: Vec<Moved>,
    /// From the first start until the last shard was served by its new owner.
    pub(super) time: Duration,
}

/// Runs all moves to the end of their Cleanup. Stops early, without an error of its own, where the writers stopped.
pub(super) async fn run(
    cluster: &Cluster,
    moves: &[Moving],
    config: &MigrationConfig,
    tally: &Arc<Tally>,
    watch: &Watch,
    writes: u64,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    tally.set_period(Period::During);
    // Two moves start one after the other: a single pair would be over before most writes are in.
    let together = if moves.len() <= TOGETHER { 1 } else { TOGETHER };
    let last = u64::try_from(moves.len().div_ceil(together).max(2) - 1).unwrap_or(u64::MAX);
    let mut serving = Vec::new();
    for (pair, moves) in (0u64..).zip(moves.chunks(together)) {
        until_acknowledged(tally, writes.saturating_mul(pair) / last).await;
        for moving in moves {
            let mover = Mover::new(cluster, moving, config, tally, watch);
            serving.push((moving.step, tokio::spawn(mover.serve())));
        }
    }
    let mut finishing = Vec::new();
    for (step, served) in serving {
        let (migration, certificate) = served
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        finishing.push((step, migration, certificate));
    }
    let time = started.elapsed();
    tally.set_period(Period::After);
    let mut moved = Vec::new();
    for (step, migration, certificate) in finishing {
        migration.finished_async().await?;
        moved.push(Moved {
            step,
            certificate,
            progress: migration.progress(),
        });
    }
    // One move alone starts at once and may end before all writes are in.
    until_acknowledged(tally, writes).await;
    Ok(Outcome { moved, time })
}

/// Waits until so many writes were acknowledged since the first move started.
async fn until_acknowledged(tally: &Tally, count: u64) {
    while tally.acknowledged(Period::During) + tally.acknowledged(Period::After) < count
        && !tally.stopped()
    {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What starts one move, and starts it again where it was given up.
struct Mover {
    engine: Engine,
    step: Move,
    to: String,
    names: String,
    config: MigrationConfig,
    observer: Arc<dyn Fn(&Progress) + Send + Sync>,
    watch: Watch,
}

impl Mover {
    fn new(
        cluster: &Cluster,
        moving: &Moving,
        config: &MigrationConfig,
        tally: &Arc<Tally>,
        watch: &Watch,
    ) -> Self {
        let step = moving.step;
        let shard = step.shard;
        let (from, to) = (cluster.name(step.source), cluster.name(step.target));
        let (tally, boundary) = (tally.clone(), moving.boundary.clone());
        let work = watch.work(&format!("shard {shard:>3} {from} -> {to}"));
        let observer = move |progress: &Progress| {
            tally.enter(shard, progress.phase);
            boundary.enter(progress.phase);
            match progress.phase {
                Phase::BulkCopy => work.at(progress.copied_bytes, progress.total_bytes, || {
                    format!(
                        "bulk-copy, {} of {}",
                        bytes(progress.copied_bytes),
                        bytes(progress.total_bytes)
                    )
                }),
                phase => work.now(|| format!("{phase}, lag {} records", thousands(progress.lag))),
            }
        };
        Self {
            engine: cluster.engine(step.source).clone(),
            step,
            names: format!("{from} -> {to}"),
            to: to.to_owned(),
            config: config.clone(),
            observer: Arc::new(observer),
            watch: watch.clone(),
        }
    }

    /// Moves the shard; returns when the target serves, and says so. On a machine where no attempt fits into the pause
    /// it tries again with a longer one, as an operator would, and says that, too.
    async fn serve(mut self) -> Result<(Migration, Certificate), Error> {
        let shard = self.step.shard;
        for _ in 0..LONGER_PAUSES {
            match self.once().await {
                Err(Error::MigrationAborted { reason, .. }) => {
                    self.config.pause_max_ms *= 2;
                    self.watch.say(&format!(
                        "shard {shard:>3} {}: {reason}; trying again with a pause of at most {} ms",
                        self.names, self.config.pause_max_ms
                    ));
                }
                ended => return ended,
            }
        }
        self.once().await
    }

    async fn once(&self) -> Result<(Migration, Certificate), Error> {
        let migration = self
            .engine
            .migrate(self.step.shard)
            .to(self.to.clone())
            .config(self.config.clone())
            .observer(self.observer.clone())
            .start()?;
        let certificate = migration.clone().await?;
        let size: u64 = certificate.files.iter().map(|file| file.len).sum();
        let pause = certificate
            .pause_us
            .map_or_else(|| "of unknown length".to_owned(), micros);
        self.watch.say(&format!(
            "shard {:>3} {}: {} copied, pause {pause}",
            self.step.shard,
            self.names,
            bytes(size)
        ));
        Ok((migration, certificate))
    }
}

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
use crate::{BoxFuture, Engine, Error, Migration, ShardId};

/// Moves that start together.
const TOGETHER: usize = 2;
/// How often a move is tried again with twice the pause: up to eight times what was asked for.
pub(super) const LONGER_PAUSES: u32 = 3;
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

/// What moves one shard.
pub(super) trait Moves: Send {
    /// Starts the move; it is over when the target serves.
    fn serve(&mut self) -> BoxFuture<'_, Result<Certificate, Failure>>;

    /// Over when the old copy is gone; gives how the migration went.
    fn finish(&mut self) -> BoxFuture<'_, Result<Progress, Failure>>;
}

/// Runs all moves to the end of their Cleanup. Stops early, without an error of its own, where the writers stopped.
pub(super) async fn run(
    moves: Vec<(Move, Box<dyn Moves>)>,
    tally: &Arc<Tally>,
    writes: u64,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    tally.set_period(Period::During);
    // Two moves start one after the other: a single pair would be over before most writes are in.
    let together = if moves.len() <= TOGETHER { 1 } else { TOGETHER };
    let last = u64::try_from(moves.len().div_ceil(together).max(2) - 1).unwrap_or(u64::MAX);
    let mut serving = Vec::new();
    for (number, (step, mut mover)) in (0u64..).zip(moves) {
        let pair = number / together as u64;
        until_acknowledged(tally, writes.saturating_mul(pair) / last).await;
        let served = tokio::spawn(async move {
            let certificate = mover.serve().await;
            (mover, certificate)
        });
        serving.push((step, served));
    }
    let mut finishing = Vec::new();
    for (step, served) in serving {
        let (mover, certificate) = served
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        finishing.push((step, mover, certificate?));
    }
    let time = started.elapsed();
    tally.set_period(Period::After);
    let mut moved = Vec::new();
    for (step, mut mover, certificate) in finishing {
        moved.push(Moved {
            step,
            certificate,
            progress: mover.finish().await?,
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

/// What starts one move between engines of this process, and starts it again where it was given up.
pub(super) struct Mover {
    engine: Engine,
    step: Move,
    to: String,
    names: String,
    config: MigrationConfig,
    observer: Arc<dyn Fn(&Progress) + Send + Sync>,
    watch: Watch,
    /// Once it has moved the shard.
    migration: Option<Migration>,
}

impl Mover {
    pub(super) fn new(
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
            migration: None,
        }
    }

    /// Moves the shard; returns when the target serves, and says so. On a machine where no attempt fits into the pause
    /// it tries again with a longer one, as an operator would, and says that, too.
    async fn move_it(&mut self) -> Result<Certificate, Failure> {
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
                ended => return Ok(ended?),
            }
        }
        Ok(self.once().await?)
    }

    async fn once(&mut self) -> Result<Certificate, Error> {
        let migration = self
            .engine
            .migrate(self.step.shard)
            .to(self.to.clone())
            .config(self.config.clone())
            .observer(self.observer.clone())
            .start()?;
        let certificate = migration.clone().await?;
        say_moved(&self.watch, self.step.shard, &self.names, &certificate);
        self.migration = Some(migration);
        Ok(certificate)
    }
}

impl Moves for Mover {
    fn serve(&mut self) -> BoxFuture<'_, Result<Certificate, Failure>> {
        Box::pin(self.move_it())
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<Progress, Failure>> {
        Box::pin(async {
            let migration = self.migration.take().ok_or(Error::Closed)?;
            migration.finished_async().await?;
            Ok(migration.progress())
        })
    }
}

/// Tells whoever watches that a shard has a new owner.
pub(super) fn say_moved(watch: &Watch, shard: ShardId, names: &str, certificate: &Certificate) {
    let size: u64 = certificate.files.iter().map(|file| file.len).sum();
    let pause = certificate
        .pause_us
        .map_or_else(|| "of unknown length".to_owned(), micros);
    watch.say(&format!(
        "shard {shard:>3} {names}: {} copied, pause {pause}",
        bytes(size)
    ));
}

//! `watershed demo`: the main job on real documents, and a check that does not trust the engine.
//!
//! ```text
//! cluster.rs   the nodes, which shards move          movers.rs    starts the moves, spread over the writes
//! writers.rs   insert, update, delete, read back     boundary.rs  writes submitted at each change of phase
//! oracle.rs    what must be true of each key         check.rs     whether it is, after everything was re-opened
//! tally.rs     counts shared by all                  report.rs    what a person and a program are told
//! processes/   the same with nodes that are processes, and one of them killed
//! ```
//!
//! It goes through the public API only. The oracle knows what was acknowledged and nothing else.

mod boundary;
mod check;
mod cluster;
mod movers;
mod oracle;
mod processes;
mod report;
mod tally;
mod writers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::args::DemoArgs;
use super::documents::{Document, Documents};
use super::failure::Failure;
use super::load::{Loaded, load, runtime};
use super::output::{Answer, Output, thousands};
use super::place::Data;
use super::progress::Watch;
use crate::Version;
use crate::migration::anti_entropy::migration_warning_if_ae_disabled;
use crate::migration::{MigrationConfig, MigrationCoordinator, SafetyPolicy};
use boundary::Boundary;
use cluster::{Cluster, Move};
use movers::{Mover, Moves, Moving};
use oracle::Oracle;
use report::Report;
use tally::{Period, Tally};
use writers::{Owned, Sender, Writer, Wrote};

/// How long an old copy is kept: long enough to be compared, short enough to watch.
const GRACE_MS: u64 = 2_000;
/// Documents that are made up where no input is given.
const MADE_UP: u64 = 50_000;

pub(super) use processes::Kill;

pub(super) fn run(args: &DemoArgs, output: &Output) -> Result<Answer, Failure> {
    let config = MigrationConfig {
        safety: SafetyPolicy {
            anti_entropy: !args.no_anti_entropy,
            delta_pass: !args.no_delta_pass,
        },
        grace_ms: GRACE_MS,
        ..MigrationConfig::default()
    };
    // The engine's gate would refuse the same; asked here, nothing is made before.
    if let Err(refusal) = MigrationCoordinator::new(config.clone()).validate_safety() {
        return Ok(Report::refused(args, &crate::Error::from(refusal).into()));
    }
    let warning = migration_warning_if_ae_disabled(&config);
    if let Some(warning) = warning {
        output.say(&format!("warning: {warning}"));
    }
    let documents: Box<dyn Iterator<Item = _>> = match &args.input {
        Some(file) => Box::new(Documents::open(file, &args.key)?),
        None => Box::new(made_up()),
    };
    // Removed at the end, also after an error.
    let temporary;
    let root = match &args.dir {
        Some(dir) => {
            cluster::fresh_dir(dir)?;
            dir.as_path()
        }
        None => {
            temporary = tempfile::Builder::new()
                .prefix("watershed-demo-")
                .tempdir()
                .map_err(|error| {
                    Failure::file("make a directory in", &std::env::temp_dir(), &error)
                })?;
            temporary.path()
        }
    };
    let demo = Demo {
        args,
        config,
        watch: Watch::new(output),
        root,
        runtime: runtime()?,
    };
    let mut report = if args.processes {
        processes::run(&demo, documents)?
    } else {
        demo.run(documents)?
    };
    report.warning = warning;
    Ok(report.answer(args))
}

struct Demo<'a> {
    args: &'a DemoArgs,
    config: MigrationConfig,
    watch: Watch,
    root: &'a Path,
    runtime: Runtime,
}

/// What is left when the writing is over.
struct Written {
    loaded: Loaded,
    moves: Vec<Move>,
    outcome: movers::Outcome,
    wrote: Wrote,
}

type Facts = BTreeMap<Bytes, (Bytes, Version)>;

impl Demo<'_> {
    /// Nodes are opened and closed here, outside of any task: both block.
    fn run(
        &self,
        documents: impl Iterator<Item = Result<Document, Failure>>,
    ) -> Result<Report, Failure> {
        let args = self.args;
        let cluster = Cluster::open(self.root, args.nodes + 1, args.shards, args.fail_forward)?;
        let nodes = cluster.names();
        let tally = Arc::new(Tally::new(args.shards));
        let written = self
            .runtime
            .block_on(self.write(&cluster, documents, &tally));
        let closed = cluster.close();
        let Written {
            loaded,
            moves,
            outcome,
            wrote,
        } = written?;
        closed?;
        let checked = self.check(&moves, &wrote.oracle)?;
        Ok(Report {
            loaded,
            nodes,
            outcome,
            writes_acknowledged: tally.acknowledged_in_all(),
            writes_under_moves: tally.acknowledged(Period::During),
            writes_by_phase: tally.by_phase(),
            resent: tally.resent(),
            unknown_outcomes: wrote.oracle.unknowns(),
            out_of_order: wrote.oracle.out_of_order(),
            latencies: wrote.latencies,
            reads: wrote.reads,
            stale_reads: wrote.stale_reads,
            checked,
            kills: Vec::new(),
            warning: None,
        })
    }

    /// Loads, then writes and moves, until all writes are in and all old copies gone.
    async fn write(
        &self,
        cluster: &Cluster,
        documents: impl Iterator<Item = Result<Document, Failure>>,
        tally: &Arc<Tally>,
    ) -> Result<Written, Failure> {
        cluster.spread(self.args.nodes as usize).await?;
        let (loaded, facts) = self.load(cluster.engine(0), documents).await?;
        let moves = cluster.plan();
        let target = cluster.name(cluster.engines().len() - 1);
        self.say_plan(target, &loaded, &moves);
        let mut moving = Vec::new();
        for step in &moves {
            let sender = self.sender(cluster, step.source, tally);
            let boundary = Boundary::prepare(step.shard, sender, Handle::current()).await?;
            moving.push(Moving {
                step: *step,
                boundary: Arc::new(boundary),
            });
        }
        let nodes = cluster.engines().len();
        let writers = self.start_writers(facts, tally, |writer| {
            self.sender(cluster, writer % nodes, tally)
        });
        let mover = |moving: &Moving| -> (Move, Box<dyn Moves>) {
            let mover = Mover::new(cluster, moving, &self.config, tally, &self.watch);
            (moving.step, Box::new(mover))
        };
        let movers = moving.iter().map(mover).collect();
        let outcome = self.moves(movers, tally).await;
        let (mut wrote, outcome) = stop_writers(writers, outcome, tally).await?;
        for moving in &moving {
            wrote.merge(moving.boundary.finish().await?);
        }
        Ok(Written {
            loaded,
            moves,
            outcome,
            wrote,
        })
    }

    /// Writes the documents and remembers the last value and version of each key.
    async fn load(
        &self,
        data: &dyn Data,
        documents: impl Iterator<Item = Result<Document, Failure>>,
    ) -> Result<(Loaded, Facts), Failure> {
        let work = self.watch.work("loading");
        let mut facts = Facts::new();
        let loaded = load(
            data,
            documents,
            self.args.durability.into(),
            &work,
            |document, version| {
                facts.insert(document.key, (document.value, version));
            },
        );
        Ok((loaded.await?, facts))
    }

    fn sender(&self, cluster: &Cluster, node: usize, tally: &Arc<Tally>) -> Sender {
        Sender {
            data: Arc::new(cluster.engine(node).clone()),
            durability: self.args.durability.into(),
            tally: tally.clone(),
        }
    }

    /// Deals the documents out to the writers; each writes through one of the nodes, whichever owns the key's shard.
    fn start_writers(
        &self,
        facts: Facts,
        tally: &Arc<Tally>,
        sender: impl Fn(usize) -> Sender,
    ) -> Vec<JoinHandle<Result<Wrote, Failure>>> {
        let count = self.args.writers as usize;
        let mut parts: Vec<(Vec<Owned>, Oracle)> = (0..count).map(|_| Default::default()).collect();
        for (index, (key, (document, version))) in facts.into_iter().enumerate() {
            let (owned, oracle) = &mut parts[index % count];
            oracle.acknowledged(key.clone(), version, Some(&document));
            owned.push(Owned { key, document });
        }
        let start = |(number, (owned, oracle)): (u32, (Vec<Owned>, Oracle))| {
            let writer = Writer::new(number, sender(number as usize), owned, oracle);
            let tally = tally.clone();
            tokio::spawn(async move {
                let wrote = writer.run().await;
                if wrote.is_err() {
                    // The others have no use either.
                    tally.stop();
                }
                wrote
            })
        };
        (0..).zip(parts).map(start).collect()
    }

    /// Lets the writers run alone for a while, to measure them, then moves the shards.
    async fn moves(
        &self,
        movers: Vec<(Move, Box<dyn Moves>)>,
        tally: &Arc<Tally>,
    ) -> Result<movers::Outcome, Failure> {
        let alone = (self.args.writes / 20).clamp(500, 20_000);
        let work = self.watch.work("writing");
        while tally.acknowledged(Period::Before) < alone && !tally.stopped() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let ticking = tokio::spawn(tick(tally.clone(), work));
        let outcome = movers::run(movers, tally, self.args.writes).await;
        ticking.abort();
        outcome
    }

    fn say_plan(&self, target: &str, loaded: &Loaded, moves: &[Move]) {
        self.watch.say(&format!(
            "{} documents loaded; moving {} of {} shards to node {target} under {} writers",
            thousands(loaded.documents),
            moves.len(),
            self.args.shards,
            self.args.writers,
        ));
    }

    /// Opens every node again and checks.
    fn check(&self, moves: &[Move], oracle: &Oracle) -> Result<check::Checked, Failure> {
        let work = self.watch.work("checking");
        let cluster = Cluster::open(self.root, self.args.nodes + 1, self.args.shards, 0.0)?;
        let checked = check::check(&cluster, moves, oracle, &work);
        let closed = cluster.close();
        let checked = checked?;
        closed?;
        Ok(checked)
    }
}

/// Ends the writers, and gives what they wrote. A writer's error comes first: it is what stopped the moves.
async fn stop_writers(
    writers: Vec<JoinHandle<Result<Wrote, Failure>>>,
    outcome: Result<movers::Outcome, Failure>,
    tally: &Tally,
) -> Result<(Wrote, movers::Outcome), Failure> {
    tally.stop();
    let mut wrote = Wrote::default();
    let mut stopped = Ok(());
    for writer in writers {
        match writer
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        {
            Ok(theirs) => wrote.merge(theirs),
            Err(failure) => stopped = Err(failure),
        }
    }
    stopped?;
    Ok((wrote, outcome?))
}

/// Shows how many writes are acknowledged, until it is aborted.
async fn tick(tally: Arc<Tally>, work: super::progress::Work) {
    loop {
        work.now(|| {
            format!(
                "{} writes acknowledged",
                thousands(tally.acknowledged_in_all())
            )
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Documents for who has none at hand.
fn made_up() -> impl Iterator<Item = Result<Document, Failure>> {
    (1..=MADE_UP).map(|line| {
        let key = format!("place-{line:06}");
        let value = format!(
            r#"{{"id":"{key}","name":"Made-up place {line}","lat":"{}.5"}}"#,
            line % 90
        );
        Ok(Document {
            line,
            key: key.into(),
            value: value.into(),
        })
    })
}

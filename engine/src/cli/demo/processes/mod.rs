//! The demo with nodes that are processes: certificates, a process that keeps the map of owners, the nodes, and writers
//! that are clients over the network.
//!
//! ```text
//! node.rs    one process, started, killed, started again     stage.rs   what is done when a migration enters a phase
//! moves.rs   moves a shard by orders to the nodes
//! ```
//!
//! A node tells its phases and waits (`watershed node --stepped`), so that the boundary writes and the kill fall just
//! where they should. With `--kill` a process of its own drives the migrations, so that each part can die alone.

mod moves;
mod node;
mod stage;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

pub(in crate::cli) use stage::Kill;

use super::boundary::Boundary;
use super::cluster::{Move, copies, share};
use super::movers::{Moves, Moving};
use super::oracle::Oracle;
use super::report::Report;
use super::tally::{Period, Tally};
use super::writers::Sender;
use super::{Demo, check, stop_writers};
use crate::cli::documents::Document;
use crate::cli::failure::{Failure, Kind};
use crate::migration::{MigrationConfig, Phase};
use crate::net::{Identity, Role, Security, TlsFiles, certs};
use crate::{Admin, Client, NodeId, ShardId};
use moves::OrderedMove;
use node::{Setup, Started};
use stage::Stage;

/// The process that keeps the map of owners.
const PLACEMENT: &str = "placement";
/// The process that drives the migrations, where one is to be killed.
const DRIVER: &str = "driver";
/// How long the cluster may take to come about.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The processes.
struct Processes {
    placement: Arc<Started>,
    driver: Option<Arc<Started>>,
    /// The nodes, the added one last.
    nodes: Vec<Arc<Started>>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.all().for_each(|process| process.end());
    }
}

impl Processes {
    fn all(&self) -> impl Iterator<Item = &Arc<Started>> {
        let served = std::iter::once(&self.placement);
        served.chain(&self.driver).chain(&self.nodes)
    }

    fn start(demo: &Demo<'_>, stage: &Arc<Stage>) -> Result<Self, Failure> {
        let args = demo.args;
        let setup = Setup {
            root: demo.root.to_owned(),
            shards: args.shards,
            fail_forward: args.fail_forward,
        };
        let start = |name: &str, placement: Option<&Started>| {
            let started = Started::new(&setup, name, placement, stage.clone())?;
            stage.knows(&started);
            Ok::<_, Failure>(started)
        };
        let placement = start(PLACEMENT, None)?;
        let driver = args.kill.map(|_| start(DRIVER, Some(&placement)));
        let driver = driver.transpose()?;
        let nodes = (0..=args.nodes).map(|n| start(&super::cluster::name(n), Some(&placement)));
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            placement,
            driver,
        })
    }

    fn names(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.name().to_string())
            .collect()
    }

    fn addresses(&self) -> Vec<String> {
        self.all().map(|node| node.address()).collect()
    }
}

pub(super) fn run(
    demo: &Demo<'_>,
    documents: impl Iterator<Item = Result<Document, Failure>>,
) -> Result<Report, Failure> {
    let args = demo.args;
    certs::init(&demo.root.join("certs"), 2).map_err(failed)?;
    let (as_admin, as_client) = (
        issue(demo.root, Role::Admin)?,
        issue(demo.root, Role::Client)?,
    );
    let tally = Arc::new(Tally::new(args.shards));
    let stage = Arc::new(Stage::new(args.kill, tally.clone()));
    let processes = Processes::start(demo, &stage)?;
    let admin = Arc::new(Admin::connect(processes.addresses(), as_admin.clone())?);
    let client = Arc::new(Client::connect(processes.addresses(), as_client.clone())?);
    spread(&admin, &processes)?;
    let written = demo
        .runtime
        .block_on(write(demo, &processes, &admin, &client, documents, &stage));
    let (loaded, moves, outcome, wrote) = match written {
        Ok(written) => written,
        Err(failure) => {
            demo.watch.say(&stage.diary());
            return Err(failure);
        }
    };
    client.close();
    drop(admin);
    // All at once, as when the power fails; what is checked is what they find when they start again.
    processes.all().for_each(|process| process.kill());
    for process in processes.all() {
        process.start()?;
    }
    let client = Client::connect(processes.addresses(), as_client.clone())?;
    let admin = Admin::connect(processes.addresses(), as_admin.clone())?;
    let checked = look(demo, &processes, &admin, &client, &moves, &wrote.oracle)?;
    client.close();
    Ok(Report {
        loaded,
        nodes: processes.names(),
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
        kills: stage.kills(),
        warning: None,
    })
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Engine, error.to_string())
}

/// A certificate of the demo's authority.
fn issue(root: &Path, role: Role) -> Result<Security, Failure> {
    let dir = root.join("certs");
    let name: NodeId = "demo".parse().map_err(failed)?;
    let identity = Identity { role, name };
    let wish = certs::Wish { identity, days: 2 };
    let issued = certs::issue(&dir, &dir, &wish).map_err(failed)?;
    Ok(Security::Mutual(TlsFiles {
        authority: dir.join(certs::CA_CERTIFICATE),
        certificate: issued.certificate,
        key: issued.key,
    }))
}

type Written = (
    crate::cli::load::Loaded,
    Vec<Move>,
    super::movers::Outcome,
    super::writers::Wrote,
);

/// Loads, then writes and moves, until all writes are in and all old copies gone.
async fn write(
    demo: &Demo<'_>,
    processes: &Processes,
    admin: &Arc<Admin>,
    client: &Arc<Client>,
    documents: impl Iterator<Item = Result<Document, Failure>>,
    stage: &Arc<Stage>,
) -> Result<Written, Failure> {
    let tally = stage.tally();
    let sender = || Sender {
        data: client.clone(),
        durability: demo.args.durability.into(),
        tally: tally.clone(),
    };
    let (loaded, facts) = demo.load(&**client, documents).await?;
    let moves = plan(admin, processes)?;
    let target = processes.names().pop().unwrap_or_default();
    demo.say_plan(&target, &loaded, &moves);
    let mut moving = Vec::new();
    for step in &moves {
        let boundary = Boundary::prepare(step.shard, sender(), Handle::current()).await?;
        let boundary = Arc::new(boundary);
        stage.watch(step.shard, boundary.clone());
        moving.push(Moving {
            step: *step,
            boundary,
        });
    }
    let writers = demo.start_writers(facts, tally, |_| sender());
    let names = processes.names();
    let driver = processes
        .driver
        .as_ref()
        .map(|driver| driver.name().clone());
    let mover = |moving: &Moving| -> Result<(Move, Box<dyn Moves>), Failure> {
        let ordered = OrderedMove::new(demo, admin, &names, moving.step, driver.clone(), stage)?;
        Ok((moving.step, Box::new(ordered)))
    };
    let movers = moving.iter().map(mover).collect::<Result<_, _>>()?;
    let outcome = demo.moves(movers, tally).await;
    let (mut wrote, outcome) = stop_writers(writers, outcome, tally).await?;
    for moving in &moving {
        wrote.merge(moving.boundary.finish().await?);
    }
    Ok((loaded, moves, outcome, wrote))
}

/// Gives each of the nodes but the added one its share of the still empty shards, which the keeper of the map has made.
fn spread(admin: &Admin, processes: &Processes) -> Result<(), Failure> {
    let first = &processes.nodes[..processes.nodes.len() - 1];
    let config = MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    };
    let made: Vec<ShardId> = admin
        .status()?
        .shards
        .iter()
        .map(|shard| shard.shard)
        .collect();
    for (index, shard) in made.iter().enumerate() {
        let to = first[index % first.len()].name();
        admin.migrate(*shard, to, config.clone())?;
    }
    let until = Instant::now() + READY_WITHIN;
    loop {
        let status = admin.status()?;
        let settled = status.shards.iter().all(|shard| {
            let owned = first.iter().any(|node| *node.name() == shard.owner);
            owned && shard.moving.is_none()
        });
        if settled {
            return Ok(());
        }
        if Instant::now() > until {
            let gave_up = status.shards.iter().find_map(|shard| shard.gave_up.clone());
            let why = gave_up.unwrap_or_else(|| "they still move".into());
            let message = format!("the empty shards could not be dealt out: {why}");
            return Err(Failure::new(Kind::Engine, message));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The moves that give the added node its equal share.
fn plan(admin: &Admin, processes: &Processes) -> Result<Vec<Move>, Failure> {
    let status = admin.status()?;
    let target = processes.nodes.len() - 1;
    let owned = processes.nodes[..target].iter().map(|node| {
        let theirs = status
            .shards
            .iter()
            .filter(|shard| shard.owner == *node.name());
        theirs.map(|shard| shard.shard).collect()
    });
    Ok(share(owned.collect(), target))
}

/// Checks what the restarted processes have.
fn look(
    demo: &Demo<'_>,
    processes: &Processes,
    admin: &Admin,
    client: &Client,
    moves: &[Move],
    oracle: &Oracle,
) -> Result<check::Checked, Failure> {
    let work = demo.watch.work("checking");
    let mut checked = check::Checked::default();
    for step in moves {
        let record = admin.placement_record(step.shard)?;
        let done = record
            .migration
            .as_ref()
            .is_some_and(|m| m.phase == Phase::Done);
        let served = record.owner == *processes.nodes[step.target].name();
        let left = copies(&processes.nodes[step.source].data(), step.shard)?;
        checked.misplaced += u64::from(!served || !done) + u64::try_from(left).unwrap_or(u64::MAX);
    }
    check::contents(client, |_| client, oracle, &mut checked, &work)?;
    Ok(checked)
}

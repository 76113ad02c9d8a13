//! Migrations: the drivers, sources and targets that carry out what `watershed-migration` decides.
//!
//! Owns all I/O of a migration and none of its decisions: each decision is one of the pure machines, driven by an actor
//! here. Everything between nodes goes as an encoded request over the link, also within one process and one node.
//!
//! ```text
//! driver.rs     one task for each migration that this node drives      handle.rs   what a user holds of it
//! source/       one actor for each copy that is or was an owner        target/     one for each copy being made
//! sender.rs     live forwarding                                        pull.rs     copying the checkpoint (part.rs, throttle.rs, room.rs)
//! give_way.rs   serving it slower while it disturbs the writers          plan.rs     what a migration would do
//! ```
//!
//! On the disk: `checkpoints/` (served by a source), `incoming/` (being made by a target), `certificates/`, and notes
//! in the log of the copy concerned. The placement record says what a restart goes on with.

mod actor;
mod builder;
mod calls;
mod certificates;
mod checkpoint;
mod compare;
mod counts;
mod driver;
mod durable;
mod give_way;
mod handle;
mod last_move;
mod part;
mod peer;
mod plan;
mod pull;
mod refusal;
mod resume;
mod room;
mod sender;
mod source;
mod target;
mod tasks;
mod throttle;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use watershed_migration::messages::{RefusedKind, Request, Response};
use watershed_migration::{MigrationConfig, MigrationId};
use watershed_wal::{InstanceId, ShardId};

pub use builder::Migrate;
pub use counts::MigrationCounts;
pub(crate) use counts::MoveCounts;
pub(crate) use give_way::Foreground;
pub use handle::Migration;
pub(crate) use handle::NodeObserver;
use handle::Observer;
pub(crate) use last_move::take_over;
pub use plan::MigrationPlan;
pub(crate) use plan::answer as answer_survey;
pub(crate) use resume::resume;
pub(crate) use source::before_serving;
pub(crate) use target::files::expected_receivers;

use crate::node::Node;
use crate::shard::Role;
use crate::store::Store;
use crate::sync::lock;
use driver::Driver;
use source::Source;
use target::Target;
use tasks::Tasks;

/// A call without an answer for so long is given up; its request may be asked again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Ended migrations whose handles are still listed.
const ENDED_KEPT: usize = 64;

/// What runs of migrations on one node.
#[derive(Debug)]
pub(crate) struct Migrations {
    at_once: Arc<Semaphore>,
    defaults: MigrationConfig,
    observer: Option<NodeObserver>,
    tasks: Tasks,
    counts: MoveCounts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    drivers: Vec<Driver>,
    sources: HashMap<ShardId, Source>,
    targets: HashMap<MigrationId, Target>,
}

impl Migrations {
    /// Drives so many migrations at once; more wait. `defaults`: how they are done, unless they are told otherwise.
    /// `observer` watches those that have none of their own.
    pub(crate) fn new(
        at_once: usize,
        defaults: MigrationConfig,
        observer: Option<NodeObserver>,
    ) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
            defaults,
            observer,
            tasks: Tasks::new(),
            counts: MoveCounts::default(),
            state: Mutex::default(),
        }
    }

    fn observer(&self) -> Option<Observer> {
        self.observer.as_ref().map(|observer| observer.0.clone())
    }

    pub(crate) fn defaults(&self) -> &MigrationConfig {
        &self.defaults
    }

    /// What was counted of them since the engine was opened.
    pub(crate) fn counts(&self) -> &MoveCounts {
        &self.counts
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The migrations that this node drives or has driven lately, the oldest first.
    pub(crate) fn list(&self) -> Vec<Migration> {
        lock(&self.state)
            .drivers
            .iter()
            .map(Driver::handle)
            .collect()
    }

    /// Ends drivers, sources and targets, and waits for them. What they had begun is gone on with at the next opening.
    pub(crate) async fn stop(&self) {
        let (drivers, sources, targets) = {
            let mut state = lock(&self.state);
            state.stopped = true;
            let drivers = std::mem::take(&mut state.drivers);
            let sources: Vec<Source> = state.sources.drain().map(|(_, source)| source).collect();
            let targets: Vec<Target> = state.targets.drain().map(|(_, target)| target).collect();
            (drivers, sources, targets)
        };
        drivers.iter().for_each(Driver::stop);
        sources.iter().for_each(Source::stop);
        targets.iter().for_each(Target::stop);
        let running = || {
            !drivers.iter().all(Driver::is_stopped)
                || !sources.iter().all(Source::is_stopped)
                || !targets.iter().all(Target::is_stopped)
        };
        while running() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.tasks.idle().await;
    }

    /// Lists a driver; `None` once the node is closing.
    fn add_driver(&self, start: impl FnOnce(Arc<Semaphore>) -> Driver) -> Option<Migration> {
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        let over = state
            .drivers
            .iter()
            .filter(|driver| driver.is_stopped())
            .count();
        if over > ENDED_KEPT
            && let Some(oldest) = state.drivers.iter().position(Driver::is_stopped)
        {
            state.drivers.remove(oldest);
        }
        let driver = start(self.at_once.clone());
        let handle = driver.handle();
        state.drivers.push(driver);
        Some(handle)
    }

    /// The handle of a migration that this node drives, or has driven lately.
    pub(crate) fn driving(&self, id: MigrationId) -> Option<Migration> {
        let state = lock(&self.state);
        let mut handles = state.drivers.iter().map(Driver::handle);
        handles.find(|handle| handle.id() == id)
    }

    /// The actor of the shard's copy here that owns it or owned it.
    fn source(&self, node: &Node, shard: ShardId) -> Option<Source> {
        let hosted = node
            .hosted(shard)
            .filter(|hosted| matches!(hosted.role(), Role::Owner { .. } | Role::Frozen { .. }));
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        match (hosted, state.sources.get(&shard)) {
            (Some(hosted), Some(known))
                if known.instance == hosted.instance && !known.is_stopped() =>
            {
                Some(known.clone())
            }
            (Some(hosted), old) => {
                if let Some(old) = old {
                    old.stop();
                }
                let source = Source::start(node, hosted);
                state.sources.insert(shard, source.clone());
                Some(source)
            }
            // Its copy is deleted: it still answers who asks again.
            (None, Some(known)) => Some(known.clone()),
            (None, None) => None,
        }
    }

    /// The actor of a migration to this node; begun only for requests that may begin one.
    fn target(&self, node: &Node, request: &Request) -> Option<Target> {
        let env = request.envelope()?;
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        state.targets.retain(|_, target| !target.is_stopped());
        if let Some(target) = state.targets.get(&env.migration) {
            return Some(target.clone());
        }
        let begins = matches!(
            request,
            Request::BeginTarget { .. } | Request::DiscardTarget { .. }
        );
        begins.then(|| {
            let target = Target::start(node, env.shard);
            state.targets.insert(env.migration, target.clone());
            target
        })
    }

    fn target_of(&self, migration: MigrationId) -> Option<Target> {
        let state = lock(&self.state);
        state
            .targets
            .get(&migration)
            .filter(|target| !target.is_stopped())
            .cloned()
    }

    fn resume_target(&self, node: &Node, kept: target::files::Kept) {
        let mut state = lock(&self.state);
        if !state.stopped {
            state
                .targets
                .insert(kept.note.migration, Target::resume(node, kept.note));
        }
    }
}

/// Whom a request is for.
enum Side {
    Source,
    Target,
    /// The side that this node is in the migration.
    Either,
    Neither,
}

fn side(request: &Request) -> Side {
    match request {
        Request::Prepare { .. }
        | Request::Checkpoint { .. }
        | Request::ReadFile { .. }
        | Request::StartForward { .. }
        | Request::SourceStatus { .. }
        | Request::Ship { .. }
        | Request::Quiesce { .. }
        | Request::Drain { .. }
        | Request::Reopen { .. }
        | Request::Activate { .. }
        | Request::Release { .. }
        | Request::Retire { .. }
        | Request::AbortSource { .. } => Side::Source,
        Request::BeginTarget { .. }
        | Request::Pull { .. }
        | Request::TargetStatus { .. }
        | Request::Records { .. }
        | Request::Missing { .. }
        | Request::Verify { .. }
        | Request::BecomeOwner { .. }
        | Request::DiscardTarget { .. } => Side::Target,
        Request::ComparePage { .. } => Side::Either,
        _ => Side::Neither,
    }
}

/// Carries out a request of a migration.
pub(crate) async fn serve(node: &Node, request: Request) -> Response {
    let unknown =
        |what: &str| Response::refused(RefusedKind::Unknown, format!("node {}: {what}", node.id));
    let side = match (side(&request), request.envelope()) {
        (Side::Either, Some(env)) => match node.migrations.target_of(env.migration) {
            Some(_) => Side::Target,
            None => Side::Source,
        },
        (side, _) => side,
    };
    match side {
        Side::Source => match node.migrations.source(node, request.shard()) {
            Some(source) => source.call(request).await,
            None => match request {
                Request::Retire { env, instance } => {
                    retired_before(node, env.shard, instance).await
                }
                _ => unknown("the shard is not hosted here"),
            },
        },
        Side::Target => match node.migrations.target(node, &request) {
            Some(target) => target.call(request).await,
            None => unknown("no copy of that migration is here"),
        },
        Side::Either | Side::Neither => {
            Response::refused(RefusedKind::Unsupported, "no command of a migration")
        }
    }
}

/// A deletion asked for again after a restart that came behind it.
async fn retired_before(node: &Node, shard: ShardId, instance: InstanceId) -> Response {
    let record = node.placement.read(shard).await.ok().flatten();
    let frozen = record.and_then(|record| record.frozen);
    let decided = frozen.is_some_and(|f| f.node == node.id && f.instance == instance && f.retiring);
    if decided && node.hosted_instance(instance).is_none() {
        // The stop may have come between its records and its directory.
        let dir = node.shard_dir(shard, instance);
        let removed = node
            .migrations
            .tasks()
            .blocking(move || Ok(Store::destroy(&dir)?));
        return match removed.await {
            Ok(bytes) => Response::Retired { bytes },
            Err(error) => Response::Refused(refusal::refused(error)),
        };
    }
    Response::refused(
        RefusedKind::NotReady,
        format!("node {}: the placement does not retire this copy", node.id),
    )
}

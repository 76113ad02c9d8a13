//! The driver of one migration: a task that does what the pure machine of `watershed-migration` decides.
//!
//! One event at a time. A call, a swap or a read runs beside the task and comes back as an event, so that an
//! operator's wish is heard at any moment. Who watches is told of a phase before anything of it happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use watershed_migration::machine::{
    Action, CallError, Event, Machine, Operator, Outcome, Progress, Timer,
};
use watershed_migration::messages::Request;
use watershed_migration::source::CallId;
use watershed_migration::{
    Certificate, MigrationId, MigrationRecord, NodeId, Phase, PlacementRecord, Revision, SafeConfig,
};
use watershed_wal::ShardId;

use super::CALL_TIMEOUT;
use super::calls::Clock;
use super::certificates;
use super::handle::{Ended, Migration, Observer, Shared, Watcher};
use super::last_move;
use super::peer::{self, Peer};
use crate::Error;
use crate::node::Node;
use crate::placement::PlacementError;

/// The same for what takes as long as there are bytes.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// A running or ended driver.
#[derive(Debug)]
pub(super) struct Driver {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// What a driver is to do.
pub(super) enum Job {
    /// Begin it, once its turn has come.
    Begin(Box<Begin>),
    /// Go on with what the record says.
    Resume(Box<(SafeConfig, PlacementRecord)>),
}

/// A migration to begin.
pub(super) struct Begin {
    pub(super) id: MigrationId,
    pub(super) shard: ShardId,
    pub(super) target: NodeId,
    pub(super) config: SafeConfig,
    pub(super) started_by: String,
}

pub(super) enum Input {
    Event(Box<Event>),
    Fired(Timer, u64),
    /// The turn of a migration that is to be resumed has come.
    Turn(OwnedSemaphorePermit),
    /// Another driver has taken over and brought it to its end.
    Over,
}

impl Driver {
    pub(super) fn start(
        node: &Node,
        at_once: Arc<Semaphore>,
        first: Progress,
        certificate: Option<Certificate>,
        observer: Option<Observer>,
        job: Job,
    ) -> Self {
        let (inbox, events) = mpsc::unbounded_channel();
        let shared = Shared::new(first, certificate, inbox.clone());
        let observer = observer.or_else(|| node.migrations.observer());
        let watcher = observer.map(Watcher::start);
        let run = Run {
            node: node.clone(),
            shared: shared.clone(),
            watcher,
            clock: Clock::start(),
            inbox,
            events,
            beside: JoinSet::new(),
            counted: shared.progress(),
            timers: HashMap::new(),
            last_timer: 0,
            turn: None,
            resuming: false,
        };
        let task = node.runtime.spawn(run.run(job, at_once));
        Self {
            shared,
            task: task.abort_handle(),
        }
    }

    pub(super) fn handle(&self) -> Migration {
        Migration::new(self.shared.clone())
    }

    pub(super) fn stop(&self) {
        self.task.abort();
        self.shared.end(Ended::Closed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.task.is_finished()
    }
}

struct Run {
    node: Node,
    shared: Arc<Shared>,
    watcher: Option<Watcher>,
    clock: Clock,
    inbox: mpsc::UnboundedSender<Input>,
    events: mpsc::UnboundedReceiver<Input>,
    beside: JoinSet<()>,
    /// What the node's counters have of it.
    counted: Progress,
    timers: HashMap<Timer, u64>,
    last_timer: u64,
    /// Waits for the turn of a paused migration that is to be resumed.
    turn: Option<AbortHandle>,
    /// Its turn has come, and the record does not say yet that it goes on.
    resuming: bool,
}

impl Run {
    async fn run(mut self, job: Job, at_once: Arc<Semaphore>) {
        self.tell(self.shared.progress()).await;
        if let Job::Begin(begin) = &job
            && let Err(error) = last_move::end_cleanup(&self.node, begin.shard).await
        {
            return self.shared.end(Ended::Failed(error.into()));
        }
        let Ok(permit) = at_once.clone().acquire_owned().await else {
            return;
        };
        let mut permit = Some(permit);
        let mut machine = match self.machine(job).await {
            Ok(machine) => machine,
            Err(error) => return self.shared.end(Ended::Failed(error.into())),
        };
        // What was shipped before a restart was counted then.
        self.counted = machine.progress().clone();
        machine.start(self.clock.now());
        let mut changes = self.node.placement.watch();
        loop {
            while let Some(action) = machine.next_action() {
                if let Action::Finish(outcome) = action {
                    let served = machine.progress().phase >= Phase::Cleanup;
                    if served && matches!(outcome, Outcome::Superseded { .. }) {
                        drop(permit.take());
                        return self.until_over(&machine, changes).await;
                    }
                    self.node.migrations.counts().ended(&outcome);
                    return self.finish(&machine, outcome);
                }
                self.act(action).await;
            }
            let cleaning = machine.progress().phase >= Phase::Cleanup;
            self.resuming &= machine.progress().paused;
            if cleaning || (machine.progress().paused && !self.resuming) {
                // What is left is mostly waiting: another may begin.
                drop(permit.take());
            }
            let input = tokio::select! {
                input = self.events.recv() => input,
                Ok(()) = changes.changed(), if cleaning => {
                    self.look_whether_over();
                    continue;
                }
            };
            let Some(input) = input else {
                return;
            };
            let event = match input {
                Input::Event(event) => *event,
                Input::Turn(turn) => {
                    permit = Some(turn);
                    self.turn = None;
                    self.resuming = true;
                    machine.handle(self.clock.now(), Event::Operator(Operator::Resume));
                    continue;
                }
                Input::Fired(timer, number) if self.timers.get(&timer) == Some(&number) => {
                    self.timers.remove(&timer);
                    Event::Timer(timer)
                }
                Input::Fired(..) => continue,
                Input::Over => return self.over(&machine).await,
            };
            self.resuming &= !matches!(event, Event::Operator(Operator::Pause));
            let waits = permit.is_none() && !cleaning && machine.progress().paused;
            if waits && self.waits_for_turn(&event, &at_once) {
                continue;
            }
            machine.handle(self.clock.now(), event);
            while self.beside.try_join_next().is_some() {}
        }
    }

    /// A paused migration that is to be resumed waits for its turn; another pause ends that.
    fn waits_for_turn(&mut self, event: &Event, at_once: &Arc<Semaphore>) -> bool {
        match event {
            Event::Operator(Operator::Pause) => {
                if let Some(turn) = self.turn.take() {
                    turn.abort();
                }
                true
            }
            Event::Operator(Operator::Resume) if self.turn.is_some() => true,
            Event::Operator(Operator::Resume) => {
                let (turn, inbox) = (at_once.clone().acquire_owned(), self.inbox.clone());
                self.turn = Some(self.beside.spawn(async move {
                    if let Ok(turn) = turn.await {
                        let _ = inbox.send(Input::Turn(turn));
                    }
                }));
                true
            }
            _ => false,
        }
    }

    async fn machine(&self, job: Job) -> Result<Machine, Error> {
        match job {
            Job::Begin(begin) => {
                let Begin {
                    id,
                    shard,
                    target,
                    config,
                    started_by,
                } = *begin;
                let record = self
                    .node
                    .placement
                    .read(shard)
                    .await?
                    .ok_or(Error::NoShard { shard })?;
                let migration = MigrationRecord::new(
                    id,
                    &record,
                    target,
                    self.node.id.clone(),
                    &config,
                    started_by,
                );
                Ok(Machine::new(config, record, migration))
            }
            Job::Resume(resume) => {
                let (config, record) = *resume;
                let shard = record.shard;
                Machine::resume(config, record, self.node.id.clone())
                    .ok_or(Error::NoShard { shard })
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Send {
                call,
                node,
                request,
                ..
            } => self.send(call, node, *request),
            Action::Swap { expected, record } => self.swap(expected, record),
            Action::ReadPlacement => self.read(),
            Action::SetTimer { timer, at } => {
                self.last_timer += 1;
                let number = self.last_timer;
                self.timers.insert(timer, number);
                let (inbox, at) = (self.inbox.clone(), self.clock.instant(at));
                self.beside.spawn(async move {
                    tokio::time::sleep_until(at).await;
                    let _ = inbox.send(Input::Fired(timer, number));
                });
            }
            Action::Progress(progress) => self.tell(*progress).await,
            Action::Certified(certificate) => self.certified(*certificate).await,
            // Handled by the loop.
            Action::Finish(_) => {}
        }
    }

    async fn tell(&mut self, progress: Progress) {
        let before = self.shared.set_progress(progress.clone());
        let counts = self.node.migrations.counts();
        counts.shipped(&self.counted, &progress);
        self.counted.clone_from(&progress);
        if before.phase != progress.phase {
            tracing::info!(migration = %progress.migration, shard = %progress.shard, phase = %progress.phase, attempt = %progress.attempt, "migration");
        }
        if let Some(watcher) = &self.watcher {
            watcher.show(progress).await;
        }
    }

    fn send(&mut self, call: CallId, to: NodeId, request: Request) {
        let long = matches!(
            request,
            Request::Checkpoint { .. } | Request::Ship { .. } | Request::Retire { .. }
        );
        let timeout = if long {
            LONG_CALL_TIMEOUT
        } else {
            CALL_TIMEOUT
        };
        let (peer, inbox) = (Peer::new(&self.node, to), self.inbox.clone());
        self.beside.spawn(async move {
            let event = match peer.call_within(timeout, request).await {
                Ok(response) => Event::Replied {
                    call,
                    response: Box::new(response),
                },
                Err(error) => {
                    tracing::debug!(to = %peer.id(), %error, "a call of a migration got no answer");
                    let error = match error {
                        peer::CallError::Wire { .. } => CallError::Garbled,
                        _ => CallError::Unreachable,
                    };
                    Event::Failed { call, error }
                }
            };
            let _ = inbox.send(Input::Event(Box::new(event)));
        });
    }

    fn swap(&mut self, expected: Revision, record: Box<PlacementRecord>) {
        let (placement, inbox) = (self.node.placement.clone(), self.inbox.clone());
        self.beside.spawn(async move {
            let event = match placement.swap(Some(expected), *record).await {
                Ok(record) => Event::Swapped(Box::new(record)),
                Err(PlacementError::Conflict {
                    current: Some(record),
                    ..
                }) => Event::SwapConflict(record),
                Err(error) => {
                    tracing::warn!(%error, "a swap gave no outcome: the record is read again");
                    Event::SwapUnknown
                }
            };
            let _ = inbox.send(Input::Event(Box::new(event)));
        });
    }

    fn read(&mut self) {
        let (placement, inbox) = (self.node.placement.clone(), self.inbox.clone());
        let shard = self.shared.shard();
        self.beside.spawn(async move {
            let event = match placement.read(shard).await {
                Ok(Some(record)) => Event::PlacementRead(Box::new(record)),
                Ok(None) => Event::PlacementUnread,
                Err(error) => {
                    tracing::warn!(%shard, %error, "the placement can't be read");
                    Event::PlacementUnread
                }
            };
            let _ = inbox.send(Input::Event(Box::new(event)));
        });
    }

    /// Another driver carries the Cleanup out: who waits here waits for that.
    async fn until_over(mut self, machine: &Machine, mut changes: watch::Receiver<u64>) {
        loop {
            self.look_whether_over();
            tokio::select! {
                input = self.events.recv() => match input {
                    Some(Input::Over) => return self.over(machine).await,
                    Some(_) => {}
                    None => return,
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            while self.beside.try_join_next().is_some() {}
        }
    }

    async fn over(&mut self, machine: &Machine) {
        let mut progress = machine.progress().clone();
        progress.phase = Phase::Done;
        self.tell(progress).await;
        self.finish(machine, Outcome::Done);
    }

    /// In Cleanup another node may take over, since the shard is to move again; who waits here is told of the end.
    fn look_whether_over(&mut self) {
        let (placement, inbox) = (self.node.placement.clone(), self.inbox.clone());
        let (me, id, shard) = (self.node.id.clone(), self.shared.id(), self.shared.shard());
        self.beside.spawn(async move {
            // What can't be read now is read again by the machine, when the grace time is over.
            let record = placement.read(shard).await.ok().flatten();
            let over = record.is_some_and(|record| match &record.migration {
                Some(m) if m.id == id => m.driver != me && m.phase == Phase::Done,
                _ => true,
            });
            if over {
                let _ = inbox.send(Input::Over);
            }
        });
    }

    /// The target serves: the certificate is on the disk before anybody is told.
    async fn certified(&self, certificate: Certificate) {
        let (data, id) = (self.node.dir.clone(), certificate.migration);
        let document = certificate.clone();
        let written = self
            .node
            .migrations
            .tasks()
            .blocking(move || certificates::write(&data, id, &document))
            .await;
        if let Err(error) = written {
            // The placement holds it too; the migration stands.
            tracing::error!(migration = %id, %error, "the certificate could not be written");
        }
        self.shared.set_certificate(certificate);
    }

    fn finish(&self, machine: &Machine, outcome: Outcome) {
        let progress = machine.progress();
        let shard = progress.shard;
        let ended = match outcome {
            Outcome::Done => {
                tracing::info!(migration = %progress.migration, %shard, "migration done: the old copy is deleted");
                Ended::Done
            }
            Outcome::Aborted { reason } | Outcome::NotBegun { reason } => {
                tracing::warn!(migration = %progress.migration, %shard, reason, "migration aborted");
                Ended::Failed(Error::MigrationAborted { shard, reason }.into())
            }
            Outcome::Superseded { driver } => {
                let who = driver.map_or_else(
                    || "another migration".to_owned(),
                    |(node, term)| format!("node {node} (term {term})"),
                );
                let reason = format!("{who} has taken over; ask there how it goes on");
                Ended::Failed(Error::MigrationAborted { shard, reason }.into())
            }
            Outcome::CopiesDiffer { found, differences } => {
                tracing::error!(migration = %progress.migration, %shard, found, ?differences, "the old copy differs from the new owner's");
                let what = format!(
                    "{found} entries of the old copy differ from the new owner's; the old copy is kept: compare them before deleting it"
                );
                Ended::Failed(Error::inconsistent(shard, what).into())
            }
            other => {
                let reason = format!("it ended in an unknown way: {other:?}");
                Ended::Failed(Error::MigrationAborted { shard, reason }.into())
            }
        };
        self.shared.end(ended);
    }
}

/// An operator's wish, as the driver takes it.
pub(super) fn wish(operator: Operator) -> Input {
    Input::Event(Box::new(Event::Operator(operator)))
}

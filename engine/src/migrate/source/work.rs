//! What a source does beside its role: holds, the checkpoint and its chunks, forwarding, the drain.
//! Delta rounds are in `ship.rs`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use watershed_migration::messages::{
    Envelope, Manifest, Refused, RefusedKind, Request, Response, SourceState,
};
use watershed_migration::source::DrainedMarks;
use watershed_migration::{MigrationConfig, MigrationId, MigrationRecord, NodeId, PlacementRecord};
use watershed_wal::{Completion, HoldBudget, InstanceId, Seq};

use crate::Error;
use crate::migrate::actor;
use crate::migrate::checkpoint::{self, Served};
use crate::migrate::compare;
use crate::migrate::give_way::Pace;
use crate::migrate::peer::Peer;
use crate::migrate::refusal::refused;
use crate::migrate::sender::{Counts, Sender};
use crate::node::Node;
use crate::shard::{Hosted, Role};
use crate::sync::lock;

/// The part of the pause's bound that the drain waits for forwards in flight: one fifth, then they are holes.
const SETTLE_PART: u64 = 5;

/// The state of one copy's migration that the role does not need.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) node: Node,
    pub(super) hosted: Arc<Hosted>,
    state: Mutex<State>,
    /// One checkpoint is made at a time; a repeated command waits for the first.
    checkpoint: tokio::sync::Mutex<Option<Arc<Served>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest envelope: forwarded records carry it.
    env: Option<Arc<Mutex<Envelope>>>,
    target: Option<NodeId>,
    config: Option<MigrationConfig>,
    /// Lets chunks out one after the other, where the copy is to give way to writers.
    pace: Option<Arc<tokio::sync::Mutex<Pace>>>,
    sender: Option<Sender>,
    sending_to: Option<InstanceId>,
    counts: Option<Counts>,
}

fn hold_name(migration: MigrationId) -> String {
    format!("migration-{migration}")
}

impl Work {
    pub(super) fn new(node: Node, hosted: Arc<Hosted>) -> Self {
        Self {
            node,
            hosted,
            state: Mutex::default(),
            checkpoint: tokio::sync::Mutex::default(),
        }
    }

    /// Keeps the newest envelope; another migration's takes the place of the last one's state.
    pub(super) fn note_envelope(&self, env: &Envelope) {
        let mut state = lock(&self.state);
        match &state.env {
            Some(known) if lock(known).migration == env.migration => {
                let mut known = lock(known);
                if (env.driver_term, env.attempt) > (known.driver_term, known.attempt) {
                    *known = *env;
                }
            }
            _ => {
                *state = State {
                    env: Some(Arc::new(Mutex::new(*env))),
                    ..State::default()
                };
            }
        }
    }

    /// Keeps the options as the record has them: an operator may have changed limits.
    pub(super) fn note_config(&self, record: &PlacementRecord) {
        let ours = |m: &&MigrationRecord| self.is_for(m.id);
        if let Some(migration) = record.migration.as_ref().filter(ours) {
            lock(&self.state).config = Some(migration.config.clone());
        }
    }

    /// The newest envelope, where a migration was prepared.
    pub(super) fn envelope(&self) -> Option<Envelope> {
        lock(&self.state).env.as_ref().map(|env| *lock(env))
    }

    pub(super) fn is_for(&self, migration: MigrationId) -> bool {
        lock(&self.state)
            .env
            .as_ref()
            .is_some_and(|env| lock(env).migration == migration)
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refused> {
        actor::blocking(&self.node, work).await
    }

    /// Carries a request out that changes no state of the role.
    pub(super) async fn perform(self: &Arc<Self>, request: Request) -> Result<Response, Refused> {
        match request {
            Request::Prepare {
                env,
                target,
                config,
            } => self.prepare(env, target, config).await,
            Request::Checkpoint { env } => self.make_checkpoint(env).await,
            Request::ReadFile {
                env,
                name,
                offset,
                len,
            } => self.read_file(env, name, offset, len).await,
            Request::StartForward {
                target_instance, ..
            } => self.start_forward(target_instance).await,
            Request::SourceStatus { .. } => Ok(Response::SourceState(self.status())),
            Request::Ship {
                ranges, max_bytes, ..
            } => self.ship(ranges, max_bytes).await,
            Request::ComparePage { after, limit, .. } => {
                let store = self.hosted.store().map_err(refused)?;
                self.blocking(move || compare::page(&store, after.as_deref(), limit))
                    .await
            }
            other => Err(Refused::new(
                RefusedKind::Unsupported,
                format!("{} is not for a source", other.name()),
            )),
        }
    }

    /// Checks the ownership and puts the hold, durably and before any checkpoint (rule 14).
    async fn prepare(
        &self,
        env: Envelope,
        target: NodeId,
        config: MigrationConfig,
    ) -> Result<Response, Refused> {
        let Role::Owner { term } = self.hosted.role() else {
            return Err(Refused::new(
                RefusedKind::NotOwner,
                "this copy does not own the shard",
            ));
        };
        let hosted = self.hosted.clone();
        let budget = HoldBudget {
            // A target that lags must never fill the log: its owner's clients would be refused.
            bytes: config.hold_bytes.min(self.node.log.status().limit / 2),
            time: Duration::from_millis(config.hold_ms),
        };
        {
            let mut state = lock(&self.state);
            state.target = Some(target);
            state.config = Some(config);
        }
        let name = hold_name(env.migration);
        let (applied, bytes_estimate) = self
            .blocking(move || {
                let store = hosted.store()?;
                let applied = store.applied().seq;
                let held = hosted
                    .log
                    .holds()
                    .iter()
                    .any(|hold| hold.name == name && !hold.expired);
                if !held {
                    // A checkpoint made from now on ends at or after what is applied now.
                    hosted.log.hold(&name, applied, budget)?;
                }
                let stats = store.stats()?;
                Ok((applied, stats.sst_bytes + stats.memtable_bytes))
            })
            .await?;
        Ok(Response::Prepared {
            source_instance: self.hosted.instance,
            epoch: term.epoch,
            assigned: self.hosted.log.watermarks().assigned,
            applied,
            bytes_estimate,
            terms: self.hosted.log.terms(),
        })
    }

    async fn make_checkpoint(&self, env: Envelope) -> Result<Response, Refused> {
        let mut slot = self.checkpoint.lock().await;
        let served = match slot
            .as_ref()
            .filter(|served| served.manifest.migration == env.migration)
        {
            Some(served) => served.clone(),
            None => {
                let name = hold_name(env.migration);
                if !self
                    .hosted
                    .log
                    .holds()
                    .iter()
                    .any(|hold| hold.name == name && !hold.expired)
                {
                    return Err(Refused::new(
                        RefusedKind::Gap,
                        "the migration's hold on the log is gone: start it again",
                    ));
                }
                let (hosted, data) = (self.hosted.clone(), self.node.dir.clone());
                let made = self.blocking(move || {
                    let store = hosted.store()?;
                    Served::open_or_make(
                        &data,
                        env.migration,
                        hosted.shard,
                        hosted.instance,
                        &store,
                    )
                });
                Arc::new(made.await?)
            }
        };
        // Applied may run ahead of durable; nothing leaves before it is durable (rule 2).
        self.durable(served.manifest.base).await.map_err(refused)?;
        *slot = Some(served.clone());
        let manifest = &served.manifest;
        Ok(Response::CheckpointMade(Manifest {
            base: manifest.base,
            digest: manifest.digest,
            files: manifest.files.clone(),
            terms: manifest.terms.clone(),
        }))
    }

    /// The checkpoint of this migration, after a restart from the disk.
    async fn served(&self, migration: MigrationId) -> Result<Arc<Served>, Refused> {
        let mut slot = self.checkpoint.lock().await;
        if let Some(served) = slot
            .as_ref()
            .filter(|served| served.manifest.migration == migration)
        {
            return Ok(served.clone());
        }
        let data = self.node.dir.clone();
        let found = self
            .blocking(move || Served::open(&data, migration))
            .await?;
        match found.filter(|found| found.manifest.instance == self.hosted.instance) {
            Some(found) => Ok(slot.insert(Arc::new(found)).clone()),
            None => Err(Refused::new(
                RefusedKind::NotReady,
                "no checkpoint of this migration is here: ask for one",
            )),
        }
    }

    async fn read_file(
        &self,
        env: Envelope,
        name: String,
        offset: u64,
        len: u32,
    ) -> Result<Response, Refused> {
        const CHUNK_MAX: u32 = 8 << 20;
        let served = self.served(env.migration).await?;
        self.give_way().await;
        let chunk = self
            .blocking(move || served.read(&name, offset, len.min(CHUNK_MAX)))
            .await?;
        let Some(bytes) = chunk else {
            return Err(Refused::new(
                RefusedKind::Conflict,
                "the checkpoint has no such file, or it is shorter",
            ));
        };
        let crc32 = crc32fast::hash(&bytes);
        Ok(Response::FileChunk { bytes, crc32 })
    }

    /// Waits for the writers of this node, where the migration's options say so.
    async fn give_way(&self) {
        let (pace, percent) = {
            let mut state = lock(&self.state);
            let config = state.config.as_ref();
            let Some(percent) = config.and_then(|config| config.adaptive_percent) else {
                return;
            };
            let start = || Arc::new(Pace::start(self.node.foreground.clone()).into());
            (state.pace.get_or_insert_with(start).clone(), percent)
        };
        pace.lock().await.turn(percent).await;
    }

    /// Forwards what becomes durable from now on; what is durable already and missing there, delta rounds ship.
    async fn start_forward(&self, target_instance: InstanceId) -> Result<Response, Refused> {
        let target = self.target().await?;
        let mut state = lock(&self.state);
        if state.sender.is_some() && state.sending_to == Some(target_instance) {
            return Ok(Response::Ok);
        }
        let Some(env) = state.env.clone() else {
            return Err(Refused::new(
                RefusedKind::NotReady,
                "no migration was prepared",
            ));
        };
        let peer = Peer::new(&self.node, target);
        let from = self.hosted.log.watermarks().durable;
        state.sender = Some(Sender::start(
            &self.node.runtime,
            self.hosted.log.clone(),
            peer,
            env,
            from,
        ));
        state.sending_to = Some(target_instance);
        Ok(Response::Ok)
    }

    /// The target's node: told by `Prepare`, after a restart by the placement.
    pub(super) async fn target(&self) -> Result<NodeId, Refused> {
        if let Some(target) = &lock(&self.state).target {
            return Ok(target.clone());
        }
        let record = self
            .node
            .placement
            .read(self.hosted.shard)
            .await
            .map_err(|error| refused(error.into()))?;
        let Some(migration) = record
            .and_then(|record| record.migration)
            .filter(|m| self.is_for(m.id))
        else {
            return Err(Refused::new(
                RefusedKind::Unknown,
                "the placement knows no such migration",
            ));
        };
        let mut state = lock(&self.state);
        state.config = Some(migration.config);
        state.target = Some(migration.target.clone());
        Ok(migration.target)
    }

    fn status(&self) -> SourceState {
        let marks = self.hosted.log.watermarks();
        let state = lock(&self.state);
        let counts = state
            .sender
            .as_ref()
            .map(Sender::counts)
            .or(state.counts)
            .unwrap_or_default();
        SourceState {
            forwarding: state.sender.is_some(),
            quiesced: !self.hosted.log.gate_is_open(),
            assigned: marks.assigned,
            durable: marks.durable,
            applied: self.hosted.visible(),
            forwarded: counts.forwarded,
            forward_failed: counts.failed,
        }
    }

    /// Waits until durable = applied = `f`, and for the forwards in flight as long as the pause allows.
    pub(super) async fn drain(
        &self,
        f: Seq,
        note: Option<Completion>,
    ) -> Result<DrainedMarks, String> {
        let drained = async {
            if let Some(note) = note {
                note.await?;
            }
            self.durable(f).await?;
            self.hosted.wait_applied(f).await?;
            Ok::<_, Error>(())
        };
        drained.await.map_err(|error| error.to_string())?;
        let (settled, pause_max_ms, migration) = {
            let state = lock(&self.state);
            let pause_max_ms = state
                .config
                .as_ref()
                .map_or(MigrationConfig::default().pause_max_ms, |c| c.pause_max_ms);
            let migration = state.env.as_ref().map(|env| lock(env).migration);
            (
                state.sender.as_ref().map(|sender| sender.settled(f)),
                pause_max_ms,
                migration,
            )
        };
        if let Some(settled) = settled {
            // What is not acknowledged by then is a hole, which the delta pass ships.
            let _ =
                tokio::time::timeout(Duration::from_millis(pause_max_ms / SETTLE_PART), settled)
                    .await;
        }
        let migration = migration.ok_or("no migration was prepared")?;
        let served = self
            .served(migration)
            .await
            .map_err(|refused| refused.message)?;
        let applied = self
            .hosted
            .store()
            .map_err(|error| error.to_string())?
            .applied();
        Ok(DrainedMarks {
            term: applied.term,
            base: served.manifest.base,
            digest_base: served.manifest.digest,
            durable: self.hosted.log.watermarks().durable,
            applied: applied.seq,
            digest: applied.digest,
        })
    }

    async fn durable(&self, seq: Seq) -> Result<(), Error> {
        let log = &self.hosted.log;
        if log.watermarks().durable >= seq {
            return Ok(());
        }
        // Buffered writes are synced in the background only now and then: this one doesn't wait for that.
        let node = self.node.clone();
        self.node
            .migrations
            .tasks()
            .blocking(move || Ok(node.log.sync()?))
            .await?;
        while log.watermarks().durable < seq {
            log.durable_past(log.watermarks().durable).await?;
        }
        Ok(())
    }

    /// The shard is given away: nothing more will be forwarded.
    pub(super) fn forward_no_more(&self) {
        let mut state = lock(&self.state);
        state.counts = state.sender.as_ref().map(Sender::counts).or(state.counts);
        state.sender = None;
    }

    /// Ends forwarding, and drops the hold and the checkpoint.
    pub(super) async fn stop_forwarding(&self) {
        self.forward_no_more();
        let Some(migration) = lock(&self.state)
            .env
            .as_ref()
            .map(|env| lock(env).migration)
        else {
            return;
        };
        let mut slot = self.checkpoint.lock().await;
        *slot = None;
        lock(&self.state).pace = None;
        let (log, data, name) = (
            self.hosted.log.clone(),
            self.node.dir.clone(),
            hold_name(migration),
        );
        let done = self.blocking(move || {
            if log.holds().iter().any(|hold| hold.name == name) {
                log.release_hold(&name)?;
            }
            checkpoint::remove(&data, migration)
        });
        if let Err(refused) = done.await {
            tracing::warn!(shard = %self.hosted.shard, %migration, error = refused.message, "what a migration kept is removed at the next opening");
        }
    }
}

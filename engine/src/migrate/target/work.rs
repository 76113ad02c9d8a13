//! What a target does beside its role: the copy's files, its records, its marks, its term.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use watershed_migration::messages::{
    Envelope, MARKS_MISSING_MAX, Manifest, RANGES_MAX, Refused, RefusedKind, Request, Response,
    TargetState,
};
use watershed_migration::target::{TargetNote, VerifiedMarks};
use watershed_migration::{MigrationId, PlacementRecord};
use watershed_wal::{Epoch, InstanceId, Record, Seq, SeqRange, ShardId, Term};

use super::copy::{self, Copy};
use super::files::{self, Kept};
use crate::Error;
use crate::migrate::actor;
use crate::migrate::refusal::refused;
use crate::migrate::room::spare_bytes;
use crate::migrate::throttle::Speed;
use crate::migrate::{compare, durable};
use crate::node::Node;
use crate::shard::{Hosted, Role};
use crate::store::Applied;
use crate::sync::lock;

/// How long a verification waits for records that are here to be applied: within any pause.
const APPLY_WAIT: Duration = Duration::from_millis(500);

/// The state of one copy that the role does not need.
#[derive(Debug)]
pub(super) struct Work {
    node: Node,
    shard: ShardId,
    instance: InstanceId,
    state: Arc<Mutex<State>>,
    copied: Arc<AtomicU64>,
    speed: watch::Sender<Speed>,
}

#[derive(Debug, Default)]
struct State {
    note: Option<TargetNote>,
    manifest: Option<Manifest>,
    pull: Option<AbortHandle>,
    /// The newest envelope: the copy asks with it.
    env: Option<Arc<Mutex<Envelope>>>,
    opened: bool,
    error: Option<String>,
}

impl Work {
    pub(super) fn new(node: &Node, shard: ShardId, instance: InstanceId) -> Self {
        Self {
            node: node.clone(),
            shard,
            instance,
            state: Arc::default(),
            copied: Arc::default(),
            speed: watch::Sender::default(),
        }
    }

    pub(super) const fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn migration(&self) -> Option<MigrationId> {
        lock(&self.state).note.as_ref().map(|note| note.migration)
    }

    /// Takes up what was kept on the disk.
    pub(super) fn resume(&self, note: &TargetNote) {
        let kept = files::read(&self.node.dir, note.migration).ok().flatten();
        let mut state = lock(&self.state);
        state.note = Some(note.clone());
        state.manifest = kept.and_then(|kept| kept.manifest);
        state.opened = self.hosted().is_ok_and(|hosted| hosted.store().is_ok());
    }

    fn hosted(&self) -> Result<Arc<Hosted>, Refused> {
        self.node.hosted_instance(self.instance).ok_or_else(|| {
            Refused::new(
                RefusedKind::NotReady,
                "the copy is not hosted yet: send the checkpoint first",
            )
        })
    }

    fn manifest(&self) -> Result<Manifest, Refused> {
        let manifest = lock(&self.state).manifest.clone();
        manifest.ok_or_else(|| Refused::new(RefusedKind::NotReady, "no checkpoint was sent yet"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refused> {
        actor::blocking(&self.node, work).await
    }

    /// Keeps the note, durably. Gives the bytes free on the disk.
    pub(super) async fn begin(&self, note: TargetNote) -> Result<u64, String> {
        let (data, kept) = (
            self.node.dir.clone(),
            Kept {
                note,
                manifest: None,
            },
        );
        lock(&self.state).note = Some(kept.note.clone());
        let begun = self.blocking(move || {
            files::write(&data, &kept)?;
            spare_bytes(&data)
        });
        begun.await.map_err(|refused| refused.message)
    }

    /// Carries a request out that changes no state of the role.
    pub(super) async fn perform(&self, request: Request) -> Result<Response, Refused> {
        if let Some(env) = request.envelope() {
            self.note_envelope(env);
        }
        match request {
            Request::Pull { env, manifest } => self.pull(env, manifest).await,
            Request::TargetStatus { .. } => Ok(Response::TargetState(self.status())),
            Request::Records { records, .. } => self.receive(records).await,
            Request::Missing { through, .. } => self.missing(through),
            Request::ComparePage { after, limit, .. } => {
                let store = self.hosted()?.store().map_err(refused)?;
                self.blocking(move || compare::page(&store, after.as_deref(), limit))
                    .await
            }
            other => Err(Refused::new(
                RefusedKind::Unsupported,
                format!("{} is not for a target", other.name()),
            )),
        }
    }

    /// Hosts the copy in the log, so that records may come, and fetches the files beside.
    async fn pull(&self, env: Envelope, manifest: Manifest) -> Result<Response, Refused> {
        self.look().await?;
        let note = {
            let mut state = lock(&self.state);
            let Some(note) = state.note.clone() else {
                return Err(Refused::new(
                    RefusedKind::NotReady,
                    "the copy was not begun",
                ));
            };
            match &state.manifest {
                Some(known) if *known != manifest => {
                    return Err(Refused::new(
                        RefusedKind::Conflict,
                        "another checkpoint than the one begun with",
                    ));
                }
                _ => state.manifest = Some(manifest.clone()),
            }
            let running = state.pull.as_ref().is_some_and(|pull| !pull.is_finished());
            if state.opened || running {
                return Ok(Response::Ok);
            }
            state.error = None;
            note
        };
        let (node, kept) = (
            self.node.clone(),
            Kept {
                note: note.clone(),
                manifest: Some(manifest.clone()),
            },
        );
        let begun = self.blocking(move || {
            files::write(&node.dir, &kept)?;
            durable::make_dir(&files::dir(&node.dir, kept.note.migration))?;
            let (note, manifest) = (kept.note, &manifest);
            node.install_receiver(
                note.shard,
                note.instance,
                mark(manifest),
                manifest.terms.clone(),
            )
        });
        begun.await?;
        let (speed, copied) = (self.speed.clone(), self.copied.clone());
        let env = Arc::new(Mutex::new(env));
        lock(&self.state).env = Some(env.clone());
        let copy = Copy::new(&self.node, env, note, self.manifest()?, speed, copied);
        let state = self.state.clone();
        let shard = self.shard;
        let task = self.node.runtime.spawn(async move {
            match copy.run().await {
                Ok(()) => lock(&state).opened = true,
                Err(error) => {
                    tracing::warn!(%shard, %error, "a copy of a checkpoint stopped");
                    lock(&state).error = Some(error.to_string());
                }
            }
        });
        lock(&self.state).pull = Some(task.abort_handle());
        Ok(Response::Ok)
    }

    fn note_envelope(&self, env: &Envelope) {
        if let Some(known) = &lock(&self.state).env {
            let mut known = lock(known);
            if (env.driver_term, env.attempt) > (known.driver_term, known.attempt) {
                *known = *env;
            }
        }
    }

    /// Takes the copy's speed from the placement.
    async fn look(&self) -> Result<(), Refused> {
        let read = self.node.placement.read(self.shard).await;
        if let Some(record) = read.map_err(|error| refused(error.into()))? {
            self.steer(&record);
        }
        Ok(())
    }

    /// What the record says of this migration goes for its copy, also while it runs.
    pub(super) fn steer(&self, record: &PlacementRecord) {
        let note = lock(&self.state).note.clone();
        if let Some(note) = note {
            copy::steer(&self.speed, &note, record);
        }
    }

    fn status(&self) -> TargetState {
        let hosted = self.hosted().ok();
        let state = lock(&self.state);
        let base = state.manifest.as_ref().map(|manifest| manifest.base);
        let from = base.unwrap_or_default();
        let has = hosted
            .as_ref()
            .map(|hosted| hosted.log.has())
            .unwrap_or_default();
        let total_bytes = state.manifest.as_ref().map_or(0, Manifest::total_bytes);
        TargetState {
            copied_bytes: if state.opened {
                total_bytes
            } else {
                self.copied.load(Ordering::Relaxed)
            },
            total_bytes,
            opened: state.opened,
            base,
            has_max: has.max(),
            durable: has.contiguous_after(from),
            applied: hosted
                .and_then(|hosted| hosted.applied())
                .map_or(from, |applied| applied.seq),
            files: state
                .manifest
                .as_ref()
                .filter(|_| state.opened)
                .map(|m| m.files.clone())
                .unwrap_or_default(),
            error: state.error.clone(),
        }
    }

    /// Keeps records; durable when it returns.
    async fn receive(&self, records: Bytes) -> Result<Response, Refused> {
        let hosted = self.hosted()?;
        let epoch = lock(&self.state).note.as_ref().map(|note| note.epoch);
        let records = Record::decode_many(&records).map_err(|error| {
            Refused::new(
                RefusedKind::Damaged,
                format!("the records can't be read: {error}"),
            )
        })?;
        if records
            .iter()
            .any(|record| Some(record.term().epoch) != epoch)
        {
            return Err(Refused::new(
                RefusedKind::StaleEpoch,
                "records of another epoch than the source's",
            ));
        }
        let base = hosted.log.base();
        let records: Vec<Record> = records
            .into_iter()
            .filter(|record| record.seq() > base)
            .collect();
        let stored = records.len() as u64;
        if !records.is_empty() {
            hosted.receive(records).await.map_err(refused)?;
        }
        let durable_contiguous = hosted.log.watermarks().durable;
        Ok(Response::RecordsAck {
            durable_contiguous,
            stored,
        })
    }

    fn missing(&self, through: Seq) -> Result<Response, Refused> {
        let (hosted, base) = (self.hosted()?, self.manifest()?.base);
        let has = hosted.log.has();
        let mut ranges = Vec::new();
        if let Some(within) = SeqRange::after(base, through) {
            ranges.extend(has.missing_iter(within).take(RANGES_MAX + 1));
        }
        let more = ranges.len() > RANGES_MAX;
        ranges.truncate(RANGES_MAX);
        Ok(Response::MissingRanges { ranges, more })
    }

    /// How the copy stands at F, once what is here was applied.
    pub(super) async fn verify(&self, f: Seq) -> Result<VerifiedMarks, Refused> {
        let (hosted, manifest) = (self.hosted()?, self.manifest()?);
        let has = hosted.log.has();
        let missing: Vec<SeqRange> = SeqRange::after(manifest.base, f)
            .map(|within| has.missing_iter(within).take(MARKS_MISSING_MAX).collect())
            .unwrap_or_default();
        if missing.is_empty() {
            // Behind by then is what the marks say, and prove nothing.
            if let Ok(applied) = tokio::time::timeout(APPLY_WAIT, hosted.wait_applied(f)).await {
                applied.map_err(refused)?;
            }
        }
        let applied = hosted.applied().unwrap_or(mark(&manifest));
        Ok(VerifiedMarks {
            base: manifest.base,
            digest_base: manifest.digest,
            durable: has.contiguous_after(manifest.base),
            applied: applied.seq,
            missing,
            digest: applied.digest,
        })
    }

    /// Serves: the record read back names this copy.
    pub(super) async fn start_term(&self, epoch: Epoch, f: Seq) -> Result<(Term, Seq), Error> {
        let no_copy = || Error::NoInstance {
            shard: self.shard,
            instance: self.instance,
        };
        let hosted = self
            .node
            .hosted_instance(self.instance)
            .ok_or_else(no_copy)?;
        if let Role::Owner { term } = hosted.role()
            && term.epoch >= epoch
        {
            // It was opened as the owner after a restart.
            let first = hosted
                .log
                .terms()
                .iter()
                .find(|start| start.term == term)
                .map(|start| start.first);
            return first.map(|first| (term, first)).ok_or_else(no_copy);
        }
        let applied = hosted.wait_applied(f).await?;
        let end = hosted.log.has().max().unwrap_or(applied);
        if applied != f || end > f {
            let what = format!(
                "it holds Seqs up to {end} and applied {applied}, and was activated at {f}"
            );
            return Err(Error::inconsistent(self.shard, what));
        }
        let started = hosted.become_owner(epoch).await?;
        tracing::info!(shard = %self.shard, term = %started.0, "this node owns the shard now");
        Ok(started)
    }

    /// Deletes the copy and what was kept of it. Gives the bytes freed.
    pub(super) async fn discard(&self, instance: InstanceId) -> Result<u64, String> {
        if let Some(pull) = lock(&self.state).pull.take() {
            pull.abort();
        }
        let Some(migration) = self.migration() else {
            return Ok(0);
        };
        let node = self.node.clone();
        let removed = self.blocking(move || {
            let bytes = match node.hosted_instance(instance) {
                Some(_) => node.remove(instance)?,
                None => 0,
            };
            files::remove(&node.dir, migration)?;
            Ok(bytes)
        });
        removed.await.map_err(|refused| refused.message)
    }
}

/// The mark that a checkpoint ends with.
fn mark(manifest: &Manifest) -> Applied {
    Applied {
        seq: manifest.base,
        term: manifest
            .terms
            .last()
            .map(|start| start.term)
            .unwrap_or_default(),
        digest: manifest.digest,
    }
}

//! What a user holds of a migration: watch it, wait for it, steer it.

use std::fmt;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use watershed_migration::machine::{Operator, Progress};
use watershed_migration::{Certificate, Limits, MigrationId, Refusal};
use watershed_wal::ShardId;

use super::driver::{Input, wish};
use crate::Error;
use crate::link::BoxFuture;
use crate::sync::lock;

#[cfg(doc)]
use watershed_migration::MigrationConfig;

/// Called by the driver with each progress, at a change of phase before anything of the new phase happens.
pub(crate) type Observer = Arc<dyn Fn(&Progress) + Send + Sync>;

/// What watches every migration that a node drives.
#[derive(Clone)]
pub(crate) struct NodeObserver(pub(crate) Observer);

impl fmt::Debug for NodeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeObserver")
    }
}

/// A migration under way, or ended.
///
/// Dropping it changes nothing: the migration goes on.
pub struct Migration {
    shared: Arc<Shared>,
    seen: watch::Receiver<Progress>,
}

/// How a driver ended.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    Done,
    Failed(Arc<Error>),
    /// The engine was closed; the migration goes on when it is opened again.
    Closed,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    certificate: Option<Certificate>,
    ended: Option<Ended>,
}

/// What the driver and the handles share.
pub(super) struct Shared {
    id: MigrationId,
    shard: ShardId,
    progress: watch::Sender<Progress>,
    /// When the progress last was another one.
    moved: Mutex<Instant>,
    standing: watch::Sender<Standing>,
    inbox: mpsc::UnboundedSender<Input>,
}

impl Shared {
    pub(super) fn new(
        first: Progress,
        certificate: Option<Certificate>,
        inbox: mpsc::UnboundedSender<Input>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: first.migration,
            shard: first.shard,
            progress: watch::Sender::new(first),
            moved: Mutex::new(Instant::now()),
            standing: watch::Sender::new(Standing {
                certificate,
                ended: None,
            }),
            inbox,
        })
    }

    pub(super) fn id(&self) -> MigrationId {
        self.id
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Gives the progress before.
    pub(super) fn set_progress(&self, progress: Progress) -> Progress {
        let before = self.progress.send_replace(progress.clone());
        let same = Progress {
            phase_ms: before.phase_ms.clone(),
            ..progress
        };
        if same != before {
            *lock(&self.moved) = Instant::now();
        }
        before
    }

    pub(super) fn set_certificate(&self, certificate: Certificate) {
        self.standing
            .send_modify(|standing| standing.certificate = Some(certificate));
    }

    /// The first end counts.
    pub(super) fn end(&self, ended: Ended) {
        self.standing.send_modify(|standing| {
            standing.ended.get_or_insert(ended);
        });
        // Wakes who waits for the next progress.
        self.progress.send_modify(|_| {});
    }

    fn wish(&self, operator: Operator) {
        // An ended driver needs no wish.
        let _ = self.inbox.send(wish(operator));
    }

    async fn until<T>(
        &self,
        look: impl Fn(&Standing) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut standing = self.standing.subscribe();
        loop {
            if let Some(result) = look(&standing.borrow_and_update()) {
                return result;
            }
            if standing.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }
}

impl Migration {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut seen = shared.progress.subscribe();
        seen.mark_changed();
        Self { shared, seen }
    }

    /// Its id: names the certificate's file.
    #[must_use]
    pub fn id(&self) -> MigrationId {
        self.shared.id
    }

    /// The shard that moves.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shared.shard
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Whether it has moved the shard; `None` while it has not, and has not ended.
    pub(crate) fn outcome(&self) -> Option<bool> {
        let standing = self.shared.standing.borrow();
        let moved = standing.certificate.is_some();
        (moved || standing.ended.is_some()).then_some(moved)
    }

    /// Why it has ended without moving the shard, if it has.
    pub(crate) fn failure(&self) -> Option<Error> {
        let standing = self.shared.standing.borrow();
        match (&standing.certificate, &standing.ended) {
            (None, Some(ended @ (Ended::Failed(_) | Ended::Closed))) => {
                Some(ended.error(self.shared.shard))
            }
            _ => None,
        }
    }

    /// For how many milliseconds it has shown no progress.
    #[must_use]
    pub fn idle_ms(&self) -> u64 {
        let idle = lock(&self.shared.moved).elapsed().as_millis();
        u64::try_from(idle).unwrap_or(u64::MAX)
    }

    /// Whether it has ended, one way or another, as far as this node drove it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.standing.borrow().ended.is_some()
    }

    /// Blocks until there is progress this handle has not shown; `None` once the migration has ended.
    pub fn next_progress(&mut self) -> Option<Progress> {
        pollster::block_on(self.next_progress_async())
    }

    /// As [`Migration::next_progress`], without blocking.
    pub async fn next_progress_async(&mut self) -> Option<Progress> {
        let standing = self.shared.standing.subscribe();
        loop {
            if self.seen.has_changed().ok()? {
                let progress = self.seen.borrow_and_update().clone();
                if standing.borrow().ended.is_none() {
                    return Some(progress);
                }
                return None;
            }
            if standing.borrow().ended.is_some() {
                return None;
            }
            self.seen.changed().await.ok()?;
            self.seen.mark_changed();
        }
    }

    /// Gives it up, unless the new owner has the shard already. How it ends is told by [`Migration::wait`].
    pub fn abort(&self) {
        let reason = "the operator gave it up".to_owned();
        self.shared.wish(Operator::Abort { reason });
    }

    /// Ends `hold`: cuts over as soon as the target has caught up. It is kept in the placement before it is acted on,
    /// and survives a restart, once `cutover` of [`Migration::progress`] says so.
    pub fn cutover(&self) {
        self.shared.wish(Operator::Cutover);
    }

    /// Stands still until [`Migration::resume`]. Nothing is copied or shipped, and no pause of the writers begins; one
    /// under way is given up first. Durable writes are still forwarded to a target that takes them, as that costs the
    /// least and leaves nothing to catch up; the source keeps its log, within the bounds of `hold_bytes` and `hold_ms`,
    /// and beyond them the migration ends once it is resumed. From Activate on there is no effect, but in Cleanup: nothing is compared or deleted, and the grace time does not count.
    ///
    /// It is kept in the placement, and survives a restart, once `paused` of [`Migration::progress`] says so. A paused
    /// migration makes room for another of those that may run at once.
    pub fn pause(&self) {
        self.shared.wish(Operator::Pause);
    }

    /// Goes on after [`Migration::pause`], when its turn has come again.
    pub fn resume(&self) {
        self.shared.wish(Operator::Resume);
    }

    /// Changes limits: of a copy that is running, and of the next attempt's pause. They are kept in the placement, and
    /// survive a restart, once [`Migration::progress`] shows them.
    ///
    /// # Errors
    /// [`Error::Refused`] where a limit is out of bounds, as in [`MigrationConfig`]; nothing changes then.
    pub fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        limits.validate().map_err(Refusal::from)?;
        self.shared.wish(Operator::SetLimits(limits));
        Ok(())
    }

    /// Ends the grace time now: the old copy is deleted once it was compared, also of a migration paused in Cleanup.
    pub fn cleanup(&self) {
        self.shared.wish(Operator::Cleanup);
    }

    /// Blocks until the new owner serves. The old copy may be there still: see [`Migration::finished`].
    ///
    /// # Errors
    /// [`Error::MigrationAborted`] where it ended without moving the shard; [`Error::Closed`] when the engine closes
    /// first: it goes on when that is opened again.
    pub fn wait(&self) -> Result<Certificate, Error> {
        pollster::block_on(self.served())
    }

    /// As [`Migration::wait`], without blocking.
    ///
    /// # Errors
    /// As [`Migration::wait`].
    pub async fn served(&self) -> Result<Certificate, Error> {
        let look = |standing: &Standing| match (&standing.certificate, &standing.ended) {
            (Some(certificate), _) => Some(Ok(certificate.clone())),
            (None, Some(ended)) => Some(Err(ended.error(self.shared.shard))),
            (None, None) => None,
        };
        self.shared.until(look).await
    }

    /// Waits until the old copy is compared and deleted, and the migration over. Blocks; in asynchronous code use
    /// [`Migration::finished_async`].
    ///
    /// # Errors
    /// As [`Migration::wait`], and where the old copy differs from the new owner's: it is kept then.
    pub fn finished(&self) -> Result<(), Error> {
        pollster::block_on(self.finished_async())
    }

    /// As [`Migration::finished`], without blocking.
    ///
    /// # Errors
    /// As [`Migration::finished`].
    pub async fn finished_async(&self) -> Result<(), Error> {
        let look = |standing: &Standing| match &standing.ended {
            Some(Ended::Done) => Some(Ok(())),
            Some(ended) => Some(Err(ended.error(self.shared.shard))),
            None => None,
        };
        self.shared.until(look).await
    }
}

impl Ended {
    fn error(&self, shard: ShardId) -> Error {
        match self {
            Self::Failed(error) => Error::clone(error),
            Self::Closed => Error::Closed,
            Self::Done => Error::MigrationAborted {
                shard,
                reason: "it is over, and its certificate was not kept here".into(),
            },
        }
    }
}

impl Clone for Migration {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl IntoFuture for Migration {
    type Output = Result<Certificate, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.served().await })
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("id", &self.id)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// Calls an observer on a thread of its own: it may block, or close the engine, without holding up the runtime.
pub(super) struct Watcher(mpsc::UnboundedSender<(Progress, oneshot::Sender<()>)>);

impl Watcher {
    pub(super) fn start(observer: Observer) -> Self {
        let (sender, mut shown) = mpsc::unbounded_channel::<(Progress, oneshot::Sender<()>)>();
        let thread = thread::Builder::new()
            .name("ws-observer".into())
            .spawn(move || {
                while let Some((progress, seen)) = shown.blocking_recv() {
                    observer(&progress);
                    let _ = seen.send(());
                }
            });
        if let Err(error) = thread {
            tracing::warn!(%error, "an observer of a migration can't be called");
        }
        Self(sender)
    }

    /// Returns when the observer has.
    pub(super) async fn show(&self, progress: Progress) {
        let (seen, done) = oneshot::channel();
        if self.0.send((progress, seen)).is_ok() {
            // An observer that panicked watches no more; the migration goes on.
            let _ = done.await;
        }
    }
}

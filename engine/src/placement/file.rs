//! The embedded placement: a journal in a directory, for the engines of one process.
//!
//! Reads are answered from memory. Changes go, one after the other, through a thread of its own which makes each
//! durable before it can be read (writer.rs). Whether a member is alive is not durable (lives.rs). The directory is locked:
//! a second process is refused, and the engines of one process share one [`FilePlacement`] through an `Arc`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::journal::{self, Journal};
use super::lives::Lives;
use super::map::{Joined, Map};
use super::writer::{Job, Shared, Writer};
use super::{ClusterInfo, Member, NodeInfo, Placement, PlacementError};
use crate::link::BoxFuture;
use crate::sync::{self, lock};

/// The journal of changes, in the placement's directory.
pub(super) const NAME: &str = "journal";

/// A placement kept in a directory of this machine.
pub struct FilePlacement {
    shared: Arc<Shared>,
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl FilePlacement {
    /// Opens the placement in `dir`, or makes an empty one there.
    ///
    /// # Errors
    /// [`PlacementError::Locked`] while somebody else has it open; [`PlacementError::Damaged`] where a line that was
    /// promised durable can't be trusted.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, PlacementError> {
        let dir = dir.as_ref();
        make_dir(dir).map_err(|error| PlacementError::io("create", dir, error))?;
        let held = lock_dir(dir)?;
        let (journal, state) = Journal::open::<Map>(&dir.join(NAME))?;
        let lives = Lives::from_now(state.members.values(), Instant::now());
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            state: RwLock::new(Ok(state)),
            lives: Mutex::new(lives),
            changes: watch::Sender::new(0),
        });
        let writer = Writer {
            journal,
            shared: shared.clone(),
            lock: held,
        };
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("ws-placement".into())
            .spawn(move || writer.run(&queue))
            .map_err(|error| PlacementError::io("start the thread of", dir, error))?;
        Ok(Self {
            shared,
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Ends the thread after what it was given, and frees the directory's lock; later calls are refused.
    pub(crate) fn close(&self) {
        drop(lock(&self.jobs).take());
        if let Some(thread) = lock(&self.thread).take() {
            // A panicked writer has printed its reason; joining frees the directory's lock before this returns.
            let _ = thread.join();
        }
        *sync::write(&self.shared.state) = Err(PlacementError::Closed);
    }

    /// What the placement in `dir` says, without opening or changing it, also while another process has it open.
    ///
    /// # Errors
    /// As [`FilePlacement::open`], but never `Locked`.
    pub fn read_dir(
        dir: impl AsRef<Path>,
    ) -> Result<(Option<ClusterInfo>, Vec<PlacementRecord>), PlacementError> {
        let path = dir.as_ref().join(NAME);
        let bytes = fs::read(&path).map_err(|error| PlacementError::io("read", &path, error))?;
        let state: Map = journal::parse(&path, &bytes)?.state;
        Ok((state.cluster, state.records.into_values().collect()))
    }

    /// Runs `work` on the thread; it is done whole even when the future is dropped.
    fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, PlacementError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, PlacementError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job: Job = Box::new(move |writer| {
                // Nobody waits any more: the change stands all the same.
                let _ = reply.send(work(writer));
            });
            let sent = match &*lock(&self.jobs) {
                Some(jobs) => jobs.send(job).is_ok(),
                None => false,
            };
            if !sent {
                return Err(PlacementError::Closed);
            }
            answer.await.map_err(|_| PlacementError::Closed)?
        })
    }
}

impl Placement for FilePlacement {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        Box::pin(async { self.shared.look(|state| state.cluster) })
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        self.change(move |writer| writer.create_cluster(info))
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        Box::pin(async move { self.shared.look(|state| state.records.get(&shard).cloned()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        Box::pin(async {
            self.shared
                .look(|state| state.records.values().cloned().collect())
        })
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        self.change(move |writer| writer.swap(expected, record))
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.change(move |writer| writer.remove(shard, expected))
    }

    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        Box::pin(async {
            self.shared.look(|state| {
                let lives = lock(&self.shared.lives);
                let member = |joined: &Joined| Member {
                    info: joined.info.clone(),
                    goal: joined.goal,
                    alive: lives.is_alive(&joined.node),
                };
                let members = state.members.iter();
                members
                    .map(|(node, joined)| (node.clone(), member(joined)))
                    .collect()
            })
        })
    }

    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move {
            // Not behind the thread's syncs: on a slow disk nobody is to die for having waited there.
            if self.shared.renew(&node, &info, alive_for)? {
                return Ok(());
            }
            let announced = self.change(move |writer| writer.announce(node, info, alive_for));
            announced.await
        })
    }

    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.change(move |writer| writer.set_goal(node, goal))
    }

    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.change(move |writer| writer.remove_member(node))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl fmt::Debug for FilePlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePlacement")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

impl Drop for FilePlacement {
    fn drop(&mut self) {
        self.close();
    }
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => journal::sync_dir(parent),
        _ => Ok(()),
    }
}

fn lock_dir(dir: &Path) -> Result<File, PlacementError> {
    let path = dir.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| PlacementError::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PlacementError::Locked {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(PlacementError::io("lock", path, error)),
    }
}

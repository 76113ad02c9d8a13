//! The embedded placement: a journal in a directory, for the engines of one process.
//!
//! Reads are answered from memory. Changes go, one after the other, through a thread of its own which makes each
//! durable before it can be read. The directory is locked: a second process is refused, and the engines of one process
//! share one [`FilePlacement`] through an `Arc`.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};
use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::journal::{self, Journal, Ledger};
use super::map::{Entry, Map, Removed};
use super::{ClusterInfo, Placement, PlacementError};
use crate::link::BoxFuture;
use crate::sync::{self, lock};

/// The journal of changes, in the placement's directory.
pub(super) const NAME: &str = "journal";

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A placement kept in a directory of this machine.
pub struct FilePlacement {
    shared: Arc<Shared>,
    /// `None` once closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    dir: PathBuf,
    /// The durable map, or why it is not known any more.
    state: RwLock<Result<Map, PlacementError>>,
    changes: watch::Sender<u64>,
}

/// What the thread owns.
struct Writer {
    journal: Journal,
    shared: Arc<Shared>,
    lock: File,
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
        let (journal, state) = Journal::open(&dir.join(NAME))?;
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            state: RwLock::new(Ok(state)),
            changes: watch::Sender::new(0),
        });
        let mut writer = Writer {
            journal,
            shared: shared.clone(),
            lock: held,
        };
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("ws-placement".into())
            .spawn(move || queue.into_iter().for_each(|job| job(&mut writer)))
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

    fn look<T>(&self, look: impl FnOnce(&Map) -> T) -> Result<T, PlacementError> {
        match &*sync::read(&self.shared.state) {
            Ok(state) => Ok(look(state)),
            Err(error) => Err(error.clone()),
        }
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

impl Drop for Writer {
    fn drop(&mut self) {
        // By name: a child process that is being started may hold a copy of the handle for a moment.
        let _ = self.lock.unlock();
    }
}

impl Writer {
    fn state(&self) -> Result<Map, PlacementError> {
        sync::read(&self.shared.state).clone()
    }

    /// Makes an entry durable, then visible.
    fn commit(&mut self, entry: Entry) -> Result<(), PlacementError> {
        if let Err(error) = self.journal.append(&entry) {
            self.poison_if_unknown();
            return Err(error);
        }
        let mut state = self.state()?;
        // The caller checked that it goes on from the state, which only this thread changes.
        let taken = state.take(entry);
        assert!(
            taken.is_ok(),
            "a change that was checked is refused: {taken:?}"
        );
        let compacted = self.journal.compact_if_due(&state);
        *sync::write(&self.shared.state) = Ok(state);
        if let Err(error) = compacted {
            self.poison_if_unknown();
            tracing::error!(%error, "the placement failed after a change was made durable");
        }
        self.shared
            .changes
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    /// Once it is unknown what is durable, an old record must not be read either: its reader would take a swap that
    /// may have won for lost, and serve beside the new owner.
    fn poison_if_unknown(&self) {
        if let Some(reason) = self.journal.poisoned() {
            *sync::write(&self.shared.state) = Err(PlacementError::Poisoned { reason });
        }
    }

    fn swap(
        &mut self,
        expected: Option<Revision>,
        mut record: PlacementRecord,
    ) -> Result<PlacementRecord, PlacementError> {
        let state = self.state()?;
        let shard = record.shard;
        let current = state.records.get(&shard);
        if current.map(|current| current.revision) != expected {
            return Err(PlacementError::Conflict {
                shard,
                current: current.cloned().map(Box::new),
            });
        }
        match (expected, state.removed.get(&shard)) {
            (Some(expected), _) if record.revision <= expected => {
                return Err(PlacementError::Revision {
                    shard,
                    expected,
                    offered: record.revision,
                });
            }
            (None, Some(removed)) => removed.go_on(&mut record),
            _ => {}
        }
        self.commit(Entry::Record(Box::new(record.clone())))?;
        Ok(record)
    }

    fn remove(&mut self, shard: ShardId, expected: Revision) -> Result<(), PlacementError> {
        let state = self.state()?;
        match state.records.get(&shard) {
            Some(current) if current.revision == expected => {
                self.commit(Entry::Removed(Removed::of(current)))
            }
            current => Err(PlacementError::Conflict {
                shard,
                current: current.cloned().map(Box::new),
            }),
        }
    }
}

impl Placement for FilePlacement {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        Box::pin(async { self.look(|state| state.cluster) })
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        self.change(move |writer| match writer.state()?.cluster {
            Some(made) => Ok(made),
            None => writer.commit(Entry::Cluster(info)).map(|()| info),
        })
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        Box::pin(async move { self.look(|state| state.records.get(&shard).cloned()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        Box::pin(async { self.look(|state| state.records.values().cloned().collect()) })
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

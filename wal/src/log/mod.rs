//! The log itself: opening, hosting, closing.
//!
//! - `state`: what it knows, under one mutex; `core`: what the handles share.
//! - `submit`: the gate, Seqs, and who leads; `commit`: writing frames; `thread`: the log thread; `direct`: buffered
//!   writes that need none of it; `background`: syncs beside them.
//! - `keeper`: segments made ahead and taken away; `recycle`: files used again; `room`: what of them is promised to whom;
//!   `recover`, `scan`: reading segments back.
//! - `repair`: giving up what damage made unreadable, so that the log opens again.
//! - `index`, `read`, `sweep`, `tail`: reading records; `instance`: the handle of one hosting; `view`: reading without the lock.

#[cfg(watershed_shuttle)]
mod audit;
mod background;
mod commit;
mod core;
mod direct;
mod dump;
mod index;
mod instance;
mod keeper;
mod open;
mod read;
mod recover;
mod recycle;
pub mod repair;
mod room;
mod scan;
mod sink;
mod state;
mod submit;
mod sweep;
mod tail;
mod thread;
mod view;

use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(watershed_shuttle)]
pub use audit::Audit;
pub use direct::Appended;
pub use dump::DumpLine;
pub use instance::InstanceLog;
pub use read::RecordReader;
pub use sink::{CommitSink, Committed};
pub use submit::{Inline, Lead, Submitted};
pub use sweep::{Sweep, Swept};
pub use tail::{DurablePast, Tail};
pub use view::{InstanceView, LogView, verify};

use self::core::Core;
use crate::completion::Completion;
use crate::error::{LogError, OpenError};
use crate::format::notes::LocalNote;
use crate::options::{HoldInfo, LogOptions, LogStatus, OpenReport};
use crate::seqset::SeqRange;
use crate::storage::Storage;
use crate::sync::{JoinHandle, Mutex, ThreadBuilder, ThreadId, current_thread, lock};
use crate::words::{InstanceId, Seq, ShardId, TermStart};
use room::Use;
use state::{Instance, What};

/// An open log. Clones are handles of the same; the last one dropped closes it.
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<Handle>,
}

/// What one of its threads does.
type Run = fn(&Core);

/// What keeps the log open: [`Log`]s and [`InstanceLog`]s share it.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Those threads: none of them may wait for itself.
    ids: Mutex<Vec<ThreadId>>,
}

impl Log {
    /// Opens the log in `storage`, or makes a new one there.
    ///
    /// A tail that was never promised durable is cut, with a log line and in the report. What is reported, by
    /// `has` and the watermarks, is durable when this returns. Writing goes on in a fresh segment.
    ///
    /// # Errors
    /// When something that was promised durable is damaged or missing, when the format is a newer one, when the
    /// options can't be, and when the device is full or fails. Nothing was changed then.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
    ) -> Result<(Self, OpenReport), OpenError> {
        let (core, report) = open::open(storage, options)?;
        let core = Arc::new(core);
        let spawn = |name: &str, run: Run| {
            let core = Arc::clone(&core);
            ThreadBuilder::new()
                .name(name.to_owned())
                .spawn(move || run(&core))
                .map_err(|source| OpenError::Io {
                    op: "starting a thread",
                    file: name.to_owned(),
                    source,
                })
        };
        let handle = Handle {
            core: Arc::clone(&core),
            threads: Mutex::new(Vec::new()),
            ids: Mutex::new(Vec::new()),
        };
        let runs: [(&str, Run); 2] = [
            ("wal-log", Core::run_log_thread),
            ("wal-keeper", Core::run_keeper),
        ];
        for (name, run) in runs {
            let thread = spawn(name, run)?;
            lock(&handle.ids).push(thread.thread().id());
            lock(&handle.threads).push(thread);
        }
        let handle = Arc::new(handle);
        Ok((Self { handle }, report))
    }

    fn core(&self) -> &Core {
        &self.handle.core
    }

    /// Hosts an instance: a new one, with the term history that its copy comes with. Durable when it returns.
    ///
    /// `base`: records at or below it are not here; the copy's checkpoint holds what they did.
    ///
    /// # Errors
    /// When the id is hosted already, and when the log can't be written.
    pub fn host(
        &self,
        shard: ShardId,
        instance: InstanceId,
        base: Seq,
        terms: Vec<TermStart>,
    ) -> Result<InstanceLog, LogError> {
        let (completion, done) = Completion::single();
        let at = {
            let note = LocalNote::Host {
                shard,
                instance,
                base,
                terms: terms.clone(),
            };
            let mut state = self.core().reserve_note(Use::Notes, &note)?;
            if state.by_id.contains_key(&instance) {
                return Err(LogError::AlreadyHosted(instance));
            }
            let note = What::Notes(vec![note]);
            let at = state.instances.len();
            let hosted = Instance::new(shard, instance, base, terms);
            state.instances.push(Some(hosted));
            state.by_id.insert(instance, at);
            self.core().enqueue_for_thread(&mut state, note, done);
            at
        };
        completion.wait()?;
        Ok(InstanceLog::new(
            Arc::clone(&self.handle),
            at,
            shard,
            instance,
        ))
    }

    /// The hosted instance of this id.
    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<InstanceLog> {
        let state = self.core().lock();
        let at = *state.by_id.get(&id)?;
        let shard = state.instance(at).ok()?.shard;
        drop(state);
        Some(InstanceLog::new(Arc::clone(&self.handle), at, shard, id))
    }

    /// All hosted instances, in the order of their hosting.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceLog> {
        let state = self.core().lock();
        let hosted = state.instances.iter().enumerate();
        hosted
            .filter_map(|(at, instance)| Some((at, instance.as_ref()?)))
            .map(|(at, i)| InstanceLog::new(Arc::clone(&self.handle), at, i.shard, i.id))
            .collect()
    }

    /// Reads ranges of many instances in one pass over the segments. Each instance's records come in Seq order, void Seqs
    /// passed over, just as [`InstanceLog::read`] gives them; how instances alternate says nothing. Memory is bounded by
    /// a segment and what a few MiB of log decode to, whatever the ranges are.
    ///
    /// An instance is named once. The sweep yields [`LogError::Gap`] for a Seq that is not here, and
    /// [`LogError::Damaged`] or [`LogError::Io`] where reading fails; an error ends it.
    ///
    /// # Errors
    /// When an instance is not hosted, or the log is closed.
    pub fn sweep(&self, ranges: Vec<(InstanceId, SeqRange)>) -> Result<Sweep, LogError> {
        Sweep::new(Arc::clone(&self.handle.core), ranges)
    }

    /// Ends a hosting, durably: its records become garbage, who waits on it gets [`LogError::Closed`].
    ///
    /// # Errors
    /// When it is not hosted, and when the log can't be written.
    pub fn forget(&self, id: InstanceId) -> Result<(), LogError> {
        let (completion, done) = Completion::single();
        let (instance, waiting) = {
            let note = LocalNote::Forget(id);
            let mut state = self.core().reserve_note(Use::Freeing, &note)?;
            let at = state.by_id.remove(&id);
            let at = at.ok_or(LogError::UnknownInstance(id))?;
            let mut instance = state.instances[at].take();
            let waiting = instance.as_mut().map(|i| std::mem::take(&mut i.waiting));
            state.recent_order.retain(|&other| other != at);
            state.recent_bytes -= instance.as_ref().map_or(0, |i| i.recent.bytes());
            self.core()
                .enqueue_for_thread(&mut state, What::Notes(vec![note]), done);
            (instance, waiting.unwrap_or_default())
        };
        for (_, done) in waiting {
            done.complete(Err(LogError::Closed));
        }
        // Its sink may own handles of this log: dropped off the mutex.
        drop(instance);
        completion.wait()?;
        let mut state = self.core().lock();
        self.core().call_keeper(&mut state);
        Ok(())
    }

    /// Waits until everything submitted so far is durable.
    ///
    /// # Errors
    /// When the log is, or gets, poisoned or closed.
    pub fn sync(&self) -> Result<(), LogError> {
        let (completion, done) = Completion::single();
        {
            let mut state = self.core().lock();
            state.check_writable()?;
            self.core()
                .enqueue_for_thread(&mut state, What::Barrier, done);
        }
        completion.wait()
    }

    /// What the log is doing.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let state = self.core().lock();
        let metrics = &self.core().metrics;
        LogStatus {
            segments: crate::codec::len64(state.segments.len()),
            bytes: state.file_bytes(),
            recycled_bytes: state.recycled_bytes(),
            limit: self.core().options.limit_bytes,
            syncs: metrics.syncs.load(Ordering::Relaxed),
            sync_latency_us: metrics.sync_us.load(Ordering::Relaxed),
            sync_times: metrics.sync_times.read(),
            frames: metrics.frames.load(Ordering::Relaxed),
            records: metrics.records.load(Ordering::Relaxed),
            pending_bytes: crate::codec::len64(state.pending.bytes),
            poisoned: state.poison.as_deref().map(str::to_owned),
            full: state.room.full.is_some() || state.room.is_beyond,
            holds: hold_infos(&state, None),
        }
    }

    /// How long a sync takes, smoothed, in microseconds; 0 before the first.
    #[must_use]
    pub fn sync_latency_us(&self) -> u64 {
        self.core().sync_us()
    }

    /// Over three quarters of the limit: whose flush would free the oldest segment, and up to which Seq.
    #[must_use]
    pub fn pinning(&self) -> Option<(InstanceId, Seq)> {
        let state = self.core().lock();
        if state.used_bytes() <= self.core().options.limit_bytes / 4 * 3 {
            return None;
        }
        let (_, oldest) = state.segments.iter().next()?;
        oldest.max.iter().find_map(|(&at, &max)| {
            let instance = state.instance(at).ok()?;
            (instance.flushed < max).then_some((instance.id, max))
        })
    }

    /// Commits what is queued, marks the log's end durable, joins the threads. Later calls get
    /// [`LogError::Closed`]; closing twice is harmless.
    ///
    /// # Errors
    /// When the log is poisoned: what its waiters were told stays true, nothing more was written.
    pub fn close(&self) -> Result<(), LogError> {
        self.handle.close()
    }
}

impl Handle {
    fn close(&self) -> Result<(), LogError> {
        {
            let mut state = self.core.lock();
            state.closing = true;
            self.core.work.notify_all();
            self.core.prepared.notify_all();
            self.core.call_keeper(&mut state);
        }
        let here = current_thread().id();
        // From inside a sink the log thread can't wait for itself; it ends by itself once the sink returns.
        if !lock(&self.ids).contains(&here) {
            for thread in lock(&self.threads).drain(..) {
                let _ended = thread.join();
            }
        }
        let (poison, sinks) = {
            let mut state = self.core.lock();
            self.core
                .fail_all(&mut state, &LogError::Closed, Vec::new());
            let instances = state.instances.iter_mut().flatten();
            let sinks: Vec<_> = instances.filter_map(|i| i.sink.take()).collect();
            (state.poison.clone(), sinks)
        };
        self.core.deliver(usize::MAX, None);
        // A sink may own handles of this log: dropped off the mutex.
        drop(sinks);
        poison.map_or(Ok(()), |reason| Err(LogError::Poisoned { reason }))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was closed while poisoned");
        }
    }
}

/// The holds of one instance, or of all.
fn hold_infos(state: &state::State, only: Option<state::InstanceIndex>) -> Vec<HoldInfo> {
    let mut infos = Vec::new();
    for (at, instance) in state.instances.iter().enumerate() {
        let Some(instance) = instance
            .as_ref()
            .filter(|_| only.is_none_or(|only| only == at))
        else {
            continue;
        };
        infos.extend(instance.holds.iter().map(|hold| HoldInfo {
            shard: instance.shard,
            instance: instance.id,
            name: hold.note.name.clone(),
            from: hold.note.from,
            budget: crate::options::HoldBudget {
                bytes: hold.note.bytes,
                time: hold.note.time,
            },
            bytes: state.bytes_after(at, hold.note.from),
            age: hold.age(),
            expired: state.expired(at, hold),
        }));
    }
    infos
}

//! What all handles of an open log share, and the numbers that it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::room::{Full, HEAD_COST, Room, Use};
use super::state::{Delivery, Entry, Pending, State, ThreadState, What, note_size};
use crate::codec::len64;
use crate::completion::Completer;
use crate::error::LogError;
use crate::format::notes::LocalNote;
use crate::options::LogOptions;
use crate::storage::Storage;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard, lock, wait};
use crate::times::TimeCounts;
use crate::words::Durability;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) syncs: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) records: AtomicU64,
    /// Microseconds, smoothed over about eight syncs.
    pub(crate) sync_us: AtomicU64,
    pub(crate) sync_times: TimeCounts,
}

impl Metrics {
    pub(crate) fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_times.note(took);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.sync_us.load(Ordering::Relaxed);
        let smoothed = if before == 0 {
            took
        } else {
            before - before / 8 + took / 8
        };
        self.sync_us.store(smoothed.max(1), Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: LogOptions,
    pub(crate) state: Mutex<State>,
    /// Wakes the log thread.
    pub(crate) work: Condvar,
    /// Wakes the keeper.
    pub(crate) keeper: Condvar,
    /// A spare is ready, or can't be made.
    pub(crate) prepared: Condvar,
    pub(crate) metrics: Metrics,
}

impl Core {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The most bytes of entries in one frame, unless one entry alone is larger.
    pub(crate) fn frame_bytes(&self) -> usize {
        let eighth = usize::try_from(self.options.segment_bytes / 8).unwrap_or(usize::MAX);
        eighth.min(4 << 20)
    }

    /// Waits until there is room for these writes, or says that there is none. `growth`: of the heads from then on.
    ///
    /// It waits for the keeper only, which never waits for a caller, so this can't deadlock with a sink.
    pub(crate) fn reserve(
        &self,
        wanted: Use,
        costs: &[u64],
        growth: u64,
    ) -> Result<MutexGuard<'_, State>, LogError> {
        let mut state = self.lock();
        loop {
            state.check_writable()?;
            let is_beyond = state.room.is_beyond && wanted.is_limited();
            if !is_beyond && state.has_room(wanted, costs, growth) {
                return Ok(state);
            }
            let is_full = match state.room.full {
                None => false,
                Some(Full::Limit) => wanted.is_limited(),
                Some(Full::Device) => true,
            };
            if is_beyond || is_full {
                return Err(LogError::Full {
                    needed: costs.iter().sum(),
                    room: state.room.left(),
                });
            }
            self.ask_for_spare(&mut state, wanted, costs, growth);
            state = wait(&self.prepared, state);
        }
    }

    /// As [`Core::reserve`], for one note.
    pub(crate) fn reserve_note(
        &self,
        wanted: Use,
        note: &LocalNote,
    ) -> Result<MutexGuard<'_, State>, LogError> {
        let size = note_size(note);
        let growth = match note {
            LocalNote::Host { terms, .. } => 256 + 32 * terms.len(),
            LocalNote::Hold(..) | LocalNote::Note(..) => size + 64,
            _ => 0,
        };
        self.reserve(wanted, &[Room::frame_cost(size)], len64(growth))
    }

    /// Has the keeper make one more spare, that holds any of these.
    pub(crate) fn ask_for_spare(&self, state: &mut State, wanted: Use, costs: &[u64], growth: u64) {
        let longest = costs.iter().copied().max().unwrap_or(0);
        let head = state.head_bound() + growth + HEAD_COST;
        let len = longest.saturating_add(head + state.keep(wanted));
        state.room.wanted_len = state.room.wanted_len.max(len);
        state.room.wanted = state.room.spares.len() + 1;
        state.room.beyond |= !wanted.is_limited();
        self.call_keeper(state);
    }

    pub(crate) fn call_keeper(&self, state: &mut State) {
        state.keeper_called = true;
        self.keeper.notify_one();
    }

    /// Queues an entry. Who called decides who commits it.
    pub(crate) fn enqueue(&self, state: &mut State, entry: Entry) {
        let cost = Room::cost(&entry);
        state.room.take(cost);
        state.pending.bytes += usize::try_from(cost).unwrap_or(usize::MAX);
        state.pending.entries.push_back(entry);
    }

    /// Makes sure that the log thread will look at what is pending.
    pub(crate) fn call_thread(&self, state: &State) {
        let wanted = match state.thread {
            ThreadState::Running => false,
            ThreadState::Gathering => state.pending.entries.len() >= state.late_close,
            ThreadState::Timed | ThreadState::Deep => true,
        };
        if state.can_write() && wanted {
            self.work.notify_one();
        }
    }

    /// Queues an entry for the log thread, with a completer.
    pub(crate) fn enqueue_for_thread(&self, state: &mut State, what: What, done: Completer) {
        let entry = Entry {
            what,
            durability: Durability::Sync,
            done: Some(done),
        };
        self.enqueue(state, entry);
        self.call_thread(state);
    }

    /// Takes what goes into the next frame.
    pub(crate) fn take_batch(&self, state: &mut State) -> Vec<Entry> {
        state.taken += 1;
        state.late_close = 0;
        let pending = std::mem::take(&mut state.pending);
        let first = pending.entries.front().map_or(0, Room::cost);
        let left = usize::try_from(state.room.frame(first)).unwrap_or(usize::MAX);
        let most = self.frame_bytes().min(left);
        let mut bytes = 0;
        let fits = pending
            .entries
            .iter()
            .position(|entry| {
                bytes += entry.size();
                bytes > most
            })
            .map_or(pending.entries.len(), |at| at.max(1));
        let mut rest = pending.entries;
        let left = rest.split_off(fits);
        let batch: Vec<Entry> = rest.into();
        let cost: u64 = batch.iter().map(Room::cost).sum();
        let size: usize = batch.iter().map(Entry::size).sum();
        state.room.in_flight = match size {
            0 => 0,
            size => Room::frame_cost(size),
        };
        state.pending = Pending {
            bytes: pending.bytes - usize::try_from(cost).unwrap_or(0),
            entries: left,
        };
        batch
    }

    /// Refuses all further writes, and fails those that wait. The first reason stays.
    pub(crate) fn poison(&self, state: &mut State, reason: &str, batch: Vec<Completer>) {
        let reason = state.poison.get_or_insert_with(|| Arc::from(reason));
        let error = LogError::Poisoned {
            reason: Arc::clone(reason),
        };
        tracing::error!(%reason, "the log is poisoned");
        self.fail_all(state, &error, batch);
    }

    /// Fails everything that waits.
    pub(crate) fn fail_all(&self, state: &mut State, error: &LogError, batch: Vec<Completer>) {
        state.room.in_flight = 0;
        let pending = std::mem::take(&mut state.pending);
        let mut delivery = Delivery {
            failed: Some(error.clone()),
            ..Delivery::default()
        };
        let pending = pending.entries.into_iter();
        let completers = batch
            .into_iter()
            .chain(pending.filter_map(|entry| entry.done));
        delivery.plain = completers.map(|done| (done, Err(error.clone()))).collect();
        for instance in state.instances.iter_mut().flatten() {
            instance.arriving.clear();
            let waiting = instance.waiting.drain(..);
            delivery
                .plain
                .extend(waiting.map(|(_, done)| (done, Err(error.clone()))));
        }
        state.deliveries.push_back(delivery);
        self.prepared.notify_all();
        self.work.notify_one();
    }

    /// Calls sinks and wakes waiters, in commit order: one thread at a time, `most` deliveries at the most.
    /// `own`: the instance whose submitter this thread is.
    pub(crate) fn deliver(&self, most: usize, own: Option<usize>) {
        let mut state = self.lock();
        if state.delivering {
            return; // in order: who delivers now goes on with ours
        }
        state.delivering = true;
        let mut made = 0;
        // Once the log thread has gone nobody takes over: then all of them.
        while made < most || state.closed {
            let Some(delivery) = state.deliveries.pop_front() else {
                break;
            };
            made += 1;
            let calls = SinkCalls::resolve(&state, delivery);
            drop(state);
            let panicked = calls.run(own);
            state = self.lock();
            if panicked {
                state.sink_panicked = true;
                self.poison(&mut state, "a commit sink panicked", Vec::new());
            }
        }
        state.delivering = false;
        if !state.deliveries.is_empty() {
            self.work.notify_one();
        }
    }

    pub(crate) fn unsynced_due(&self, state: &State) -> Option<Instant> {
        Some(state.unsynced_since? + self.options.buffered_sync_every)
    }

    pub(crate) fn mark_due(&self, state: &State) -> Option<Instant> {
        Some(state.unrecorded_since? + self.options.buffered_sync_every)
    }
}

type Sink = Arc<dyn super::sink::CommitSink>;

/// A delivery with the sinks that take it, looked up when it is made: one that was just taken off gets no more.
struct SinkCalls {
    batches: Vec<(usize, Sink, Vec<super::sink::Committed>)>,
    failed: Option<(LogError, Vec<Sink>)>,
    plain: Vec<(Completer, Result<(), LogError>)>,
}

impl SinkCalls {
    fn resolve(state: &State, delivery: Delivery) -> Self {
        let mut plain = delivery.plain;
        let mut batches = Vec::with_capacity(delivery.sinks.len());
        let gap = state.poison.clone().filter(|_| state.sink_panicked);
        let gap = gap.map(|reason| LogError::Poisoned { reason });
        for (at, batch) in delivery.sinks {
            if let Some(error) = &gap {
                let failed = batch.into_iter();
                plain.extend(failed.map(|committed| (committed.done, Err(error.clone()))));
                continue;
            }
            match state.instance(at).ok().and_then(|i| i.sink.clone()) {
                Some(sink) => batches.push((at, sink, batch)),
                // Taken off since: the records are committed all the same.
                None => plain.extend(batch.into_iter().map(|committed| (committed.done, Ok(())))),
            }
        }
        let failed = delivery.failed.map(|error| {
            let sinks = state.instances.iter().flatten();
            (error, sinks.filter_map(|i| i.sink.clone()).collect())
        });
        Self {
            batches,
            failed,
            plain,
        }
    }

    /// Whether a sink panicked.
    fn run(self, own: Option<usize>) -> bool {
        let calls = std::panic::AssertUnwindSafe(|| {
            for (at, sink, batch) in self.batches {
                sink.committed(batch, own == Some(at));
            }
            if let Some((error, sinks)) = self.failed {
                sinks.iter().for_each(|sink| sink.failed(&error));
            }
        });
        let panicked = std::panic::catch_unwind(calls).is_err();
        Completer::complete_all(self.plain);
        panicked
    }
}

/// Poisons the log if whoever writes panics: the right to write is gone with it, and nobody may wait for it.
pub(crate) struct PanicGuard<'a>(pub(crate) &'a Core);

impl PanicGuard<'_> {
    pub(crate) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        self.0
            .poison(&mut state, "a defect: writing a frame panicked", Vec::new());
        drop(state);
        self.0.deliver(usize::MAX, None);
    }
}

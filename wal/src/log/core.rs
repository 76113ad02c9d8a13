//! What all handles of an open log share, and the numbers that it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::state::{Delivery, Entry, Pending, State, ThreadState, What};
use crate::codec::len64;
use crate::completion::Completer;
use crate::error::LogError;
use crate::format::frame::{BLOCK, HEADER_LEN};
use crate::options::LogOptions;
use crate::storage::Storage;
use crate::sync::{lock, wait};
use crate::words::Durability;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) syncs: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) records: AtomicU64,
    /// Microseconds, smoothed over about eight syncs.
    pub(crate) sync_us: AtomicU64,
}

impl Metrics {
    pub(crate) fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
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

    /// What an entry may cost in a segment: it may get a frame, and the rest of a block, of its own.
    pub(crate) fn cost(entry: &Entry) -> u64 {
        len64(entry.size()) + HEADER_LEN + BLOCK
    }

    /// Waits until there is room for a write of `cost`, or says that there is none.
    ///
    /// It waits for the keeper only, which never waits for a caller, so this can't deadlock with a sink.
    pub(crate) fn reserve<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        cost: u64,
    ) -> Result<MutexGuard<'a, State>, LogError> {
        loop {
            state.check_writable()?;
            let claimed = len64(state.pending.bytes) + len64(state.in_flight);
            let usable = state.room.usable().saturating_sub(claimed);
            let largest = state.room.largest(claimed);
            if cost <= usable && cost <= largest {
                return Ok(state);
            }
            if state.room.full.is_some() {
                return Err(LogError::Full {
                    needed: cost,
                    room: usable.min(largest),
                });
            }
            if cost > largest {
                let len = cost.saturating_add(state.room.reserve.saturating_mul(2));
                state.room.wanted_len = state.room.wanted_len.max(len);
            }
            if cost > usable {
                state.room.wanted = state.room.spares.len() + 1;
            }
            self.call_keeper(&mut state);
            state = wait(&self.prepared, state);
        }
    }

    pub(crate) fn call_keeper(&self, state: &mut State) {
        state.keeper_called = true;
        self.keeper.notify_one();
    }

    /// Queues an entry. Who called decides who commits it.
    pub(crate) fn enqueue(&self, state: &mut State, entry: Entry) {
        state.pending.bytes += usize::try_from(Self::cost(&entry)).unwrap_or(usize::MAX);
        state.pending.entries.push_back(entry);
    }

    /// Makes sure that the log thread will look at what is pending.
    pub(crate) fn call_thread(&self, state: &State) {
        // The first always calls it: it may be parked without a timer, and waits for the others itself.
        let waiting = state.pending.entries.len();
        let late = waiting > 1 && waiting < state.late_close;
        if state.writer.is_some() && state.thread != ThreadState::Running && !late {
            self.work.notify_one();
        }
    }

    /// That a note can be written: a full log keeps what is left for the notes that free room.
    pub(crate) fn check_note_room(&self, state: &State) -> Result<(), LogError> {
        state.check_writable()?;
        let room = &state.room;
        if room.full.is_some() && room.spares.is_empty() && room.current < room.reserve / 2 {
            return Err(LogError::Full {
                needed: room.reserve / 2,
                room: room.current,
            });
        }
        Ok(())
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
        let most = self.frame_bytes();
        let pending = std::mem::take(&mut state.pending);
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
        state.in_flight = batch
            .iter()
            .map(|e| usize::try_from(Self::cost(e)).unwrap_or(0))
            .sum();
        state.pending = Pending {
            bytes: pending.bytes - state.in_flight,
            entries: left,
        };
        batch
    }

    /// Refuses all further writes, and fails those that wait. The first reason stays.
    pub(crate) fn poison(&self, state: &mut State, reason: &str, batch: Vec<Entry>) {
        let reason = state.poison.get_or_insert_with(|| Arc::from(reason));
        let error = LogError::Poisoned {
            reason: Arc::clone(reason),
        };
        tracing::error!(%reason, "the log is poisoned");
        self.fail_all(state, &error, batch);
    }

    /// Fails everything that waits.
    pub(crate) fn fail_all(&self, state: &mut State, error: &LogError, batch: Vec<Entry>) {
        state.in_flight = 0;
        let pending = std::mem::take(&mut state.pending);
        let mut delivery = Delivery {
            failed: Some(error.clone()),
            ..Delivery::default()
        };
        let waiting = batch.into_iter().chain(pending.entries);
        let completers = waiting.filter_map(|entry| entry.done);
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
        for _ in 0..most {
            let Some(delivery) = state.deliveries.pop_front() else {
                break;
            };
            let calls = SinkCalls::resolve(&state, delivery);
            drop(state);
            let panicked = calls.run(own);
            state = self.lock();
            if panicked {
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
        for (at, batch) in delivery.sinks {
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

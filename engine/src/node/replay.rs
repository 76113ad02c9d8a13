//! Replay at opening: the log is read once for all shards, and several threads bring its records into the stores.
//!
//! One thread sweeps the log and deals its records into a queue for each shard; the others take a shard at a time, with
//! all that is queued for it, so that a shard's records stay in order and no two threads meet in one store. What is queued
//! is bounded in bytes: the sweep waits for the stores, whatever the log's length.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use watershed_wal::{InstanceId, Log, LogError, SeqRange, Sweep, Swept};

use crate::Error;
use crate::shard::Hosted;
use crate::store::Store;
use crate::sync::lock;

/// Bodies that wait for the stores, at the most (and one step of the sweep).
const QUEUED_BYTES: usize = 16 << 20;
/// More threads than this gain nothing: the sweep itself does not feed them.
const MAX_APPLIERS: usize = 8;

/// Brings the stores of these copies up to the log. Copies without a store are passed over.
///
/// # Errors
/// The first that a store or the log gives; it names the shard.
pub(super) fn replay(log: &Log, copies: &[Arc<Hosted>]) -> Result<(), Error> {
    let behind: Vec<_> = copies.iter().filter_map(Behind::new).collect();
    if behind.is_empty() {
        return Ok(());
    }
    let ranges = behind.iter().map(|copy| (copy.hosted.instance, copy.range));
    let sweep = log.sweep(ranges.collect())?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let appliers = cores.clamp(2, MAX_APPLIERS).min(behind.len());
    let queues = Queues::new(&behind);
    std::thread::scope(|scope| {
        let spawned = (0..appliers).try_for_each(|number| {
            std::thread::Builder::new()
                .name(format!("ws-replay-{number}"))
                .spawn_scoped(scope, || queues.apply(&behind))
                .map(drop)
        });
        let dealt = match spawned {
            Ok(()) => queues.deal(sweep),
            Err(error) => Err(Error::io("start threads for", &behind[0].hosted.dir, error)),
        };
        queues.end(dealt.err());
    });
    queues.result()?;
    behind.iter().try_for_each(Behind::check)
}

/// A copy whose store is behind the log.
#[derive(Debug)]
struct Behind {
    hosted: Arc<Hosted>,
    store: Store,
    range: SeqRange,
}

impl Behind {
    fn new(hosted: &Arc<Hosted>) -> Option<Self> {
        let store = hosted.store().ok()?;
        let applied = store.applied().seq;
        // From the store on: behind it the log may have a hole that the store has not (after a repair, or a receiver's).
        let end = hosted.log.has().contiguous_after(applied);
        Some(Self {
            hosted: hosted.clone(),
            range: SeqRange::after(applied, end)?,
            store,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let applied = self.store.applied().seq;
        if applied == self.range.last() {
            return Ok(());
        }
        Err(Error::behind(self.hosted.shard, applied, self.range.last()))
    }
}

/// What waits to be applied, by the place of its copy.
#[derive(Debug)]
struct Queues {
    places: HashMap<InstanceId, usize>,
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
}

#[derive(Debug)]
struct State {
    queues: Vec<VecDeque<Swept>>,
    /// Copies with records that no thread applies; each once.
    ready: VecDeque<usize>,
    /// A thread applies this copy.
    claimed: Vec<bool>,
    bytes: usize,
    /// Nothing more comes.
    complete: bool,
    /// Nothing more is applied: something failed, or a thread panicked.
    abandoned: bool,
    error: Option<Error>,
}

impl Queues {
    fn new(behind: &[Behind]) -> Self {
        let instances = behind.iter().map(|copy| copy.hosted.instance);
        Self {
            places: instances.zip(0..).collect(),
            state: Mutex::new(State {
                queues: behind.iter().map(|_| VecDeque::new()).collect(),
                ready: VecDeque::new(),
                claimed: vec![false; behind.len()],
                bytes: 0,
                complete: false,
                abandoned: false,
                error: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Reads the log into the queues.
    fn deal(&self, sweep: Sweep) -> Result<(), Error> {
        for swept in sweep {
            let swept = swept?;
            let place = self.places.get(&swept.instance());
            let place = *place.ok_or(LogError::UnknownInstance(swept.instance()))?;
            let mut state = lock(&self.state);
            while state.bytes > QUEUED_BYTES && !state.abandoned {
                state = wait(&self.room, state);
            }
            if state.abandoned {
                return Ok(());
            }
            state.bytes += swept.body_bytes();
            state.queues[place].push_back(swept);
            if !state.claimed[place] && state.queues[place].len() == 1 {
                state.ready.push_back(place);
                self.work.notify_one();
            }
        }
        Ok(())
    }

    /// Nothing more comes; with an error, what is queued is left.
    fn end(&self, error: Option<Error>) {
        let mut state = lock(&self.state);
        state.complete = true;
        state.abandoned |= error.is_some();
        // The first counts: what came after may follow from it.
        state.error = state.error.take().or(error);
        drop(state);
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Applies what is queued until all is, or something failed.
    fn apply(&self, behind: &[Behind]) {
        // Else the thread that deals would wait for room for ever.
        let _abandoned = OnPanic(self);
        let mut state = lock(&self.state);
        loop {
            if state.abandoned {
                return;
            }
            let Some(place) = state.ready.pop_front() else {
                if state.complete {
                    return;
                }
                state = wait(&self.work, state);
                continue;
            };
            let taken = std::mem::take(&mut state.queues[place]);
            state.claimed[place] = true;
            drop(state);
            let bytes: usize = taken.iter().map(Swept::body_bytes).sum();
            let copy = &behind[place];
            let applied = taken
                .into_iter()
                .try_for_each(|swept| copy.hosted.apply_read(&copy.store, &swept.into_records()));
            if let Err(error) = applied {
                self.end(Some(error));
                return;
            }
            state = lock(&self.state);
            state.bytes -= bytes;
            state.claimed[place] = false;
            if !state.queues[place].is_empty() {
                state.ready.push_back(place);
                self.work.notify_one();
            }
            self.room.notify_one();
        }
    }

    fn result(&self) -> Result<(), Error> {
        lock(&self.state).error.take().map_or(Ok(()), Err)
    }
}

/// Stops the others where a thread panics.
struct OnPanic<'a>(&'a Queues);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).abandoned = true;
            self.0.end(None);
        }
    }
}

fn wait<'a>(signal: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    signal.wait(state).unwrap_or_else(PoisonError::into_inner)
}

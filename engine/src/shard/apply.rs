//! From committed to visible: records go to the store in Seq order, in groups, shards in parallel.
//!
//! The log hands over what it committed ([`Sink`]). One thread at a time applies a shard: the submitting thread itself
//! where it committed alone (a lone writer meets no other thread), else one of the pool's. Two ways lead into the
//! store: an owner's records come in order and are applied as they are; a receiver's come in any order, so its
//! contiguous part is read back from the log, which is also how a restart replays.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use watershed_wal::{CommitSink, Committed, Completer, LogError, Record, SeqRange};

use super::{ApplyQueue, Hosted, Role, write};
use crate::Error;
use crate::store::Store;
use crate::sync::lock;

/// The most that one RocksDB batch takes: enough to spread its cost, small enough to wake waiters early.
const GROUP_RECORDS: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;

/// What the log calls for one instance.
#[derive(Debug)]
pub(super) struct Sink(Weak<Hosted>);

impl Sink {
    pub(super) fn new(hosted: &Arc<Hosted>) -> Self {
        Self(Arc::downgrade(hosted))
    }
}

impl CommitSink for Sink {
    fn committed(&self, batch: Vec<Committed>, inline: bool) {
        // Without a hosting the completers drop, and say so to their waiters.
        let Some(hosted) = self.0.upgrade() else {
            return;
        };
        if hosted.role() == Role::Receiver {
            // A receiver acknowledges what is durable; what is contiguous is applied behind that.
            Completer::complete_all(batch.into_iter().map(|item| (item.done, Ok(()))));
            hosted.catch_up_later();
        } else {
            hosted.enqueue(batch, inline);
        }
    }

    fn failed(&self, error: &LogError) {
        if let Some(hosted) = self.0.upgrade() {
            tracing::error!(shard = %hosted.shard, %error, "the log failed: writes are refused until the engine is re-opened");
            hosted.note_change();
        }
    }
}

impl Hosted {
    fn enqueue(&self, batch: Vec<Committed>, inline: bool) {
        let mut queue = lock(&self.queue);
        queue.items.extend(batch);
        if !inline && !queue.claimed && !queue.scheduled {
            queue.scheduled = true;
            drop(queue);
            self.schedule();
        }
    }

    /// Applies, on the pool, what the log holds beyond the store.
    pub(crate) fn catch_up_later(&self) {
        self.schedule_for(|queue| queue.catch_up = true);
    }

    /// Has the pool look at the queue after `note` noted there what for.
    pub(super) fn schedule_for(&self, note: impl FnOnce(&mut ApplyQueue)) {
        let mut queue = lock(&self.queue);
        note(&mut queue);
        if !queue.claimed && !queue.scheduled {
            queue.scheduled = true;
            drop(queue);
            self.schedule();
        }
    }

    fn schedule(&self) {
        if let Some(me) = self.me.upgrade() {
            self.pool.push(me);
        }
    }

    /// Applies what is queued, unless another thread is at it (which then takes it all).
    pub(super) fn apply_queued(&self) {
        {
            let mut queue = lock(&self.queue);
            queue.scheduled = false;
            if queue.claimed {
                return;
            }
            queue.claimed = true;
        }
        self.apply_claimed();
    }

    /// Applies what is queued until there is nothing left, then gives up the claim that this thread has.
    pub(super) fn apply_claimed(&self) {
        loop {
            let (mut items, catch_up, heal) = {
                let mut queue = lock(&self.queue);
                if queue.items.is_empty() && !queue.catch_up && !queue.heal {
                    queue.claimed = false;
                    if queue.waiting > 0 {
                        self.drained.notify_all();
                    }
                    return;
                }
                (
                    std::mem::take(&mut queue.items),
                    std::mem::take(&mut queue.catch_up),
                    std::mem::take(&mut queue.heal),
                )
            };
            if heal {
                self.heal_now();
            }
            if self.leave_in_log(&mut items) {
                continue;
            }
            let result = if catch_up { self.catch_up() } else { Ok(()) };
            let result = result.and_then(|()| self.apply_items(&mut items));
            if let Err(error) = result
                && !self.leave_in_log(&mut items)
            {
                self.fail(&error);
            }
        }
    }

    /// Applies an owner's committed records, which come in Seq order.
    fn apply_items(&self, items: &mut VecDeque<Committed>) -> Result<(), Error> {
        while !items.is_empty() {
            let count = group_len(items.iter().map(|item| item.record.body()));
            let mut records = Vec::with_capacity(count);
            let mut waiters = Vec::with_capacity(count);
            for item in items.drain(..count) {
                records.push(item.record);
                waiters.push((item.done, Ok(())));
            }
            let applied = self.apply_group(&records);
            let units = records
                .iter()
                .map(|record| write::units(record.body().len()))
                .sum();
            self.release_room(units);
            applied?;
            Completer::complete_all(waiters);
        }
        Ok(())
    }

    /// Applies records in order, skipping what the store has.
    pub(super) fn apply_group(&self, records: &[Record]) -> Result<(), Error> {
        let store = self.store()?;
        let have = store.applied().seq;
        let skip = records.partition_point(|record| record.seq() <= have);
        let records = &records[skip..];
        let Some(last) = records.last() else {
            return Ok(());
        };
        if let Err(error) = store.apply(records) {
            self.heal(&error, last.seq())?;
        }
        self.applied.send_replace(last.seq());
        self.forget_pending(last.seq());
        Ok(())
    }

    /// Applies the contiguous part of what the log holds beyond the store.
    fn catch_up(&self) -> Result<(), Error> {
        let Ok(store) = self.store() else {
            return Ok(());
        };
        let have = store.applied().seq;
        let range = SeqRange::after(have, self.log.has().contiguous_after(have));
        match self.replay(range) {
            Err(Error::Store(error)) => {
                let through = range.map_or(have, |range| range.last());
                self.heal(&error, through)?;
                self.applied.send_replace(through);
                Ok(())
            }
            other => other,
        }
    }

    /// Reads `range` back from the log and applies it.
    pub(crate) fn replay(&self, range: Option<SeqRange>) -> Result<(), Error> {
        let store = self.store()?;
        let mut rest = range;
        while let Some(range) = rest {
            let records = self.log.read_batch(range, GROUP_BYTES)?;
            let Some(last) = records.last().map(Record::seq) else {
                return Err(Error::behind(self.shard, store.applied().seq, range.last()));
            };
            self.apply_read(&store, &records)?;
            rest = SeqRange::after(last, range.last());
        }
        Ok(())
    }

    /// Applies records that were read back from the log: the next ones, in Seq order.
    pub(crate) fn apply_read(&self, store: &Store, mut records: &[Record]) -> Result<(), Error> {
        while !records.is_empty() {
            let (group, rest) = records.split_at(group_len(records.iter().map(Record::body)));
            store.apply(group)?;
            records = rest;
            if let Some(last) = group.last() {
                self.applied.send_replace(last.seq());
            }
        }
        Ok(())
    }

    pub(super) fn fail(&self, error: &Error) {
        if self.role() == Role::Closed {
            return;
        }
        tracing::error!(shard = %self.shard, %error, "the shard is out of service");
        self.set_role(Role::Failed {
            reason: error.to_string(),
        });
        self.room.close();
    }
}

/// How many of the records with these bodies one RocksDB batch takes; at least the first.
fn group_len<'a>(bodies: impl Iterator<Item = &'a Bytes>) -> usize {
    let mut bytes = 0;
    bodies
        .take(GROUP_RECORDS)
        .take_while(|body| {
            let fits = bytes < GROUP_BYTES;
            bytes += body.len();
            fits
        })
        .count()
}

/// The threads which apply shards.
#[derive(Debug, Clone)]
pub(crate) struct ApplyPool(Arc<PoolShared>);

#[derive(Debug)]
struct PoolShared {
    state: Mutex<PoolState>,
    work: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct PoolState {
    ready: VecDeque<Arc<Hosted>>,
    stopping: bool,
}

impl ApplyPool {
    /// A pool of `threads`, named for a profiler's sake.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let pool = Self(Arc::new(PoolShared {
            state: Mutex::default(),
            work: Condvar::new(),
            threads: Mutex::default(),
        }));
        for number in 0..threads {
            let shared = pool.0.clone();
            let thread = std::thread::Builder::new()
                .name(format!("ws-apply-{number}"))
                .spawn(move || shared.run())?;
            lock(&pool.0.threads).push(thread);
        }
        Ok(pool)
    }

    fn push(&self, hosted: Arc<Hosted>) {
        lock(&self.0.state).ready.push_back(hosted);
        self.0.work.notify_one();
    }

    /// Applies what is ready, then joins the threads.
    pub(crate) fn stop(&self) {
        lock(&self.0.state).stopping = true;
        self.0.work.notify_all();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            // A panicked applier has printed its reason; joining is all that is left to do.
            let _ = thread.join();
        }
    }
}

impl PoolShared {
    fn run(&self) {
        loop {
            let hosted = {
                let mut state = lock(&self.state);
                loop {
                    if let Some(hosted) = state.ready.pop_front() {
                        break hosted;
                    }
                    if state.stopping {
                        return;
                    }
                    state = self
                        .work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            hosted.apply_queued();
        }
    }
}

//! From the log to visible: records go to the store in Seq order, in groups, shards in parallel.
//!
//! The log announces a record when it is written, before its frame is synced, and says later that it is committed
//! ([`Sink`]). So the store takes a frame while the device does. What the store has and is not committed yet is seen by
//! nobody: reads that meet it wait ([`Hosted::wait_applied`]), and a write is acknowledged when both are done, by whoever
//! comes last. Should the log fail in between, such records never count: the engine takes no more writes and is opened
//! again, without them.
//!
//! One thread at a time applies a shard: the submitting thread itself where it committed alone (a lone writer meets no
//! other thread), else one of the pool's. Two ways lead into the store: an owner's records come in order and are applied
//! as they are; a receiver's come in any order, so its contiguous part is read back from the log, which is also how a
//! restart replays, and how a store that failed catches up ([`ByLog`]).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, Weak};

use bytes::Bytes;
use watershed_wal::{
    CommitSink, Committed, Completer, LogError, Record, RecordKind, Seq, SeqRange,
};

use super::{Ack, ApplyQueue, ByLog, Hosted, Role, write};
use crate::Error;
use crate::store::Store;
use crate::sync::lock;

/// The most that one RocksDB batch takes: enough to spread its cost, small enough that its writers make their next writes
/// while the next one is applied (measured with 1,024 in flight on one shard: 1,024 a batch is a third slower).
const GROUP_RECORDS: usize = 192;
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
    fn appended(&self, records: &[Record], inline: bool) {
        if let Some(hosted) = self.0.upgrade() {
            hosted.appended(records, inline);
        }
    }

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
            hosted.committed(batch, inline);
        }
    }

    fn failed(&self, error: &LogError) {
        if let Some(hosted) = self.0.upgrade() {
            tracing::error!(shard = %hosted.shard, %error, "the log failed: writes are refused until the engine is re-opened");
            hosted.note_change();
        }
    }
}

impl ApplyQueue {
    /// From now on records come from the log, at least all that wait here.
    pub(super) fn read_from_log(&mut self, also: Option<Seq>) {
        let last = self.items.back().map(Record::seq).max(also);
        self.items.clear();
        self.pass_by(last.unwrap_or_default());
    }

    pub(super) fn pass_by(&mut self, seq: Seq) {
        self.by_log = match self.by_log {
            ByLog::No => ByLog::Until(seq),
            ByLog::Until(before) => ByLog::Until(before.max(seq)),
        };
    }

    /// Notes who is to be told once these are applied.
    pub(super) fn note_committed(&mut self, batch: Vec<Committed>) {
        if self.is_closed {
            return; // dropped completers say so
        }
        for item in batch {
            let seq = item.record.seq();
            self.committed = self.committed.max(seq);
            self.acks.push_back(Ack {
                seq,
                units: match item.record.kind() {
                    RecordKind::Batch => write::units(item.record.body().len()),
                    _ => 0,
                },
                done: item.done,
            });
        }
        self.catch_up |= self.by_log != ByLog::No;
    }

    /// Takes out the writes that can be acknowledged.
    fn take_ready(&mut self) -> Vec<Ack> {
        let visible = self.applied.min(self.committed);
        let ready = self.acks.partition_point(|ack| ack.seq <= visible);
        self.acks.drain(..ready).collect()
    }
}

impl Hosted {
    /// Takes records whose frame is about to be synced.
    fn appended(&self, records: &[Record], inline: bool) {
        let mut queue = lock(&self.queue);
        if queue.by_log != ByLog::No {
            if let Some(last) = records.last() {
                queue.pass_by(last.seq());
            }
            return;
        }
        queue.items.extend(records.iter().cloned());
        // A lone writer applies its own.
        if !inline || records.len() > 1 {
            self.schedule(queue);
        }
    }

    /// Notes what is committed, and acknowledges what of it is applied.
    fn committed(&self, batch: Vec<Committed>, inline: bool) {
        let mut queue = lock(&self.queue);
        queue.note_committed(batch);
        let queue = self.settle(queue);
        if !inline && (queue.catch_up || !queue.items.is_empty()) {
            self.schedule(queue);
        }
    }

    /// Shows what is committed and applied, and acknowledges its writes.
    fn settle<'a>(&'a self, mut queue: MutexGuard<'a, ApplyQueue>) -> MutexGuard<'a, ApplyQueue> {
        let visible = queue.applied.min(queue.committed);
        if visible > self.visible() {
            self.applied.send_replace(visible);
        }
        let ready = queue.take_ready();
        if ready.is_empty() {
            return queue;
        }
        drop(queue);
        self.release_room(ready.iter().map(|ack| ack.units).sum());
        // A term's start takes no room, and nobody wrote it.
        let writes = ready.iter().filter(|ack| ack.units > 0).count();
        self.count_writes(u64::try_from(writes).unwrap_or(u64::MAX));
        Completer::complete_all(ready.into_iter().map(|ack| (ack.done, Ok(()))));
        lock(&self.queue)
    }

    pub(super) fn count_writes(&self, writes: u64) {
        self.writes.fetch_add(writes, Ordering::Relaxed);
    }

    /// Notes that the store has records up to `applied`.
    fn settle_applied(&self, applied: Seq) {
        let mut queue = lock(&self.queue);
        queue.applied = queue.applied.max(applied);
        drop(self.settle(queue));
        self.forget_pending(applied);
    }

    /// As [`Hosted::settle_applied`], for records that were read from the log, where only committed ones are.
    pub(super) fn settle_read(&self, applied: Seq) {
        let mut queue = lock(&self.queue);
        queue.applied = applied;
        queue.committed = queue.committed.max(applied);
        if matches!(queue.by_log, ByLog::Until(seq) if seq <= applied) && self.is_owner() {
            queue.by_log = ByLog::No;
        }
        drop(self.settle(queue));
        self.forget_pending(applied);
    }

    /// Applies, on the pool, what the log holds beyond the store.
    pub(crate) fn catch_up_later(&self) {
        self.schedule_for(|queue| queue.catch_up = true);
    }

    /// Has the pool look at the queue after `note` noted there what for.
    pub(super) fn schedule_for(&self, note: impl FnOnce(&mut ApplyQueue)) {
        let mut queue = lock(&self.queue);
        note(&mut queue);
        self.schedule(queue);
    }

    fn schedule(&self, mut queue: MutexGuard<'_, ApplyQueue>) {
        if queue.claimed || queue.scheduled {
            return;
        }
        queue.scheduled = true;
        drop(queue);
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
            let (items, catch_up, heal) = {
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
            let last = items.back().map(Record::seq);
            if self.leave_in_log(last) {
                continue;
            }
            let result = if catch_up { self.catch_up() } else { Ok(()) };
            let result = result.and_then(|()| self.apply_items(items));
            if let Err(error) = result
                && !self.leave_in_log(last)
            {
                self.fail(&error);
            }
        }
    }

    /// Applies an owner's records, which come in Seq order.
    fn apply_items(&self, mut items: VecDeque<Record>) -> Result<(), Error> {
        let last = items.back().map(Record::seq);
        while !items.is_empty() {
            let count = group_len(items.iter().map(Record::body));
            let records: Vec<Record> = items.drain(..count).collect();
            if !self.apply_in_order(&records, last)? {
                return Ok(());
            }
            if let Some(last) = records.last() {
                self.settle_applied(last.seq());
            }
        }
        Ok(())
    }

    /// Applies the next records of a shard, without those that the store has. `false` where it failed and was healed: then
    /// all up to `last` come from the log, those that are written at once, the others when they are.
    pub(super) fn apply_in_order(
        &self,
        records: &[Record],
        last: Option<Seq>,
    ) -> Result<bool, Error> {
        let store = self.store()?;
        let have = store.applied().seq;
        let skip = records.partition_point(|record| record.seq() <= have);
        if let Err(error) = store.apply(&records[skip..]) {
            lock(&self.queue).read_from_log(last);
            self.heal(&error)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Applies the contiguous part of what the log holds beyond the store.
    fn catch_up(&self) -> Result<(), Error> {
        let Ok(store) = self.store() else {
            return Ok(());
        };
        match self.replay(&store) {
            Err(Error::Store(error)) => self.heal(&error),
            other => other,
        }
    }

    /// Applies what follows in the log on what a store has.
    pub(super) fn replay(&self, store: &Store) -> Result<(), Error> {
        let have = store.applied().seq;
        let through = self.log.written_after(have);
        let mut rest = SeqRange::after(have, through);
        while let Some(range) = rest {
            let records = self.log.read_batch(range, GROUP_BYTES)?;
            let Some(last) = records.last().map(Record::seq) else {
                return Err(Error::behind(self.shard, store.applied().seq, range.last()));
            };
            self.apply_read(store, &records)?;
            rest = SeqRange::after(last, range.last());
        }
        self.settle_read(through.max(have));
        Ok(())
    }

    /// Applies records that were read back from the log: the next ones, in Seq order.
    pub(crate) fn apply_read(&self, store: &Store, mut records: &[Record]) -> Result<(), Error> {
        while !records.is_empty() {
            let (group, rest) = records.split_at(group_len(records.iter().map(Record::body)));
            store.apply(group)?;
            records = rest;
            if let Some(last) = group.last() {
                self.settle_read(last.seq());
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
        // Their records are in the log, or never will be: their writers learn that nobody can say here.
        let mut queue = lock(&self.queue);
        queue.read_from_log(None);
        let acks = std::mem::take(&mut queue.acks);
        drop(queue);
        drop(acks);
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

//! A buffered write of a blocking caller, start to end on its own thread: the log appends it, and where nothing of the
//! shard waits to be applied it goes straight into the store. Writers of different shards meet in the log's short critical
//! section only.
//!
//! The record joins the order of its shard in the section that its Seq was assigned in: what the log delivered before is
//! in the queue already, and what is assigned later comes behind it.

use std::sync::{Mutex, MutexGuard};

use watershed_wal::{Committed, Completion, Record};

use super::{ByLog, Hosted, write};
use crate::sync::lock;

/// Who applies a record that was appended directly.
#[derive(Debug)]
pub(super) enum Turn {
    /// This thread, which has the claim: nothing comes before it.
    Here(Record),
    /// Whoever applies what is queued.
    Queued(Completion),
}

/// How often to try for the section of assigning before sleeping: some microseconds.
const SPINS: u32 = 64;

/// Locks what is held for about as long as a direct append takes: asleep, a thread would wait for longer than that.
pub(super) fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..SPINS {
        if let Ok(guard) = mutex.try_lock() {
            return guard;
        }
        std::hint::spin_loop();
    }
    lock(mutex)
}

impl Hosted {
    /// Puts an appended record in its place. Called in the section that assigned its Seq.
    pub(super) fn take_turn(&self, record: Record) -> Turn {
        let mut queue = lock(&self.queue);
        if queue.is_idle() && self.waits_for_room().is_none() {
            queue.claimed = true;
            return Turn::Here(record);
        }
        let in_order = queue.by_log == ByLog::No;
        if in_order {
            queue.items.push_back(record.clone());
        } else {
            queue.pass_by(record.seq());
        }
        let (committed, done) = Committed::buffered(record);
        queue.note_committed(vec![committed]);
        Turn::Queued(done)
    }

    /// Applies a record that this thread has the claim for, and what was queued behind it. Whether it is applied.
    pub(super) fn apply_here(&self, record: &Record) -> bool {
        let applied = self.apply_in_order(std::slice::from_ref(record), Some(record.seq()));
        match &applied {
            Ok(true) => self.settle_read(record.seq()),
            // Healed: it is written, so it was read from the log.
            Ok(false) => {}
            Err(error) if !self.leave_in_log(Some(record.seq())) => self.fail(error),
            Err(_) => {}
        }
        self.release_room(write::units(record.body().len()));
        self.apply_claimed();
        if applied.is_ok() {
            self.count_writes(1);
        }
        applied.is_ok()
    }
}

//! A buffered write in its shortest form: the submitting thread appends one small frame while it holds the mutex.
//!
//! There is no entry, no completion and no thread to change to: the caller gets its record back, which is in the
//! kernel's hands, and brings it to where the sink would. That is right only where nothing that is older is still on
//! its way: no write is queued, none is being written, and all that was committed has been handed to its sink. Then
//! the record is the next of its instance for whoever takes records in that order. A background sync may be under
//! way meanwhile: what is appended is none of what it covers, and lies in blocks of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::commit::{FrameKind, Written};
use super::core::{Core, PanicGuard};
use super::room::{Room, Use};
use super::state::{InstanceIndex, State, ThreadState};
use super::submit::{Inline, Submitted};
use crate::codec::len64;
use crate::completion::Completion;
use crate::error::LogError;
use crate::format::payload::{MAX_RECORD_HEAD, MAX_SLOT, PayloadWriter, Slot, Stored};
use crate::record::{Record, RecordKind};
use crate::sync::{Instant, Mutex, MutexGuard, lock};
use crate::words::Durability;

/// The longest body that is copied while the mutex is held.
const LONGEST: usize = 4096;
/// How often to try before sleeping: some microseconds.
const SPINS: u32 = 64;

/// What became of a buffered write that met no error.
#[derive(Debug)]
#[must_use = "a written record waits for nobody but the caller to be applied"]
pub enum Appended {
    /// It is written, on this thread: its bytes outlive the process. No sink is called for it: the caller does what
    /// its sink would. All records of the instance with lower Seqs were given to their callers or to the sink before.
    Written(Record),
    /// It goes the way of [`crate::InstanceLog::submit`].
    Queued(Submitted),
}

/// For who makes no difference: what is written is a write that has completed.
impl From<Appended> for Submitted {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Written(record) => Self {
                term: record.term(),
                seq: record.seq(),
                done: completed(Ok(())),
                lead: None,
            },
            Appended::Queued(submitted) => submitted,
        }
    }
}

fn completed(result: Result<(), LogError>) -> Completion {
    let (done, completer) = Completion::single();
    completer.complete(result);
    done
}

impl Core {
    /// See [`crate::InstanceLog::append`].
    pub(super) fn append(
        self: &Arc<Self>,
        at: InstanceIndex,
        kind: RecordKind,
        body: Bytes,
    ) -> Result<Appended, LogError> {
        let is_short = body.len() <= LONGEST && body.len() < self.options.compress_from_bytes;
        if is_short && kind == RecordKind::Batch {
            let guard = PanicGuard(self);
            let appended = self.append_now(at, kind, &body);
            guard.disarm();
            if let Some(appended) = appended? {
                return Ok(appended);
            }
        }
        self.submit(at, kind, body, Durability::Buffered, Inline::Allowed)
            .map(Appended::Queued)
    }

    /// Gate, Seq and frame in one hold of the mutex. `None`, and nothing was taken: it must queue.
    fn append_now(
        &self,
        at: InstanceIndex,
        kind: RecordKind,
        body: &Bytes,
    ) -> Result<Option<Appended>, LogError> {
        let cost = Room::frame_cost(body.len() + MAX_RECORD_HEAD + MAX_SLOT);
        // Dropped after the mutex.
        let _trimmed;
        let mut state = lock_soon(&self.state);
        state.check_writable()?;
        if !state.is_quiet() || !state.fits_here(cost) {
            return Ok(None);
        }
        let instance = state.instance_mut(at)?;
        let Some(term) = instance.owner.filter(|_| instance.gate_open) else {
            return Err(LogError::GateClosed);
        };
        let seq = instance.assigned.next();
        let slot = Slot {
            instance: instance.id,
            shard: instance.shard,
            term,
        };
        // Taken out, so that a panic leaves a log that nobody writes to.
        let Some(mut writer) = state.writer.take() else {
            return Ok(None);
        };
        state.instance_mut(at)?.assigned = seq;
        let stored = Stored::Raw(body.clone());
        let start = writer.write(FrameKind::Short, 1, |out| {
            PayloadWriter::new(out, &[slot]).record(0, kind, seq, &stored);
        });
        let appended = match start {
            Ok(start) => {
                let written = Written {
                    segment: writer.segment,
                    start,
                    end: writer.end,
                    synced: false,
                };
                let record = Record::new(term, seq, kind, body.clone());
                state.note_written(at, &record, &written);
                self.metrics.frames.fetch_add(1, Ordering::Relaxed);
                self.metrics.records.fetch_add(1, Ordering::Relaxed);
                _trimmed = state.trim_recent(self.options.recent_bytes);
                if state.thread == ThreadState::Deep {
                    // It syncs in a while.
                    state.thread = ThreadState::Timed;
                    self.work.notify_one();
                }
                Appended::Written(record)
            }
            Err(reason) => {
                // It has its Seq, and may be in the file. The log thread tells everybody else.
                self.poison(&mut state, &reason, Vec::new());
                Appended::Queued(Submitted {
                    term,
                    seq,
                    done: completed(state.check_writable()),
                    lead: None,
                })
            }
        };
        state.room.current = writer.left();
        state.plan_room();
        state.writer = Some(writer);
        Ok(Some(appended))
    }
}

/// Locks what is held for less than a microsecond: asleep, a thread would wait for longer than that.
fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..SPINS {
        if let Ok(guard) = mutex.try_lock() {
            return guard;
        }
        std::hint::spin_loop();
    }
    lock(mutex)
}

impl State {
    /// Whether nothing older is on its way to the log or to a sink.
    fn is_quiet(&self) -> bool {
        self.writer.is_some()
            && self.pending.entries.is_empty()
            && self.deliveries.is_empty()
            && !self.delivering
    }

    /// Whether a record's frame fits the current segment, and may have the room.
    fn fits_here(&mut self, cost: u64) -> bool {
        cost <= self.room.current && !self.room.is_beyond && self.has_room(Use::Records, &[cost], 0)
    }

    /// Makes one written record readable.
    fn note_written(&mut self, at: InstanceIndex, record: &Record, written: &Written) {
        let bytes = record.encoded_len() + size_of::<Record>();
        let Ok(instance) = self.instance_mut(at) else {
            return;
        };
        let seq = record.seq();
        let is_first = instance.note_unsynced(seq);
        instance.has.insert(seq);
        instance.index.add(
            crate::seqset::SeqRange::single(seq),
            written.segment,
            written.start,
            written.end,
            len64(bytes),
        );
        let begins_chunk = instance.recent.add(record.clone(), bytes);
        if is_first {
            self.unsynced.push(at);
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        if begins_chunk {
            self.recent_order.push_back(at);
        }
        self.recent_bytes += bytes;
        self.note_max(written.segment, at, seq);
    }
}

//! The handle of one hosted instance: what an owner, a receiver and a reader call.

use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::direct::Appended;
use super::read::RecordReader;
use super::room::Use;
use super::sink::CommitSink;
use super::state::{Hold, Instance, InstanceIndex, What};
use super::submit::{Inline, Submitted};
use super::tail::{DurablePast, Tail};
use super::{Handle, hold_infos};
use crate::completion::Completion;
use crate::digest::LogDigest;
use crate::error::LogError;
use crate::format::notes::{HoldNote, LocalNote};
use crate::options::{HoldBudget, HoldInfo, Watermarks};
use crate::record::{Record, RecordKind};
use crate::seqset::{SeqRange, SeqSet};
use crate::sync::Instant;
use crate::words::{Durability, Epoch, InstanceId, Seq, ShardId, Term, TermStart};

/// The longest name of a hold or a note.
const MAX_NAME: usize = 256;
/// Keys of notes that the log itself writes.
const RESERVED: &str = "wal.";
/// The longest value of a note: each head carries all notes.
const MAX_NOTE: usize = 64 << 10;

/// One hosting of a shard in this log. Clones are handles of the same, and keep the log open.
#[derive(Clone, Debug)]
pub struct InstanceLog {
    handle: Arc<Handle>,
    at: InstanceIndex,
    shard: ShardId,
    id: InstanceId,
}

impl InstanceLog {
    pub(super) const fn new(
        handle: Arc<Handle>,
        at: InstanceIndex,
        shard: ShardId,
        id: InstanceId,
    ) -> Self {
        Self {
            handle,
            at,
            shard,
            id,
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Looks at the instance; a forgotten one gives the default.
    fn peek<T: Default>(&self, look: impl FnOnce(&Instance) -> T) -> T {
        let state = self.core().lock();
        state.instance(self.at).map(look).unwrap_or_default()
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// The instance's id.
    #[must_use]
    pub const fn id(&self) -> InstanceId {
        self.id
    }

    /// Records at or below it are not here.
    #[must_use]
    pub fn base(&self) -> Seq {
        self.peek(|instance| instance.base)
    }

    /// The term history, as far as its start records are written here or came with the copy.
    #[must_use]
    pub fn terms(&self) -> Vec<TermStart> {
        self.peek(|instance| instance.terms.clone())
    }

    /// The owner's current term; `None` for a receiver, and after opening until [`InstanceLog::start_term`].
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        self.peek(|instance| instance.owner)
    }

    /// The term that the owner of this epoch starts next: its opening is above all that were started here, and after
    /// a repair above all that may have been lost.
    #[must_use]
    pub fn next_term(&self, epoch: Epoch) -> Term {
        self.peek(|instance| {
            let started = instance.last_term().filter(|last| last.epoch == epoch);
            let started = started.map_or(0, |last| last.opening);
            let lost = instance.lost().map_or(0, |lost| lost.opening);
            Term::new(epoch, started.max(lost).saturating_add(1))
        })
    }

    /// Why the log takes no more writes, where it is poisoned: what is not committed by now never will be.
    #[must_use]
    pub fn failure(&self) -> Option<LogError> {
        let state = self.core().lock();
        state
            .poison
            .clone()
            .map(|reason| LogError::Poisoned { reason })
    }

    /// Sets who takes committed records from now on. One call into the sink before may still be under way.
    pub fn set_sink(&self, sink: Option<Arc<dyn CommitSink>>) {
        let before = {
            let mut state = self.core().lock();
            match state.instance_mut(self.at) {
                Ok(instance) => std::mem::replace(&mut instance.sink, sink),
                Err(_) => sink,
            }
        };
        // A sink may own handles of this log: dropped off the mutex.
        drop(before);
    }

    /// Starts a term as owner: opens the gate and submits the start record, with Seq 1 + max(end, `at_least`).
    /// The Seqs that it skips, because a cut tail lost them, are void from then on.
    ///
    /// # Errors
    /// [`LogError::StaleTerm`] unless the term is above all that are known here; or when the log can't be written.
    pub fn start_term(&self, term: Term, at_least: Seq) -> Result<Submitted, LogError> {
        self.core().start_term(self.at, term, at_least)
    }

    /// Submits a record of the owner: gate, Seq and queue in one critical section.
    ///
    /// # Errors
    /// When the gate is closed, the body too large, or the log busy, full, poisoned or closed. No Seq is taken then.
    pub fn submit(
        &self,
        kind: RecordKind,
        body: Bytes,
        durability: Durability,
        inline: Inline,
    ) -> Result<Submitted, LogError> {
        self.core().submit(self.at, kind, body, durability, inline)
    }

    /// Appends a `Buffered` record of the owner: at once on this thread where the log is free for it, else as
    /// [`InstanceLog::submit`] does. Gate, Seq and frame are one critical section.
    ///
    /// Who calls this for one instance from several threads and hands the records on in Seq order does both in one
    /// critical section of its own, which its sink must not need.
    ///
    /// # Errors
    /// As [`InstanceLog::submit`]. No Seq is taken then.
    pub fn append(&self, kind: RecordKind, body: Bytes) -> Result<Appended, LogError> {
        self.core().append(self.at, kind, body)
    }

    /// Closes the gate; gives the last Seq that was assigned.
    ///
    /// # Errors
    /// When the log is closed, or the instance forgotten.
    pub fn close_gate(&self) -> Result<Seq, LogError> {
        let mut state = self.core().lock();
        let instance = state.instance_mut(self.at)?;
        instance.gate_open = false;
        Ok(instance.assigned)
    }

    /// Opens the owner's gate again.
    ///
    /// # Errors
    /// [`LogError::GateClosed`] for a receiver, which has no gate to open; and when the log can't be written.
    pub fn open_gate(&self) -> Result<(), LogError> {
        let mut state = self.core().lock();
        state.check_writable()?;
        let instance = state.instance_mut(self.at)?;
        if instance.owner.is_none() {
            return Err(LogError::GateClosed);
        }
        instance.gate_open = true;
        Ok(())
    }

    /// Whether the gate is open.
    #[must_use]
    pub fn gate_is_open(&self) -> bool {
        self.peek(|instance| instance.gate_open)
    }

    /// Takes records of the owner, in any order. One that is here already is dropped silently, as are those at or
    /// below base and those that a start record voided. Completes when all are durable.
    ///
    /// # Errors
    /// [`LogError::OwnsShard`] once a term was started here, [`LogError::Conflict`] where another record is here,
    /// [`LogError::StaleTerm`] for one of a replaced term; or when the log can't be written. Nothing was taken then.
    pub fn append_at(&self, records: Vec<Record>) -> Result<Submitted, LogError> {
        self.core().append_at(self.at, records)
    }

    /// The durable Seqs above base, those that are void or truncated included.
    #[must_use]
    pub fn has(&self) -> SeqSet {
        self.peek(|instance| instance.durable.clone())
    }

    /// The last Seq up to which all that follow `seq` are written and can be read, durable or not.
    #[must_use]
    pub fn written_after(&self, seq: Seq) -> Seq {
        self.peek(|instance| instance.has.contiguous_after(seq))
    }

    /// How far assigned, how far durable without a hole.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        self.peek(|instance| Watermarks {
            assigned: instance.assigned,
            durable: instance.durable_mark,
        })
    }

    /// Resolves with the durable mark once it is past `seq`.
    pub fn durable_past(&self, seq: Seq) -> DurablePast {
        DurablePast::new(Arc::clone(self.core()), self.at, seq)
    }

    /// The records of a range in Seq order, as far as they are written; void Seqs are passed over. A Seq that is
    /// not here gives [`LogError::Gap`] once, and ends it.
    #[must_use]
    pub fn read(&self, range: SeqRange) -> RecordReader {
        RecordReader::new(Arc::clone(self.core()), self.at, range)
    }

    /// A prefix of the range within `max_bytes`, but at least one record, unless all of it is void.
    ///
    /// # Errors
    /// [`LogError::Gap`] when the first is not here; [`LogError::Damaged`] and [`LogError::Io`].
    pub fn read_batch(&self, range: SeqRange, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let mut next = Some(range.first());
        while let Some(range) = next.and_then(|first| SeqRange::new(first, range.last())) {
            let (records, rest) = self.core().read_some(self.at, range, max_bytes)?;
            if !records.is_empty() {
                return Ok(records);
            }
            next = rest;
        }
        Ok(Vec::new())
    }

    /// Follows durable records from `from` on, live. Never yields one that is not durable.
    #[must_use]
    pub fn tail(&self, from: Seq) -> Tail {
        let from = from.max(Seq(1));
        Tail::new(Arc::clone(self.core()), self.at, from)
    }

    /// Records at or below may go, unless a hold keeps them. A hint: it becomes durable by and by.
    pub fn set_flushed(&self, seq: Seq) {
        let mut state = self.core().lock();
        if let Ok(instance) = state.instance_mut(self.at) {
            instance.flushed = instance.flushed.max(seq);
            self.core().call_keeper(&mut state);
        }
    }

    /// Up to where records may go.
    #[must_use]
    pub fn flushed(&self) -> Seq {
        self.peek(|instance| instance.flushed)
    }

    /// Keeps the records after `from` until released, or until the budget is used up. Durable when it returns. A
    /// hold of the same name is replaced.
    ///
    /// # Errors
    /// [`LogError::Gap`] where the log is already past it, [`LogError::HoldOverBudget`]; or when the log can't be
    /// written.
    pub fn hold(&self, name: &str, from: Seq, budget: HoldBudget) -> Result<(), LogError> {
        check_name(name)?;
        let (completion, done) = Completion::single();
        {
            let note = HoldNote {
                name: name.to_owned(),
                from,
                bytes: budget.bytes,
                time: budget.time,
                spent: std::time::Duration::ZERO,
            };
            let local = LocalNote::Hold(self.id, note.clone());
            let mut state = self.core().reserve_note(Use::Notes, &local)?;
            let instance = state.instance(self.at)?;
            let kept_from = instance.truncated.max(instance.base);
            if let Some(missing) = SeqRange::after(from, kept_from) {
                return Err(LogError::Gap {
                    shard: self.shard,
                    missing,
                });
            }
            let needed = state.bytes_after(self.at, from);
            if needed > budget.bytes {
                return Err(LogError::HoldOverBudget {
                    shard: self.shard,
                    name: name.to_owned(),
                    needed,
                    budget: budget.bytes,
                });
            }
            // An end that is not noted yet is of the hold before.
            let ending = LocalNote::ReleaseHold(self.id, name.to_owned());
            state.endings.retain(|waiting| *waiting != ending);
            let instance = state.instance_mut(self.at)?;
            instance.holds.retain(|hold| hold.note.name != name);
            // From now on it counts: nothing may be truncated while its note is on the way.
            instance.holds.push(Hold {
                note,
                since: Instant::now(),
            });
            self.core()
                .enqueue_for_thread(&mut state, What::Notes(vec![local]), done);
            self.core().call_keeper(&mut state);
        }
        completion.wait()
    }

    /// Ends a hold, durably; one that is not there is ended already.
    ///
    /// It frees room, so a full log does not refuse it: it then ends at once, and durably with the truncation that it
    /// allows. After a power loss before that it is there again, to be ended again.
    ///
    /// # Errors
    /// When the log is poisoned or closed, or the instance forgotten.
    pub fn release_hold(&self, name: &str) -> Result<(), LogError> {
        let note = LocalNote::ReleaseHold(self.id, name.to_owned());
        let (completion, done) = Completion::single();
        let is_full = {
            let (mut state, is_full) = match self.core().reserve_note(Use::Freeing, &note) {
                Ok(state) => (state, false),
                Err(LogError::Full { .. }) => (self.core().lock(), true),
                Err(error) => return Err(error),
            };
            let instance = state.instance_mut(self.at)?;
            let before = instance.holds.len();
            instance.holds.retain(|hold| hold.note.name != name);
            let is_ended = instance.holds.len() < before;
            if is_full {
                state.endings.extend(is_ended.then_some(note));
            } else {
                let what = if is_ended {
                    What::Notes(vec![note])
                } else {
                    // Its end may be on the way still: durable once that is.
                    What::Barrier
                };
                self.core().enqueue_for_thread(&mut state, what, done);
            }
            is_full
        };
        if !is_full {
            completion.wait()?;
        }
        let mut state = self.core().lock();
        self.core().call_keeper(&mut state);
        Ok(())
    }

    /// The holds, expired ones too.
    #[must_use]
    pub fn holds(&self) -> Vec<HoldInfo> {
        hold_infos(&self.core().lock(), Some(self.at))
    }

    /// Notes something for this node alone; it takes no Seq. Durable when the completion resolves; an empty value
    /// removes.
    ///
    /// # Errors
    /// When key or value is too long, the key starts with `wal.` (the log's own notes), or the log can't be written.
    pub fn put_note(&self, key: &str, value: Bytes) -> Result<Submitted, LogError> {
        check_name(key)?;
        if key.starts_with(RESERVED) {
            return Err(LogError::ReservedNote {
                key: key.to_owned(),
            });
        }
        if value.len() > MAX_NOTE {
            return Err(LogError::TooLarge {
                len: value.len(),
                max: MAX_NOTE,
            });
        }
        let (done, completer) = Completion::single();
        let note = LocalNote::Note(self.id, key.to_owned(), value.clone());
        let mut state = self.core().reserve_note(Use::Notes, &note)?;
        let instance = state.instance_mut(self.at)?;
        if value.is_empty() {
            instance.notes.remove(key);
        } else {
            instance.notes.insert(key.to_owned(), value);
        }
        let (term, seq) = (instance.owner.unwrap_or_default(), instance.assigned);
        self.core()
            .enqueue_for_thread(&mut state, What::Notes(vec![note]), completer);
        Ok(Submitted {
            term,
            seq,
            done,
            lead: None,
        })
    }

    /// A note, as last put.
    #[must_use]
    pub fn note(&self, key: &str) -> Option<Bytes> {
        self.peek(|instance| instance.notes.get(key).cloned())
    }

    /// The digest of a range, by reading it; void Seqs do not count.
    ///
    /// # Errors
    /// As [`InstanceLog::read`].
    pub fn digest(&self, range: SeqRange) -> Result<LogDigest, LogError> {
        let mut digest = LogDigest::default();
        for record in self.read(range) {
            digest.add(record?.hash());
        }
        Ok(digest)
    }
}

fn check_name(name: &str) -> Result<(), LogError> {
    if name.len() > MAX_NAME {
        return Err(LogError::TooLarge {
            len: name.len(),
            max: MAX_NAME,
        });
    }
    Ok(())
}

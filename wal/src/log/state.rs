//! What the log knows, under its one mutex: instances, pending writes, segments, and who may write.
//!
//! Rules, kept whenever the mutex is free:
//! 1. Who holds the `Writer` (commit.rs) is the only one that writes frames; everything else is done under the mutex.
//! 2. A Seq is assigned, its gate checked and its entry queued in one hold of the mutex (rule 4 of the design).
//! 3. `has` of an instance counts what is written, `durable` what is synced; `durable` is a subset of `has`.
//! 4. An entry is queued only where room for it is reserved, in the current segment or in a spare.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::index::{Chunk, Index, Recent};
use super::recover::{RecoveredInstance, note_term};
use super::repair::{Lost, forget_lost};
use super::room::Room;
use super::sink::CommitSink;
use super::thread::Patience;
use crate::completion::Completer;
use crate::error::LogError;
use crate::format::frame::Position;
use crate::format::head::RosterEntry;
use crate::format::notes::{HoldNote, LocalNote};
use crate::format::payload::{MAX_RECORD_HEAD, MAX_SLOT, Slot, Stored};
use crate::options::Notes;
use crate::record::{Record, RecordKind, StartBody};
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::StorageFile;
use crate::sync::Instant;
use crate::words::{Durability, InstanceId, Seq, ShardId, Term, TermStart};

/// Names an instance inside this opening of the log; never used again for another.
pub(crate) type InstanceIndex = usize;

/// A hold, as it counts here.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) note: HoldNote,
    /// When this node began to count its time.
    pub(crate) since: Instant,
}

impl Hold {
    pub(crate) fn age(&self) -> Duration {
        self.note.spent.saturating_add(self.since.elapsed())
    }
}

/// One hosted instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) shard: ShardId,
    pub(crate) id: InstanceId,
    pub(crate) base: Seq,
    pub(crate) terms: Vec<TermStart>,
    /// The owner's term; `None` for a receiver.
    pub(crate) owner: Option<Term>,
    pub(crate) gate_open: bool,
    /// The last Seq handed out, or the greatest received.
    pub(crate) assigned: Seq,
    /// Received Seqs that wait to be written, with their hashes.
    pub(crate) arriving: HashMap<Seq, u128>,
    pub(crate) has: SeqSet,
    pub(crate) durable: SeqSet,
    /// `durable.contiguous_after(base)`.
    pub(crate) durable_mark: Seq,
    pub(crate) voids: SeqSet,
    /// Written, not synced.
    pub(crate) unsynced: Vec<SeqRange>,
    pub(crate) flushed: Seq,
    /// What of it a note of the log says.
    pub(crate) flushed_noted: Seq,
    /// Records at or below may be gone.
    pub(crate) truncated: Seq,
    pub(crate) holds: Vec<Hold>,
    pub(crate) notes: Notes,
    pub(crate) index: Index,
    pub(crate) recent: Recent,
    pub(crate) sink: Option<Arc<dyn CommitSink>>,
    /// Who waits for `durable_mark` to pass a Seq.
    pub(crate) waiting: Vec<(Seq, Completer)>,
}

impl Instance {
    pub(crate) fn new(shard: ShardId, id: InstanceId, base: Seq, terms: Vec<TermStart>) -> Self {
        Self {
            shard,
            id,
            base,
            terms,
            owner: None,
            gate_open: false,
            assigned: base,
            arriving: HashMap::new(),
            has: SeqSet::new(),
            durable: SeqSet::new(),
            durable_mark: base,
            voids: SeqSet::new(),
            unsynced: Vec::new(),
            flushed: base,
            flushed_noted: base,
            truncated: base,
            holds: Vec::new(),
            notes: Notes::new(),
            index: Index::default(),
            recent: Recent::default(),
            sink: None,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn recovered(found: RecoveredInstance) -> Self {
        let entry = found.entry;
        let mut instance = Self::new(entry.shard, entry.instance, entry.base, entry.terms);
        instance.flushed = entry.flushed;
        instance.flushed_noted = entry.flushed;
        instance.notes = entry.notes;
        let since = Instant::now();
        instance.holds = entry
            .holds
            .into_iter()
            .map(|note| Hold { note, since })
            .collect();
        instance.durable = found.has.clone();
        instance.has = found.has;
        instance.voids = found.voids;
        // Nobody noted how far it was truncated: up to the first flushed record that is still here.
        let first = found.index.next_after(entry.base);
        instance.truncated = match first {
            Some(first) if first <= instance.flushed => Seq(first.0 - 1),
            _ => instance.flushed,
        };
        instance.index = found.index;
        instance.assigned = instance.has.max().unwrap_or(entry.base).max(entry.base);
        instance.durable_mark = instance.durable.contiguous_after(entry.base);
        instance
    }

    /// The last term of its history, or the owner's where that is written yet to be.
    pub(crate) fn last_term(&self) -> Option<Term> {
        self.owner.max(self.terms.last().map(|start| start.term))
    }

    /// What a repair noted, until the next owner's start record is written.
    pub(crate) fn lost(&self) -> Option<Lost> {
        Lost::of(&self.notes)
    }

    /// After a repair: Seqs that it lost and that the store has, as it has all up to `stored`, count as flushed from
    /// now on, since no mark would pass them otherwise. Gives what must be noted before the start record is.
    pub(crate) fn cover_lost(&mut self, stored: Seq) -> Option<LocalNote> {
        self.lost()?;
        let here = SeqRange::after(self.base, stored.min(self.has.max()?))?;
        let through = self.has.missing_iter(here).last()?.last();
        let flushed = SeqRange::after(self.base, through)?;
        self.has.insert_range(flushed);
        self.durable.insert_range(flushed);
        self.durable_mark = self.durable.contiguous_after(self.base);
        self.flushed = self.flushed.max(through);
        self.flushed_noted = self.flushed_noted.max(through);
        Some(LocalNote::Flushed(self.id, through))
    }

    /// The last Seq of the log that can be served, where the store has all up to `stored`, and the last given out.
    ///
    /// They differ after a repair only: what follows the first record that was lost is of no use without it.
    pub(crate) fn end(&self, stored: Seq) -> (Seq, Seq) {
        // A second start of one opening goes on from the first.
        let Some(lost) = self.lost().filter(|_| self.owner.is_none()) else {
            return (self.assigned, self.assigned);
        };
        let served = self.has.contiguous_after(stored.max(self.base));
        (served.min(self.assigned), self.assigned.max(lost.through))
    }

    /// What of `flushed` may be relied on: what the log itself has durable.
    pub(crate) fn flushed_durable(&self) -> Seq {
        self.flushed.min(self.durable_mark).max(self.base)
    }

    pub(crate) fn roster_entry(&self) -> RosterEntry {
        RosterEntry {
            shard: self.shard,
            instance: self.id,
            base: self.base,
            flushed: self.flushed_durable(),
            terms: self.terms.clone(),
            holds: self
                .holds
                .iter()
                .map(|hold| HoldNote {
                    spent: hold.age(),
                    ..hold.note.clone()
                })
                .collect(),
            notes: self.notes.clone(),
        }
    }

    /// A start record is written: its term is part of the history, and what it skipped is void.
    pub(crate) fn note_start(&mut self, record: &Record) -> Option<SeqRange> {
        note_term(&mut self.terms, record.term(), record.seq());
        let start = StartBody::decode(record.body()).ok()?;
        let slot = Slot {
            instance: self.id,
            shard: self.shard,
            term: record.term(),
        };
        forget_lost(&mut self.notes, &start, slot);
        let void = start.void?;
        self.voids.insert_range(void);
        Some(void)
    }

    /// Notes a written Seq that is not synced; whether there were none.
    pub(crate) fn note_unsynced(&mut self, seq: Seq) -> bool {
        match self.unsynced.last_mut() {
            Some(range) if range.last().next() == seq => {
                *range = SeqRange::new(range.first(), seq).unwrap_or(*range);
                false
            }
            last => {
                let is_first = last.is_none();
                self.unsynced.push(SeqRange::single(seq));
                is_first
            }
        }
    }

    /// What was written is durable now; gives who waited for that.
    pub(crate) fn synced(&mut self) -> Vec<Completer> {
        let written = std::mem::take(&mut self.unsynced);
        self.now_durable(written)
    }

    /// These are durable now; gives who waited for that.
    pub(crate) fn now_durable(&mut self, synced: Vec<SeqRange>) -> Vec<Completer> {
        for range in synced {
            self.durable.insert_range(range);
        }
        self.durable_mark = self.durable.contiguous_after(self.base);
        let mark = self.durable_mark;
        let mut ready = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].0 < mark {
                ready.push(self.waiting.swap_remove(at).1);
            } else {
                at += 1;
            }
        }
        ready
    }
}

/// What an entry puts into a frame.
#[derive(Debug)]
pub(crate) enum What {
    Record {
        instance: InstanceIndex,
        term: Term,
        seq: Seq,
        kind: RecordKind,
        body: Bytes,
        stored: Stored,
        /// Where it came as a record, with its hash.
        record: Option<Record>,
    },
    /// In one frame.
    Notes(Vec<LocalNote>),
    /// Nothing: it only waits for what came before to be durable.
    Barrier,
}

/// One write that waits for its frame.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) what: What,
    pub(crate) durability: Durability,
    pub(crate) done: Option<Completer>,
}

impl Entry {
    /// Durable notes that nobody waits for.
    pub(crate) const fn notes(notes: Vec<LocalNote>) -> Self {
        Self {
            what: What::Notes(notes),
            durability: Durability::Sync,
            done: None,
        }
    }

    /// How many items it puts into a frame.
    pub(crate) fn items(&self) -> usize {
        match &self.what {
            What::Record { .. } => 1,
            What::Notes(notes) => notes.len(),
            What::Barrier => 0,
        }
    }

    /// Below which segments may go once this is durable.
    pub(crate) fn removable(&self) -> Option<u64> {
        let What::Notes(notes) = &self.what else {
            return None;
        };
        let firsts = notes.iter().filter_map(|note| match note {
            LocalNote::FirstSegment(first) => Some(*first),
            _ => None,
        });
        firsts.max()
    }

    /// What it may take in a frame.
    pub(crate) fn size(&self) -> usize {
        match &self.what {
            What::Record { stored, .. } => stored.len() + MAX_RECORD_HEAD + MAX_SLOT,
            What::Notes(notes) => notes.iter().map(note_size).sum(),
            What::Barrier => 0,
        }
    }
}

pub(crate) fn note_size(note: &LocalNote) -> usize {
    let mut bytes = Vec::new();
    note.encode(&mut bytes);
    bytes.len()
}

/// Writes that wait for the next frame.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) bytes: usize,
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) nonce: u64,
    pub(crate) len: u64,
    /// The greatest Seq of each instance in it: what must be flushed before it may go.
    pub(crate) max: HashMap<InstanceIndex, Seq>,
}

/// Committed records on their way to sinks and waiters, in commit order.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) sinks: Vec<(InstanceIndex, Vec<super::sink::Committed>)>,
    pub(crate) plain: Vec<(Completer, Result<(), LogError>)>,
    pub(crate) failed: Option<LogError>,
    /// Recent records no more: dropped with it.
    pub(crate) trimmed: Vec<Chunk>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) instances: Vec<Option<Instance>>,
    pub(crate) by_id: HashMap<InstanceId, InstanceIndex>,
    pub(crate) pending: Pending,
    /// Counts the times that pending writes were taken: a lead is for one of them.
    pub(crate) taken: u64,
    /// `None` while somebody writes.
    pub(crate) writer: Option<Box<super::commit::Writer>>,
    /// A background sync is under way: the writer stays for direct appends, and nobody may take it.
    pub(crate) syncing: bool,
    pub(crate) thread: ThreadState,
    /// The log thread gathers this many pending writes before it closes a frame; with none pending it is called
    /// by the first as ever.
    pub(crate) late_close: usize,
    /// Whether to wait for them at all.
    pub(crate) patience: Patience,
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) delivering: bool,
    /// A sink panicked, so that records which were on their way to sinks are lost: no sink gets what follows them.
    pub(crate) sink_panicked: bool,
    /// Instances with written records that are not synced.
    pub(crate) unsynced: Vec<InstanceIndex>,
    pub(crate) unsynced_since: Option<Instant>,
    /// A sync that no frame tells of yet, and when it was.
    pub(crate) unrecorded_since: Option<Instant>,
    pub(crate) poison: Option<Arc<str>>,
    pub(crate) closing: bool,
    /// Everything is written and the threads are gone or going.
    pub(crate) closed: bool,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) first_segment: u64,
    pub(crate) room: Room,
    /// Whose the recent chunks are, from the oldest on.
    pub(crate) recent_order: VecDeque<InstanceIndex>,
    pub(crate) recent_bytes: usize,
    /// A note of the first segment needed is on its way...
    pub(crate) truncating: bool,
    /// ...and is durable: segments below may be removed.
    pub(crate) removable: Option<u64>,
    /// Holds that ended while there was no room to note it: that rides with the next truncation or mark. Until then
    /// power loss brings them back, which costs room and no data.
    pub(crate) endings: Vec<LocalNote>,
    /// The keeper has something to look at.
    pub(crate) keeper_called: bool,
}

/// What the log thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadState {
    Running,
    /// Waits, for a fraction of a sync, until `late_close` writes are pending. Only then do fewer not call it.
    Gathering,
    /// Waits until a time: it will look by itself.
    Timed,
    /// Waits until called.
    Deep,
}

impl State {
    /// The instance, unless it was forgotten.
    pub(crate) fn instance(&self, at: InstanceIndex) -> Result<&Instance, LogError> {
        self.instances
            .get(at)
            .and_then(Option::as_ref)
            .ok_or(LogError::Closed)
    }

    pub(crate) fn instance_mut(&mut self, at: InstanceIndex) -> Result<&mut Instance, LogError> {
        self.instances
            .get_mut(at)
            .and_then(Option::as_mut)
            .ok_or(LogError::Closed)
    }

    /// That writes may go on.
    pub(crate) fn check_writable(&self) -> Result<(), LogError> {
        if self.closing {
            return Err(LogError::Closed);
        }
        match &self.poison {
            Some(reason) => Err(LogError::Poisoned {
                reason: Arc::clone(reason),
            }),
            None => Ok(()),
        }
    }

    /// Whether the right to write frames is there to be taken.
    pub(crate) fn can_write(&self) -> bool {
        self.writer.is_some() && !self.syncing
    }

    /// Takes the right to write frames, where it is there.
    pub(crate) fn take_writer(&mut self) -> Option<Box<super::commit::Writer>> {
        if self.syncing {
            return None;
        }
        self.writer.take()
    }

    /// Forgets the oldest of the recent records, down to so many bytes. Gives them, to be dropped off the mutex: that
    /// takes longer than a write does.
    #[must_use]
    pub(crate) fn trim_recent(&mut self, most: usize) -> Vec<Chunk> {
        let mut trimmed = Vec::new();
        while self.recent_bytes > most {
            let Some(at) = self.recent_order.pop_front() else {
                break;
            };
            let popped = self.instance_mut(at).ok().and_then(|i| i.recent.pop());
            if let Some((chunk, bytes)) = popped {
                self.recent_bytes -= bytes;
                trimmed.push(chunk);
            }
        }
        trimmed
    }

    /// A segment holds this Seq of an instance.
    pub(crate) fn note_max(&mut self, segment: u64, at: InstanceIndex, seq: Seq) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            let max = segment.max.entry(at).or_insert(seq);
            *max = seq.max(*max);
        }
    }

    /// Bytes of all files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.used_bytes() + self.recycled_bytes()
    }

    /// Bytes of segments and spares.
    pub(crate) fn used_bytes(&self) -> u64 {
        let spares: u64 = self.room.spares.iter().map(|spare| spare.len).sum();
        self.segments
            .values()
            .map(|segment| segment.len)
            .sum::<u64>()
            + spares
    }

    /// Physical bytes of the log from the segment on that holds the first record after `from`.
    pub(crate) fn bytes_after(&self, at: InstanceIndex, from: Seq) -> u64 {
        let first = self
            .segments
            .iter()
            .find(|(_, segment)| segment.max.get(&at).is_some_and(|&max| max > from))
            .map(|(&id, _)| id);
        match first {
            Some(first) => self.segments.range(first..).map(|(_, s)| s.len).sum(),
            None => 0,
        }
    }

    /// Up to which Seq the records of an instance may go.
    pub(crate) fn releasable(&self, at: InstanceIndex) -> Option<Seq> {
        let instance = self.instances.get(at)?.as_ref()?;
        let held = instance
            .holds
            .iter()
            .filter(|hold| !self.expired(at, hold))
            .map(|hold| hold.note.from)
            .min();
        Some(held.map_or(instance.flushed_durable(), |held| {
            held.min(instance.flushed_durable())
        }))
    }

    pub(crate) fn expired(&self, at: InstanceIndex, hold: &Hold) -> bool {
        hold.age() > hold.note.time || self.bytes_after(at, hold.note.from) > hold.note.bytes
    }

    /// What waits to be noted when something is written anyway: how far the instances are flushed, and ended holds.
    pub(crate) fn waiting_notes(&self) -> Vec<LocalNote> {
        let instances = self.instances.iter().flatten();
        let flushed = instances
            .filter(|instance| instance.flushed_durable() > instance.flushed_noted)
            .map(|instance| LocalNote::Flushed(instance.id, instance.flushed_durable()));
        flushed.chain(self.endings.iter().cloned()).collect()
    }

    /// What the head of the next segment says of the instances.
    pub(crate) fn roster(&self) -> Vec<RosterEntry> {
        self.instances
            .iter()
            .flatten()
            .map(Instance::roster_entry)
            .collect()
    }
}

/// Where the log is durable to.
pub(crate) type Synced = Position;

//! Reading a log's segments back: which frames count, and what is done about each kind of damage.
//!
//! This is the labelled table of FORMAT.md ("Recovery"); labels are in comments as R1 to R9. Nothing here
//! writes, so that opening, verifying and viewing decide alike.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use super::index::Index;
use super::repair::forget_lost;
use super::scan::{Chain, Frame, Probe, headers_from, nonce_of, probe, promised_past};
use super::scan::{read_file, read_file_into, read_range, segment_id, segment_name};
use crate::codec::FormatError;
use crate::error::{Damage, DamageKind, OpenError};
use crate::format::frame::{Header, MAGIC, Position, VERSION};
use crate::format::head::{Head, RosterEntry};
use crate::format::notes::LocalNote;
use crate::format::payload::{Item, PayloadReader, RecordItem, Slot};
use crate::options::{LogEnd, MIN_SEGMENT_BYTES, Notes};
use crate::record::{RecordKind, StartBody};
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::{Storage, StorageFile};
use crate::words::{InstanceId, Seq, ShardId, Term, TermStart};

/// One segment of the chain.
#[derive(Debug)]
pub(crate) struct RecoveredSegment {
    pub(crate) id: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) len: u64,
    pub(crate) chain: Chain,
    /// The greatest Seq of each instance in it.
    pub(crate) max: HashMap<InstanceId, Seq>,
}

/// One instance, as its last head and what came after it say.
#[derive(Debug)]
pub(crate) struct RecoveredInstance {
    pub(crate) entry: RosterEntry,
    /// Records here, and void Seqs.
    pub(crate) has: SeqSet,
    pub(crate) voids: SeqSet,
    pub(crate) index: Index,
}

/// What is in the segment files.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Oldest first; empty for a new log.
    pub(crate) segments: Vec<RecoveredSegment>,
    pub(crate) instances: BTreeMap<InstanceId, RecoveredInstance>,
    /// Segment files that are not part of the log: spares, torn heads, truncated ones.
    pub(crate) stray: Vec<u64>,
    pub(crate) max_id: u64,
    pub(crate) first_segment: u64,
    /// The furthest place that a frame says was durable.
    pub(crate) synced: Position,
    pub(crate) tail: LogEnd,
    pub(crate) frames: u64,
    pub(crate) records: u64,
}

/// A segment whose head was read.
struct Candidate {
    id: u64,
    file: Arc<dyn StorageFile>,
    head: Head,
    frame: Frame,
}

pub(super) fn io_error(op: &'static str, id: u64) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        op,
        file: segment_name(id),
        source,
    }
}

/// Reads the log.
pub(crate) fn recover(storage: &dyn Storage) -> Result<Recovered, OpenError> {
    let ids = list_segments(storage)?;
    let mut recovered = Recovered::new(ids.last().copied().unwrap_or(0));
    let chain = find_chain(storage, &ids)?;
    let in_chain = |id: &u64| chain.iter().any(|candidate| candidate.id == *id);
    recovered.stray = ids.iter().copied().filter(|id| !in_chain(id)).collect();
    let missing = chain
        .first()
        .and_then(|oldest| Some((oldest.id, oldest.head.predecessor?.segment)));
    let mut chain = chain.into_iter().peekable();
    let mut bytes = Vec::new();
    while let Some(candidate) = chain.next() {
        let successor = chain.peek().map(|next| (next.id, &next.head));
        recovered.replay_segment(&candidate, successor, &mut bytes)?;
    }
    match missing {
        // R7: a segment that is still needed is gone.
        Some((needed_by, segment)) if recovered.first_segment <= segment => {
            Err(OpenError::MissingSegment { segment, needed_by })
        }
        _ => Ok(recovered),
    }
}

pub(super) fn list_segments(storage: &dyn Storage) -> Result<Vec<u64>, OpenError> {
    let names = storage.list().map_err(|source| OpenError::Io {
        op: "list",
        file: ".".to_owned(),
        source,
    })?;
    let mut ids = Vec::new();
    for name in names {
        match segment_id(&name) {
            None => {}
            Some(Ok(id)) => ids.push(id),
            // R6: not ours.
            Some(Err(())) => return Err(OpenError::Foreign { file: name }),
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The segments of the log, oldest first: from the last one that has a head, back along the predecessors.
fn find_chain(storage: &dyn Storage, ids: &[u64]) -> Result<Vec<Candidate>, OpenError> {
    let mut chain: Vec<Candidate> = Vec::new();
    for &id in ids.iter().rev() {
        let before = chain.last().and_then(|next| next.head.predecessor);
        let needed = chain.iter().map(|next| next.head.first_segment).max();
        if before.is_some_and(|before| Some(before.segment) < needed) {
            break; // what is older may go: gone, or left over by a crash, it says nothing any more
        }
        if !chain.is_empty() && before.is_none_or(|before| before.segment != id) {
            if before.is_some_and(|before| before.segment > id) {
                break; // the predecessor's file is gone: R7, or truncated
            }
            continue; // a spare that was never used
        }
        match read_head(storage, id)? {
            Ok(candidate) => chain.push(candidate),
            Err(bytes) if chain.is_empty() => check_headless(id, &bytes)?,
            Err(_) => {
                // R4: the successor goes on from a segment whose head is gone.
                return Err(OpenError::Damaged(Damage {
                    segment: id,
                    offset: 0,
                    shards: chain
                        .last()
                        .map(|next| all_shards(&next.head))
                        .unwrap_or_default(),
                    what: DamageKind::Head,
                }));
            }
        }
    }
    chain.reverse();
    Ok(chain)
}

fn all_shards(head: &Head) -> Vec<(ShardId, Option<SeqRange>)> {
    head.roster
        .iter()
        .map(|entry| (entry.shard, None))
        .collect()
}

/// A segment's head, or the segment's bytes where it has none.
fn read_head(storage: &dyn Storage, id: u64) -> Result<Result<Candidate, Vec<u8>>, OpenError> {
    let file = storage
        .open(&segment_name(id))
        .map_err(io_error("open", id))?;
    let bytes = read_first_frame(&*file).map_err(io_error("read", id))?;
    match probe(&bytes, 0, id, 0) {
        // R5: written by a newer version.
        Probe::Newer(newer) => Err(OpenError::NewerFormat {
            found: newer.version,
            supported: VERSION,
            segment: id,
        }),
        Probe::Frame(frame) if frame.header.head => {
            let head = Head::decode(&bytes[frame.payload.clone()]).map_err(|error| {
                OpenError::Damaged(Damage {
                    segment: id,
                    offset: 0,
                    shards: Vec::new(),
                    what: DamageKind::Contents(error.to_string()),
                })
            })?;
            Ok(Ok(Candidate {
                id,
                file,
                head,
                frame,
            }))
        }
        _ => read_file(&*file).map(Err).map_err(io_error("read", id)),
    }
}

/// The bytes of a segment's first frame, and perhaps more.
fn read_first_frame(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    const NEARLY_ALWAYS: u64 = 64 << 10;
    let bytes = read_range(file, 0..NEARLY_ALWAYS)?;
    match Header::decode(&bytes) {
        Ok((header, _)) if header.end() > NEARLY_ALWAYS => {
            read_range(file, 0..header.end().min(file.len()?))
        }
        _ => Ok(bytes),
    }
}

/// Whether a segment without a head shows that it had one. A file is made with its length before anything is written
/// to it, so a shorter one was cut; and a whole header of another segment was put there by no log.
pub(super) fn is_damaged_head(id: u64, bytes: &[u8]) -> bool {
    let first = Header::decode(bytes).ok().map(|(header, _)| header);
    if first.is_some_and(|header| header.is_mark() && header.segment == id) {
        return false; // no head ever took the place of the mark
    }
    let starts_ours = bytes.iter().zip(MAGIC).all(|(&byte, magic)| byte == magic);
    let is_cut = crate::codec::len64(bytes.len()) < u64::from(MIN_SEGMENT_BYTES);
    let is_other = first.is_some_and(|header| header.segment != id);
    is_other || (is_cut && starts_ours && !bytes.is_empty())
}

/// Decides about a last segment without a head.
fn check_headless(id: u64, bytes: &[u8]) -> Result<(), OpenError> {
    // R4: a later frame says that the head was durable.
    if let Some(promised) = promised_past(bytes, id, nonce_of(bytes, id), 0) {
        let promised = if promised.segment > id {
            u64::MAX
        } else {
            promised.offset
        };
        return Err(OpenError::Damaged(Damage {
            segment: id,
            offset: 0,
            shards: Vec::new(),
            what: DamageKind::CutShort { promised },
        }));
    }
    // R4: not what a torn head leaves.
    if is_damaged_head(id, bytes) {
        return Err(OpenError::Damaged(Damage {
            segment: id,
            offset: 0,
            shards: Vec::new(),
            what: DamageKind::Head,
        }));
    }
    let start = bytes.get(..4).unwrap_or(&[0; 4]);
    let ours = start.iter().all(|&b| b == 0) || start == MAGIC;
    if !ours && headers_from(bytes, id, None, 0).next().is_none() {
        // R6: neither zeros nor a frame that tore.
        return Err(OpenError::Foreign {
            file: segment_name(id),
        });
    }
    // R8: a spare, or a head that tore before anything was promised.
    Ok(())
}

/// How many bytes behind the chain's end were written and are not part of it; `None`: none that show. In a recycled file
/// other bytes are what its earlier life left, so that only whole headers of this segment show.
fn beyond(bytes: &[u8], chain: &Chain, is_recycled: bool) -> Option<u64> {
    let end = if is_recycled {
        let headers = headers_from(bytes, chain.segment, Some(chain.nonce), chain.end);
        headers.map(|header| header.end()).max()?
    } else {
        let start = usize::try_from(chain.end).unwrap_or(usize::MAX);
        let last = bytes.get(start..)?.iter().rposition(|&byte| byte != 0)?;
        chain.end + crate::codec::len64(last + 1)
    };
    Some(end.min(crate::codec::len64(bytes.len())) - chain.end)
}

impl Recovered {
    /// Nothing read yet.
    pub(super) fn new(max_id: u64) -> Self {
        Self {
            segments: Vec::new(),
            instances: BTreeMap::new(),
            stray: Vec::new(),
            max_id,
            first_segment: 0,
            synced: Position::default(),
            tail: LogEnd::Clean,
            frames: 0,
            records: 0,
        }
    }

    /// Reads one segment; `bytes` is room that all share.
    fn replay_segment(
        &mut self,
        candidate: &Candidate,
        successor: Option<(u64, &Head)>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let id = candidate.id;
        read_file_into(&*candidate.file, bytes).map_err(io_error("read", id))?;
        let bytes = bytes.as_slice();
        let header = &candidate.frame.header;
        let mut segment = RecoveredSegment {
            id,
            file: Arc::clone(&candidate.file),
            len: crate::codec::len64(bytes.len()),
            chain: Chain {
                segment: id,
                nonce: header.nonce,
                end: header.end(),
                checksum: candidate.frame.checksum,
            },
            max: HashMap::new(),
        };
        self.apply_head(&candidate.head);
        self.frames += 1;
        self.synced = self.synced.max(header.synced);
        let until = successor.and_then(|(_, head)| head.predecessor);
        while until.is_none_or(|until| segment.chain.end < until.end) {
            match segment.chain.next(bytes) {
                Probe::Frame(frame) => {
                    self.apply_frame(&mut segment, &frame, bytes)?;
                    segment.chain.advance(&frame);
                }
                Probe::Newer(newer) => {
                    return Err(OpenError::NewerFormat {
                        found: newer.version,
                        supported: VERSION,
                        segment: id,
                    });
                }
                Probe::Absent | Probe::BadPayload(_) => {
                    // Where a successor names an end, that is compared below.
                    if until.is_none() {
                        self.stopped(&segment, bytes, candidate)?;
                    }
                    break;
                }
            }
        }
        if let Some(until) = until {
            let chain = segment.chain;
            // R3: the successor names another end.
            if (chain.end, chain.checksum, chain.nonce) != (until.end, until.checksum, until.nonce)
            {
                return Err(self.damage(&segment, bytes, chain.end, Some(until.end)));
            }
        }
        self.segments.push(segment);
        Ok(())
    }

    /// The walk found no frame: decides whether the log ends here.
    fn stopped(
        &mut self,
        segment: &RecoveredSegment,
        bytes: &[u8],
        candidate: &Candidate,
    ) -> Result<(), OpenError> {
        let chain = segment.chain;
        let made = candidate.head.file_len;
        let is_recycled = candidate.frame.header.recycled;
        let promised = promised_past(bytes, chain.segment, Some(chain.nonce), chain.end);
        let here = Position {
            segment: chain.segment,
            offset: chain.end,
        };
        // R3: a later frame, here or in another segment, says that this place was durable.
        if let Some(promised) = promised.or((self.synced > here).then_some(self.synced)) {
            return Err(self.damage(segment, bytes, chain.end, Some(promised.offset)));
        }
        // R3: the file was cut, and with it perhaps the frames that promised each other.
        if segment.len < made {
            return Err(self.damage(segment, bytes, chain.end, Some(made)));
        }
        self.tail = match beyond(bytes, &chain, is_recycled) {
            // R1: a clean end.
            None => LogEnd::Clean,
            // R2: a torn tail.
            Some(bytes_cut) => LogEnd::Torn {
                segment: chain.segment,
                offset: chain.end,
                bytes_cut,
            },
        };
        Ok(())
    }

    /// Describes the damage at the end of a segment's chain: what is wrong there, and whose records it cost.
    fn damage(
        &self,
        segment: &RecoveredSegment,
        bytes: &[u8],
        end: u64,
        promised: Option<u64>,
    ) -> OpenError {
        let what = match segment.chain.next(bytes) {
            Probe::BadPayload(_) => DamageKind::Payload,
            _ => promised.map_or(DamageKind::Header, |promised| DamageKind::CutShort {
                promised,
            }),
        };
        OpenError::Damaged(Damage {
            segment: segment.id,
            offset: end,
            shards: self.lost(segment, bytes),
            what,
        })
    }

    /// Whose Seqs are missing between what was read and what later frames of the segment hold.
    fn lost(&self, segment: &RecoveredSegment, bytes: &[u8]) -> Vec<(ShardId, Option<SeqRange>)> {
        let chain = segment.chain;
        let mut next: BTreeMap<InstanceId, (ShardId, Seq)> = BTreeMap::new();
        for header in headers_from(bytes, chain.segment, Some(chain.nonce), chain.end) {
            let Probe::Frame(frame) = probe(bytes, 0, chain.segment, header.offset) else {
                continue;
            };
            let Ok(mut items) = PayloadReader::new(&bytes[frame.payload], header.records) else {
                continue;
            };
            while let Ok(Some(item)) = items.next_item() {
                if let Item::Record(record) = item {
                    let entry = next
                        .entry(record.slot.instance)
                        .or_insert((record.slot.shard, record.seq));
                    entry.1 = entry.1.min(record.seq);
                }
            }
        }
        let mut lost = Vec::new();
        for (id, instance) in &self.instances {
            let last = instance.has.max().unwrap_or(instance.entry.base);
            match next.get(id) {
                Some(&(shard, first)) => {
                    let before = Seq(first.0.saturating_sub(1));
                    if let Some(range) = SeqRange::after(last, before) {
                        lost.push((shard, Some(range)));
                    }
                }
                None => lost.push((instance.entry.shard, None)),
            }
        }
        lost
    }

    /// A head says all there is to know of each instance but its records.
    pub(super) fn apply_head(&mut self, head: &Head) {
        self.first_segment = self.first_segment.max(head.first_segment);
        let mut before = std::mem::take(&mut self.instances);
        for entry in &head.roster {
            let mut instance = before
                .remove(&entry.instance)
                .unwrap_or_else(|| RecoveredInstance::new(entry.clone()));
            instance.entry = entry.clone();
            instance.flushed(entry.flushed);
            self.instances.insert(entry.instance, instance);
        }
    }

    fn apply_frame(
        &mut self,
        segment: &mut RecoveredSegment,
        frame: &Frame,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        self.frames += 1;
        self.synced = self.synced.max(frame.header.synced);
        let payload = &bytes[frame.payload.clone()];
        self.apply_items(segment, frame, payload)
            // R9: the checksums match, so this is a defect or a forgery, never bit rot.
            .map_err(|error| {
                OpenError::Damaged(Damage {
                    segment: segment.id,
                    offset: frame.header.offset,
                    shards: Vec::new(),
                    what: DamageKind::Contents(error.to_string()),
                })
            })
    }

    pub(super) fn apply_items(
        &mut self,
        segment: &mut RecoveredSegment,
        frame: &Frame,
        payload: &[u8],
    ) -> Result<(), FormatError> {
        let mut items = PayloadReader::new(payload, frame.header.records)?;
        let mut extents: Vec<Extent> = items.slots().iter().map(Extent::new).collect();
        while let Some(item) = items.next_item()? {
            match item {
                Item::Note(note) => {
                    // It may be about an instance that the records before it belong to.
                    extents.iter_mut().for_each(|extent| self.take_run(extent));
                    self.apply_note(note);
                }
                Item::Record(record) => {
                    self.records += 1;
                    let extent = &mut extents[record.slot_at];
                    if extent.run.is_none_or(|run| run.1.next() != record.seq) {
                        self.take_run(extent);
                    }
                    extent.add(record.seq, crate::codec::len64(record.body.len()));
                    if record.kind == RecordKind::Start {
                        self.apply_start(&record, payload)?;
                    }
                }
            }
        }
        let mut by_id: HashMap<InstanceId, Extent> = HashMap::with_capacity(extents.len());
        for mut extent in extents {
            self.take_run(&mut extent);
            // An instance has a slot for each of its terms.
            let before = by_id.insert(extent.instance, extent);
            if let (Some(before), Some(of)) = (before, by_id.get_mut(&extent.instance)) {
                of.all = of.all.into_iter().chain(before.all).reduce(hull);
                of.own += before.own;
            }
        }
        for (id, extent) in by_id {
            // Rule 8: records of an instance that is not hosted here (any more) are passed over.
            let (Some(instance), Some((first, last))) = (self.instances.get_mut(&id), extent.all)
            else {
                continue;
            };
            let max = segment.max.entry(id).or_insert(last);
            *max = last.max(*max);
            if let Some(range) = SeqRange::new(first, last) {
                let (start, end) = (frame.header.offset, frame.header.end());
                instance
                    .index
                    .add(range, segment.id, start, end, extent.own);
            }
        }
        Ok(())
    }

    /// The run of Seqs is here.
    fn take_run(&mut self, extent: &mut Extent) {
        let run = extent.run.take();
        let range = run.and_then(|(first, last)| SeqRange::new(first, last));
        if let Some(range) = range
            && let Some(instance) = self.instances.get_mut(&extent.instance)
        {
            instance.has.insert_range(range);
        }
    }

    fn apply_start(&mut self, record: &RecordItem, payload: &[u8]) -> Result<(), FormatError> {
        let Some(instance) = self.instances.get_mut(&record.slot.instance) else {
            return Ok(());
        };
        let start = StartBody::decode(&record.unpack(payload)?)?;
        forget_lost(&mut instance.entry.notes, &start, record.slot);
        note_term(&mut instance.entry.terms, record.slot.term, record.seq);
        if let Some(void) = start.void {
            instance.voids.insert_range(void);
            instance.has.insert_range(void);
        }
        Ok(())
    }

    fn apply_note(&mut self, note: LocalNote) {
        let known = note.instance().and_then(|id| self.instances.get_mut(&id));
        match (note, known) {
            (
                LocalNote::Host {
                    shard,
                    instance,
                    base,
                    terms,
                },
                None,
            ) => {
                let entry = RosterEntry {
                    shard,
                    instance,
                    base,
                    flushed: base,
                    terms,
                    holds: Vec::new(),
                    notes: Notes::new(),
                };
                self.instances
                    .insert(instance, RecoveredInstance::new(entry));
            }
            (LocalNote::Forget(id), _) => {
                self.instances.remove(&id);
            }
            (LocalNote::FirstSegment(first), _) => {
                self.first_segment = self.first_segment.max(first);
            }
            (LocalNote::Flushed(_, seq), Some(instance)) => instance.flushed(seq),
            (LocalNote::Hold(_, hold), Some(instance)) => {
                instance.entry.holds.retain(|other| other.name != hold.name);
                instance.entry.holds.push(hold);
            }
            (LocalNote::ReleaseHold(_, name), Some(instance)) => {
                instance.entry.holds.retain(|other| other.name != name);
            }
            (LocalNote::Note(_, key, value), Some(instance)) => {
                if value.is_empty() {
                    instance.entry.notes.remove(&key);
                } else {
                    instance.entry.notes.insert(key, value);
                }
            }
            // Already in the roster, or of an instance that was forgotten since.
            (_, _) => {}
        }
    }
}

/// What a frame holds of one slot.
#[derive(Clone, Copy, Debug)]
struct Extent {
    instance: InstanceId,
    /// The last Seqs, next to each other, that are not noted yet.
    run: Option<(Seq, Seq)>,
    /// The least and the greatest Seq.
    all: Option<(Seq, Seq)>,
    /// Bytes of bodies.
    own: u64,
}

impl Extent {
    const fn new(slot: &Slot) -> Self {
        Self {
            instance: slot.instance,
            run: None,
            all: None,
            own: 0,
        }
    }

    fn add(&mut self, seq: Seq, own: u64) {
        self.run = Some((self.run.map_or(seq, |run| run.0), seq));
        self.all = Some(self.all.map_or((seq, seq), |all| hull(all, (seq, seq))));
        self.own += own;
    }
}

fn hull(one: (Seq, Seq), other: (Seq, Seq)) -> (Seq, Seq) {
    (one.0.min(other.0), one.1.max(other.1))
}

impl RecoveredInstance {
    pub(super) fn new(entry: RosterEntry) -> Self {
        let mut instance = Self {
            entry,
            has: SeqSet::new(),
            voids: SeqSet::new(),
            index: Index::default(),
        };
        instance.flushed(instance.entry.flushed);
        instance
    }

    /// All up to `seq` was here, durable and flushed; its records may be gone.
    pub(super) fn flushed(&mut self, seq: Seq) {
        self.entry.flushed = self.entry.flushed.max(seq);
        if let Some(range) = SeqRange::after(self.entry.base, seq) {
            self.has.insert_range(range);
        }
    }
}

/// Adds a term's start to a history, in order, once.
pub(crate) fn note_term(terms: &mut Vec<TermStart>, term: Term, first: Seq) {
    if let Err(at) = terms.binary_search_by_key(&term, |start| start.term) {
        terms.insert(at, TermStart { term, first });
    }
}

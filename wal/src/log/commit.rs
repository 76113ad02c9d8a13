//! Writing frames: the one place that appends to a segment, whoever's thread it runs on.
//!
//! The [`Writer`] is the right to append. Its holder encodes a batch, writes it, syncs it if any write of it
//! asks for that, and only then takes the mutex again to publish what is now readable and durable.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, Metrics, PanicGuard};
use super::room::{Full, HEAD_COST, Spare};
use super::scan::segment_name;
use super::sink::Committed;
use super::state::{Delivery, Entry, InstanceIndex, Segment, State, Synced, What};
use crate::codec::len64;
use crate::completion::Completer;
use crate::error::LogError;
use crate::format::frame::{HEADER, HEADER_LEN, Header, Position, next_start};
use crate::format::head::{Head, Predecessor};
use crate::format::payload::{PayloadWriter, Slot};
use crate::record::{Record, RecordKind};
use crate::seqset::SeqRange;
use crate::storage::StorageFile;
use crate::sync::{Instant, MutexGuard, wait};
use crate::words::{Durability, Seq, Term};

/// The right to append, and where.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) nonce: u64,
    pub(crate) len: u64,
    /// The last frame's end and checksum.
    pub(crate) end: u64,
    pub(crate) checksum: u32,
    pub(crate) synced: Synced,
    /// Up to here of this segment a sync has covered it, or does now: those blocks are not written again.
    pub(crate) sealed: u64,
    /// Something was written since the last sync.
    pub(crate) dirty: bool,
    /// The segment's file was another's.
    pub(crate) is_recycled: bool,
    pub(crate) buffer: Vec<u8>,
}

/// What a frame is to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// The first of its segment.
    Head,
    /// Any other.
    Plain,
    /// One that is written while the log's mutex is held.
    Short,
}

/// Where a batch went.
pub(super) struct Written {
    pub(super) segment: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// A write of it asks for a sync.
    pub(super) synced: bool,
}

/// A batch that is written, taken apart for those who wait for it.
struct Parts {
    groups: HashMap<InstanceIndex, Group>,
    /// Who waits for notes, and for what came before.
    others: Vec<Completer>,
    /// Below which segments may go once this is durable.
    removable: Option<u64>,
}

impl Parts {
    /// Who waits for any of it.
    fn into_waiting(self) -> Vec<Completer> {
        let groups = self.groups.into_values();
        let of_records = groups.flat_map(|group| group.waiters.into_iter().map(|(_, done)| done));
        self.others
            .into_iter()
            .chain(of_records.flatten())
            .collect()
    }
}

/// The records of one instance in a batch.
struct Group {
    records: Vec<Record>,
    waiters: Vec<(Durability, Option<Completer>)>,
    ranges: Vec<SeqRange>,
    first: Seq,
    last: Seq,
    bytes: usize,
}

/// What failed, for the poison's reason.
pub(super) fn failed(op: &str, segment: u64, error: &io::Error) -> String {
    format!("{op} of segment {} failed: {error}", segment_name(segment))
}

impl Writer {
    /// Encodes and writes one frame; gives where it starts.
    pub(crate) fn write(
        &mut self,
        kind: FrameKind,
        records: u32,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u64, String> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(HEADER, 0);
        encode(&mut buffer);
        let result = self.write_encoded(kind, records, &mut buffer);
        // One huge batch must not keep its memory for ever.
        if buffer.capacity() <= 8 << 20 {
            self.buffer = buffer;
        }
        result
    }

    fn write_encoded(
        &mut self,
        kind: FrameKind,
        records: u32,
        buffer: &mut [u8],
    ) -> Result<u64, String> {
        let payload = &buffer[HEADER..];
        let head = kind == FrameKind::Head;
        let start = if head { 0 } else { self.next_start() };
        let header = Header {
            head,
            recycled: head && self.is_recycled,
            segment: self.segment,
            nonce: self.nonce,
            offset: start,
            payload_len: u32::try_from(payload.len()).map_err(|_| "a frame of 4 GiB".to_owned())?,
            records,
            synced: self.synced,
            previous: self.checksum,
            payload_crc: crc32fast::hash(payload),
        };
        let (bytes, checksum) = header.encode();
        buffer[..HEADER].copy_from_slice(&bytes);
        let written = match kind {
            FrameKind::Short => self.file.put_at(start, buffer),
            FrameKind::Head | FrameKind::Plain => self.file.write_at(start, buffer),
        };
        written.map_err(|error| failed("writing", self.segment, &error))?;
        self.end = header.end();
        self.checksum = checksum;
        self.dirty = true;
        Ok(start)
    }

    fn next_start(&self) -> u64 {
        next_start(self.end, self.sealed)
    }

    pub(crate) fn fits(&self, payload: u64) -> bool {
        self.next_start() + HEADER_LEN + payload <= self.len
    }

    pub(crate) fn sync(&mut self, metrics: &Metrics) -> Result<(), String> {
        if !self.dirty {
            return Ok(());
        }
        let begin = Instant::now();
        self.file
            .sync()
            .map_err(|error| failed("syncing", self.segment, &error))?;
        metrics.synced(begin.elapsed());
        self.dirty = false;
        self.sealed = self.end;
        self.synced = Position {
            segment: self.segment,
            offset: self.end,
        };
        Ok(())
    }

    /// Makes this a writer of a fresh segment, and writes its head. The segment before must be synced.
    pub(crate) fn start_segment(&mut self, spare: &Spare, head: &Head) -> Result<(), String> {
        self.file.end_puts();
        self.segment = spare.id;
        self.file = Arc::clone(&spare.file);
        self.len = spare.len;
        self.is_recycled = spare.is_recycled;
        self.end = 0;
        self.sealed = 0;
        self.write(FrameKind::Head, 0, |out| head.encode(out))?;
        Ok(())
    }

    /// Bytes behind the last frame.
    pub(crate) fn left(&self) -> u64 {
        self.len - self.end.min(self.len)
    }

    pub(crate) fn predecessor(&self) -> Predecessor {
        Predecessor {
            segment: self.segment,
            end: self.end,
            checksum: self.checksum,
            nonce: self.nonce,
        }
    }
}

impl Core {
    /// Commits what is pending, if anybody may. `own`: the caller submitted to this instance, and leads.
    pub(crate) fn commit_pending<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        own: Option<InstanceIndex>,
    ) -> MutexGuard<'a, State> {
        if state.poison.is_some() || state.pending.entries.is_empty() {
            return state;
        }
        let Some(mut writer) = state.take_writer() else {
            return state;
        };
        let batch = self.take_batch(&mut state);
        drop(state);
        let guard = PanicGuard(self);
        let written = self.write_batch(&mut writer, &batch);
        let parts = group(batch);
        let committed = written.and_then(|written| {
            self.announce(&parts, own)?;
            if written.synced {
                writer.sync(&self.metrics)?;
            }
            Ok(written)
        });
        let mut state = match committed {
            Ok(written) => self.publish(parts, &written),
            Err(reason) => {
                let mut state = self.lock();
                self.poison(&mut state, &reason, parts.into_waiting());
                state
            }
        };
        guard.disarm();
        self.put_back(&mut state, writer);
        let most = if own.is_some() {
            state.deliveries.len()
        } else {
            usize::MAX
        };
        drop(state);
        self.deliver(most, own);
        self.lock()
    }

    pub(crate) fn put_back(&self, state: &mut State, writer: Box<Writer>) {
        state.room.current = writer.left();
        state.room.in_flight = 0;
        state.plan_room();
        state.writer = Some(writer);
    }

    /// Writes a frame, and says whether it is to be synced.
    fn write_batch(&self, writer: &mut Writer, batch: &[Entry]) -> Result<Written, String> {
        let mut slots: Vec<Slot> = Vec::new();
        let places = {
            let state = self.lock();
            assign_slots(&state, batch, &mut slots)
        };
        let items: usize = batch.iter().map(Entry::items).sum();
        let sync = batch
            .iter()
            .any(|entry| entry.durability == Durability::Sync);
        let mut start = writer.end;
        if items > 0 {
            let most: usize = batch.iter().map(Entry::size).sum();
            if !writer.fits(len64(most) + 10) {
                self.roll(writer, len64(most) + 10)?;
            }
            let count = u32::try_from(items).map_err(|_| "a frame of 2^32 records".to_owned())?;
            start = writer.write(FrameKind::Plain, count, |out| {
                encode(out, &slots, &places, batch)
            })?;
            self.metrics.frames.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Written {
            segment: writer.segment,
            start,
            end: writer.end,
            synced: sync,
        })
    }

    /// Tells the sinks what is written, and committed once its sync is done: what follows a commit begins beside it.
    fn announce(&self, parts: &Parts, own: Option<InstanceIndex>) -> Result<(), String> {
        if parts.groups.is_empty() {
            return Ok(());
        }
        let sinks: Vec<_> = {
            let state = self.lock();
            if let Some(reason) = state.poison.as_ref().filter(|_| state.sink_panicked) {
                // What a sink lost is a hole: none gets what lies behind it.
                return Err(reason.to_string());
            }
            let groups = parts.groups.iter();
            groups
                .filter_map(|(&at, group)| {
                    let sink = state.instance(at).ok()?.sink.clone()?;
                    Some((at, sink, &group.records))
                })
                .collect()
        };
        let calls = std::panic::AssertUnwindSafe(|| {
            for (at, sink, records) in sinks {
                sink.appended(records, own == Some(at));
            }
        });
        std::panic::catch_unwind(calls).map_err(|_| {
            self.lock().sink_panicked = true;
            "a commit sink panicked".to_owned()
        })
    }

    /// Goes on in a spare: the one that was planned for what is queued.
    fn roll(&self, writer: &mut Writer, payload: u64) -> Result<(), String> {
        let was_dirty = writer.dirty;
        writer.sync(&self.metrics)?;
        let mut state = self.lock();
        if was_dirty {
            self.publish_sync(&mut state);
        }
        let mut head = Head {
            file_len: 0,
            predecessor: Some(writer.predecessor()),
            first_segment: state.first_segment,
            roster: state.roster(),
        };
        let mut encoded = Vec::new();
        head.encode(&mut encoded);
        let head_bytes = len64(encoded.len());
        let (mut state, spare) = self.take_spare(state, head_bytes + payload + HEAD_COST)?;
        head.file_len = spare.len;
        let segment = Segment {
            file: Arc::clone(&spare.file),
            nonce: writer.nonce,
            len: spare.len,
            max: HashMap::new(),
        };
        state.segments.insert(spare.id, segment);
        // As it will be behind the head: what is queued meanwhile is placed there.
        state.room.current = spare.len.saturating_sub(HEADER_LEN + head_bytes + 8);
        state.room.head_bytes = state.head_bound();
        state.plan_room();
        self.call_keeper(&mut state);
        drop(state);
        writer.start_segment(&spare, &head)
    }

    /// Takes the first spare that is long enough; shorter ones go. Room for what is queued is made before it is
    /// queued, so there is one; were there none, it would wait until the device has room, whatever the limit is.
    fn take_spare<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        needed: u64,
    ) -> Result<(MutexGuard<'a, State>, Spare), String> {
        loop {
            match state.room.spares.pop_front() {
                Some(spare) if spare.len >= needed => return Ok((state, spare)),
                Some(spare) => state.room.garbage.push(spare.id),
                None => {
                    let len = needed + state.room.reserve;
                    state.room.wanted_len = state.room.wanted_len.max(len);
                    state.room.beyond = true;
                    if state.closing && state.room.full == Some(Full::Device) {
                        return Err("closed while there was no room for a segment".to_owned());
                    }
                    if let Some(reason) = &state.poison {
                        return Err(reason.to_string());
                    }
                    state.plan_room();
                    self.call_keeper(&mut state);
                    state = wait(&self.prepared, state);
                }
            }
        }
    }

    /// What was written before is durable now.
    pub(super) fn publish_sync(&self, state: &mut State) {
        let mut delivery = Delivery::default();
        mark_synced(state, &mut delivery);
        if !delivery.plain.is_empty() {
            state.deliveries.push_back(delivery);
        }
    }

    /// Makes a written batch readable, and durable where it was synced, and queues its deliveries.
    fn publish(&self, parts: Parts, written: &Written) -> MutexGuard<'_, State> {
        let Parts {
            groups,
            others,
            removable,
        } = parts;
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        if written.synced && removable.is_some() {
            state.removable = removable;
            self.call_keeper(&mut state);
        }
        for (at, group) in groups {
            let count = len64(group.records.len());
            self.metrics.records.fetch_add(count, Ordering::Relaxed);
            publish_group(&mut state, at, group, written, &mut delivery);
        }
        if written.synced {
            mark_synced(&mut state, &mut delivery);
            state.unrecorded_since = Some(Instant::now());
        } else if !state.unsynced.is_empty() {
            state.unsynced_since.get_or_insert_with(Instant::now);
        }
        delivery
            .plain
            .extend(others.into_iter().map(|done| (done, Ok(()))));
        delivery.trimmed = state.trim_recent(self.options.recent_bytes);
        state.deliveries.push_back(delivery);
        state
    }
}

fn mark_synced(state: &mut State, delivery: &mut Delivery) {
    state.unsynced_since = None;
    for at in std::mem::take(&mut state.unsynced) {
        if let Ok(instance) = state.instance_mut(at) {
            let ready = instance.synced();
            delivery
                .plain
                .extend(ready.into_iter().map(|done| (done, Ok(()))));
        }
    }
}

/// The slot of each entry that is a record.
fn assign_slots(state: &State, batch: &[Entry], slots: &mut Vec<Slot>) -> Vec<usize> {
    let mut known: HashMap<(InstanceIndex, Term), usize> = HashMap::new();
    let mut last: Option<((InstanceIndex, Term), usize)> = None;
    let mut places = Vec::with_capacity(batch.len());
    for entry in batch {
        let What::Record { instance, term, .. } = &entry.what else {
            places.push(0);
            continue;
        };
        let key = (*instance, *term);
        if let Some((_, place)) = last.filter(|(last, _)| *last == key) {
            places.push(place);
            continue;
        }
        let place = *known.entry(key).or_insert_with(|| {
            // Forgotten since: recovery passes the zero instance over.
            let (id, shard) = state
                .instance(*instance)
                .map_or_else(|_| Default::default(), |i| (i.id.0, i.shard));
            slots.push(Slot {
                instance: crate::words::InstanceId(id),
                shard,
                term: *term,
            });
            slots.len() - 1
        });
        last = Some((key, place));
        places.push(place);
    }
    places
}

fn encode(out: &mut Vec<u8>, slots: &[Slot], places: &[usize], batch: &[Entry]) {
    let mut payload = PayloadWriter::new(out, slots);
    for (entry, &place) in batch.iter().zip(places) {
        match &entry.what {
            What::Record {
                seq, kind, stored, ..
            } => payload.record(place, *kind, *seq, stored),
            What::Notes(notes) => notes.iter().for_each(|note| payload.note(note)),
            What::Barrier => {}
        }
    }
}

/// Sorts a batch by instance, keeping its order, and computes the hashes: all off the mutex.
fn group(batch: Vec<Entry>) -> Parts {
    let removable = batch.iter().filter_map(Entry::removable).max();
    let mut groups: HashMap<InstanceIndex, Group> = HashMap::new();
    let mut others = Vec::new();
    for entry in batch {
        let What::Record {
            instance,
            term,
            seq,
            kind,
            body,
            record,
            ..
        } = entry.what
        else {
            others.extend(entry.done);
            continue;
        };
        let record = record.unwrap_or_else(|| Record::new(term, seq, kind, body));
        let group = groups.entry(instance).or_insert_with(|| Group {
            records: Vec::new(),
            waiters: Vec::new(),
            ranges: Vec::new(),
            first: seq,
            last: seq,
            bytes: 0,
        });
        group.first = group.first.min(seq);
        group.last = group.last.max(seq);
        group.bytes += record.encoded_len() + size_of::<Record>();
        match group.ranges.last_mut() {
            Some(range) if range.last().next() == seq => {
                *range = SeqRange::new(range.first(), seq).unwrap_or(*range);
            }
            _ => group.ranges.push(SeqRange::single(seq)),
        }
        group.records.push(record);
        group.waiters.push((entry.durability, entry.done));
    }
    Parts {
        groups,
        others,
        removable,
    }
}

fn publish_group(
    state: &mut State,
    at: InstanceIndex,
    group: Group,
    written: &Written,
    delivery: &mut Delivery,
) {
    let Ok(instance) = state.instance_mut(at) else {
        let waiters = group.waiters.into_iter().filter_map(|(_, done)| done);
        let closed = waiters.map(|done| (done, Err(LogError::Closed)));
        delivery.plain.extend(closed);
        return;
    };
    let mut ranges = group.ranges;
    for record in &group.records {
        if record.kind() == RecordKind::Start {
            ranges.extend(instance.note_start(record));
        }
        instance.arriving.remove(&record.seq());
    }
    let first_unsynced = instance.unsynced.is_empty();
    for &range in &ranges {
        instance.has.insert_range(range);
        instance.unsynced.push(range);
    }
    if let Some(range) = SeqRange::new(group.first, group.last) {
        let own = len64(group.bytes);
        let (start, end) = (written.start, written.end);
        instance.index.add(range, written.segment, start, end, own);
    }
    let has_sink = instance.sink.is_some();
    let mut committed = Vec::new();
    for (record, (durability, done)) in group.records.iter().zip(group.waiters) {
        match done {
            Some(done) if has_sink => committed.push(Committed {
                record: record.clone(),
                durability,
                done,
            }),
            Some(done) => delivery.plain.push((done, Ok(()))),
            None => {}
        }
    }
    instance.recent.push(group.records, group.bytes);
    if has_sink {
        delivery.sinks.push((at, committed));
    }
    if first_unsynced {
        state.unsynced.push(at);
    }
    state.recent_order.push_back(at);
    state.recent_bytes += group.bytes;
    state.note_max(written.segment, at, group.last);
}

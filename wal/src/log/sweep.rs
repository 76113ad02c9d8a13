//! Reading many instances in one pass: each frame is read, checked and decoded once, whoever's records it holds.
//!
//! Replay after a start is what it is for: instance by instance, every reader would pass over the others' records again.
//! The pass takes what comes in Seq order. From the first record that does not (a receiver's log), or that can't be read,
//! an instance is left to the ordinary reader, behind the pass: so a sweep gives the same records and the same errors as
//! [`InstanceLog::read`](super::InstanceLog::read), and never holds more than a segment and a step.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::read::after;
use super::scan::{Probe, probe_after, read_range_into};
use super::state::{InstanceIndex, State};
use crate::codec::FormatError;
use crate::error::LogError;
use crate::format::payload::{Item, PayloadReader, RecordItem};
use crate::record::{Record, RecordKind};
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::StorageFile;
use crate::words::{InstanceId, Seq, Term};

/// How much of the log one step walks, and the bodies after which it ends earlier: some are compressed.
const STEP: u64 = 4 << 20;
const STEP_BODIES: usize = 4 << 20;

/// Records of one instance, the next ones in Seq order. Their bodies share memory until the last of them is dropped.
#[derive(Debug)]
pub struct Swept {
    instance: InstanceId,
    records: Records,
}

#[derive(Debug)]
enum Records {
    /// As the pass found them.
    Found {
        heads: Vec<RecordHead>,
        bodies: Bytes,
    },
    /// As the ordinary reader gave them.
    Read(Vec<Record>),
}

/// A record whose body is the next `len` bytes.
#[derive(Debug)]
struct RecordHead {
    term: Term,
    seq: Seq,
    kind: RecordKind,
    len: usize,
}

impl Swept {
    /// Whose records.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What their bodies take.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match &self.records {
            Records::Found { bodies, .. } => bodies.len(),
            Records::Read(records) => records.iter().map(|record| record.body().len()).sum(),
        }
    }

    /// The records. Hashing them is done here, so by the thread that needs them.
    #[must_use]
    pub fn into_records(self) -> Vec<Record> {
        let (heads, mut bodies) = match self.records {
            Records::Found { heads, bodies } => (heads, bodies),
            Records::Read(records) => return records,
        };
        let record = |head: RecordHead| {
            let body = bodies.split_to(head.len);
            Record::new(head.term, head.seq, head.kind, body)
        };
        heads.into_iter().map(record).collect()
    }
}

/// What is still wanted of one instance.
#[derive(Debug)]
struct Wanted {
    at: InstanceIndex,
    instance: InstanceId,
    voids: SeqSet,
    last: Seq,
    /// The next Seq that has a record; `None` at the end.
    next: Option<Seq>,
    /// Whether the pass goes on with it.
    in_pass: bool,
    heads: Vec<RecordHead>,
    bodies: Vec<u8>,
}

impl Wanted {
    /// The least Seq from `seq` on that is not void.
    fn skip_voids(&mut self, seq: Option<Seq>) {
        self.next = seq;
        while let Some(seq) = self.next
            && self.voids.contains(seq)
        {
            let rest = SeqRange::new(seq, self.last);
            self.next = rest.and_then(|rest| after(self.voids.contiguous_after(seq), rest));
        }
    }

    /// Takes a record if it is the next one; gives the bytes of its body.
    fn take(&mut self, item: &RecordItem, payload: &[u8]) -> Result<usize, FormatError> {
        let Some(next) = self.next.filter(|_| self.in_pass) else {
            return Ok(0);
        };
        if item.seq < next || item.seq > self.last || self.voids.contains(item.seq) {
            return Ok(0);
        }
        if item.seq > next {
            self.in_pass = false;
            return Ok(0);
        }
        let before = self.bodies.len();
        match item.raw(payload) {
            Some(raw) => self.bodies.extend_from_slice(raw),
            None => self.bodies.extend_from_slice(&item.unpack(payload)?),
        }
        let len = self.bodies.len() - before;
        self.heads.push(RecordHead {
            term: item.slot.term,
            seq: item.seq,
            kind: item.kind,
            len,
        });
        self.skip_voids((item.seq < self.last).then(|| item.seq.next()));
        Ok(len)
    }

    fn is_in_pass(&self) -> bool {
        self.in_pass && self.next.is_some()
    }

    fn swept(&mut self) -> Option<Swept> {
        if self.heads.is_empty() {
            return None;
        }
        let (heads, bodies) = (self.heads.len(), self.bodies.len());
        let records = Records::Found {
            heads: std::mem::replace(&mut self.heads, Vec::with_capacity(heads)),
            bodies: std::mem::replace(&mut self.bodies, Vec::with_capacity(bodies)).into(),
        };
        Some(Swept {
            instance: self.instance,
            records,
        })
    }
}

/// The part of a segment that holds wanted records: from the start of a frame to the end of one.
#[derive(Debug)]
struct Span {
    segment: u64,
    file: Arc<dyn StorageFile>,
    nonce: u64,
    start: u64,
    end: u64,
}

/// A span that is being walked.
#[derive(Debug)]
struct Walk {
    span: Span,
    bytes: Vec<u8>,
    at: u64,
}

/// Records of many instances, each instance's in Seq order; see [`crate::Log::sweep`].
#[derive(Debug)]
pub struct Sweep {
    core: Arc<Core>,
    wanted: Vec<Wanted>,
    by_id: HashMap<InstanceId, usize>,
    spans: VecDeque<Span>,
    walk: Option<Walk>,
    /// What the next span is read into.
    room: Vec<u8>,
    ready: VecDeque<Swept>,
    /// Bytes that this step has decoded.
    bodies: usize,
    failed: bool,
}

impl Sweep {
    pub(super) fn new(
        core: Arc<Core>,
        ranges: Vec<(InstanceId, SeqRange)>,
    ) -> Result<Self, LogError> {
        let mut sweep = Self {
            core: Arc::clone(&core),
            wanted: Vec::with_capacity(ranges.len()),
            by_id: HashMap::with_capacity(ranges.len()),
            spans: VecDeque::new(),
            walk: None,
            room: Vec::new(),
            ready: VecDeque::new(),
            bodies: 0,
            failed: false,
        };
        let state = core.lock();
        if state.closing {
            return Err(LogError::Closed);
        }
        let mut hulls = BTreeMap::new();
        for (id, range) in ranges {
            let at = state.by_id.get(&id);
            let at = *at.ok_or(LogError::UnknownInstance(id))?;
            let instance = state.instance(at)?;
            for run in instance.index.overlapping(range) {
                let hull = hulls.entry(run.segment).or_insert((run.offset, run.end));
                *hull = (hull.0.min(run.offset), hull.1.max(run.end));
            }
            let mut wanted = Wanted {
                at,
                instance: id,
                voids: instance.voids.clone(),
                last: range.last(),
                next: None,
                in_pass: true,
                heads: Vec::new(),
                bodies: Vec::new(),
            };
            wanted.skip_voids(Some(range.first()));
            sweep.by_id.insert(id, sweep.wanted.len());
            sweep.wanted.push(wanted);
        }
        sweep.spans = hulls
            .into_iter()
            .filter_map(|(segment, hull)| Span::new(&state, segment, hull))
            .collect();
        drop(state);
        Ok(sweep)
    }

    /// Walks one step of the log; `false` at the end of the pass.
    fn step(&mut self) -> bool {
        if !self.wanted.iter().any(Wanted::is_in_pass) {
            return false;
        }
        if self.walk.is_none() {
            let Some(span) = self.spans.pop_front() else {
                return false;
            };
            let mut bytes = std::mem::take(&mut self.room);
            if read_range_into(&*span.file, span.start..span.end, &mut bytes).is_err() {
                // The walk stops at once.
                bytes.clear();
            }
            let at = span.start;
            self.walk = Some(Walk { span, bytes, at });
        }
        let Some(mut walk) = self.walk.take() else {
            return false;
        };
        let until = walk.at.saturating_add(STEP).min(walk.span.end);
        self.bodies = 0;
        while walk.at < until && self.bodies < STEP_BODIES {
            if !self.take_frame(&mut walk) {
                // What is wrong here the ordinary reader says, in its words, to whom it costs a record.
                self.wanted
                    .iter_mut()
                    .for_each(|wanted| wanted.in_pass = false);
                break;
            }
        }
        if walk.at < walk.span.end {
            self.walk = Some(walk);
        } else {
            self.room = walk.bytes;
        }
        self.ready
            .extend(self.wanted.iter_mut().filter_map(Wanted::swept));
        true
    }

    /// Takes the records of the next frame; `false` if it is damaged.
    fn take_frame(&mut self, walk: &mut Walk) -> bool {
        let (span, bytes) = (&walk.span, &walk.bytes);
        let standing = probe_after(bytes, span.start, span.segment, span.nonce, walk.at);
        let Probe::Frame(frame) = standing else {
            return false;
        };
        walk.at = frame.header.end();
        let payload = &bytes[frame.payload];
        self.take_items(payload, frame.header.records).is_ok()
    }

    fn take_items(&mut self, payload: &[u8], items: u32) -> Result<(), FormatError> {
        let mut items = PayloadReader::new(payload, items)?;
        let places = items.slots().iter();
        let places: Vec<_> = places
            .map(|slot| {
                let place = *self.by_id.get(&slot.instance)?;
                self.wanted[place].is_in_pass().then_some(place)
            })
            .collect();
        if places.iter().all(Option::is_none) {
            return Ok(());
        }
        while let Some(item) = items.next_item()? {
            let Item::Record(item) = item else { continue };
            if let Some(place) = places[item.slot_at] {
                self.bodies += self.wanted[place].take(&item, payload)?;
            }
        }
        Ok(())
    }

    /// Reads on with an instance that the pass did not finish; `None` when all are.
    fn behind(&mut self) -> Option<Result<Swept, LogError>> {
        loop {
            let wanted = self
                .wanted
                .iter_mut()
                .find(|wanted| wanted.next.is_some())?;
            let range = SeqRange::new(wanted.next?, wanted.last)?;
            match self.core.read_some(wanted.at, range, STEP_BODIES) {
                Ok((records, next)) => {
                    wanted.next = next;
                    if !records.is_empty() {
                        return Some(Ok(Swept {
                            instance: wanted.instance,
                            records: Records::Read(records),
                        }));
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Span {
    fn new(state: &State, segment: u64, (start, end): (u64, u64)) -> Option<Self> {
        let found = state.segments.get(&segment)?;
        Some(Self {
            segment,
            file: Arc::clone(&found.file),
            nonce: found.nonce,
            start,
            end,
        })
    }
}

impl Iterator for Sweep {
    type Item = Result<Swept, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(swept) = self.ready.pop_front() {
                return Some(Ok(swept));
            }
            if self.failed {
                return None;
            }
            if !self.step() {
                return self.behind();
            }
        }
    }
}

//! Reading records in Seq order, from memory where they are recent, else from the segments.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::core::Core;
use super::index::Run;
use super::scan::{Probe, probe_after, read_range};
use super::state::InstanceIndex;
use crate::error::{Damage, DamageKind, LogError};
use crate::format::frame::align8;
use crate::format::payload::{Item, PayloadReader};
use crate::record::Record;
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::StorageFile;
use crate::words::{InstanceId, Seq, ShardId};

/// What a reader takes in one step.
const STEP: usize = 1 << 20;

/// A run and the file that it is in: an open handle outlives the file's name.
pub(super) struct Source {
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) nonce: u64,
    pub(super) run: Run,
}

/// What to read: of which instance.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) instance: InstanceId,
    pub(super) shard: ShardId,
    pub(super) range: SeqRange,
}

/// What a look under the mutex gives.
enum Found {
    /// Records, and where to go on.
    Recent(Vec<Record>, Option<Seq>),
    OnDisk {
        wanted: Wanted,
        sources: Vec<Source>,
        voids: SeqSet,
        next: Option<Seq>,
    },
}

impl Core {
    /// A prefix of `range`: at least one record, unless all that is left of it is void. Also gives the Seq to go
    /// on from, `None` at the end of the range.
    pub(super) fn read_some(
        &self,
        at: InstanceIndex,
        range: SeqRange,
        max_bytes: usize,
    ) -> Result<(Vec<Record>, Option<Seq>), LogError> {
        match self.look(at, range, max_bytes)? {
            Found::Recent(records, next) => Ok((records, next)),
            Found::OnDisk {
                wanted,
                sources,
                voids,
                next,
            } => read_sources(wanted, &sources, &voids, next, max_bytes),
        }
    }

    fn look(
        &self,
        at: InstanceIndex,
        range: SeqRange,
        max_bytes: usize,
    ) -> Result<Found, LogError> {
        let state = self.lock();
        if state.closing {
            return Err(LogError::Closed);
        }
        let instance = state.instance(at)?;
        let mut taken = Taken::new(max_bytes);
        let mut cursor = Some(range.first());
        while let Some(seq) = cursor {
            if instance.voids.contains(seq) {
                cursor = after(instance.voids.contiguous_after(seq), range);
                continue;
            }
            let Some(record) = instance.recent.get(seq) else {
                break;
            };
            if !taken.take(record.clone()) {
                return Ok(Found::Recent(taken.records, cursor));
            }
            cursor = after(seq, range);
        }
        let Some(first) = cursor.filter(|_| taken.records.is_empty()) else {
            return Ok(Found::Recent(taken.records, cursor));
        };
        let sources = instance.index.candidates(first).into_iter();
        let sources = sources.filter_map(|run| {
            let segment = state.segments.get(&run.segment)?;
            Some(Source {
                file: Arc::clone(&segment.file),
                nonce: segment.nonce,
                run,
            })
        });
        Ok(Found::OnDisk {
            wanted: Wanted {
                instance: instance.id,
                shard: instance.shard,
                range: SeqRange::new(first, range.last()).unwrap_or(range),
            },
            sources: sources.collect(),
            voids: instance.voids.clone(),
            next: instance.index.next_after(first).map(|next| {
                // A run spans Seqs that it does not hold: on to the next that is here.
                let rest = SeqRange::new(next, range.last());
                let hole = rest.and_then(|rest| instance.has.missing_iter(rest).next());
                match hole {
                    Some(hole) if hole.first() == next => hole.last().next(),
                    _ => next,
                }
            }),
        })
    }
}

/// The Seq after `seq`, if the range has it.
pub(super) fn after(seq: Seq, range: SeqRange) -> Option<Seq> {
    (seq < range.last()).then(|| seq.next())
}

/// Records up to a bound, but at least one.
struct Taken {
    records: Vec<Record>,
    left: usize,
}

impl Taken {
    const fn new(max_bytes: usize) -> Self {
        Self {
            records: Vec::new(),
            left: max_bytes,
        }
    }

    /// `false` if it does not fit any more.
    fn take(&mut self, record: Record) -> bool {
        let len = record.encoded_len();
        if !self.records.is_empty() && len > self.left {
            return false;
        }
        self.left = self.left.saturating_sub(len);
        self.records.push(record);
        true
    }
}

/// Reads from the runs that may hold the range's first Seq. `next`: the least Seq above it that may be here.
pub(super) fn read_sources(
    wanted: Wanted,
    sources: &[Source],
    voids: &SeqSet,
    next: Option<Seq>,
    max_bytes: usize,
) -> Result<(Vec<Record>, Option<Seq>), LogError> {
    let range = wanted.range;
    let mut found = BTreeMap::new();
    for source in sources {
        load(wanted, source, &mut found)?;
        if found.contains_key(&range.first()) {
            break;
        }
    }
    let mut taken = Taken::new(max_bytes);
    let mut cursor = Some(range.first());
    while let Some(seq) = cursor {
        if voids.contains(seq) {
            cursor = after(voids.contiguous_after(seq), range);
            continue;
        }
        let Some(record) = found.remove(&seq) else {
            break;
        };
        if !taken.take(record) {
            break;
        }
        cursor = after(seq, range);
    }
    if !taken.records.is_empty() || cursor.is_none() {
        return Ok((taken.records, cursor));
    }
    let loaded = found.range(range.first()..).next().map(|(&seq, _)| seq);
    let here = [next, loaded].into_iter().flatten().min();
    let last = here.map_or(range.last(), |seq| {
        range.last().min(Seq(seq.0.saturating_sub(1)))
    });
    let missing = SeqRange::new(range.first(), last).unwrap_or(range);
    Err(LogError::Gap {
        shard: wanted.shard,
        missing,
    })
}

/// Reads the records of a run that are wanted.
fn load(
    wanted: Wanted,
    source: &Source,
    found: &mut BTreeMap<Seq, Record>,
) -> Result<(), LogError> {
    let run = &source.run;
    let bytes = read_range(&*source.file, run.offset..run.end).map_err(|source| LogError::Io {
        op: "reading",
        segment: run.segment,
        source: Arc::new(source),
    })?;
    let damaged = |offset: u64, what: DamageKind| {
        LogError::Damaged(Damage {
            segment: run.segment,
            offset,
            shards: vec![(wanted.shard, SeqRange::new(run.first, run.last))],
            what,
        })
    };
    let mut at = run.offset;
    while at < run.end {
        let frame = match probe_after(&bytes, run.offset, run.segment, source.nonce, at) {
            Probe::Frame(frame) => frame,
            Probe::BadPayload(header) => return Err(damaged(header.offset, DamageKind::Payload)),
            _ => return Err(damaged(align8(at), DamageKind::Header)),
        };
        take_wanted(wanted, &bytes[frame.payload], frame.header.records, found)
            .map_err(|e| damaged(frame.header.offset, DamageKind::Contents(e.to_string())))?;
        at = frame.header.end();
    }
    Ok(())
}

fn take_wanted(
    wanted: Wanted,
    payload: &[u8],
    items: u32,
    found: &mut BTreeMap<Seq, Record>,
) -> Result<(), crate::codec::FormatError> {
    let mut items = PayloadReader::new(payload, items)?;
    let mine = |slot: &crate::format::payload::Slot| slot.instance == wanted.instance;
    if !items.slots().iter().any(mine) {
        return Ok(());
    }
    while let Some(item) = items.next_item()? {
        let Item::Record(item) = item else { continue };
        if item.slot.instance == wanted.instance && wanted.range.contains(item.seq) {
            found.insert(item.seq, item.record(payload)?);
        }
    }
    Ok(())
}

/// Records of a range in Seq order, void Seqs passed over; see [`crate::InstanceLog::read`].
#[derive(Debug)]
pub struct RecordReader {
    core: Arc<Core>,
    instance: InstanceIndex,
    last: Seq,
    /// `None` at the end, or after an error.
    cursor: Option<Seq>,
    ready: VecDeque<Record>,
}

impl RecordReader {
    pub(super) fn new(core: Arc<Core>, instance: InstanceIndex, range: SeqRange) -> Self {
        Self {
            core,
            instance,
            last: range.last(),
            cursor: Some(range.first()),
            ready: VecDeque::new(),
        }
    }
}

impl Iterator for RecordReader {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            let range = SeqRange::new(self.cursor.take()?, self.last)?;
            match self.core.read_some(self.instance, range, STEP) {
                Ok((records, next)) => {
                    self.ready = records.into();
                    self.cursor = next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

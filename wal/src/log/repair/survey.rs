//! Going through a damaged log once, in order: what stays, what is kept, what is lost, and what is known in the end.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::walk::{Live, Missing, Outline, Piece, items, walk};
use super::{KeptAside, LOST_NOTE, Lost, Parts, RepairPlan, ShardLoss, Unhosted, Unreadable};
use crate::codec::len64;
use crate::error::OpenError;
use crate::format::frame::{BLOCK, HEADER_LEN, align8};
use crate::format::head::{Head, Predecessor, RosterEntry};
use crate::format::payload::{Item, RecordItem};
use crate::log::recover::{Recovered, RecoveredInstance, RecoveredSegment, io_error};
use crate::log::scan::{Chain, Frame, read_file, segment_name};
use crate::options::{MIN_SEGMENT_BYTES, Notes};
use crate::seqset::{SeqRange, SeqSet};
use crate::words::{InstanceId, Seq, ShardId, TermStart};

/// The least that a start record takes in a frame, with its slot: so many openings may be in lost bytes.
const LEAST_START_BYTES: u64 = 42;

/// What was seen of an instance's records.
#[derive(Debug)]
struct Seen {
    shard: ShardId,
    records: u64,
    through: Seq,
    opening: u64,
    /// By how many stretches before them can't be read.
    behind: BTreeMap<usize, SeqSet>,
}

impl Seen {
    fn stretch(&self, seq: Seq) -> Option<usize> {
        let mut behind = self.behind.iter();
        behind
            .find(|(_, seqs)| seqs.contains(seq))
            .map(|(&stretch, _)| stretch)
    }

    /// What is before a hole stands before damage, and what is after it behind.
    fn straddles(&self, hole: SeqRange) -> bool {
        let before = hole.first().prev().and_then(|seq| self.stretch(seq));
        let after = self.stretch(hole.last().next());
        after.is_some_and(|after| before.unwrap_or(0) < after)
    }
}

pub(super) struct Survey<'a> {
    state: Recovered,
    stores: &'a BTreeMap<InstanceId, Seq>,
    first: u64,
    /// The end of the part that stays, and its segments.
    chain: Option<Chain>,
    prefix: Vec<u64>,
    is_cut: bool,
    /// What each instance did not have before the cut: a receiver's holes, no loss.
    holes: HashMap<InstanceId, SeqSet>,
    unreadable: Vec<Unreadable>,
    lost_since_head: u64,
    seen: HashMap<InstanceId, Seen>,
    sources: Vec<(u64, Vec<u64>)>,
    source_bytes: u64,
    records_kept: u64,
}

impl<'a> Survey<'a> {
    /// `first`: segments below are not needed.
    pub(super) fn of(
        live: &[Live],
        missing: &[Missing],
        first: u64,
        stores: &'a BTreeMap<InstanceId, Seq>,
    ) -> Result<Self, OpenError> {
        let mut survey = Self {
            state: Recovered::new(0),
            stores,
            first,
            chain: None,
            prefix: Vec::new(),
            is_cut: false,
            holes: HashMap::new(),
            unreadable: Vec::new(),
            lost_since_head: 0,
            seen: HashMap::new(),
            sources: Vec::new(),
            source_bytes: 0,
            records_kept: 0,
        };
        for (place, segment) in live.iter().enumerate() {
            let id = segment.outline.id;
            let gone = missing.iter().filter(|missing| missing.needed_by == id);
            for missing in gone.filter(|missing| missing.segment >= first) {
                survey.lose(missing.segment, 0..missing.bytes, true);
            }
            survey.segment(segment, place + 1 == live.len())?;
        }
        Ok(survey)
    }

    pub(super) const fn first_segment(&self) -> u64 {
        self.state.first_segment
    }

    fn segment(&mut self, live: &Live, is_last: bool) -> Result<(), OpenError> {
        let id = live.outline.id;
        let bytes = read_file(&*live.outline.file).map_err(io_error("read", id))?;
        let mut replayed = RecoveredSegment {
            id,
            file: Arc::clone(&live.outline.file),
            len: live.outline.len,
            chain: Chain {
                segment: id,
                nonce: 0,
                end: 0,
                checksum: 0,
            },
            max: HashMap::new(),
        };
        let made = live.outline.head.as_ref().map(|head| head.file_len);
        let walked = walk(&bytes, id, live.until, made)?;
        if walked.pieces.is_empty() && live.outline.is_beheaded {
            self.lose(id, 0..live.outline.len, false);
        }
        for piece in walked.pieces {
            match piece {
                Piece::Lost(range) => self.lose(id, range, false),
                Piece::Frame(frame) => self.frame(&mut replayed, &frame, &bytes),
            }
        }
        if !is_last {
            // Not sure to be of the log; but what they name must not be named again.
            for frame in walked.beyond {
                for item in items(&bytes[frame.payload], frame.header.records).unwrap_or_default() {
                    if let Item::Record(record) = item {
                        self.see(&record);
                    }
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, segment: u64, range: Range<u64>, is_missing: bool) {
        self.cut();
        let bytes = range.end.saturating_sub(range.start);
        self.lost_since_head = self.lost_since_head.saturating_add(bytes);
        self.unreadable.push(Unreadable {
            segment,
            offset: range.start,
            bytes,
            is_missing,
        });
    }

    /// From here on nothing stays as it is.
    fn cut(&mut self) {
        if std::mem::replace(&mut self.is_cut, true) {
            return;
        }
        for (&id, instance) in &self.state.instances {
            self.holes.insert(id, holes(instance, Seq::ZERO));
        }
    }

    fn frame(&mut self, replayed: &mut RecoveredSegment, frame: &Frame, bytes: &[u8]) {
        let header = &frame.header;
        let payload = &bytes[frame.payload.clone()];
        let head = header.head.then(|| Head::decode(payload)).transpose();
        let Ok(head) = head else { return }; // walked over: it decodes
        if !self.goes_on(frame, head.as_ref()) {
            self.cut();
        }
        if !self.is_cut {
            if head.is_some() {
                self.prefix.push(header.segment);
            }
            self.chain = Some(Chain {
                segment: header.segment,
                nonce: header.nonce,
                end: header.end(),
                checksum: frame.checksum,
            });
        }
        match head {
            Some(head) => {
                self.state.apply_head(&head);
                self.lost_since_head = 0;
            }
            None => self.items(replayed, frame, payload),
        }
    }

    fn goes_on(&self, frame: &Frame, head: Option<&Head>) -> bool {
        match (self.chain, head) {
            // The oldest segment needed; what its head goes on from is gone for good.
            (None, Some(head)) => head
                .predecessor
                .is_none_or(|before| before.segment < self.first.max(head.first_segment)),
            (None, None) => false,
            (Some(chain), Some(head)) => head.predecessor == Some(predecessor(chain)),
            (Some(chain), None) => {
                chain.nonce == frame.header.nonce && chain.checksum == frame.header.previous
            }
        }
    }

    fn items(&mut self, replayed: &mut RecoveredSegment, frame: &Frame, payload: &[u8]) {
        let mut records = 0;
        for item in items(payload, frame.header.records).unwrap_or_default() {
            let Item::Record(record) = item else { continue };
            self.see(&record);
            if self.is_cut {
                self.host_again(&record);
            }
            let hosted = self.state.instances.contains_key(&record.slot.instance);
            records += u64::from(hosted);
        }
        // It decoded just now; were it otherwise, nothing of it would count.
        let _ = self.state.apply_items(replayed, frame, payload);
        if !self.is_cut || records == 0 {
            return;
        }
        self.records_kept += records;
        self.source_bytes += align8(HEADER_LEN + len64(payload.len()));
        let (segment, offset) = (frame.header.segment, frame.header.offset);
        match self.sources.last_mut() {
            Some((last, offsets)) if *last == segment => offsets.push(offset),
            _ => self.sources.push((segment, vec![offset])),
        }
    }

    fn see(&mut self, record: &RecordItem) {
        let slot = &record.slot;
        if slot.instance == InstanceId(0) {
            return; // forgotten before it was written
        }
        let stretch = self.unreadable.len();
        let seen = self.seen.entry(slot.instance).or_insert_with(|| Seen {
            shard: slot.shard,
            records: 0,
            through: Seq::ZERO,
            opening: 0,
            behind: BTreeMap::new(),
        });
        seen.records += 1;
        seen.through = seen.through.max(record.seq);
        seen.opening = seen.opening.max(slot.term.opening);
        seen.behind.entry(stretch).or_default().insert(record.seq);
    }

    /// Records of an instance whose hosting is among what was lost: its store says what they go on from.
    fn host_again(&mut self, record: &RecordItem) {
        let slot = &record.slot;
        let term = TermStart {
            term: slot.term,
            first: record.seq,
        };
        let known = self.state.instances.get(&slot.instance);
        let (None, Some(&stored)) = (known, self.stores.get(&slot.instance)) else {
            return;
        };
        let entry = RosterEntry {
            shard: slot.shard,
            instance: slot.instance,
            base: stored,
            flushed: stored,
            terms: vec![term],
            holds: Vec::new(),
            notes: Notes::new(),
        };
        let instance = RecoveredInstance::new(entry);
        self.state.instances.insert(slot.instance, instance);
    }

    pub(super) fn plan(
        mut self,
        refused: &OpenError,
        outlines: &[Outline],
        stores: &BTreeMap<InstanceId, Seq>,
    ) -> RepairPlan {
        let mut shards = Vec::new();
        let mut roster = Vec::new();
        let mut has = BTreeMap::new();
        let instances = std::mem::take(&mut self.state.instances);
        for (id, instance) in instances {
            let (loss, entry, left) = self.settle(instance, stores.get(&id).copied());
            shards.extend(loss);
            roster.push(entry);
            has.insert(id, left);
        }
        let unhosted = self.seen.iter().filter(|(id, _)| !has.contains_key(id));
        let mut unhosted: Vec<_> = unhosted
            // Forgotten ones have records too: only what stands behind damage may have lost its hosting.
            .filter(|(_, seen)| self.lost_since_head > 0 && self.is_behind(seen))
            .map(|(&instance, seen)| Unhosted {
                shard: seen.shard,
                instance,
                records: seen.records,
            })
            .collect();
        unhosted.sort_by_key(|lost| (lost.shard, lost.instance));
        let from = self.chain.map_or(0, |chain| chain.segment);
        let aside = outlines
            .iter()
            .filter(|outline| outline.id >= from && outline.is_written);
        let kept_aside = aside.map(|outline| KeptAside {
            file: segment_name(outline.id),
            bytes: outline.len,
        });
        let heads: usize = roster.iter().map(entry_bound).sum();
        let segment_bytes = self.source_bytes + len64(heads) + 3 * BLOCK;
        RepairPlan {
            reason: refused.to_string(),
            unreadable: self.unreadable,
            shards,
            unhosted,
            notes_unknown: self.lost_since_head > 0,
            records_kept: self.records_kept,
            kept_aside: kept_aside.collect(),
            segment_bytes: segment_bytes.max(MIN_SEGMENT_BYTES.into()),
            parts: Parts {
                name: name(refused),
                stays: self.chain.map(predecessor),
                prefix: self.prefix,
                roster,
                sources: self.sources,
                has,
                id: outlines.last().map_or(0, |last| last.id) + 1,
            },
        }
    }

    /// Whether some of the records stand behind all that can't be read.
    fn is_behind(&self, seen: &Seen) -> bool {
        seen.behind.contains_key(&self.unreadable.len())
    }

    /// What an instance lost, what the head says of it, and what it has.
    fn settle(
        &self,
        mut instance: RecoveredInstance,
        stored: Option<Seq>,
    ) -> (Option<ShardLoss>, RosterEntry, SeqSet) {
        let id = instance.entry.instance;
        let seen = self.seen.get(&id);
        let through = seen.map_or(Seq::ZERO, |seen| seen.through);
        let before = self.holes.get(&id).cloned().unwrap_or_default();
        let (lost, maybe): (Vec<_>, Vec<_>) = holes(&instance, through)
            .intervals()
            .flat_map(|hole| before.missing(hole))
            .partition(|&hole| seen.is_none_or(|seen| seen.straddles(hole)));
        let end = instance.has.max().unwrap_or(instance.entry.base);
        let is_behind = seen.is_some_and(|seen| self.is_behind(seen));
        let unknown_after = (!self.unreadable.is_empty() && !is_behind).then_some(end);
        if let Some(stored) = stored {
            instance.flushed(stored);
        }
        let through = through.max(end);
        let served = instance.has.contiguous_after(instance.entry.base);
        let missed = lost.iter().chain(&maybe).any(|hole| hole.last() > served);
        let is_whole = lost.is_empty() && maybe.is_empty();
        let loss = (!is_whole || unknown_after.is_some()).then(|| ShardLoss {
            shard: instance.entry.shard,
            instance: id,
            void: SeqRange::after(served, through).filter(|_| missed),
            lost,
            maybe,
            unknown_after,
            stored,
        });
        if !is_whole || self.lost_since_head > 0 {
            let known = instance.entry.terms.iter().map(|start| start.term.opening);
            let known = known.chain(seen.map(|seen| seen.opening)).max();
            let before = Lost::of(&instance.entry.notes).unwrap_or_default();
            let maybe = self.lost_since_head.div_ceil(LEAST_START_BYTES);
            let note = Lost {
                through: through.max(before.through),
                opening: known.unwrap_or(0).max(before.opening).saturating_add(maybe),
            };
            let notes = &mut instance.entry.notes;
            notes.insert(LOST_NOTE.to_owned(), note.note());
        }
        (loss, instance.entry, instance.has)
    }
}

/// What an instance does not have up to its last record, or to `through`.
fn holes(instance: &RecoveredInstance, through: Seq) -> SeqSet {
    let end = instance.has.max().unwrap_or_default().max(through);
    let all = SeqRange::after(instance.entry.base, end);
    all.into_iter()
        .flat_map(|all| instance.has.missing(all))
        .collect()
}

const fn predecessor(chain: Chain) -> Predecessor {
    Predecessor {
        segment: chain.segment,
        end: chain.end,
        checksum: chain.checksum,
        nonce: chain.nonce,
    }
}

/// The most that an entry takes in a head.
fn entry_bound(entry: &RosterEntry) -> usize {
    let mut head = Vec::new();
    Head {
        file_len: 0,
        predecessor: None,
        first_segment: 0,
        roster: vec![entry.clone()],
    }
    .encode(&mut head);
    head.len()
}

/// The reason, as a directory's name.
fn name(refused: &OpenError) -> String {
    use crate::error::DamageKind;
    match refused {
        OpenError::Damaged(damage) => {
            let what = match damage.what {
                DamageKind::Header => "no-header",
                DamageKind::Payload => "bad-payload",
                DamageKind::Contents(_) => "bad-contents",
                DamageKind::Head => "bad-head",
                DamageKind::CutShort { .. } => "cut-short",
            };
            format!(
                "damaged-log-{what}-in-{:016x}-at-{}",
                damage.segment, damage.offset
            )
        }
        OpenError::MissingSegment { segment, .. } => format!("damaged-log-missing-{segment:016x}"),
        _ => "damaged-log".to_owned(),
    }
}

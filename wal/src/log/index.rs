//! Where an instance's records are: runs of frames on disk, and the recent ones in memory.

use std::collections::VecDeque;

use crate::record::Record;
use crate::seqset::SeqRange;
use crate::words::Seq;

/// A run is closed once it spans this much log and holds [`RUN_OWN`] bytes of its instance...
const RUN_SPAN: u64 = 64 << 10;
const RUN_OWN: u64 = 8 << 10;
/// ...or spans this much, so that one read stays small even for an instance that writes little.
const RUN_SPAN_MAX: u64 = 1 << 20;

/// Frames next to each other that hold records of one instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) segment: u64,
    /// Where the first frame starts.
    pub(crate) offset: u64,
    /// Where the last frame ends.
    pub(crate) end: u64,
    own: u64,
}

/// The runs of one instance, in the order written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    runs: Vec<Run>,
    /// Whether Seqs only went up, as an owner's do: then a run is found by bisection.
    out_of_order: bool,
}

impl Index {
    /// Notes that the frame at `offset..end` holds Seqs within `range`, `own` bytes of them.
    pub(crate) fn add(&mut self, range: SeqRange, segment: u64, offset: u64, end: u64, own: u64) {
        if let Some(run) = self.runs.last_mut() {
            self.out_of_order |= range.first() <= run.last;
            let span = end - run.offset.min(end);
            let open = span <= RUN_SPAN || (run.own < RUN_OWN && span <= RUN_SPAN_MAX);
            if run.segment == segment && run.offset <= offset && open {
                run.first = run.first.min(range.first());
                run.last = run.last.max(range.last());
                run.end = end;
                run.own += own;
                return;
            }
        }
        self.runs.push(Run {
            first: range.first(),
            last: range.last(),
            segment,
            offset,
            end,
            own,
        });
    }

    /// The runs that may hold `seq`, newest first.
    pub(crate) fn candidates(&self, seq: Seq) -> Vec<Run> {
        let holds = |run: &&Run| run.first <= seq && seq <= run.last;
        if self.out_of_order {
            return self.runs.iter().rev().filter(holds).copied().collect();
        }
        let at = self.runs.partition_point(|run| run.last < seq);
        self.runs
            .get(at)
            .filter(holds)
            .copied()
            .into_iter()
            .collect()
    }

    /// The runs that may hold a Seq of `range`, in the order written.
    pub(crate) fn overlapping(&self, range: SeqRange) -> impl Iterator<Item = &Run> {
        let within = move |run: &&Run| run.first <= range.last() && range.first() <= run.last;
        self.runs.iter().filter(within)
    }

    /// The least Seq above `seq` that a run may hold.
    pub(crate) fn next_after(&self, seq: Seq) -> Option<Seq> {
        self.runs
            .iter()
            .filter(|run| run.last > seq)
            .map(|run| run.first.max(seq.next()))
            .min()
    }

    /// Forgets the runs in segments below `segment`.
    pub(crate) fn truncate(&mut self, segment: u64) {
        self.runs.retain(|run| run.segment >= segment);
    }

    /// The least segment that holds a Seq above `seq`.
    pub(crate) fn segment_after(&self, seq: Seq) -> Option<u64> {
        self.runs
            .iter()
            .filter(|run| run.last > seq)
            .map(|run| run.segment)
            .min()
    }
}

/// Records written one by one share a chunk, up to so many.
const CHUNK: usize = 64;

/// Records of one frame of one instance, or of frames of one record each, in Seq order.
#[derive(Debug)]
pub(crate) struct Chunk {
    first: Seq,
    last: Seq,
    records: Vec<Record>,
    bytes: usize,
}

/// The recent records of one instance.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    chunks: VecDeque<Chunk>,
    /// Of all chunks.
    bytes: usize,
    out_of_order: bool,
}

impl Recent {
    /// Adds a frame's records, which take `bytes`, as a chunk; they are never none.
    pub(crate) fn push(&mut self, mut records: Vec<Record>, bytes: usize) {
        records.sort_by_key(Record::seq);
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return;
        };
        let (first, last) = (first.seq(), last.seq());
        self.out_of_order |= self.chunks.back().is_some_and(|chunk| first <= chunk.last);
        self.bytes += bytes;
        self.chunks.push_back(Chunk {
            first,
            last,
            records,
            bytes,
        });
    }

    /// Adds a frame's only record; whether it begins a chunk.
    pub(crate) fn add(&mut self, record: Record, bytes: usize) -> bool {
        let seq = record.seq();
        if let Some(chunk) = self.chunks.back_mut()
            && chunk.last.next() == seq
            && chunk.records.len() < CHUNK
        {
            chunk.last = seq;
            chunk.records.push(record);
            chunk.bytes += bytes;
            self.bytes += bytes;
            return false;
        }
        self.push(vec![record], bytes);
        true
    }

    /// Takes the oldest chunk out, and says how many bytes that makes.
    pub(crate) fn pop(&mut self) -> Option<(Chunk, usize)> {
        let chunk = self.chunks.pop_front()?;
        let bytes = chunk.bytes;
        self.bytes -= bytes;
        Some((chunk, bytes))
    }

    /// What all of it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record of `seq`, if it is here.
    pub(crate) fn get(&self, seq: Seq) -> Option<&Record> {
        let find = |chunk: &'_ Chunk| chunk.records.binary_search_by_key(&seq, Record::seq).ok();
        if self.out_of_order {
            return self
                .chunks
                .iter()
                .rev()
                .filter(|chunk| chunk.first <= seq && seq <= chunk.last)
                .find_map(|chunk| find(chunk).map(|i| &chunk.records[i]));
        }
        let at = self.chunks.partition_point(|chunk| chunk.last < seq);
        let chunk = self.chunks.get(at)?;
        find(chunk).map(|i| &chunk.records[i])
    }
}

//! What an instance of the log should hold, as maps.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use watershed_wal::{
    Epoch, InstanceId, Record, RecordKind, Seq, SeqRange, SeqSet, ShardId, StartBody, Term,
    TermStart, single_put,
};

/// Where the second term of a receiver's source starts, after its base.
const SECOND_TERM_AFTER: u64 = 24;

/// Whether an instance is hosted, when the call that decides may have failed half-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosted {
    Yes,
    Maybe,
    No,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) shard: ShardId,
    pub(super) id: InstanceId,
    pub(super) base: Seq,
    pub(super) owner: bool,
    pub(super) hosted: Hosted,
    /// Every record that was ever submitted; a Seq that a crash took may be used again in a later term.
    pub(super) tried: BTreeMap<Seq, Vec<Record>>,
    /// What is in the log now, as far as calls have returned.
    pub(super) there: BTreeMap<Seq, Record>,
    /// What must survive power loss.
    pub(super) sure: BTreeSet<Seq>,
    /// What ever had to, gone or not.
    pub(super) durable: SeqSet,
    /// Records at or below it may have been allowed to go.
    pub(super) may_be_gone: Seq,
    pub(super) flushed: Seq,
    pub(super) holds: BTreeMap<String, Seq>,
    /// Holds that a failed call may have made, moved or released.
    pub(super) unsure_holds: BTreeSet<String>,
    /// By key, what it may be; empty bytes for none.
    pub(super) notes: BTreeMap<String, Vec<Bytes>>,
    /// The terms it was hosted with or that were started durably, and those that may have been.
    pub(super) terms: Vec<TermStart>,
    pub(super) tried_terms: Vec<TermStart>,
    /// The current term, where the gate has been opened since the last opening of the log.
    pub(super) term: Option<Term>,
    pub(super) gate_open: bool,
    /// The last Seq handed out.
    pub(super) assigned: Seq,
    pub(super) bodies: u64,
}

impl Instance {
    pub(super) fn new(slot: usize, generation: u64, owner: bool, base: Seq) -> Self {
        let terms = if owner {
            Vec::new()
        } else {
            let start = |opening, after| TermStart {
                term: Term::new(Epoch(1), opening),
                first: Seq(base.0 + 1 + after),
            };
            vec![start(1, 0), start(2, SECOND_TERM_AFTER)]
        };
        Self {
            shard: ShardId(slot as u64),
            id: InstanceId(u128::from(generation) << 8 | slot as u128),
            base,
            owner,
            hosted: Hosted::No,
            tried: BTreeMap::new(),
            there: BTreeMap::new(),
            sure: BTreeSet::new(),
            durable: SeqSet::new(),
            may_be_gone: base,
            flushed: base,
            holds: BTreeMap::new(),
            unsure_holds: BTreeSet::new(),
            notes: BTreeMap::new(),
            tried_terms: terms.clone(),
            terms,
            term: None,
            gate_open: false,
            assigned: base,
            bodies: 0,
        }
    }

    /// A body nobody else has, of about `len` bytes; half of them compress.
    pub(super) fn next_body(&mut self, len: usize) -> Bytes {
        self.bodies += 1;
        let key = [
            self.id.0.to_le_bytes().as_slice(),
            &self.bodies.to_le_bytes(),
        ]
        .concat();
        let value: Vec<u8> = if self.bodies.is_multiple_of(2) {
            vec![0x61; len]
        } else {
            let mixed = (1..).map(|i: u64| (i * i * 0x9e37_79b9 + self.bodies) >> 13);
            mixed.map(|x| x.to_le_bytes()[0]).take(len).collect()
        };
        single_put(&key, &value)
    }

    /// The record that a receiver's source has there: the same whenever it is asked.
    pub(super) fn source_record(&self, seq: Seq) -> Record {
        let opening = if seq.0 > self.base.0 + SECOND_TERM_AFTER {
            2
        } else {
            1
        };
        let body = single_put(
            &seq.0.to_le_bytes(),
            &vec![0x62; usize::from(seq.0.to_le_bytes()[0]) * 7],
        );
        Record::new(Term::new(Epoch(1), opening), seq, RecordKind::Batch, body)
    }

    pub(super) fn record_try(&mut self, record: &Record) {
        let tried = self.tried.entry(record.seq()).or_default();
        if !tried.contains(record) {
            tried.push(record.clone());
        }
    }

    /// A completed write.
    pub(super) fn record_done(&mut self, record: Record, durable: bool) {
        if durable {
            self.sure.insert(record.seq());
            self.durable.insert(record.seq());
        }
        self.there.insert(record.seq(), record);
    }

    /// What is durable is not taken back: called with each Seq that the log shows as durable.
    pub(super) fn promised(&mut self, record: &Record) {
        let seq = record.seq();
        assert!(
            self.tried
                .get(&seq)
                .is_some_and(|tried| tried.contains(record)),
            "{}: {record:?} was never submitted",
            self.id
        );
        if let Some(known) = self.there.get(&seq) {
            assert_eq!(known, record, "{}: two records for one Seq", self.id);
        }
        self.record_done(record.clone(), true);
    }

    pub(super) fn all_there_is_durable(&mut self) {
        for seq in self.there.keys() {
            self.sure.insert(*seq);
            self.durable.insert(*seq);
        }
    }

    /// What may go now, may have gone from now on.
    pub(super) fn note_truncatable(&mut self) {
        let held = self.holds.values().min().copied().unwrap_or(self.flushed);
        self.may_be_gone = self.may_be_gone.max(self.flushed.min(held));
    }

    /// The end of what is contiguous after the base, of what is here or was, durably.
    pub(super) fn contiguous(&self) -> Seq {
        let mut had = self.voids();
        had.union(&self.durable);
        had.extend(self.there.keys().map(|seq| SeqRange::single(*seq)));
        had.contiguous_after(self.base)
    }

    /// What the start records skipped.
    pub(super) fn voids(&self) -> SeqSet {
        let starts = self
            .there
            .values()
            .filter(|record| record.kind() == RecordKind::Start);
        starts
            .filter_map(|record| StartBody::decode(record.body()).expect("a start body").void)
            .collect()
    }

    pub(super) fn last_there(&self) -> Seq {
        self.there.keys().next_back().copied().unwrap_or(self.base)
    }

    pub(super) fn last_tried(&self) -> Seq {
        self.tried.keys().next_back().copied().unwrap_or(self.base)
    }

    /// Holds what was found after an opening against what was promised, and takes it over.
    pub(super) fn adopt(&mut self, found: BTreeMap<Seq, Record>) {
        for (seq, record) in &found {
            let tried = self.tried.get(seq);
            assert!(
                tried.is_some_and(|tried| tried.contains(record)),
                "{}: found {record:?}, which was never submitted there",
                self.id
            );
        }
        for seq in self.sure.iter().filter(|seq| **seq > self.may_be_gone) {
            assert_eq!(
                found.get(seq),
                self.there.get(seq),
                "{}: the durable record of Seq {seq} is lost or another",
                self.id
            );
        }
        self.there = found;
        if self.owner {
            self.check_dense();
        }
        self.sure.retain(|seq| self.there.contains_key(seq));
        self.term = None;
        self.gate_open = false;
    }

    /// Between the first and the last record of an owner nothing is missing but what a start record voids.
    fn check_dense(&self) {
        let voids = self.voids();
        let mut above = self
            .there
            .keys()
            .copied()
            .filter(|seq| *seq > self.may_be_gone);
        let Some(mut last) = above.next() else {
            return;
        };
        for seq in above {
            let lost = SeqRange::after(last, Seq(seq.0 - 1)).map(|gap| voids.missing(gap));
            assert_eq!(
                lost.unwrap_or_default(),
                [],
                "{}: Seqs are missing",
                self.id
            );
            last = seq;
        }
    }
}

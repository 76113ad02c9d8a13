//! The clients: writes and reads at whoever takes them, what was acknowledged, and the content of a copy.

use bytes::Bytes;
use watershed_migration::messages::{EntryVersion, PageEntry, Response};
use watershed_wal::{Epoch, LogDigest, Record, RecordKind, Seq, Term};

use super::{Ev, Read, World};

pub(super) fn record(term: Term, seq: u64) -> Record {
    Record::new(
        term,
        Seq(seq),
        RecordKind::Batch,
        Bytes::from(seq.to_le_bytes().to_vec()),
    )
}

pub(super) fn digest<'a>(records: impl IntoIterator<Item = &'a Record>) -> LogDigest {
    let mut digest = LogDigest::default();
    records
        .into_iter()
        .for_each(|record| digest.add(record.hash()));
    digest
}

pub(super) fn page(records: Vec<&Record>, after: Option<Bytes>, limit: usize) -> Response {
    let key = |r: &Record| Bytes::from(r.seq().0.to_be_bytes().to_vec());
    let rest: Vec<_> = records
        .into_iter()
        .filter(|r| after.as_ref().is_none_or(|a| key(r) > *a))
        .collect();
    let done = rest.len() <= limit;
    let entries = rest.into_iter().take(limit).map(|r| PageEntry {
        key: key(r),
        version: EntryVersion {
            term: r.term(),
            seq: r.seq(),
        },
        tombstone: false,
        hash: r.hash(),
    });
    Response::Page {
        entries: entries.collect(),
        done,
    }
}

impl World {
    /// One write and one read, each at whoever takes it: a client asks the other node where one refuses.
    pub(super) fn clients(&mut self) {
        if self.source.up && self.source.gate {
            let seq = self.source.log.len() as u64 + 1;
            let written = record(Term::new(Epoch(1), self.source.opening), seq);
            self.source.log.push(written.clone());
            self.acknowledged.insert(seq, written);
            if self.source.forwarding && !self.chance(self.faults.lose_forward) {
                self.soon(Ev::Forward(seq));
            }
        }
        if self.target.serves()
            && let Some((term, _)) = self.target.term
        {
            let seq = self.target.end().next().0;
            let written = record(term, seq);
            self.target.records.insert(seq, written.clone());
            self.acknowledged.insert(seq, written);
        }
        let newest = self
            .acknowledged
            .last_key_value()
            .map_or(0, |(seq, _)| *seq);
        if self.source.up && self.source.reads {
            self.reads.push(Read {
                by_source: true,
                seen: Seq(self.source.log.len() as u64),
                newest: Seq(newest),
            });
        }
        if self.target.serves() {
            self.reads.push(Read {
                by_source: false,
                seen: self.target.end(),
                newest: Seq(newest),
            });
        }
        if self.now < self.clients_until {
            self.after(2, Ev::Clients);
        }
    }
}

//! Applying records: a group becomes one RocksDB batch, with the applied mark in it.
//!
//! This is the hot path of every write. Nothing is allocated per record but what RocksDB's batch itself
//! does: operations are slices of the record's body, keys and values are put together in two buffers that
//! stay with the store.

use rocksdb::WriteBatch;
use watershed_wal::{BatchReader, FormatError, Op, Record, RecordKind, StartBody, TermStart};

use super::error::StoreError;
use super::format::{self, APPLIED_KEY, Applied, ValueHead};
use super::{Inner, Store, lock, write_lock};

/// A record's mark, and room for the heads of short values.
const BATCH_OVERHEAD: usize = 128;
/// Buffers larger than this are not kept.
const KEPT_BYTES: usize = 1 << 20;

/// The buffers that keys and values are put together in.
#[derive(Default)]
pub(super) struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A group on its way into a batch.
struct Group<'a> {
    inner: &'a Inner,
    scratch: &'a mut Scratch,
    batch: WriteBatch,
    applied: Applied,
    started: Vec<TermStart>,
}

impl Store {
    /// Applies records whose Seqs follow the applied mark without a gap, all or none, and visible at once
    /// when it returns. A [`RecordKind::Start`] may skip the Seqs that it declares void. The caller bounds
    /// the group's bytes, and has made sure that the records may be seen.
    ///
    /// # Errors
    /// A record that does not follow, cannot be read or is not known: nothing is applied, and the same
    /// records will fail again. RocksDB failed: nothing is applied, see [`Store::reopen`].
    pub(crate) fn apply(&self, records: &[Record]) -> Result<(), StoreError> {
        let inner = &*self.0;
        inner.refuse_read_only()?;
        if records.is_empty() {
            return Ok(());
        }
        let mut scratch = lock(&inner.writer);
        let db = inner.db()?;
        let bytes: usize = records.iter().map(|r| r.body().len() + 16).sum();
        let mut group = Group {
            inner,
            scratch: &mut scratch,
            batch: WriteBatch::with_capacity_bytes(bytes + BATCH_OVERHEAD),
            applied: *lock(&inner.applied),
            started: Vec::new(),
        };
        for record in records {
            group.add(record)?;
        }
        let Group {
            mut batch,
            applied,
            started,
            ..
        } = group;
        batch.put(APPLIED_KEY, applied.encode());
        let before = inner.terms();
        if !started.is_empty() {
            for start in &started {
                let (key, value) = format::encode_term_start(start);
                batch.put(key, value);
            }
            // Before the write: who reads a value of the new term must find the term.
            *write_lock(&inner.terms) = before.with(&started);
        }
        if let Err(error) = db.write_opt(batch, &inner.writes) {
            *write_lock(&inner.terms) = before;
            return Err(inner.failed("apply records", error));
        }
        *lock(&inner.applied) = applied;
        scratch.trim();
        Ok(())
    }
}

impl Scratch {
    fn trim(&mut self) {
        for buffer in [&mut self.key, &mut self.value] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}

impl Group<'_> {
    fn add(&mut self, record: &Record) -> Result<(), StoreError> {
        self.check_order(record)?;
        match record.kind() {
            RecordKind::Batch => self.add_batch(record)?,
            // They say something about the log, not about keys.
            RecordKind::Start
            | RecordKind::Mark
            | RecordKind::PurgeMark
            | RecordKind::SealedHoles => {}
            // To pass one by would let this copy differ from the others for ever.
            RecordKind::Repair => return Err(self.unsupported(record, "a repair")),
            _ => return Err(self.unsupported(record, "a record of an unknown kind")),
        }
        if record.term() > self.applied.term {
            self.started.push(TermStart {
                term: record.term(),
                first: record.seq(),
            });
        }
        self.applied.seq = record.seq();
        self.applied.term = record.term();
        self.applied.digest.add(record.hash());
        Ok(())
    }

    fn check_order(&self, record: &Record) -> Result<(), StoreError> {
        let expected = self.applied.seq.next();
        let mut follows = record.seq() == expected;
        if !follows && record.kind() == RecordKind::Start {
            let start = StartBody::decode(record.body()).map_err(|e| self.bad(record, e))?;
            // The void range may begin before the mark: an owner's store can be ahead of the log it lost.
            follows = start
                .void
                .is_some_and(|void| void.first() <= expected && void.last().next() == record.seq())
                && record.seq() > expected;
        }
        if !follows {
            return Err(StoreError::NotContiguous {
                dir: self.inner.dir.clone(),
                applied: self.applied.seq,
                found: record.seq(),
            });
        }
        if record.term() < self.applied.term {
            return Err(StoreError::OldTerm {
                dir: self.inner.dir.clone(),
                seq: record.seq(),
                found: record.term(),
                applied: self.applied.term,
            });
        }
        Ok(())
    }

    fn add_batch(&mut self, record: &Record) -> Result<(), StoreError> {
        let head = |tombstone| ValueHead {
            seq: record.seq(),
            tombstone,
        };
        let ops = BatchReader::new(record.body().clone()).map_err(|e| self.bad(record, e))?;
        for op in ops {
            match op.map_err(|e| self.bad(record, e))? {
                Op::Put {
                    keyspace,
                    flags: 0,
                    key,
                    value,
                } => self.put(record, keyspace, &key, head(false), &value)?,
                Op::Delete {
                    keyspace,
                    flags: 0,
                    key,
                } => self.put(record, keyspace, &key, head(true), &[])?,
                Op::Put { .. } | Op::Delete { .. } => {
                    return Err(self.unsupported(record, "a flag of an operation"));
                }
                Op::DeleteRange { .. } => return Err(self.unsupported(record, "a range delete")),
                Op::Merge { .. } => return Err(self.unsupported(record, "a merge")),
                _ => return Err(self.unsupported(record, "an unknown operation")),
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        record: &Record,
        keyspace: u32,
        key: &[u8],
        head: ValueHead,
        value: &[u8],
    ) -> Result<(), StoreError> {
        let Scratch {
            key: stored_key,
            value: stored_value,
        } = &mut *self.scratch;
        stored_key.clear();
        if format::put_key(stored_key, keyspace, key).is_none() {
            return Err(self.unsupported(record, "a keyspace of an operation"));
        }
        stored_value.clear();
        stored_value.reserve(format::VALUE_HEAD + value.len());
        stored_value.extend_from_slice(&head.encode());
        stored_value.extend_from_slice(value);
        self.batch.put(&stored_key, &stored_value);
        Ok(())
    }

    fn bad(&self, record: &Record, source: FormatError) -> StoreError {
        StoreError::BadRecord {
            dir: self.inner.dir.clone(),
            seq: record.seq(),
            kind: record.kind(),
            source,
        }
    }

    fn unsupported(&self, record: &Record, what: &'static str) -> StoreError {
        StoreError::Unsupported {
            dir: self.inner.dir.clone(),
            seq: record.seq(),
            what,
        }
    }
}

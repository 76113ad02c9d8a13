//! Reading a log without owning it: for the command line, read-only opening, and verifying. Never writes.
//!
//! The owner may be running. What it is writing right now is a torn tail here; files that it removes while they
//! are listed make the view start over; files that are open already stay readable.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::dump::{Dump, DumpLine};
use super::read::{Source, Wanted, read_sources};
use super::recover::{Recovered, RecoveredInstance, list_segments, recover};
use crate::codec::len64;
use crate::error::{LogError, OpenError};
use crate::options::{HoldBudget, HoldInfo, VerifyReport};
use crate::record::Record;
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::Storage;
use crate::words::{InstanceId, Seq, ShardId, TermStart};

/// How often a view starts over where what it met may be the owner's doing, though no file came or went meanwhile.
const ATTEMPTS: usize = 4;
/// How often it starts over at the most, files coming and going all the while.
const ATTEMPTS_BESIDE_OWNER: usize = 50;
/// How long it waits for the owner, which gives a file that it took another name at once, if the owner is running.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long until it looks again.
const PAUSE: Duration = Duration::from_millis(1);
/// What a reader takes in one step.
const STEP: usize = 1 << 20;

/// A log as it was when the view was opened.
#[derive(Debug)]
pub struct LogView {
    recovered: Recovered,
}

/// One hosted instance of a view.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InstanceView {
    /// The shard.
    pub shard: ShardId,
    /// The instance.
    pub id: InstanceId,
    /// Records at or below it are not here.
    pub base: Seq,
    /// Records at or below it may be gone.
    pub flushed: Seq,
    /// The term history.
    pub terms: Vec<TermStart>,
    /// The Seqs above base, those that are void or truncated included.
    pub has: SeqSet,
    /// The node-local notes.
    pub notes: BTreeMap<String, Bytes>,
    /// The holds, with what was spent when they were last noted.
    pub holds: Vec<HoldInfo>,
}

/// Checks a log: every frame, every chain, every promise.
///
/// # Errors
/// As opening the log would, in the same words.
pub fn verify(storage: Arc<dyn Storage>) -> Result<VerifyReport, OpenError> {
    LogView::open(storage).map(|(_, report)| report)
}

impl LogView {
    /// Reads the log.
    ///
    /// # Errors
    /// When what was promised durable is damaged or missing, when the format is a newer one, when the device fails.
    pub fn open(storage: Arc<dyn Storage>) -> Result<(Self, VerifyReport), OpenError> {
        let (mut attempts, mut beside_owner) = (1, 1);
        let mut waited = Duration::ZERO;
        let recovered = loop {
            let before = list_segments(&*storage)?;
            match recover(&*storage) {
                Err(error) if is_taken(&error) && waited < PATIENCE => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(error) if moved_under_us(&error) && beside_owner < ATTEMPTS_BESIDE_OWNER => {
                    beside_owner += 1;
                    if list_segments(&*storage)? == before {
                        attempts += 1;
                    }
                    if attempts > ATTEMPTS {
                        return Err(error);
                    }
                }
                found => break found?,
            }
        };
        let report = VerifyReport {
            segments: len64(recovered.segments.len()),
            frames: recovered.frames,
            records: recovered.records,
            bytes: recovered.segments.iter().map(|s| s.chain.end).sum(),
            tail: recovered.tail,
        };
        Ok((Self { recovered }, report))
    }

    /// The hosted instances.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceView> {
        self.recovered
            .instances
            .values()
            .map(|i| self.instance(i))
            .collect()
    }

    fn instance(&self, found: &RecoveredInstance) -> InstanceView {
        let entry = &found.entry;
        let holds = entry.holds.iter().map(|hold| {
            let first = found.index.segment_after(hold.from);
            let segments = self.recovered.segments.iter();
            let kept = segments.filter(|segment| first.is_some_and(|first| segment.id >= first));
            let bytes = kept.map(|segment| segment.len).sum();
            HoldInfo {
                shard: entry.shard,
                instance: entry.instance,
                name: hold.name.clone(),
                from: hold.from,
                budget: HoldBudget {
                    bytes: hold.bytes,
                    time: hold.time,
                },
                bytes,
                age: hold.spent,
                expired: bytes > hold.bytes || hold.spent > hold.time,
            }
        });
        InstanceView {
            shard: entry.shard,
            id: entry.instance,
            base: entry.base,
            flushed: entry.flushed,
            terms: entry.terms.clone(),
            has: found.has.clone(),
            notes: entry.notes.clone(),
            holds: holds.collect(),
        }
    }

    /// The records of a range in Seq order, void Seqs passed over; a Seq that is not here gives
    /// [`LogError::Gap`] once, and ends it.
    pub fn read(
        &self,
        id: InstanceId,
        range: SeqRange,
    ) -> impl Iterator<Item = Result<Record, LogError>> + '_ {
        let mut cursor = Some(range.first());
        let mut ready = VecDeque::new();
        std::iter::from_fn(move || {
            loop {
                if let Some(record) = ready.pop_front() {
                    return Some(Ok(record));
                }
                let range = SeqRange::new(cursor.take()?, range.last())?;
                match self.read_some(id, range) {
                    Ok((records, next)) => {
                        ready = records.into();
                        cursor = next;
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    fn read_some(
        &self,
        id: InstanceId,
        range: SeqRange,
    ) -> Result<(Vec<Record>, Option<Seq>), LogError> {
        let found = self.recovered.instances.get(&id);
        let found = found.ok_or(LogError::UnknownInstance(id))?;
        let first = range.first();
        let sources = found.index.candidates(first).into_iter().filter_map(|run| {
            let segments = &self.recovered.segments;
            let segment = segments.iter().find(|segment| segment.id == run.segment)?;
            Some(Source {
                file: Arc::clone(&segment.file),
                nonce: segment.chain.nonce,
                run,
            })
        });
        let sources: Vec<_> = sources.collect();
        let wanted = Wanted {
            instance: id,
            shard: found.entry.shard,
            range,
        };
        let next = found.index.next_after(first);
        read_sources(wanted, &sources, &found.voids, next, STEP)
    }

    /// Every frame, record and note, in the order written.
    pub fn dump(&self) -> impl Iterator<Item = DumpLine> + '_ {
        self.recovered.segments.iter().flat_map(Dump::new)
    }
}

/// What a running owner can make us see: files that went away between listing and reading, and a read that has
/// an old front and a new end. What is really so is still so at the next attempt.
fn moved_under_us(error: &OpenError) -> bool {
    match error {
        OpenError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        OpenError::MissingSegment { .. } | OpenError::Damaged(_) | OpenError::Foreign { .. } => {
            true
        }
        _ => false,
    }
}

/// The owner is about to give a segment's file another name.
fn is_taken(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy)
}

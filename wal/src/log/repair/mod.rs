//! Repair: giving up, by an explicit choice, what damage made unreadable, so that the log opens again.
//!
//! [`plan`] reads and decides, and writes nothing; [`RepairPlan::apply`] carries it out. The part of the log before
//! the damage stays as it is. One fresh segment goes on from there: its head says all that is known of every
//! instance, and behind it stand the records that could still be read. It is written under another name and
//! renamed, so that a crash leaves the damaged log or the repaired one.
//!
//! Nothing is closed up: a Seq that was lost is a hole in `has`, which no reader passes. What the next owner must
//! know (up to where Seqs were given out, and which openings may be lost with them) is in a note of the instance;
//! [`crate::InstanceLog::start_term`] voids what can't be served, and the start record takes the note away.
//!
//! It leaves out the lock of the directory, and what stores hold: the caller says that.

mod survey;
mod walk;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::recover::{list_segments, recover};
use crate::codec::{Reader, put_varint};
use crate::error::OpenError;
use crate::format::head::{Predecessor, RosterEntry};
use crate::format::payload::Slot;
use crate::options::Notes;
use crate::record::StartBody;
use crate::seqset::{SeqRange, SeqSet};
use crate::storage::Storage;
use crate::words::{InstanceId, Seq, ShardId};

pub use write::RepairReport;

/// The note of an instance that lost records; notes of other users have other names.
pub(crate) const LOST_NOTE: &str = "wal.lost";

/// What a repair noted for the next owner of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Seqs up to here were given out.
    pub(crate) through: Seq,
    /// No term with an opening up to this one may start: it may be one that was lost.
    pub(crate) opening: u64,
}

impl Lost {
    pub(crate) fn of(notes: &Notes) -> Option<Self> {
        let mut reader = Reader::new(notes.get(LOST_NOTE)?);
        Some(Self {
            through: reader.varint_as("a repair's note").ok()?,
            opening: reader.varint("a repair's note").ok()?,
        })
    }

    fn note(self) -> Bytes {
        let mut out = BytesMut::new();
        put_varint(&mut out, self.through.0);
        put_varint(&mut out, self.opening);
        out.freeze()
    }
}

/// Takes the note away once a start record of the instance itself is written that counts on it: what the next owner
/// must know is in the log again.
pub(crate) fn forget_lost(notes: &mut Notes, start: &StartBody, slot: Slot) {
    let counts = |lost: Lost| slot.term.opening > lost.opening;
    if start.instance == slot.instance && Lost::of(notes).is_some_and(counts) {
        notes.remove(LOST_NOTE);
    }
}

/// A stretch of the log that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The segment.
    pub segment: u64,
    /// Where the stretch starts.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// The segment's file is not there at all.
    pub is_missing: bool,
}

/// What one instance loses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardLoss {
    /// The shard.
    pub shard: ShardId,
    /// The instance.
    pub instance: InstanceId,
    /// Seqs that the repaired log does not have: what is before them stands before the damage, what is after them
    /// behind it.
    pub lost: Vec<SeqRange>,
    /// Seqs that it does not have either, and that a receiver may never have had.
    pub maybe: Vec<SeqRange>,
    /// No record of it could be read behind the damage: it may have had more after this Seq.
    pub unknown_after: Option<Seq>,
    /// What its store holds for good, as the caller said: of the lost Seqs those up to here are not missed.
    pub stored: Option<Seq>,
    /// Seqs that can't be served, because lost ones are among them or before them. The next owner voids them.
    pub void: Option<SeqRange>,
}

/// An instance whose hosting was lost, with all its records: nothing says what they go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unhosted {
    /// The shard.
    pub shard: ShardId,
    /// The instance.
    pub instance: InstanceId,
    /// Readable records that are given up for it.
    pub records: u64,
}

/// A segment file that is kept aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptAside {
    /// The file's name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}

/// What a repair would do; see [`plan`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RepairPlan {
    /// Why the log refuses to open.
    pub reason: String,
    /// What can't be read.
    pub unreadable: Vec<Unreadable>,
    /// The instances that lose records, or may.
    pub shards: Vec<ShardLoss>,
    /// The instances that are lost as a whole.
    pub unhosted: Vec<Unhosted>,
    /// Whether hostings, holds and notes that were written there may be lost: no later head could be read.
    pub notes_unknown: bool,
    /// Records that stand behind the damage and are kept.
    pub records_kept: u64,
    /// The segment files that are kept aside.
    pub kept_aside: Vec<KeptAside>,
    /// Bytes of the fresh segment, at the most.
    pub segment_bytes: u64,
    #[serde(skip)]
    parts: Parts,
}

/// How it is done.
#[derive(Clone, Debug)]
struct Parts {
    name: String,
    /// Where the part that stays ends.
    stays: Option<Predecessor>,
    /// The segments that stay.
    prefix: Vec<u64>,
    roster: Vec<RosterEntry>,
    /// Frames whose records are kept: segment, and offsets.
    sources: Vec<(u64, Vec<u64>)>,
    /// What the repaired log must be found to have.
    has: BTreeMap<InstanceId, SeqSet>,
    id: u64,
}

/// Finds out what a repair of the log in `storage` would lose; `None`: there is nothing to repair. Writes nothing.
///
/// `stores`: the Seq up to which an instance's store holds everything durably, where that is known. The log must
/// not be open.
///
/// # Errors
/// Where damage is not what keeps the log from opening: a newer format, a foreign file, a device that fails.
pub fn plan(
    storage: &dyn Storage,
    stores: &BTreeMap<InstanceId, Seq>,
) -> Result<Option<RepairPlan>, OpenError> {
    let refused = match recover(storage) {
        Ok(_) => return Ok(None),
        Err(refused @ (OpenError::Damaged(_) | OpenError::MissingSegment { .. })) => refused,
        Err(error) => return Err(error),
    };
    let outlines = walk::outlines(storage, &list_segments(storage)?)?;
    let mut first = 0;
    loop {
        let needed = outlines.iter().filter(|outline| outline.id >= first);
        let (live, missing) = walk::live(needed.cloned().collect());
        let survey = survey::Survey::of(&live, &missing, first, stores)?;
        // Segments that the log had given up may still be there, or not: no loss.
        if survey.first_segment() > first {
            first = survey.first_segment();
            continue;
        }
        return Ok(Some(survey.plan(&refused, &outlines, stores)));
    }
}

impl RepairPlan {
    /// A name for the directory that keeps the damaged segments: the reason, fit for a file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Bytes that the repair needs on the device, before it frees any.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let aside = self.kept_aside.iter().map(|kept| kept.bytes).sum::<u64>();
        aside.saturating_add(self.segment_bytes)
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        for gap in &self.unreadable {
            let what = if gap.is_missing {
                "missing"
            } else {
                "unreadable"
            };
            writeln!(
                f,
                "{what}: segment {:016x}, {} bytes from offset {}",
                gap.segment, gap.bytes, gap.offset
            )?;
        }
        for loss in &self.shards {
            writeln!(f, "{loss}")?;
        }
        for lost in &self.unhosted {
            writeln!(
                f,
                "shard {}, instance {}: its hosting was lost, and {} readable records with it",
                lost.shard, lost.instance, lost.records
            )?;
        }
        if self.notes_unknown {
            writeln!(
                f,
                "hostings, holds and notes that were written there are lost: what they are now is not known"
            )?;
        }
        write!(
            f,
            "{} records behind the damage are kept; {} segment files are kept aside",
            self.records_kept,
            self.kept_aside.len()
        )
    }
}

impl fmt::Display for ShardLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}, instance {}: ", self.shard, self.instance)?;
        let mut what = Vec::new();
        if !self.lost.is_empty() {
            what.push(format!("loses Seqs {}", list(&self.lost)));
        }
        if !self.maybe.is_empty() {
            what.push(format!(
                "lost Seqs {}, or never had them",
                list(&self.maybe)
            ));
        }
        if let Some(after) = self.unknown_after {
            what.push(format!("may have had more after Seq {after}"));
        }
        f.write_str(&what.join(", "))?;
        match self.stored {
            None => f.write_str("; what its store holds is not known")?,
            Some(stored) => write!(f, "; its store holds all up to {stored}")?,
        }
        match self.void {
            Some(void) => write!(
                f,
                "; Seqs {void} can't be served: an owner voids them when it opens, a receiver is sent them again"
            ),
            None if self.unknown_after.is_none() => f.write_str(": nothing is missed"),
            None => Ok(()),
        }
    }
}

fn list(ranges: &[SeqRange]) -> String {
    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    ranges.join(", ")
}

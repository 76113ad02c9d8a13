//! The proof that the target has every write: what an activation takes, and the marks it is made of.
//!
//! [`SourceMarks`] and [`TargetMarks`] are reports, plain data that cross the link. [`Evidence`] is what
//! [`Evidence::prove`] makes of a matching pair, and nothing else makes one: it has no public field, no default,
//! no clone and no way in from bytes. It never crosses the link: the source, which gives the shard away, is sent
//! both marks and proves again itself.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use watershed_wal::{InstanceId, LogDigest, Seq, SeqRange, Term};

use crate::gate::SafeConfig;
use crate::words::{Attempt, MigrationId, Revision};

/// What the source says of itself, drained: nothing is written, nothing is in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceMarks {
    /// The migration.
    pub migration: MigrationId,
    /// Which quiesce.
    pub attempt: Attempt,
    /// The source's copy.
    pub instance: InstanceId,
    /// The term it wrote in last.
    pub term: Term,
    /// B: where the checkpoint that the target started from ends.
    pub base: Seq,
    /// F: the last Seq assigned when the gate was closed.
    pub f: Seq,
    /// Durable up to here.
    pub durable: Seq,
    /// Applied up to here.
    pub applied: Seq,
    /// The running log digest at B.
    pub digest_base: LogDigest,
    /// The running log digest at F.
    pub digest: LogDigest,
    /// The placement's revision when the gate was closed.
    pub revision: Revision,
}

/// What the target says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMarks {
    /// The migration.
    pub migration: MigrationId,
    /// Which quiesce it was asked for.
    pub attempt: Attempt,
    /// The target's copy.
    pub instance: InstanceId,
    /// The source's copy, whose records it counts.
    pub source_instance: InstanceId,
    /// B of the checkpoint it opened.
    pub base: Seq,
    /// F as it was told.
    pub f: Seq,
    /// Durable, without a hole, up to here.
    pub durable: Seq,
    /// Applied up to here.
    pub applied: Seq,
    /// What it misses of (B, F]; the first [`MARKS_MISSING_MAX`](crate::messages::MARKS_MISSING_MAX) ranges.
    pub missing: Vec<SeqRange>,
    /// The running log digest at B, out of the checkpoint.
    pub digest_base: LogDigest,
    /// The running log digest at F.
    pub digest: LogDigest,
}

/// Proof that, at this quiesce of this migration, the target has exactly the source's records up to F.
///
/// Rules: (1) both marks name the same migration, attempt, source copy, B and F; (2) on both durable = applied =
/// F; (3) the target misses nothing; (4) the digests over (B, F] agree, and so do those at B.
#[derive(Debug, PartialEq, Eq)]
pub struct Evidence {
    source: SourceMarks,
    target: TargetMarks,
    records: LogDigest,
}

/// Why two marks prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// They speak of different things.
    #[error(
        "the marks of source and target differ in their {what}: they are not of one quiesce; quiesce again"
    )]
    Mismatch {
        /// In what they differ.
        what: &'static str,
    },
    /// Records are missing at the target.
    #[error(
        "the target misses {first} and {more} more ranges up to Seq {f}: ship them and verify again"
    )]
    Missing {
        /// The first missing range.
        first: SeqRange,
        /// How many more ranges.
        more: usize,
        /// F.
        f: Seq,
    },
    /// One side has not reached F.
    #[error(
        "{side} is durable up to Seq {durable} and applied up to Seq {applied}, F is {f}: drain and verify again"
    )]
    Behind {
        /// Which side.
        side: &'static str,
        /// Durable.
        durable: Seq,
        /// Applied.
        applied: Seq,
        /// F.
        f: Seq,
    },
    /// The same Seqs, but not the same records.
    #[error(
        "the log digests of {at} differ, source {source_digest}, target {target_digest}: the copies are not the \
         same; abort this migration and start another"
    )]
    Digest {
        /// Of which Seqs.
        at: &'static str,
        /// The source's.
        source_digest: LogDigest,
        /// The target's.
        target_digest: LogDigest,
    },
    /// The marks contradict themselves.
    #[error(
        "the marks are impossible ({what}): they were damaged or made by a faulty peer; abort this migration"
    )]
    Impossible {
        /// What cannot be.
        what: &'static str,
    },
}

impl Evidence {
    /// Checks every rule above, under a configuration that passed the gate.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn prove(
        _gate: &SafeConfig,
        source: &SourceMarks,
        target: &TargetMarks,
    ) -> Result<Self, EvidenceError> {
        let same = [
            ("migration", source.migration == target.migration),
            ("attempt", source.attempt == target.attempt),
            ("source instance", source.instance == target.source_instance),
            ("B", source.base == target.base),
            ("F", source.f == target.f),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(EvidenceError::Mismatch { what });
        }
        possible(source, target)?;
        let f = source.f;
        if let Some(&first) = target.missing.first() {
            return Err(EvidenceError::Missing {
                first,
                more: target.missing.len() - 1,
                f,
            });
        }
        let sides = [
            ("the source", source.durable, source.applied),
            ("the target", target.durable, target.applied),
        ];
        for (side, durable, applied) in sides {
            if durable != f || applied != f {
                return Err(EvidenceError::Behind {
                    side,
                    durable,
                    applied,
                    f,
                });
            }
        }
        let records = source.digest.minus(source.digest_base);
        let digests = [
            ("Seqs up to B", source.digest_base, target.digest_base),
            ("(B, F]", records, target.digest.minus(target.digest_base)),
        ];
        for (at, source_digest, target_digest) in digests {
            if source_digest != target_digest {
                return Err(EvidenceError::Digest {
                    at,
                    source_digest,
                    target_digest,
                });
            }
        }
        Ok(Self {
            source: source.clone(),
            target: target.clone(),
            records,
        })
    }

    /// The source's marks.
    #[must_use]
    pub const fn source(&self) -> &SourceMarks {
        &self.source
    }

    /// The target's marks.
    #[must_use]
    pub const fn target(&self) -> &TargetMarks {
        &self.target
    }

    /// The digest of the records in (B, F].
    #[must_use]
    pub const fn records(&self) -> LogDigest {
        self.records
    }
}

/// What no honest pair of marks says; checked first, because a difference of digests would not be defined.
fn possible(source: &SourceMarks, target: &TargetMarks) -> Result<(), EvidenceError> {
    let rules = [
        ("F is before B", source.base <= source.f),
        (
            "both copies are one instance",
            source.instance != target.instance,
        ),
        (
            "the source's digest at B counts more than at F",
            source.digest_base.count <= source.digest.count,
        ),
        (
            "the target's digest at B counts more than at F",
            target.digest_base.count <= target.digest.count,
        ),
    ];
    if let Some((what, _)) = rules.into_iter().find(|(_, holds)| !holds) {
        return Err(EvidenceError::Impossible { what });
    }
    // Fewer is possible: a start record may void Seqs, which then hold no record.
    if source.digest.count - source.digest_base.count > source.f.0 - source.base.0 {
        return Err(EvidenceError::Impossible {
            what: "more records than Seqs in (B, F]",
        });
    }
    Ok(())
}

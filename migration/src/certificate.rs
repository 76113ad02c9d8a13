//! The certificate of an activation: what was moved, between whom, and what proves that it is all there.
//!
//! One JSON document, written once the target serves. [`Certificate::from_json`] reads it and says whether it is
//! consistent in itself; it can't say whether the nodes told the truth. Times in it are durations, never dates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term};

use crate::config::SafetyPolicy;
use crate::messages::FileInfo;
use crate::words::{Attempt, MigrationId, NodeId, Phase};

/// The version of the document.
pub const CERTIFICATE_VERSION: u32 = 1;

/// What certifies one activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// [`CERTIFICATE_VERSION`].
    pub version: u32,
    /// The shard.
    pub shard: ShardId,
    /// The migration.
    pub migration: MigrationId,
    /// Who gave it away.
    pub source: Party,
    /// Who serves it now.
    pub target: Party,
    /// B: where the checkpoint ended.
    pub base: Seq,
    /// F: the last write before the cutover.
    pub f: Seq,
    /// The digest of all records up to B.
    pub digest_base: LogDigest,
    /// The source's digest of the records in (B, F].
    pub digest_source: LogDigest,
    /// The target's digest of the records in (B, F].
    pub digest_target: LogDigest,
    /// The checkpoint's files with their checksums.
    pub files: Vec<FileInfo>,
    /// What the target misses: nothing.
    pub missing: Vec<SeqRange>,
    /// Holes that delta rounds filled, counted as ranges.
    pub holes_filled: u64,
    /// Records that delta rounds shipped.
    pub delta_records: u64,
    /// The pause as the source measured it, in microseconds; `None` where the source was lost before it told.
    pub pause_us: Option<u64>,
    /// Which quiesce it was.
    pub attempts: Attempt,
    /// How long each phase took, as the last driver saw it, in milliseconds.
    pub phase_ms: BTreeMap<Phase, u64>,
    /// The safety nets it ran with.
    pub safety: SafetyPolicy,
    /// [`Certificate::VERDICT`], in words.
    pub verdict: String,
}

/// One side of the move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The node.
    pub node: NodeId,
    /// Its copy.
    pub instance: InstanceId,
    /// The epoch it owned, or owns, the shard in.
    pub epoch: Epoch,
    /// The term of its last, or first, write.
    pub term: Term,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No certificate at all, or a field of it is missing or of another kind.
    #[error(
        "line {line}, column {column}: this is no certificate ({reason}); give the file as Watershed wrote it"
    )]
    Unreadable {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser found.
        reason: String,
    },
    /// Written by a newer Watershed.
    #[error(
        "the certificate is of version {found}, this program reads {CERTIFICATE_VERSION}: use a newer one"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It contradicts itself.
    #[error(
        "the certificate of migration {migration} is inconsistent: {field}: {what}; don't rely on it"
    )]
    Inconsistent {
        /// The migration.
        migration: MigrationId,
        /// The field that can't be so, as the document spells it.
        field: &'static str,
        /// What does not hold.
        what: &'static str,
    },
}

/// What any version of the document has.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// A field, whether it is consistent with the rest, and what is wrong if not.
type Rule = (&'static str, bool, &'static str);

impl Certificate {
    /// The verdict of a whole activation.
    pub const VERDICT: &'static str = "complete: every write up to F is on the new owner";

    /// Reads the document, and checks it.
    ///
    /// # Errors
    /// When it is no certificate, of a newer version, or not consistent in itself.
    pub fn from_json(json: &[u8]) -> Result<Self, CertificateError> {
        let unreadable = |error: serde_json::Error| CertificateError::Unreadable {
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        };
        // The version first: a newer one may have other fields.
        let AnyVersion { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version > CERTIFICATE_VERSION {
            return Err(CertificateError::Newer { found: version });
        }
        let certificate: Self = serde_json::from_slice(json).map_err(unreadable)?;
        certificate.check()?;
        Ok(certificate)
    }

    /// Whether it is consistent in itself.
    ///
    /// # Errors
    /// Names the first field that contradicts the others, and how.
    pub fn check(&self) -> Result<(), CertificateError> {
        if self.version > CERTIFICATE_VERSION {
            return Err(CertificateError::Newer {
                found: self.version,
            });
        }
        let rules = [
            self.of_the_parties(),
            self.of_the_records(),
            self.of_the_times(),
        ];
        match rules.into_iter().flatten().find(|(_, holds, _)| !holds) {
            Some((field, _, what)) => Err(CertificateError::Inconsistent {
                migration: self.migration,
                field,
                what,
            }),
            None => Ok(()),
        }
    }

    fn of_the_parties(&self) -> Vec<Rule> {
        let (source, target) = (&self.source, &self.target);
        vec![
            ("version", self.version > 0, "there is no version 0"),
            (
                "target.node",
                source.node != target.node,
                "source and target are one node",
            ),
            (
                "target.instance",
                source.instance != target.instance,
                "source and target are one copy",
            ),
            (
                "target.epoch",
                source.epoch.0.checked_add(1) == Some(target.epoch.0),
                "an activation raises the epoch by one",
            ),
            (
                "source.term",
                source.term.epoch == source.epoch,
                "the source's last term is of another epoch than its own",
            ),
            (
                "target.term",
                target.term.epoch == target.epoch,
                "the target's first term is of another epoch than its own",
            ),
            (
                "safety.delta_pass",
                self.safety.delta_pass,
                "a whole activation did not skip the delta pass",
            ),
            (
                "verdict",
                self.verdict == Self::VERDICT,
                "it is not the verdict of a whole activation",
            ),
        ]
    }

    fn of_the_records(&self) -> Vec<Rule> {
        let seqs = self.f.0.checked_sub(self.base.0);
        vec![
            ("base", seqs.is_some(), "B is after F"),
            (
                "missing",
                self.missing.is_empty(),
                "the target misses records",
            ),
            (
                "digest_base",
                self.digest_base.count <= self.base.0,
                "it counts more records than there are Seqs up to B",
            ),
            (
                "digest_source",
                Some(self.digest_source.count) <= seqs,
                "it counts more records than there are Seqs in (B, F]",
            ),
            (
                "digest_target",
                self.digest_source == self.digest_target,
                "it is not the source's digest of the same records",
            ),
            ("files", distinct(&self.files), "a file is named twice"),
            (
                "files",
                self.files.iter().all(FileInfo::name_is_plain),
                "a file's name is no plain one",
            ),
        ]
    }

    fn of_the_times(&self) -> Vec<Rule> {
        let took = |phase| self.phase_ms.get(&phase).copied();
        let pause = [
            Phase::StopDualWrite,
            Phase::Drain,
            Phase::DeltaPass,
            Phase::Activate,
        ];
        // A driver that saw a phase of the pause saw those before it.
        let seen: Vec<bool> = pause.iter().map(|phase| took(*phase).is_some()).collect();
        let in_order = seen[..3].is_sorted_by(|earlier, later| earlier >= later);
        let bound: Option<u64> = pause.iter().map(|phase| took(*phase)).sum();
        vec![
            (
                "attempts",
                self.attempts > Attempt(0),
                "it activated without an attempt",
            ),
            (
                "phase_ms",
                self.phase_ms.keys().all(|phase| *phase <= Phase::Activate),
                "it was written before the phases after Activate",
            ),
            (
                "phase_ms",
                took(Phase::Activate).is_some(),
                "activate is missing",
            ),
            (
                "phase_ms",
                in_order,
                "a phase of the pause is there without the one before it",
            ),
            (
                "pause_us",
                fits(self.pause_us, bound),
                "the pause is longer than the phases it lay in",
            ),
        ]
    }
}

/// Whether a pause, as the source's clock measured it, fits into its phases, as the driver's did: two clocks, one of
/// them in whole milliseconds, so a hundredth and some milliseconds don't count.
fn fits(pause_us: Option<u64>, phases_ms: Option<u64>) -> bool {
    let (Some(pause_us), Some(phases_ms)) = (pause_us, phases_ms) else {
        return true;
    };
    let room_ms = phases_ms.saturating_add(phases_ms / 100).saturating_add(5);
    pause_us <= room_ms.saturating_mul(1_000)
}

fn distinct(files: &[FileInfo]) -> bool {
    let names: std::collections::BTreeSet<_> = files.iter().map(|file| &file.name).collect();
    names.len() == files.len()
}

//! The certificate of an activation: what was moved, between whom, and what proves that it is all there.
//!
//! One JSON document, written once the target serves. [`Certificate::check`] says whether it is consistent in
//! itself; it can't say whether the nodes told the truth. Times in it are durations, never dates.

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
    /// Written by a newer Watershed.
    #[error(
        "the certificate is of version {found}, this program reads {CERTIFICATE_VERSION}: use a newer one"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It contradicts itself.
    #[error("the certificate of migration {migration} is inconsistent: {what}; don't rely on it")]
    Inconsistent {
        /// The migration.
        migration: MigrationId,
        /// What does not hold.
        what: &'static str,
    },
}

impl Certificate {
    /// The verdict of a whole activation.
    pub const VERDICT: &'static str = "complete: every write up to F is on the new owner";

    /// Whether it is consistent in itself.
    ///
    /// # Errors
    /// Names the first thing that does not hold.
    pub fn check(&self) -> Result<(), CertificateError> {
        if self.version > CERTIFICATE_VERSION {
            return Err(CertificateError::Newer {
                found: self.version,
            });
        }
        let seqs = self.f.0.checked_sub(self.base.0);
        let epoch_after = self.source.epoch.0.checked_add(1);
        let rules = [
            ("its version is 0", self.version > 0),
            (
                "source and target are one node",
                self.source.node != self.target.node,
            ),
            (
                "source and target are one copy",
                self.source.instance != self.target.instance,
            ),
            (
                "the epoch was not raised by one",
                epoch_after == Some(self.target.epoch.0),
            ),
            (
                "the source's term is not of its epoch",
                self.source.term.epoch == self.source.epoch,
            ),
            (
                "the target's term is not of its epoch",
                self.target.term.epoch == self.target.epoch,
            ),
            ("F is before B", seqs.is_some()),
            ("records are missing", self.missing.is_empty()),
            (
                "the digests differ",
                self.digest_source == self.digest_target,
            ),
            (
                "it counts more records than Seqs",
                Some(self.digest_source.count) <= seqs,
            ),
            (
                "it activated without an attempt",
                self.attempts > Attempt(0),
            ),
            (
                "its safety policy skipped the delta pass",
                self.safety.delta_pass,
            ),
            ("its verdict is another", self.verdict == Self::VERDICT),
            ("it names a file twice", distinct(&self.files)),
        ];
        match rules.into_iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(CertificateError::Inconsistent {
                migration: self.migration,
                what,
            }),
            None => Ok(()),
        }
    }
}

fn distinct(files: &[FileInfo]) -> bool {
    let names: std::collections::BTreeSet<_> = files.iter().map(|file| &file.name).collect();
    names.len() == files.len()
}

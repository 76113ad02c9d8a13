//! The words of the migration protocol: who, which, how often, when, and the phases.
//!
//! Owns their order, their bounds, their text and their serialised form. The words of the log (shard, Seq,
//! epoch, instance) are `watershed-wal`'s. Nothing here decides anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A moment as handed in by the caller: milliseconds on a clock that never goes back and counts while the
/// node is up. Two nodes' moments are not comparable.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Now(pub u64);

impl Now {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`, 0 where that is not earlier.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A node's name: 1 to 64 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The most bytes a name may have.
    pub const MAX_LEN: usize = 64;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is not a node's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found:?} is no node name: use 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidNodeId {
    /// What was given, cut to a readable length.
    pub found: String,
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(name: String) -> Result<Self, InvalidNodeId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.bytes().all(allowed) {
            return Err(InvalidNodeId {
                found: name.chars().take(Self::MAX_LEN).collect(),
            });
        }
        Ok(Self(name))
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(name: &str) -> Result<Self, InvalidNodeId> {
        Self::try_from(name.to_owned())
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

watershed_wal::hex_id! {
    /// The random id of one migration, never used twice. Text shows 32 hexadecimal digits.
    pub MigrationId, ParseMigrationIdError, "a migration id"
}

watershed_wal::hex_id! {
    /// The random id of a client's session in one shard, never used twice. Text shows 32 hexadecimal digits.
    pub SessionId, ParseSessionIdError, "a session id"
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next one, or `None` at the end of the numbers: what a damaged record may hold.
            #[must_use]
            pub const fn checked_next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(next) => Some(Self(next)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Which quiesce of a migration: 0 before the first, raised in the placement record before each.
    Attempt(u32)
}
counter! {
    /// Which driver of a migration: each one that takes over raises it in the placement record.
    DriverTerm(u64)
}
counter! {
    /// A placement record's version: each swap adds one.
    Revision(u64)
}

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Gate and prechecks; nothing copied yet.
    Plan,
    /// The target pulls the files of a checkpoint at Seq B.
    BulkCopy,
    /// The source forwards each durable write; delta rounds fill the holes.
    DualWrite,
    /// The source parks new writes and notes the quiesce; F is fixed.
    StopDualWrite,
    /// The source waits for durable = applied = F; it answers no read from here on.
    Drain,
    /// What the target misses of (B, F] is shipped; digests are compared.
    DeltaPass,
    /// The source swaps the ownership away; from here on only forward.
    Activate,
    /// The target serves; the frozen copy is compared, kept for the grace time, then deleted.
    Cleanup,
    /// Over: the target serves and the old copy is gone.
    Done,
    /// Over: the source serves on as if nothing had been.
    Aborted,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 10] = [
        Self::Plan,
        Self::BulkCopy,
        Self::DualWrite,
        Self::StopDualWrite,
        Self::Drain,
        Self::DeltaPass,
        Self::Activate,
        Self::Cleanup,
        Self::Done,
        Self::Aborted,
    ];

    /// Whether the migration is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// Whether it may still be aborted.
    #[must_use]
    pub const fn before_activate(self) -> bool {
        matches!(
            self,
            Self::Plan
                | Self::BulkCopy
                | Self::DualWrite
                | Self::StopDualWrite
                | Self::Drain
                | Self::DeltaPass
        )
    }

    /// Its name, as printed and parsed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::BulkCopy => "bulk-copy",
            Self::DualWrite => "dual-write",
            Self::StopDualWrite => "stop-dual-write",
            Self::Drain => "drain",
            Self::DeltaPass => "delta-pass",
            Self::Activate => "activate",
            Self::Cleanup => "cleanup",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no phase.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{found:?} is no phase: use plan, bulk-copy, dual-write, stop-dual-write, drain, delta-pass, activate, \
     cleanup, done or aborted"
)]
pub struct ParsePhaseError {
    /// What was given.
    pub found: String,
}

impl FromStr for Phase {
    type Err = ParsePhaseError;

    fn from_str(text: &str) -> Result<Self, ParsePhaseError> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.name() == text)
            .ok_or_else(|| ParsePhaseError {
                found: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_read_back_from_its_name() {
        for phase in Phase::ALL {
            assert_eq!(phase.to_string().parse(), Ok(phase));
            let json = serde_json::to_string(&phase).unwrap();
            assert_eq!(json, format!("\"{phase}\""));
        }
        assert!("Plan".parse::<Phase>().is_err());
    }

    #[test]
    fn only_the_final_phases_are_final_and_only_the_early_may_abort() {
        for phase in Phase::ALL {
            assert_eq!(phase.before_activate(), phase < Phase::Activate);
            assert_eq!(phase.is_final(), phase >= Phase::Done);
        }
    }

    #[test]
    fn node_names_are_bounded_also_when_read_from_bytes() {
        assert_eq!("a.b-C_9".parse::<NodeId>().unwrap().as_str(), "a.b-C_9");
        let too_long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "ü", too_long.as_str()] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<NodeId>(&json).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_migration_id_has_one_text() {
        let id = MigrationId(0xab);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        assert!(
            id.to_string()
                .to_uppercase()
                .parse::<MigrationId>()
                .is_err()
        );
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<MigrationId>(&json).unwrap(), id);
    }

    #[test]
    fn counters_end_instead_of_wrapping() {
        assert_eq!(Attempt(1).checked_next(), Some(Attempt(2)));
        assert_eq!(Attempt(u32::MAX).checked_next(), None);
        assert_eq!(Revision(u64::MAX).checked_next(), None);
    }
}

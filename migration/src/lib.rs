//! The migration protocol of Watershed as pure state machines.
#![forbid(unsafe_code)]

pub mod anti_entropy;
mod certificate;
pub mod compare;
mod config;
pub mod delta;
mod evidence;
mod gate;
pub mod machine;
pub mod messages;
mod placement;
pub mod rendezvous;
pub mod source;
pub mod target;
pub mod transitions;
mod words;

pub use certificate::{CERTIFICATE_VERSION, Certificate, CertificateError, Party};
pub use config::{MigrationConfig, OutOfBounds, SafetyPolicy};
pub use evidence::{Evidence, EvidenceError, SourceMarks, TargetMarks};
pub use gate::{MigrationCoordinator, Refusal, SafeConfig};
pub use placement::{
    BrokenRule, Frozen, HighestSeen, MigrationRecord, PlacementRecord, Proof, WentBack,
};
pub use transitions::{Claim, PhaseChange, PlacementError};
pub use words::{
    Attempt, DriverTerm, InvalidNodeId, MigrationId, NodeId, Now, ParseMigrationIdError,
    ParsePhaseError, Phase, Revision,
};

//! The migration protocol of Watershed as pure state machines: how a shard moves from one node to another while
//! it is written, without losing an acknowledged write.
//!
//! Events in, actions out, and the time is handed in: nothing here does I/O, reads a clock, draws a random number
//! or starts a thread. Whoever embeds it carries the actions out and feeds the results back.
//!
//! - [`MigrationCoordinator`] and [`anti_entropy`]: the safety gate, which makes the [`SafeConfig`] that starting
//!   and resuming take.
//! - [`machine`]: the driver. [`source`] and [`target`]: the guards on both nodes.
//! - [`PlacementRecord`] and [`transitions`]: who owns the shard, and how that may change. [`Evidence`]: the
//!   proof that an activation takes. [`Certificate`]: what is left of it.
//! - [`messages`]: what crosses the link. [`delta`], [`compare`], [`rendezvous`]: plans and comparisons.
#![forbid(unsafe_code)]

pub mod anti_entropy;
pub mod balance;
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
mod wishes;
mod words;

pub use certificate::{CERTIFICATE_VERSION, Certificate, CertificateError, Party};
pub use config::{MigrationConfig, OutOfBounds, SafetyPolicy};
pub use evidence::{Evidence, EvidenceError, SourceMarks, TargetMarks};
pub use gate::{MigrationCoordinator, Refusal, SafeConfig};
pub use placement::{
    BrokenRule, Frozen, HighestSeen, MigrationRecord, PlacementRecord, Proof, WentBack,
};
pub use transitions::{Claim, PhaseChange, PlacementError};
pub use wishes::{Asked, Limits};
pub use words::{
    Attempt, DriverTerm, InvalidNodeId, MigrationId, NodeId, Now, ParseMigrationIdError,
    ParsePhaseError, ParseSessionIdError, Phase, Revision, SessionId,
};

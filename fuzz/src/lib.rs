//! What the fuzz targets run, as plain functions: so that the corpus tests run them without a fuzzer.
//!
//! A target is a module with `run(data)`, which panics on a finding. Each has a model or a law to hold the code
//! against, not only "does not panic". `fuzz_targets/` wraps them for libFuzzer; `tests/corpus.rs` runs every
//! committed input through them, and `tests/seeds` makes the first ones.
//!
//! `make fuzz` runs them all, `make fuzz FUZZ_TARGET=log_ops FUZZ_SECONDS=600` one of them for longer. A finding is an
//! input under `target/fuzz-findings`; with a name that says what it showed it moves to the target's corpus and stays.
//!
//! **Invariant:** knows `watershed-wal` and `watershed-migration` only, so that no fuzz build compiles RocksDB.
#![forbid(unsafe_code)]

pub mod decode_batch;
pub mod decode_message;
pub mod decode_record;
pub mod decode_segment;
mod input;
pub mod log_ops;
pub mod migration_events;
pub mod migration_world;

// The simulation of the migration crate's tests, with the fuzzer's choices in place of a seed's.
#[path = "../../migration/tests/properties/mod.rs"]
mod properties;
#[path = "../../migration/tests/world/mod.rs"]
mod world;

pub use log_ops::faults as log_faults;

/// A target: takes an input, panics on a finding.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 8] = [
    ("decode_batch", decode_batch::run),
    ("decode_message", decode_message::run),
    ("decode_record", decode_record::run),
    ("decode_segment", decode_segment::run),
    ("log_faults", log_faults::run),
    ("log_ops", log_ops::run),
    ("migration_events", migration_events::run),
    ("migration_world", migration_world::run),
];

//! What the fuzz targets run, as plain functions: so that the corpus tests run them without a fuzzer.
//!
//! A target is a module with `run(data)`, which panics on a finding. Each has a model or a law to hold the code
//! against, not only "does not panic". `fuzz_targets/` wraps them for libFuzzer; `tests/corpus.rs` runs every
//! committed input through them, and holds the generator of the first ones.
//!
//! With `cargo install cargo-fuzz`, from the workspace's root; what the fuzzer adds goes to the first folder:
//!
//! ```text
//! mkdir -p target/fuzz-corpus/log_ops
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --features libfuzzer -s none --target-dir target/fuzz log_ops \
//!     target/fuzz-corpus/log_ops fuzz/corpus/log_ops -- -max_total_time=120 -timeout=20 -max_len=600
//! ```
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

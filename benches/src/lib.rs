//! Benchmarks of Watershed: what `make compare` runs, and how its results are shaped.
//!
//! What it computes and prints is built and tested always; the peers themselves only with the feature `peers`.
#![forbid(unsafe_code)]

#[cfg(feature = "peers")]
pub mod compare;
pub mod plot;
pub mod report;
pub mod stats;

//! Benchmarks of Watershed. The criterion benches are in `benches/`, the input documents in `data/`.
#![forbid(unsafe_code)]

//! The log against a plain model, through crashes and failing I/O.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::log_ops::run(data));

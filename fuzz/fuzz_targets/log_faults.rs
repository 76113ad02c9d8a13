//! The log under dense faults, also while it opens and closes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::log_faults::run(data));

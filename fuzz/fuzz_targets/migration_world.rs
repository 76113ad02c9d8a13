//! The migration crate's simulation, with the fuzzer's choices in place of a seed's.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::migration_world::run(data));

//! A migration's roles, given what they must take in any order, early, late, twice or stale.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::migration_events::run(data));

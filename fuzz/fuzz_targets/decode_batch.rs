//! Bytes as the body of a batch record.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::decode_batch::run(data));

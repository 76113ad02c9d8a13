//! Bytes as a message of records, and as a start record's body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::decode_record::run(data));

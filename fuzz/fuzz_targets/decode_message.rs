//! Bytes as requests, responses, certificates and placement records.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::decode_message::run(data));

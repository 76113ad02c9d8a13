//! Bytes as segment files, and edits of good ones.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| watershed_fuzz::decode_segment::run(data));

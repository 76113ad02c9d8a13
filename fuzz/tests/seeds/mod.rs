//! Makes the first inputs of each target, so that a fuzzer need not find them.

mod log;
mod migration;

pub(crate) fn generate() -> [(&'static str, Vec<Vec<u8>>); 8] {
    [
        ("decode_batch", log::batches()),
        ("decode_message", migration::messages()),
        ("decode_record", log::messages()),
        ("decode_segment", log::segments()),
        ("log_faults", log::faults()),
        ("log_ops", log::operations()),
        ("migration_events", migration::events()),
        ("migration_world", migration::worlds()),
    ]
}

/// SplitMix64: noise that is the same everywhere.
pub(crate) struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[7]).collect()
    }
}

//! What is written: keys that never repeat, values that do not compress.

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// Bytes of a value, unless the workload says otherwise.
pub(crate) const VALUE_BYTES: usize = 100;

/// Values are cut out of as many random bytes.
const POOL_BYTES: usize = 1 << 20;

pub(crate) type Key = [u8; KEY_BYTES];

/// One side's writes. All sides' have the same lengths, and keys in the same random order.
#[derive(Debug)]
pub(crate) struct Writes {
    pool: Vec<u8>,
    value_bytes: usize,
}

impl Writes {
    pub(crate) fn new(value_bytes: usize) -> Self {
        let words = (0..POOL_BYTES as u64 / 8).map(mix);
        Self {
            pool: words.flat_map(u64::to_ne_bytes).collect(),
            value_bytes,
        }
    }

    /// Key and value of the `number`th write.
    pub(crate) fn nth(&self, number: u64) -> (Key, &[u8]) {
        let mut key = [0; KEY_BYTES];
        let (random, plain) = key.split_at_mut(8);
        random.copy_from_slice(&mix(number).to_be_bytes());
        plain.copy_from_slice(&number.to_be_bytes());
        let places = POOL_BYTES - self.value_bytes;
        // Below the pool's length.
        let at = (number.wrapping_mul(4099) % places as u64) as usize;
        (key, &self.pool[at..at + self.value_bytes])
    }
}

/// The numbers of one caller's writes in one slice: no two callers or slices share one.
pub(crate) fn numbers(slice: u64, caller: u64) -> impl Iterator<Item = u64> {
    let first = (slice << 44) | (caller << 32);
    first..
}

/// SplitMix64's finisher: a bijection that looks random.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! What is written: keys in a random order, values that do not compress.

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
    /// How many keys there are; as many as writes where this is none.
    keys: Option<u64>,
}

impl Writes {
    /// Keys that never repeat.
    pub(crate) fn new(value_bytes: usize) -> Self {
        let words = (0..POOL_BYTES as u64 / 8).map(mix);
        Self {
            pool: words.flat_map(u64::to_ne_bytes).collect(),
            value_bytes,
            keys: None,
        }
    }

    /// Keys drawn from so many, each as often as any other: what is stored stays bounded however long writes go on.
    pub(crate) fn of_keys(value_bytes: usize, keys: u64) -> Self {
        Self {
            keys: Some(keys),
            ..Self::new(value_bytes)
        }
    }

    /// Key and value of the `number`th write.
    pub(crate) fn nth(&self, number: u64) -> (Key, &[u8]) {
        let of_key = match self.keys {
            Some(keys) => mix(number) % keys,
            None => number,
        };
        let mut key = [0; KEY_BYTES];
        let (random, plain) = key.split_at_mut(8);
        random.copy_from_slice(&mix(of_key).to_be_bytes());
        plain.copy_from_slice(&of_key.to_be_bytes());
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn keys(writes: &Writes, count: usize) -> HashSet<Key> {
        let callers = (0..4).flat_map(|caller| numbers(1, caller).take(count / 4));
        callers.map(|number| writes.nth(number).0).collect()
    }

    #[test]
    fn keys_repeat_only_where_there_are_fewer_of_them() {
        assert_eq!(keys(&Writes::new(100), 4000).len(), 4000);
        let few = Writes::of_keys(100, 50);
        assert_eq!(keys(&few, 4000).len(), 50);
        assert_eq!(few.nth(7), few.nth(7));
        assert_eq!(few.nth(7).1.len(), 100);
    }
}

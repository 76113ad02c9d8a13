//! Seeded choices, the same on every run (splitmix64; Steele, Lea and Flood, 2014).

/// A sequence of choices.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An element taken out of `from`, or `None` where it is empty. Changes the order of what stays.
    pub(super) fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        let count = u64::try_from(from.len()).unwrap_or(u64::MAX);
        let index = self.next().checked_rem(count)?;
        Some(from.swap_remove(usize::try_from(index).unwrap_or(0)))
    }
}

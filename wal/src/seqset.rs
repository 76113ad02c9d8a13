//! Ranges and sets of Seqs: which records a node has, and which it misses.
//!
//! A [`SeqSet`] is kept as sorted, disjoint, non-adjacent intervals, so its size is that of its holes, not of
//! its records, and two sets of the same Seqs are equal whatever order they came in. It knows nothing of
//! lineage: counting only the records of the right instance and terms is the caller's work.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::words::Seq;

/// The Seqs from `first` to `last`, both in it; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Seq, Seq)", into = "(Seq, Seq)")]
pub struct SeqRange {
    first: Seq,
    last: Seq,
}

impl SeqRange {
    /// `first..=last`, or `None` where that is empty.
    #[must_use]
    pub fn new(first: Seq, last: Seq) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// `(base, last]`: what comes after `base` up to `last`, or `None` where that is empty.
    #[must_use]
    pub fn after(base: Seq, last: Seq) -> Option<Self> {
        (base < last).then(|| Self {
            first: base.next(),
            last,
        })
    }

    /// The one Seq.
    #[must_use]
    pub const fn single(seq: Seq) -> Self {
        Self {
            first: seq,
            last: seq,
        }
    }

    /// The least Seq in it.
    #[must_use]
    pub const fn first(self) -> Seq {
        self.first
    }

    /// The greatest Seq in it.
    #[must_use]
    pub const fn last(self) -> Seq {
        self.last
    }

    /// How many Seqs (at least 1).
    #[allow(clippy::len_without_is_empty)] // never empty
    #[must_use]
    pub const fn len(self) -> u64 {
        (self.last.0 - self.first.0).saturating_add(1)
    }

    /// Whether `seq` is in it.
    #[must_use]
    pub fn contains(self, seq: Seq) -> bool {
        self.first <= seq && seq <= self.last
    }

    /// What is in both, or `None`.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// The Seqs in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Seq> {
        (self.first.0..=self.last.0).map(Seq)
    }
}

impl fmt::Display for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

impl From<SeqRange> for (Seq, Seq) {
    fn from(range: SeqRange) -> Self {
        (range.first, range.last)
    }
}

/// Two Seqs that are no range: the first is after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{first}..={last} is no range of Seqs: the message or file is damaged, or not Watershed's")]
pub struct EmptyRange {
    first: Seq,
    last: Seq,
}

impl TryFrom<(Seq, Seq)> for SeqRange {
    type Error = EmptyRange;

    fn try_from((first, last): (Seq, Seq)) -> Result<Self, EmptyRange> {
        Self::new(first, last).ok_or(EmptyRange { first, last })
    }
}

/// A set of Seqs, as sorted disjoint intervals.
///
/// Rules, kept after every call: (1) each interval is non-empty; (2) between two neighbours at least one Seq is
/// missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqSet {
    /// First of an interval -> its last.
    intervals: BTreeMap<Seq, Seq>,
}

impl SeqSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            intervals: BTreeMap::new(),
        }
    }

    /// Adds one Seq; whether it is new.
    pub fn insert(&mut self, seq: Seq) -> bool {
        // Nearly every insert is the one after the greatest.
        if let Some(mut greatest) = self.intervals.last_entry()
            && *greatest.get() < seq
            && greatest.get().next() == seq
        {
            greatest.insert(seq);
            return true;
        }
        if self.contains(seq) {
            return false;
        }
        self.insert_range(SeqRange::single(seq));
        true
    }

    /// Adds every Seq of `range`.
    pub fn insert_range(&mut self, range: SeqRange) {
        let (mut first, mut last) = (range.first, range.last);
        // Swallow, from the right, each interval that overlaps or touches the new one.
        while let Some((&start, &end)) = self.intervals.range(..=after_or_max(last)).next_back() {
            if after_or_max(end) < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.intervals.remove(&start);
        }
        self.intervals.insert(first, last);
    }

    /// Adds every Seq of `other`.
    pub fn union(&mut self, other: &Self) {
        other.intervals().for_each(|range| self.insert_range(range));
    }

    /// Removes every Seq at or below `seq`.
    pub fn remove_through(&mut self, seq: Seq) {
        while let Some(least) = self.intervals.first_entry() {
            if *least.key() > seq {
                return;
            }
            let end = least.remove();
            if end > seq {
                self.intervals.insert(seq.next(), end);
                return;
            }
        }
    }

    /// Removes every Seq above `seq`.
    pub fn remove_after(&mut self, seq: Seq) {
        while let Some(mut greatest) = self.intervals.last_entry() {
            if *greatest.get() <= seq {
                return;
            }
            if *greatest.key() <= seq {
                greatest.insert(seq);
                return;
            }
            greatest.remove();
        }
    }

    /// Whether `seq` is in it.
    #[must_use]
    pub fn contains(&self, seq: Seq) -> bool {
        self.at_or_before(seq)
            .is_some_and(|range| range.last >= seq)
    }

    /// The largest `n >= base` such that all of `(base, n]` is in it.
    #[must_use]
    pub fn contiguous_after(&self, base: Seq) -> Seq {
        match self.at_or_before(after_or_max(base)) {
            Some(range) if range.last > base => range.last,
            _ => base,
        }
    }

    /// What of `within` is not in it, in order.
    #[must_use]
    pub fn missing(&self, within: SeqRange) -> Vec<SeqRange> {
        self.missing_iter(within).collect()
    }

    /// As [`SeqSet::missing`], one range at a time: for a caller with a bound.
    pub fn missing_iter(&self, within: SeqRange) -> impl Iterator<Item = SeqRange> {
        let start = self
            .at_or_before(within.first)
            .map_or(within.first, |range| range.first);
        let mut have = self.intervals.range(start..=within.last);
        let mut from = Some(within.first);
        std::iter::from_fn(move || {
            loop {
                let first = from?;
                let Some((&start, &end)) = have.next() else {
                    from = None;
                    return SeqRange::new(first, within.last);
                };
                // `from` is where the next hole may begin; None past the end of what was asked.
                from = (end < within.last).then(|| end.next().max(first));
                if first < start {
                    return SeqRange::new(first, Seq(start.0 - 1));
                }
            }
        })
    }

    /// The intervals, in order.
    pub fn intervals(&self) -> impl DoubleEndedIterator<Item = SeqRange> + ExactSizeIterator {
        self.intervals
            .iter()
            .map(|(&first, &last)| SeqRange { first, last })
    }

    /// How many Seqs.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.intervals()
            .fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The least Seq in it.
    #[must_use]
    pub fn min(&self) -> Option<Seq> {
        self.intervals.first_key_value().map(|(&first, _)| first)
    }

    /// The greatest Seq in it.
    #[must_use]
    pub fn max(&self) -> Option<Seq> {
        self.intervals.last_key_value().map(|(_, &last)| last)
    }

    /// The last interval that starts at or before `seq`.
    fn at_or_before(&self, seq: Seq) -> Option<SeqRange> {
        self.intervals
            .range(..=seq)
            .next_back()
            .map(|(&first, &last)| SeqRange { first, last })
    }
}

/// The next Seq, for "touches" comparisons only: at the very end there is nothing left to touch.
fn after_or_max(seq: Seq) -> Seq {
    Seq(seq.0.saturating_add(1))
}

impl fmt::Display for SeqSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, range) in self.intervals().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

impl Extend<SeqRange> for SeqSet {
    fn extend<I: IntoIterator<Item = SeqRange>>(&mut self, ranges: I) {
        ranges
            .into_iter()
            .for_each(|range| self.insert_range(range));
    }
}

impl FromIterator<SeqRange> for SeqSet {
    fn from_iter<I: IntoIterator<Item = SeqRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl Serialize for SeqSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.intervals())
    }
}

impl<'de> Deserialize<'de> for SeqSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Normalised on the way in, so overlapping or unordered intervals from a peer break no rule.
        Ok(Vec::<SeqRange>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

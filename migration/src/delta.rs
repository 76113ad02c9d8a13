//! The delta plan: which records the target misses, and how they are cut into rounds.

use watershed_wal::{Seq, SeqRange, SeqSet};

/// What is missing of (base, f], in order: `(base, f] - has`.
#[must_use]
pub fn plan(base: Seq, f: Seq, has: &SeqSet) -> Vec<SeqRange> {
    SeqRange::after(base, f).map_or_else(Vec::new, |within| has.missing(within))
}

/// How many records the ranges name, saturating.
#[must_use]
pub fn records(ranges: &[SeqRange]) -> u64 {
    ranges
        .iter()
        .fold(0, |sum: u64, range| sum.saturating_add(range.len()))
}

/// The bounds of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundBounds {
    /// The most records, at least 1.
    pub records: u64,
    /// The most ranges, at least 1.
    pub ranges: usize,
}

/// The first round of a plan: its head, cut where a bound is reached. Empty only for an empty plan.
#[must_use]
pub fn round(plan: &[SeqRange], bounds: RoundBounds) -> Vec<SeqRange> {
    let mut room = bounds.records.max(1);
    let mut out = Vec::new();
    for range in plan.iter().take(bounds.ranges.max(1)) {
        if room == 0 {
            break;
        }
        let take = range.len().min(room);
        let last = Seq(range.first().0 + (take - 1));
        out.extend(SeqRange::new(range.first(), last));
        room -= take;
    }
    out
}

/// Cuts a plan into rounds, each within the bounds, together exactly the plan.
#[must_use]
pub fn rounds(plan: &[SeqRange], bounds: RoundBounds) -> Vec<Vec<SeqRange>> {
    let mut rest = plan.to_vec();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let head = round(&rest, bounds);
        let Some(&end) = head.last() else { break };
        rest.retain_mut(|range| match SeqRange::after(end.last(), range.last()) {
            Some(tail) => {
                *range =
                    SeqRange::new(range.first().max(tail.first()), range.last()).unwrap_or(tail);
                true
            }
            None => false,
        });
        out.push(head);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn seqs(ranges: &[SeqRange]) -> Vec<u64> {
        ranges
            .iter()
            .flat_map(|r| r.first().0..=r.last().0)
            .collect()
    }

    proptest! {
        #[test]
        fn the_plan_is_the_naive_difference(base in 0u64..60, f in 0u64..80, has in prop::collection::btree_set(1u64..80, 0..60)) {
            let set: SeqSet = has.iter().map(|&s| SeqRange::single(Seq(s))).collect();
            let naive: Vec<u64> = (base + 1..=f).filter(|s| !has.contains(s)).collect();
            prop_assert_eq!(seqs(&plan(Seq(base), Seq(f), &set)), naive);
        }

        #[test]
        fn rounds_are_the_plan_within_their_bounds(has in prop::collection::btree_set(1u64..80, 0..60), records_max in 1u64..20, ranges_max in 1usize..5) {
            let set: SeqSet = has.iter().map(|&s| SeqRange::single(Seq(s))).collect();
            let plan = plan(Seq(0), Seq(80), &set);
            let bounds = RoundBounds { records: records_max, ranges: ranges_max };
            let cut = rounds(&plan, bounds);
            for one in &cut {
                prop_assert!(!one.is_empty() && one.len() <= ranges_max && records(one) <= records_max);
            }
            prop_assert_eq!(seqs(&cut.concat()), seqs(&plan));
            let all: BTreeSet<u64> = seqs(&plan).into_iter().chain(has).collect();
            prop_assert_eq!(all.len(), 80);
        }
    }
}

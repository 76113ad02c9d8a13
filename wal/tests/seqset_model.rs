//! `SeqSet` and `SeqRange` against a plain set of numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;
use watershed_wal::{Seq, SeqRange, SeqSet};

/// Small enough that ranges overlap, touch and swallow each other all the time.
const SPACE: u64 = 64;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64),
    InsertRange(u64, u64),
    RemoveThrough(u64),
    RemoveAfter(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..SPACE).prop_map(Step::Insert),
        3 => (0..SPACE, 0..8u64).prop_map(|(first, more)| Step::InsertRange(first, first + more)),
        1 => (0..SPACE).prop_map(Step::RemoveThrough),
        1 => (0..SPACE).prop_map(Step::RemoveAfter),
    ]
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).expect("first <= last")
}

/// The maximal runs of consecutive numbers.
fn runs(numbers: impl IntoIterator<Item = u64>) -> Vec<SeqRange> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    runs.into_iter().map(|(a, b)| range(a, b)).collect()
}

fn check(set: &SeqSet, model: &BTreeSet<u64>) {
    let intervals: Vec<_> = set.intervals().collect();
    assert_eq!(intervals, runs(model.iter().copied()));
    assert_eq!(set.len(), model.len() as u64);
    assert_eq!(set.is_empty(), model.is_empty());
    assert_eq!(set.min(), model.first().copied().map(Seq));
    assert_eq!(set.max(), model.last().copied().map(Seq));
    for n in 0..SPACE + 10 {
        assert_eq!(set.contains(Seq(n)), model.contains(&n), "contains {n}");
        let contiguous = (n + 1..).take_while(|m| model.contains(m)).last();
        assert_eq!(set.contiguous_after(Seq(n)), Seq(contiguous.unwrap_or(n)));
    }
}

proptest! {
    #[test]
    fn seqset_does_as_a_set_of_numbers(
        steps in prop::collection::vec(step(), 0..60),
        windows in prop::collection::vec((0..SPACE, 0..SPACE), 8),
    ) {
        let mut set = SeqSet::new();
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Insert(n) => prop_assert_eq!(set.insert(Seq(n)), model.insert(n)),
                Step::InsertRange(a, b) => {
                    set.insert_range(range(a, b));
                    model.extend(a..=b);
                }
                Step::RemoveThrough(n) => {
                    set.remove_through(Seq(n));
                    model.retain(|m| *m > n);
                }
                Step::RemoveAfter(n) => {
                    set.remove_after(Seq(n));
                    model.retain(|m| *m <= n);
                }
            }
            check(&set, &model);
        }
        for (first, more) in windows {
            let window = range(first, first + more);
            let missing = runs((first..=first + more).filter(|n| !model.contains(n)));
            prop_assert_eq!(set.missing(window), missing);
        }
    }

    #[test]
    fn seqset_survives_its_serialised_form(ranges in prop::collection::vec((0..SPACE, 0..8u64), 0..20)) {
        let set: SeqSet = ranges.iter().map(|&(first, more)| range(first, first + more)).collect();
        let json = serde_json::to_string(&set).unwrap();
        prop_assert_eq!(&serde_json::from_str::<SeqSet>(&json).unwrap(), &set);
        let bytes = postcard::to_stdvec(&set).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<SeqSet>(&bytes).unwrap(), &set);
    }

    #[test]
    fn seqset_is_one_whatever_the_order(
        mut numbers in prop::collection::vec(0..SPACE, 0..40), seed in any::<u64>(),
    ) {
        let forward: SeqSet = numbers.iter().map(|&n| range(n, n)).collect();
        let len = numbers.len().max(1);
        numbers.rotate_left(usize::try_from(seed % len as u64).unwrap());
        numbers.reverse();
        let mut other = SeqSet::new();
        for n in numbers {
            other.insert(Seq(n));
        }
        prop_assert_eq!(forward, other);
    }

    #[test]
    fn seqset_union_has_what_either_has(
        a in prop::collection::btree_set(0..SPACE, 0..40),
        b in prop::collection::btree_set(0..SPACE, 0..40),
    ) {
        let of = |numbers: &BTreeSet<u64>| runs(numbers.iter().copied()).into_iter().collect::<SeqSet>();
        let mut set = of(&a);
        set.union(&of(&b));
        check(&set, &a.union(&b).copied().collect());
    }
}

#[test]
fn seqset_at_the_end_of_the_numbers() {
    let last = Seq(u64::MAX);
    let mut set = SeqSet::new();
    assert!(set.insert(last));
    assert!(!set.insert(last));
    assert!(set.insert(Seq(u64::MAX - 1)));
    assert_eq!(
        set.intervals().collect::<Vec<_>>(),
        [range(u64::MAX - 1, u64::MAX)]
    );
    assert_eq!(set.contiguous_after(Seq(u64::MAX - 2)), last);
    assert_eq!(set.contiguous_after(last), last);
    assert_eq!(set.missing(range(u64::MAX, u64::MAX)), []);
    set.insert_range(range(0, u64::MAX));
    assert_eq!(set.len(), u64::MAX, "saturates: no shard has that many");
    set.remove_through(last);
    assert!(set.is_empty());
}

#[test]
fn seqset_ranges_are_never_empty() {
    assert_eq!(SeqRange::new(Seq(5), Seq(4)), None);
    assert_eq!(SeqRange::after(Seq(4), Seq(4)), None);
    assert_eq!(SeqRange::after(Seq(5), Seq(4)), None);
    let five = SeqRange::after(Seq(4), Seq(5)).unwrap();
    assert_eq!((five.first(), five.last(), five.len()), (Seq(5), Seq(5), 1));
    assert_eq!(range(5, 9).to_string(), "5..=9");
    assert_eq!(range(5, 9).intersect(range(7, 20)), Some(range(7, 9)));
    assert_eq!(range(5, 9).intersect(range(10, 20)), None);
    assert!(serde_json::from_str::<SeqRange>("[9,5]").is_err());
}

#[test]
fn seqset_numbers_that_would_overflow_are_refused() {
    let max = u64::MAX.to_string();
    assert!(serde_json::from_str::<Seq>(&max).is_err());
    assert!(serde_json::from_str::<watershed_wal::Epoch>(&max).is_err());
    assert!(serde_json::from_str::<SeqRange>(&format!("[1,{max}]")).is_err());
    assert!(serde_json::from_str::<SeqSet>(&format!("[[1,{max}]]")).is_err());
}

//! Cleanup's comparison: what is a difference, what is passed over, and pages that no honest peer sends.

use bytes::Bytes;
use proptest::prelude::*;
use watershed_migration::compare::{Comparison, DifferenceKind, Side};
use watershed_migration::messages::{EntryVersion, PageEntry};
use watershed_wal::{Epoch, Seq, Term};

const F: Seq = Seq(100);

fn version(epoch: u64, seq: u64) -> EntryVersion {
    EntryVersion {
        term: Term::new(Epoch(epoch), 1),
        seq: Seq(seq),
    }
}

/// An entry of key `k`, written by write `seq`, with the hash of honest bytes.
fn entry(key: &str, seq: u64) -> PageEntry {
    PageEntry {
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: version(if seq > F.0 { 2 } else { 1 }, seq),
        tombstone: false,
        hash: u128::from(seq),
    }
}

fn tombstone(key: &str, seq: u64) -> PageEntry {
    PageEntry {
        tombstone: true,
        ..entry(key, seq)
    }
}

/// Feeds both sides in pages of so many entries, as asked for.
fn compare(source: &[PageEntry], target: &[PageEntry], size: usize) -> Comparison {
    let mut comparison = Comparison::new(F);
    while let Some((side, after)) = comparison.wants() {
        let all = match side {
            Side::Source => source,
            Side::Target => target,
        };
        let rest: Vec<_> = all
            .iter()
            .filter(|e| after.as_ref().is_none_or(|a| e.key > *a))
            .cloned()
            .collect();
        let done = rest.len() <= size;
        let page = rest.into_iter().take(size).collect();
        comparison.page(side, page, done).unwrap();
    }
    comparison
}

fn kinds(source: &[PageEntry], target: &[PageEntry]) -> Vec<(String, DifferenceKind)> {
    let comparison = compare(source, target, 2);
    let found: Vec<_> = comparison
        .differences()
        .iter()
        .map(|d| (String::from_utf8(d.key.to_vec()).unwrap(), d.kind))
        .collect();
    assert_eq!(comparison.found(), found.len() as u64);
    found
}

/// Both sides hold neighbours that are equal: the difference must not hide, nor spread.
fn only(source: Option<PageEntry>, target: Option<PageEntry>) -> Option<DifferenceKind> {
    let around = |one: Option<PageEntry>| {
        let mut all = vec![entry("a", 1), entry("z", 2)];
        all.splice(1..1, one);
        all
    };
    let found = kinds(&around(source), &around(target));
    assert!(
        found.len() <= 1 && found.iter().all(|(key, _)| key == "k"),
        "{found:?}"
    );
    found.first().map(|(_, kind)| *kind)
}

#[test]
fn equal_copies_have_no_difference_in_pages_of_any_size() {
    let all: Vec<_> = (1..30).map(|n| entry(&format!("{n:03}"), n)).collect();
    for size in [1, 2, 7, 29, 30, 100] {
        let comparison = compare(&all, &all, size);
        assert_eq!(
            (comparison.found(), comparison.compared()),
            (0, 29),
            "{size}"
        );
    }
    assert_eq!(compare(&[], &[], 1).found(), 0);
}

#[test]
fn the_same_version_with_other_bytes_is_a_difference() {
    let mut other = entry("k", 50);
    other.hash += 1;
    let version = version(1, 50);
    assert_eq!(
        only(Some(entry("k", 50)), Some(other)),
        Some(DifferenceKind::Bytes { version })
    );
    // So is a value that one side calls deleted, even where the hashes were to agree.
    let deleted = only(Some(entry("k", 50)), Some(tombstone("k", 50)));
    assert_eq!(deleted, Some(DifferenceKind::Bytes { version }));
}

#[test]
fn a_target_that_is_older_is_a_difference_by_seq_and_by_term() {
    let older = |source, target| Some(DifferenceKind::Older { source, target });
    let found = only(Some(entry("k", 50)), Some(entry("k", 49)));
    assert_eq!(found, older(version(1, 50), version(1, 49)));
    let mut earlier_term = entry("k", 60);
    earlier_term.version.term = Term::new(Epoch(0), 9);
    let found = only(Some(entry("k", 50)), Some(earlier_term.clone()));
    assert_eq!(found, older(version(1, 50), earlier_term.version));
    // A delete that did not arrive resurrects the value: older, too.
    let found = only(Some(tombstone("k", 50)), Some(entry("k", 49)));
    assert_eq!(found, older(version(1, 50), version(1, 49)));
}

#[test]
fn a_target_that_is_newer_at_or_below_f_is_a_difference() {
    let other = |source, target| Some(DifferenceKind::Other { source, target });
    let found = only(Some(entry("k", 50)), Some(entry("k", 51)));
    assert_eq!(found, other(version(1, 50), version(1, 51)));
    let found = only(Some(entry("k", 50)), Some(entry("k", F.0)));
    assert_eq!(found, other(version(1, 50), version(1, F.0)));
    let found = only(Some(entry("k", 50)), Some(tombstone("k", 51)));
    assert_eq!(found, other(version(1, 50), version(1, 51)));
}

#[test]
fn what_the_target_wrote_after_f_is_passed_over() {
    for newer in [entry("k", 101), tombstone("k", 101)] {
        assert_eq!(
            only(Some(entry("k", 50)), Some(newer.clone())),
            None,
            "updated"
        );
        assert_eq!(
            only(Some(tombstone("k", 50)), Some(newer.clone())),
            None,
            "put again"
        );
        assert_eq!(only(None, Some(newer)), None, "inserted");
    }
}

#[test]
fn a_key_on_one_side_only_is_a_difference_unless_it_is_a_tombstone() {
    let source = version(1, 50);
    assert_eq!(
        only(Some(entry("k", 50)), None),
        Some(DifferenceKind::Lost { source })
    );
    assert_eq!(
        only(None, Some(entry("k", 50))),
        Some(DifferenceKind::Extra { target: source })
    );
    let at_f = only(None, Some(entry("k", F.0)));
    assert_eq!(
        at_f,
        Some(DifferenceKind::Extra {
            target: version(1, F.0)
        })
    );
    // One side may have purged it: absent is what it says.
    assert_eq!(only(Some(tombstone("k", 50)), None), None);
    assert_eq!(only(None, Some(tombstone("k", 50))), None);
}

#[test]
fn keys_at_either_end_are_not_forgotten() {
    let (a, b) = (entry("a", 1), entry("b", 2));
    let lost = DifferenceKind::Lost {
        source: version(1, 2),
    };
    let extra = DifferenceKind::Extra {
        target: version(1, 1),
    };
    assert_eq!(
        kinds(&[a.clone(), b.clone()], std::slice::from_ref(&a)),
        [("b".into(), lost)]
    );
    assert_eq!(
        kinds(std::slice::from_ref(&b), &[a, b.clone()]),
        [("a".into(), extra)]
    );
    assert_eq!(kinds(&[b], &[]), [("b".into(), lost)]);
}

#[test]
fn all_differences_are_counted_and_the_first_are_kept() {
    let all: Vec<_> = (1..=99).map(|n| entry(&format!("{n:03}"), n)).collect();
    let more: Vec<_> = (1..=60).map(|n| entry(&format!("x{n:03}"), n)).collect();
    let source: Vec<_> = all.into_iter().chain(more).collect();
    let comparison = compare(&source, &[], 10);
    assert_eq!(comparison.found(), 159);
    assert_eq!(comparison.differences().len(), Comparison::KEPT_MAX);
    assert_eq!(comparison.differences()[0].key, Bytes::from_static(b"001"));
}

#[test]
fn a_page_that_cannot_be_right_is_refused_and_changes_nothing() {
    let mut comparison = Comparison::new(F);
    let bad = |c: &mut Comparison, entries: Vec<PageEntry>, done| {
        assert_eq!(
            c.page(Side::Source, entries, done).unwrap_err().side,
            Side::Source
        );
    };
    bad(&mut comparison, vec![entry("b", 1), entry("a", 2)], true);
    bad(&mut comparison, vec![entry("a", 1), entry("a", 2)], true);
    bad(&mut comparison, vec![], false);
    comparison
        .page(Side::Source, vec![entry("b", 1)], false)
        .unwrap();
    bad(&mut comparison, vec![entry("c", 1)], true);
    assert_eq!(comparison.wants(), Some((Side::Target, None)));
    comparison
        .page(Side::Target, vec![entry("b", 1)], true)
        .unwrap();
    assert_eq!(
        comparison.wants(),
        Some((Side::Source, Some(Bytes::from_static(b"b"))))
    );
    // A page that goes back would compare a key twice, or never.
    bad(&mut comparison, vec![entry("b", 1)], true);
    bad(&mut comparison, vec![entry("a", 1)], true);
    comparison.page(Side::Source, vec![], true).unwrap();
    assert_eq!((comparison.wants(), comparison.found()), (None, 0));
    bad(&mut comparison, vec![entry("z", 1)], true);
}

proptest! {
    /// The model looks keys up one by one; the comparison streams both sides in pages.
    #[test]
    fn it_finds_what_a_map_finds(
        source in prop::collection::btree_map(0u8..20, (1u64..=100, any::<bool>()), 0..15),
        target in prop::collection::btree_map(0u8..20, (1u64..=130, any::<bool>()), 0..15),
        size in 1usize..6,
    ) {
        let side = |map: &std::collections::BTreeMap<u8, (u64, bool)>| -> Vec<PageEntry> {
            map.iter().map(|(k, (seq, dead))| PageEntry { tombstone: *dead, ..entry(&format!("{k:03}"), *seq) }).collect()
        };
        let differs = |key: &u8| match (source.get(key), target.get(key)) {
            (Some(s), Some(t)) if s.0 == t.0 => s.1 != t.1,
            (_, Some(t)) if t.0 > F.0 => false,
            (Some(_), Some(_)) => true,
            (Some(one), None) | (None, Some(one)) => !one.1,
            (None, None) => false,
        };
        let expected: Vec<String> = (0u8..20).filter(differs).map(|k| format!("{k:03}")).collect();
        let comparison = compare(&side(&source), &side(&target), size);
        let found: Vec<String> = comparison.differences().iter().map(|d| String::from_utf8(d.key.to_vec()).unwrap()).collect();
        prop_assert_eq!(found, expected);
    }
}

//! Making, opening, closing, re-opening and removing; snapshots across them; what `apply` refuses.

use super::*;
use crate::store::{StoreError, StoreSnapshot};

#[test]
fn what_was_applied_is_read_with_its_version() {
    let temp = temp();
    let (_env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    store
        .apply(&[
            put(t1, 2, b"a", b"1"),
            batch(
                t1,
                3,
                &[(b"b", Some(b"")), (b"a", None), (b"c", Some(b"3"))],
            ),
        ])
        .unwrap();
    assert_eq!(store.get(b"a").unwrap(), None);
    assert_eq!(
        store.version_of(b"a").unwrap(),
        Some((version(t1, 3), true))
    );
    assert_eq!(
        store.get(b"b").unwrap(),
        Some((Bytes::new(), version(t1, 3)))
    );
    assert_eq!(
        store.version_of(b"b").unwrap(),
        Some((version(t1, 3), false))
    );
    assert_eq!(store.version_of(b"zz").unwrap(), None);
    let c = (Bytes::from_static(b"3"), version(t1, 3));
    assert_eq!(
        store.multi_get(&[&b"c"[..], b"a", b"zz", b"b"]).unwrap(),
        [Some(c), None, None, Some((Bytes::new(), version(t1, 3)))]
    );
    assert_eq!(store.applied().seq, Seq(3));
    assert_eq!(store.applied().digest.count, 3);
}

#[test]
fn a_version_keeps_its_term_through_later_terms_and_reopening() {
    let temp = temp();
    let dir = temp.path().join("s");
    let (env, store) = started(&dir);
    store.apply(&[put(term(1, 1), 2, b"a", b"1")]).unwrap();
    // A term and its first values in one group, and a term that voids what the log lost.
    store
        .apply(&[start(term(1, 2), 3, None), put(term(1, 2), 4, b"b", b"2")])
        .unwrap();
    store
        .apply(&[
            start(term(2, 1), 9, Some((5, 8))),
            put(term(2, 1), 10, b"c", b"3"),
        ])
        .unwrap();
    let check = |store: &Store| {
        assert_eq!(store.get(b"a").unwrap().unwrap().1, version(term(1, 1), 2));
        assert_eq!(store.get(b"b").unwrap().unwrap().1, version(term(1, 2), 4));
        assert_eq!(store.get(b"c").unwrap().unwrap().1, version(term(2, 1), 10));
        assert_eq!(store.applied().seq, Seq(10));
        assert_eq!(store.applied().digest.count, 6);
        assert_eq!(store.term_starts().len(), 3);
    };
    check(&store);
    let applied = store.applied();
    store.close().unwrap();
    let store = Store::open(&env, &dir).unwrap();
    assert_eq!(store.applied(), applied, "close flushes");
    check(&store);
}

#[test]
fn apply_refuses_what_does_not_follow_and_changes_nothing() {
    let temp = temp();
    let (_env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    store.apply(&[put(t1, 2, b"a", b"1")]).unwrap();
    let before = store.applied();
    let follows = put(t1, 3, b"a", b"2");
    let repair = Record::new(t1, Seq(4), RecordKind::Repair, Bytes::new());
    let torn = Record::new(
        t1,
        Seq(4),
        RecordKind::Batch,
        Bytes::from_static(&[1, 0, 1]),
    );
    let late = start(term(2, 1), 9, Some((5, 8)));
    let void_of_others = start(term(2, 1), 9, Some((4, 7)));
    let old = put(term(0, 9), 4, b"a", b"x");
    for (bad, what) in [
        (put(t1, 3, b"a", b"x"), "the same Seq again"),
        (put(t1, 5, b"a", b"x"), "a gap"),
        (late, "a void range that leaves a gap"),
        (void_of_others, "a void range that ends too early"),
        (repair, "a repair"),
        (torn, "a torn batch"),
        (old, "an old term"),
    ] {
        let error = store.apply(&[follows.clone(), bad]).unwrap_err();
        assert!(!error.to_string().is_empty());
        assert_eq!(store.applied(), before, "{what}");
        assert_eq!(store.get(b"a").unwrap().unwrap().0, "1", "{what}");
    }
    // One that was applied already is refused too, whatever its void range says.
    assert!(matches!(
        store.apply(&[start(term(2, 1), 2, Some((1, 1)))]),
        Err(StoreError::NotContiguous { .. })
    ));
    assert_eq!(store.background_error(), None, "none of this is RocksDB's");
    store.apply(&[follows]).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap().0, "2");
}

#[test]
fn a_base_other_than_zero_is_where_the_history_begins() {
    let temp = temp();
    let env = env();
    let base = Applied {
        seq: Seq(40),
        term: term(3, 2),
        ..Applied::default()
    };
    let store = Store::create(&env, &temp.path().join("s"), base).unwrap();
    assert_eq!(store.applied(), base);
    assert_eq!(store.flushed().unwrap(), base);
    store.apply(&[put(term(3, 2), 41, b"k", b"v")]).unwrap();
    assert_eq!(store.get(b"k").unwrap().unwrap().1, version(term(3, 2), 41));
}

fn expired<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::SnapshotExpired)),
        "{result:?}"
    );
}

fn all_expired(snapshot: &StoreSnapshot) {
    expired(snapshot.get(b"a"));
    expired(snapshot.get_versioned(b"a"));
    expired(snapshot.multi_get(&[b"a"]));
    let range = ScanOptions::all().range();
    expired(snapshot.page(&range, None, 1, 1));
    expired(snapshot.hash_page(&range, None, 1, 1));
}

#[test]
fn a_snapshot_stays_at_its_seq_until_it_is_taken_back() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    store.apply(&[put(t1, 2, b"a", b"old")]).unwrap();
    let snapshot = store.snapshot().unwrap();
    let applied = store.applied();
    store
        .apply(&[batch(t1, 3, &[(b"a", None), (b"b", Some(b"new"))])])
        .unwrap();
    store.flush().unwrap();
    assert_eq!(snapshot.applied(), applied);
    assert_eq!(
        snapshot.get(b"a").unwrap().unwrap(),
        (Bytes::from("old"), version(t1, 2))
    );
    assert_eq!(snapshot.get(b"b").unwrap(), None);
    assert_eq!(
        store.snapshot().unwrap().get_versioned(b"a").unwrap(),
        Some((version(t1, 3), None))
    );
    let elsewhere = snapshot.clone();
    std::thread::spawn(move || assert!(elsewhere.get(b"a").unwrap().is_some()))
        .join()
        .unwrap();
    store.revoke_snapshots();
    all_expired(&snapshot);
    // Closing takes back what was taken since, and RocksDB's lock is free although it is still held.
    let snapshot = store.snapshot().unwrap();
    let dir = store.dir().to_owned();
    let other_handle = store.clone();
    store.close().unwrap();
    all_expired(&snapshot);
    assert!(matches!(
        other_handle.get(b"a"),
        Err(StoreError::Closed { .. })
    ));
    let store = Store::open(&env, &dir).unwrap();
    // So does dropping the last handle.
    let snapshot = store.snapshot().unwrap();
    drop(store);
    all_expired(&snapshot);
    Store::open(&env, &dir).unwrap();
}

#[test]
fn reopening_falls_back_to_what_is_flushed() {
    let temp = temp();
    let (_env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    store.apply(&[put(t1, 2, b"a", b"kept")]).unwrap();
    store.flush().unwrap();
    let flushed = store.applied();
    let lost = [
        start(term(1, 2), 3, None),
        put(term(1, 2), 4, b"a", b"lost"),
    ];
    store.apply(&lost).unwrap();
    let snapshot = store.snapshot().unwrap();
    store.reopen().unwrap();
    all_expired(&snapshot);
    assert_eq!(store.applied(), flushed);
    assert_eq!(store.flushed().unwrap(), flushed);
    assert_eq!(
        store.get(b"a").unwrap().unwrap(),
        (Bytes::from("kept"), version(t1, 2))
    );
    assert_eq!(store.term_starts().len(), 1);
    store.apply(&lost).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap().1, version(term(1, 2), 4));
}

#[test]
fn a_failed_flush_counts_nothing_as_flushed_and_reopening_heals_it() {
    let temp = temp();
    let (_env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    store.flush().unwrap();
    let flushed = store.applied();
    store.apply(&[put(t1, 2, b"a", b"1")]).unwrap();
    assert_eq!(store.background_error(), None);
    // The device is gone, then back with what it had.
    let away = temp.path().join("away");
    std::fs::rename(store.dir(), &away).unwrap();
    let error = store.flush().unwrap_err();
    assert!(error.needs_reopen(), "{error:?}");
    assert!(store.background_error().is_some());
    assert_eq!(store.flushed().unwrap(), flushed);
    assert!(store.get(b"a").unwrap().is_some(), "reads go on");
    let missing = store.reopen().unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
    assert!(matches!(store.get(b"a"), Err(StoreError::Closed { .. })));
    std::fs::rename(&away, store.dir()).unwrap();
    store.reopen().unwrap();
    assert_eq!(store.background_error(), None);
    assert_eq!(store.applied(), flushed);
    store.apply(&[put(t1, 2, b"a", b"1")]).unwrap();
    assert_eq!(store.flush().unwrap(), Seq(2));
}

#[test]
fn errors_name_the_directory_and_the_cause() {
    let temp = temp();
    let env = env();
    let dir = temp.path().join("s");
    assert!(matches!(
        Store::open(&env, &dir),
        Err(StoreError::Missing { .. })
    ));
    assert!(!dir.exists(), "opening makes nothing");
    std::fs::create_dir(&dir).unwrap();
    assert!(matches!(
        Store::open(&env, &dir),
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(
        Store::create(&env, &dir, Applied::default()),
        Err(StoreError::Exists { .. })
    ));
    std::fs::remove_dir(&dir).unwrap();
    let store = Store::create(&env, &dir, Applied::default()).unwrap();
    let second = Store::open(&env, &dir).unwrap_err();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    assert!(second.to_string().contains(dir.to_str().unwrap()));

    let reader = Store::open_read_only(&env, &dir).unwrap();
    assert!(matches!(
        reader.apply(&[start(term(1, 1), 1, None)]),
        Err(StoreError::ReadOnly { .. })
    ));
    assert!(matches!(reader.flush(), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(
        reader.checkpoint(&temp.path().join("c")),
        Err(StoreError::ReadOnly { .. })
    ));
    reader.close().unwrap();
    store.close().unwrap();
}

#[test]
fn a_damaged_cut_or_missing_file_is_found_at_opening_and_named() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    store
        .apply(&[put(term(1, 1), 2, b"a", &[7; 1000])])
        .unwrap();
    let dir = store.dir().to_owned();
    store.close().unwrap();
    for (kind, cut) in [
        (".sst", true),
        (".sst", false),
        ("MANIFEST", true),
        ("MANIFEST", false),
    ] {
        let copy = temp.path().join("copy");
        copy_dir(&dir, &copy).unwrap();
        let paths = std::fs::read_dir(&copy).unwrap();
        for path in paths.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.contains(kind) && cut {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[10] ^= 1;
                bytes.truncate(bytes.len() - 1);
                std::fs::write(&path, bytes).unwrap();
            } else if name.contains(kind) {
                std::fs::remove_file(&path).unwrap();
            }
        }
        for opened in [Store::open(&env, &copy), Store::open_read_only(&env, &copy)] {
            let error = opened.unwrap_err();
            assert!(error.is_damage(), "{kind} {cut}: {error:?}");
            assert!(error.to_string().contains(copy.to_str().unwrap()));
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn handles_can_go_to_other_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Store>();
    check::<StoreSnapshot>();
    check::<StoreEnv>();
}

#[test]
fn read_only_sees_what_is_flushed_and_writes_nothing() {
    let temp = temp();
    let dir = temp.path().join("s");
    let (env, store) = started(&dir);
    store.apply(&[put(term(1, 1), 2, b"a", b"1")]).unwrap();
    store.flush().unwrap();
    store.apply(&[put(term(1, 1), 3, b"b", b"2")]).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names(&dir);
    let reader = Store::open_read_only(&env, &dir).unwrap();
    assert_eq!(reader.applied().seq, Seq(2));
    assert_eq!(reader.flushed().unwrap().seq, Seq(2));
    assert_eq!(reader.get(b"a").unwrap().unwrap().0, "1");
    assert_eq!(reader.get(b"b").unwrap(), None);
    assert_eq!(all_keys(&reader), ["a"]);
    // What the writer compacts away stays readable: the reader holds the files open.
    store.flush().unwrap();
    store
        .0
        .db()
        .unwrap()
        .compact_range(None::<&[u8]>, None::<&[u8]>);
    assert_eq!(all_keys(&reader), ["a"]);
    drop(reader);
    assert!(before.iter().all(|name| name != "LOG"), "{before:?}");
}

#[test]
fn destroy_removes_it_whole_and_can_be_repeated() {
    let temp = temp();
    let dir = temp.path().join("s");
    let (env, store) = started(&dir);
    store
        .apply(&[put(term(1, 1), 2, b"a", &[7; 10_000])])
        .unwrap();
    store.flush().unwrap();
    store.discard();
    assert!(Store::destroy(&dir).unwrap() > 0);
    assert_eq!(Store::destroy(&dir).unwrap(), 0);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    assert!(matches!(
        Store::open(&env, &dir),
        Err(StoreError::Missing { .. })
    ));
    // What an interrupted creation left is in nobody's way.
    std::fs::create_dir(temp.path().join("s.new")).unwrap();
    Store::create(&env, &dir, Applied::default()).unwrap();
    assert!(!temp.path().join("s.new").exists());
}

#[test]
fn keys_and_values_of_the_largest_and_smallest_sizes() {
    let temp = temp();
    let (_env, store) = started(&temp.path().join("s"));
    let t1 = term(1, 1);
    let long_key = vec![0xff; 64 << 10];
    let big = vec![0xa5; 16 << 20];
    store
        .apply(&[
            put(t1, 2, &long_key, b""),
            put(t1, 3, b"big", &big),
            put(t1, 4, &[0], b"zero"),
        ])
        .unwrap();
    for flushed in [false, true] {
        assert_eq!(store.get(&long_key).unwrap().unwrap().0, "");
        assert!(store.get(b"big").unwrap().unwrap().0 == big[..]);
        assert_eq!(store.get(&[0]).unwrap().unwrap().0, "zero");
        assert_eq!(all_keys(&store), [&[0][..], b"big", &long_key]);
        assert_eq!(store.stats().unwrap().memtable_bytes < 16 << 20, flushed);
        store.flush().unwrap();
    }
}

#[test]
fn the_options_without_a_setter_are_taken() {
    let temp = temp();
    let dir = temp.path().join("s");
    let (_env, store) = started(&dir);
    store.close().unwrap();
    let options = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().contains("OPTIONS"))
        .unwrap();
    let text = std::fs::read_to_string(options).unwrap();
    for option in [
        "avoid_flush_during_shutdown=true",
        "file_checksum_gen_factory=FileChecksumGenCrc32cFactory",
        "manifest_preallocation_size=65536",
        "bottommost_compression=kZSTD",
    ] {
        assert!(text.contains(option), "{option} in {text}");
    }
}

//! Checkpoints: made while writes go on, checked at the receiver, and every kind of damage found there.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::StoreError;
use crate::store::checkpoint::Checkpoint;

/// A store of some SSTs, and a checkpoint of it.
fn checkpointed(root: &Path) -> (StoreEnv, Checkpoint) {
    let (env, store) = started(&root.join("s"));
    for n in 2..=300 {
        store.apply(&[numbered(n)]).unwrap();
        if n % 100 == 0 {
            store.flush().unwrap();
        }
    }
    let checkpoint = store.checkpoint(&root.join("c")).unwrap();
    store.close().unwrap();
    (env, checkpoint)
}

#[test]
fn what_the_engine_keeps_for_itself_is_verified_too() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    let mut batch = rocksdb::WriteBatch::default();
    batch.put(b"\x02x", b"no head");
    let inner = &store.0;
    inner.db().unwrap().write_opt(batch, &inner.writes).unwrap();
    let into = temp.path().join("c");
    let made = store.checkpoint(&into).unwrap();
    let error = Store::verify_dir(&env, &into, &made.files).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn rule_02_the_mark_is_what_the_finished_checkpoint_holds() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 1;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                store.apply(&[numbered(n)]).unwrap();
            }
        });
        for i in 0..5 {
            let into = temp.path().join(format!("c{i}"));
            let before = store.applied().seq;
            let made = store.checkpoint(&into);
            if made.is_err() || i == 4 {
                stop.store(true, Ordering::Relaxed);
            }
            let made = made.unwrap();
            assert!(made.applied.seq >= before);
            assert_eq!(made.terms.len(), 1);
            assert_eq!(
                Store::verify_dir(&env, &into, &made.files).unwrap(),
                made.applied
            );
            let copy = Store::open(&env, &into).unwrap();
            assert_eq!(copy.applied(), made.applied);
            assert_numbered_prefix(&copy);
            copy.apply(&[numbered(made.applied.seq.0 + 1)]).unwrap();
        }
    });
    // The copies went on by themselves; the store they came from is none the worse.
    assert_numbered_prefix(&store);
}

#[test]
fn a_checkpoint_is_not_made_over_anything() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    let into = temp.path().join("c");
    fs::create_dir(&into).unwrap();
    assert!(matches!(
        store.checkpoint(&into),
        Err(StoreError::Exists { .. })
    ));
    fs::remove_dir(&into).unwrap();
    // What a crash left half-made is in nobody's way.
    for left in ["c.new", "c.new.tmp"] {
        fs::create_dir(temp.path().join(left)).unwrap();
        fs::write(temp.path().join(left).join("000001.sst"), b"half").unwrap();
    }
    let made = store.checkpoint(&into).unwrap();
    Store::verify_dir(&env, &into, &made.files).unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
}

#[test]
fn a_flipped_byte_in_any_file_is_found() {
    let temp = temp();
    let (env, checkpoint) = checkpointed(temp.path());
    let dir = temp.path().join("c");
    for kind in [".sst", "MANIFEST", "CURRENT", "OPTIONS"] {
        assert!(
            checkpoint.files.iter().any(|f| f.name.contains(kind)),
            "{kind}"
        );
    }
    for file in &checkpoint.files {
        let path = dir.join(&file.name);
        let whole = fs::read(&path).unwrap();
        assert!(!whole.is_empty(), "{}", file.name);
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            // A new file: the old one is linked to the store's own.
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let error = Store::verify_dir(&env, &dir, &checkpoint.files).unwrap_err();
            assert!(
                matches!(&error, StoreError::FileChecksum { path: found, .. } if *found == path),
                "{error}"
            );
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(
        Store::verify_dir(&env, &dir, &checkpoint.files).unwrap(),
        checkpoint.applied
    );
}

#[test]
fn missing_cut_and_extra_files_are_found() {
    let temp = temp();
    let (env, checkpoint) = checkpointed(temp.path());
    let dir = temp.path().join("c");
    for file in &checkpoint.files {
        let path = dir.join(&file.name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = Store::verify_dir(&env, &dir, &checkpoint.files).unwrap_err();
        assert!(matches!(error, StoreError::FileMissing { .. }), "{error}");
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = Store::verify_dir(&env, &dir, &checkpoint.files).unwrap_err();
        assert!(matches!(error, StoreError::FileLength { .. }), "{error}");
        fs::write(&path, &whole).unwrap();
    }
    for extra in ["999999.sst", "anything"] {
        fs::write(dir.join(extra), b"").unwrap();
        let error = Store::verify_dir(&env, &dir, &checkpoint.files).unwrap_err();
        assert!(matches!(error, StoreError::FileExtra { .. }), "{error}");
        fs::remove_file(dir.join(extra)).unwrap();
    }
    fs::create_dir(dir.join("directory")).unwrap();
    assert!(matches!(
        Store::verify_dir(&env, &dir, &checkpoint.files),
        Err(StoreError::FileExtra { .. })
    ));
}

#[test]
fn a_list_that_leaves_its_directory_or_repeats_itself_is_refused() {
    let temp = temp();
    let (env, checkpoint) = checkpointed(temp.path());
    let dir = temp.path().join("c");
    let first = checkpoint.files[0].name.clone();
    for name in ["../s/CURRENT", "/etc/passwd", "", ".", "..", "a/b", &first] {
        let mut files = checkpoint.files.clone();
        files.push(files[0].clone());
        files.last_mut().unwrap().name = name.to_owned();
        let error = Store::verify_dir(&env, &dir, &files).unwrap_err();
        assert!(
            matches!(error, StoreError::FileList { .. }),
            "{name}: {error}"
        );
    }
}

/// Damage that was there before the files' checksums were taken: RocksDB's own checksums find it.
#[test]
fn damage_under_a_matching_list_is_found_by_the_scan() {
    let temp = temp();
    let (env, mut checkpoint) = checkpointed(temp.path());
    let dir = temp.path().join("c");
    let mut flipped = 0;
    for file in &mut checkpoint.files {
        if !file.name.ends_with(".sst") {
            continue;
        }
        let path = dir.join(&file.name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        file.xxh3_128 = crate::store::files::checksum(&path).unwrap().1;
        flipped += 1;
    }
    assert!(flipped > 0);
    let error = Store::verify_dir(&env, &dir, &checkpoint.files).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

//! Shards by number, the directory they live in, and the bounds of what is put into them.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use support::wait_until;
use watershed::{
    Batch, Engine, Error, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Retry, ShardId,
};

const EXTRA: ShardId = ShardId(900);

fn open(dir: &tempfile::TempDir) -> Engine {
    Engine::options().shards(2).open(dir.path()).unwrap()
}

/// The directories of a shard's copies, whatever their state.
fn copies(dir: &tempfile::TempDir, shard: ShardId) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("shards")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let name = format!("/shards/{shard}-");
    paths
        .filter(|path| path.to_str().unwrap().contains(&name))
        .collect()
}

#[test]
fn a_dropped_shard_is_gone_for_good_and_comes_back_empty() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.create_shard(EXTRA).unwrap();
    assert_eq!(shard.id(), EXTRA);
    for number in 0..100 {
        shard
            .put(format!("k{number}"), vec![1; 1000])
            .wait()
            .unwrap();
    }
    engine.flush().unwrap();
    assert!(matches!(
        engine.create_shard(EXTRA),
        Err(Error::ShardExists { shard: EXTRA })
    ));
    let first = copies(&dir, EXTRA);
    assert_eq!(first.len(), 1);
    assert!(engine.drop_shard(EXTRA).unwrap() > 1000, "bytes were freed");
    assert_eq!(copies(&dir, EXTRA), [] as [PathBuf; 0]);
    for error in [
        shard.put("k", "v").wait().map(drop).unwrap_err(),
        shard.get("k1").wait().map(drop).unwrap_err(),
        shard.snapshot().map(drop).unwrap_err(),
        engine.drop_shard(EXTRA).map(drop).unwrap_err(),
        engine.migrate(EXTRA).to("b").start().map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoShard { shard: EXTRA }), "{error}");
    }
    engine.close().unwrap();

    let engine = open(&dir);
    assert!(!engine.shards().contains(&EXTRA));
    let again = engine.create_shard(EXTRA).unwrap();
    assert_eq!(again.get("k1").wait().unwrap(), None);
    assert_eq!(again.scan(Default::default()).count(), 0);
    again.put("k1", "new").wait().unwrap();
    assert_ne!(copies(&dir, EXTRA), first, "a new instance");
    engine.close().unwrap();
    // Nor does a replay of the log bring anything of the first one back.
    let engine = open(&dir);
    let found = engine.shard(EXTRA).scan(Default::default());
    let keys: Vec<_> = found.map(|entry| entry.unwrap().key).collect();
    assert_eq!(keys, ["k1"]);
}

#[test]
fn a_shard_is_dropped_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    for round in 0..5 {
        let shard = engine.create_shard(EXTRA).unwrap();
        shard.put("round", round.to_string()).wait().unwrap();
        let snapshot = shard.snapshot().unwrap();
        let dropped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (shard, dropped) = (shard.clone(), &dropped);
                scope.spawn(move || {
                    for number in 0u64.. {
                        let key = format!("{thread}/{number}");
                        let wrote = shard.put(&key, "v").wait().map(drop);
                        let read = shard.get(&key).wait().map(drop);
                        let error = match wrote.and(read) {
                            Ok(()) => continue,
                            Err(error) => error,
                        };
                        assert!(
                            matches!(error, Error::NoShard { .. })
                                || error.retry() == Retry::Unknown,
                            "{error}"
                        );
                        if dropped.load(Ordering::Acquire) {
                            return;
                        }
                    }
                });
            }
            engine.drop_shard(EXTRA).unwrap();
            dropped.store(true, Ordering::Release);
        });
        let expired = snapshot.get("round").unwrap_err();
        assert!(matches!(expired, Error::SnapshotExpired), "{expired}");
        assert!(copies(&dir, EXTRA).is_empty());
    }
    // The others were not concerned.
    engine.put("k", "v").wait().unwrap();
}

#[test]
fn a_directory_opens_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let error = Engine::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Now);
    let other = engine.clone();
    engine.close().unwrap();
    engine.close().unwrap();
    assert!(matches!(other.put("k", "v").wait(), Err(Error::Closed)));
    assert!(matches!(other.status(), Err(Error::Closed)));
    assert!(other.shards().is_empty());
    let again = open(&dir);
    drop(other);
    again.put("k", "v").wait().unwrap();
}

#[test]
fn what_is_no_data_directory_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letter"), "mine").unwrap();
    for path in [&file, &foreign, &file.join("below")] {
        for error in [
            Engine::open(path).unwrap_err(),
            Engine::options().open_read_only(path).unwrap_err(),
        ] {
            assert_eq!(error.retry(), Retry::Never);
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    let missing = dir.path().join("missing");
    Engine::options().open_read_only(&missing).unwrap_err();
    assert!(!missing.exists());
}

#[test]
fn newer_formats_and_other_options_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    engine.put("k", "v").wait().unwrap();
    engine.close().unwrap();
    let refused = |error: Error, word: &str| {
        assert_eq!(error.retry(), Retry::Never);
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(
        Engine::options().shards(3).open(dir.path()).unwrap_err(),
        "2 shards",
    );
    refused(
        Engine::options().shards(0).open(dir.path()).unwrap_err(),
        "at least 1",
    );
    refused(
        Engine::options().node("b").open(dir.path()).unwrap_err(),
        "\"local\"",
    );
    refused(
        Engine::options().node("a/b").open(dir.path()).unwrap_err(),
        "a/b",
    );

    let path = dir.path().join("FORMAT");
    let mark = fs::read_to_string(&path).unwrap();
    fs::write(&path, r#"{"format":2,"something":"new"}"#).unwrap();
    let newer = Engine::open(dir.path()).unwrap_err();
    assert!(matches!(
        newer,
        Error::NewerFormat {
            found: 2,
            supported: 1,
            ..
        }
    ));
    for damage in ["", "{", "format 1", r#"{"format":1}"#, "\0\0\0\0"] {
        fs::write(&path, damage).unwrap();
        let error = Engine::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NotADataDirectory { .. }), "{error}");
    }
    fs::write(&path, mark).unwrap();
    assert_eq!(open(&dir).get("k").wait().unwrap().unwrap(), "v");
}

/// What a crash may leave of a directory that was being made.
#[test]
fn a_half_made_directory_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::options().shards(6).open(dir.path()).unwrap();
    let key = (0..)
        .map(|number: u32| format!("k{number}"))
        .find(|key| engine.shard_of(key) == ShardId(0))
        .unwrap();
    engine.put(&key, "v").wait().unwrap();
    for shard in 1..6 {
        engine.drop_shard(ShardId(shard)).unwrap();
    }
    engine.close().unwrap();
    // Dropped on purpose: not made again.
    let engine = Engine::open(dir.path()).unwrap();
    assert_eq!(engine.shards(), [ShardId(0)]);
    engine.close().unwrap();
    // Stopped on the way: made to the end, and what there was stays.
    fs::write(dir.path().join("MAKING"), "").unwrap();
    let engine = Engine::open(dir.path()).unwrap();
    assert_eq!(engine.shards().len(), 6);
    assert_eq!(engine.get(&key).wait().unwrap().unwrap(), "v");
    engine.close().unwrap();
    assert!(!dir.path().join("MAKING").exists());
}

#[test]
fn sizes_exactly_at_their_bounds_are_taken_and_over_them_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.shard(ShardId(0));
    let key = vec![b'k'; MAX_KEY_BYTES];
    let value = vec![9; MAX_VALUE_BYTES];
    shard.put(&key, &value).wait().unwrap();
    shard.put("empty", "").wait().unwrap();
    let over = shard.put([&key[..], b"k"].concat(), "v").wait();
    assert!(matches!(over, Err(Error::KeyLength { .. })));
    let over = shard.put("k", [&value[..], &[9]].concat()).wait();
    assert!(matches!(over, Err(Error::ValueLength { .. })));
    assert!(matches!(
        shard.put("", "v").wait(),
        Err(Error::KeyLength { .. })
    ));
    assert!(matches!(shard.get("").wait(), Err(Error::KeyLength { .. })));
    assert!(matches!(
        shard.write(Batch::new()).wait(),
        Err(Error::EmptyBatch)
    ));
    assert!(matches!(
        engine.write(Batch::new()).wait(),
        Err(Error::EmptyBatch)
    ));

    // The batch as large as may be, found by its own message.
    let half = |last: usize| {
        let mut batch = Batch::new();
        batch.put("a", &value).put("b", vec![5; last]);
        batch
    };
    let Err(Error::BatchLength { len, max }) = shard.write(half(MAX_VALUE_BYTES)).wait() else {
        panic!("two largest values and their keys are more than the largest batch")
    };
    assert_eq!(max, MAX_BATCH_BYTES);
    let fits = MAX_VALUE_BYTES - (len - max);
    assert!(matches!(
        shard.write(half(fits + 1)).wait(),
        Err(Error::BatchLength { .. })
    ));
    let version = shard.write(half(fits)).wait().unwrap();
    engine.close().unwrap();

    let engine = open(&dir);
    let shard = engine.shard(ShardId(0));
    assert!(shard.get(&key).wait().unwrap().unwrap() == value);
    assert_eq!(shard.get("empty").wait().unwrap().unwrap(), "");
    let (found, at) = shard.get_versioned("b").wait().unwrap().unwrap();
    assert_eq!((found.len(), at), (fits, version));
}

#[test]
fn a_batch_is_its_last_word_on_each_key() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.shard(ShardId(1));
    let mut batch = Batch::new();
    batch.put("a", "1").delete("a").put("a", "2");
    batch.put("b", "1").delete("b");
    batch.delete("never");
    let version = shard.write(batch).wait().unwrap();
    let found = shard.multi_get(["a", "b", "never", "a"]).wait().unwrap();
    let a = Some(("2".into(), version));
    assert_eq!(found, [a.clone(), None, None, a]);
}

#[test]
fn an_owned_shard_whose_directory_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    engine.put("k", "v").wait().unwrap();
    engine.close().unwrap();
    let lost = copies(&dir, ShardId(1)).remove(0);
    let kept = dir.path().join("kept");
    fs::rename(&lost, &kept).unwrap();
    let error = Engine::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(lost.to_str().unwrap()), "{error}");
    fs::rename(&kept, &lost).unwrap();
    wait_until("it opens again", || Engine::open(dir.path()).is_ok());
}

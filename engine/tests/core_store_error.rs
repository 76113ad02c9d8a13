//! A store whose RocksDB fails in the background: it alone is opened again and caught up from the log, and nobody sees
//! an older state meanwhile.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::wait_until;
use watershed::{Durability, Engine, Error, Retry, ShardId, ShardRole};

const BROKEN: ShardId = ShardId(0);
const WHOLE: ShardId = ShardId(1);

fn open(dir: &Path) -> Engine {
    Engine::options().shards(2).open(dir).unwrap()
}

/// A store's directory that can be put out of RocksDB's way: what it then tries to make there fails.
struct Aside {
    place: PathBuf,
    aside: PathBuf,
}

impl Aside {
    fn of(dir: &Path, shard: ShardId) -> Self {
        let mut entries = fs::read_dir(dir.join("shards")).unwrap();
        let prefix = format!("{shard}-");
        let place = entries.find_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            name.starts_with(&prefix).then_some(path)
        });
        Self {
            place: place.unwrap(),
            aside: dir.join("aside"),
        }
    }

    fn take(&self) {
        fs::rename(&self.place, &self.aside).unwrap();
    }

    fn put_back(&self) {
        fs::rename(&self.aside, &self.place).unwrap();
    }
}

fn failed(engine: &Engine) -> Option<String> {
    let status = engine.status().unwrap();
    let broken = status
        .shards
        .into_iter()
        .find(|shard| shard.shard == BROKEN);
    broken.unwrap().store_error
}

#[test]
fn a_failed_store_is_opened_again_and_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let aside = Aside::of(dir.path(), BROKEN);
    let (broken, whole) = (engine.shard(BROKEN), engine.shard(WHOLE));
    for round in 0..4 {
        for number in 0..500 {
            let key = format!("{round}/{number}");
            broken
                .put(&key, "v")
                .durability(Durability::Buffered)
                .wait()
                .unwrap();
            whole
                .put(&key, "v")
                .durability(Durability::Buffered)
                .wait()
                .unwrap();
        }
        let (of_broken, of_whole) = (broken.snapshot().unwrap(), whole.snapshot().unwrap());
        aside.take();
        let error = engine.flush().unwrap_err();
        assert!(
            error.to_string().contains("RocksDB could not flush"),
            "{error}"
        );
        assert!(failed(&engine).is_some());
        // What is in memory is served on.
        assert_eq!(
            broken.get(format!("{round}/7")).wait().unwrap().unwrap(),
            "v"
        );
        aside.put_back();

        // The next write heals it, and is itself acknowledged.
        let version = broken.put("healed", round.to_string()).wait().unwrap();
        assert_eq!(failed(&engine), None);
        assert_eq!(
            broken.get_versioned("healed").wait().unwrap().unwrap(),
            (round.to_string().into(), version)
        );
        for number in 0..500 {
            assert!(
                broken
                    .get(format!("{round}/{number}"))
                    .wait()
                    .unwrap()
                    .is_some()
            );
        }
        assert!(matches!(
            of_broken.get("healed"),
            Err(Error::SnapshotExpired)
        ));
        assert!(of_whole.get(format!("{round}/1")).unwrap().is_some());
        engine.flush().unwrap();
    }
    engine.close().unwrap();
    let engine = open(dir.path());
    for shard in [BROKEN, WHOLE] {
        assert!(engine.shard(shard).scan(Default::default()).count() >= 2_000);
    }
}

/// Without this a cold shard that failed would keep the log of all shards until somebody writes to it.
#[test]
fn a_store_that_failed_is_healed_while_nobody_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let aside = Aside::of(dir.path(), BROKEN);
    let shard = engine.shard(BROKEN);
    for round in 0..3 {
        let mut versions = Vec::new();
        for number in 0..300 {
            let write = shard.put(format!("{number}"), round.to_string());
            versions.push(write.durability(Durability::Buffered).wait().unwrap());
        }
        let snapshot = shard.snapshot().unwrap();
        aside.take();
        engine.flush().unwrap_err();
        assert!(failed(&engine).is_some());
        // The keeper can't open it again yet, so it leaves it as it is, and reads go on.
        assert!(snapshot.get("7").unwrap().is_some());
        aside.put_back();
        wait_until("the store is healed", || failed(&engine).is_none());
        assert!(matches!(snapshot.get("7"), Err(Error::SnapshotExpired)));
        for (number, version) in versions.into_iter().enumerate() {
            let found = shard.get_versioned(number.to_string()).wait().unwrap();
            assert_eq!(found.unwrap(), (round.to_string().into(), version));
        }
        engine.flush().unwrap();
        let status = engine.status().unwrap();
        let broken = status.shards.iter().find(|s| s.shard == BROKEN).unwrap();
        assert_eq!(broken.flushed, broken.applied, "it pins the log no more");
    }
}

/// While the store is opened again it shows an older state, for as long as the replay takes: neither a read nor a
/// condition may rest on that.
#[test]
fn nobody_sees_the_older_state_of_a_store_that_heals() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let aside = Aside::of(dir.path(), BROKEN);
    let shard = engine.shard(BROKEN);
    // A long replay, with the counter at its beginning.
    let mut version = shard.put("count", "0").wait().unwrap();
    shard.put("reads", "0").wait().unwrap();
    engine.flush().unwrap();
    let mut count = 0u64;
    for round in 0..6 {
        for number in 0..4_000 {
            let write = shard.put(format!("{number}"), vec![round; 100]);
            write.durability(Durability::Buffered).wait().unwrap();
        }
        count += 1;
        let write = shard.put("count", count.to_string());
        version = write.if_version("count", version).wait().unwrap();
        aside.take();
        engine.flush().unwrap_err();
        aside.put_back();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (shard, stop, reads) = (&shard, &stop, &reads);
                let expected = count.to_string();
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let found = shard.get_versioned("count").wait().unwrap().unwrap();
                        assert_eq!(
                            found,
                            (expected.clone().into(), version),
                            "an older state was read"
                        );
                        let snapshot = shard.snapshot().unwrap();
                        match snapshot.get("count") {
                            Ok(found) => assert_eq!(found.unwrap(), expected),
                            Err(error) => assert_eq!(error.retry(), Retry::Now, "{error}"),
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let deciding = scope.spawn(|| {
                for _ in 0..50 {
                    let refused = shard.put("count", "stale").if_absent("count").wait();
                    let Err(Error::ConditionFailed { found, .. }) = refused else {
                        panic!("a condition was decided on an older state: {refused:?}")
                    };
                    assert_eq!(found, Some(version));
                }
            });
            // This heals it.
            shard.put("after", "v").wait().unwrap();
            let until = reads.load(Ordering::Relaxed) + 20;
            wait_until("reads go on", || reads.load(Ordering::Relaxed) >= until);
            stop.store(true, Ordering::Relaxed);
            deciding.join().unwrap();
        });
    }
    assert_eq!(failed(&engine), None);
}

#[test]
fn a_store_that_cannot_be_opened_again_is_out_of_service_alone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let aside = Aside::of(dir.path(), BROKEN);
    let (broken, whole) = (engine.shard(BROKEN), engine.shard(WHOLE));
    broken.put("k", "v").wait().unwrap();
    aside.take();
    engine.flush().unwrap_err();
    // Given a Seq, and made durable, before the store turned out to be gone.
    let unknown = broken.put("unknown", "v").wait().unwrap_err();
    assert_eq!(unknown.retry(), Retry::Unknown, "{unknown}");
    for error in [
        broken.put("k", "w").wait().map(drop).unwrap_err(),
        broken
            .put("k", "w")
            .if_absent("k")
            .wait()
            .map(drop)
            .unwrap_err(),
        broken.get("k").wait().map(drop).unwrap_err(),
        broken.snapshot().map(drop).unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::ShardFailed { shard: BROKEN, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("re-open the engine"), "{error}");
    }
    let status = engine.status().unwrap();
    let role = |shard: ShardId| {
        status
            .shards
            .iter()
            .find(|s| s.shard == shard)
            .unwrap()
            .role
    };
    assert_eq!(
        (role(BROKEN), role(WHOLE)),
        (ShardRole::Failed, ShardRole::Owner)
    );
    for number in 0..200 {
        whole.put(format!("k{number}"), "v").wait().unwrap();
    }
    engine.flush().ok();
    let _ = engine.close();
    aside.put_back();

    let engine = open(dir.path());
    for key in ["k", "unknown"] {
        assert_eq!(engine.shard(BROKEN).get(key).wait().unwrap().unwrap(), "v");
    }
    assert_eq!(engine.shard(WHOLE).scan(Default::default()).count(), 200);
}

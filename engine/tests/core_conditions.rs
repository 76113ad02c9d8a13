//! Rule 13: preconditions are decided when the Seq is assigned, writes that are still pending included.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::{World, quick};
use watershed::{Batch, Durability, Engine, Error, Retry, Shard, ShardId, Version, Write};

const SHARD: ShardId = ShardId(0);

fn open(dir: &tempfile::TempDir) -> Engine {
    Engine::options().shards(2).open(dir.path()).unwrap()
}

fn batch(entries: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in entries {
        batch.put(key, value);
    }
    batch
}

fn found_by(result: Result<Version, Error>) -> (Vec<u8>, Option<Version>) {
    match result {
        Err(error @ Error::ConditionFailed { .. }) => {
            assert_eq!(error.retry(), Retry::Never, "the same request fails again");
            let Error::ConditionFailed { key, found } = error else {
                unreachable!()
            };
            (key.to_vec(), found)
        }
        other => panic!("no failed condition: {other:?}"),
    }
}

#[test]
fn rule_13_conditions_at_assignment() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.shard(SHARD);
    let a = shard.put("a", "1").wait().unwrap();
    let b = shard.put("b", "1").wait().unwrap();

    // All of several conditions hold.
    let both = |write: Write| write.if_version("a", a).if_version("b", b).if_absent("c");
    let c = both(shard.write(batch(&[("a", "2"), ("c", "2")]))).wait();
    let c = c.unwrap();
    assert_eq!(shard.get_versioned("a").wait().unwrap().unwrap().1, c);

    // One of several does not: nothing is written, and the answer names the key and what is there.
    let before = engine.status().unwrap();
    let assigned = |status: &watershed::EngineStatus| status.shards[0].assigned;
    let failed = both(shard.write(batch(&[("a", "3"), ("b", "3"), ("d", "3")]))).wait();
    assert_eq!(found_by(failed), (b"a".to_vec(), Some(c)));
    let failed = shard.put("d", "3").if_absent("d").if_absent("b").wait();
    assert_eq!(found_by(failed), (b"b".to_vec(), Some(b)));
    let failed = shard.put("d", "3").if_version("nobody", a).wait();
    assert_eq!(found_by(failed), (b"nobody".to_vec(), None));
    assert_eq!(shard.get("d").wait().unwrap(), None);
    assert_eq!(assigned(&before), assigned(&engine.status().unwrap()));

    // A condition may name keys that the write does not touch, and a delete may have one.
    let gone = shard
        .delete("a")
        .if_version("b", b)
        .if_version("a", c)
        .wait();
    let gone = gone.unwrap();
    // A deleted key is absent, and its tombstone's version is no value's.
    let failed = shard.put("a", "4").if_version("a", gone).wait();
    assert_eq!(found_by(failed), (b"a".to_vec(), None));
    let failed = shard.put("a", "4").if_version("a", c).wait();
    assert_eq!(found_by(failed), (b"a".to_vec(), None));
    shard.put("a", "5").if_absent("a").wait().unwrap();
}

#[test]
fn rule_13_conditions_across_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.shard(SHARD);
    let kept = shard.put("kept", "1").wait().unwrap();
    shard.put("gone", "1").wait().unwrap();
    let gone = shard.delete("gone").wait().unwrap();
    engine.close().unwrap();

    let engine = open(&dir);
    let shard = engine.shard(SHARD);
    let failed = shard.put("gone", "2").if_version("gone", gone).wait();
    assert_eq!(found_by(failed).1, None);
    let failed = shard.put("kept", "2").if_absent("kept").wait();
    assert_eq!(found_by(failed).1, Some(kept));
    let newer = shard
        .put("kept", "2")
        .if_version("kept", kept)
        .wait()
        .unwrap();
    assert!(newer > kept, "versions grow across openings");
    shard.put("gone", "2").if_absent("gone").wait().unwrap();
    // The text of a version, as a user may have kept it outside, is the version.
    let kept: Version = newer.to_string().parse().unwrap();
    shard
        .put("kept", "3")
        .if_version("kept", kept)
        .wait()
        .unwrap();
}

#[test]
fn a_condition_on_a_key_of_another_shard_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let other = (0..)
        .map(|number: u32| number.to_string())
        .find(|key| engine.shard_of(key) != engine.shard_of("key"))
        .unwrap();
    let refused = engine.put("key", "1").if_absent(&other).wait();
    assert!(
        matches!(refused, Err(Error::CrossShard { .. })),
        "{refused:?}"
    );
    let refused = engine.put("key", "1").if_absent("").wait();
    assert!(matches!(refused, Err(Error::KeyLength { .. })));
    // A named shard holds whatever is put into it.
    let shard = engine.shard(SHARD);
    shard.put("key", "1").if_absent(&other).wait().unwrap();
}

/// Adds one to the number at `key` by compare-and-set. Gives how often it had to try again.
fn increment(shard: &Shard, key: &str) -> u64 {
    for tries in 0.. {
        let found = shard.get_versioned(key).wait().unwrap();
        let done = match &found {
            Some((value, version)) => {
                let count: u64 = std::str::from_utf8(value).unwrap().parse().unwrap();
                let write = shard.put(key, (count + 1).to_string());
                write.if_version(key, *version).wait()
            }
            None => shard.put(key, "1").if_absent(key).wait(),
        };
        match done {
            Ok(_) => return tries,
            Err(Error::ConditionFailed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

fn count(engine: &Engine, key: &str) -> u64 {
    let value = engine.shard(SHARD).get(key).wait().unwrap().unwrap();
    std::str::from_utf8(&value).unwrap().parse().unwrap()
}

#[test]
fn rule_13_counters_by_many_threads_lose_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 150;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        // Others' plain writes keep writes pending, and meet the same section.
        let noise = scope.spawn(|| {
            for number in 0u64.. {
                if !running.load(Ordering::Relaxed) {
                    return;
                }
                let shard = engine.shard(SHARD);
                let write = shard.put(format!("noise/{}", number % 50), "x".repeat(900));
                write.durability(Durability::Buffered).wait().unwrap();
            }
        });
        let counting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let shard = engine.shard(SHARD);
                scope.spawn(move || {
                    for round in 0..EACH {
                        increment(&shard, ["one", "two"][((thread + round) % 2) as usize]);
                    }
                })
            })
            .collect();
        for thread in counting {
            thread.join().unwrap();
        }
        running.store(false, Ordering::Relaxed);
        noise.join().unwrap();
    });
    assert_eq!(
        count(&engine, "one") + count(&engine, "two"),
        THREADS * EACH
    );
    engine.close().unwrap();
    let engine = open(&dir);
    assert_eq!(
        count(&engine, "one") + count(&engine, "two"),
        THREADS * EACH
    );
}

#[test]
fn rule_13_counters_by_many_tasks_lose_nothing() {
    const TASKS: u64 = 64;
    const EACH: u64 = 10;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let failed = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (shard, failed) = (engine.shard(SHARD), failed.clone());
            runtime.spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let found = shard.get_versioned("n").await.unwrap();
                        let done = match found {
                            Some((value, version)) => {
                                let count: u64 =
                                    std::str::from_utf8(&value).unwrap().parse().unwrap();
                                let write = shard.put("n", (count + 1).to_string());
                                write.if_version("n", version).await
                            }
                            None => shard.put("n", "1").if_absent("n").await,
                        };
                        match done {
                            Ok(_) => break,
                            Err(Error::ConditionFailed { .. }) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    assert_eq!(count(&engine, "n"), TASKS * EACH);
    // It would prove nothing if they had never met.
    assert!(failed.load(Ordering::Relaxed) > 0);
}

/// A unique owner: of all that want the key at once, with no value there, exactly one gets it; one that is told "no" can
/// read who it was.
#[test]
fn rule_13_one_of_many_gets_an_absent_key() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    for round in 0..40 {
        let key = format!("lock/{round}");
        let start = std::sync::Barrier::new(6);
        let wins: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|number: u32| {
                    let (shard, key, start) = (engine.shard(SHARD), &key, &start);
                    scope.spawn(move || {
                        start.wait();
                        let won = shard.put(key, number.to_string()).if_absent(key).wait();
                        if let Err(error) = &won {
                            assert!(matches!(error, Error::ConditionFailed { .. }));
                            assert!(shard.get(key).wait().unwrap().is_some());
                        }
                        won.is_ok().then_some(number)
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended.flatten().collect()
        });
        let [winner] = wins[..] else {
            panic!("{} threads own {key}", wins.len())
        };
        let value = engine.shard(SHARD).get(&key).wait().unwrap().unwrap();
        assert_eq!(value, winner.to_string());
    }
}

#[test]
fn rule_13_counters_lose_nothing_while_their_shard_moves() {
    const THREADS: u64 = 4;
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let running = AtomicBool::new(true);
    let made: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = [&a, &b, &a, &b][..THREADS as usize]
            .iter()
            .map(|engine| {
                let (shard, running) = (engine.shard(SHARD), &running);
                scope.spawn(move || {
                    let mut made = 0;
                    while running.load(Ordering::Relaxed) {
                        increment(&shard, "n");
                        made += 1;
                    }
                    made
                })
            })
            .collect();
        let moving = a.migrate(SHARD).to("b").config(quick()).start();
        let moved = moving.and_then(|moving| moving.wait());
        running.store(false, Ordering::Relaxed);
        moved.unwrap();
        let made = threads.into_iter().map(|thread| thread.join().unwrap());
        made.sum()
    });
    assert!(made > 0);
    assert_eq!(count(&a, "n"), made);
}

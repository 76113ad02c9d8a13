//! Opening and closing under load: every request ends with an outcome, and what was acknowledged is there.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use support::Model;
use watershed::{Durability, Engine, Error, Retry, ScanOptions};

fn open(dir: &tempfile::TempDir) -> Engine {
    Engine::options().shards(4).open(dir.path()).unwrap()
}

/// Writes, reads and scans until the engine closes.
fn use_until_closed(engine: &Engine, thread: usize, round: usize) -> Model {
    let mut model = Model::default();
    for number in 0.. {
        let key = format!("{thread}/{}", number % 300).into_bytes();
        let value = format!("{round}/{number}").into_bytes();
        let mut write = engine.put(&key, &value);
        if number % 3 == 0 {
            write = write.durability(Durability::Buffered);
        }
        let wrote = match number % 2 {
            0 => write.wait(),
            _ => pollster::block_on(async { write.await }),
        };
        match wrote {
            Ok(version) => {
                model.keys.insert(key, (Some(value), version));
                model
                    .unsure
                    .retain(|unsure| *unsure != format!("{thread}/{}", number % 300).into_bytes());
            }
            Err(error) => {
                assert_eq!(error.retry(), Retry::Unknown, "{error}");
                model.keys.remove(&key);
                model.unsure.push(key);
                return model;
            }
        }
        if number % 16 == 0 {
            let found = engine.scan(ScanOptions::all().limit(40));
            for entry in found {
                match entry {
                    Ok(_) => {}
                    Err(Error::Closed | Error::SnapshotExpired) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    unreachable!()
}

#[test]
fn opens_and_closes_fifty_times_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for round in 0..50 {
        let engine = open(&dir);
        model.check(&engine);
        let seen = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let engine = engine.clone();
                    scope.spawn(move || use_until_closed(&engine, thread, round))
                })
                .collect();
            // Not after a time: after something has happened.
            let before = engine.status().unwrap().log.records;
            support::wait_until("writes", || {
                engine.status().unwrap().log.records >= before + 20 + round as u64 * 7
            });
            engine.close().unwrap();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended.collect::<Vec<_>>()
        });
        for later in seen {
            model = model.then(later);
        }
    }
    model.check(&open(&dir));
}

#[test]
fn closing_with_thousands_in_flight_gives_each_an_outcome() {
    const WRITES: usize = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let some = Arc::new(AtomicBool::new(false));
    let writes: Vec<_> = (0..WRITES)
        .map(|number| {
            let (engine, some) = (engine.clone(), some.clone());
            runtime.spawn(async move {
                let done = engine.put(format!("k{number}"), vec![3; 500]).await;
                some.store(true, Ordering::Relaxed);
                done
            })
        })
        .collect();
    support::wait_until("the first ends", || some.load(Ordering::Relaxed));
    engine.close().unwrap();
    let outcomes: Vec<_> = writes
        .into_iter()
        .map(|write| runtime.block_on(write).unwrap())
        .collect();
    let engine = open(&dir);
    for (number, outcome) in outcomes.iter().enumerate() {
        let found = engine.get_versioned(format!("k{number}")).wait().unwrap();
        match outcome {
            Ok(version) => assert_eq!(found.unwrap().1, *version, "k{number} was acknowledged"),
            Err(error) => assert_eq!(error.retry(), Retry::Unknown, "{error}"),
        }
    }
    assert!(outcomes.iter().any(Result::is_ok));
}

#[test]
fn engines_close_while_they_are_being_dropped_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let engine = open(&dir);
        let last = Arc::new(Mutex::new(Some(engine.clone())));
        std::thread::scope(|scope| {
            scope.spawn(|| drop(last.lock().unwrap().take()));
            scope.spawn(|| engine.close().unwrap());
            scope.spawn(|| {
                let _ = engine.put("k", "v").wait();
                let _ = engine.flush();
                engine.close().unwrap();
            });
        });
    }
}

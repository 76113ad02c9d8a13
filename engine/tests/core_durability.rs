//! What survives the death of a process, what is synced behind it, and what a reader beside it sees.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::wait_until;
use watershed::{Durability, Engine, Retry, ScanOptions, Seq, ShardId};

/// Where a child of these tests works, and what it does there.
const PLACE: &str = "WATERSHED_TEST_PLACE";
const TASK: &str = "WATERSHED_TEST_TASK";

fn open(dir: &Path) -> Engine {
    let options = Engine::options().shards(3).segment_bytes(1 << 20);
    options.open(dir).unwrap()
}

/// Runs in a process of its own; by itself it has nothing to do.
#[test]
fn child() {
    let (Some(place), Ok(task)) = (std::env::var_os(PLACE), std::env::var(TASK)) else {
        return;
    };
    let engine = open(Path::new(&place));
    let durability = match task.as_str() {
        "sync" => Durability::Sync,
        _ => Durability::Buffered,
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (engine, task) = (&engine, &task);
            scope.spawn(move || {
                for number in 0..20_000 {
                    let key = format!("{thread}/{number}");
                    let write = engine.put(&key, vec![b'v'; number % 700]);
                    write.durability(durability).wait().unwrap();
                    tell(&key);
                    if task == "flush" && thread == 0 && number % 100 == 99 {
                        engine.flush().unwrap();
                    }
                    if task == "abort" && number == 500 {
                        std::process::abort();
                    }
                }
            });
        }
    });
}

/// A line to the parent, whole, past the test's capture of what is printed.
fn tell(line: &str) {
    let mut out = fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/fd/1")
        .unwrap();
    out.write_all(format!("did {line}\n").as_bytes()).unwrap();
}

fn start(place: &Path, task: &str) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(PLACE, place)
        .env(TASK, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let keys = lines.filter_map(|line| Some(line.ok()?.strip_prefix("did ")?.to_owned()));
    (child, keys)
}

/// The keys that a child had acknowledged before it was killed, after at least so many.
fn killed_after(place: &Path, task: &str, count: usize) -> Vec<String> {
    let (mut child, mut keys) = start(place, task);
    let mut done: Vec<_> = keys.by_ref().take(count).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    done.extend(keys);
    assert!(done.len() >= count);
    done
}

fn check(done: &[String], get: impl Fn(&str) -> Option<usize>) {
    for key in done {
        let number: usize = key.split_once('/').unwrap().1.parse().unwrap();
        assert_eq!(get(key), Some(number % 700), "{key} was acknowledged");
    }
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_process() {
    for (task, count) in [("buffered", 6_000), ("sync", 800), ("flush", 3_000)] {
        let dir = tempfile::tempdir().unwrap();
        let done = killed_after(dir.path(), task, count);
        let engine = open(dir.path());
        check(&done, |key| Some(engine.get(key).wait().unwrap()?.len()));
        engine.put("after", "v").wait().unwrap();
        engine.close().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_an_abort() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, keys) = start(dir.path(), "abort");
    let done: Vec<_> = keys.collect();
    assert!(!child.wait().unwrap().success());
    assert!(done.len() > 500);
    let engine = open(dir.path());
    check(&done, |key| Some(engine.get(key).wait().unwrap()?.len()));
}

/// Every file with its bytes and when it was changed.
fn image(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let changed = path.metadata().unwrap().modified().unwrap();
                let bytes = fs::read(&path).unwrap();
                files.insert(path, (bytes, changed));
            }
        }
        files.insert(
            dir.clone(),
            (Vec::new(), dir.metadata().unwrap().modified().unwrap()),
        );
    }
    files
}

#[test]
fn a_reader_of_a_killed_engines_directory_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let done = killed_after(dir.path(), "buffered", 4_000);
    let before = image(dir.path());
    for _ in 0..2 {
        let reader = Engine::options().open_read_only(dir.path()).unwrap();
        check(&done, |key| Some(reader.get(key).unwrap()?.len()));
        let entries = reader.scan(ScanOptions::all()).unwrap().count();
        assert!(entries >= done.len());
        assert_eq!(reader.status().unwrap().shards.len(), 3);
    }
    let after = image(dir.path());
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, file)| after.get(*path) != Some(file))
        .map(|(path, _)| path)
        .collect();
    assert!(changed.is_empty(), "a reader changed {changed:?}");
    assert!(before.len() == after.len(), "a reader made files");
    let engine = open(dir.path());
    check(&done, |key| Some(engine.get(key).wait().unwrap()?.len()));
}

#[test]
fn a_reader_beside_a_running_engine_sees_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut keys) = start(dir.path(), "flush");
    let mut done = Vec::new();
    for _ in 0..15 {
        done.extend(keys.by_ref().take(300));
        let reader = Engine::options().open_read_only(dir.path()).unwrap();
        check(&done, |key| Some(reader.get(key).unwrap()?.len()));
        let refused = Engine::open(dir.path()).unwrap_err();
        assert_eq!(refused.retry(), Retry::Now, "{refused}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    done.extend(keys);
    let engine = open(dir.path());
    check(&done, |key| Some(engine.get(key).wait().unwrap()?.len()));
}

#[test]
fn buffered_writes_are_synced_behind_their_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let shard = engine.shard(ShardId(1));
    let status = || {
        let status = engine.status().unwrap();
        let mine = |status: &watershed::ShardStatus| status.shard == ShardId(1);
        status.shards.into_iter().find(mine).unwrap()
    };
    for number in 0..50 {
        let write = shard.put("k", number.to_string());
        write.durability(Durability::Buffered).wait().unwrap();
        let now = status();
        assert_eq!(now.applied, now.assigned, "acknowledged is applied");
        assert!(now.durable <= now.assigned);
    }
    let last = status().assigned;
    wait_until("the background sync", || status().durable == last);
    // A `Sync` write is durable, with all before it, when it is acknowledged.
    for number in 0..20 {
        let write = shard.put("b", number.to_string());
        write.durability(Durability::Buffered).wait().unwrap();
        shard.put("s", number.to_string()).wait().unwrap();
        assert_eq!(status().durable, status().assigned);
    }
}

#[test]
fn rule_18_flushed_is_what_is_persisted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let flushed = |engine: &Engine| -> Vec<Seq> {
        let shards = engine.status().unwrap().shards;
        shards.iter().map(|shard| shard.flushed).collect()
    };
    for number in 0..300 {
        engine
            .put(format!("k{number}"), vec![1; 300])
            .wait()
            .unwrap();
    }
    let before = flushed(&engine);
    let persisted = || -> Vec<Seq> {
        // What the SSTs of the directory say, to somebody without the memtables.
        let reader = Engine::options().open_read_only(dir.path()).unwrap();
        let shards = reader.status().unwrap().shards;
        shards.iter().map(|shard| shard.flushed).collect()
    };
    assert_eq!(before, persisted());
    let applied = |engine: &Engine| -> Vec<Seq> {
        let shards = engine.status().unwrap().shards;
        shards.iter().map(|shard| shard.applied).collect()
    };
    assert!(
        before
            .iter()
            .zip(applied(&engine))
            .all(|(flushed, applied)| *flushed < applied)
    );
    engine.flush().unwrap();
    assert_eq!(flushed(&engine), applied(&engine));
    assert_eq!(flushed(&engine), persisted());
}

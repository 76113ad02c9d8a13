//! The log's limit: a cold shard is flushed so that it does not keep the log, and the files never take more than they
//! may, seen from outside all the time.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use watershed::{Engine, Retry, Seq, ShardId};

/// Where the child works.
const PLACE: &str = "WATERSHED_TEST_PLACE";
const SHARDS: u64 = 64;
const COLD: ShardId = ShardId(17);
const SEGMENT: u32 = 128 << 10;
const LIMIT: u64 = 2 << 20;
/// How much is written, at least: the log's limit many times.
const WRITES: usize = 12_000;
const VALUE: usize = 1_000;

fn open(dir: &Path) -> Engine {
    Engine::options()
        .shards(SHARDS)
        .segment_bytes(SEGMENT)
        .log_limit_bytes(LIMIT)
        .open(dir)
        .unwrap()
}

fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_string().into_bytes();
    value.resize(VALUE, b'.');
    value
}

/// Runs in a process of its own until it is killed; by itself it has nothing to do.
#[test]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let engine = open(Path::new(&place));
    engine.shard(COLD).put("cold", "still here").wait().unwrap();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (engine, next) = (&engine, &next);
            scope.spawn(move || {
                for turn in 0.. {
                    // All shards but the cold one; each thread's keys are its own.
                    let shard = ShardId((COLD.0 + 1 + turn % (SHARDS - 1)) % SHARDS);
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let key = format!("{thread} {}", turn % 700);
                    match engine.shard(shard).put(&key, value(number)).wait() {
                        Ok(_) => tell(&format!("{shard} {number} {key}")),
                        // Full for a moment: it is flushed meanwhile.
                        Err(error) => assert_eq!(error.retry(), Retry::Now, "{error}"),
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

/// Bytes of the log's files now.
fn log_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir.join("wal")).into_iter().flatten();
    // One that goes away while it is listed takes nothing.
    let lengths = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    lengths.sum()
}

#[test]
fn a_cold_shard_does_not_keep_the_log_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Made here, so that the directory is there to be looked at.
    open(dir.path()).close().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(PLACE, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut done = lines.filter_map(|line| Some(line.ok()?.strip_prefix("did ")?.to_owned()));
    let over = AtomicBool::new(false);
    let (written, most) = std::thread::scope(|scope| {
        let (over, path) = (&over, dir.path());
        let looking = scope.spawn(move || {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(log_bytes(path));
            }
            most
        });
        let mut written: Vec<_> = done.by_ref().take(WRITES).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        written.extend(done);
        over.store(true, Ordering::Relaxed);
        (written, looking.join().unwrap())
    });
    assert!(written.len() >= WRITES);
    assert!(
        most <= LIMIT,
        "the log took {most} bytes, {LIMIT} are allowed"
    );
    assert!(
        most > LIMIT / 2,
        "it was looked at while it was written: {most}"
    );

    let engine = open(dir.path());
    let cold = engine.shard(COLD).get("cold").wait().unwrap();
    assert_eq!(cold.unwrap(), "still here");
    let status = engine.status().unwrap();
    let cold = status.shards.iter().find(|s| s.shard == COLD).unwrap();
    // Its start record and its one write, in SSTs: nobody but the engine itself asked for that.
    assert!(cold.flushed >= Seq(2), "{cold:?}");

    // A killed child's last writes may be there untold, so a key has what was told last, or a later one.
    let mut last: HashMap<(u64, &str), u64> = HashMap::new();
    for line in &written {
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().unwrap();
        let (shard, number) = (part().parse().unwrap(), part().parse().unwrap());
        last.insert((shard, part()), number);
    }
    for ((shard, key), number) in last {
        let found = engine.shard(ShardId(shard)).get(key).wait().unwrap();
        let found = found.unwrap_or_else(|| panic!("shard {shard}, {key} was acknowledged"));
        let text = std::str::from_utf8(&found).unwrap();
        let found: u64 = text.trim_end_matches('.').parse().unwrap();
        assert!(
            found >= number,
            "shard {shard}, {key}: {found}, {number} was acknowledged"
        );
    }
}

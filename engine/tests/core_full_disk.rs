//! A disk that is full, for real: reads go on, writes are refused by name, nothing acknowledged is lost, and writes go on
//! once there is room, with the engine open all the time.
//!
//! Each case runs in a process of its own: one with a small file system that only it sees, the others with a limit on
//! the size of its files, which hits SSTs and spares the log.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use support::wait_until;
use watershed::{Durability, Engine, Error, Retry, ShardId};

/// Where the child works, and what it does there.
const PLACE: &str = "WATERSHED_TEST_PLACE";
const TASK: &str = "WATERSHED_TEST_TASK";
/// What the child's shell ends with where no file system may be mounted.
const NOT_ALLOWED: i32 = 77;
const SHARDS: u64 = 2;
const KIB: u64 = 1024;

fn open(dir: &Path) -> Engine {
    Engine::options()
        .shards(SHARDS)
        .segment_bytes(256 << 10)
        .log_limit_bytes(6 << 20)
        .write_buffer_bytes(8 << 20)
        .open(dir)
        .unwrap()
}

/// What was acknowledged, and what may be there or not.
#[derive(Default)]
struct Model {
    random: u64,
    acknowledged: BTreeMap<String, Vec<u8>>,
    refused: BTreeMap<String, Vec<u8>>,
}

impl Model {
    /// Bytes that don't compress.
    fn value(&mut self, len: usize) -> Vec<u8> {
        let next = || {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (self.random >> 33) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn put(&mut self, engine: &Engine, durability: Durability) -> Result<(), Error> {
        let number = self.acknowledged.len() + self.refused.len();
        let key = format!("key {number}");
        let value = self.value(8_000);
        let shard = engine.shard(ShardId(number as u64 % SHARDS));
        let outcome = shard.put(&key, &value).durability(durability).wait();
        match outcome {
            Ok(_) => {
                self.acknowledged.insert(key, value);
                Ok(())
            }
            Err(error) => {
                if error.retry() == Retry::Unknown {
                    self.refused.insert(key, value);
                } else {
                    assert_eq!(error.retry(), Retry::Now, "{error}");
                    assert!(shard.get(&key).wait().unwrap().is_none(), "{error}");
                }
                Err(error)
            }
        }
    }

    /// Everything acknowledged is there; what is there was written.
    fn check(&self, engine: &Engine) {
        for (key, value) in &self.acknowledged {
            let found = engine.get(key).shard(self.shard_of(key)).wait().unwrap();
            assert_eq!(found.as_deref(), Some(&value[..]), "{key} was acknowledged");
        }
        for (key, value) in &self.refused {
            let found = engine.get(key).shard(self.shard_of(key)).wait().unwrap();
            assert!(found.is_none_or(|found| found == value), "{key}");
        }
    }

    fn shard_of(&self, key: &str) -> ShardId {
        let number: u64 = key.split_once(' ').unwrap().1.parse().unwrap();
        ShardId(number % SHARDS)
    }
}

fn store_errors(engine: &Engine) -> Vec<String> {
    let status = engine.status().unwrap();
    let shards = status.shards.into_iter();
    shards.filter_map(|shard| shard.store_error).collect()
}

/// Three times: no room, until a write is refused and a store has failed; then room.
fn runs_full(dir: &Path, fill: impl Fn(u64), free: impl Fn()) {
    let mut engine = open(dir);
    let mut model = Model::default();
    for round in 0..3 {
        for number in 0..200 {
            let durability = [Durability::Sync, Durability::Buffered][number % 2];
            // So small a log is full for a moment now and then: it is flushed meanwhile.
            wait_until("a write", || model.put(&engine, durability).is_ok());
        }
        fill(round);
        // Enough for the log's limit, so that it is the disk, or the stores that don't flush, that ends it.
        let mut writes = 0;
        let refused = loop {
            if let Err(error) = model.put(&engine, Durability::Buffered) {
                break error;
            }
            writes += 1;
            assert!(writes < 100_000, "the disk was to be full");
        };
        println!("refused after {writes} writes: {refused}");
        let unflushed = engine.flush().unwrap_err();
        println!("{unflushed}");
        model.check(&engine);
        for _ in 0..20 {
            // Some still find room in the log's last segment.
            let _ = model.put(&engine, Durability::Sync);
            model.check(&engine);
        }
        assert_ne!(store_errors(&engine), [""; 0]);
        free();
        wait_until("writes go on", || {
            let both = [0; SHARDS as usize].map(|_| model.put(&engine, Durability::Sync).is_ok());
            both == [true; SHARDS as usize]
        });
        wait_until("the stores are healed", || store_errors(&engine).is_empty());
        model.check(&engine);
        for _ in 0..300 {
            wait_until("a write", || model.put(&engine, Durability::Sync).is_ok());
        }
        engine.flush().unwrap();
        model.check(&engine);
        if round == 1 {
            engine.close().unwrap();
            engine = open(dir);
            model.check(&engine);
        }
    }
    engine.close().unwrap();
    model.check(&open(dir));
}

/// A file that takes all the room there is.
fn fill_up(ballast: &Path) {
    let mut file = File::create(ballast).unwrap();
    for chunk in [1 << 20, 4 << 10] {
        while file.write_all(&vec![1; chunk]).is_ok() {}
    }
}

/// Bounds the size of this process's files from now on.
fn limit_files(bytes: &str) {
    let limited = Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg(format!("--fsize={bytes}:unlimited"))
        .status()
        .unwrap();
    assert!(limited.success());
}

/// Runs in a process of its own; by itself it has nothing to do.
#[test]
fn child() {
    let (Some(place), Ok(task)) = (std::env::var_os(PLACE), std::env::var(TASK)) else {
        return;
    };
    let place = Path::new(&place);
    let dir = place.join("data");
    let ballast = place.join("ballast");
    match task.as_str() {
        "disk" => runs_full(
            &dir,
            |_| fill_up(&ballast),
            || fs::remove_file(&ballast).unwrap(),
        ),
        // Not even an opening has room; an opening has, a flush has not; by turns.
        "file size" => runs_full(
            &dir,
            |round| limit_files(&([700 * KIB, 1400 * KIB][round as usize % 2]).to_string()),
            || limit_files("unlimited"),
        ),
        other => panic!("no such task: {other}"),
    }
}

/// Runs the child after a shell has set it up; gives the status it ended with.
fn run(shell: &mut Command, script: &str, task: &str) -> Option<i32> {
    let place = tempfile::tempdir().unwrap();
    let status = shell
        .args([
            "-c",
            &format!("{script}; exec \"$0\" --exact child --nocapture --test-threads=1"),
        ])
        .arg(std::env::current_exe().unwrap())
        .env(PLACE, place.path())
        .env(TASK, task)
        .status();
    status.ok().and_then(|status| status.code())
}

#[test]
fn a_full_disk_stops_writes_only_and_only_until_there_is_room() {
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh"]);
    let mount = format!("mount -t tmpfs -o size=40m none \"${PLACE}\" || exit {NOT_ALLOWED}");
    match run(&mut shell, &mount, "disk") {
        Some(0) => {}
        // Neither root nor user namespaces: the limit on file sizes below is all that can be had.
        None | Some(NOT_ALLOWED | 1) if !may_mount() => {}
        other => panic!("the child ended with {other:?}"),
    }
}

/// Whether this account may have a file system of its own.
fn may_mount() -> bool {
    let mut shell = Command::new("unshare");
    let tried = shell
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=1m none /tmp")
        .status();
    tried.is_ok_and(|status| status.success())
}

#[test]
fn files_that_cant_grow_stop_writes_only_and_only_until_they_can() {
    let mut shell = Command::new("sh");
    // Ignored, the signal becomes the error that the write gets.
    let status = run(&mut shell, "trap '' XFSZ", "file size");
    assert_eq!(status, Some(0));
}

//! What a killed process does: it opens engines, writes with several writers, and moves shards, until it is killed.

use std::env::var;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use watershed::migration::{MigrationConfig, Phase};
use watershed::{Engine, LocalCluster, Placement, Retry, ShardId};

use crate::journal::Journal;
use crate::process::{MARK, Random};
use crate::tail::{self, Tail};

/// Keys of one writer.
const KEYS: u64 = 400;
/// Writes that the asynchronous writer has under way.
const IN_FLIGHT: usize = 32;
const MOVING_SHARDS: u64 = 3;

pub(crate) fn run_if_told() {
    let Ok(role) = var("WATERSHED_KILLED") else {
        return;
    };
    let dir = PathBuf::from(var("WATERSHED_KILLED_DIR").unwrap());
    let journal = PathBuf::from(var("WATERSHED_KILLED_JOURNAL").unwrap());
    let seed: u64 = var("WATERSHED_KILLED_SEED").unwrap().parse().unwrap();
    // Whatever goes wrong here ends the process, and the parent says so.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("the child failed: {panic}");
        std::process::abort();
    }));
    match role.as_str() {
        "load" => {
            let engine = open_alone(&dir);
            say("open");
            write_for_ever([engine.clone(), engine], &journal, seed);
        }
        "move" => {
            let (cluster, engines) = open_pair(&dir);
            say("open");
            for shard in 0..MOVING_SHARDS {
                move_for_ever(&cluster, &engines, ShardId(shard), Duration::ZERO);
            }
            write_for_ever(engines, &journal, seed);
        }
        "there-and-back" => {
            let (cluster, engines) = open_pair(&dir);
            say("open");
            move_for_ever(&cluster, &engines, ShardId(0), Duration::from_secs(3600));
            write_for_ever(engines, &journal, seed);
        }
        "tail-mixed" => write_tail(tail::MIXED, &dir),
        "tail-large" => write_tail(tail::LARGE, &dir),
        "replay-mixed" => replay_tail(tail::MIXED, &dir),
        "replay-large" => replay_tail(tail::LARGE, &dir),
        other => panic!("no such role: {other}"),
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // The parent may have gone.
    let _ = writeln!(stdout, "{MARK}{line}");
    let _ = stdout.flush();
}

/// One engine with a small log and small buffers, so that segments are recycled and stores flush within a life.
pub(crate) fn open_alone(dir: &Path) -> Engine {
    trace();
    Engine::options()
        .shards(4)
        .segment_bytes(1 << 20)
        .log_limit_bytes(8 << 20)
        .write_buffer_bytes(1 << 20)
        .open(dir.join("alone"))
        .unwrap()
}

/// Writes what no store flushes, and waits to be killed.
fn write_tail(tail: Tail, dir: &Path) {
    let engine = tail.open(dir, 1 << 30);
    tail.write(&engine);
    say("written");
    std::thread::sleep(Duration::from_secs(3600));
}

/// Opens with stores that keep little in memory, says what that took, and waits to be killed.
fn replay_tail(tail: Tail, dir: &Path) {
    trace();
    let _engine = tail.open(dir, 4 << 20);
    say(&format!(
        "peak {}",
        tail::peak_memory().map_or(0, |bytes| bytes >> 20)
    ));
    std::thread::sleep(Duration::from_secs(3600));
}

/// Log lines as `RUST_LOG` asks for them.
fn trace() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
}

/// Two engines of one placement.
pub(crate) fn open_pair(dir: &Path) -> (LocalCluster, [Engine; 2]) {
    trace();
    let cluster = LocalCluster::open(dir).unwrap();
    let open = |node: &str| {
        let options = Engine::options().node(node).shards(MOVING_SHARDS);
        options.cluster(&cluster).open(dir.join(node)).unwrap()
    };
    let engines = [open("a"), open("b")];
    (cluster, engines)
}

/// The copies of a shard in a node's data directory.
pub(crate) fn copies(dir: &Path, shard: ShardId) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("shards")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let prefix = format!("{shard}-");
    names.filter(|name| name.starts_with(&prefix)).collect()
}

fn write_for_ever(engines: [Engine; 2], journals: &Path, seed: u64) {
    let mut threads = Vec::new();
    for writer in 0..3_u64 {
        let engine = engines[usize::try_from(writer % 2).unwrap()].clone();
        let journal = Journal::create(journals, writer);
        threads.push(std::thread::spawn(move || {
            one_at_a_time(&engine, journal, writer, seed)
        }));
    }
    let (engine, journal) = (engines[1].clone(), Journal::create(journals, 3));
    threads.push(std::thread::spawn(move || {
        many_at_once(&engine, journal, seed)
    }));
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The value that is to be written, or `None` for a delete: no two writes of all lives have the same.
fn value(seed: u64, count: u64, random: &mut Random) -> Option<String> {
    let len = usize::try_from(random.below(300)).unwrap();
    (random.below(10) != 0).then(|| format!("{seed:x}.{count}.{}", "x".repeat(len)))
}

fn one_at_a_time(engine: &Engine, mut journal: Journal, writer: u64, seed: u64) {
    let mut random = Random::new(seed ^ (writer + 1) << 40);
    for count in 0_u64.. {
        let key = format!("w{writer}/{}", random.below(KEYS));
        let value = value(seed, count, &mut random);
        journal.begin(&key, value.as_deref());
        let version = loop {
            let outcome = match &value {
                Some(value) => engine.put(&key, value).wait(),
                None => engine.delete(&key).wait(),
            };
            match outcome {
                Ok(version) => break version,
                Err(error) if error.retry() == Retry::Now => {}
                Err(error) => panic!("writer {writer}: {error}"),
            }
        };
        journal.acknowledged(&key, version);
    }
}

fn many_at_once(engine: &Engine, mut journal: Journal, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut random = Random::new(seed ^ 99 << 40);
    runtime.block_on(async {
        let mut free: Vec<u64> = (0..KEYS).collect();
        let mut under_way = JoinSet::new();
        for count in 0_u64.. {
            let at = usize::try_from(random.below(free.len() as u64)).unwrap();
            let number = free.swap_remove(at);
            let key = format!("m/{number}");
            let value = value(seed, count, &mut random);
            journal.begin(&key, value.as_deref());
            let engine = engine.clone();
            under_way.spawn(async move {
                loop {
                    let outcome = match &value {
                        Some(value) => engine.put(&key, value).await,
                        None => engine.delete(&key).await,
                    };
                    match outcome {
                        Ok(version) => return (number, key, version),
                        Err(error) if error.retry() == Retry::Now => {}
                        Err(error) => panic!("the asynchronous writer: {error}"),
                    }
                }
            });
            if under_way.len() >= IN_FLIGHT {
                let (number, key, version) = under_way.join_next().await.unwrap().unwrap();
                journal.acknowledged(&key, version);
                free.push(number);
            }
        }
    });
}

/// Moves a shard to the other engine and back, on a thread of its own, for ever.
fn move_for_ever(cluster: &LocalCluster, engines: &[Engine; 2], shard: ShardId, grace: Duration) {
    let (placement, engines): (Arc<dyn Placement>, _) = (cluster.placement(), engines.clone());
    let config = MigrationConfig {
        pause_max_ms: 2_000,
        attempts_max: 50,
        grace_ms: u64::try_from(grace.as_millis()).unwrap(),
        ..MigrationConfig::default()
    };
    std::thread::spawn(move || {
        loop {
            let record = pollster::block_on(placement.read(shard)).unwrap().unwrap();
            let under_way = record
                .active_migration()
                .is_some_and(|m| m.phase != Phase::Cleanup);
            if under_way {
                // One of an earlier life goes on.
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let owner = usize::from(record.owner.as_str() == "b");
            let to = ["b", "a"][owner];
            let started = engines[owner]
                .migrate(shard)
                .to(to)
                .config(config.clone())
                .observer(Arc::new(|progress| {
                    say(&format!("phase {}", progress.phase))
                }))
                .start();
            started.unwrap().wait().unwrap();
            say("moved");
        }
    });
}

//! Two engines of one process, writers with a model of what was acknowledged, and the checks after a move.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use watershed::migration::machine::Progress;
use watershed::migration::{MigrationConfig, NodeId, Phase, PlacementRecord};
use watershed::{Engine, Error, Link, LocalCluster, Placement, Retry, ShardId, Version};

/// How long a test waits for what must happen: far beyond what it takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// Where the engines of a test live.
pub struct World {
    dir: tempfile::TempDir,
    pub cluster: LocalCluster,
    shards: u64,
}

impl World {
    pub fn new(shards: u64) -> Self {
        Self::with(shards, |cluster| cluster)
    }

    pub fn with(shards: u64, wrap: impl FnOnce(LocalCluster) -> LocalCluster) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let cluster = wrap(LocalCluster::open(dir.path()).unwrap());
        Self {
            dir,
            cluster,
            shards,
        }
    }

    pub fn with_link(shards: u64, wrap: impl FnOnce(Arc<dyn Link>) -> Arc<dyn Link>) -> Self {
        Self::with(shards, |cluster| cluster.with_link(wrap))
    }

    pub fn path(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }

    pub fn open(&self, node: &str) -> Engine {
        let options = Engine::options()
            .node(node)
            .shards(self.shards)
            .cluster(&self.cluster);
        options.open(self.path(node)).unwrap()
    }

    pub fn record(&self, shard: ShardId) -> PlacementRecord {
        let placement: Arc<dyn Placement> = self.cluster.placement();
        let record = pollster::block_on(placement.read(shard)).unwrap().unwrap();
        record.validate().unwrap();
        record
    }

    /// The copies of a shard in a node's data directory.
    pub fn copies(&self, node: &str, shard: ShardId) -> Vec<String> {
        let prefix = format!("{shard}-");
        let entries = std::fs::read_dir(self.path(node).join("shards")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    /// Nothing of an ended migration is left beside the copies and certificates.
    pub fn assert_no_leftovers(&self, node: &str) {
        for place in ["incoming", "checkpoints"] {
            let Ok(entries) = std::fs::read_dir(self.path(node).join(place)) else {
                continue;
            };
            let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.is_empty(), "{node}/{place} still has {left:?}");
        }
    }
}

/// A pause long enough for a busy test machine, and a short grace time.
pub fn quick() -> MigrationConfig {
    MigrationConfig {
        pause_max_ms: 2_000,
        attempts_max: 50,
        grace_ms: 0,
        ..MigrationConfig::default()
    }
}

/// What a key was last acknowledged to hold; `None` after a delete.
type Acknowledged = HashMap<Vec<u8>, (Option<Vec<u8>>, Version)>;

/// Threads that write, each its own keys, and remember what was acknowledged.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Model>>,
}

impl Writers {
    pub fn start(engine: &Engine, threads: u64) -> Self {
        Self::starting_at(engine, threads, 0)
    }

    pub fn starting_at(engine: &Engine, threads: u64, first: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let threads = (first..first + threads).map(|number| {
            let (engine, stop, acknowledged) = (engine.clone(), stop.clone(), acknowledged.clone());
            std::thread::spawn(move || write(&engine, number, &stop, &acknowledged))
        });
        let threads = threads.collect();
        Self {
            stop,
            acknowledged,
            threads,
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for_more(&self, count: u64) {
        let until = self.acknowledged() + count;
        wait_until("writers go on", || self.acknowledged() >= until);
    }

    pub fn stop(self) -> Model {
        self.stop.store(true, Ordering::Relaxed);
        let mut model = Model::default();
        for thread in self.threads {
            model = model.then(thread.join().unwrap());
        }
        model
    }
}

fn write(engine: &Engine, number: u64, stop: &AtomicBool, total: &AtomicU64) -> Model {
    let mut acknowledged = Acknowledged::new();
    let mut unsure = Vec::new();
    let mut count = 0;
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = format!("w{number}/{}", random % 400).into_bytes();
        let value = (!random.is_multiple_of(10)).then(|| {
            format!("{number}:{count}:{}", "x".repeat((random % 200) as usize)).into_bytes()
        });
        let outcome = match &value {
            Some(value) => engine.put(&key, value).wait(),
            None => engine.delete(&key).wait(),
        };
        match outcome {
            Ok(version) => {
                let before = acknowledged.insert(key, (value, version));
                assert!(
                    before.is_none_or(|(_, before)| before < version),
                    "versions of a key grow"
                );
                count += 1;
                total.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.retry() == Retry::Now => {}
            // The engine was closed under it: this write may be there or not.
            Err(error) if matches!(error, Error::Closed) || error.retry() == Retry::Unknown => {
                acknowledged.remove(&key);
                unsure.push(key);
                break;
            }
            Err(error) => panic!("writer {number}: {error}"),
        }
    }
    Model {
        keys: acknowledged,
        unsure,
        writes: count,
    }
}

/// What was acknowledged.
#[derive(Default)]
pub struct Model {
    pub keys: Acknowledged,
    /// Keys whose last write may be there or not.
    pub unsure: Vec<Vec<u8>>,
    pub writes: u64,
}

impl Model {
    /// Every acknowledged write is there, with its version; every deleted key is absent.
    pub fn check(&self, engine: &Engine) {
        for (key, (value, version)) in &self.keys {
            let found = engine.get_versioned(key).wait().unwrap();
            let shown = String::from_utf8_lossy(key);
            match (value, found) {
                (None, None) => {}
                (Some(value), Some((found, at))) => {
                    assert_eq!((&found[..], at), (&value[..], *version), "key {shown}");
                }
                (value, found) => panic!(
                    "key {shown}: {value:?} at {version} was acknowledged, {found:?} is there"
                ),
            }
        }
    }

    /// Later writes replace earlier ones.
    pub fn then(mut self, later: Self) -> Self {
        for key in &later.unsure {
            self.keys.remove(key);
        }
        self.unsure.retain(|key| !later.keys.contains_key(key));
        self.keys.extend(later.keys);
        self.unsure.extend(later.unsure);
        self.writes += later.writes;
        self
    }
}

/// Waits for a condition, and says what for when it never comes.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An observer that calls `then` once, when the migration enters `phase`.
pub fn at_phase(
    phase: Phase,
    then: impl FnOnce() + Send + 'static,
) -> Arc<dyn Fn(&Progress) + Send + Sync> {
    let then = Mutex::new(Some(then));
    Arc::new(move |progress| {
        if progress.phase == phase
            && let Some(then) = then.lock().unwrap().take()
        {
            then();
        }
    })
}

/// A log of what an observer saw.
pub type Seen = Arc<Mutex<Vec<Progress>>>;

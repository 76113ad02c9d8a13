//! The copy of a checkpoint, steered and interrupted: what was fetched is not fetched again, limits and pauses count at
//! once and outlast restarts. What the source serves is counted on its way.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use support::{World, Writers, node, quick, wait_until};
use watershed::migration::messages::{Request, Response};
use watershed::migration::{Limits, MigrationConfig, Phase};
use watershed::{
    BoxFuture, Durability, Engine, Error, Link, LinkError, Migration, NodeId, ShardId,
};

const SHARD: ShardId = ShardId(0);
/// So slow that no copy of a test ends by itself.
const CRAWL: Option<u64> = Some(1024);

/// What the source served: bytes of each file by where they begin, and the checkpoint's size.
#[derive(Debug, Default)]
struct Served {
    chunks: Vec<(String, u64, u64)>,
    total: u64,
}

impl Served {
    fn bytes(&self) -> u64 {
        self.chunks.iter().map(|(_, _, len)| len).sum()
    }
}

/// Counts, and holds back further chunks once a part of the copy was served.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Link>,
    served: Arc<Mutex<Served>>,
    stop_at_percent: u64,
    stops: Arc<AtomicBool>,
}

impl Link for Counting {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let asked = Request::decode(&request).ok();
        let (served, stops) = (self.served.clone(), self.stops.clone());
        let percent = self.stop_at_percent;
        let answer = self.inner.call(to, request);
        Box::pin(async move {
            if let Some(Request::Pull { manifest, .. }) = &asked {
                served.lock().unwrap().total = manifest.total_bytes();
            }
            if matches!(asked, Some(Request::ReadFile { .. })) {
                let enough = || {
                    let served = served.lock().unwrap();
                    served.bytes() * 100 >= served.total * percent
                };
                while stops.load(Ordering::Acquire) && enough() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            let bytes = answer.await?;
            if let (
                Some(Request::ReadFile { name, offset, .. }),
                Ok(Response::FileChunk { bytes, .. }),
            ) = (asked, Response::decode(&bytes))
            {
                let len = bytes.len() as u64;
                served.lock().unwrap().chunks.push((name, offset, len));
            }
            Ok(bytes)
        })
    }
}

struct Scene {
    world: World,
    served: Arc<Mutex<Served>>,
    stops: Arc<AtomicBool>,
    /// What was loaded, beside what writers write.
    values: BTreeMap<String, Vec<u8>>,
}

impl Scene {
    /// Holds back what is more than so many hundredths of the copy, as long as it stops.
    fn new(stop_at_percent: u64) -> Self {
        let served = Arc::<Mutex<Served>>::default();
        let stops = Arc::new(AtomicBool::new(stop_at_percent < 100));
        let (count, stop) = (served.clone(), stops.clone());
        let world = World::with_link(2, |inner| {
            Arc::new(Counting {
                inner,
                served: count,
                stop_at_percent,
                stops: stop,
            })
        });
        Self {
            world,
            served,
            stops,
            values: BTreeMap::new(),
        }
    }

    /// With small write buffers, so that there are several files.
    fn open(&self, name: &str) -> Engine {
        let options = Engine::options()
            .node(name)
            .shards(2)
            .cluster(&self.world.cluster)
            .migrations_at_once(1)
            .write_buffer_bytes(4 << 20);
        options.open(self.world.path(name)).unwrap()
    }

    /// Bytes that don't compress.
    fn load(&mut self, engine: &Engine, megabytes: u64) {
        let mut random = 1_u64;
        for number in 0..megabytes * 64 {
            let value: Vec<u8> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
                (random >> 33) as u8
            })
            .take(16 << 10)
            .collect();
            let key = format!("k{number:06}");
            let put = engine.shard(SHARD).put(&key, &value);
            put.durability(Durability::Buffered).wait().unwrap();
            self.values.insert(key, value);
        }
    }

    fn check(&self, engine: &Engine) {
        for (key, value) in &self.values {
            let found = engine.shard(SHARD).get(key).wait().unwrap();
            assert_eq!(found.as_deref(), Some(&value[..]), "{key}");
        }
    }

    fn served_bytes(&self) -> u64 {
        self.served.lock().unwrap().bytes()
    }

    /// Files that are finished in the target's incoming directory.
    fn finished(&self, name: &str) -> BTreeSet<String> {
        let incoming = self.world.path(name).join("incoming");
        let dirs = std::fs::read_dir(incoming)
            .unwrap()
            .map(|e| e.unwrap().path());
        let files = dirs.filter(|path| path.is_dir()).flat_map(|dir| {
            let entries = std::fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        });
        files.filter(|name| !name.ends_with(".part")).collect()
    }
}

fn slow() -> MigrationConfig {
    MigrationConfig {
        rate_bytes_per_s: CRAWL,
        ..quick()
    }
}

fn full_speed() -> Limits {
    Limits {
        rate_bytes_per_s: Some(None),
        pause_max_ms: None,
    }
}

fn only(engine: &Engine) -> Migration {
    match &engine.migrations()[..] {
        [migration] => migration.clone(),
        others => panic!("{others:?}"),
    }
}

/// At 90 percent one side, or both, are closed and opened again.
fn interrupted(closed: &[&str]) {
    let mut scene = Scene::new(90);
    let mut engines = BTreeMap::from(["a", "b"].map(|name| (name, scene.open(name))));
    let a = engines["a"].clone();
    scene.load(&a, 24);
    drop(a.migrate(SHARD).to("b").config(quick()).start().unwrap());
    wait_until("nine tenths are served", || {
        let served = scene.served.lock().unwrap();
        served.total > 0 && served.bytes() * 100 >= served.total * 90
    });
    // What was served is on its way into files, and stays in them.
    let mut finished = scene.finished("b");
    for name in closed {
        engines.remove(name).unwrap().close().unwrap();
    }
    if closed.contains(&"b") {
        finished = scene.finished("b");
    }
    assert!(!finished.is_empty(), "nothing shows that files stay");
    let before = scene.served.lock().unwrap().chunks.len();
    scene.stops.store(false, Ordering::Release);
    for name in closed {
        engines.insert(name, scene.open(name));
    }
    wait_until("the migration ends", || {
        scene.world.record(SHARD).active_migration().is_none()
    });
    let record = scene.world.record(SHARD);
    let reason = record.migration.and_then(|m| m.reason);
    assert_eq!(record.owner, node("b"), "{reason:?}");
    scene.check(&engines["b"]);
    let served = scene.served.lock().unwrap();
    let again = served.bytes() - served.total;
    let percent = again * 100 / served.total;
    assert!(percent < 15, "{again} of {} bytes again", served.total);
    let twice = |(name, ..): &&(String, u64, u64)| finished.contains(name);
    assert_eq!(served.chunks[before..].iter().find(twice), None);
}

#[test]
fn a_copy_goes_on_where_the_target_stopped() {
    interrupted(&["b"]);
}

#[test]
fn a_copy_goes_on_where_the_source_stopped() {
    interrupted(&["a"]);
}

#[test]
fn a_copy_goes_on_where_both_stopped() {
    interrupted(&["a", "b"]);
}

#[test]
fn an_undisturbed_copy_serves_each_byte_once() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 12);
    let migration = a.migrate(SHARD).to("b").config(quick()).start().unwrap();
    migration.finished().unwrap();
    scene.check(&b);
    let served = scene.served.lock().unwrap();
    assert_eq!(served.bytes(), served.total);
    let files: BTreeSet<_> = served.chunks.iter().map(|chunk| &chunk.0).collect();
    assert!(files.len() > 3, "{files:?}");
}

#[test]
fn a_copy_that_gives_way_to_writers_comes_to_its_end() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 8);
    // Writers are never as calm as that for long: each judgement may go either way.
    let config = MigrationConfig {
        adaptive_percent: Some(100),
        ..quick()
    };
    let writers = Writers::start(&a, 3);
    writers.wait_for_more(100);
    let migration = a.migrate(SHARD).to("b").config(config).start().unwrap();
    migration.finished().unwrap();
    scene.check(&b);
    writers.stop().check(&b);
    let bad = MigrationConfig {
        adaptive_percent: Some(99),
        ..quick()
    };
    let refused = b.migrate(SHARD).to("a").config(bad).start();
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
}

#[test]
fn a_new_rate_counts_for_a_copy_that_is_running() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 4);
    let migration = a.migrate(SHARD).to("b").config(slow()).start().unwrap();
    wait_until("the copy has begun", || scene.served_bytes() > 0);
    let bad = Limits {
        rate_bytes_per_s: Some(Some(7)),
        pause_max_ms: None,
    };
    let refused = migration.set_limits(bad);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(migration.progress().rate_bytes_per_s, CRAWL);
    migration.set_limits(full_speed()).unwrap();
    migration.finished().unwrap();
    scene.check(&b);
    let config = scene.world.record(SHARD).migration.unwrap().config;
    assert_eq!(
        (config.rate_bytes_per_s, config.safety),
        (None, quick().safety)
    );
}

#[test]
fn a_pause_outlasts_restarts_and_ends_when_resumed() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 4);
    let migration = a.migrate(SHARD).to("b").config(slow()).start().unwrap();
    wait_until("the copy has begun", || scene.served_bytes() > 0);
    migration.pause();
    wait_until("it is paused", || migration.progress().paused);
    migration.set_limits(full_speed()).unwrap();
    wait_until("the limit is kept", || {
        migration.progress().rate_bytes_per_s.is_none()
    });
    let writers = Writers::start(&a, 2);
    writers.wait_for_more(500);
    assert_eq!(migration.progress().phase, Phase::BulkCopy);
    let model = writers.stop();
    a.close().unwrap();
    b.close().unwrap();
    let (a, b) = (scene.open("a"), scene.open("b"));
    let migration = only(&a);
    let writers = Writers::starting_at(&a, 2, 10);
    writers.wait_for_more(500);
    let progress = migration.progress();
    assert_eq!((progress.phase, progress.paused), (Phase::BulkCopy, true));
    migration.resume();
    migration.finished().unwrap();
    scene.check(&b);
    model.then(writers.stop()).check(&b);
}

#[test]
fn a_cutover_that_was_kept_is_known_after_a_restart() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 4);
    let config = MigrationConfig {
        hold: true,
        ..slow()
    };
    let migration = a.migrate(SHARD).to("b").config(config).start().unwrap();
    wait_until("the copy has begun", || scene.served_bytes() > 0);
    migration.cutover();
    wait_until("the cutover is kept", || migration.progress().cutover);
    a.close().unwrap();
    b.close().unwrap();
    let (a, b) = (scene.open("a"), scene.open("b"));
    let migration = only(&a);
    assert!(migration.progress().cutover);
    migration.set_limits(full_speed()).unwrap();
    migration.finished().unwrap();
    scene.check(&b);
}

#[test]
fn a_paused_migration_makes_room_for_another_and_waits_for_its_turn() {
    let mut scene = Scene::new(100);
    let (a, b) = (scene.open("a"), scene.open("b"));
    scene.load(&a, 2);
    let first = a.migrate(SHARD).to("b").config(slow()).start().unwrap();
    wait_until("the copy has begun", || scene.served_bytes() > 0);
    let held = MigrationConfig {
        hold: true,
        ..quick()
    };
    let second = a.migrate(ShardId(1)).to("b").config(held).start().unwrap();
    assert_eq!(second.progress().phase, Phase::Plan, "one at a time");
    first.pause();
    wait_until("the second one is under way", || {
        second.progress().phase == Phase::DualWrite
    });
    first.resume();
    first.set_limits(full_speed()).unwrap();
    wait_until("the limit is kept", || {
        first.progress().rate_bytes_per_s.is_none()
    });
    assert!(first.progress().paused, "the second one has the turn");
    second.cutover();
    second.finished().unwrap();
    first.finished().unwrap();
    scene.check(&b);
}

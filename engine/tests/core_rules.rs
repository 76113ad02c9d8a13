//! The design's rules 1, 3 and 4 on whole engines, each by its number: what is in the log's files is the witness.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use support::{World, Writers, node, quick, wait_until};
use watershed::migration::messages::{Request, Response};
use watershed::migration::{MigrationConfig, Phase};
use watershed::{
    BoxFuture, Durability, Engine, InstanceId, Link, LinkError, NodeId, Retry, Seq, ShardId,
    Version,
};
use watershed_wal::{DirStorage, LogView, Record, RecordKind, SeqRange, StartBody};

const SHARD: ShardId = ShardId(0);

/// Epoch, opening and Seq: who reads a version's text has them.
type Identity = (u64, u64, u64);

fn identity(version: Version) -> Identity {
    let text = version.to_string();
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    let mut number = || numbers.next().unwrap();
    (number(), number(), number())
}

fn identity_of(record: &Record) -> Identity {
    let term = record.term();
    (term.epoch.0, term.opening, record.seq().0)
}

/// The log in a data directory, as another process reads it.
fn log_of(dir: &Path) -> LogView {
    let storage = DirStorage::read_only(dir.join("wal")).unwrap();
    LogView::open(Arc::new(storage)).unwrap().0
}

fn records(log: &LogView, instance: InstanceId, through: Seq) -> Vec<Record> {
    let range = SeqRange::new(Seq(1), through).unwrap();
    log.read(instance, range).map(Result::unwrap).collect()
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            // One that goes away while it is listed was not there.
            files.extend(fs::read(&path).ok().map(|bytes| (path, bytes)));
        }
    }
    files
}

/// What `part` of a data directory is on the disk now, seen twice the same.
fn image(dir: &Path, part: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let from = dir.join(part);
    let mut before = BTreeMap::new();
    loop {
        let now = files(&from);
        if now == before {
            let relative =
                |(path, bytes): (PathBuf, _)| (path.strip_prefix(dir).unwrap().to_owned(), bytes);
            return now.into_iter().map(relative).collect();
        }
        before = now;
    }
}

fn write_image(dir: &Path, image: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in image {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn open_alone(dir: &Path) -> Engine {
    Engine::options()
        .shards(1)
        .segment_bytes(1 << 20)
        // Buffered writes stay unsynced: the images are made before any sync.
        .buffered_sync_every(Duration::from_secs(3600))
        .open(dir)
        .unwrap()
}

/// Writes what a power loss will take; gives each write's identity and value.
fn write_unsynced(engine: &Engine, round: u64) -> BTreeMap<Identity, String> {
    let lost = (0..40).map(|number| {
        let value = format!("lost {round} {number}");
        let write = engine.put(format!("lost{}", number % 10), &value);
        let version = write.durability(Durability::Buffered).wait().unwrap();
        (identity(version), value)
    });
    lost.collect()
}

/// Power is lost with Buffered writes unsynced; with `flushed` the store has them all the same, being ahead of the log.
fn rule_01_after_power_loss(flushed: bool) {
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut engine = open_alone(dirs[0].path());
    let mut bodies: BTreeMap<Identity, String> = BTreeMap::new();
    let mut note = |written: BTreeMap<Identity, String>| {
        for (identity, body) in written {
            let other = bodies.insert(identity, body.clone());
            assert!(other.is_none(), "{identity:?} names {other:?} and {body}");
        }
    };
    let mut kept = BTreeMap::new();
    for round in 0..3u64 {
        let dir = dirs[round as usize].path();
        for number in 0..5 {
            let (key, value) = (format!("kept {round} {number}"), format!("{round}"));
            let version = engine.put(&key, &value).wait().unwrap();
            note(BTreeMap::from([(
                identity(version),
                format!("{key}={value}"),
            )]));
            kept.insert(key, (Bytes::from(value), version));
        }
        let synced = image(dir, "wal");
        let unflushed = image(dir, "shards");
        let lost = write_unsynced(&engine, round);
        note(lost.clone());
        let last = *lost.last_key_value().unwrap().0;
        if flushed {
            engine.flush().unwrap();
        }
        // What the device has: the log of before, the store as it is flushed.
        let next = dirs[round as usize + 1].path();
        write_image(next, &image(dir, ""));
        fs::remove_dir_all(next.join("wal")).unwrap();
        write_image(next, &synced);
        if !flushed {
            fs::remove_dir_all(next.join("shards")).unwrap();
            write_image(next, &unflushed);
        }
        fs::write(next.join("LOCK"), "").unwrap();
        let log_end = log_of(next).instances()[0].has.contiguous_after(Seq::ZERO);
        drop(engine);
        engine = open_alone(next);

        let opened = log_of(next);
        let instance = &opened.instances()[0];
        let start = instance.terms.last().unwrap();
        assert!(
            (start.term.epoch.0, start.term.opening) > (last.0, last.1),
            "an opening raises the term, and its start record is in the log before anything else"
        );
        let store_end = if flushed { Seq(last.2) } else { Seq::ZERO };
        assert_eq!(start.first, log_end.max(store_end).next());
        let start_record = opened.read(
            instance.id,
            SeqRange::new(start.first, start.first).unwrap(),
        );
        let start_record = start_record.map(Result::unwrap).next().unwrap();
        assert_eq!(start_record.kind(), RecordKind::Start);
        let body = StartBody::decode(start_record.body()).unwrap();
        let void = flushed.then(|| SeqRange::new(log_end.next(), store_end).unwrap());
        assert_eq!(
            body.void, void,
            "it voids what the log lost, and nothing else"
        );

        for (key, expected) in &kept {
            assert_eq!(
                &engine.get_versioned(key).wait().unwrap().unwrap(),
                expected
            );
        }
        for number in 0..10 {
            let found = engine
                .get_versioned(format!("lost{number}"))
                .wait()
                .unwrap();
            match found {
                Some((value, version)) => {
                    assert!(flushed);
                    assert_eq!(value, bodies_of(&lost, version), "as it was acknowledged");
                }
                None => assert!(!flushed),
            }
        }
    }
}

fn bodies_of(written: &BTreeMap<Identity, String>, version: Version) -> &str {
    &written[&identity(version)]
}

#[test]
fn rule_01_terms() {
    rule_01_after_power_loss(false);
}

#[test]
fn rule_01_terms_where_the_store_is_ahead_of_the_log_that_lost_its_tail() {
    rule_01_after_power_loss(true);
}

/// Keeps the calls that bring records to a node.
#[derive(Debug)]
struct Recording {
    inner: Arc<dyn Link>,
    calls: Arc<Mutex<Vec<(NodeId, Bytes)>>>,
}

impl Link for Recording {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        if matches!(Request::decode(&request), Ok(Request::Records { .. })) {
            self.calls
                .lock()
                .unwrap()
                .push((to.clone(), request.clone()));
        }
        self.inner.call(to, request)
    }
}

#[test]
fn rule_03_lineage() {
    let calls: Arc<Mutex<Vec<(NodeId, Bytes)>>> = Arc::default();
    let links: Arc<Mutex<Option<Arc<dyn Link>>>> = Arc::default();
    let (recorded, plain) = (calls.clone(), links.clone());
    let world = World::with_link(1, move |inner| {
        *plain.lock().unwrap() = Some(inner.clone());
        Arc::new(Recording {
            inner,
            calls: recorded,
        })
    });
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::start(&a, 4);
    writers.wait_for_more(300);
    let moved = |from: &Engine, to: &str, config| {
        let migration = from.migrate(SHARD).to(to).config(config);
        migration.start().unwrap()
    };
    let there = moved(&a, "b", quick());
    let first = there.wait().unwrap();
    there.finished().unwrap();
    writers.wait_for_more(300);
    // It comes back: what a's first copy wrote is in the segments of its log still, and is not the new copy's.
    let back = moved(&b, "a", quick());
    let second = back.wait().unwrap();
    back.finished().unwrap();
    assert_ne!(second.target.instance, first.source.instance);
    assert!(second.base >= first.f);
    let log = log_of(&world.path("a"));
    let [hosted] = &log.instances()[..] else {
        panic!("the old instance is forgotten")
    };
    assert_eq!(
        (hosted.id, hosted.base),
        (second.target.instance, second.base)
    );
    let lines: Vec<_> = log
        .dump()
        .filter(|line| line.instance == Some(first.source.instance))
        .collect();
    assert!(
        lines.iter().any(|line| line.seq.is_some()),
        "the old records lie there"
    );
    let of_old = hosted
        .has
        .intervals()
        .any(|range| range.first() <= second.base);
    assert!(
        !of_old,
        "what the old copy had does not count: {:?}",
        hosted.has
    );

    // And there again, held: the calls of the first move arrive once more, late.
    let stale: Vec<_> = std::mem::take(&mut *calls.lock().unwrap());
    let stale: Vec<_> = stale
        .into_iter()
        .filter(|(to, _)| *to == node("b"))
        .collect();
    assert!(!stale.is_empty());
    let held = MigrationConfig {
        hold: true,
        ..quick()
    };
    let third = moved(&a, "b", held);
    wait_until("it is held", || third.progress().phase == Phase::DualWrite);
    let link = links.lock().unwrap().clone().unwrap();
    for (to, request) in stale {
        let answer = pollster::block_on(link.call(&to, request)).unwrap();
        let answer = Response::decode(&answer).unwrap();
        assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
    }
    third.cutover();
    let third = third.wait().unwrap();
    assert_eq!(third.digest_source, third.digest_target);
    let model = writers.stop();
    model.check(&a);
    model.check(&b);
}

/// What writers were told: each version once for each acknowledgement.
#[derive(Default)]
struct Told {
    versions: Mutex<Vec<Identity>>,
    count: AtomicU64,
    stop: AtomicBool,
}

impl Told {
    fn note(&self, outcome: Result<Version, watershed::Error>) {
        match outcome {
            Ok(version) => {
                self.versions.lock().unwrap().push(identity(version));
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => assert_eq!(error.retry(), Retry::Now, "{error}"),
        }
    }

    fn wait_for_more(&self, count: u64) {
        let until = self.count.load(Ordering::Relaxed) + count;
        wait_until("writers go on", || {
            self.count.load(Ordering::Relaxed) >= until
        });
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[test]
fn rule_04_one_gate() {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let told = Arc::new(Told::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    // Writers on both engines, some a thread, some a task; Sync and Buffered.
    let mut tasks = Vec::new();
    let mut threads = Vec::new();
    for number in 0..48u64 {
        let (engine, told) = ([&a, &b][number as usize % 2].clone(), told.clone());
        let durability = [Durability::Sync, Durability::Buffered][number as usize / 2 % 2];
        let put =
            move |engine: &Engine| engine.put(format!("k{number}"), "v").durability(durability);
        if number < 12 {
            threads.push(std::thread::spawn(move || {
                while !told.is_over() {
                    told.note(put(&engine).wait());
                }
            }));
        } else {
            tasks.push(runtime.spawn(async move {
                while !told.is_over() {
                    told.note(put(&engine).await);
                }
            }));
        }
    }
    told.wait_for_more(500);
    let config = MigrationConfig {
        grace_ms: 3_600_000,
        ..quick()
    };
    let migration = a.migrate(SHARD).to("b").config(config).start().unwrap();
    let certificate = migration.wait().unwrap();
    told.wait_for_more(500);
    told.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    a.close().unwrap();
    b.close().unwrap();

    let versions = std::mem::take(&mut *told.versions.lock().unwrap());
    let once: HashSet<_> = versions.iter().copied().collect();
    assert_eq!(once.len(), versions.len(), "no write is acknowledged twice");
    let f = certificate.f.0;
    let (old, new): (Vec<_>, Vec<_>) = versions
        .iter()
        .partition(|(epoch, _, _)| *epoch == certificate.source.epoch.0);
    assert!(old.len() >= 500 && new.len() >= 500);
    assert!(old.iter().all(|(_, _, seq)| *seq <= f), "at or below F");
    assert!(
        new.iter()
            .all(|(epoch, _, seq)| { *epoch == certificate.target.epoch.0 && *seq > f })
    );

    let log = log_of(&world.path("a"));
    let kept = records(&log, certificate.source.instance, certificate.f);
    let seqs = kept.iter().map(|record| record.seq().0);
    assert!(seqs.eq(1..=f), "the old copy has each Seq up to F");
    let instances = log.instances();
    let frozen = instances
        .iter()
        .find(|i| i.id == certificate.source.instance);
    let after = frozen
        .unwrap()
        .has
        .intervals()
        .any(|range| range.last().0 > f);
    assert!(!after, "and none above");
    let kept: BTreeSet<_> = kept.iter().map(identity_of).collect();
    assert!(old.iter().all(|version| kept.contains(version)));
}

//! Scans and snapshots: what they show, against a model, and when they are taken back.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{World, quick};
use watershed::{Batch, Durability, Engine, Entry, Error, ScanOptions, ShardId, Snapshot};

const SHARD: ShardId = ShardId(0);

fn open(dir: &tempfile::TempDir) -> Engine {
    Engine::options().shards(3).open(dir.path()).unwrap()
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Keys of several lengths, some of them edges: zero bytes, all ones, prefixes of each other.
fn fill(engine: &Engine) -> Map {
    let mut map = Map::new();
    for number in 0..700u32 {
        let key = match number % 7 {
            0 => vec![0; 1 + number as usize % 9],
            1 => vec![0xff; 1 + number as usize % 9],
            2 => [b"p/".as_slice(), &[0xff], &number.to_be_bytes()].concat(),
            3 => format!("p/{number}").into_bytes(),
            4 => b"p".to_vec(),
            5 => format!("q{}", number % 40).into_bytes(),
            _ => number.to_be_bytes().to_vec(),
        };
        let value = format!("{number}").into_bytes();
        engine
            .put(&key, &value)
            .durability(Durability::Buffered)
            .wait()
            .unwrap();
        map.insert(key, value);
        if number % 5 == 0 {
            let gone = map.keys().nth(number as usize % map.len()).unwrap().clone();
            engine.delete(&gone).wait().unwrap();
            map.remove(&gone);
        }
    }
    map
}

fn all(entries: impl IntoIterator<Item = Result<Entry, Error>>) -> Pairs {
    let entries = entries.into_iter().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.key.to_vec(), entry.value.to_vec()))
        .collect()
}

/// The options, and what they select of a map.
fn cases(map: &Map) -> Vec<(ScanOptions, Pairs)> {
    let pairs = |select: &dyn Fn(&[u8]) -> bool| -> Vec<_> {
        let selected = map.iter().filter(|(key, _)| select(key));
        selected
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let mut cases = vec![(ScanOptions::all(), pairs(&|_| true))];
    for prefix in [
        &b"p"[..],
        b"p/",
        b"p/\xff",
        b"\xff",
        b"\xff\xff\xff",
        b"\0",
        b"none",
        b"",
    ] {
        let options = ScanOptions::all().prefix(prefix);
        cases.push((options, pairs(&|key| key.starts_with(prefix))));
    }
    let edges: [&[u8]; 6] = [
        b"\0",
        b"p",
        b"p/3",
        b"q",
        b"\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for from in edges {
        for to in edges {
            let options = ScanOptions::all().from(from).to(to);
            cases.push((options, pairs(&|key| from <= key && key < to)));
            let options = ScanOptions::all().after(from).through(to);
            cases.push((options, pairs(&|key| from < key && key <= to)));
        }
    }
    cases
}

#[test]
fn scans_show_what_a_sorted_map_shows() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let map = fill(&engine);
    for round in 0..2 {
        let cases = cases(&map);
        for (options, expected) in cases {
            let backwards: Vec<_> = expected.iter().rev().cloned().collect();
            assert!(all(engine.scan(options.clone())) == expected, "{options:?}");
            let reversed = options.clone().reverse();
            assert!(
                all(engine.scan(reversed.clone())) == backwards,
                "{reversed:?}"
            );
            for limit in [0, 1, 31, 32, 33, 160, 10_000] {
                let cut = expected.len().min(limit as usize);
                let found = all(engine.scan(options.clone().limit(limit)));
                assert!(found == expected[..cut], "{options:?} limit {limit}");
                let found = all(engine.scan(reversed.clone().limit(limit)));
                assert!(found == backwards[..cut], "{reversed:?} limit {limit}");
            }
        }
        if round == 0 {
            // The same out of SSTs as out of memtables.
            engine.flush().unwrap();
        }
    }
    let mut async_scan = engine.scan(ScanOptions::all());
    let found = pollster::block_on(async {
        let mut found = Vec::new();
        while let Some(entry) = async_scan.next_entry().await {
            found.push(entry);
        }
        found
    });
    assert!(all(found) == map.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_read_only_engine_scans_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let map = fill(&engine);
    let reader = Engine::options().open_read_only(dir.path()).unwrap();
    for (options, expected) in cases(&map) {
        let found = all(reader.scan(options.clone()).unwrap());
        assert!(found == expected, "{options:?}");
        let found = all(reader.scan(options.clone().reverse().limit(20)).unwrap());
        let backwards: Vec<_> = expected.into_iter().rev().take(20).collect();
        assert!(found == backwards, "{options:?} reversed");
    }
}

#[test]
fn another_nodes_shards_scan_the_same() {
    let world = World::new(3);
    let (a, b) = (world.open("a"), world.open("b"));
    let map = fill(&a);
    let moving = a.migrate(ShardId(1)).to("b").config(quick()).start();
    moving.unwrap().wait().unwrap();
    for (options, expected) in cases(&map) {
        for engine in [&a, &b] {
            assert!(all(engine.scan(options.clone())) == expected, "{options:?}");
        }
        let backwards: Vec<_> = expected.into_iter().rev().take(77).collect();
        assert!(all(b.scan(options.reverse().limit(77))) == backwards);
    }
}

#[test]
fn snapshots_are_one_moment_under_writers() {
    const KEYS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let write = |round: u64| {
        let mut batch = Batch::new();
        for key in 0..KEYS {
            batch.put(format!("k{key:02}"), round.to_string());
        }
        engine.shard(SHARD).write(batch)
    };
    write(0).wait().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let write = write(round).durability(Durability::Buffered);
                write.wait().unwrap();
            }
        });
        let (mut last, mut moments) = (watershed::Seq(0), 0);
        while moments < 200 {
            let snapshot = engine.shard(SHARD).snapshot().unwrap();
            assert!(snapshot.seq() >= last, "a later snapshot shows no less");
            moments += u64::from(snapshot.seq() > last);
            last = snapshot.seq();
            // On another thread: it is `Send + 'static`.
            let check = std::thread::spawn(move || one_moment(&snapshot));
            check.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

fn one_moment(snapshot: &Snapshot) {
    let first = snapshot.get_versioned("k00").unwrap().unwrap();
    assert!(
        first
            .1
            .to_string()
            .ends_with(&format!(".{}", snapshot.seq()))
    );
    let keys: Vec<_> = (0..50).map(|key| format!("k{key:02}")).collect();
    for found in snapshot.multi_get(&keys).unwrap() {
        assert_eq!(found.unwrap(), first);
    }
    let mut entries = 0;
    for entry in snapshot.scan(ScanOptions::all()) {
        let entry = entry.unwrap();
        assert_eq!((entry.value, entry.version), first);
        entries += 1;
    }
    assert_eq!(entries, 50);
}

#[test]
fn a_scan_of_one_shard_is_one_moment_though_it_is_paged() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let shard = engine.shard(SHARD);
    for number in 0..3_000 {
        let write = shard.put(format!("{number:05}"), "old");
        write.durability(Durability::Buffered).wait().unwrap();
    }
    let mut scan = shard.scan(ScanOptions::all());
    assert!(scan.next().unwrap().is_ok());
    for number in 0..3_000 {
        let write = shard.put(format!("{number:05}"), "new");
        write.durability(Durability::Buffered).wait().unwrap();
        shard
            .delete(format!("{:05}", number / 2))
            .durability(Durability::Buffered)
            .wait()
            .unwrap();
    }
    engine.flush().unwrap();
    let rest = all(scan);
    assert_eq!(rest.len(), 2_999);
    assert!(rest.iter().all(|(_, value)| value == b"old"));
}

#[test]
fn what_is_held_is_taken_back_and_blocks_no_close() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let map = fill(&engine);
    let full = (0..3)
        .map(ShardId)
        .max_by_key(|&shard| engine.shard(shard).scan(ScanOptions::all()).count());
    let shard = engine.shard(full.unwrap());
    let snapshot = shard.snapshot().unwrap();
    let mut of_snapshot = snapshot.scan(ScanOptions::all());
    let mut of_shard = shard.scan(ScanOptions::all());
    let mut of_all = engine.scan(ScanOptions::all());
    let mut not_begun = engine.scan(ScanOptions::all());
    for scan in [&mut of_snapshot, &mut of_shard, &mut of_all] {
        assert!(scan.next().unwrap().is_ok());
    }
    engine.close().unwrap();
    drop((shard, engine));
    // The directory is free at once.
    let again = open(&dir);
    let expired = snapshot.get("q1").unwrap_err();
    assert!(matches!(expired, Error::SnapshotExpired), "{expired}");
    assert!(matches!(
        snapshot.multi_get(&["q1"]),
        Err(Error::SnapshotExpired)
    ));
    for scan in [&mut of_snapshot, &mut of_shard, &mut of_all, &mut not_begun] {
        // What was read ahead may come yet, then one error, then nothing.
        let errors: Vec<_> = scan.filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(matches!(errors[0], Error::SnapshotExpired | Error::Closed));
        assert!(scan.next().is_none());
    }
    assert!(all(again.scan(ScanOptions::all())) == map.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_snapshot_outlives_the_handles_but_not_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    engine.shard(SHARD).put("k", "v").wait().unwrap();
    let snapshot = engine.shard(SHARD).snapshot().unwrap();
    assert_eq!(snapshot.get("k").unwrap().unwrap(), "v");
    // The last handle closes the engine, whatever snapshots are held.
    drop(engine);
    assert!(matches!(snapshot.get("k"), Err(Error::SnapshotExpired)));
    drop(open(&dir));
}

#[test]
fn a_dropped_step_of_a_scan_loses_and_repeats_nothing() {
    let world = World::new(3);
    let (a, b) = (world.open("a"), world.open("b"));
    let map: Vec<_> = fill(&a).into_iter().collect();
    let moving = a.migrate(ShardId(1)).to("b").config(quick()).start();
    moving.unwrap().wait().unwrap();
    let mut random = 7u64;
    let mut dropped = 0;
    for engine in [&a, &b] {
        let mut scan = engine.scan(ScanOptions::all());
        let mut found = Vec::new();
        loop {
            random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let step = scan.next_entry();
            let entry = if random >> 63 == 0 {
                // As `select!` does where another branch is ready first.
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                match std::pin::pin!(step).poll(&mut context) {
                    std::task::Poll::Ready(entry) => entry,
                    std::task::Poll::Pending => {
                        dropped += 1;
                        continue;
                    }
                }
            } else {
                pollster::block_on(step)
            };
            match entry {
                Some(entry) => found.push(entry),
                None => break,
            }
        }
        assert!(all(found) == map);
    }
    assert!(dropped > 0, "no step was dropped on its way");
}

//! `wal verify`, `wal dump` and `wal repair`, on a closed, a running and a damaged log.

mod cli_support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cli_support::{Ended, Place, command, run};
use watershed::Engine;

fn wal(what: &str, dir: &Path) -> Ended {
    run(command(["wal", what, "--json"]).arg(dir))
}

fn loaded() -> Place {
    let place = Place::new();
    let text: String = (0..200)
        .map(|key| format!("{{\"id\":\"k{key}\",\"mark\":\"needle-{key:04}\"}}\n"))
        .collect();
    assert_eq!(place.load(&place.file("in.ndjson", text)).status, 0);
    place
}

#[test]
fn a_closed_log_is_clean_and_every_write_is_in_its_dump() {
    let place = loaded();
    let verified = wal("verify", &place.data());
    assert_eq!(
        (verified.status, &verified.json()["tail"]["kind"]),
        (0, &"clean".into()),
        "{verified:?}"
    );
    assert!(verified.json()["records"].as_u64().unwrap() >= 200);
    let dumped = wal("dump", &place.data());
    let document = dumped.json();
    let lines = document["records"].as_array().unwrap();
    assert_eq!(
        (dumped.status, &document["count"]),
        (0, &lines.len().into())
    );
    let batches = lines.iter().filter(|line| line["kind"] == "batch").count();
    assert_eq!(batches, 200, "one record a document");
    let plain = run(command(["wal", "dump"]).arg(place.data()));
    assert_eq!(plain.stdout.lines().count(), lines.len());
}

#[test]
fn the_log_of_a_running_engine_can_be_read() {
    let place = Place::new();
    let engine = Engine::open(place.data()).unwrap();
    for key in 0..50 {
        engine.put(format!("k{key}"), "v").wait().unwrap();
    }
    assert_eq!(wal("verify", &place.data()).status, 0);
    let dumped = wal("dump", &place.data()).json();
    let batches = dumped["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["kind"] == "batch")
        .count();
    assert_eq!(batches, 50);
    engine.put("later", "v").wait().unwrap();
    engine.close().unwrap();
}

/// The segment with these bytes, and where they are.
fn find(dir: &Path, needle: &[u8]) -> (PathBuf, usize) {
    for entry in std::fs::read_dir(dir.join("wal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if let Some(offset) = bytes
            .windows(needle.len())
            .position(|window| window == needle)
        {
            return (path, offset);
        }
    }
    panic!("no segment holds {}", String::from_utf8_lossy(needle));
}

#[test]
fn a_flipped_byte_is_reported_and_the_engine_refuses_in_the_same_words() {
    let place = loaded();
    let (segment, offset) = find(&place.data(), b"needle-0020");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[offset] ^= 0x20;
    std::fs::write(&segment, bytes).unwrap();

    let verified = wal("verify", &place.data());
    let (kind, message) = verified.error();
    assert_eq!(
        (verified.status, kind.as_str()),
        (1, "damaged"),
        "{verified:?}"
    );
    let name = segment.file_stem().unwrap().to_str().unwrap();
    for part in [name, "offset", "shard", "wal repair"] {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    for (name, words) in [("put", &["k", "v"][..]), ("status", &[]), ("scan", &[])] {
        let refused = place.json(name, words);
        assert_eq!(
            (refused.status, refused.error()),
            (1, (kind.clone(), message.clone())),
            "{name}: {refused:?}"
        );
    }
    assert_eq!(wal("dump", &place.data()).error().0, "damaged");
}

#[test]
fn a_directory_without_a_log_is_one_sentence() {
    let place = Place::new();
    for what in ["verify", "dump"] {
        let ended = wal(what, &place.data());
        let (kind, message) = ended.error();
        assert_eq!((ended.status, kind.as_str()), (1, "not-found"));
        assert!(message.starts_with("there is no log in "), "{message}");
    }
}

/// Every file below a directory.
fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.extend(image(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

const KEYS: usize = 120;

fn value(key: usize) -> String {
    format!("needle-{key:04}")
}

/// A directory as power loss would leave it: nothing is flushed, the log has it all.
fn unflushed() -> Place {
    let place = Place::new();
    let live = place.path("live");
    let engine = Engine::open(&live).unwrap();
    for key in 0..KEYS {
        engine.put(format!("k{key}"), value(key)).wait().unwrap();
    }
    for (path, bytes) in image(&live) {
        let to = place.data().join(path.strip_prefix(&live).unwrap());
        if path.is_dir() {
            std::fs::create_dir_all(to).unwrap();
        } else {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    }
    engine.close().unwrap();
    place
}

fn flip(place: &Place, needle: &str) -> PathBuf {
    let (segment, offset) = find(&place.data(), needle.as_bytes());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[offset] ^= 0x20;
    std::fs::write(&segment, bytes).unwrap();
    segment
}

fn repair(place: &Place, flags: &[&str]) -> Ended {
    run(command(["wal", "repair", "--json"])
        .args(flags)
        .arg(place.data()))
}

#[test]
fn a_repair_shows_what_is_lost_and_then_the_engine_opens_without_it() {
    let place = unflushed();
    let segment = flip(&place, &value(30));
    let damaged = std::fs::read(&segment).unwrap();
    let before = image(&place.data());
    let shown = repair(&place, &["--dry-run"]);
    assert_eq!(shown.status, 0, "{shown:?}");
    assert_eq!(image(&place.data()), before, "a dry run changes nothing");
    let plan = shown.json();
    assert_eq!(
        (&plan["repaired"], &plan["dry_run"]),
        (&false.into(), &true.into())
    );
    let shards = plan["plan"]["shards"].as_array().unwrap();
    let losing: Vec<_> = shards
        .iter()
        .filter(|loss| loss["lost"].as_array().is_some_and(|lost| !lost.is_empty()))
        .collect();
    assert_eq!(losing.len(), 1, "{plan}");
    assert_eq!(losing[0]["stored"], 0, "its store has flushed nothing");
    assert!(losing[0]["void"].is_array());
    assert_eq!(plan["plan"]["unreadable"].as_array().unwrap().len(), 1);

    let done = repair(&place, &[]);
    assert_eq!(
        (done.status, &done.json()["repaired"]),
        (0, &true.into()),
        "{done:?}"
    );
    assert_eq!(done.json()["plan"]["shards"], plan["plan"]["shards"]);
    let kept = PathBuf::from(done.json()["kept_in"].as_str().unwrap());
    assert_eq!(kept.parent().unwrap(), place.data());
    assert_eq!(
        std::fs::read(kept.join(segment.file_name().unwrap())).unwrap(),
        damaged
    );
    assert!(
        std::fs::read_to_string(kept.join("repair.txt"))
            .unwrap()
            .contains("loses Seqs")
    );
    assert_eq!(wal("verify", &place.data()).status, 0);

    // What is beside the hole is there; what follows it in its shard is not, and nothing else is missing.
    let engine = Engine::open(place.data()).unwrap();
    let shard = losing[0]["shard"].as_u64().unwrap();
    let mut gone = Vec::new();
    for key in 0..KEYS {
        match engine.get(format!("k{key}")).wait().unwrap() {
            Some(found) => assert_eq!(found, value(key).as_bytes()),
            None => gone.push(key),
        }
    }
    assert!(
        gone.contains(&30) && gone.iter().all(|&key| key >= 30),
        "{gone:?}"
    );
    assert!(gone.len() < KEYS / 4, "{gone:?}");
    let status = engine.status().unwrap();
    let void = losing[0]["void"].as_array().unwrap();
    for found in status.shards.iter().filter(|found| found.shard.0 == shard) {
        assert!(
            found.assigned.0 > void[1].as_u64().unwrap(),
            "no Seq is given out again"
        );
        assert_eq!(found.applied, found.assigned);
    }
    for key in &gone {
        engine.put(format!("k{key}"), "again").wait().unwrap();
    }
    engine.close().unwrap();
    let engine = Engine::open(place.data()).unwrap();
    assert_eq!(engine.get("k30").wait().unwrap().unwrap(), &b"again"[..]);
    engine.close().unwrap();
}

#[test]
fn what_the_stores_hold_is_not_lost_by_a_repair() {
    // Closed, so that every store is flushed.
    let place = loaded();
    flip(&place, "needle-0020");
    let done = repair(&place, &[]);
    assert_eq!(done.status, 0, "{done:?}");
    for loss in done.json()["plan"]["shards"].as_array().unwrap() {
        assert!(
            loss["void"].is_null() && loss["stored"].as_u64().unwrap() > 0,
            "{loss}"
        );
    }
    assert_eq!(place.keys().len(), 200);
    place.put("one", "more");
    assert_eq!(place.keys().len(), 201);
}

#[test]
fn a_second_repair_keeps_its_files_beside_the_first() {
    let place = unflushed();
    let segment = flip(&place, &value(30));
    let wal = place.data().join("wal");
    let damaged = image(&wal);
    let mut kept = Vec::new();
    for _ in 0..2 {
        // The same damage twice.
        std::fs::remove_dir_all(&wal).unwrap();
        std::fs::create_dir(&wal).unwrap();
        for (path, bytes) in &damaged {
            std::fs::write(path, bytes).unwrap();
        }
        let done = repair(&place, &[]);
        assert_eq!(done.status, 0, "{done:?}");
        kept.push(PathBuf::from(done.json()["kept_in"].as_str().unwrap()));
    }
    assert_ne!(kept[0], kept[1]);
    for kept in kept {
        let found = std::fs::read(kept.join(segment.file_name().unwrap())).unwrap();
        assert_eq!(found, damaged[&segment]);
    }
}

#[test]
fn a_repair_refuses_where_there_is_nothing_to_do_or_nothing_it_may_do() {
    let place = loaded();
    let before = image(&place.data());
    let clean = repair(&place, &[]);
    assert_eq!(
        (clean.status, &clean.json()["repaired"]),
        (0, &false.into()),
        "{clean:?}"
    );
    assert!(clean.json()["plan"].is_null());
    assert_eq!(image(&place.data()), before);

    let engine = Engine::open(place.data()).unwrap();
    let locked = repair(&place, &["--dry-run"]);
    assert_eq!(
        (locked.status, locked.error().0.as_str()),
        (1, "locked"),
        "{locked:?}"
    );
    engine.close().unwrap();

    std::fs::write(place.data().join("wal").join("backup.seg"), b"mine").unwrap();
    let foreign = repair(&place, &[]);
    assert_eq!(
        (foreign.status, foreign.error().0.as_str()),
        (1, "bad-directory"),
        "{foreign:?}"
    );
    let format = place.data().join("FORMAT");
    std::fs::write(&format, b"{\"format\": 99, \"node\": \"a\"}").unwrap();
    let newer = repair(&place, &[]);
    assert_eq!(
        (newer.status, newer.error().0.as_str()),
        (1, "newer-format"),
        "{newer:?}"
    );

    let nothing = run(command(["wal", "repair", "--json"]).arg(place.path("none")));
    assert_eq!(
        (nothing.status, nothing.error().0.as_str()),
        (1, "not-found"),
        "{nothing:?}"
    );
    assert_eq!(run(&mut command(["wal", "repair"])).status, 2);
}

//! `wal verify` and `wal dump`, on a closed, a running and a damaged log.

mod cli_support;

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

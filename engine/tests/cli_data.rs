//! `put`, `get`, `delete`, `scan` and `status`: what they print, and on which directories they refuse.

mod cli_support;

use std::io::Write;
use std::process::Stdio;

use cli_support::{Ended, Place, command, run};
use watershed::Engine;

#[test]
fn a_value_comes_back_with_its_version_until_it_is_deleted() {
    let place = Place::new();
    let put = place.json("put", &["k", "v"]);
    let version = put.json()["version"].clone();
    assert_eq!((put.status, &put.json()["key"]), (0, &"k".into()));
    let get = place.json("get", &["k"]).json();
    assert_eq!(
        (&get["key"], &get["value"], &get["version"]),
        (&"k".into(), &"v".into(), &version)
    );
    assert_eq!(place.run("get", &["k"]).stdout, "v\n");

    let later = place.json("put", &["k", "w"]).json()["version"].clone();
    let parsed = |version: &serde_json::Value| {
        version
            .as_str()
            .unwrap()
            .parse::<watershed::Version>()
            .unwrap()
    };
    assert!(parsed(&later) > parsed(&version));
    let deleted = place.json("delete", &["k"]);
    assert_eq!(deleted.status, 0);
    assert!(parsed(&deleted.json()["version"]) > parsed(&later));
    let gone = place.json("get", &["k"]);
    assert_eq!((gone.status, gone.error().0.as_str()), (1, "key-not-found"));
    let plain = place.run("get", &["k"]);
    assert_eq!(
        (plain.status, plain.stdout.as_str(), plain.stderr.as_str()),
        (1, "", "error: there is no key \"k\"\n")
    );
}

#[test]
fn a_value_may_come_from_standard_input_and_need_not_be_text() {
    let place = Place::new();
    let mut child = command(["put", "--dir"])
        .arg(place.data())
        .args(["k", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&[0xff, 0x00, 0x7f])
        .unwrap();
    assert!(child.wait().unwrap().success());
    let expected = serde_json::json!({ "hex": "ff007f" });
    assert_eq!(place.json("get", &["k"]).json()["value"], expected);
    assert_eq!(
        place.json("scan", &[]).json()["entries"][0]["value"],
        expected
    );
}

#[test]
fn a_scan_is_in_key_order_over_all_shards() {
    let place = Place::new();
    let text: String = (0..300)
        .map(|key| format!("{{\"id\":\"k{key:03}\"}}\n"))
        .collect();
    place.load(&place.file("in.ndjson", text));
    let all: Vec<String> = (0..300).map(|key| format!("k{key:03}")).collect();
    assert_eq!(place.keys(), all);
    let keys = |words: &[&str]| {
        let document = place.json("scan", words).json();
        let entries = document["entries"].as_array().unwrap().clone();
        assert_eq!(document["count"], entries.len());
        entries
            .iter()
            .map(|entry| entry["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&["--prefix", "k10"]), all[100..110]);
    assert_eq!(keys(&["--from", "k050", "--to", "k060"]), all[50..60]);
    assert_eq!(keys(&["--limit", "3"]), all[..3]);
    assert_eq!(keys(&["--reverse", "--limit", "2"]), ["k299", "k298"]);
    assert_eq!(keys(&["--prefix", "nothing"]), [""; 0]);
    let plain = place.run("scan", &["--limit", "1"]);
    assert_eq!(plain.stdout, "k000\t{\"id\":\"k000\"}\n");
}

#[test]
fn a_closed_reader_ends_a_scan_quietly() {
    let place = Place::new();
    let text: String = (0..20_000)
        .map(|key| format!("{{\"id\":\"key number {key}\"}}\n"))
        .collect();
    place.load(&place.file("in.ndjson", text));
    let mut child = command(["scan", "--dir"])
        .arg(place.data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn keys_and_values_out_of_bounds_are_refused_before_anything_is_written() {
    let place = Place::new();
    let empty = place.json("put", &["", "v"]);
    assert_eq!(empty.status, 1);
    assert!(empty.error().1.contains("1 to 65536 bytes"), "{empty:?}");
    let long = place.json("put", &[&"k".repeat(65_537), "v"]);
    assert_eq!(long.status, 1);
    assert!(place.keys().is_empty());
}

#[test]
fn status_shows_every_shard() {
    let place = Place::new();
    place.put("k", "v");
    let status = place.json("status", &[]);
    let document = status.json();
    assert_eq!(
        (status.status, document["shards"].as_array().unwrap().len()),
        (0, 16),
        "{status:?}"
    );
    for shard in document["shards"].as_array().unwrap() {
        for field in ["shard", "instance", "role", "epoch", "applied", "flushed"] {
            assert!(shard.get(field).is_some(), "no {field} in {shard}");
        }
    }
    let plain = place.run("status", &[]);
    assert_eq!(plain.status, 0);
    assert!(plain.stdout.contains("16 shards"), "{}", plain.stdout);
}

/// Every command that opens the engine, with words that would do something.
fn each_command(place: &Place) -> Vec<(&'static str, Ended)> {
    let file = place.file("one.ndjson", "{\"id\":1}\n");
    let file = file.to_str().unwrap();
    [
        ("put", &["k", "v"][..]),
        ("delete", &["k"]),
        ("load", &[file]),
        ("get", &["k"]),
        ("scan", &[]),
        ("status", &[]),
    ]
    .map(|(name, words)| (name, place.json(name, words)))
    .into()
}

#[test]
fn while_an_engine_runs_reading_works_and_writing_is_refused() {
    let place = Place::new();
    let engine = Engine::open(place.data()).unwrap();
    engine.put("k", "v").wait().unwrap();
    for (name, ended) in each_command(&place) {
        if ["put", "delete", "load"].contains(&name) {
            let (kind, message) = ended.error();
            assert_eq!(
                (ended.status, kind.as_str()),
                (1, "locked"),
                "{name}: {ended:?}"
            );
            assert!(message.contains("in use"), "{message}");
        } else {
            assert_eq!(ended.status, 0, "{name}: {ended:?}");
        }
    }
    assert_eq!(place.json("get", &["k"]).json()["value"], "v");
    engine.put("k", "w").wait().unwrap();
    assert_eq!(
        place.json("get", &["k"]).json()["value"],
        "w",
        "each reading sees what is durable then"
    );
    engine.close().unwrap();
}

#[test]
fn a_missing_directory_is_one_sentence() {
    let place = Place::new();
    for name in ["get", "delete"] {
        let ended = place.json(name, &["k"]);
        let (kind, message) = ended.error();
        assert_eq!((ended.status, kind.as_str()), (1, "not-found"), "{name}");
        assert!(
            message.starts_with(&format!("there is no engine in {}", place.data().display())),
            "{message}"
        );
    }
    for name in ["scan", "status"] {
        assert_eq!(place.json(name, &[]).error().0, "not-found");
    }
    assert!(!place.data().exists(), "looking made nothing");
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.data()).unwrap();
    std::fs::write(place.data().join("photo.jpg"), "x").unwrap();
    for (name, ended) in each_command(&place) {
        assert_eq!(
            (ended.status, ended.error().0.as_str()),
            (1, "bad-directory"),
            "{name}: {ended:?}"
        );
    }
    assert_eq!(
        std::fs::read_dir(place.data()).unwrap().count(),
        1,
        "nothing was added to it"
    );
}

#[test]
fn a_newer_format_is_refused() {
    let place = Place::new();
    place.put("k", "v");
    let format = place.data().join("FORMAT");
    let mut document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&format).unwrap()).unwrap();
    document["format"] = 99.into();
    std::fs::write(&format, document.to_string()).unwrap();
    for (name, ended) in each_command(&place) {
        let (kind, message) = ended.error();
        assert_eq!(
            (ended.status, kind.as_str()),
            (1, "newer-format"),
            "{name}: {ended:?}"
        );
        assert!(
            message.contains("99") && message.contains("newer"),
            "{message}"
        );
    }
}

/// As root nothing is forbidden, so the command runs as nobody then, from a copy that nobody may run.
#[test]
fn a_directory_without_permission_is_one_sentence() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.put("k", "v");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap()
    };
    mode(&place.data(), 0o000);
    mode(&place.path(""), 0o755);
    let copy = place.path("watershed");
    std::fs::copy(cli_support::BINARY, &copy).unwrap();
    let root = std::fs::read_dir(place.data()).is_ok();
    for (name, words) in [("put", &["k", "v"][..]), ("get", &["k"]), ("status", &[])] {
        let mut command =
            std::process::Command::new(if root { "setpriv".into() } else { copy.clone() });
        if root {
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&copy);
        }
        let ended = run(command
            .args([name, "--json", "--dir"])
            .arg(place.data())
            .args(words));
        let (kind, message) = ended.error();
        assert_eq!(
            (ended.status, kind.as_str()),
            (1, "permission-denied"),
            "{name}: {ended:?}"
        );
        assert!(message.contains("no permission to"), "{message}");
    }
    mode(&place.data(), 0o755);
}

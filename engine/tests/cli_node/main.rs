//! `watershed node` in real processes: started, watched, stopped, killed and started again; several of them as a cluster;
//! and refused with a clear sentence where it can't run.

#[path = "../cli_support/mod.rs"]
mod cli_support;
mod cluster;
mod held;
mod openmetrics;
mod process;

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use cli_support::{Place, command, run};
use openmetrics::Metrics;
use process::{Node, get};
use serde_json::{Value, json};

/// A node by itself on the engine in `data`, at any free ports, with the words added.
fn alone(place: &Place, words: &[&str]) -> Command {
    let mut command = command(["node", "--insecure", "--json", "--dir"]);
    command.arg(place.data());
    command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(words);
    command
}

fn http(ready: &Value) -> &str {
    ready["http"].as_str().unwrap()
}

fn metrics(http: &str) -> Metrics {
    let (status, page) = get(http, "/metrics");
    assert_eq!(status, 200, "{page}");
    Metrics::parse(&page)
}

#[test]
fn a_node_serves_tells_its_numbers_and_stops_in_good_order() {
    let place = Place::new();
    place.put("AD/Vila", "42.5, 1.6");
    let mut node = Node::start(&mut alone(&place, &[]));
    let ready = node.ready();
    assert_eq!(ready["name"], "local");
    let listen = ready["listen"].as_str().unwrap();
    TcpStream::connect(listen).unwrap();
    let (status, body) = get(http(&ready), "/healthz");
    let verdict: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, verdict),
        (200, json!({"serving": true, "problems": []}))
    );
    assert_eq!(get(http(&ready), "/nothing").0, 404);

    let metrics = metrics(http(&ready));
    assert_eq!(metrics.shards("owner").len(), 16);
    assert_eq!(metrics.one("watershed_serving"), 1.0);
    assert_eq!(metrics.one("watershed_log_limit_bytes"), f64::from(1 << 30));
    // The terms that begin are synced.
    assert!(metrics.one("watershed_log_sync_duration_seconds_count") >= 1.0);
    for name in [
        "watershed_shard_assigned_seq",
        "watershed_shard_durable_seq",
        "watershed_shard_applied_seq",
    ] {
        assert!(metrics.all(name).all(|(_, seq)| seq >= 1.0), "{name}");
    }
    let parked = metrics.all("watershed_shard_parked_requests");
    assert_eq!(parked.map(|(_, count)| count).sum::<f64>(), 0.0);
    node.stop();
    assert_eq!(place.keys(), ["AD/Vila"]);
}

#[test]
fn a_node_that_is_killed_starts_again_with_everything_there() {
    let place = Place::new();
    place.put("k", "v");
    for round in 0..3 {
        let mut node = Node::start(&mut alone(&place, &[]));
        let ready = node.ready();
        assert_eq!(
            metrics(http(&ready)).shards("owner").len(),
            16,
            "round {round}"
        );
        node.kill();
    }
    assert_eq!(place.keys(), ["k"]);
}

#[test]
fn without_json_the_ready_line_is_for_people_and_log_lines_may_be_json() {
    let place = Place::new();
    let words = [
        "node",
        "--insecure",
        "--log-json",
        "--listen",
        "127.0.0.1:0",
        "--dir",
    ];
    let mut node = Node::start(command(words).arg(place.data()));
    let line = node.ready_line();
    assert!(
        line.starts_with("ready: node local on 127.0.0.1:"),
        "{line}"
    );
    node.signal("INT");
    let ended = node.end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for line in ended.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn a_node_whose_placement_is_watched_stops_without_cutting_anything_off() {
    let place = Place::new();
    let mut node = Node::start(&mut alone(&place, &[]));
    let ready = node.ready();
    let _watching = cluster::watch_placement(ready["listen"].as_str().unwrap());
    node.signal("TERM");
    let ended = node.end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("cut off"), "{ended:?}");
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let place = Place::new();
    let mut node = Node::start(&mut alone(&place, &[]));
    let ready = node.ready();
    // The node would wait some seconds for it.
    let _held = held::call(ready["listen"].as_str().unwrap());
    // Both signals are there when it runs again.
    node.signal("STOP");
    node.signal("TERM");
    node.signal("INT");
    node.signal("CONT");
    let ended = node.end();
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("a second signal: ending at once"),
        "{ended:?}"
    );
    // Nothing was lost by it, and nothing is locked.
    let mut again = Node::start(&mut alone(&place, &[]));
    again.ready();
    again.stop();
}

#[test]
fn a_scraper_that_says_nothing_keeps_nobody_else_out_for_ever() {
    let place = Place::new();
    let mut node = Node::start(&mut alone(&place, &[]));
    let ready = node.ready();
    let mute: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(http(&ready)).unwrap())
        .collect();
    assert_eq!(get(http(&ready), "/healthz").0, 200);
    drop(mute);
    node.stop();
}

#[test]
fn what_keeps_a_node_from_starting_is_one_sentence() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--http"] {
        let refused = run(alone(&place, &[]).args([flag, &taken]));
        assert_eq!(refused.status, 2, "a flag twice: {refused:?}");
        let mut words = vec!["node", "--insecure", "--json", flag, &taken];
        if flag == "--http" {
            words.extend(["--listen", "127.0.0.1:0"]);
        }
        let refused = run(command(&words).arg("--dir").arg(place.data()));
        assert_eq!(refused.status, 1, "{refused:?}");
        let (kind, message) = refused.error();
        assert_eq!(kind, "io");
        assert_eq!(
            message,
            format!("another process listens on {taken}: stop it, or listen on another port")
        );
    }
    let mut node = Node::start(&mut alone(&place, &[]));
    node.ready();
    let (kind, message) = run(&mut alone(&place, &[])).error();
    assert_eq!(kind, "locked", "{message}");
    node.stop();
    let (_, message) = run(&mut alone(&place, &["--name", "other"])).error();
    assert!(message.contains("belongs to node \"local\""), "{message}");
    // Open to other machines, by any of its ways.
    for words in [
        ["--listen", "0.0.0.0:0"],
        ["--listen", "[::]:0"],
        ["--http", "0.0.0.0:0"],
    ] {
        let start = ["node", "--insecure", "--json", "--dir"];
        let refused = run(command(start).arg(place.data()).args(words));
        let (kind, message) = refused.error();
        assert_eq!((refused.status, kind.as_str()), (2, "usage"), "{message}");
        assert!(
            message.contains("is not on the loopback interface"),
            "{message}"
        );
    }
}

#[test]
fn mistakes_of_a_file_are_told_all_at_once() {
    let place = Place::new();
    let file = place.file(
        "node.toml",
        "name = \"a\"\nlistne = \"127.0.0.1:1\"\nweight = 0\n",
    );
    let start = |words: &[&str]| {
        let mut command = command(["node", "--config"]);
        run(command.arg(&file).args(words))
    };
    let refused = start(&["--json"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["kind"], &error["line"]),
        (&json!("bad-input"), &json!(1))
    );
    assert_eq!(error["file"], file.to_str().unwrap());
    let shown = start(&["--check"]);
    assert_eq!((shown.status, shown.stdout.as_str()), (1, ""), "{shown:?}");
    let shown = shown.stderr;
    for says in [
        ":1: `dir` is missing",
        ":1: [placement] is missing",
        ":2: there is no key `listne`: did you mean `listen`?",
        ":3: `weight` is 0: use 1 to 1000000",
    ] {
        assert!(
            shown.contains(&format!("{}{says}", file.display())),
            "{shown}"
        );
    }
    let good = "name = \"a\"\ndir = \"data\"\nlisten = \"127.0.0.1:1\"\ninsecure = true\n[placement]\ndir = \"data/placement\"\n";
    std::fs::write(&file, good).unwrap();
    let checked = start(&["--check", "--json"]);
    assert_eq!(checked.status, 0, "{checked:?}");
    assert_eq!(checked.json()["ok"], true);
    assert!(!place.data().exists());
    let (kind, message) = run(&mut command(["node", "--json", "--config", "no.toml"])).error();
    assert_eq!(
        (kind.as_str(), message.as_str()),
        ("not-found", "there is no no.toml")
    );
}

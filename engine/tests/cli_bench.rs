//! `watershed bench` measures what it is asked for, and says so in one row for each cell.

mod cli_support;

use cli_support::{Place, command, run};
use serde_json::Value;

/// The document of a run in `place`, which must leave nothing behind.
fn measured(place: &Place, words: &str) -> Value {
    let words = ["bench", "--json"]
        .into_iter()
        .chain(words.split_whitespace());
    let ended = run(command(words).arg("--dir").arg(place.path("")));
    assert_eq!(ended.status, 0, "{ended:?}");
    let left = std::fs::read_dir(place.path("")).unwrap().count();
    assert_eq!(left, 0, "nothing is left behind");
    ended.json()
}

fn rows(document: &Value) -> &[Value] {
    document["rows"].as_array().unwrap()
}

const SHORT: &str = "--seconds 0.1 --warm-up 0.02 --keys 500";

#[test]
fn the_quick_bench_measures_every_load_and_what_shards_cost() {
    let document = measured(&Place::new(), &format!("--quick {SHORT}"));
    let rows = rows(&document);
    for load in ["put", "get", "miss", "scan", "mixed", "get-while-put"] {
        let of: Vec<_> = rows.iter().filter(|row| row["load"] == load).collect();
        assert!(!of.is_empty(), "{load}");
        for row in of {
            for field in ["requests", "per_s", "fsync_ms"] {
                assert!(row[field].as_f64().unwrap() > 0.0, "{load}.{field}: {row}");
            }
            let time = |field: &str| row[field].as_u64().unwrap();
            let times = ["p50_us", "p99_us", "p999_us", "max_us"].map(time);
            assert!(times.is_sorted(), "{load}: {row}");
        }
    }
    let moving = rows.iter().find(|row| row["migrate"] == true).unwrap();
    assert!(moving["moves"]["done"].is_u64(), "{moving}");
    let open = &document["open"][0];
    assert_eq!(open["shards"], 16);
    for field in [
        "create_ms",
        "open_ms",
        "open_after_kill_ms",
        "files",
        "memory_bytes",
    ] {
        assert!(open[field].as_f64().unwrap() > 0.0, "{field}: {open}");
    }
}

#[test]
fn every_combination_is_measured_in_the_order_of_the_lists() {
    let lists = "--shards 1,2 --form async,blocking --in-flight 1,4 --value-bytes 0,300 --durability sync,buffered";
    let document = measured(&Place::new(), &format!("{lists} {SHORT}"));
    let rows = rows(&document);
    assert_eq!(rows.len(), 32);
    assert_eq!(
        (&rows[0]["shards"], &rows[31]["shards"]),
        (&1.into(), &2.into())
    );
    for row in rows {
        assert!(row["requests"].as_u64().unwrap() > 0, "{row}");
    }
    assert!(document["open"].as_array().unwrap().is_empty());
}

#[test]
fn reads_find_what_is_there_and_nothing_else() {
    let loads = "--load get,miss,scan,mixed,get-while-put --form blocking,async --in-flight 3";
    let document = measured(&Place::new(), &format!("{loads} {SHORT}"));
    for row in rows(&document) {
        let (found, requests) = (
            row["found"].as_u64().unwrap(),
            row["requests"].as_u64().unwrap(),
        );
        let writes = row["writes"].as_u64().unwrap();
        if row["load"] == "miss" {
            assert_eq!(found, 0, "{row}");
        } else {
            assert_eq!(found + writes, requests, "{row}");
        }
        let beside = row["writes_beside_per_s"].as_f64();
        assert_eq!(beside.is_some(), row["load"] == "get-while-put", "{row}");
    }
}

#[test]
fn a_write_of_several_keys_is_one_write() {
    let document = measured(
        &Place::new(),
        "--batch 5 --in-flight 1 --seconds 0.3 --warm-up 0.02 --keys 500",
    );
    let row = &rows(&document)[0];
    let number = |field: &str| row[field].as_f64().unwrap();
    let keys = number("per_s") * number("seconds");
    assert!((keys - 5.0 * number("requests")).abs() < 0.5, "{row}");
    // One writer that waits needs a sync for each write, but for those at both ends of the time that counts.
    let syncs = number("syncs_per_1000") * number("writes") / 1000.0;
    assert!(syncs >= number("writes") - 2.0, "{row}");
}

#[test]
fn a_shard_moves_to_and_fro_while_it_is_written() {
    let document = measured(
        &Place::new(),
        "--migrate --shards 2 --in-flight 8 --seconds 2 --warm-up 0.02 --keys 500",
    );
    let row = &rows(&document)[0];
    assert!(row["requests"].as_u64().unwrap() > 0, "{row}");
    let moves = &row["moves"];
    let ended = moves["done"].as_u64().unwrap() + moves["given_up"].as_u64().unwrap();
    assert!(ended > 0, "{row}");
}

#[test]
fn without_json_it_prints_a_table() {
    let place = Place::new();
    let words = format!("bench --load put,get --in-flight 2 {SHORT} --open 1 --dir");
    let ended = run(command(words.split_whitespace()).arg(place.path("")));
    assert_eq!(ended.status, 0, "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines[2].starts_with("load  form"), "{}", ended.stdout);
    assert!(lines[3].starts_with("put   async"), "{}", ended.stdout);
    assert!(lines[4].starts_with("get   async"), "{}", ended.stdout);
    assert!(lines[6].starts_with("shards"), "{}", ended.stdout);
}

#[test]
fn bad_values_are_refused_with_what_to_do() {
    for (words, part) in [
        ("--shards 0", "1..=1000"),
        ("--in-flight 0", "1..=65536"),
        ("--load read", "get-while-put"),
        ("--seconds 0", "0.01"),
        ("--form blocking --in-flight 5000", "4096"),
        ("--batch 1000 --value-bytes 100000", "32 MiB"),
    ] {
        let words = ["bench", "--json"]
            .into_iter()
            .chain(words.split_whitespace());
        let ended = run(&mut command(words));
        assert_eq!(ended.status, 2, "{ended:?}");
        let (kind, message) = ended.error();
        assert_eq!(kind, "usage");
        assert!(message.contains(part), "{part} in {message}");
    }
    let missing = run(command(["bench", "--json", "--dir"]).arg("/nonexistent/dir"));
    assert_eq!(
        (missing.status, missing.error().0.as_str()),
        (1, "not-found")
    );
}

#[cfg(target_os = "linux")]
#[test]
fn too_few_handles_for_the_shards_that_were_asked_for_are_named() {
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "ulimit -n 100; exec \"$0\" bench --json --open 100",
        cli_support::BINARY,
    ]);
    let ended = run(command.stdin(std::process::Stdio::null()));
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.error().1.contains("ulimit -n"), "{ended:?}");
}

//! `watershed demo`, small: nothing is lost with and without failing forwards, and what is unsafe is refused.

mod cli_support;

use cli_support::{Ended, Place, command, run};
use serde_json::Value;

const PHASES: [&str; 8] = [
    "plan",
    "bulk-copy",
    "dual-write",
    "stop-dual-write",
    "drain",
    "delta-pass",
    "activate",
    "cleanup",
];

/// A demo of some thousand documents and writes.
fn demo(place: &Place, flags: &[&str]) -> Ended {
    let text: String = (0..3000)
        .map(|key| format!("{{\"id\":\"doc{key}\",\"name\":\"document {key}\"}}\n"))
        .collect();
    let file = place.file("in.ndjson", text + "{\"id\":\"doc7\",\"name\":\"again\"}\n");
    let small = ["--shards", "4", "--writers", "3", "--writes", "3000"];
    run(command(["demo", "--json", "--input"])
        .arg(file)
        .args(small)
        .args(flags))
}

fn assert_nothing_lost(ended: &Ended) -> Value {
    assert_eq!(ended.status, 0, "{ended:?}");
    let document = ended.json();
    for key in [
        "lost",
        "resurrected",
        "wrong_value",
        "stale_reads",
        "versions_out_of_order",
        "misplaced_copies",
    ] {
        assert_eq!(document[key], 0, "{key}: {document}");
    }
    assert_eq!(
        (&document["verdict"], &document["digest_match"]),
        (&"pass".into(), &true.into())
    );
    assert_eq!(document["keys_present"], document["keys_scanned"]);
    assert!(document["writes_acknowledged"].as_u64().unwrap() >= 3000);
    for phase in PHASES.into_iter().chain(["none"]) {
        for kind in ["insert", "update", "delete"] {
            let count = document["writes_by_phase"][phase][kind].as_u64();
            assert!(count >= Some(1), "{kind} in {phase}: {document}");
        }
    }
    document
}

#[test]
fn half_of_the_shards_move_and_nothing_is_lost() {
    let place = Place::new();
    let document = assert_nothing_lost(&demo(&place, &[]));
    assert_eq!(
        (&document["documents"], &document["documents_repeated"]),
        (&3001.into(), &1.into())
    );
    assert_eq!(
        (
            &document["migrations"],
            document["moves"].as_array().unwrap().len()
        ),
        (&2.into(), 2)
    );
    for key in ["p50", "p99", "max"] {
        assert!(document["pause_ms"][key].as_f64().unwrap() > 0.0);
    }
    for period in ["before", "during", "after"] {
        assert!(
            document["write_latency_us"][period]["p99"]
                .as_u64()
                .unwrap()
                > 0,
            "{period}: {document}"
        );
    }
    assert_eq!(
        (&document["kills"], &document["anti_entropy"]["passes"]),
        (&Value::Array(vec![]), &0.into())
    );
}

#[test]
fn holes_of_lost_forwards_are_filled() {
    for probability in ["0.02", "1"] {
        let place = Place::new();
        let document = assert_nothing_lost(&demo(&place, &["--fail-forward", probability]));
        assert!(
            document["holes_filled"].as_u64().unwrap() > 0,
            "{probability}: {document}"
        );
        assert!(
            document["delta_records"].as_u64().unwrap() > 0,
            "{probability}: {document}"
        );
    }
}

#[test]
fn a_third_node_takes_its_share_from_both() {
    let place = Place::new();
    let document = assert_nothing_lost(&demo(
        &place,
        &["--nodes", "2", "--shards", "6", "--durability", "buffered"],
    ));
    assert_eq!(
        (
            &document["migrations"],
            document["nodes"].as_array().unwrap().len()
        ),
        (&2.into(), 3)
    );
    let sources: Vec<_> = document["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["source"].clone())
        .collect();
    assert_eq!(sources, ["a", "b"]);
}

#[test]
fn nodes_that_are_processes_lose_nothing() {
    let place = Place::new();
    let flags = ["--nodes", "2", "--processes", "--fail-forward", "0.02"];
    let document = assert_nothing_lost(&demo(&place, &flags));
    assert_eq!(document["kills"], Value::Array(vec![]));
    assert_eq!(document["nodes"].as_array().unwrap().len(), 3);
}

#[test]
fn a_process_that_is_killed_costs_nothing_that_was_acknowledged() {
    for (who, phase) in [
        ("source", "quiesce"),
        ("target", "delta-pass"),
        ("driver", "drain"),
        ("placement", "activate"),
    ] {
        let place = Place::new();
        let kill = format!("{who}@{phase}");
        let document = assert_nothing_lost(&demo(&place, &["--processes", "--kill", &kill]));
        let killed = serde_json::json!([{ "who": who, "phase": phase }]);
        assert_eq!(document["kills"], killed);
    }
}

#[test]
fn a_kill_needs_processes_a_name_and_a_phase() {
    for flags in [
        &["--kill", "source@drain"][..],
        &["--processes", "--kill", "source"],
        &["--processes", "--kill", "me@drain"],
        &["--processes", "--kill", "source@plan"],
    ] {
        let place = Place::new();
        assert_eq!(demo(&place, flags).status, 2, "{flags:?}");
    }
}

#[test]
fn without_both_safety_nets_it_is_refused_and_no_shard_is_touched() {
    for flags in [
        &["--no-anti-entropy", "--no-delta-pass"][..],
        &["--no-delta-pass"],
    ] {
        let place = Place::new();
        let dir = place.path("nodes");
        let mut all = flags.to_vec();
        all.extend(["--dir", dir.to_str().unwrap()]);
        let ended = demo(&place, &all);
        assert_eq!(
            (ended.status, &ended.json()["verdict"]),
            (1, &"refused".into()),
            "{ended:?}"
        );
        let reason = ended.json()["reason"].as_str().unwrap().to_owned();
        assert!(
            reason.contains("delta_pass"),
            "it says what to change: {reason}"
        );
        assert_eq!(ended.error(), ("refused".into(), reason));
        assert_eq!(ended.json()["writes_acknowledged"], 0);
        assert!(!dir.exists());
    }
}

#[test]
fn without_anti_entropy_it_warns_and_passes() {
    let place = Place::new();
    let ended = demo(&place, &["--no-anti-entropy"]);
    assert!(
        ended.stderr.contains("warning: anti-entropy is off"),
        "{}",
        ended.stderr
    );
    assert!(assert_nothing_lost(&ended)["warning"].is_string());
}

#[test]
fn the_data_stays_in_a_named_directory_which_must_be_empty() {
    let place = Place::new();
    let dir = place.path("nodes");
    let dir = dir.to_str().unwrap();
    assert_nothing_lost(&demo(&place, &["--dir", dir]));
    let status = run(command(["status", "--json", "--dir"]).arg(place.path("nodes/b")));
    assert_eq!(
        (
            status.status,
            status.json()["shards"].as_array().unwrap().len()
        ),
        (0, 2),
        "{status:?}"
    );
    let again = demo(&place, &["--dir", dir]);
    assert_eq!(
        (again.status, again.error().0.as_str()),
        (1, "bad-directory"),
        "{again:?}"
    );
}

#[test]
fn an_empty_input_is_enough() {
    let place = Place::new();
    let file = place.file("empty.ndjson", "");
    let ended = run(command([
        "demo", "--json", "--shards", "2", "--writes", "500", "--input",
    ])
    .arg(file));
    assert_eq!(
        (ended.status, &ended.json()["documents"]),
        (0, &0.into()),
        "{ended:?}"
    );
}

#[test]
fn a_person_gets_a_page() {
    let place = Place::new();
    let file = place.file("in.ndjson", "{\"id\":1}\n");
    let ended = run(command(["demo", "--shards", "2", "--writes", "500", "--input"]).arg(file));
    assert_eq!(ended.status, 0, "{ended:?}");
    for part in [
        "Loaded",
        "Moved     1 shards",
        "Pause     p50",
        "Checked",
        "PASS",
    ] {
        assert!(
            ended.stdout.contains(part),
            "no {part:?} in:\n{}",
            ended.stdout
        );
    }
}

#[test]
fn a_bad_document_ends_it_before_anything_moves() {
    let place = Place::new();
    let file = place.file("in.ndjson", "{\"id\":1}\nnonsense\n");
    let ended = run(command(["demo", "--json", "--input"]).arg(&file));
    assert_eq!((ended.status, ended.error().0.as_str()), (1, "bad-input"));
    assert_eq!(ended.json()["error"]["line"], 2);
}

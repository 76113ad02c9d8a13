//! `certificate verify`: the certificates of a demo are right, and one that was tampered with is refused by the field.

mod cli_support;

use std::fs;
use std::path::{Path, PathBuf};

use cli_support::{Ended, Place, command, run};
use serde_json::{Value, json};
use watershed::{Engine, LocalCluster, ShardId};

fn verify(file: &Path) -> Ended {
    run(command(["certificate", "verify", "--json"]).arg(file))
}

/// The certificate of a migration that was carried out here.
fn certificate(place: &Place) -> PathBuf {
    let cluster = LocalCluster::open(place.path("")).unwrap();
    let open = |node: &str| {
        let options = Engine::options().node(node).shards(1).cluster(&cluster);
        options.open(place.path(node)).unwrap()
    };
    let (a, b) = (open("a"), open("b"));
    for key in 0..100 {
        a.put(format!("k{key}"), "v").wait().unwrap();
    }
    let migration = a.migrate(ShardId(0)).to("b").start().unwrap();
    migration.wait().unwrap();
    let file = format!("certificates/{}.json", migration.id());
    a.close().unwrap();
    b.close().unwrap();
    place.path("a").join(file)
}

#[test]
fn a_migration_leaves_a_certificate_that_verifies_and_a_changed_one_does_not() {
    let place = Place::new();
    let file = certificate(&place);
    let verified = verify(&file);
    assert_eq!(verified.status, 0, "{verified:?}");
    let document = verified.json();
    assert_eq!(document["valid"], true);
    assert_eq!(document["certificate"]["target"]["node"], "b");
    let plain = run(command(["certificate", "verify"]).arg(&file));
    assert!(
        plain
            .stdout
            .contains("from a (epoch 1) to b (epoch 2) whole"),
        "{plain:?}"
    );

    let text = fs::read_to_string(&file).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    for (field, value) in [
        ("missing", json!([[1, 2]])),
        ("verdict", json!("fine")),
        ("digest_target", whole["digest_base"].clone()),
        ("version", json!(999)),
    ] {
        let mut changed = whole.clone();
        changed[field] = value;
        fs::write(&file, changed.to_string()).unwrap();
        let refused = verify(&file);
        assert_eq!(refused.status, 1, "{field}: {refused:?}");
        let (kind, message) = refused.error();
        assert!(
            kind == "bad-input" || kind == "newer-format",
            "{kind}: {message}"
        );
        assert!(
            message.contains(field) || kind == "newer-format",
            "{field}: {message}"
        );
    }
}

#[test]
fn what_is_no_certificate_is_named_with_its_line() {
    let place = Place::new();
    let file = place.file("c.json", "{\n\"version\": 1,\n");
    let refused = verify(&file);
    assert_eq!(refused.status, 1);
    assert_eq!(refused.error().0, "bad-input");
    assert_eq!(refused.json()["error"]["line"], 3, "{refused:?}");
    let missing = verify(&place.path("none.json"));
    assert_eq!(
        (missing.status, missing.error().0.as_str()),
        (1, "not-found")
    );
    assert_eq!(run(&mut command(["certificate", "verify"])).status, 2);
}

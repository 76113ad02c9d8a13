//! `load`: good documents, and every kind of bad one. A bad line is named, and what came before it stays.

mod cli_support;

use cli_support::{Place, command, run};

#[test]
fn plain_and_compressed_documents_load() {
    let place = Place::new();
    let text = "{\"id\":\"a\",\"x\":1}\n{\"id\":7}\r\n\n{\"id\":\"c\"}";
    let plain = place.file("plain.ndjson", text);
    let loaded = place.load(&plain);
    assert_eq!(loaded.status, 0, "{loaded:?}");
    let document = loaded.json();
    assert_eq!(
        (
            &document["documents"],
            &document["inserts"],
            &document["updates"]
        ),
        (&3.into(), &3.into(), &0.into())
    );
    assert_eq!(place.keys(), ["7", "a", "c"]);
    assert_eq!(
        place.json("get", &["a"]).json()["value"],
        "{\"id\":\"a\",\"x\":1}"
    );
    assert_eq!(
        place.json("get", &["7"]).json()["value"],
        "{\"id\":7}",
        "the line end is no part of the value"
    );

    let packed = place.file(
        "packed.ndjson.zst",
        zstd::encode_all(text.as_bytes(), 3).unwrap(),
    );
    let again = place.load(&packed).json();
    assert_eq!(
        (&again["documents"], &again["updates"]),
        (&3.into(), &3.into()),
        "each key was there"
    );
    assert_eq!(place.keys().len(), 3);
}

#[test]
fn a_key_given_twice_is_an_update_and_the_later_line_wins() {
    let place = Place::new();
    let mut text = String::new();
    for round in 0..40 {
        for key in 0..10 {
            text.push_str(&format!("{{\"id\":{key},\"round\":{round}}}\n"));
        }
    }
    let file = place.file("twice.ndjson", text);
    let document = place.load(&file).json();
    assert_eq!(
        (&document["documents"], &document["updates"]),
        (&400.into(), &390.into())
    );
    for key in 0..10 {
        let found = place.json("get", &[&key.to_string()]).json();
        assert_eq!(found["value"], format!("{{\"id\":{key},\"round\":39}}"));
    }
}

#[test]
fn another_key_field_may_be_named() {
    let place = Place::new();
    let file = place.file("f.ndjson", "{\"name\":\"x\",\"id\":1}\n");
    let ended = place.json("load", &["--key", "name", file.to_str().unwrap()]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(place.keys(), ["x"]);
}

#[test]
fn an_empty_file_is_an_empty_load() {
    let place = Place::new();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("blank", b"\n \n"),
        ("packed", &zstd::encode_all(&b""[..], 1).unwrap()),
    ] {
        let file = place.file(name, bytes);
        let ended = place.load(&file);
        assert_eq!(
            (ended.status, &ended.json()["documents"]),
            (0, &0.into()),
            "{name}: {ended:?}"
        );
    }
    assert!(place.keys().is_empty());
}

#[test]
fn a_bad_line_is_named_and_the_lines_before_it_stay() {
    let too_long = format!("{{\"id\":\"{}\"}}", "k".repeat(65_537));
    let huge = format!("{{\"id\":1,\"v\":\"{}\"}}", "v".repeat(16 << 20));
    let cases: [(&[u8], &str); 9] = [
        (b"{\"id\":\"broken", "not JSON"),
        (b"{\"id\":\"x\"} {\"id\":\"y\"}", "not JSON"),
        (b"[\"id\"]", "JSON object"),
        (b"{\"id\":\"\xc3\x28\"}", "not UTF-8"),
        (b"{\"name\":\"no key\"}", "\"id\" is missing"),
        (b"{\"id\":null}", "string or a number"),
        (b"{\"id\":\"\"}", "1 to 65536"),
        (too_long.as_bytes(), "1 to 65536"),
        (huge.as_bytes(), "at most 16777216 bytes"),
    ];
    for (bad, what) in cases {
        let place = Place::new();
        let mut text: Vec<u8> = (0..500)
            .map(|key| format!("{{\"id\":\"k{key:03}\"}}\n"))
            .collect::<String>()
            .into();
        text.extend_from_slice(bad);
        text.extend_from_slice(b"\n{\"id\":\"after\"}\n");
        let file = place.file("in.ndjson", text);
        let plain = place.run("load", &[file.to_str().unwrap()]);
        assert_eq!(plain.status, 1, "{plain:?}");
        let place_named = format!("{}:501: ", file.display());
        let last = plain.stderr.lines().last().unwrap();
        assert!(last.contains(&place_named) && last.contains(what), "{last}");
        assert_eq!(plain.stdout, "");

        let json = place.load(&file);
        let (kind, message) = json.error();
        assert_eq!((json.status, kind.as_str()), (1, "bad-input"));
        assert!(message.contains(what), "{message}");
        assert_eq!(json.json()["error"]["line"], 501);
        assert_eq!(json.json()["error"]["file"], file.to_str().unwrap());
        let keys = place.keys();
        assert_eq!((keys.len(), keys[499].as_str()), (500, "k499"), "{what}");
    }
}

#[test]
fn a_cut_compressed_file_is_named_and_what_it_held_stays() {
    let place = Place::new();
    let mut random = 1u64;
    let text: String = (0..20_000)
        .map(|key| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            format!("{{\"id\":{key},\"noise\":{random}}}\n")
        })
        .collect();
    let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let file = place.file("cut.zst", &packed[..packed.len() * 3 / 4]);
    let ended = place.load(&file);
    assert_eq!(
        (ended.status, ended.error().0.as_str()),
        (1, "bad-input"),
        "{ended:?}"
    );
    let line = ended.json()["error"]["line"].as_u64().unwrap();
    assert!(line > 1000, "{line}");
    assert_eq!(place.keys().len() as u64, line - 1);
}

#[test]
fn a_missing_input_is_one_sentence_and_makes_no_engine() {
    let place = Place::new();
    let missing = place.path("nowhere.ndjson");
    let ended = place.load(&missing);
    let (kind, message) = ended.error();
    assert_eq!((ended.status, kind.as_str()), (1, "not-found"));
    assert_eq!(message, format!("there is no {}", missing.display()));
    assert!(!place.data().exists());

    let directory = run(command(["load", "--json", "--dir"])
        .arg(place.data())
        .arg(place.path("")));
    assert_eq!(
        (directory.status, directory.error().0.as_str()),
        (1, "bad-input")
    );
}

#[test]
fn wrong_usage_exits_2_and_is_json_when_asked() {
    for words in [
        &["load"][..],
        &["load", "--wrong", "x"],
        &["scan", "--limit", "many"],
        &["nothing"],
        &[],
    ] {
        let plain = run(&mut command(words));
        assert_eq!(
            (plain.status, plain.stdout.as_str()),
            (2, ""),
            "{words:?}: {plain:?}"
        );
        let helps = ["Usage", "--help"]
            .iter()
            .any(|word| plain.stderr.contains(word));
        assert!(helps, "{plain:?}");
        let json = run(command(words).arg("--json"));
        assert_eq!(
            (json.status, json.error().0.as_str()),
            (2, "usage"),
            "{words:?}: {json:?}"
        );
    }
    let conflict = run(&mut command(["scan", "--prefix", "a", "--from", "b"]));
    assert_eq!(conflict.status, 2);
    for help in ["--help", "--version"] {
        let ended = run(&mut command([help]));
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        assert!(ended.stdout.contains("watershed"));
    }
}

//! Each mistake is told with its line and with what to do; several are told at once; the documented example has none.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::NodeArgs;
use super::{Failure, NodeConfig, PlacementChoice};
use crate::net::certs::{self, Wish};
use crate::net::{Identity, Security};

/// A directory with a configuration in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn args(&self, text: &str) -> NodeArgs {
        let config = self.path("node.toml");
        fs::write(&config, text).unwrap();
        NodeArgs {
            config: Some(config),
            ..NodeArgs::default()
        }
    }

    fn load(&self, text: &str) -> Result<NodeConfig, Failure> {
        NodeConfig::load(&self.args(text))
    }

    /// Each mistake as LINE: WHAT.
    fn mistakes(&self, text: &str) -> Vec<String> {
        let failure = self.load(text).expect_err(text);
        let json: Value = serde_json::to_value(&failure).unwrap();
        let file = self.path("node.toml");
        assert_eq!(json["kind"], "bad-input", "{json}");
        assert_eq!(json["file"], file.to_str().unwrap());
        let sentence = failure.sentence();
        let lines: Vec<_> = sentence
            .lines()
            .map(|line| {
                let told = line.strip_prefix(&format!("{}:", file.display()));
                told.unwrap_or_else(|| panic!("no place in {line:?}"))
                    .to_owned()
            })
            .collect();
        let first: u64 = lines[0].split(':').next().unwrap().parse().unwrap();
        assert_eq!(json["line"], first);
        lines
    }
}

/// Lines 1 to 6: a node without mistakes.
const GOOD: &str = r#"name = "a"
dir = "data"
listen = "127.0.0.1:7400"
insecure = true
[placement]
dir = "data/placement"
"#;

/// Lines 1 to 3 of it.
const HEAD: &str = "name = \"a\"\ndir = \"data\"\nlisten = \"127.0.0.1:7400\"\n";

#[test]
fn a_node_without_mistakes_is_taken() {
    let place = Place::new();
    let config = place.load(GOOD).unwrap();
    assert_eq!(config.dir, place.path("data"));
    assert_eq!(config.placement, PlacementChoice::Own);
    assert_eq!(config.security, Security::Insecure);
    assert_eq!(config.advertise.as_deref(), Some("127.0.0.1:7400"));
    assert_eq!((config.weight, config.shards), (1, None));
    let other = place.load(&GOOD.replace("data/placement", "map")).unwrap();
    assert_eq!(other.placement, PlacementChoice::Hosted(place.path("map")));
    // Its port is known once it listens.
    let free = place.load(&GOOD.replace(":7400", ":0")).unwrap();
    assert_eq!(free.advertise, None);
}

/// What is added to the good file from line 7 on; where the mistake is; what is said of it.
const ADDED: &[(&str, u64, &str)] = &[
    ("[tsl]\n", 7, "there is no table `tsl`: did you mean `tls`?"),
    (
        "[http]\nlisten = \"127.0.0.1:0\"\nport = 1\n",
        9,
        "there is no key `port` in [http]: known are",
    ),
    (
        "[log]\nformat = \"xml\"\n",
        8,
        "\"xml\" is no format: use \"human\" or \"json\"",
    ),
    ("[log]\nlevel = \"loud\"\n", 8, "\"loud\" is no level"),
    (
        "[log]\nlevel = \"warn,watershed=lots\"\n",
        8,
        "\"lots\" is unknown",
    ),
    (
        "[engine]\nblock_cache_bytes = \"1 GB\"\n",
        8,
        "must be a number of bytes, or a string such as \"256 MiB\", and is \"1 GB\"",
    ),
    ("[engine]\nblock_cache_bytes = -1\n", 8, "and is -1"),
    (
        "[engine]\nblock_cache_bytes = 1024\n",
        8,
        "is 1 KiB: use 1 MiB to 1024 TiB",
    ),
    (
        "[engine]\nsegment_bytes = \"512 MiB\"\n",
        8,
        "less than three segments",
    ),
    (
        "[engine]\nlog_limit_bytes = \"2 MiB\"\n",
        8,
        "less than three segments",
    ),
    (
        "[engine]\nbuffered_sync_ms = 0\n",
        8,
        "is 0: use 1 to 60000",
    ),
    (
        "[migration]\npause_max_ms = 4\n",
        8,
        "`pause_max_ms` of [migration] is 4: use 5 to 60000",
    ),
    (
        "[migration]\nrate_bytes_per_s = 1\n",
        8,
        "use 1 KiB or more",
    ),
    (
        "[migration]\nat_once = 1.5\n",
        8,
        "must be a whole number, and is a float",
    ),
    (
        "[nodes]\nb = \"10.0.0.1\"\n",
        8,
        "\"10.0.0.1\" is no HOST:PORT, it has no port",
    ),
    (
        "[nodes]\nb = 7\n",
        8,
        "must be a string in quotes, and is 7",
    ),
    (
        "[nodes]\n\"b c\" = \"127.0.0.1:1\"\n",
        8,
        "\"b c\" is no node name",
    ),
    ("[nodes]\nb = \"127.0.0.1:0\"\n", 8, "has port 0"),
    (
        "[nodes]\nb = \"127.0.0.1:1\"\nc = \"127.0.0.1:1\"\n",
        9,
        "nodes b and c have one address, 127.0.0.1:1",
    ),
    (
        "[nodes]\nb = \"127.0.0.1:7400\"\n",
        8,
        "nodes b and a (this one) have one address",
    ),
    (
        "[nodes]\nb = \"10.0.0.1:7400\"\n",
        8,
        "10.0.0.1:7400 is not on the loopback interface, and `insecure` nodes reach no other",
    ),
    (
        "[http]\nlisten = \"0.0.0.0:7480\"\n",
        8,
        "say `beyond_loopback = true`",
    ),
    (
        "[http]\nlisten = \"127.0.0.1:7400\"\n",
        8,
        "is where other nodes connect",
    ),
    ("[http]\n", 7, "`listen` of [http] is missing"),
    ("[tls]\n", 4, "`insecure` and [tls] contradict each other"),
    ("name = \"b\"\n", 7, "there is no key `name` in [placement]"),
    ("host = \"b\"\n", 5, "[placement] has several: give one of"),
    (
        "prefix = \"/a/\"\n",
        7,
        "`prefix` of [placement] is for etcd only",
    ),
    ("dir = \"twice\"\n", 7, "not TOML: "),
    ("[log\n", 7, "not TOML: "),
    ("x = \n", 7, "not TOML: "),
];

/// What a part of it is changed to; where the mistake is; what is said of it.
const CHANGED: &[(&str, &str, u64, &str)] = &[
    (
        "name = \"a\"",
        "name = \"a b\"",
        1,
        "\"a b\" is no node name",
    ),
    (
        "name = \"a\"",
        "name = 7",
        1,
        "`name` must be a string in quotes, and is 7",
    ),
    (
        "name = \"a\"",
        "",
        1,
        "`name` is missing: give it, or --name",
    ),
    (
        "dir = \"data\"",
        "dir = \"\"",
        2,
        "it is empty: name a path",
    ),
    (
        "dir = \"data\"",
        "dir = \"file\"",
        2,
        "file is a file: name a directory",
    ),
    (
        "listen =",
        "listne =",
        3,
        "there is no key `listne`: did you mean `listen`?",
    ),
    ("listen =", "listne =", 1, "`listen` is missing"),
    (
        "127.0.0.1:7400",
        "0.0.0.0:7400",
        3,
        "0.0.0.0:7400 is not on the loopback interface",
    ),
    (
        "127.0.0.1:7400",
        "0.0.0.0:7400",
        3,
        "say with `advertise` which one they use",
    ),
    (
        "127.0.0.1:7400",
        "127.0.0.1:65536",
        3,
        "its port is not 0 to 65535",
    ),
    (
        "127.0.0.1:7400",
        "no.such.name.invalid:1",
        3,
        "can't be looked up",
    ),
    (
        "insecure = true",
        "insecure = \"yes\"",
        4,
        "must be true or false, and is \"yes\"",
    ),
    ("insecure = true", "insecure = false", 1, "give [tls]"),
    (
        "insecure = true",
        "insecure = true\nweight = 0",
        5,
        "`weight` is 0: use 1 to 1000000",
    ),
    (
        "insecure = true",
        "insecure = true\nshards = 1001",
        5,
        "use 1 to 1000",
    ),
    (
        "insecure = true",
        "insecure = true\nadvertise = \"a:0\"",
        5,
        "`advertise` has port 0",
    ),
    (
        "insecure = true",
        "insecure = true\nhttp = \"127.0.0.1:1\"",
        5,
        "`http` must be a table, and is \"127.0.0.1:1\": write [http]",
    ),
    (
        "dir = \"data/placement\"",
        "dir = \"data\"",
        6,
        "is the node's own `dir`",
    ),
    ("dir = \"data/placement\"", "dir = \"file\"", 6, "is a file"),
    (
        "dir = \"data/placement\"",
        "",
        5,
        "[placement] says nothing: give one of",
    ),
    (
        "dir = \"data/placement\"",
        "host = \"a\"",
        6,
        "is this node, a",
    ),
    (
        "dir = \"data/placement\"",
        "host = \"b\"",
        6,
        "add it to [nodes], as b = \"HOST:PORT\"",
    ),
    (
        "dir = \"data/placement\"",
        "etcd = \"http://a:1\"",
        6,
        "must be a list of strings",
    ),
    (
        "dir = \"data/placement\"",
        "etcd = []",
        6,
        "names no member",
    ),
    (
        "dir = \"data/placement\"",
        "etcd = [\"a:1\"]",
        6,
        "\"a:1\" is not of the form http://HOST:PORT",
    ),
    (
        "dir = \"data/placement\"",
        "etcd = [\"http://a:1\"]\nprefix = \"x\"",
        7,
        "must begin and end with a slash",
    ),
    (
        "[placement]\ndir = \"data/placement\"",
        "",
        1,
        "[placement] is missing: give one of",
    ),
];

#[test]
fn each_mistake_is_told_with_its_line_and_with_what_to_do() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    for (text, line, says) in ADDED {
        let mistakes = place.mistakes(&format!("{GOOD}{text}"));
        let place = format!("{line}: ");
        let told = mistakes
            .iter()
            .any(|it| it.starts_with(&place) && it.contains(says));
        assert!(
            told,
            "{text:?}: {says:?} on line {line} is not in {mistakes:#?}"
        );
    }
    for (from, to, line, says) in CHANGED {
        assert!(GOOD.contains(from), "{from}");
        let mistakes = place.mistakes(&GOOD.replacen(from, to, 1));
        let place = format!("{line}: ");
        let told = mistakes
            .iter()
            .any(|it| it.starts_with(&place) && it.contains(says));
        assert!(
            told,
            "{to:?}: {says:?} on line {line} is not in {mistakes:#?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let place = Place::new();
    let text = "name = \"a b\"\nlisten = \"nowhere\"\n[tls]\nkey = \"k\"\n[http]\nlisten = \"0.0.0.0:1\"\n";
    let mistakes = place.mistakes(text);
    let lines: Vec<u64> = mistakes
        .iter()
        .map(|told| told.split(':').next().unwrap().parse().unwrap())
        .collect();
    // Missing: dir and [placement] on line 1; authority and certificate on line 3.
    assert_eq!(lines, [1, 1, 1, 2, 3, 3, 4, 6], "{mistakes:#?}");
}

#[test]
fn files_of_certificates_are_looked_at() {
    let place = Place::new();
    let text = format!(
        "{HEAD}[tls]\nauthority = \"certs/ca.pem\"\ncertificate = \"certs/node-a.pem\"\nkey = \"certs/node-a.key\"\n[placement]\ndir = \"map\"\n"
    );
    let missing = place.mistakes(&text);
    assert_eq!(missing.len(), 3, "{missing:#?}");
    assert!(
        missing[0].starts_with("5: `authority` of [tls]: there is no"),
        "{missing:#?}"
    );
    assert!(
        missing[2].contains("make it with `watershed certs`"),
        "{missing:#?}"
    );
    let dir = place.path("certs");
    certs::init(&dir, 1).unwrap();
    for name in ["a", "b"] {
        let identity = Identity::node(name.parse().unwrap());
        certs::issue(&dir, &dir, &Wish { identity, days: 1 }).unwrap();
    }
    let config = place.load(&text).unwrap();
    assert!(matches!(config.security, Security::Mutual(_)));
    let others = place.mistakes(&text.replace("node-a", "node-b"));
    assert!(
        others[0].starts_with("4: [tls]: watershed://node/b is not the certificate of node a"),
        "{others:#?}"
    );
    fs::write(place.path("certs/node-a.pem"), "nothing").unwrap();
    let damaged = place.mistakes(&text);
    assert!(
        damaged[0].contains("it holds no certificate"),
        "{damaged:#?}"
    );
}

#[test]
fn nodes_share_one_table() {
    let place = Place::new();
    let text = format!("{GOOD}[nodes]\na = \"127.0.0.1:7400\"\nb = \"127.0.0.1:7401\"\n");
    let config = place.load(&text).unwrap();
    assert_eq!(config.nodes.len(), 2);
    // Where this node is, too.
    let behind = text.replace("listen = \"127.0.0.1:7400\"", "listen = \"127.0.0.1:7500\"");
    let config = place.load(&behind).unwrap();
    assert_eq!(config.advertise.as_deref(), Some("127.0.0.1:7400"));
    let two = behind.replace(
        "insecure = true",
        "insecure = true\nadvertise = \"127.0.0.1:7500\"",
    );
    let mistakes = place.mistakes(&two);
    assert!(
        mistakes[0].starts_with("9: [nodes]: this node is at 127.0.0.1:7400 here"),
        "{mistakes:#?}"
    );
}

#[test]
fn flags_are_laid_over_the_file() {
    let place = Place::new();
    let mut args = place.args(GOOD);
    args.name = Some("b".parse().unwrap());
    args.dir = Some("elsewhere".into());
    args.listen = Some("127.0.0.1:0".into());
    args.http = Some("127.0.0.1:0".into());
    args.log_json = true;
    let config = NodeConfig::load(&args).unwrap();
    assert_eq!(config.name.as_str(), "b");
    assert_eq!(config.dir, Path::new("elsewhere"));
    assert_eq!(
        (config.listen.port(), config.http.map(|it| it.port())),
        (0, Some(0))
    );
    assert!(config.log.json);
    args.listen = Some("0.0.0.0:1".into());
    let failure = NodeConfig::load(&args).unwrap_err();
    assert!(
        failure
            .sentence()
            .contains("--listen: 0.0.0.0:1 is not on the loopback"),
        "{}",
        failure.sentence()
    );
}

#[test]
fn flags_alone_make_a_node_by_itself() {
    let mut args = NodeArgs::default();
    let failure = NodeConfig::load(&args).unwrap_err();
    assert!(failure.is_usage());
    assert!(
        failure
            .sentence()
            .starts_with("--insecure: how nodes know each other is missing"),
        "{}",
        failure.sentence()
    );
    args.insecure = true;
    let config = NodeConfig::load(&args).unwrap();
    assert_eq!(
        (config.name.as_str(), &config.placement),
        ("local", &PlacementChoice::Own)
    );
    assert_eq!(config.listen.to_string(), "127.0.0.1:7400");
}

#[test]
fn the_documented_example_has_no_mistakes_and_every_key() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/node.toml");
    let example = fs::read_to_string(example).unwrap();
    let place = Place::new();
    let dir = place.path("watershed-certs");
    certs::init(&dir, 1).unwrap();
    let identity = Identity::node("a".parse().unwrap());
    certs::issue(&dir, &dir, &Wish { identity, days: 1 }).unwrap();
    let config = place.load(&example).unwrap();
    // What it shows as default is the default.
    let least = format!(
        "{HEAD}[tls]\nauthority = \"watershed-certs/ca.pem\"\ncertificate = \"watershed-certs/node-a.pem\"\nkey = \"watershed-certs/node-a.key\"\n[placement]\ndir = \"map\"\n"
    );
    let least = place.load(&least).unwrap();
    assert_eq!(config.migration, least.migration);
    assert_eq!(
        (config.weight, config.migrations_at_once),
        (least.weight, Some(4))
    );
    assert_eq!(
        (config.log.json, &config.log.level),
        (least.log.json, &least.log.level)
    );
    let defaults = format!(
        "{:?}",
        crate::Engine::options().node("a").migrations_at_once(4)
    );
    assert_eq!(format!("{:?}", config.engine_options()), defaults);
    // Keys that are comments there are keys, too: without the two that exclude [tls] and `dir`.
    let mut all = String::new();
    for line in example.lines() {
        let key = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ").is_some_and(|(key, _)| {
                key.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            })
        });
        match key {
            Some(key)
                if !["insecure", "host", "etcd", "prefix"]
                    .iter()
                    .any(|it| key.starts_with(it)) =>
            {
                all.push_str(key)
            }
            _ => all.push_str(line),
        }
        all.push('\n');
    }
    let all = all.replace("a.example.org", "127.0.0.1");
    let config = place.load(&all).unwrap();
    assert_eq!(config.shards, Some(16));
    assert_eq!(config.migration.rate_bytes_per_s, Some(50 << 20));
    assert_eq!(config.engine.background_bytes_per_s, Some(200 << 20));
}

//! Several nodes with certificates, of which one serves the map of owners.

use std::fs;
use std::path::PathBuf;

use tokio::runtime::Runtime;
use watershed::net::{NetLink, RemotePlacement, Security, TlsFiles};
use watershed::{Client, Placement};

use crate::cli_support::{Place, command, run};
use crate::process::{Node, address, get};
use crate::{http, metrics};

/// Keeps a call to the node at `address` that does not end: the watch of its placement.
pub(crate) fn watch_placement(address: &str) -> (Runtime, RemotePlacement) {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.enter();
    let link = NetLink::new(&"watcher".parse().unwrap(), Security::Insecure).unwrap();
    let node: watershed::NodeId = "local".parse().unwrap();
    link.know(node.clone(), address);
    let placement = RemotePlacement::new(link, node);
    drop(inside);
    // The first change is that the watch has begun.
    let mut changes = placement.watch();
    runtime.block_on(changes.changed()).unwrap();
    (runtime, placement)
}

/// A cluster's files: a, which serves the placement, and others.
struct Cluster {
    place: Place,
    /// Which addresses of this process are its.
    base: u16,
}

const NODES: [&str; 3] = ["a", "b", "c"];

impl Cluster {
    fn new(base: u16) -> Self {
        let place = Place::new();
        let certs = place.path("certs");
        let made = run(command(["certs", "init", "--dir"]).arg(&certs));
        assert_eq!(made.status, 0, "{made:?}");
        let nodes = NODES.map(|name| ("node", name));
        for (role, name) in nodes
            .into_iter()
            .chain([("admin", "ops"), ("client", "app")])
        {
            let words = ["certs", "issue", "--role", role, "--name", name, "--dir"];
            let made = run(command(words).arg(&certs));
            assert_eq!(made.status, 0, "{made:?}");
        }
        let cluster = Self { place, base };
        for name in NODES {
            fs::write(cluster.file(name), cluster.text(name)).unwrap();
        }
        cluster
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.toml"))
    }

    fn address(&self, name: &str) -> String {
        let at = NODES.iter().position(|node| *node == name).unwrap();
        address(self.base + u16::try_from(at).unwrap())
    }

    fn text(&self, name: &str) -> String {
        let placement = match name {
            "a" => "dir = \"data-a/placement\"",
            _ => "host = \"a\"",
        };
        format!(
            "name = \"{name}\"\ndir = \"data-{name}\"\nlisten = \"{listen}\"\n\
             [tls]\nauthority = \"certs/ca.pem\"\ncertificate = \"certs/node-{name}.pem\"\nkey = \"certs/node-{name}.key\"\n\
             [placement]\n{placement}\n[nodes]\na = \"{host}\"\n[http]\nlisten = \"{http}\"\n",
            listen = self.address(name),
            // The others are found by the placement.
            host = self.address("a"),
            http = self.http(name),
        )
    }

    fn http(&self, name: &str) -> String {
        let at = NODES.iter().position(|node| *node == name).unwrap();
        address(self.base + 10 + u16::try_from(at).unwrap())
    }

    fn start(&self, name: &str) -> Node {
        let mut command = command(["node", "--json", "--config"]);
        Node::start(command.arg(self.file(name)))
    }

    /// What a command needs to reach the cluster as this one: `admin-ops`, `client-app`.
    fn as_one(&self, who: &str) -> Vec<String> {
        let identity = self.place.path("certs").join(who);
        let identity = identity.to_str().unwrap().to_owned();
        let addresses: Vec<_> = NODES.iter().map(|name| self.address(name)).collect();
        vec![
            "--cluster".into(),
            addresses.join(","),
            "--identity".into(),
            identity,
        ]
    }

    fn client(&self) -> Client {
        let file = |name: &str| self.place.path("certs").join(name);
        let security = Security::Mutual(TlsFiles {
            authority: file("ca.pem"),
            certificate: file("client-app.pem"),
            key: file("client-app.key"),
        });
        Client::connect([self.address("b")], security).unwrap()
    }

    fn migrate(&self, shard: u64, target: &str) {
        let shard = shard.to_string();
        let words = [
            "shard",
            "migrate",
            &shard,
            "--to",
            target,
            "--grace-ms",
            "0",
        ];
        let moved = run(command(words).args(self.as_one("admin-ops")));
        assert_eq!(moved.status, 0, "{moved:?}");
    }

    fn owned(&self, name: &str) -> Vec<u64> {
        let metrics = metrics(&self.http(name));
        metrics.shards("owner").into_iter().collect()
    }
}

#[test]
fn three_nodes_start_in_any_order_and_shards_move_between_them() {
    let cluster = Cluster::new(0);
    // Those that need a wait for it, and say so.
    let (mut b, mut c) = (cluster.start("b"), cluster.start("c"));
    for (node, name) in [(&b, "b"), (&c, "c")] {
        node.wait_until_said("waiting for the placement");
        let (status, body) = get(&cluster.http(name), "/healthz");
        assert_eq!(status, 503, "{body}");
        assert!(
            body.contains("waiting for the placement, served by node a"),
            "{body}"
        );
        assert_eq!(metrics(&cluster.http(name)).one("watershed_serving"), 0.0);
    }
    let mut a = cluster.start("a");
    for (node, name) in [(&mut a, "a"), (&mut b, "b"), (&mut c, "c")] {
        let ready = node.ready();
        assert_eq!(
            (ready["name"].as_str(), http(&ready)),
            (Some(name), &*cluster.http(name))
        );
        assert_eq!(get(&cluster.http(name), "/healthz").0, 200);
    }
    assert_eq!(cluster.owned("a"), (0..16).collect::<Vec<_>>());
    assert!(cluster.owned("b").is_empty());

    let client = cluster.client();
    for n in 0..500_u32 {
        client.put(n.to_be_bytes(), n.to_le_bytes()).wait().unwrap();
    }
    for (shard, target) in [(3, "b"), (4, "c"), (5, "b")] {
        cluster.migrate(shard, target);
    }
    assert_eq!(
        (cluster.owned("b"), cluster.owned("c")),
        (vec![3, 5], vec![4])
    );
    let from_a = metrics(&cluster.http("a"));
    let pauses = from_a.one("watershed_migration_pause_duration_seconds_count");
    let re_opens = from_a.one("watershed_migration_reopens_total");
    assert_eq!(pauses - re_opens, 3.0);
    let writes = from_a.all("watershed_shard_writes_total");
    assert!(writes.map(|(_, count)| count).sum::<f64>() > 0.0);
    client.close();

    // The one that serves the map last, and then first.
    c.stop();
    b.kill();
    a.stop();
    let (mut c, mut a) = (cluster.start("c"), cluster.start("a"));
    let mut b = cluster.start("b");
    for node in [&mut a, &mut b, &mut c] {
        node.ready();
    }
    assert_eq!(
        (cluster.owned("b"), cluster.owned("c")),
        (vec![3, 5], vec![4])
    );
    let client = cluster.client();
    for n in 0..500_u32 {
        let found = client.get(n.to_be_bytes()).wait().unwrap();
        assert_eq!(found.as_deref(), Some(&n.to_le_bytes()[..]), "{n}");
    }
    client.close();
    for node in [b, c, a] {
        node.stop();
    }
}

#[test]
fn a_node_whose_placement_is_gone_serves_on_and_says_so() {
    let cluster = Cluster::new(20);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    a.ready();
    b.ready();
    a.kill();
    // It looks every few seconds.
    loop {
        let (status, body) = get(&cluster.http("b"), "/healthz");
        assert_eq!(status, 200, "{body}");
        if body.contains("the placement can't be reached") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(
        metrics(&cluster.http("b")).one("watershed_placement_reachable"),
        0.0
    );
    b.stop();
    // And one that waits for it to start is stopped as well.
    let waiting = cluster.start("c");
    waiting.wait_until_said("waiting for the placement");
    waiting.signal("TERM");
    let ended = waiting.end();
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
}

#[test]
fn a_node_is_drained_finished_stopped_and_forgotten() {
    let cluster = Cluster::new(60);
    let (mut a, mut b) = (cluster.start("a"), cluster.start("b"));
    a.ready();
    b.ready();
    cluster.migrate(3, "b");
    let drain = |flag: &str| {
        let words = ["drain", "b", flag, "--json"];
        run(command(words).args(cluster.as_one("admin-ops")))
    };
    let early = drain("--forget");
    assert!(early.stdout.contains("drain it first"), "{early:?}");
    let finished = drain("--finish");
    assert_eq!(finished.status, 0, "{finished:?}");
    assert!(cluster.owned("b").is_empty());
    let early = drain("--forget");
    assert!(early.stdout.contains("stop it first"), "{early:?}");
    b.stop();
    let members = || {
        let words = ["status", "--json"];
        let told = run(command(words).args(cluster.as_one("admin-ops")));
        let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        let nodes = told["nodes"].as_array().unwrap().iter();
        let names = nodes.map(|node| node["node"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(members(), ["a", "b"]);
    let forgotten = drain("--forget");
    assert_eq!(forgotten.status, 0, "{forgotten:?}");
    assert_eq!(members(), ["a"]);
    a.stop();
}

#[test]
fn a_stranger_is_refused_and_counted() {
    let cluster = Cluster::new(40);
    let mut a = cluster.start("a");
    a.ready();
    let before = refused(&cluster, "handshake");
    // Speaks no TLS: what it sends is refused, and the connection closed.
    let mut stranger = std::net::TcpStream::connect(cluster.address("a")).unwrap();
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Closed in any way.
    let _ = std::io::Read::read_to_end(&mut stranger, &mut answer);
    drop(stranger);
    a.wait_until_said("refused");
    assert_eq!(refused(&cluster, "handshake"), before + 1.0);
    a.stop();
}

fn refused(cluster: &Cluster, reason: &str) -> f64 {
    let metrics = metrics(&cluster.http("a"));
    let mut classes = metrics.all("watershed_connections_refused_total");
    let (_, count) = classes
        .find(|(labels, _)| labels["reason"] == reason)
        .unwrap();
    count
}

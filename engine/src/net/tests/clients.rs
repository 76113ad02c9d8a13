//! Clients of a cluster: requests that follow the shards, roles, and nodes that come and go.

use std::thread;

use super::*;
use crate::{Batch, Client, Error, NodeInfo, ScanOptions};

/// Engines that have joined one placement, each behind a server of its own.
struct Cluster {
    authority: Authority,
    dir: tempfile::TempDir,
    runtime: Runtime,
    placement: Arc<FilePlacement>,
    nodes: Vec<Running>,
}

struct Running {
    name: &'static str,
    engine: Engine,
    server: Option<NetServer>,
    address: SocketAddr,
}

impl Cluster {
    fn new(names: &[&'static str], shards: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let placement = FilePlacement::open(dir.path().join("placement")).unwrap();
        let mut cluster = Self {
            authority: Authority::new(),
            dir,
            runtime: runtime(),
            placement: Arc::new(placement),
            nodes: Vec::new(),
        };
        for name in names {
            cluster.start(name, shards, LOOPBACK);
        }
        cluster
    }

    fn start(&mut self, name: &'static str, shards: u64, at: SocketAddr) {
        let files = self.authority.node(name);
        let _inside = self.runtime.enter();
        let link = NetLink::new(&node(name), files.clone()).unwrap();
        let options = Engine::options().node(name).shards(shards);
        let options = options
            .placement(self.placement.clone())
            .link(Arc::new(link));
        let engine = options.open(self.dir.path().join(name)).unwrap();
        let services = NetServices::of(&engine).unwrap();
        let server = self.runtime.block_on(NetServer::start(at, files, services));
        let server = server.unwrap();
        let info = NodeInfo {
            address: server.address().to_string(),
            weight: 1,
        };
        engine.join(info).unwrap();
        self.nodes.push(Running {
            name,
            engine,
            address: server.address(),
            server: Some(server),
        });
    }

    /// Ends a node, as its process would; gives where it was.
    fn stop(&mut self, name: &str) -> SocketAddr {
        let place = self.nodes.iter().position(|node| node.name == name);
        let mut gone = self.nodes.remove(place.unwrap());
        gone.engine.close().unwrap();
        drop(gone.server.take());
        gone.address
    }

    fn engine(&self, name: &str) -> &Engine {
        let found = self.nodes.iter().find(|node| node.name == name);
        &found.unwrap().engine
    }

    fn client_of(&self, role: Role, seed: &str) -> Client {
        let seed = self.nodes.iter().find(|node| node.name == seed).unwrap();
        let files = self.authority.issue(role, "app", 1);
        Client::connect([seed.address.to_string()], Security::Mutual(files)).unwrap()
    }

    fn client(&self, seed: &str) -> Client {
        self.client_of(Role::Client, seed)
    }

    fn end(mut self) {
        for mut node in self.nodes.drain(..) {
            node.engine.close().unwrap();
            drop(node.server.take());
        }
    }
}

#[test]
fn a_client_asks_for_all_that_an_engine_does() {
    let cluster = Cluster::new(&["a", "b"], 4);
    cluster
        .engine("a")
        .migrate(ShardId(1))
        .to("b")
        .start()
        .unwrap()
        .wait()
        .unwrap();
    let client = cluster.client("b");
    let key = |n: u32| format!("key/{n:04}");
    for n in 0..200 {
        client.put(key(n), n.to_be_bytes()).wait().unwrap();
    }
    let version = client.put("one", "1").if_absent("one").wait().unwrap();
    let again = client.put("one", "2").if_absent("one").wait().unwrap_err();
    assert!(matches!(again, Error::ConditionFailed { found: Some(found), .. } if found == version));
    client
        .put("one", "2")
        .if_version("one", version)
        .wait()
        .unwrap();
    let (value, newer) = client.get_versioned("one").wait().unwrap().unwrap();
    assert!(value == "2" && newer > version);
    client.delete("one").wait().unwrap();
    assert_eq!(client.get("one").wait().unwrap(), None);

    let mut batch = Batch::new();
    let shard = client.shard_of(key(7)).unwrap();
    batch.put(key(7), "seven");
    let same = (0..)
        .map(key)
        .find(|k| *k != key(7) && client.shard_of(k).unwrap() == shard);
    let same = same.unwrap();
    batch.delete(&same);
    client.write(batch).wait().unwrap();
    let found = client
        .multi_get([key(7), same.clone(), key(199)])
        .wait()
        .unwrap();
    let values: Vec<_> = found
        .iter()
        .map(|f| f.as_ref().map(|(v, _)| v.to_vec()))
        .collect();
    assert_eq!(
        values,
        [
            Some(b"seven".to_vec()),
            None,
            Some(199_u32.to_be_bytes().to_vec())
        ]
    );

    let scan = client.scan(ScanOptions::all().prefix("key/"));
    let keys: Vec<_> = scan.map(|entry| entry.unwrap().key).collect();
    let expected: Vec<_> = (0..200).map(key).filter(|k| *k != same).collect();
    assert_eq!(keys, expected);
    let last = client.scan(ScanOptions::all().reverse().limit(1)).next();
    assert_eq!(last.unwrap().unwrap().key, key(199));

    // In any runtime, or none.
    let value = pollster::block_on(client.get(key(3)).into_future()).unwrap();
    assert_eq!(value.as_deref(), Some(&3_u32.to_be_bytes()[..]));
    let second = client.clone();
    client.close();
    assert!(matches!(second.get("x").wait(), Err(Error::Closed)));
    cluster.end();
}

#[test]
fn writes_of_clients_follow_shards_that_move_under_them() {
    let mut cluster = Cluster::new(&["a", "b", "c"], 4);
    let clients: Vec<Client> = ["a", "b", "c"].map(|seed| cluster.client(seed)).into();
    let stop = AtomicBool::new(false);
    let written: Vec<u64> = thread::scope(|scope| {
        let writing = clients.iter().enumerate().map(|(who, client)| {
            let stop = &stop;
            scope.spawn(move || {
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{who}/{n}");
                    let written = client.put(&key, n.to_be_bytes()).wait().unwrap();
                    let (_, read) = client.get_versioned(&key).wait().unwrap().unwrap();
                    assert_eq!(read, written, "{key}");
                    n += 1;
                }
                n
            })
        });
        let writing: Vec<_> = writing.collect();
        for (shard, to) in [(0, "b"), (1, "c"), (0, "c"), (2, "b"), (0, "a")] {
            let migration = cluster.engine(to).migrate(ShardId(shard)).to(to).start();
            migration.unwrap().wait().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writing
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(written.iter().all(|count| *count > 0), "{written:?}");
    // The node that a client came by goes away; the others are known by then.
    let owned = cluster.engine("a").shards();
    for shard in owned {
        let migration = cluster.engine("b").migrate(shard).to("b").start().unwrap();
        migration.wait().unwrap();
    }
    cluster.stop("a");
    for (who, count) in written.into_iter().enumerate() {
        for n in 0..count {
            let found = clients[0].get(format!("{who}/{n}")).wait().unwrap();
            assert_eq!(found.as_deref(), Some(&n.to_be_bytes()[..]), "{who}/{n}");
        }
    }
    cluster.end();
}

#[test]
fn a_client_waits_for_an_owner_that_restarts() {
    let mut cluster = Cluster::new(&["a", "b"], 2);
    let client = cluster.client("b");
    client.put("k", "before").wait().unwrap();
    let address = cluster.stop("a");
    let reading = {
        let client = client.clone();
        thread::spawn(move || client.get("k").wait())
    };
    let writing = {
        let client = client.clone();
        thread::spawn(move || {
            client
                .put("k2", "meanwhile")
                .deadline(Duration::from_secs(30))
                .wait()
        })
    };
    // A new address: the clients hear of it by the node that is left.
    assert_ne!(address.port(), 0);
    cluster.start("a", 2, LOOPBACK);
    assert_eq!(reading.join().unwrap().unwrap().unwrap(), "before");
    writing.join().unwrap().unwrap();
    assert_eq!(client.get("k2").wait().unwrap().unwrap(), "meanwhile");
    cluster.end();
}

#[test]
fn a_client_may_ask_for_data_only() {
    let cluster = Cluster::new(&["a"], 1);
    let at = cluster.nodes[0].address;
    let files = cluster.authority.issue(Role::Client, "app", 1);
    let link = {
        let _inside = cluster.runtime.enter();
        let link = NetLink::of_client(Security::Mutual(files)).unwrap();
        link.know(node("a"), at.to_string());
        link
    };
    let asked = cluster
        .runtime
        .block_on(link.call(&node("a"), Bytes::from_static(b"x")));
    let Err(LinkError::Unreachable { reason, .. }) = asked else {
        panic!("{asked:?}")
    };
    assert!(
        reason.contains("client/app") && reason.contains("only nodes"),
        "{reason}"
    );
    // By its own service it gets no further.
    use watershed_migration::messages::{RefusedKind, Request, Response};
    let env = watershed_migration::messages::Envelope {
        shard: ShardId(0),
        migration: watershed_migration::MigrationId(1),
        attempt: watershed_migration::Attempt(0),
        driver_term: watershed_migration::DriverTerm(1),
    };
    let command = Request::SourceStatus { env };
    let asked = link.ask(&node("a"), CLIENT_CALL, command.encode());
    let answer = cluster.runtime.block_on(asked).unwrap();
    let Response::Refused(refused) = Response::decode_bytes(answer).unwrap() else {
        panic!("served")
    };
    assert_eq!(refused.kind, RefusedKind::Unsupported);
    assert!(
        refused.message.contains("for nodes only"),
        "{}",
        refused.message
    );
    cluster.end();
}

#[test]
fn no_cluster_is_one_clear_error() {
    let nobody = Client::connect(Vec::<String>::new(), Security::Insecure).unwrap_err();
    assert!(nobody.to_string().contains("HOST:PORT"), "{nobody}");
    let closed = Client::connect(["127.0.0.1:1"], Security::Insecure).unwrap_err();
    assert!(matches!(closed, Error::Unreachable { .. }), "{closed}");
    assert!(closed.to_string().contains("127.0.0.1:1"), "{closed}");
    let cluster = Cluster::new(&["a"], 1);
    let at = cluster.nodes[0].address.to_string();
    let other = Authority::new();
    let stranger = other.issue(Role::Client, "app", 1);
    let refused = Client::connect([at], Security::Mutual(stranger)).unwrap_err();
    assert!(refused.to_string().contains(NOT_OURS), "{refused}");
    // Admins and nodes may read and write too.
    for role in [Role::Admin, Role::Node] {
        cluster.client_of(role, "a").put("k", "v").wait().unwrap();
    }
    cluster.end();
}

#[test]
fn a_migration_whose_driver_dies_is_taken_over() {
    let mut cluster = Cluster::new(&["a", "b", "c"], 2);
    let config = crate::migration::MigrationConfig {
        hold: true,
        ..Default::default()
    };
    // Driven by c, which has no part in it.
    let migration = cluster
        .engine("c")
        .migrate(ShardId(0))
        .to("b")
        .config(config);
    let mut migration = migration.start().unwrap();
    while migration.progress().phase != crate::migration::Phase::DualWrite {
        migration.next_progress().unwrap();
    }
    cluster.stop("c");
    let taken = loop {
        if let [taken] = &cluster.engine("b").migrations()[..] {
            break taken.clone();
        }
        thread::sleep(Duration::from_millis(10));
    };
    taken.cutover();
    taken.wait().unwrap();
    assert_eq!(cluster.engine("b").shards(), [ShardId(0)]);
    assert!(
        cluster.engine("a").migrations().is_empty(),
        "the target comes first"
    );
    cluster.end();
}

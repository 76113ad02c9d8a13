//! Clients of a cluster: requests that follow the shards, roles, and nodes that come and go.

use std::thread;

use super::*;
use crate::migration::balance::Goal;
use crate::{Admin, Batch, Client, Error, NodeInfo, Outcome, ScanOptions, Wish};

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

    /// Has a node announce another address than its own.
    fn announce(&mut self, name: &str, address: SocketAddr) {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        let found = found.unwrap();
        found.address = address;
        let address = address.to_string();
        found.engine.join(NodeInfo { address, weight: 1 }).unwrap();
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

/// A way to `to` whose connections are all cut when it is told so.
async fn can_be_cut(to: SocketAddr, cut: &tokio::sync::watch::Sender<u32>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let at = listener.local_addr().unwrap();
    let cuts = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut cut = cuts.subscribe();
            tokio::spawn(async move {
                let Ok(mut far) = tokio::net::TcpStream::connect(to).await else {
                    return;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    at
}

/// Each write names the version that the one before it got. Sent again after its answer was lost, and carried out a
/// second time, or judged anew, it would fail on its own condition.
#[test]
fn rule_17_a_write_whose_answer_was_lost_is_not_applied_twice() {
    let mut cluster = Cluster::new(&["a", "b"], 1);
    let cut = tokio::sync::watch::Sender::new(0);
    for name in ["a", "b"] {
        let to = cluster.nodes.iter().find(|node| node.name == name);
        let to = to.unwrap().address;
        let at = cluster.runtime.block_on(can_be_cut(to, &cut));
        cluster.announce(name, at);
    }
    let client = cluster.client("b");
    let (mut last, mut writes) = (client.put("k", "0").wait().unwrap(), 1_u32);
    // At most one cut falls into a write, somewhere between its start and its end.
    let mut write = || {
        let next = client.put("k", writes.to_string()).if_version("k", last);
        let next = next.deadline(Duration::from_secs(120));
        if writes.is_multiple_of(3) {
            let (cut, after) = (
                cut.clone(),
                Duration::from_micros(u64::from(writes * 37 % 900)),
            );
            let cutting = thread::spawn(move || {
                thread::sleep(after);
                cut.send_modify(|count| *count += 1);
            });
            last = next.wait().unwrap();
            cutting.join().unwrap();
        } else {
            last = next.wait().unwrap();
        }
        writes += 1;
        (writes, last)
    };
    for _ in 0..200 {
        write();
    }
    // Cuts spoil attempts: how many fit is not what is asked here.
    let patient = crate::migration::MigrationConfig {
        attempts_max: 10_000,
        pause_max_ms: 10_000,
        ..Default::default()
    };
    for to in ["b", "a"] {
        let migration = cluster.engine(to).migrate(ShardId(0)).to(to);
        let migration = migration.config(patient.clone()).start().unwrap();
        while migration.outcome().is_none() {
            write();
        }
        migration.wait().unwrap();
    }
    let (writes, last) = write();
    let (value, version) = client.get_versioned("k").wait().unwrap().unwrap();
    assert_eq!((value, version), ((writes - 1).to_string().into(), last));
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

#[test]
fn operators_move_fill_and_drain_from_anywhere() {
    let cluster = Cluster::new(&["a", "b"], 6);
    let seed = cluster.nodes[0].address.to_string();
    let files = cluster.authority.issue(Role::Admin, "ops", 1);
    let admin = Admin::connect([seed.clone()], Security::Mutual(files)).unwrap();
    let quick = crate::migration::MigrationConfig {
        hold: true,
        grace_ms: 0,
        ..Default::default()
    };
    let owned = |name: &str| cluster.engine(name).shards().len();

    let migration = admin.migrate(ShardId(3), &node("b"), quick).unwrap();
    let held = until_some(|| {
        let status = admin.status().unwrap();
        status.shards[3].moving.clone().filter(|moving| moving.held)
    });
    assert_eq!(
        (held.migration, held.started_by.as_str()),
        (migration, "watershed://admin/ops")
    );
    let said = admin.explain(ShardId(3)).unwrap().join("\n");
    assert!(
        said.contains("shard cutover") && said.contains("from node a to node b"),
        "{said}"
    );
    admin.steer(ShardId(3), Wish::Cutover).unwrap();
    until_some(|| (owned("b") == 1).then_some(()));
    let outcome = admin.outcome(ShardId(3), migration, &node("b")).unwrap();
    assert_eq!(outcome, Outcome::Moved);

    // What is given up is removed, and said so.
    let held = crate::migration::MigrationConfig {
        hold: true,
        ..Default::default()
    };
    let migration = admin.migrate(ShardId(4), &node("b"), held).unwrap();
    until_some(|| {
        admin.status().unwrap().shards[4]
            .moving
            .clone()
            .filter(|m| m.held)
    });
    admin.steer(ShardId(4), Wish::Cancel).unwrap();
    until_some(|| {
        admin.status().unwrap().shards[4]
            .moving
            .is_none()
            .then_some(())
    });
    let outcome = admin.outcome(ShardId(4), migration, &node("b")).unwrap();
    assert!(
        matches!(outcome, Outcome::GaveUp(ref why) if why.contains("operator")),
        "{outcome:?}"
    );

    // Planned first, then carried out by the nodes themselves.
    let planned = admin.planned(Some((&node("b"), Goal::Fill))).unwrap();
    assert!(!planned.is_empty() && planned.iter().all(|step| step.to == node("b")));
    assert_eq!(admin.planned(None).unwrap(), []);
    let before = owned("b");
    admin.set_goal(&node("b"), Some(Goal::Fill)).unwrap();
    until_some(|| (owned("b") == before + planned.len()).then_some(()));
    until_some(|| {
        admin.status().unwrap().nodes[1]
            .goal
            .is_none()
            .then_some(())
    });
    admin.set_goal(&node("a"), Some(Goal::Drain)).unwrap();
    until_some(|| (owned("b") == 6).then_some(()));

    let refused = admin.forget(&node("a")).unwrap_err().to_string();
    assert!(refused.contains("drain it first"), "{refused}");
    let missing = admin
        .steer(ShardId(0), Wish::Cutover)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("belongs to node b already") || missing.contains("not being moved"),
        "{missing}"
    );
    assert!(
        admin
            .explain(ShardId(77))
            .unwrap_err()
            .to_string()
            .contains("does not exist")
    );
    // Orders are for admins.
    let client = cluster.authority.issue(Role::Client, "app", 1);
    let stranger = Admin::connect([seed], Security::Mutual(client)).unwrap();
    let refused = stranger.status().unwrap_err().to_string();
    assert!(refused.contains("only admins"), "{refused}");
    cluster.end();
}

fn until_some<T>(look: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

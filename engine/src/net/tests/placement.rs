//! A placement that is served: the same answers as on its own node, errors that decide nothing, and what goes on without it.

use std::sync::mpsc;

use watershed_migration::balance::Goal;
use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::Epoch;

use super::*;
use crate::placement::contract::{LONG, Site, at, contract_tests, created, member, wait};
use crate::{ClusterInfo, Placement, PlacementError};

/// A node that only serves a placement.
struct Host {
    runtime: Runtime,
    placement: Arc<FilePlacement>,
    server: Option<NetServer>,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let placement = Arc::new(FilePlacement::open(dir.path()).unwrap());
        let runtime = runtime();
        let mut host = Self {
            runtime,
            placement,
            server: None,
            address: LOOPBACK,
            _dir: dir,
        };
        host.up();
        host
    }

    fn up(&mut self) {
        let services = NetServices::new(Echo::new("p")).placement(self.placement.clone());
        let start = || NetServer::start(self.address, Security::Insecure, services.clone());
        let server = self.runtime.block_on(until(start, Result::is_ok)).unwrap();
        self.address = server.address();
        self.server = Some(server);
    }

    fn down(&mut self) {
        self.server = None;
    }

    fn link(&self, own: &str) -> NetLink {
        let _inside = self.runtime.enter();
        link(own, Security::Insecure, &[("p", self.address)])
    }

    fn remote(&self) -> RemotePlacement {
        RemotePlacement::new(self.link("a"), node("p"))
    }
}

fn next(record: &PlacementRecord) -> PlacementRecord {
    let mut record = record.clone();
    record.revision = Revision(record.revision.0 + 1);
    record.epoch = Epoch(record.epoch.0 + 1);
    record
}

impl Site for Host {
    fn placement(&self) -> Arc<dyn Placement> {
        Arc::new(self.remote())
    }
}

contract_tests!(Host::new());

#[test]
fn a_node_speaks_for_itself_only() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let placement = Arc::new(FilePlacement::open(dir.path()).unwrap());
    let runtime = runtime();
    let services = NetServices::new(Echo::new("p")).placement(placement.clone());
    let server = NetServer::start(LOOPBACK, authority.node("p"), services);
    let server = runtime.block_on(server).unwrap();
    let remote = {
        let _inside = runtime.enter();
        let link = link("a", authority.node("a"), &[("p", server.address())]);
        RemotePlacement::new(link, node("p"))
    };
    let announce = |name: &str| wait(remote.announce(node(name), at("127.0.0.1:1"), LONG));
    announce("a").unwrap();
    let refused = announce("b").unwrap_err().to_string();
    assert!(refused.contains("speaks for node b"), "{refused}");
    assert!(member(&*placement, "a").is_some() && member(&*placement, "b").is_none());
    // What an operator decides any node passes on.
    wait(placement.announce(node("b"), at("127.0.0.1:2"), LONG)).unwrap();
    wait(remote.set_goal(node("b"), Some(Goal::Drain))).unwrap();
    assert_eq!(member(&*placement, "b").unwrap().goal, Some(Goal::Drain));
    wait(remote.remove_member(node("b"))).unwrap();
    assert!(member(&*placement, "b").is_none());
    let long = at(&"x".repeat(300));
    let refused = wait(remote.announce(node("a"), long, LONG)).unwrap_err();
    assert!(refused.to_string().contains("HOST:PORT"), "{refused}");
    runtime.block_on(server.stop());
}

#[test]
fn a_served_placement_answers_as_it_does_at_home() {
    let host = Host::new();
    let remote = host.remote();
    assert_eq!(wait(remote.cluster()).unwrap(), None);
    let four = ClusterInfo { shards: 4 };
    assert_eq!(wait(remote.create_cluster(four)).unwrap(), four);
    let made = wait(remote.create_cluster(ClusterInfo { shards: 9 })).unwrap();
    assert_eq!((made, wait(remote.cluster()).unwrap()), (four, Some(four)));
    assert!(wait(remote.create_cluster(ClusterInfo { shards: 0 })).is_err());

    // More than fit into one message of a list.
    for shard in 0..300 {
        wait(remote.swap(None, created(shard))).unwrap();
    }
    let listed = wait(remote.list()).unwrap();
    assert_eq!(listed, wait(host.placement.list()).unwrap());
    assert_eq!(listed.len(), 300);
    assert_eq!(
        wait(remote.read(ShardId(7))).unwrap().as_ref(),
        Some(&listed[7])
    );
    assert_eq!(wait(remote.read(ShardId(300))).unwrap(), None);

    let second = next(&listed[7]);
    let stored = wait(remote.swap(Some(listed[7].revision), second.clone())).unwrap();
    assert_eq!(stored, second);
    let late = wait(remote.swap(Some(listed[7].revision), second.clone()));
    let Err(PlacementError::Conflict { shard, current }) = late else {
        panic!("{late:?}");
    };
    assert_eq!((shard, current.as_deref()), (ShardId(7), Some(&second)));
    let again = wait(remote.swap(None, created(7)));
    assert!(matches!(again, Err(PlacementError::Conflict { .. })));
    let stale = wait(remote.swap(Some(second.revision), second.clone()));
    assert!(
        matches!(stale, Err(PlacementError::Revision { shard: ShardId(7), expected, offered })
            if expected == second.revision && offered == second.revision)
    );

    let wrong = wait(remote.remove(ShardId(7), Revision(99)));
    assert!(matches!(
        wrong,
        Err(PlacementError::Conflict {
            current: Some(_),
            ..
        })
    ));
    wait(remote.remove(ShardId(7), second.revision)).unwrap();
    let gone = wait(remote.remove(ShardId(7), second.revision));
    assert!(matches!(
        gone,
        Err(PlacementError::Conflict { current: None, .. })
    ));
    let stored = wait(remote.swap(None, created(7))).unwrap();
    assert!(stored.revision > second.revision && stored.epoch > second.epoch);
    assert_eq!(wait(host.placement.read(ShardId(7))).unwrap(), Some(stored));
}

#[test]
fn swaps_of_many_nodes_have_one_winner_each() {
    let host = Host::new();
    wait(host.placement.swap(None, created(0))).unwrap();
    let wins: u64 = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..6)
            .map(|_| {
                let remote = host.remote();
                scope.spawn(move || {
                    let mut won = 0;
                    for _ in 0..30 {
                        let record = wait(remote.read(ShardId(0))).unwrap().unwrap();
                        match wait(remote.swap(Some(record.revision), next(&record))) {
                            Ok(_) => won += 1,
                            Err(PlacementError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    won
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    let last = wait(host.placement.read(ShardId(0))).unwrap().unwrap();
    assert_eq!(last.revision.0 - created(0).revision.0, wins);
    assert!(wins >= 30);
}

#[test]
fn a_change_is_told_also_after_the_host_was_away() {
    let mut host = Host::new();
    let remote = host.remote();
    let (told, tells) = mpsc::channel();
    let mut changes = remote.watch();
    let watcher = host.runtime.spawn(async move {
        while changes.changed().await.is_ok() {
            // Fails once the test has seen enough.
            let _ = told.send(());
        }
    });
    // That it listens is told, too.
    tells.recv().unwrap();
    wait(host.placement.swap(None, created(0))).unwrap();
    tells.recv().unwrap();
    host.down();
    let away = wait(remote.read(ShardId(0)));
    assert!(
        matches!(away, Err(PlacementError::Unreachable { .. })),
        "{away:?}"
    );
    let swapped = wait(remote.swap(None, created(1)));
    assert!(matches!(swapped, Err(PlacementError::Unreachable { .. })));
    wait(host.placement.swap(None, created(2))).unwrap();
    while tells.try_recv().is_ok() {}
    host.up();
    // What changed meanwhile is not known, so it is told that something may have.
    tells.recv().unwrap();
    let listed = wait(remote.list()).unwrap();
    assert_eq!(listed.iter().map(|r| r.shard.0).collect::<Vec<_>>(), [0, 2]);
    drop(remote);
    host.runtime.block_on(watcher).unwrap();
}

#[test]
fn without_the_placement_shards_are_served_and_none_changes_its_owner() {
    let mut host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let link = host.link(name);
        let placement = RemotePlacement::new(link.clone(), node("p"));
        let options = Engine::options().node(name).shards(2);
        let options = options
            .placement(Arc::new(placement))
            .link(Arc::new(link.clone()));
        let engine = options.open(dir.path().join(name)).unwrap();
        let service = engine.service().unwrap();
        let server = host.runtime.block_on(serve(Security::Insecure, service));
        (engine, link, server)
    };
    let (a, link_a, server_a) = open("a");
    let (b, link_b, server_b) = open("b");
    for link in [&link_a, &link_b] {
        link.know(node("a"), server_a.address().to_string());
        link.know(node("b"), server_b.address().to_string());
    }
    for n in 0..500_u32 {
        a.put(n.to_be_bytes(), "before").wait().unwrap();
    }
    let migration = a.migrate(ShardId(0)).to("b").start().unwrap();
    migration.wait().unwrap();

    host.down();
    let stays = b.migrate(ShardId(0)).to("a").start();
    for engine in [&a, &b] {
        for shard in engine.shards() {
            let shard = engine.shard(shard);
            shard.put("meanwhile", "written").wait().unwrap();
            assert_eq!(shard.get("meanwhile").wait().unwrap().unwrap(), "written");
        }
    }
    assert_eq!(
        (a.shards(), b.shards()),
        (vec![ShardId(1)], vec![ShardId(0)])
    );
    host.up();
    // It could not begin, or gave up, or has waited for the placement; in the end the shard goes back.
    let is_back = stays.is_ok_and(|migration| migration.wait().is_ok());
    if !is_back {
        until_started(&b).wait().unwrap();
    }
    assert_eq!((a.shards().len(), b.shards().len()), (2, 0));
    for n in 0..500_u32 {
        assert_eq!(b.get(n.to_be_bytes()).wait().unwrap().unwrap(), "before");
    }
    assert_eq!(
        b.shard(ShardId(0))
            .get("meanwhile")
            .wait()
            .unwrap()
            .unwrap(),
        "written"
    );
    a.close().unwrap();
    b.close().unwrap();
    drop((server_a, server_b));
}

/// A migration of shard 0 to node a, once the placement can be reached again.
fn until_started(b: &Engine) -> crate::Migration {
    loop {
        match b.migrate(ShardId(0)).to("a").start() {
            Ok(migration) => return migration,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

//! Engines whose placement is in etcd.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::{Engine, LocalLink};

fn open(etcd: &Etcd, link: &LocalLink, name: &str) -> Engine {
    let placement = Arc::new(etcd.impatient());
    let options = Engine::options().node(name).shards(2).placement(placement);
    let options = options.link(Arc::new(link.clone()));
    let engine = options.open(etcd.dir().join(name)).unwrap();
    link.register(node(name), &engine.service().unwrap());
    engine
}

/// Moves a shard there, however often it takes: while etcd is down none can begin.
fn move_to(from: &Engine, shard: ShardId, to: &Engine) {
    while !to.shards().contains(&shard) {
        match from.migrate(shard).to(to.node_id().as_str()).start() {
            Ok(migration) => drop(migration.wait()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn shards_move_under_writes_while_etcd_crashes_and_nothing_is_lost() {
    let mut etcd = Etcd::start();
    let link = LocalLink::new();
    let (a, b) = (open(&etcd, &link, "a"), open(&etcd, &link, "b"));
    let shard = a.shards()[0];
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let place = a.shard(shard);
            let mut acknowledged = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let key = acknowledged.to_be_bytes();
                if place.put(key, "written").wait().is_ok() {
                    acknowledged += 1;
                    written.store(acknowledged, Ordering::Relaxed);
                }
            }
            acknowledged
        });
        let mover = scope.spawn(|| {
            for _ in 0..3 {
                move_to(&a, shard, &b);
                move_to(&b, shard, &a);
            }
        });
        while !mover.is_finished() {
            let before = written.load(Ordering::Relaxed);
            etcd.kill();
            // A shard may be between its swap's sending and its outcome, and then waits for etcd; so no more than a look.
            std::thread::sleep(Duration::from_millis(100));
            etcd.up();
            while written.load(Ordering::Relaxed) == before && !mover.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        mover.join().unwrap();
        done.store(true, Ordering::Relaxed);
        let acknowledged = writer.join().unwrap();
        let place = b.shard(shard);
        for number in 0..acknowledged {
            let found = place.get(number.to_be_bytes()).wait().unwrap();
            assert_eq!(found.expect("acknowledged"), "written");
        }
    });
    let owners = [a.shards(), b.shards()].concat();
    assert_eq!(owners.len(), 2, "one owner each: {owners:?}");
    a.close().unwrap();
    b.close().unwrap();
}

#[test]
fn without_etcd_shards_are_served_and_none_changes_its_owner() {
    let mut etcd = Etcd::start();
    let link = LocalLink::new();
    let (a, b) = (open(&etcd, &link, "a"), open(&etcd, &link, "b"));
    move_to(&a, ShardId(0), &b);
    etcd.kill();
    let stays = b.migrate(ShardId(0)).to("a").start();
    for round in 0..200_u32 {
        for (engine, shard) in [(&a, ShardId(1)), (&b, ShardId(0))] {
            let place = engine.shard(shard);
            place.put("meanwhile", round.to_be_bytes()).wait().unwrap();
            let found = place.get("meanwhile").wait().unwrap().unwrap();
            assert_eq!(found[..], round.to_be_bytes());
        }
    }
    assert_eq!(
        (a.shards(), b.shards()),
        (vec![ShardId(1)], vec![ShardId(0)])
    );
    etcd.up();
    drop(stays.map(|migration| migration.wait()));
    move_to(&b, ShardId(0), &a);
    let found = a.shard(ShardId(0)).get("meanwhile").wait().unwrap();
    assert_eq!(found.unwrap()[..], 199_u32.to_be_bytes());
    a.close().unwrap();
    b.close().unwrap();
}

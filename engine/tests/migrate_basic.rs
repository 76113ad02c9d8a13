//! A shard moves while it is written, with and without lost forwards; nothing acknowledged is lost.

mod support;

use std::sync::{Arc, Mutex};

use support::{Seen, World, Writers, node, quick};
use watershed::ShardId;
use watershed::migration::{Certificate, Phase};

/// Moves half of the shards from `a` to `b` under writers at both ends, and checks all of it.
fn moves_half(world: &World) -> Vec<Certificate> {
    let (a, b) = (world.open("a"), world.open("b"));
    assert_eq!(a.shards().len(), 4);
    assert!(b.shards().is_empty());
    let (near, far) = (Writers::start(&a, 4), Writers::starting_at(&b, 2, 10));
    near.wait_for_more(500);
    let migrations: Vec<_> = (0..2)
        .map(|shard| {
            a.migrate(ShardId(shard))
                .to("b")
                .config(quick())
                .start()
                .unwrap()
        })
        .collect();
    let certificates: Vec<_> = migrations
        .iter()
        .map(|migration| migration.wait().unwrap())
        .collect();
    near.wait_for_more(200);
    far.wait_for_more(200);
    for migration in &migrations {
        migration.finished().unwrap();
    }
    near.wait_for_more(200);
    let model = near.stop().then(far.stop());
    model.check(&a);
    model.check(&b);
    for (shard, certificate) in (0..2).map(ShardId).zip(&certificates) {
        certificate.check().unwrap();
        let record = world.record(shard);
        assert_eq!((record.owner, record.epoch.0), (node("b"), 2));
        assert_eq!(record.migration.unwrap().phase, Phase::Done);
        assert!(
            world.copies("a", shard).is_empty(),
            "the old copy is really deleted"
        );
        assert_eq!(world.copies("b", shard).len(), 1);
        let file = world
            .path("a")
            .join(format!("certificates/{}.json", certificate.migration));
        let written: Certificate = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(&written, certificate);
    }
    assert_eq!((a.shards().len(), b.shards().len()), (2, 2));
    for name in ["a", "b"] {
        world.assert_no_leftovers(name);
    }
    a.close().unwrap();
    b.close().unwrap();
    let (a, b) = (world.open("a"), world.open("b"));
    model.check(&a);
    model.check(&b);
    certificates
}

#[test]
fn a_shard_moves_under_writers() {
    moves_half(&World::new(4));
}

#[test]
fn holes_of_two_percent_lost_forwards_are_filled() {
    let world = World::with(4, |cluster| cluster.forward_failures(0.02, 7));
    let certificates = moves_half(&world);
    assert!(
        certificates
            .iter()
            .any(|certificate| certificate.holes_filled > 0)
    );
}

#[test]
fn a_move_whose_every_forward_is_lost_is_whole() {
    let world = World::with(4, |cluster| cluster.forward_failures(1.0, 7));
    let certificates = moves_half(&world);
    assert!(
        certificates
            .iter()
            .all(|certificate| certificate.delta_records > 0)
    );
}

#[test]
fn the_observer_sees_each_phase_in_order() {
    let world = World::new(1);
    let (a, _b) = (world.open("a"), world.open("b"));
    a.put("k", "v").wait().unwrap();
    let seen: Seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let migration = a
        .migrate(ShardId(0))
        .to("b")
        .config(quick())
        .observer(Arc::new(move |progress| {
            log.lock().unwrap().push(progress.clone())
        }))
        .start()
        .unwrap();
    migration.finished().unwrap();
    let mut phases: Vec<Phase> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|progress| progress.phase)
        .collect();
    phases.dedup();
    let order = [
        Phase::Plan,
        Phase::BulkCopy,
        Phase::DualWrite,
        Phase::StopDualWrite,
        Phase::Drain,
        Phase::DeltaPass,
        Phase::Activate,
        Phase::Cleanup,
        Phase::Done,
    ];
    assert_eq!(phases, order);
}

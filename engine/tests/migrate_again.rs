//! A shard that is moved again while the old copy of its last move is kept: that grace time ends, and it moves.

mod support;

use support::{World, Writers, node, quick, wait_until};
use watershed::migration::{MigrationConfig, Phase};
use watershed::{Error, ShardId};

const SHARD: ShardId = ShardId(0);

fn with_grace() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 3_600_000,
        ..quick()
    }
}

#[test]
fn there_and_back_ten_times_with_the_old_copy_in_cleanup() {
    let world = World::new(1);
    let engines = [world.open("a"), world.open("b")];
    let writers = Writers::start(&engines[0], 3);
    writers.wait_for_more(100);
    let mut moved = Vec::new();
    for round in 0..20 {
        let (from, to) = (&engines[round % 2], ["b", "a"][round % 2]);
        let migration = from
            .migrate(SHARD)
            .to(to)
            .config(with_grace())
            .start()
            .unwrap();
        migration.wait().unwrap();
        writers.wait_for_more(50);
        moved.push(migration);
    }
    let model = writers.stop();
    let last = moved.pop().unwrap();
    // Whoever waited for an earlier one learns of its end, though another node took its Cleanup over.
    for migration in &moved {
        migration.finished().unwrap();
        assert_eq!(migration.progress().phase, Phase::Done);
    }
    let record = world.record(SHARD);
    assert_eq!(record.epoch.0, 21);
    assert_eq!(record.owner, node("a"));
    assert_eq!(
        record.frozen.unwrap().node,
        node("b"),
        "the last one is kept"
    );
    for name in ["a", "b"] {
        assert_eq!(world.copies(name, SHARD).len(), 1, "one copy on {name}");
    }
    model.check(&engines[0]);
    model.check(&engines[1]);
    last.cleanup();
    last.finished().unwrap();
    wait_until("the last old copy is deleted", || {
        world.copies("b", SHARD).is_empty()
    });
    model.check(&engines[1]);
}

#[test]
fn its_own_driver_and_another_nodes_end_the_grace_time() {
    let world = World::new(1);
    let engines = ["a", "b", "c"].map(|name| world.open(name));
    engines[0].put("k", "v").wait().unwrap();
    // All driven by a; then by c, which is neither source nor target.
    for (driver, to) in [(0, "b"), (0, "c"), (2, "b"), (0, "a"), (1, "c")] {
        let migration = engines[driver]
            .migrate(SHARD)
            .to(to)
            .config(with_grace())
            .start()
            .unwrap();
        migration.wait().unwrap();
        assert_eq!(world.record(SHARD).owner, node(to));
        for engine in &engines {
            assert_eq!(engine.get("k").wait().unwrap().unwrap(), "v");
        }
    }
    let copies: usize = ["a", "b", "c"]
        .iter()
        .map(|name| world.copies(name, SHARD).len())
        .sum();
    assert_eq!(copies, 2, "the owner's and the last old one");
}

#[test]
fn a_shard_before_its_cleanup_is_busy() {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let held = MigrationConfig {
        hold: true,
        ..with_grace()
    };
    let first = a.migrate(SHARD).to("b").config(held).start().unwrap();
    wait_until("it is held", || first.progress().phase == Phase::DualWrite);
    for engine in [&a, &b] {
        let second = engine.migrate(SHARD).to("b").config(quick()).start();
        assert!(matches!(second, Err(Error::ShardBusy { .. })), "{second:?}");
    }
    first.abort();
    assert!(first.wait().is_err());
    assert_eq!(world.record(SHARD).owner, node("a"));
}

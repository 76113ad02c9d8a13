//! Both engines are closed in a phase of a migration and opened again: it goes on or ends, with exactly one owner.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{World, Writers, at_phase, node, quick, wait_until};
use watershed::migration::Phase;
use watershed::{Engine, ShardId};

const SHARD: ShardId = ShardId(0);

/// Closes both engines as soon as a migration from `source` enters `phase`.
fn close_in(phase: Phase, source: &Engine, target: &Engine, to: &str) {
    let closed = Arc::new(AtomicBool::new(false));
    let (done, engines) = (closed.clone(), (source.clone(), target.clone()));
    let observer = at_phase(phase, move || {
        engines.0.close().unwrap();
        engines.1.close().unwrap();
        done.store(true, Ordering::Release);
    });
    drop(
        source
            .migrate(SHARD)
            .to(to)
            .config(quick())
            .observer(observer)
            .start()
            .unwrap(),
    );
    wait_until("the engines are closed", || closed.load(Ordering::Acquire));
}

/// Waits until the migration is over, one way or the other; gives the owner.
fn settled(world: &World, engines: [&Engine; 2]) -> String {
    wait_until("the migration ends", || {
        world.record(SHARD).active_migration().is_none()
    });
    for engine in engines {
        for migration in engine.migrations() {
            let _ = migration.finished();
        }
    }
    let record = world.record(SHARD);
    let mut owners = 0;
    for (name, engine) in ["a", "b"].into_iter().zip(engines) {
        let owns = engine.shards().contains(&SHARD);
        owners += u32::from(owns);
        assert_eq!(owns, record.owner == node(name));
        wait_until("no other copy is left", || {
            world.copies(name, SHARD).len() == usize::from(owns)
        });
    }
    assert_eq!(owners, 1);
    record.owner.to_string()
}

fn restarts_in(phase: Phase) -> String {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::start(&a, 3);
    writers.wait_for_more(300);
    close_in(phase, &a, &b, "b");
    let model = writers.stop();
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::starting_at(&a, 2, 10);
    let owner = settled(&world, [&a, &b]);
    writers.wait_for_more(100);
    let model = model.then(writers.stop());
    model.check(&a);
    model.check(&b);
    for name in ["a", "b"] {
        world.assert_no_leftovers(name);
    }
    owner
}

#[test]
fn closed_in_plan() {
    restarts_in(Phase::Plan);
}

#[test]
fn closed_in_bulk_copy() {
    assert_eq!(restarts_in(Phase::BulkCopy), "b");
}

#[test]
fn closed_in_dual_write() {
    assert_eq!(restarts_in(Phase::DualWrite), "b");
}

#[test]
fn closed_in_stop_dual_write() {
    assert_eq!(restarts_in(Phase::StopDualWrite), "b");
}

#[test]
fn closed_in_drain() {
    assert_eq!(restarts_in(Phase::Drain), "b");
}

#[test]
fn closed_in_delta_pass() {
    assert_eq!(restarts_in(Phase::DeltaPass), "b");
}

#[test]
fn closed_in_activate() {
    assert_eq!(restarts_in(Phase::Activate), "b");
}

#[test]
fn closed_in_cleanup() {
    assert_eq!(restarts_in(Phase::Cleanup), "b");
}

#[test]
fn there_and_back_ten_times_with_restarts_between_and_within() {
    let world = World::new(1);
    let mut model = support::Model::default();
    let phases = [
        Phase::BulkCopy,
        Phase::DualWrite,
        Phase::Drain,
        Phase::Activate,
        Phase::Cleanup,
    ];
    for round in 0..10_u64 {
        let (a, b) = (world.open("a"), world.open("b"));
        let writers = Writers::starting_at(&a, 2, round % 3);
        writers.wait_for_more(100);
        let to = if round % 2 == 0 { "b" } else { "a" };
        let (source, target) = if to == "b" { (&a, &b) } else { (&b, &a) };
        if round % 2 == 0 {
            let migration = source
                .migrate(SHARD)
                .to(to)
                .config(quick())
                .start()
                .unwrap();
            migration.finished().unwrap();
            model = model.then(writers.stop());
        } else {
            close_in(
                phases[usize::try_from(round / 2).unwrap()],
                source,
                target,
                to,
            );
            model = model.then(writers.stop());
            let (a, b) = (world.open("a"), world.open("b"));
            settled(&world, [&a, &b]);
            model.check(&a);
            a.close().unwrap();
            b.close().unwrap();
            continue;
        }
        settled(&world, [&a, &b]);
        model.check(&b);
        a.close().unwrap();
        b.close().unwrap();
    }
    assert_eq!(world.record(SHARD).epoch.0, 11, "each round moved it");
}

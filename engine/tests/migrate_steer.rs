//! Aborts in each phase, refusals that touch nothing, a target too slow for the pause, hold and cleanup on demand.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use support::{World, Writers, at_phase, node, quick, wait_until};
use watershed::migration::messages::Request;
use watershed::migration::{MigrationConfig, NodeId, Phase, SafetyPolicy};
use watershed::{BoxFuture, Error, Link, LinkError, Migration, ShardId};

const SHARD: ShardId = ShardId(0);

/// Aborts as the migration enters `phase`; says who owns the shard in the end.
fn aborted_in(phase: Phase) -> String {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::start(&a, 3);
    writers.wait_for_more(200);
    let slot: Arc<OnceLock<Migration>> = Arc::default();
    let handle = slot.clone();
    let observer = at_phase(phase, move || handle.wait().abort());
    let migration = a
        .migrate(SHARD)
        .to("b")
        .config(quick())
        .observer(observer)
        .start()
        .unwrap();
    slot.set(migration.clone()).unwrap();
    let outcome = migration.finished();
    let record = world.record(SHARD);
    let before_activate = phase.before_activate();
    assert_eq!(outcome.is_err(), before_activate, "{outcome:?}");
    if before_activate {
        assert!(
            matches!(outcome, Err(Error::MigrationAborted { .. })),
            "{outcome:?}"
        );
        assert_eq!(record.migration.as_ref().unwrap().phase, Phase::Aborted);
    }
    wait_until("one copy is left", || {
        world.copies("a", SHARD).len() + world.copies("b", SHARD).len() == 1
    });
    writers.wait_for_more(100);
    let model = writers.stop();
    model.check(&a);
    model.check(&b);
    for name in ["a", "b"] {
        world.assert_no_leftovers(name);
    }
    // And nothing stands in the way of the next one.
    if before_activate {
        a.migrate(SHARD)
            .to("b")
            .config(quick())
            .start()
            .unwrap()
            .finished()
            .unwrap();
        model.check(&b);
    }
    record.owner.to_string()
}

#[test]
fn aborted_in_plan() {
    assert_eq!(aborted_in(Phase::Plan), "a");
}

#[test]
fn aborted_in_bulk_copy() {
    assert_eq!(aborted_in(Phase::BulkCopy), "a");
}

#[test]
fn aborted_in_dual_write() {
    assert_eq!(aborted_in(Phase::DualWrite), "a");
}

#[test]
fn aborted_in_stop_dual_write() {
    assert_eq!(aborted_in(Phase::StopDualWrite), "a");
}

#[test]
fn aborted_in_drain() {
    assert_eq!(aborted_in(Phase::Drain), "a");
}

#[test]
fn aborted_in_delta_pass() {
    assert_eq!(aborted_in(Phase::DeltaPass), "a");
}

#[test]
fn an_abort_in_cleanup_comes_too_late() {
    assert_eq!(aborted_in(Phase::Cleanup), "b");
}

fn files(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_gate_refuses_and_nothing_is_touched() {
    let world = World::new(1);
    let (a, _b) = (world.open("a"), world.open("b"));
    a.put("k", "v").wait().unwrap();
    let before = (
        world.record(SHARD),
        files(&world.path("a")),
        files(&world.path("b")),
    );
    for anti_entropy in [false, true] {
        let safety = SafetyPolicy {
            anti_entropy,
            delta_pass: false,
        };
        let config = MigrationConfig { safety, ..quick() };
        let refused = a.migrate(SHARD).to("b").config(config).start();
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    let out_of_bounds = MigrationConfig {
        pause_max_ms: 0,
        ..quick()
    };
    let refused = a.migrate(SHARD).to("b").config(out_of_bounds).start();
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert!(matches!(
        a.migrate(SHARD).to("a").start(),
        Err(Error::Options { .. })
    ));
    assert!(matches!(
        a.migrate(ShardId(9)).to("b").start(),
        Err(Error::NoShard { .. })
    ));
    let after = (
        world.record(SHARD),
        files(&world.path("a")),
        files(&world.path("b")),
    );
    assert_eq!(before, after);
    assert!(a.migrations().is_empty());
}

#[test]
fn a_plan_tells_what_a_migration_would_do_and_touches_nothing() {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    for number in 0..200 {
        a.put(format!("k{number}"), vec![7; 1000]).wait().unwrap();
    }
    let state = || {
        (
            world.record(SHARD),
            files(&world.path("a")),
            files(&world.path("b")),
        )
    };
    let before = state();
    let config = MigrationConfig {
        rate_bytes_per_s: Some(10_000),
        safety: SafetyPolicy {
            anti_entropy: false,
            delta_pass: true,
        },
        hold_ms: 1_000,
        ..quick()
    };
    // Any node may be asked.
    for engine in [&a, &b] {
        let plan = engine.migrate(SHARD).to("b").config(config.clone()).plan();
        let plan = plan.unwrap();
        let ends = (plan.source.as_str(), plan.target.as_str());
        assert_eq!((plan.shard, ends), (SHARD, ("a", "b")));
        let bytes = plan.bytes.unwrap();
        assert!(bytes > 100_000, "{plan:?}");
        assert_eq!(plan.copy_seconds, Some(bytes.div_ceil(10_000)));
        assert!(plan.target_free_bytes.is_some() && plan.target_version == plan.source_version);
        let told = plan.warnings.join("; ");
        assert!(
            told.contains("anti-entropy") && told.contains("hold_ms"),
            "{told}"
        );
    }
    let calm = a.migrate(SHARD).to("b").plan().unwrap();
    assert_eq!((calm.copy_seconds, &calm.warnings[..]), (None, &[][..]));
    assert_eq!(before, state());
    let refused = a.migrate(SHARD).to("a").plan();
    assert!(matches!(refused, Err(Error::Options { .. })), "{refused:?}");
    let unknown = a.migrate(SHARD).to("c").plan();
    assert!(matches!(unknown, Err(Error::Remote { .. })), "{unknown:?}");
    assert!(matches!(
        a.migrate(ShardId(9)).to("b").plan(),
        Err(Error::NoShard { .. })
    ));
    let held = MigrationConfig {
        hold: true,
        ..quick()
    };
    let migration = a.migrate(SHARD).to("b").config(held).start().unwrap();
    wait_until("it has begun", || {
        migration.progress().phase == Phase::DualWrite
    });
    let busy = b.migrate(SHARD).to("b").plan();
    assert!(matches!(busy, Err(Error::ShardBusy { .. })), "{busy:?}");
    migration.cutover();
    migration.finished().unwrap();
}

/// Delays the target's answers to `Verify`, while switched on.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn Link>,
    on: Arc<AtomicBool>,
}

impl Link for Slow {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let verify = matches!(Request::decode(&request), Ok(Request::Verify { .. }));
        let answer = self.inner.call(to, request);
        if !(verify && self.on.load(Ordering::Acquire)) {
            return answer;
        }
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            answer.await
        })
    }
}

#[test]
fn a_target_too_slow_for_the_pause_is_waited_for_with_the_source_open() {
    let on = Arc::new(AtomicBool::new(true));
    let switch = on.clone();
    let world = World::with_link(1, |inner| Arc::new(Slow { inner, on: switch }));
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::start(&a, 2);
    writers.wait_for_more(100);
    let config = MigrationConfig {
        pause_max_ms: 200,
        attempts_max: 1_000,
        ..quick()
    };
    let migration = a.migrate(SHARD).to("b").config(config).start().unwrap();
    wait_until("the source has opened again twice", || {
        migration.progress().re_opens >= 2
    });
    assert_eq!(world.record(SHARD).owner, node("a"));
    writers.wait_for_more(100);
    on.store(false, Ordering::Release);
    let certificate = migration.wait().unwrap();
    assert!(certificate.attempts.0 > 2);
    migration.finished().unwrap();
    let model = writers.stop();
    model.check(&b);
}

#[test]
fn a_held_migration_waits_for_its_cutover_and_a_frozen_copy_for_its_cleanup() {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    let writers = Writers::start(&a, 2);
    let config = MigrationConfig {
        hold: true,
        grace_ms: 3_600_000,
        ..quick()
    };
    let migration = a.migrate(SHARD).to("b").config(config).start().unwrap();
    wait_until("it has caught up", || {
        migration.progress().phase == Phase::DualWrite
    });
    writers.wait_for_more(300);
    assert_eq!(world.record(SHARD).owner, node("a"));
    migration.cutover();
    migration.wait().unwrap();
    assert_eq!(world.record(SHARD).owner, node("b"));
    wait_until("the copies are compared", || {
        migration.progress().phase == Phase::Cleanup
    });
    assert_eq!(
        world.copies("a", SHARD).len(),
        1,
        "the frozen copy is kept through the grace time"
    );
    // The grace time outlasts a restart of both.
    let model = writers.stop();
    a.close().unwrap();
    b.close().unwrap();
    let (a, b) = (world.open("a"), world.open("b"));
    model.check(&a);
    let [migration] = &a.migrations()[..] else {
        panic!("one migration goes on")
    };
    migration.wait().unwrap();
    assert_eq!(world.copies("a", SHARD).len(), 1);
    migration.cleanup();
    migration.finished().unwrap();
    assert_eq!(world.copies("a", SHARD), [""; 0]);
    b.migrate(SHARD)
        .to("a")
        .config(quick())
        .start()
        .unwrap()
        .finished()
        .unwrap();
    model.check(&a);
}

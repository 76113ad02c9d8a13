//! The hold that a migration puts on its source's log: there before the checkpoint, charged, and given up over budget
//! with a reason, never by reading a gap.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use support::{World, Writers, at_phase, node, quick, wait_until};
use tokio::sync::watch;
use watershed::migration::messages::Request;
use watershed::migration::{MigrationConfig, Phase};
use watershed::{BoxFuture, Engine, Error, Link, LinkError, NodeId, ShardId};
use watershed_wal::{DirStorage, HoldInfo, LogView, SeqRange};

const SHARD: ShardId = ShardId(0);
const SEGMENT: u32 = 64 << 10;
/// So little that the writers of a test meet it, and so much that they don't.
const LITTLE: u64 = 2 << 20;
const MUCH: u64 = 256 << 20;

fn open(world: &World, name: &str, log_limit: u64) -> Engine {
    Engine::options()
        .node(name)
        .shards(1)
        .segment_bytes(SEGMENT)
        .log_limit_bytes(log_limit)
        .cluster(&world.cluster)
        .open(world.path(name))
        .unwrap()
}

/// What the log's files say, to somebody else.
fn log_of(dir: &Path) -> LogView {
    let storage = DirStorage::read_only(dir.join("wal")).unwrap();
    LogView::open(Arc::new(storage)).unwrap().0
}

fn holds(engine: &Engine) -> Vec<HoldInfo> {
    let status = engine.status().unwrap();
    let shard = status.shards.into_iter().find(|s| s.shard == SHARD);
    shard.map(|shard| shard.holds).unwrap_or_default()
}

fn held(hold_bytes: u64) -> MigrationConfig {
    MigrationConfig {
        hold: true,
        hold_bytes,
        ..quick()
    }
}

#[test]
fn rule_14_holds_first() {
    let world = World::new(1);
    let (a, b) = (open(&world, "a", MUCH), open(&world, "b", MUCH));
    let writers = Writers::start(&a, 3);
    writers.wait_for_more(300);
    // Entered once the source was prepared, and before the checkpoint is asked for.
    let seen: Arc<Mutex<Vec<HoldInfo>>> = Arc::default();
    let (path, found) = (world.path("a"), seen.clone());
    let checkpoints = path.join("checkpoints");
    let observer = at_phase(Phase::BulkCopy, move || {
        let made = std::fs::read_dir(checkpoints).map_or(0, Iterator::count);
        assert_eq!(made, 0, "no checkpoint yet");
        for instance in log_of(&path).instances() {
            found.lock().unwrap().extend(instance.holds);
        }
    });
    let migration = a
        .migrate(SHARD)
        .to("b")
        .config(held(1 << 30))
        .observer(observer);
    let migration = migration.start().unwrap();
    wait_until("it is held", || {
        migration.progress().phase == Phase::DualWrite
    });
    let durable = seen
        .lock()
        .unwrap()
        .pop()
        .expect("durable before the checkpoint");
    writers.wait_for_more(300);
    let [now] = &holds(&a)[..] else {
        panic!("one hold")
    };
    assert_eq!((&now.name, now.from), (&durable.name, durable.from));
    assert!(
        now.bytes >= u64::from(SEGMENT) && !now.expired,
        "charged: {now:?}"
    );
    migration.cutover();
    let certificate = migration.wait().unwrap();
    assert!(
        durable.from <= certificate.base,
        "it protects what the checkpoint lacks"
    );
    migration.finished().unwrap();
    writers.stop().check(&b);
    for engine in [&a, &b] {
        assert!(holds(engine).is_empty());
    }
}

/// While switched on, loses what is forwarded, and keeps delta rounds back.
#[derive(Debug)]
struct Dam {
    inner: Arc<dyn Link>,
    on: watch::Receiver<bool>,
    /// Delta rounds that were kept back.
    kept_back: Arc<AtomicU64>,
}

impl Link for Dam {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let call = self.inner.call(to, request.clone());
        let mut on = self.on.clone();
        match Request::decode(&request) {
            Ok(Request::Records { delta: true, .. }) => {
                if *on.borrow() {
                    self.kept_back.fetch_add(1, Ordering::Relaxed);
                }
                Box::pin(async move {
                    // An error says that the test is over.
                    let _ = on.wait_for(|on| !on).await;
                    call.await
                })
            }
            Ok(Request::Records { .. }) if *on.borrow() => {
                let lost = LinkError::Lost {
                    node: to.clone(),
                    reason: "the test lost it".into(),
                };
                Box::pin(async move { Err(lost) })
            }
            _ => call,
        }
    }
}

/// The target gets no records while the source is written, past what the hold may cost; then it does again.
fn over_budget(hold_bytes: u64) {
    let (dam, on) = watch::channel(true);
    let kept_back: Arc<AtomicU64> = Arc::default();
    let count = kept_back.clone();
    let world = World::with_link(1, move |inner| {
        Arc::new(Dam {
            inner,
            on,
            kept_back: count,
        })
    });
    let (a, b) = (open(&world, "a", LITTLE), open(&world, "b", MUCH));
    let writers = Writers::start(&a, 4);
    writers.wait_for_more(100);
    let migration = a.migrate(SHARD).to("b").config(held(hold_bytes));
    let migration = migration.start().unwrap();
    wait_until("a delta round is kept back", || {
        kept_back.load(Ordering::Relaxed) > 0
    });
    // The target never had it, and that round does not bring it.
    let missing = a.status().unwrap().shards[0].assigned.next();
    wait_until("the hold expires", || {
        holds(&a).iter().all(|hold| hold.expired)
    });
    // It keeps nothing any more, and writers are not refused for its sake.
    wait_until("what it kept goes", || {
        let log = log_of(&world.path("a"));
        let instance = log.instances().remove(0);
        let range = SeqRange::new(missing, missing).unwrap();
        instance.flushed >= missing && log.read(instance.id, range).any(|record| record.is_err())
    });
    // The log keeps recent records in memory, too; those would be shipped all the same.
    for _ in 0..400 {
        wait_until("a large write", || {
            a.put("large", vec![7; 64 << 10]).wait().is_ok()
        });
    }
    dam.send_replace(false);
    wait_until("it is given up", || {
        migration.progress().phase == Phase::Aborted
    });
    let ended = migration.wait().unwrap_err();
    let Error::MigrationAborted { reason, .. } = &ended else {
        panic!("{ended}")
    };
    println!("{reason}");
    assert!(reason.contains("checkpoint"), "{reason}");
    assert_eq!(world.record(SHARD).owner, node("a"));
    wait_until("nothing is left of it", || {
        holds(&a).is_empty() && world.copies("b", SHARD).is_empty()
    });
    // Started again, from a checkpoint of now.
    let again = a.migrate(SHARD).to("b").config(quick()).start().unwrap();
    wait_until("it has moved", || world.record(SHARD).owner == node("b"));
    let certificate = again.wait().unwrap();
    assert_eq!(certificate.digest_source, certificate.digest_target);
    let model = writers.stop();
    model.check(&b);
    model.check(&a);
}

#[test]
fn a_hold_over_its_budget_ends_the_migration_with_a_reason() {
    over_budget(1 << 17);
}

#[test]
fn a_budget_beyond_the_logs_limit_does_not_stop_the_writers() {
    over_budget(1 << 40);
}

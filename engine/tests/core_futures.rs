//! Requests as futures: dropped at any moment, past their deadline, on any runtime or none.

mod support;

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use support::{World, at_phase, quick};
use watershed::migration::Phase;
use watershed::{
    Batch, BoxFuture, Durability, Engine, Error, Link, LinkError, NodeId, Retry, ScanOptions,
    Shard, ShardId,
};

const SHARD: ShardId = ShardId(0);

fn open(dir: &tempfile::TempDir) -> Engine {
    Engine::options().shards(2).open(dir.path()).unwrap()
}

/// A generator of small numbers that a failure can be replayed with.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Polls a future at most so often, letting others run between, and drops it. Gives what it came to, if it did.
fn poll_some<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    for poll in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if poll % 2 == 0 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    None
}

/// Two keys that are written together.
fn pair(thread: u64, number: u64) -> [String; 2] {
    ["x", "y"].map(|half| format!("{thread}/{number}/{half}"))
}

/// Drops half of its writes on the way. Gives which were acknowledged before they were dropped.
fn write_and_drop(shard: &Shard, thread: u64, writes: u64) -> Vec<bool> {
    let mut random = Random(thread * 2 + 1);
    let one = |number: u64, random: &mut Random| {
        let [x, y] = pair(thread, number);
        let mut batch = Batch::new();
        // Together they are more than a shard's room, so that leaked room would wedge it.
        batch.put(x, vec![7; 40_000]).put(y, number.to_string());
        let mut write = shard.write(batch);
        if random.below(3) == 0 {
            write = write.durability(Durability::Buffered);
        }
        if random.below(4) == 0 {
            write = write.if_absent(&pair(thread, number)[0]);
        }
        if random.below(4) == 0 {
            write = write.deadline(Duration::from_micros(random.below(2_000)));
        }
        let polls = random.below(6);
        match random.below(2) {
            0 => poll_some(write.into_future(), polls).is_some_and(|done| done.is_ok()),
            _ => pollster::block_on(write.into_future()).is_ok(),
        }
    };
    (0..writes).map(|number| one(number, &mut random)).collect()
}

fn check_pairs(engine: &Engine, thread: u64, acknowledged: &[bool]) {
    for (number, acknowledged) in acknowledged.iter().enumerate() {
        let keys = pair(thread, number as u64);
        let found = engine.shard(SHARD).multi_get(&keys).wait().unwrap();
        assert_eq!(
            found[0].is_some(),
            found[1].is_some(),
            "half of {keys:?} was written"
        );
        assert!(
            found[0].is_some() || !acknowledged,
            "{keys:?} was acknowledged and is not there"
        );
    }
}

#[test]
fn a_dropped_write_never_happened_or_is_whole_and_wedges_nothing() {
    const THREADS: u64 = 6;
    const WRITES: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let acknowledged: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let shard = engine.shard(SHARD);
                scope.spawn(move || write_and_drop(&shard, thread, WRITES))
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    // The shard goes on.
    let shard = engine.shard(SHARD);
    let version = shard.put("after", "1").if_absent("after").wait().unwrap();
    shard
        .put("after", "2")
        .if_version("after", version)
        .wait()
        .unwrap();
    for (thread, acknowledged) in acknowledged.iter().enumerate() {
        check_pairs(&engine, thread as u64, acknowledged);
    }
    engine.close().unwrap();
    let engine = open(&dir);
    for (thread, acknowledged) in acknowledged.iter().enumerate() {
        check_pairs(&engine, thread as u64, acknowledged);
    }
}

#[test]
fn a_write_whose_future_lives_when_the_engine_closes_ends_with_an_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let mut begun: Vec<_> = (0..200)
        .map(|number: u32| engine.put(format!("k{number}"), "v").into_future())
        .collect();
    for write in &mut begun {
        let _ = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    let never_polled = engine.put("never", "v").into_future();
    let read = engine.get("k1").into_future();
    let mut scan = engine.scan(ScanOptions::all());
    engine.close().unwrap();
    let outcomes: Vec<_> = begun.into_iter().map(pollster::block_on).collect();
    assert!(matches!(
        pollster::block_on(never_polled),
        Err(Error::Closed)
    ));
    assert!(matches!(pollster::block_on(read), Err(Error::Closed)));
    assert!(pollster::block_on(scan.next_entry()).unwrap().is_err());
    drop(engine);
    let engine = open(&dir);
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let found = engine.get(format!("k{number}")).wait().unwrap();
        match outcome {
            Ok(_) => assert_eq!(found.unwrap(), "v"),
            Err(error) => assert_eq!(error.retry(), Retry::Unknown, "{error}"),
        }
    }
    assert_eq!(engine.get("never").wait().unwrap(), None);
}

#[test]
fn a_deadline_that_has_passed_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    for blocking in [true, false] {
        let write = engine.put("k", "v").deadline(Duration::ZERO);
        let refused = match blocking {
            true => write.wait(),
            false => pollster::block_on(write.into_future()),
        };
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::DeadlineNotApplied { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Now);
    }
    assert_eq!(engine.get("k").wait().unwrap(), None);
    engine.put("k", "v").deadline(Duration::MAX).wait().unwrap();
    assert_eq!(
        engine
            .get("k")
            .deadline(Duration::MAX)
            .wait()
            .unwrap()
            .unwrap(),
        "v"
    );
}

/// Asks while the shard is in the pause of a cutover, of its owner and of another node.
#[test]
fn a_deadline_that_passes_while_parked_is_not_applied() {
    let world = World::new(1);
    let (a, b) = (world.open("a"), world.open("b"));
    a.put("k", "old").wait().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ask = {
        let (a, b, seen) = (a.clone(), b.clone(), seen.clone());
        move || {
            for engine in [&a, &b] {
                let soon = Duration::from_millis(30);
                let write = engine.put("k", "new").deadline(soon).wait();
                let when = engine
                    .put("k", "new")
                    .if_absent("other")
                    .deadline(soon)
                    .wait();
                let read = engine.get("k").deadline(soon).wait();
                let mut seen = seen.lock().unwrap();
                seen.extend([write.map(drop), when.map(drop), read.map(drop)]);
            }
        }
    };
    let moving = a.migrate(SHARD).to("b").config(quick());
    // In Drain neither writes nor reads are answered by anybody (rule 7).
    let moving = moving
        .observer(at_phase(Phase::Drain, ask))
        .start()
        .unwrap();
    moving.wait().unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), 6);
    for result in seen {
        // The pause may have ended by itself between: then it was answered.
        if let Err(error) = result {
            assert!(matches!(error, Error::DeadlineNotApplied { .. }), "{error}");
            assert_eq!(error.retry(), Retry::Now);
        }
    }
    b.put("k", "last").wait().unwrap();
    assert_eq!(a.get("k").wait().unwrap().unwrap(), "last");
}

/// A link whose answers never come once it is told so.
#[derive(Debug)]
struct Silent {
    link: Arc<dyn Link>,
    silent: Arc<AtomicBool>,
}

impl Link for Silent {
    fn call(
        &self,
        to: &NodeId,
        request: bytes::Bytes,
    ) -> BoxFuture<'static, Result<bytes::Bytes, LinkError>> {
        match self.silent.load(Ordering::Relaxed) {
            true => Box::pin(std::future::pending()),
            false => self.link.call(to, request),
        }
    }
}

#[test]
fn a_deadline_bounds_the_wait_for_a_silent_owner() {
    let silent = Arc::new(AtomicBool::new(false));
    let world = World::with_link(1, |link| {
        let silent = silent.clone();
        Arc::new(Silent { link, silent })
    });
    let (a, b) = (world.open("a"), world.open("b"));
    a.put("k", "v").wait().unwrap();
    assert_eq!(b.get("k").wait().unwrap().unwrap(), "v");
    silent.store(true, Ordering::Relaxed);
    let soon = Duration::from_millis(20);
    let read = b.get("k").deadline(soon).wait().unwrap_err();
    assert_eq!(read.retry(), Retry::Now, "{read}");
    // The write may have got there.
    let write = b.put("k", "w").deadline(soon).wait().unwrap_err();
    assert_eq!(write.retry(), Retry::Unknown, "{write}");
}

async fn use_it(engine: &Engine) {
    engine.put("k", "v").await.unwrap();
    assert_eq!(engine.get("k").await.unwrap().unwrap(), "v");
    let mut scan = engine.scan(ScanOptions::all());
    assert_eq!(scan.next_entry().await.unwrap().unwrap().key, "k");
    assert!(scan.next_entry().await.is_none());
    // The blocking form inside of somebody's runtime.
    engine.put("k", "v").wait().unwrap();
    assert_eq!(engine.scan(ScanOptions::all()).count(), 1);
    let snapshot = engine.shard(engine.shard_of("k")).snapshot().unwrap();
    assert_eq!(snapshot.get("k").unwrap().unwrap(), "v");
    engine.create_shard(ShardId(77)).unwrap();
    engine.drop_shard(ShardId(77)).unwrap();
}

#[test]
fn any_runtime_or_none_will_do() {
    let dir = tempfile::tempdir().unwrap();
    pollster::block_on(async {
        let engine = open(&dir);
        use_it(&engine).await;
        engine.close().unwrap();
    });
    let single = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    single.block_on(async {
        let engine = open(&dir);
        use_it(&engine).await;
        engine.close().unwrap();
    });
    let several = tokio::runtime::Runtime::new().unwrap();
    several.block_on(async {
        let engine = open(&dir);
        use_it(&engine).await;
        let other = engine.clone();
        tokio::spawn(async move { use_it(&other).await })
            .await
            .unwrap();
        // Dropped inside of a runtime, without `close`.
        drop(engine);
    });
    use_it_on_many_threads(&open(&dir));
}

fn use_it_on_many_threads(engine: &Engine) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..50 {
                    let key = format!("{thread}/{number}");
                    pollster::block_on(engine.put(&key, "v").into_future()).unwrap();
                    assert!(engine.get(&key).wait().unwrap().is_some());
                }
            });
        }
    });
}

//! What is applied beside the sync of its own frame: seen by nobody, acknowledged to nobody, until the sync is done.

mod once;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tempfile::TempDir;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    BatchBuilder, Durability, Epoch, Inline, InstanceId, Log, LogOptions, Seq, ShardId,
};

use super::{ApplyPool, Hosted, Role, WriteRequest, Written};
use crate::Error;
use crate::store::{Applied, Store, StoreEnv, StoreLimits};

/// A shard that is owned here, on a device that can be told to hang or fail.
struct Shard {
    device: MemStorage,
    _log: Log,
    pool: ApplyPool,
    hosted: Arc<Hosted>,
    dir: Option<TempDir>,
}

impl Shard {
    fn new() -> Self {
        Self::open(MemStorage::new(), tempfile::tempdir().unwrap())
    }

    fn open(device: MemStorage, dir: TempDir) -> Self {
        let (log, _) = Log::open(Arc::new(device.clone()), LogOptions::default()).unwrap();
        let env = StoreEnv::new(&StoreLimits::default()).unwrap();
        let path = dir.path().join("store");
        let id = InstanceId(7);
        let (instance, store) = match log.instance(id) {
            Some(instance) => (instance, Store::open(&env, &path).unwrap()),
            None => (
                log.host(ShardId(3), id, Seq::ZERO, Vec::new()).unwrap(),
                Store::create(&env, &path, Applied::default()).unwrap(),
            ),
        };
        let pool = ApplyPool::start(1).unwrap();
        let hosted = Hosted::new(instance, path, Some(store), Role::Receiver, pool.clone());
        pollster::block_on(hosted.become_owner(Epoch(1))).unwrap();
        Self {
            device,
            _log: log,
            pool,
            hosted,
            dir: Some(dir),
        }
    }

    fn on(&self, injector: &str) {
        self.device.set_injector(Some(injector.parse().unwrap()));
    }

    /// Writes through the log's thread, as many in flight do.
    async fn put(&self, key: &str, value: &str) -> Result<Seq, Error> {
        self.put_as(key, value, Durability::Sync).await
    }

    async fn put_as(&self, key: &str, value: &str, durability: Durability) -> Result<Seq, Error> {
        let mut body = BatchBuilder::new();
        body.put(key.as_bytes(), value.as_bytes());
        let request = WriteRequest {
            body: body.finish(),
            conditions: Vec::new(),
            durability,
            deadline: None,
            session: None,
        };
        match self.hosted.write(&request, Inline::Never).await? {
            Written::Done(version) => Ok(version.seq),
            Written::Elsewhere { .. } => panic!("owned here"),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let shown = self.hosted.store()?.read(&[key])?;
        let mut found = self.hosted.committed_read(shown).await?;
        Ok(found.remove(0).map(|(value, _)| value))
    }

    /// As after a loss of power: the log has what was synced, the store what was flushed.
    fn lose_power(mut self) -> Self {
        let device = self.device.crash(Survival::None);
        let dir = self.dir.take().unwrap();
        drop(self);
        Self::open(device, dir)
    }

    /// Waits until the store, whatever may be seen of it, has a record.
    fn wait_for_store(&self, seq: u64) {
        while self.hosted.applied().unwrap().seq < Seq(seq) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // So that a test that fails ends.
        self.device.set_injector(None);
        self.hosted.close();
        self.pool.stop();
    }
}

fn is_pending<T>(poll: Poll<T>) -> bool {
    poll.is_pending()
}

#[test]
fn a_frame_is_applied_beside_its_sync_and_seen_and_acknowledged_behind_it() {
    let shard = Shard::new();
    pollster::block_on(shard.put("k", "before")).unwrap();
    shard.on("on(sync):stall");
    let mut context = Context::from_waker(Waker::noop());
    let mut write = pin!(shard.put("k", "after"));
    let mut other = pin!(shard.put("other", "1"));
    assert!(is_pending(write.as_mut().poll(&mut context)));
    shard.wait_for_store(3);
    while shard.device.stalled() == 0 {
        std::thread::yield_now(); // the record was there before its sync began
    }

    assert!(is_pending(write.as_mut().poll(&mut context)));
    assert_eq!(shard.hosted.visible(), Seq(2));
    let mut read = pin!(shard.get("k"));
    assert!(is_pending(read.as_mut().poll(&mut context)));
    let mut through = pin!(shard.hosted.wait_applied(Seq(3)));
    assert!(is_pending(through.as_mut().poll(&mut context)));
    // What the frame leaves alone is read at once.
    assert_eq!(pollster::block_on(shard.get("none")).unwrap(), None);
    // One more frame waits behind.
    assert!(is_pending(other.as_mut().poll(&mut context)));

    shard.device.set_injector(None);
    assert_eq!(pollster::block_on(write).unwrap(), Seq(3));
    assert_eq!(pollster::block_on(read).unwrap().unwrap(), "after");
    assert!(pollster::block_on(through).unwrap() >= Seq(3));
    assert_eq!(pollster::block_on(other).unwrap(), Seq(4));
}

#[test]
fn a_delete_that_is_not_committed_is_not_seen() {
    let shard = Shard::new();
    pollster::block_on(shard.put("k", "1")).unwrap();
    shard.on("on(sync):stall");
    let mut body = BatchBuilder::new();
    body.delete(b"k");
    let request = WriteRequest {
        body: body.finish(),
        conditions: Vec::new(),
        durability: Durability::Sync,
        deadline: None,
        session: None,
    };
    let mut context = Context::from_waker(Waker::noop());
    let mut delete = pin!(shard.hosted.write(&request, Inline::Never));
    assert!(is_pending(delete.as_mut().poll(&mut context)));
    shard.wait_for_store(3);
    let mut read = pin!(shard.get("k"));
    assert!(is_pending(read.as_mut().poll(&mut context)));
    shard.device.set_injector(None);
    pollster::block_on(delete).unwrap();
    assert_eq!(pollster::block_on(read).unwrap(), None);
}

#[test]
fn what_a_failed_sync_leaves_in_the_store_is_never_seen() {
    let shard = Shard::new();
    pollster::block_on(shard.put("old", "1")).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting = pin!(shard.hosted.wait_applied(Seq(3)));
    assert!(is_pending(waiting.as_mut().poll(&mut context)));

    shard.on("on(sync):eio");
    let outcome = pollster::block_on(shard.put("new", "2")).unwrap_err();
    assert!(matches!(outcome, Error::OutcomeUnknown { .. }), "{outcome}");
    shard.wait_for_store(3);
    let read = pollster::block_on(shard.get("new")).map(drop);
    for error in [read, pollster::block_on(waiting).map(drop)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sync"), "it says why: {error}");
    }
    assert_eq!(pollster::block_on(shard.get("old")).unwrap().unwrap(), "1");
    assert_eq!(shard.hosted.visible(), Seq(2));
}

#[test]
fn a_frame_that_is_committed_after_the_shard_closed_leaves_nobody_waiting() {
    let shard = Shard::new();
    shard.on("on(sync):stall");
    let mut context = Context::from_waker(Waker::noop());
    let mut write = pin!(shard.put("k", "1"));
    assert!(is_pending(write.as_mut().poll(&mut context)));
    shard.wait_for_store(2);
    // All of closing but taking the sink off, which a commit under way may come before.
    shard.hosted.set_role(Role::Closed);
    shard.hosted.wait_idle();
    shard.device.set_injector(None);
    let outcome = pollster::block_on(write).unwrap_err();
    assert!(matches!(outcome, Error::OutcomeUnknown { .. }), "{outcome}");
}

#[test]
fn buffered_writes_behind_a_failed_or_new_store_are_read_from_the_log_before_they_are_synced() {
    let shard = Shard::new();
    // As after a failure of the store, and before a new owner's first record.
    super::lock(&shard.hosted.queue).read_from_log(Some(Seq(3)));
    let write = |key| shard.put_as(key, "1", Durability::Buffered);
    assert_eq!(pollster::block_on(write("a")).unwrap(), Seq(2));
    assert_eq!(pollster::block_on(write("b")).unwrap(), Seq(3));
    assert_eq!(pollster::block_on(write("c")).unwrap(), Seq(4));
    assert_eq!(pollster::block_on(shard.get("a")).unwrap().unwrap(), "1");
    assert_eq!(shard.hosted.visible(), Seq(4));
}

#[test]
fn a_store_that_was_flushed_ahead_of_its_log_goes_on_after_power_loss() {
    let shard = Shard::new();
    pollster::block_on(shard.put("k", "1")).unwrap();
    shard.on("on(sync):stall");
    {
        let mut context = Context::from_waker(Waker::noop());
        let mut write = pin!(shard.put("k", "2"));
        assert!(is_pending(write.as_mut().poll(&mut context)));
        shard.wait_for_store(3);
        assert_eq!(shard.hosted.store().unwrap().flush().unwrap(), Seq(3));
    }
    shard.on("on(any):crash");
    let shard = shard.lose_power();
    // Nobody was told of Seq 3. It may be there or not; it is, so no other write may get its Seq.
    assert_eq!(shard.hosted.visible(), Seq(4), "the start record");
    assert_eq!(pollster::block_on(shard.get("k")).unwrap().unwrap(), "2");
    assert_eq!(pollster::block_on(shard.put("k", "3")).unwrap(), Seq(5));
    let shard = shard.lose_power();
    assert_eq!(pollster::block_on(shard.get("k")).unwrap().unwrap(), "3");
}

//! What requests see of a frame that is applied while it is being synced, from a caller's side.

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use watershed_wal::ShardId;
use watershed_wal::mem::MemStorage;

use crate::{Engine, ScanOptions};

#[test]
fn no_request_shows_what_is_applied_and_not_yet_synced() {
    let device = MemStorage::new();
    let dir = tempfile::tempdir().unwrap();
    let mut options = Engine::options().shards(1);
    options.log_storage = Some(Arc::new(device.clone()));
    let engine = options.open(dir.path()).unwrap();
    engine.put("k", "old").wait().unwrap();
    let hosted = engine.node().unwrap().owner(ShardId(0)).unwrap();
    let before = hosted.visible();

    device.set_injector(Some("on(sync):stall".parse().unwrap()));
    let mut write = pin!(engine.put("k", "new").into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(write.as_mut().poll(&mut context).is_pending());
    while hosted.applied().unwrap().seq == before || device.stalled() == 0 {
        std::thread::yield_now();
    }
    let synced = AtomicBool::new(false);
    let shown = |what: &str, value: &[u8]| {
        assert_eq!(value, b"new", "{what}");
        assert!(synced.load(Ordering::SeqCst), "{what} came before the sync");
    };
    std::thread::scope(|scope| {
        let (engine, shown) = (&engine, &shown);
        let readers = [
            scope.spawn(move || shown("get", &engine.get("k").wait().unwrap().unwrap())),
            scope.spawn(move || {
                let found = engine.multi_get(["k", "none"]).wait().unwrap();
                shown("multi_get", &found[0].as_ref().unwrap().0);
            }),
            scope.spawn(move || {
                let entry = engine.scan(ScanOptions::all()).next().unwrap().unwrap();
                shown("scan", &entry.value);
            }),
            scope.spawn(move || {
                let snapshot = engine.shard(ShardId(0)).snapshot().unwrap();
                shown("snapshot", &snapshot.get("k").unwrap().unwrap());
            }),
            scope.spawn(move || {
                let found = pollster::block_on(engine.get("k").into_future());
                shown("asynchronous get", &found.unwrap().unwrap());
            }),
        ];
        // Time for a reader that does not wait to be wrong; nothing is asserted of it.
        std::thread::sleep(Duration::from_millis(50));
        synced.store(true, Ordering::SeqCst);
        device.set_injector(None);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    pollster::block_on(write).unwrap();
    engine.close().unwrap();
}

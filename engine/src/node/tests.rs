//! What requests see of a frame that is applied while it is being synced, from a caller's side.

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use watershed_migration::SessionId;
use watershed_migration::messages::{RefusedKind, Request, Response, SessionMark};
use watershed_wal::mem::MemStorage;
use watershed_wal::{Durability, Epoch, ShardId, single_put};

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

/// What a node answers to a write tells one that was not taken from one that may be carried out still.
#[test]
fn a_node_tells_writes_that_it_did_not_take_from_those_it_cannot_answer_for() {
    let device = MemStorage::new();
    let dir = tempfile::tempdir().unwrap();
    let mut options = Engine::options().shards(1);
    options.log_storage = Some(Arc::new(device.clone()));
    let engine = options.open(dir.path()).unwrap();
    let node = engine.node().unwrap();
    let ask = |request: Request| {
        let answer = node.answer(request.encode());
        async { Response::decode(&answer.await).unwrap() }
    };
    let kind = |response: Response| match response {
        Response::Refused(refused) => Some(refused.kind),
        _ => None,
    };
    let write = |session, deadline_ms| Request::Write {
        shard: ShardId(0),
        epoch: Epoch(1),
        body: single_put(b"k", b"v"),
        durability: Durability::Sync,
        conditions: Vec::new(),
        deadline_ms,
        session,
    };
    let session = SessionId(7);
    let open = Request::OpenSession {
        shard: ShardId(0),
        session,
        deadline_ms: 0,
    };
    let mark = |number, low_water| {
        Some(SessionMark {
            session,
            number,
            low_water,
        })
    };
    let asked = |request| pollster::block_on(ask(request));
    assert_eq!(
        kind(asked(write(mark(1, 0), 0))),
        Some(RefusedKind::UnknownSession)
    );
    assert!(matches!(
        asked(open.clone()),
        Response::SessionOpened { .. }
    ));
    assert_eq!(kind(asked(open)), Some(RefusedKind::Conflict));
    assert_eq!(kind(asked(write(mark(2, 1), 0))), None);
    assert_eq!(
        kind(asked(write(mark(1, 0), 0))),
        Some(RefusedKind::Settled)
    );

    // Not taken by its deadline.
    let hosted = node.owner(ShardId(0)).unwrap();
    hosted.close_gate().unwrap();
    for session in [None, mark(3, 0)] {
        assert_eq!(kind(asked(write(session, 1))), Some(RefusedKind::Busy));
    }
    hosted.reopen().unwrap();

    // Taken, and then the log failed; sent again, it is that one which nobody can answer for.
    device.set_injector(Some("on(sync):eio".parse().unwrap()));
    for session in [mark(4, 0), mark(4, 0)] {
        let answer = kind(asked(write(session, 0)));
        assert_eq!(answer, Some(RefusedKind::OutcomeUnknown));
    }
    // The log takes no more.
    for session in [None, mark(5, 0)] {
        assert_eq!(kind(asked(write(session, 0))), Some(RefusedKind::Failed));
    }
    let _ = engine.close();
    assert_eq!(
        kind(asked(write(None, 0))),
        Some(RefusedKind::OutcomeUnknown)
    );
}

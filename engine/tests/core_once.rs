//! Rule 17: a client that lost the answer to a write sends it again, to whoever owns the shard now; it is carried out once.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use support::{World, at_phase, node, quick, wait_until};
use watershed::migration::messages::{
    Condition, EntryVersion, Expect, RefusedKind, Request, Response, ScanBound, ScanRequest,
    SessionMark,
};
use watershed::migration::{Phase, SessionId};
use watershed::{Engine, Link, ScanOptions, ShardId};
use watershed_wal::{BatchBuilder, Durability, Epoch, Op};

const SHARD: ShardId = ShardId(0);

/// A client on the link between the nodes, as one behind a network is: its answers may get lost.
#[derive(Clone)]
struct Client {
    link: Arc<dyn Link>,
    session: SessionId,
}

/// A world whose link the test has, too.
fn world(forward_failures: f64) -> (World, Arc<dyn Link>) {
    let slot: Arc<OnceLock<Arc<dyn Link>>> = Arc::default();
    let keep = slot.clone();
    let world = World::with(1, |cluster| {
        let cluster = cluster.with_link(|inner| {
            keep.set(inner.clone()).unwrap();
            inner
        });
        cluster.forward_failures(forward_failures, 7)
    });
    let link = slot.wait().clone();
    (world, link)
}

fn put(key: &str, value: &str) -> Bytes {
    let mut body = BatchBuilder::new();
    body.put(key.as_bytes(), value.as_bytes());
    body.finish()
}

fn condition(key: &str, expect: Expect) -> Condition {
    Condition {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expect,
    }
}

impl Client {
    fn new(link: &Arc<dyn Link>, session: u128) -> Self {
        Self {
            link: link.clone(),
            session: SessionId(session),
        }
    }

    /// Opens its session at whoever owns the shard.
    fn open(link: &Arc<dyn Link>, session: u128) -> Self {
        let client = Self::new(link, session);
        let request = Request::OpenSession {
            shard: SHARD,
            session: client.session,
            deadline_ms: 0,
        };
        let opened = client.until_answered("a", &request);
        let Response::SessionOpened { in_flight_max, .. } = opened else {
            panic!("{opened:?}");
        };
        assert!(in_flight_max > 0);
        client
    }

    fn request(&self, number: u64, low_water: u64, body: Bytes, if_: Vec<Condition>) -> Request {
        Request::Write {
            shard: SHARD,
            epoch: Epoch(1),
            body,
            durability: Durability::Sync,
            conditions: if_,
            deadline_ms: 0,
            session: Some(SessionMark {
                session: self.session,
                number,
                low_water,
            }),
        }
    }

    fn call(&self, to: &str, request: &Request) -> Option<Response> {
        let answer = pollster::block_on(self.link.call(&node(to), request.encode()));
        answer.ok().map(|bytes| Response::decode(&bytes).unwrap())
    }

    /// Sends a request, again and to another node where that may help, until it has an answer that stays.
    fn until_answered(&self, first: &str, request: &Request) -> Response {
        let mut to = first.to_owned();
        let mut last = None;
        wait_until("the owner answers", || {
            match self.call(&to, request) {
                Some(Response::Moved { owner, .. }) => to = owner.to_string(),
                Some(Response::Refused(refused))
                    if matches!(
                        refused.kind,
                        RefusedKind::OutcomeUnknown | RefusedKind::NotReady | RefusedKind::Busy
                    ) => {}
                None => to = if to == "a" { "b" } else { "a" }.to_owned(),
                answer => last = answer,
            }
            last.is_some()
        });
        last.unwrap()
    }

    fn written(&self, first: &str, request: &Request) -> EntryVersion {
        match self.until_answered(first, request) {
            Response::Written { version } => version,
            other => panic!("{other:?}"),
        }
    }
}

fn migrate(from: &Engine, to: &str) {
    let migration = from.migrate(SHARD).to(to).config(quick()).start().unwrap();
    migration.finished().unwrap();
}

fn version_of(engine: &Engine, key: &str) -> String {
    let found = engine.get_versioned(key).wait().unwrap();
    found.expect("it is there").1.to_string()
}

#[test]
fn rule_17_once_across_restarts_and_moves() {
    let (world, link) = world(0.0);
    let (a, b) = (world.open("a"), world.open("b"));
    let client = Client::open(&link, 1);
    let first = client.request(1, 0, put("k", "1"), vec![]);
    let version = client.written("a", &first);
    let taken = vec![condition("k", Expect::Absent)];
    let failing = client.request(2, 0, put("never", "1"), taken);
    let failed = client.until_answered("a", &failing);
    assert!(
        matches!(failed, Response::ConditionFailed { index: 0, found: Some(found) } if found == version),
        "{failed:?}"
    );
    let check = |engine: &Engine, owner: &str| {
        for first_asked in ["a", "b"] {
            assert_eq!(client.written(first_asked, &first), version);
            assert_eq!(client.until_answered(first_asked, &failing), failed);
        }
        assert_eq!(version_of(engine, "k"), version.to_string());
        assert_eq!(engine.get("never").wait().unwrap(), None);
        assert_eq!(world.record(SHARD).owner, node(owner));
    };
    check(&a, "a");
    a.close().unwrap();
    let a = world.open("a");
    check(&a, "a");
    migrate(&a, "b");
    check(&b, "b");
    // The old owner carries nothing out, and says who does.
    let moved = client.call("a", &first);
    assert!(
        matches!(&moved, Some(Response::Moved { owner, .. }) if *owner == node("b")),
        "{moved:?}"
    );
    let second = client.request(3, 0, put("k", "2"), vec![]);
    let changed = client.written("b", &second);
    a.close().unwrap();
    b.close().unwrap();
    let (a, b) = (world.open("a"), world.open("b"));
    migrate(&b, "a");
    for _ in 0..2 {
        assert_eq!(client.written("b", &first), version);
        assert_eq!(client.written("b", &second), changed);
    }
    assert_eq!(version_of(&a, "k"), changed.to_string());
    assert_eq!(a.get("k").wait().unwrap().unwrap(), "2");
}

/// While the shard moves: what the checkpoint has is sent again as the migration enters `phase`, and a new write is sent twice
/// at once, to both nodes.
fn once_in(phase: Phase) {
    let (world, link) = world(0.5);
    let (a, b) = (world.open("a"), world.open("b"));
    let client = Client::open(&link, 1);
    let before = client.request(1, 0, put("before", "1"), vec![]);
    let version = client.written("a", &before);
    let (entered, entering) = mpsc::channel();
    let migration = a
        .migrate(SHARD)
        .to("b")
        .config(quick())
        .observer(at_phase(phase, move || entered.send(()).unwrap()))
        .start()
        .unwrap();
    entering.recv().unwrap();
    let meanwhile: Vec<_> = (2..12)
        .map(|number| client.request(number, 0, put(&format!("k{number}"), "1"), vec![]))
        .collect();
    let senders: Vec<JoinHandle<Vec<EntryVersion>>> = ["a", "b", "a"]
        .map(|first| {
            let (client, requests) = (client.clone(), meanwhile.clone());
            let before = before.clone();
            std::thread::spawn(move || {
                assert_eq!(client.written(first, &before), version);
                let each = requests.iter();
                each.map(|request| client.written(first, request)).collect()
            })
        })
        .into();
    let mut answers = senders.into_iter().map(|sender| sender.join().unwrap());
    let versions = answers.next().unwrap();
    answers.for_each(|others| assert_eq!(others, versions));
    migration.finished().unwrap();
    assert_eq!(client.written("a", &before), version);
    assert_eq!(version_of(&b, "before"), version.to_string());
    for (number, (request, version)) in (2..).zip(meanwhile.iter().zip(&versions)) {
        assert_eq!(client.written("b", request), *version);
        assert_eq!(version_of(&b, &format!("k{number}")), version.to_string());
    }
}

#[test]
fn once_in_bulk_copy() {
    once_in(Phase::BulkCopy);
}

#[test]
fn once_in_dual_write() {
    once_in(Phase::DualWrite);
}

#[test]
fn once_in_stop_dual_write() {
    once_in(Phase::StopDualWrite);
}

#[test]
fn once_in_drain() {
    once_in(Phase::Drain);
}

#[test]
fn once_in_delta_pass() {
    once_in(Phase::DeltaPass);
}

#[test]
fn once_in_activate() {
    once_in(Phase::Activate);
}

#[test]
fn once_in_cleanup() {
    once_in(Phase::Cleanup);
}

/// A small generator, so that a run can be made again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Counts up on a key of its own: each write only if nothing else was there than the one before. Answers get lost, requests
/// are sent twice at once. Gives how far it counted, and the last version.
fn count(client: &Client, stop: &AtomicBool) -> (u64, EntryVersion) {
    let mut random = Random(0x5eed + client.session.0 as u64);
    let key = format!("counter{}", client.session.0);
    let mut last: Option<EntryVersion> = None;
    let mut number = 0;
    while !stop.load(Ordering::Acquire) || number == 0 {
        number += 1;
        let expect = last.map_or(Expect::Absent, Expect::Version);
        let body = put(&key, &number.to_string());
        let request = client.request(number, number - 1, body, vec![condition(&key, expect)]);
        let first = ["a", "b"][random.below(2) as usize];
        match random.below(3) {
            // The answer is lost; perhaps the one to the second try, too.
            0 => {
                for _ in 0..=random.below(2) {
                    client.call(first, &request);
                }
            }
            // Sent twice at once.
            1 => {
                let (other, request) = (client.clone(), request.clone());
                std::thread::spawn(move || other.call("a", &request));
            }
            _ => {}
        }
        last = Some(client.written(first, &request));
    }
    (number, last.unwrap())
}

#[test]
fn rule_17_counters_count_each_write_once_while_answers_are_lost_and_the_shard_moves() {
    let (world, link) = world(0.1);
    let (a, b) = (world.open("a"), world.open("b"));
    let stop = Arc::new(AtomicBool::new(false));
    let counters: Vec<_> = (1..=4)
        .map(|session| {
            let (client, stop) = (Client::open(&link, session), stop.clone());
            std::thread::spawn(move || count(&client, &stop))
        })
        .collect();
    for _ in 0..2 {
        migrate(&a, "b");
        migrate(&b, "a");
    }
    stop.store(true, Ordering::Release);
    for (session, counter) in (1..).zip(counters) {
        let (counted, version) = counter.join().unwrap();
        let key = format!("counter{session}");
        let value = a.get(&key).wait().unwrap().unwrap();
        assert_eq!(value, counted.to_string());
        assert_eq!(version_of(&a, &key), version.to_string());
    }
}

#[test]
fn what_sessions_keep_is_shown_to_nobody() {
    let (world, link) = world(0.0);
    let a = world.open("a");
    let client = Client::open(&link, 1);
    let mut expected = BTreeMap::new();
    for number in 1..=20 {
        let key = format!("k{number}");
        let request = client.request(number, 0, put(&key, "v"), vec![]);
        expected.insert(key, client.written("a", &request).to_string());
    }
    let shown = |entries: Vec<watershed::Entry>| -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let entry = |entry: watershed::Entry| (text(&entry.key), entry.version.to_string());
        entries.into_iter().map(entry).collect()
    };
    let scans = [
        ScanOptions::all(),
        ScanOptions::all().reverse(),
        ScanOptions::all().from(""),
    ];
    for options in scans {
        let scanned: Result<_, _> = a.scan(options.clone()).collect();
        assert_eq!(shown(scanned.unwrap()), expected);
        let snapshot = a.shard(SHARD).snapshot().unwrap();
        let scanned: Result<_, _> = snapshot.scan(options).collect();
        assert_eq!(shown(scanned.unwrap()), expected);
    }
    // Keys that the entries have among their own, and with the bytes before them.
    let internal = [&b"s\0\0"[..], b"s\0\0\0\0", b"\x02s\0\0", b"\x01s\0\0"];
    for key in internal {
        assert_eq!(a.get(key).wait().unwrap(), None);
    }
    let scan = Request::Scan {
        shard: SHARD,
        scan: ScanRequest {
            from: ScanBound::Included(Bytes::from_static(b"s")),
            limit: 100,
            max_bytes: 1 << 20,
            ..ScanRequest::default()
        },
    };
    let page = client.call("a", &scan);
    assert!(
        matches!(&page, Some(Response::Entries { entries, done: true }) if entries.is_empty()),
        "{page:?}"
    );
    // Where they are in the log alone, and in files.
    for _ in 0..2 {
        let read_only = Engine::options().open_read_only(world.path("a")).unwrap();
        let scanned: Result<_, _> = read_only.scan(ScanOptions::all()).unwrap().collect();
        assert_eq!(shown(scanned.unwrap()), expected);
        for key in internal {
            assert_eq!(read_only.get(key).unwrap(), None);
        }
        a.close().unwrap();
    }
}

/// A user's key may be any bytes: those of a session's entries are others.
#[test]
fn keys_of_users_and_of_sessions_never_meet() {
    let (world, link) = world(0.0);
    let a = world.open("a");
    let client = Client::open(&link, 1);
    let keys: [&[u8]; 3] = [b"s\0\0", b"s\0\0\0\0", b"\x02s\0\0\0\0"];
    for key in keys {
        a.put(key, "mine").wait().unwrap();
    }
    let absent = |key: &[u8]| Condition {
        key: Bytes::copy_from_slice(key),
        expect: Expect::Absent,
    };
    let mut body = BatchBuilder::new();
    body.put(b"s\0\0\0\x01", b"1").delete(keys[0]);
    // Conditions on keys that entries of the same name are on their way for.
    let if_ = vec![absent(b"s\0\0\0\x01"), absent(b"s\0\0\0\x02")];
    let request = client.request(1, 0, body.finish(), if_);
    let version = client.written("a", &request);
    let request_2 = client.request(2, 0, put("s\0\0\0\u{2}", "2"), vec![absent(b"s\0\0\0\x02")]);
    client.written("a", &request_2);
    a.close().unwrap();
    let a = world.open("a");
    assert_eq!(client.written("a", &request), version);
    assert_eq!(a.get(keys[0]).wait().unwrap(), None);
    for key in &keys[1..] {
        assert_eq!(a.get(key).wait().unwrap().unwrap(), "mine");
    }
    assert_eq!(a.get(b"s\0\0\0\x01").wait().unwrap().unwrap(), "1");
}

#[test]
fn a_batch_that_a_store_cannot_apply_is_refused_and_the_shard_serves_on() {
    let (world, link) = world(0.0);
    let a = world.open("a");
    let client = Client::open(&link, 1);
    let bytes = Bytes::from_static;
    let (flags, key) = (0, bytes(b"s\0\0"));
    let internal = Op::Delete {
        keyspace: 1,
        flags,
        key: key.clone(),
    };
    let other = Op::Delete {
        keyspace: 9,
        flags,
        key: key.clone(),
    };
    let merge = Op::Merge {
        keyspace: 0,
        flags,
        key,
        operand: bytes(b"1"),
    };
    for op in [internal, other, merge] {
        let mut body = BatchBuilder::new();
        body.push(&op);
        let mut request = client.request(1, 0, body.finish(), vec![]);
        for _ in 0..2 {
            let refused = client.call("a", &request);
            assert!(
                matches!(&refused, Some(Response::Refused(refused)) if refused.kind == RefusedKind::Unsupported),
                "{op:?}: {refused:?}"
            );
            if let Request::Write { session, .. } = &mut request {
                *session = None;
            }
        }
    }
    let request = client.request(1, 0, put("k", "1"), vec![]);
    client.written("a", &request);
    assert_eq!(a.get("k").wait().unwrap().unwrap(), "1");
}

//! Writes that are sent more than once: carried out once, answered as the first time (rule 17).

use std::collections::BTreeMap;

use proptest::test_runner::{RngAlgorithm, TestRng};
use watershed_migration::SessionId;
use watershed_migration::messages::SessionMark;

use super::super::sessions::Outcome;
use super::super::{Condition, Expected, LIMITS, SessionUse};
use super::*;
use crate::store::Version;

const SESSION: SessionId = SessionId(0x5e55);

fn mark(number: u64) -> SessionMark {
    above(number, 0)
}

fn above(number: u64, low_water: u64) -> SessionMark {
    SessionMark {
        session: SESSION,
        number,
        low_water,
    }
}

fn put(mark: SessionMark, key: &str, value: &str) -> WriteRequest {
    let mut body = BatchBuilder::new();
    body.put(key.as_bytes(), value.as_bytes());
    WriteRequest {
        body: body.finish(),
        conditions: Vec::new(),
        durability: Durability::Sync,
        deadline: None,
        session: Some(SessionUse::Write(mark)),
    }
}

fn only_if(mut request: WriteRequest, key: &str, expected: Expected) -> WriteRequest {
    request.conditions.push(Condition {
        key: Bytes::copy_from_slice(key.as_bytes()),
        expected,
    });
    request
}

impl Shard {
    async fn send(&self, request: &WriteRequest) -> Result<Version, Error> {
        match self.hosted.write(request, Inline::Never).await? {
            Written::Done(version) => Ok(version),
            Written::Elsewhere { .. } => panic!("owned here"),
        }
    }

    fn sent(&self, request: &WriteRequest) -> Result<Version, Error> {
        pollster::block_on(self.send(request))
    }

    fn opened() -> Self {
        let shard = Self::new();
        shard.open_session(SESSION).unwrap();
        shard
    }

    fn open_session(&self, session: SessionId) -> Result<Version, Error> {
        self.sent(&WriteRequest::opening(session, None))
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        pollster::block_on(self.get(key)).unwrap()
    }

    fn internal_entries(&self) -> usize {
        let snapshot = self.hosted.store().unwrap().snapshot().unwrap();
        snapshot.internal_entries().unwrap().len()
    }
}

#[test]
fn rule_17_a_write_sent_again_is_carried_out_once_and_answered_as_before() {
    let shard = Shard::opened();
    let request = put(mark(1), "k", "1");
    let version = shard.sent(&request).unwrap();
    // Another client's, in between: a second application would undo it.
    pollster::block_on(shard.put("k", "2")).unwrap();
    let last = shard.hosted.visible();
    for _ in 0..3 {
        assert_eq!(shard.sent(&request).unwrap(), version);
    }
    assert_eq!(shard.value("k").unwrap(), "2");
    assert_eq!(shard.hosted.visible(), last, "nothing more was written");
}

#[test]
fn one_sent_again_while_the_first_is_under_way_waits_for_it() {
    let shard = Shard::opened();
    let last = shard.hosted.visible();
    shard.on("on(sync):stall");
    let request = put(mark(1), "k", "1");
    let hasty = WriteRequest {
        deadline: Some(tokio::time::Instant::now()),
        ..request.clone()
    };
    let mut context = Context::from_waker(Waker::noop());
    // Three at once: the first two meet nothing that was taken before them.
    let mut first = pin!(shard.send(&request));
    let mut again = pin!(shard.send(&request));
    let mut third = pin!(shard.send(&request));
    assert!(is_pending(first.as_mut().poll(&mut context)));
    assert!(is_pending(again.as_mut().poll(&mut context)));
    shard.wait_for_store(last.0 + 1);
    while shard.device.stalled() == 0 {
        std::thread::yield_now();
    }
    assert!(is_pending(third.as_mut().poll(&mut context)));
    assert!(is_pending(again.as_mut().poll(&mut context)));
    // It was not taken, whatever became of the first.
    let refused = shard.sent(&hasty).unwrap_err();
    assert!(
        matches!(refused, Error::DeadlineNotApplied { .. }),
        "{refused}"
    );
    shard.device.set_injector(None);
    let version = pollster::block_on(first).unwrap();
    assert_eq!(version.seq, last.next());
    assert_eq!(pollster::block_on(again).unwrap(), version);
    assert_eq!(pollster::block_on(third).unwrap(), version);
    assert_eq!(shard.hosted.visible(), last.next());
}

/// Durable is not enough: a read behind the answer must find the write.
#[test]
fn one_sent_again_is_not_answered_before_the_first_is_applied() {
    let shard = Shard::opened();
    let request = put(mark(1), "k", "1");
    // As if another thread applied, and took its time.
    super::super::lock(&shard.hosted.queue).claimed = true;
    let mut context = Context::from_waker(Waker::noop());
    let mut first = pin!(shard.send(&request));
    assert!(is_pending(first.as_mut().poll(&mut context)));
    let taken = shard.hosted.visible().next();
    pollster::block_on(shard.hosted.log.durable_past(shard.hosted.visible())).unwrap();
    let mut again = pin!(shard.send(&request));
    assert!(is_pending(again.as_mut().poll(&mut context)));
    super::super::lock(&shard.hosted.queue).claimed = false;
    shard.hosted.apply_queued();
    assert_eq!(pollster::block_on(again).unwrap().seq, taken);
    assert_eq!(pollster::block_on(first).unwrap().seq, taken);
}

/// An entry on its way is of another keyspace than a user's key of the same bytes, for conditions, too.
#[test]
fn an_entry_under_way_is_no_users_key() {
    let shard = Shard::opened();
    shard.on("on(sync):stall");
    let first = only_if(put(mark(1), "k", "1"), "k", Expected::Absent);
    // Where the first write of the first session has its entry.
    let entry = "s\0\0\0\0";
    let plain = WriteRequest {
        session: None,
        ..only_if(put(mark(2), entry, "mine"), entry, Expected::Absent)
    };
    let mut context = Context::from_waker(Waker::noop());
    let mut first = pin!(shard.send(&first));
    assert!(is_pending(first.as_mut().poll(&mut context)));
    let mut plain = pin!(shard.send(&plain));
    assert!(is_pending(plain.as_mut().poll(&mut context)));
    shard.device.set_injector(None);
    pollster::block_on(first).unwrap();
    pollster::block_on(plain).unwrap();
    assert_eq!(shard.value(entry).unwrap(), "mine");
}

#[test]
fn a_deadline_that_passes_behind_the_first_try_says_that_it_is_not_known() {
    let shard = Shard::opened();
    let mut timers = tokio::runtime::Builder::new_current_thread();
    let runtime = timers.enable_time().build().unwrap();
    let last = shard.hosted.visible();
    shard.on("on(sync):stall");
    let request = put(mark(1), "k", "1");
    let mut context = Context::from_waker(Waker::noop());
    let mut first = pin!(shard.send(&request));
    assert!(is_pending(first.as_mut().poll(&mut context)));
    let error = runtime.block_on(async {
        let request = WriteRequest {
            deadline: Some(tokio::time::Instant::now()),
            ..request.clone()
        };
        let taken = Version {
            term: shard.hosted.log.term().unwrap(),
            seq: last.next(),
        };
        let again = shard.hosted.answer_again(&request, taken, Outcome::Written);
        again.await.unwrap_err()
    });
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    shard.device.set_injector(None);
    pollster::block_on(first).unwrap();
}

#[test]
fn after_power_loss_the_answer_is_there_exactly_when_the_write_is() {
    let shard = Shard::opened();
    let kept = put(mark(1), "kept", "1");
    let version = shard.sent(&kept).unwrap();
    let lost = put(mark(2), "lost", "1");
    shard.on("on(sync):eio");
    let outcome = shard.sent(&lost).unwrap_err();
    assert!(matches!(outcome, Error::OutcomeUnknown { .. }), "{outcome}");
    // It was taken, so to send it again says no more.
    let outcome = shard.sent(&lost).unwrap_err();
    assert!(matches!(outcome, Error::OutcomeUnknown { .. }), "{outcome}");
    // What was not taken says so, for all that this request did.
    let refused = shard.sent(&put(mark(3), "late", "1")).unwrap_err();
    assert!(matches!(refused, Error::Log(_)), "{refused}");

    let shard = shard.lose_power();
    assert_eq!(shard.value("lost"), None);
    let last = shard.hosted.visible();
    assert_eq!(shard.sent(&kept).unwrap(), version);
    assert_eq!(shard.hosted.visible(), last);
    let now = shard.sent(&lost).unwrap();
    assert_eq!(now.seq, last.next());
    assert_eq!(shard.sent(&lost).unwrap(), now);

    // Flushed or not, and where the log has to be replayed.
    shard.hosted.store().unwrap().flush().unwrap();
    let shard = shard.lose_power();
    assert_eq!(shard.sent(&lost).unwrap(), now);
    assert_eq!(shard.sent(&kept).unwrap(), version);
}

#[test]
fn a_buffered_write_that_power_loss_took_is_taken_again() {
    let shard = Shard::opened();
    let request = WriteRequest {
        durability: Durability::Buffered,
        ..put(mark(1), "k", "1")
    };
    let version = shard.sent(&request).unwrap();
    // Asked for as one that survives: answered once it does.
    let synced = WriteRequest {
        durability: Durability::Sync,
        ..request.clone()
    };
    assert_eq!(shard.sent(&synced).unwrap(), version);
    assert!(shard.hosted.log.watermarks().durable >= version.seq);
    shard.on("on(sync):stall");
    let other = WriteRequest {
        durability: Durability::Buffered,
        ..put(mark(2), "other", "1")
    };
    let taken = shard.sent(&other).unwrap();
    shard.on("on(any):crash");
    let shard = shard.lose_power();
    assert_eq!(shard.sent(&request).unwrap(), version);
    assert_eq!(shard.value("other"), None);
    let again = shard.sent(&other).unwrap();
    assert_ne!(again, taken);
    assert_eq!(shard.value("other").unwrap(), "1");
}

#[test]
fn conditions_of_a_write_that_was_taken_are_not_decided_again() {
    let shard = Shard::opened();
    let make = only_if(put(mark(1), "k", "1"), "k", Expected::Absent);
    let version = shard.sent(&make).unwrap();
    let change = only_if(put(mark(2), "k", "2"), "k", Expected::Version(version));
    let changed = shard.sent(&change).unwrap();
    let shard = shard.lose_power();
    assert_eq!(shard.sent(&make).unwrap(), version);
    assert_eq!(shard.sent(&change).unwrap(), changed);
    assert_eq!(shard.value("k").unwrap(), "2");
}

/// Its client was told that it did not happen. The same write, sent earlier and come late, must not happen then.
#[test]
fn a_condition_that_failed_has_failed_for_good() {
    let shard = Shard::opened();
    let there = pollster::block_on(shard.put("k", "1")).unwrap();
    let make = only_if(put(mark(1), "k", "mine"), "other", Expected::Absent);
    let make = only_if(make, "k", Expected::Absent);
    let failed = |error: Error| match error {
        Error::ConditionFailed { key, found } => {
            assert_eq!(key, "k", "the one of two that failed");
            found.map(|version| version.seq)
        }
        other => panic!("{other}"),
    };
    assert_eq!(failed(shard.sent(&make).unwrap_err()), Some(there));
    // Now it would hold.
    let mut body = BatchBuilder::new();
    body.delete(b"k");
    let delete = WriteRequest {
        body: body.finish(),
        session: None,
        ..put(mark(9), "", "")
    };
    shard.sent(&delete).unwrap();
    let last = shard.hosted.visible();
    assert_eq!(failed(shard.sent(&make).unwrap_err()), Some(there));
    let shard = shard.lose_power();
    assert_eq!(failed(shard.sent(&make).unwrap_err()), Some(there));
    assert_eq!(shard.value("k"), None);
    assert_eq!(shard.hosted.visible(), last.next(), "the start record");
    // Without a session nobody sends again, and a condition that fails writes nothing.
    let plain = WriteRequest {
        session: None,
        ..only_if(
            make,
            "k",
            Expected::Version(Version {
                term: Default::default(),
                seq: there,
            }),
        )
    };
    assert_eq!(failed(shard.sent(&plain).unwrap_err()), None);
    assert_eq!(shard.hosted.visible(), last.next());
}

#[test]
fn a_session_that_was_not_opened_or_gave_way_is_refused_and_nothing_is_written() {
    let shard = Shard::new();
    let request = put(mark(1), "k", "1");
    let refused = |shard: &Shard| {
        let last = shard.hosted.visible();
        let error = shard.sent(&request).unwrap_err();
        assert!(
            matches!(
                error,
                Error::UnknownSession {
                    session: SESSION,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(shard.hosted.visible(), last);
    };
    refused(&shard);
    shard.open_session(SESSION).unwrap();
    let again = shard.open_session(SESSION).unwrap_err();
    assert!(matches!(again, Error::SessionExists { .. }), "{again}");
    let version = shard.sent(&request).unwrap();
    // As many as there may be, of which this one was used last.
    for other in 1..u128::from(LIMITS.sessions) {
        shard.open_session(SessionId(other)).unwrap();
    }
    assert_eq!(shard.sent(&request).unwrap(), version);
    shard.open_session(SessionId(0xffff)).unwrap();
    refused(&shard);
    let shard = shard.lose_power();
    refused(&shard);
    assert_eq!(shard.value("k").unwrap(), "1");
}

#[test]
fn more_than_may_be_unsettled_is_refused_until_the_low_water_mark_rises() {
    let shard = Shard::opened();
    let most = u64::from(LIMITS.in_flight);
    let mut versions = BTreeMap::new();
    // The higher numbers first: order is nothing to them.
    for number in (1..=most).rev() {
        let version = shard.sent(&put(mark(number), "k", "1")).unwrap();
        versions.insert(number, version);
    }
    let full = shard.sent(&put(mark(most + 1), "k", "2")).unwrap_err();
    assert!(matches!(full, Error::SessionFull { .. }), "{full}");
    assert_eq!(shard.sent(&put(mark(7), "k", "1")).unwrap(), versions[&7]);
    shard.sent(&put(above(most + 1, 3), "k", "2")).unwrap();
    let settled = shard.sent(&put(mark(3), "k", "1")).unwrap_err();
    assert!(
        matches!(settled, Error::Settled { low_water: 3, .. }),
        "{settled}"
    );
    let entries = shard.internal_entries();
    for number in most + 2..2 * most {
        shard
            .sent(&put(above(number, number - 1), "k", "3"))
            .unwrap();
    }
    assert_eq!(shard.internal_entries(), entries);
    let shard = shard.lose_power();
    let settled = shard.sent(&put(mark(7), "k", "1")).unwrap_err();
    assert!(matches!(settled, Error::Settled { .. }), "{settled}");
    assert_eq!(shard.value("k").unwrap(), "3");
}

#[test]
fn one_sent_again_waits_out_a_pause_and_a_healing_store() {
    let shard = Shard::opened();
    let request = put(mark(1), "k", "1");
    let version = shard.sent(&request).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    shard.hosted.close_gate().unwrap();
    {
        let mut again = pin!(shard.send(&request));
        assert!(is_pending(again.as_mut().poll(&mut context)));
        shard.hosted.reopen().unwrap();
        assert_eq!(pollster::block_on(again).unwrap(), version);
    }
    use std::sync::atomic::Ordering;
    shard.hosted.heals.fetch_or(1, Ordering::AcqRel);
    let mut again = pin!(shard.send(&request));
    assert!(is_pending(again.as_mut().poll(&mut context)));
    shard.hosted.heals.fetch_add(1, Ordering::AcqRel);
    shard.hosted.note_change();
    assert_eq!(pollster::block_on(again).unwrap(), version);
}

/// The shard's room is given back as it was taken, also where a record is longer or shorter than what was sent.
#[test]
fn room_is_given_back_as_it_was_taken() {
    let shard = Shard::opened();
    let free = shard.hosted.room.available_permits();
    let mut number = 0;
    // Lengths at which the entry makes the body longer by a unit, or does not.
    for len in 960..1024 {
        number += 1;
        let value = "x".repeat(len);
        shard.sent(&put(mark(number), "k", &value)).unwrap();
        number += 1;
        let failing = only_if(put(mark(number), "k", &value), "k", Expected::Absent);
        shard.sent(&failing).unwrap_err();
        assert_eq!(shard.hosted.room.available_permits(), free, "{len}");
    }
}

/// Clients whose answers get lost, on a device that loses power at any moment: each write is there once, with the version
/// that each of its answers had.
#[test]
fn rule_17_whatever_is_lost_each_write_is_carried_out_once() {
    for seed in 0..4 {
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut shard = Shard::opened();
        let mut answers: BTreeMap<u64, Version> = BTreeMap::new();
        let mut low_water = 0;
        for number in 1..60 {
            let tries = 1 + random(&mut rng, 3);
            for _ in 0..tries {
                match random(&mut rng, 6) {
                    0 => {
                        // The answer is lost with the power.
                        let request = put(above(number, low_water), &key(number), "1");
                        let mut context = Context::from_waker(Waker::noop());
                        {
                            let mut write = pin!(shard.send(&request));
                            let _ = write.as_mut().poll(&mut context);
                        }
                        shard.on("on(any):crash");
                        shard = shard.lose_power();
                    }
                    _ => {
                        // Any of those that are not settled, in any order.
                        let number = low_water + 1 + random(&mut rng, number - low_water);
                        let request = put(above(number, low_water), &key(number), "1");
                        let version = shard.sent(&request).unwrap();
                        let before = *answers.entry(number).or_insert(version);
                        assert_eq!(before, version, "seed {seed}, number {number}");
                    }
                }
            }
            while answers.contains_key(&(low_water + 1)) && random(&mut rng, 2) == 0 {
                low_water += 1;
            }
        }
        let store = shard.hosted.store().unwrap();
        for (number, version) in answers {
            let found = store.version_of(key(number).as_bytes()).unwrap();
            assert_eq!(found, Some((version, false)), "seed {seed}, {number}");
        }
    }
}

fn key(number: u64) -> String {
    format!("k{number}")
}

fn random(rng: &mut TestRng, below: u64) -> u64 {
    use proptest::prelude::Rng as _;
    rng.next_u64() % below
}

//! The gate, terms, received records, and readers beside them.

use std::time::Duration;

use bytes::Bytes;
use shuttle::future::block_on;
use watershed_wal::Durability::{Buffered, Sync};
use watershed_wal::{
    Epoch, InstanceId, LogError, Record, RecordKind, Seq, SeqRange, ShardId, Term,
};

use crate::sim::{Sim, Timers, check};
use crate::world::{How, TERM, World, find, join_all, options};

fn a_gate_closes(sim: &Sim) {
    let world = World::owner(sim, options());
    let writers = [(Sync, How::Lead), (Buffered, How::Await)];
    let writers = writers
        .into_iter()
        .enumerate()
        .map(|(writer, (durability, how))| {
            world.spawn(move |world| {
                let mut last = Seq::ZERO;
                for i in 0..2 {
                    match world.write(format!("{writer}-{i}"), durability, how) {
                        Ok(seq) => last = seq,
                        Err(LogError::GateClosed) => return (last, true),
                        Err(error) => panic!("{error:?}"),
                    }
                }
                (last, false)
            })
        });
    let writers = writers.collect();
    let end = world.shard.close_gate().unwrap();
    // What was assigned by then becomes durable; nothing is assigned any more.
    world.log.sync().unwrap();
    let marks = world.shard.watermarks();
    assert_eq!(
        (marks.assigned, marks.durable),
        (end, end),
        "assigned behind the gate"
    );
    for (last, refused) in join_all(writers) {
        assert!(last <= end, "{last:?} was acknowledged behind {end:?}");
        assert!(refused || last > Seq::ZERO);
    }
    world.shard.open_gate().unwrap();
    assert_eq!(world.write("after", Sync, How::Lead).unwrap(), end.next());
    world.finish(false);
}

#[test]
fn rule_04_nothing_is_assigned_once_the_gate_is_closed() {
    check(Timers::Never, a_gate_closes);
    check(Timers::AnyTime, a_gate_closes);
}

fn a_term_starts_beside_writers(sim: &Sim) {
    let world = World::owner(sim, options());
    let next = Term::new(Epoch(1), 2);
    let writer = world.spawn(|world| {
        for i in 0..3 {
            world.write(format!("{i}"), Sync, How::Lead).unwrap();
        }
    });
    let submitted = world.shard.start_term(next, Seq::ZERO).unwrap();
    let start = submitted.seq;
    submitted.wait().unwrap();
    let stale = world.shard.start_term(next, Seq::ZERO);
    assert!(
        matches!(stale, Err(LogError::StaleTerm { .. })),
        "{stale:?}"
    );
    writer.join().unwrap();
    let all = SeqRange::new(Seq(1), Seq(5)).unwrap();
    for record in world.shard.read(all) {
        let record = record.unwrap();
        let expected = if record.seq() < start { TERM } else { next };
        assert_eq!(
            record.term(),
            expected,
            "{:?} beside a start at {start:?}",
            record.seq()
        );
    }
    world.finish(false);
}

#[test]
fn rule_01_a_term_starts_between_two_writes() {
    check(Timers::Never, a_term_starts_beside_writers);
    check(Timers::AnyTime, a_term_starts_beside_writers);
}

fn received(seq: u64) -> Record {
    Record::new(
        TERM,
        Seq(seq),
        RecordKind::Batch,
        Bytes::from(format!("received {seq}")),
    )
}

/// Two senders, one record of both, and a reader that follows.
fn received_beside_a_tail(sim: &Sim) {
    let world = World::receiver(sim, options());
    let reader = world.spawn(|world| {
        let mut tail = world.shard.tail(Seq(1));
        let mut seen = 0;
        while seen < 4 {
            for record in block_on(tail.next(1 << 20)).unwrap() {
                seen += 1;
                assert_eq!(
                    record,
                    received(seen),
                    "a tail gives records in order, and once"
                );
                let durable = find(&world.disk.durable(), record.seq());
                assert_eq!(
                    durable.as_ref(),
                    Some(record.body()),
                    "given before it was durable"
                );
            }
        }
    });
    let senders = [&[3, 2][..], &[1, 3, 4]].map(|seqs| {
        world.spawn(move |world| {
            let records = seqs.iter().map(|&seq| received(seq)).collect();
            world.shard.append_at(records).unwrap().done.wait().unwrap();
            for &seq in seqs {
                let durable = find_all(world, seq);
                assert_eq!(
                    durable.as_ref(),
                    Some(received(seq).body()),
                    "{seq} is not durable"
                );
            }
        })
    });
    join_all(senders.into());
    reader.join().unwrap();
    assert_eq!(world.shard.watermarks().durable, Seq(4));
    world.log.close().unwrap();
}

/// Two senders with different bodies for one record: one of them is told, whoever comes first.
fn two_bodies_for_one_record(sim: &Sim) {
    let world = World::receiver(sim, options());
    let senders = ["one", "other"].map(|body| {
        world.spawn(move |world| {
            let record = Record::new(TERM, Seq(1), RecordKind::Batch, Bytes::from(body));
            match world.shard.append_at(vec![record]) {
                Ok(submitted) => {
                    submitted.done.wait().unwrap();
                    assert_eq!(find_all(world, 1), Some(Bytes::from(body)));
                    1
                }
                Err(LogError::Conflict { .. }) => 0,
                Err(error) => panic!("{error:?}"),
            }
        })
    });
    let taken: i32 = join_all(senders.into()).into_iter().sum();
    assert_eq!(taken, 1, "two bodies for one Seq");
    world.log.close().unwrap();
}

#[test]
fn two_bodies_for_one_record_are_a_conflict_whoever_comes_first() {
    check(Timers::Never, two_bodies_for_one_record);
    check(Timers::AnyTime, two_bodies_for_one_record);
}

/// Out of order, too: a hole before it does not hide it.
fn find_all(world: &World, seq: u64) -> Option<Bytes> {
    find(&world.disk.durable(), Seq(seq))
}

#[test]
fn received_records_reach_a_tail_in_order_once_they_are_durable() {
    check(Timers::Never, received_beside_a_tail);
    check(Timers::AnyTime, received_beside_a_tail);
}

fn a_tail_behind_an_owner(sim: &Sim) {
    let world = World::owner(sim, options());
    let reader = world.spawn(|world| {
        let mut tail = world.shard.tail(Seq(2));
        let mut next = 2;
        while next < 5 {
            let forever = Duration::from_secs(1 << 30);
            for record in tail
                .next_timeout(64, forever)
                .unwrap()
                .into_iter()
                .flatten()
            {
                assert_eq!(record.seq(), Seq(next));
                world.expect(Seq(next), record.body(), Sync);
                next += 1;
            }
        }
    });
    let writer = world.spawn(|world| world.write("beside", Sync, How::Await).unwrap());
    world.write("first", Buffered, How::Lead).unwrap();
    world.write("second", Sync, How::Lead).unwrap();
    writer.join().unwrap();
    world.log.sync().unwrap();
    reader.join().unwrap();
    world.finish(false);
}

#[test]
fn rule_02_a_tail_never_gives_what_is_not_durable() {
    check(Timers::Never, a_tail_behind_an_owner);
    check(Timers::AnyTime, a_tail_behind_an_owner);
}

/// A second instance comes and goes beside the first one's writers; who waits on it is told.
fn an_instance_is_forgotten(sim: &Sim) {
    let world = World::owner(sim, options());
    let writer = world.spawn(|world| world.write("beside", Sync, How::Lead).unwrap());
    let id = InstanceId(8);
    let other = world
        .log
        .host(ShardId(2), id, Seq::ZERO, Vec::new())
        .unwrap();
    let follower = world.spawn({
        let other = other.clone();
        move |_| {
            let past = block_on(other.durable_past(Seq(1 << 40)));
            assert!(matches!(past, Err(LogError::Closed)), "{past:?}");
        }
    });
    other
        .append_at(vec![received(1)])
        .unwrap()
        .done
        .wait()
        .unwrap();
    world.log.forget(id).unwrap();
    follower.join().unwrap();
    writer.join().unwrap();
    assert!(world.log.instance(id).is_none());
    world.finish(false);
}

#[test]
fn who_waits_on_a_forgotten_instance_is_told() {
    check(Timers::Never, an_instance_is_forgotten);
    check(Timers::AnyTime, an_instance_is_forgotten);
}

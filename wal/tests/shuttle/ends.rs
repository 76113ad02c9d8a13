//! Closing, failing devices, sinks that panic, segments that roll, and logs that are full, beside writers.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::Durability::{self, Buffered, Sync};
use watershed_wal::{HoldBudget, LogError, LogOptions, Seq, checked, verify};

use crate::disk::Op;
use crate::sim::{Sim, Timers, check};
use crate::world::{How, Taker, World, join_all, options};

/// Bodies of which three fill a segment.
fn large(name: &str) -> Bytes {
    let mut body = name.as_bytes().to_vec();
    body.resize(9 << 10, b'.');
    body.into()
}

/// Threads that write until they are done, or the log fails as `may_fail` says.
fn write_until(
    world: &World,
    hows: &[(Durability, How)],
    may_fail: fn(&LogError) -> bool,
) -> Vec<shuttle::thread::JoinHandle<usize>> {
    let writers = hows.iter().enumerate().map(|(writer, &(durability, how))| {
        world.spawn(move |world| {
            for i in 0..2 {
                match world.write(format!("{writer}-{i}"), durability, how) {
                    Ok(_) => {}
                    Err(error) if may_fail(&error) => return i,
                    Err(error) => panic!("{error:?}"),
                }
            }
            2
        })
    });
    writers.collect()
}

fn is_closed(error: &LogError) -> bool {
    matches!(error, LogError::Closed)
}

fn is_poisoned(error: &LogError) -> bool {
    // Closed: the completer went with the sink that panicked.
    matches!(error, LogError::Poisoned { .. } | LogError::Closed)
}

fn closing_beside_writers(sim: &Sim) {
    let world = World::owner(sim, options());
    let hows = [
        (Sync, How::Lead),
        (Buffered, How::Await),
        (Sync, How::DropLead),
    ];
    let writers = write_until(&world, &hows, is_closed);
    let follower = world.spawn(|world| {
        let past = shuttle::future::block_on(world.shard.durable_past(Seq(1 << 40)));
        assert!(matches!(past, Err(LogError::Closed)), "{past:?}");
    });
    world.finish(false);
    join_all(writers);
    follower.join().unwrap();
    let late = world.write("late", Sync, How::Lead);
    assert!(matches!(late, Err(LogError::Closed)), "{late:?}");
    world.finish(false);
}

#[test]
fn closing_ends_every_wait() {
    check(Timers::Never, closing_beside_writers);
    check(Timers::AnyTime, closing_beside_writers);
}

fn two_close_at_once(sim: &Sim) {
    let world = World::owner(sim, options());
    Taker::set(&world, None);
    let writers = write_until(&world, &[(Buffered, How::Lead)], is_closed);
    let other = world.spawn(|world| world.log.close().unwrap());
    world.log.close().unwrap();
    other.join().unwrap();
    join_all(writers);
    world.finish(false);
}

#[test]
fn two_may_close_at_once() {
    check(Timers::Never, two_close_at_once);
    check(Timers::AnyTime, two_close_at_once);
}

fn a_failing_device(op: Op, successes: u64) -> impl Fn(&Sim) + Send + std::marker::Sync {
    move |sim| {
        let world = World::owner(sim, options());
        let taker = Taker::set(&world, None);
        world.disk.fail(op, successes, ErrorKind::Other);
        let follower = world.spawn(|world| {
            let past = shuttle::future::block_on(world.shard.durable_past(Seq(1 << 40)));
            assert!(matches!(past, Err(LogError::Poisoned { .. })), "{past:?}");
        });
        let hows = [
            (Sync, How::Lead),
            (Sync, How::Await),
            (Buffered, How::DropLead),
        ];
        let writers = write_until(&world, &hows, is_poisoned);
        let written: usize = join_all(writers).into_iter().sum();
        assert!(written < 6, "nothing failed");
        follower.join().unwrap();
        let late = world.write("late", Sync, How::Lead);
        assert!(matches!(late, Err(LogError::Poisoned { .. })), "{late:?}");
        let barrier = world.log.sync();
        assert!(
            matches!(barrier, Err(LogError::Poisoned { .. })),
            "{barrier:?}"
        );
        world.finish(true);
        assert!(
            taker.failures.load(Ordering::SeqCst) >= 1,
            "the sink was not told"
        );
    }
}

#[test]
fn a_failed_sync_reaches_everybody() {
    check(Timers::Never, a_failing_device(Op::Sync, 0));
    check(Timers::AnyTime, a_failing_device(Op::Sync, 0));
}

#[test]
fn a_failed_sync_reaches_everybody_behind_one_that_did_not() {
    check(Timers::Never, a_failing_device(Op::Sync, 1));
    check(Timers::AnyTime, a_failing_device(Op::Sync, 1));
}

#[test]
fn a_failed_write_reaches_everybody() {
    check(Timers::Never, a_failing_device(Op::Write, 0));
    check(Timers::AnyTime, a_failing_device(Op::Write, 1));
}

fn a_sink_panics(sim: &Sim) {
    let world = World::owner(sim, options());
    let taker = Taker::set(&world, Some(Seq(3)));
    let hows = [
        (Sync, How::Lead),
        (Sync, How::Await),
        (Buffered, How::Block),
    ];
    let writers = write_until(&world, &hows, is_poisoned);
    join_all(writers);
    assert_eq!(taker.taken(), 3);
    let behind = taker.given_behind_panic.load(Ordering::SeqCst);
    assert_eq!(behind, 0, "given records behind those that its panic lost");
    let late = world.write("late", Sync, How::Lead);
    assert!(matches!(late, Err(LogError::Poisoned { .. })), "{late:?}");
    world.finish(true);
}

#[test]
fn a_sink_that_panics_poisons_the_log_and_nobody_waits_on() {
    check(Timers::Never, a_sink_panics);
    check(Timers::AnyTime, a_sink_panics);
}

fn segments_roll(sim: &Sim) {
    let world = World::owner(sim, options());
    let writers = [(Sync, How::Lead), (Buffered, How::Block)];
    let writers = writers
        .into_iter()
        .enumerate()
        .map(|(writer, (durability, how))| {
            world.spawn(move |world| {
                for i in 0..3 {
                    world
                        .write(large(&format!("{writer}-{i}")), durability, how)
                        .unwrap();
                }
            })
        });
    let writers = writers.collect();
    join_all(writers);
    assert!(world.log.status().segments >= 2);
    world.finish(false);
}

#[test]
fn the_keeper_makes_segments_ahead_of_writers() {
    check(Timers::Never, segments_roll);
    check(Timers::AnyTime, segments_roll);
}

fn a_spare_fails(sim: &Sim) {
    let world = World::owner(sim, options());
    world.disk.fail(Op::Create, 1, ErrorKind::Other);
    let writers = (0..2).map(|writer| {
        world.spawn(move |world| {
            for i in 0.. {
                match world.write(large(&format!("{writer}-{i}")), Sync, How::Lead) {
                    Ok(_) => {}
                    Err(error) if is_poisoned(&error) => return,
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    let writers = writers.collect();
    join_all(writers);
    world.finish(true);
}

#[test]
fn a_segment_that_cannot_be_made_reaches_everybody() {
    check(Timers::Never, a_spare_fails);
    check(Timers::AnyTime, a_spare_fails);
}

/// The least log: three segments.
fn least() -> LogOptions {
    LogOptions {
        limit_bytes: 3 * (32 << 10),
        ..options()
    }
}

/// A log at its limit: its writer flushes what is durable once it is refused, another thread a little before.
fn a_full_log_is_truncated(sim: &Sim) {
    let world = World::owner(sim, least());
    let flusher = world.spawn(|world| {
        let mark = shuttle::future::block_on(world.shard.durable_past(Seq(2))).unwrap();
        world.shard.set_flushed(mark);
    });
    // Whenever the power goes, no segment is missing that the log still counts on.
    let observer = world.spawn(|world| {
        for _ in 0..20 {
            verify(world.disk.durable()).unwrap();
            shuttle::thread::yield_now();
        }
    });
    let (mut written, mut refused) = (0, 0);
    while written < 14 {
        match world.write(large(&format!("{written}")), Sync, How::Lead) {
            Ok(_) => written += 1,
            Err(LogError::Full { .. }) => {
                refused += 1;
                let durable = world.shard.watermarks().durable;
                world.shard.set_flushed(durable);
                shuttle::thread::yield_now();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 0, "it was never full");
    flusher.join().unwrap();
    observer.join().unwrap();
    world.finish(false);
}

#[test]
fn writes_go_on_once_a_full_log_was_truncated() {
    check(Timers::Never, a_full_log_is_truncated);
    check(Timers::AnyTime, a_full_log_is_truncated);
}

/// A device that is full until another thread makes room.
fn a_full_device(sim: &Sim) {
    let world = World::owner(sim, options());
    world.disk.set_capacity(Some(2 * (32 << 10)));
    let room = world.spawn(|world| {
        while !world.log.status().full {
            if world.shard.watermarks().assigned >= Seq(9) {
                break;
            }
            shuttle::thread::yield_now();
        }
        world.disk.set_capacity(None);
    });
    let mut written = 0;
    while written < 8 {
        match world.write(large(&format!("{written}")), Sync, How::Lead) {
            Ok(_) => written += 1,
            Err(LogError::Full { .. }) => {
                // Time passes.
                let _keeper_waits = checked::fire(0);
                shuttle::thread::yield_now();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    room.join().unwrap();
    world.finish(false);
}

#[test]
fn writes_go_on_once_a_full_device_has_room() {
    // The keeper tries again by its timeout.
    check(Timers::AnyTime, a_full_device);
}

/// Holds come and go beside writers and flushes; the log's room is given back once the last has gone.
fn holds_beside_writers(sim: &Sim) {
    let world = World::owner(sim, least());
    let budget = HoldBudget {
        bytes: 1 << 30,
        time: Duration::from_secs(1 << 30),
    };
    let holder = world.spawn(move |world| match world.shard.hold("one", Seq(1), budget) {
        Ok(()) => world.shard.release_hold("one").unwrap(),
        Err(LogError::Gap { .. } | LogError::Full { .. }) => {}
        Err(error) => panic!("{error:?}"),
    });
    let mut written = 0;
    while written < 7 {
        match world.write(large(&format!("{written}")), Sync, How::Block) {
            Ok(seq) => {
                world.shard.set_flushed(seq);
                written += 1;
            }
            Err(LogError::Full { .. }) => shuttle::thread::yield_now(),
            Err(error) => panic!("{error:?}"),
        }
    }
    holder.join().unwrap();
    world.finish(false);
}

#[test]
fn a_hold_that_ends_gives_room_back() {
    check(Timers::Never, holds_beside_writers);
    check(Timers::AnyTime, holds_beside_writers);
}

//! Who commits, and in what order writers and sinks are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::Durability::{Buffered, Sync};
use watershed_wal::{CommitSink, Committed, Inline, InstanceLog, LogError, RecordKind, Seq};

use crate::sim::{Sim, Timers, check, check_some};
use crate::world::{How, Taker, World, join_all, options};

/// Threads that write by turns as given, each write acknowledged before the thread's next.
fn write_beside(world: &World, hows: &[&[(watershed_wal::Durability, How)]]) {
    let writers = hows.iter().enumerate().map(|(writer, hows)| {
        let hows = hows.to_vec();
        world.spawn(move |world| {
            for (i, (durability, how)) in hows.into_iter().enumerate() {
                world
                    .write(format!("{writer}-{i}"), durability, how)
                    .unwrap();
            }
        })
    });
    let writers = writers.collect();
    join_all(writers);
}

fn two_blocking_writers_with_leads(sim: &Sim) {
    let world = World::owner(sim, options());
    write_beside(&world, &[&[(Sync, How::Lead); 2], &[(Sync, How::Lead); 2]]);
    assert_eq!(world.shard.watermarks().durable, Seq(5));
    world.finish(false);
}

#[test]
fn two_blocking_writers_need_no_timeout() {
    check(Timers::Never, two_blocking_writers_with_leads);
}

#[test]
fn two_blocking_writers_beside_timeouts() {
    check(Timers::AnyTime, two_blocking_writers_with_leads);
}

fn many_blocked_writers(sim: &Sim) {
    let world = World::owner(sim, options());
    let one: &[_] = &[(Sync, How::Block)];
    write_beside(&world, &[one; 6]);
    world.finish(false);
}

#[test]
fn blocked_writers_of_one_frame_wake_each_other_and_none_is_left() {
    check(Timers::Never, many_blocked_writers);
    check(Timers::AnyTime, many_blocked_writers);
}

fn writers_before_a_sink(sim: &Sim) {
    let world = World::owner(sim, options());
    let taker = Taker::set(&world, None);
    write_beside(
        &world,
        &[
            &[(Sync, How::Lead), (Buffered, How::Lead)],
            &[(Buffered, How::Lead), (Sync, How::Await)],
            &[(Sync, How::Block)],
        ],
    );
    assert_eq!(taker.taken(), 6, "the sink got every record");
    world.finish(false);
}

#[test]
fn a_sink_gets_records_in_order_and_once_from_one_thread_at_a_time() {
    check(Timers::Never, writers_before_a_sink);
    check(Timers::AnyTime, writers_before_a_sink);
}

fn direct_appends(sim: &Sim) {
    let world = World::owner(sim, options());
    write_beside(
        &world,
        &[
            &[(Buffered, How::Direct); 2],
            &[(Sync, How::Lead), (Buffered, How::Direct)],
            &[(Buffered, How::Await)],
        ],
    );
    let last = world.shard.watermarks().assigned;
    // Nobody but the background sync makes the last of them durable.
    loop {
        let past = world.shard.watermarks().durable;
        if past == last {
            break;
        }
        shuttle::future::block_on(world.shard.durable_past(past)).unwrap();
    }
    world.finish(false);
}

#[test]
fn direct_appends_keep_their_order_and_are_synced_in_a_while() {
    check(Timers::WhenIdle, direct_appends);
    check(Timers::AnyTime, direct_appends);
}

fn a_lead_is_dropped(sim: &Sim) {
    let world = World::owner(sim, options());
    write_beside(
        &world,
        &[
            &[(Sync, How::DropLead), (Buffered, How::DropLead)],
            &[(Sync, How::Lead)],
        ],
    );
    world.finish(false);
}

#[test]
fn a_dropped_lead_is_taken_up_without_a_timeout() {
    check(Timers::Never, a_lead_is_dropped);
    check(Timers::AnyTime, a_lead_is_dropped);
}

fn a_lead_is_leaked(sim: &Sim) {
    let world = World::owner(sim, options());
    write_beside(
        &world,
        &[&[(Sync, How::LeakLead), (Buffered, How::LeakLead)]],
    );
    world.finish(false);
}

#[test]
fn a_leaked_lead_is_taken_up_after_the_timeout() {
    check(Timers::WhenIdleAfterALeak, a_lead_is_leaked);
    check(Timers::AnyTime, a_lead_is_leaked);
}

#[test]
fn a_leaked_lead_is_taken_up_by_the_next_write() {
    check(Timers::Never, |sim| {
        let world = World::owner(sim, options());
        let leaked = world
            .submit(&Bytes::from("leaked"), Sync, How::LeakLead)
            .unwrap();
        world.write("next", Sync, How::Lead).unwrap();
        world.settle(leaked).unwrap();
        world.finish(false);
    });
}

fn tasks_and_the_log_thread(sim: &Sim) {
    let world = World::owner(sim, options());
    let barrier = world.spawn(|world| world.log.sync().unwrap());
    write_beside(
        &world,
        &[
            &[(Sync, How::Await), (Buffered, How::Await)],
            &[(Sync, How::Await)],
        ],
    );
    barrier.join().unwrap();
    world.finish(false);
}

#[test]
fn tasks_are_woken_by_the_log_thread() {
    check(Timers::Never, tasks_and_the_log_thread);
    check(Timers::AnyTime, tasks_and_the_log_thread);
}

fn buffered_beside_synced(sim: &Sim) {
    let world = World::owner(sim, options());
    let follower = world.spawn(|world| {
        let mark = shuttle::future::block_on(world.shard.durable_past(Seq(3))).unwrap();
        assert!(mark >= Seq(4));
        for seq in 2..=4 {
            let body = world
                .shard
                .read_batch(watershed_wal::SeqRange::single(Seq(seq)), 1 << 20);
            world.expect(Seq(seq), body.unwrap()[0].body(), Sync);
        }
    });
    write_beside(
        &world,
        &[
            &[(Buffered, How::Lead), (Buffered, How::Await)],
            &[(Buffered, How::Lead)],
        ],
    );
    follower.join().unwrap();
    world.finish(false);
}

#[test]
fn the_background_sync_tells_who_waits_for_the_durable_mark() {
    check(Timers::WhenIdle, buffered_beside_synced);
    check(Timers::AnyTime, buffered_beside_synced);
}

#[test]
fn a_barrier_tells_who_waits_for_the_durable_mark() {
    check(Timers::Never, |sim| {
        let world = World::owner(sim, options());
        let follower = world.spawn(|world| {
            let past = world.shard.durable_past(Seq(2));
            let forever = Duration::from_secs(1 << 30);
            assert!(past.wait_timeout(forever).unwrap() >= Some(Seq(3)));
        });
        write_beside(
            &world,
            &[&[(Buffered, How::Lead)], &[(Buffered, How::Block)]],
        );
        world.log.sync().unwrap();
        assert_eq!(world.shard.watermarks().durable, Seq(3));
        follower.join().unwrap();
        world.finish(false);
    });
}

/// A lead whose frame is written goes on with what others buffered meanwhile, and leaves the rest to the log thread.
fn a_lead_goes_on_with_others(sim: &Sim) {
    let world = World::owner(sim, options());
    write_beside(
        &world,
        &[
            &[(Buffered, How::Lead); 3],
            &[(Buffered, How::Block); 3],
            &[(Sync, How::Block)],
        ],
    );
    world.finish(false);
}

#[test]
fn what_a_lead_leaves_is_the_log_threads() {
    check(Timers::Never, a_lead_goes_on_with_others);
    check(Timers::AnyTime, a_lead_goes_on_with_others);
}

/// Submits one more buffered write with each that it gets, and counts those that the lead's thread brings.
struct Chain {
    shard: InstanceLog,
    left: AtomicUsize,
    by_lead: AtomicUsize,
}

impl CommitSink for Chain {
    fn committed(&self, batch: Vec<Committed>, inline: bool) {
        self.by_lead
            .fetch_add(usize::from(inline), Ordering::SeqCst);
        for one in batch {
            one.done.complete(Ok(()));
        }
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
            let next = Bytes::from(format!("{left} left"));
            let submitted = self
                .shard
                .submit(RecordKind::Batch, next, Buffered, Inline::Never);
            drop(submitted.unwrap());
        }
    }

    fn failed(&self, _error: &LogError) {}
}

/// Frames that a lead writes: its own, and up to eight of others.
const MOST_BY_LEAD: usize = 1 + 8;

/// Others write without an end: the lead goes on with theirs for a while, and leaves the rest to the log thread.
#[test]
fn a_lead_goes_on_with_others_buffered_writes_and_not_for_ever() {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let scenario = move |sim: &Sim| {
        let world = World::owner(sim, options());
        let chain = Arc::new(Chain {
            shard: world.shard.clone(),
            left: AtomicUsize::new(2 * MOST_BY_LEAD),
            by_lead: AtomicUsize::new(0),
        });
        world
            .shard
            .set_sink(Some(Arc::clone(&chain) as Arc<dyn CommitSink>));
        world.write("first", Buffered, How::Lead).unwrap();
        let by_lead = chain.by_lead.load(Ordering::SeqCst);
        assert!(by_lead <= MOST_BY_LEAD, "the lead wrote {by_lead} frames");
        seen.fetch_max(by_lead, Ordering::SeqCst);
        let end = Seq(2 + 2 * MOST_BY_LEAD as u64);
        while world.shard.watermarks().durable < end {
            world.log.sync().unwrap();
        }
        assert_eq!(world.shard.watermarks().assigned, end);
        world.log.close().unwrap();
    };
    // Enough schedules, whatever the environment says, for one in which the log thread sleeps throughout.
    check_some(Timers::Never, 600, scenario);
    assert_eq!(most.load(Ordering::SeqCst), MOST_BY_LEAD);
}

/// With a slow device frames close late: the log thread gathers the writers of the frame before.
fn a_slow_device(sim: &Sim) {
    let world = World::owner(sim, options());
    world.disk.syncs_take(Duration::from_millis(8));
    write_beside(
        &world,
        &[&[(Sync, How::Await); 3], &[(Sync, How::Block); 3]],
    );
    world.finish(false);
}

#[test]
fn a_frame_that_closes_late_closes_once_its_writers_are_in() {
    check(Timers::WhenIdle, a_slow_device);
    check(Timers::AnyTime, a_slow_device);
}

fn completions_in_order(sim: &Sim) {
    let world = World::owner(sim, options());
    let other = world.spawn(|world| world.write("beside", Sync, How::Lead).unwrap());
    let submit = |i: usize| {
        let durability = if i == 1 { Sync } else { Buffered };
        let body = Bytes::from(format!("{i}"));
        world
            .shard
            .submit(RecordKind::Batch, body, durability, Inline::Never)
            .unwrap()
    };
    let mut under_way: Vec<_> = (0..3).map(submit).collect();
    let last = under_way.pop().unwrap();
    last.done.wait().unwrap();
    for earlier in under_way {
        assert!(
            earlier.done.is_done(),
            "{:?} was told before {:?}",
            last.seq,
            earlier.seq
        );
    }
    other.join().unwrap();
    world.log.close().unwrap();
}

#[test]
fn completions_of_an_instance_fire_in_order() {
    check(Timers::Never, completions_in_order);
    check(Timers::AnyTime, completions_in_order);
}

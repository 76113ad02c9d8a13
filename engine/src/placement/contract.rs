//! What every placement must do, run against each by [`contract_tests`].

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::{Epoch, InstanceId, ShardId};

use super::{ClusterInfo, Member, NodeInfo, Placement, PlacementError};

/// A placement under test.
pub(crate) trait Site {
    /// A handle of it, as one node has it.
    fn placement(&self) -> Arc<dyn Placement>;
}

/// Longer than any test runs.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// Makes a test of each part of the contract, against a fresh [`Site`] that `$site` makes.
macro_rules! contract_tests {
    ($site:expr; $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                $crate::placement::contract::$name(&$site);
            }
        )*
    };
    ($site:expr) => {
        $crate::placement::contract::contract_tests! {
            $site;
            who_makes_the_cluster_first_decides,
            what_one_node_swaps_all_read,
            a_swap_that_expects_another_revision_changes_nothing,
            a_removed_shard_comes_back_higher,
            of_swaps_at_once_each_revision_has_one_winner,
            a_dropped_swap_happens_whole_or_not_at_all,
            a_change_is_told_to_every_node,
            members_are_what_they_said_last,
            a_member_that_stops_is_dead_and_may_come_back,
            a_member_that_is_not_heard_of_dies,
        }
    };
}
pub(crate) use contract_tests;

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    pollster::block_on(future)
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn created(shard: u64) -> PlacementRecord {
    PlacementRecord::create(ShardId(shard), node("a"), InstanceId(7))
}

/// The next record of a shard, told apart from others by its instance.
pub(crate) fn next(record: &PlacementRecord, instance: u128) -> PlacementRecord {
    let mut record = record.clone();
    record.revision = Revision(record.revision.0 + 1);
    record.epoch = Epoch(record.epoch.0 + 1);
    record.instance = InstanceId(instance);
    record
}

pub(crate) fn at(address: &str) -> NodeInfo {
    NodeInfo {
        address: address.into(),
        weight: 1,
    }
}

pub(crate) fn member(placement: &dyn Placement, name: &str) -> Option<Member> {
    wait(placement.members()).unwrap().remove(&node(name))
}

/// Waits until the placement says so, looking again after each change that it tells of and at no other time.
pub(crate) fn told_until<T>(
    placement: &dyn Placement,
    look: impl Fn(&dyn Placement) -> Option<T>,
) -> T {
    let mut changes = placement.watch();
    loop {
        changes.borrow_and_update();
        if let Some(found) = look(placement) {
            return found;
        }
        wait(changes.changed()).unwrap();
    }
}

fn read(placement: &dyn Placement, shard: u64) -> Option<PlacementRecord> {
    wait(placement.read(ShardId(shard))).unwrap()
}

/// The record that a conflict names.
fn conflict<T: std::fmt::Debug>(swapped: Result<T, PlacementError>) -> Option<PlacementRecord> {
    match swapped {
        Err(PlacementError::Conflict { current, .. }) => current.map(|current| *current),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn who_makes_the_cluster_first_decides(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    assert_eq!(wait(a.cluster()).unwrap(), None);
    let four = ClusterInfo { shards: 4 };
    assert_eq!(wait(a.create_cluster(four)).unwrap(), four);
    let late = wait(b.create_cluster(ClusterInfo { shards: 9 })).unwrap();
    assert_eq!((late, wait(b.cluster()).unwrap()), (four, Some(four)));
}

pub(crate) fn what_one_node_swaps_all_read(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    assert_eq!(read(&*b, 2), None);
    // More than fit into one message, and in another order than that of their text.
    let shards: Vec<u64> = (0..200).chain([u64::MAX]).collect();
    for shard in shards.iter().rev() {
        wait(a.swap(None, created(*shard))).unwrap();
    }
    let second = wait(a.swap(Some(Revision(1)), next(&created(11), 9))).unwrap();
    let listed = wait(b.list()).unwrap();
    let order: Vec<u64> = listed.iter().map(|record| record.shard.0).collect();
    assert_eq!(order, shards, "by shard");
    assert_eq!(
        (&listed[11], read(&*b, 11)),
        (&second, Some(second.clone()))
    );
    assert_eq!(listed[10], created(10));
}

pub(crate) fn a_swap_that_expects_another_revision_changes_nothing(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    assert_eq!(conflict(wait(a.swap(Some(Revision(1)), created(1)))), None);
    let first = wait(a.swap(None, created(1))).unwrap();
    let second = wait(b.swap(Some(first.revision), next(&first, 2))).unwrap();
    let wrong = [
        None,
        Some(first.revision),
        Some(Revision(second.revision.0 + 1)),
    ];
    for expected in wrong {
        let swapped = wait(a.swap(expected, next(&second, 66)));
        assert_eq!(conflict(swapped).as_ref(), Some(&second), "{expected:?}");
    }
    let stale = wait(a.swap(Some(second.revision), second.clone()));
    assert!(
        matches!(stale, Err(PlacementError::Revision { shard: ShardId(1), expected, offered })
            if expected == second.revision && offered == second.revision),
        "{stale:?}"
    );
    assert_eq!(wait(b.list()).unwrap(), [second]);
}

pub(crate) fn a_removed_shard_comes_back_higher(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    assert_eq!(conflict(wait(a.remove(ShardId(1), Revision(1)))), None);
    let mut before = wait(a.swap(None, created(1))).unwrap();
    for _ in 0..3 {
        before = wait(b.swap(Some(before.revision), next(&before, 3))).unwrap();
        let missed = wait(a.remove(ShardId(1), Revision(before.revision.0 - 1)));
        assert_eq!(conflict(missed).as_ref(), Some(&before));
        wait(a.remove(ShardId(1), before.revision)).unwrap();
        assert_eq!((read(&*b, 1), wait(b.list()).unwrap()), (None, vec![]));
        assert_eq!(conflict(wait(a.remove(ShardId(1), before.revision))), None);
        let late = wait(b.swap(Some(before.revision), next(&before, 4)));
        assert_eq!(conflict(late), None);
        let again = wait(b.swap(None, created(1))).unwrap();
        assert!(again.revision > before.revision && again.epoch > before.epoch);
        assert_eq!(read(&*a, 1).as_ref(), Some(&again));
        let late = wait(a.swap(Some(before.revision), next(&before, 5)));
        assert_eq!(conflict(late).as_ref(), Some(&again));
        before = again;
    }
}

pub(crate) fn of_swaps_at_once_each_revision_has_one_winner(site: &impl Site) {
    const THREADS: u128 = 6;
    const WINS_EACH: u64 = 25;
    let first = wait(site.placement().swap(None, created(1))).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let placement = site.placement();
            scope.spawn(move || {
                let mut won = 0;
                let mut seen = read(&*placement, 1).unwrap();
                while won < WINS_EACH {
                    match wait(placement.swap(Some(seen.revision), next(&seen, thread))) {
                        Ok(record) => {
                            assert_eq!(record.instance, InstanceId(thread));
                            seen = record;
                            won += 1;
                        }
                        Err(PlacementError::Conflict { current, .. }) => seen = *current.unwrap(),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let last = read(&*site.placement(), 1).unwrap();
    let swaps = u64::try_from(THREADS).unwrap() * WINS_EACH;
    assert_eq!(last.revision.0 - first.revision.0, swaps);
}

pub(crate) fn a_dropped_swap_happens_whole_or_not_at_all(site: &impl Site) {
    let placement = site.placement();
    let mut last = wait(placement.swap(None, created(1))).unwrap();
    for round in 0..40 {
        let wanted = next(&last, 100 + round);
        let mut swap = placement.swap(Some(last.revision), wanted.clone());
        let polled = swap.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(swap);
        if let Poll::Ready(swapped) = polled {
            assert_eq!(swapped.unwrap(), wanted);
        }
        // It may still be on its way: a swap of ours then meets it, before or after.
        let now = read(&*placement, 1).unwrap();
        assert!(now == last || now == wanted, "{now:?}");
        last = match wait(placement.swap(Some(now.revision), next(&now, 7))) {
            Ok(record) => record,
            Err(PlacementError::Conflict { current, .. }) => *current.unwrap(),
            Err(error) => panic!("{error}"),
        };
    }
}

pub(crate) fn a_change_is_told_to_every_node(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    let until = |placement: &Arc<dyn Placement>, wanted: Option<PlacementRecord>| {
        told_until(&**placement, |p| (read(p, 1) == wanted).then_some(()));
    };
    std::thread::scope(|scope| {
        let mut record = wait(a.swap(None, created(1))).unwrap();
        for round in 0..10 {
            let waiting = next(&record, 50 + round);
            let wanted = Some(waiting.clone());
            let b = &b;
            let waiter = scope.spawn(move || until(b, wanted));
            record = wait(a.swap(Some(record.revision), waiting)).unwrap();
            waiter.join().unwrap();
        }
        let waiter = scope.spawn(|| until(&b, None));
        wait(a.remove(ShardId(1), record.revision)).unwrap();
        waiter.join().unwrap();
    });
}

pub(crate) fn members_are_what_they_said_last(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    assert!(wait(a.members()).unwrap().is_empty());
    let unknown = wait(a.set_goal(node("b"), Some(Goal::Drain)));
    assert!(
        matches!(&unknown, Err(PlacementError::NoMember { node: named }) if *named == node("b")),
        "{unknown:?}"
    );
    wait(a.remove_member(node("b"))).unwrap();
    wait(a.announce(node("a"), at("127.0.0.1:1"), LONG)).unwrap();
    wait(b.announce(node("b"), at("127.0.0.1:2"), LONG)).unwrap();
    let names: Vec<_> = wait(a.members()).unwrap().into_keys().collect();
    assert_eq!(names, [node("a"), node("b")]);
    let expected = Member {
        info: at("127.0.0.1:2"),
        goal: None,
        alive: true,
    };
    assert_eq!(member(&*a, "b"), Some(expected.clone()));

    wait(a.set_goal(node("b"), Some(Goal::Drain))).unwrap();
    let moved = NodeInfo {
        weight: 3,
        ..at("127.0.0.1:22")
    };
    wait(b.announce(node("b"), moved.clone(), LONG)).unwrap();
    let expected = Member {
        info: moved.clone(),
        goal: Some(Goal::Drain),
        ..expected
    };
    assert_eq!(
        member(&*a, "b"),
        Some(expected.clone()),
        "the mark outlives an announcement"
    );
    wait(a.set_goal(node("b"), None)).unwrap();
    wait(a.set_goal(node("b"), None)).unwrap();
    let expected = Member {
        goal: None,
        ..expected
    };
    assert_eq!(member(&*a, "b"), Some(expected));

    wait(a.remove_member(node("b"))).unwrap();
    assert_eq!(member(&*b, "b"), None);
    wait(a.remove_member(node("b"))).unwrap();
    let again = wait(a.set_goal(node("b"), Some(Goal::Drain)));
    assert!(matches!(again, Err(PlacementError::NoMember { .. })));
    wait(b.announce(node("b"), moved, LONG)).unwrap();
    let back = told_until(&*a, |p| member(p, "b"));
    assert!(back.alive && back.goal.is_none());
}

pub(crate) fn a_member_that_stops_is_dead_and_may_come_back(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    let info = || at("127.0.0.1:2");
    wait(b.announce(node("b"), info(), LONG)).unwrap();
    for _ in 0..3 {
        wait(b.announce(node("b"), info(), Duration::ZERO)).unwrap();
        let seen = told_until(&*a, |p| member(p, "b").filter(|b| !b.alive));
        assert_eq!(seen.info, info(), "it stays a member");
        wait(b.announce(node("b"), info(), LONG)).unwrap();
        told_until(&*a, |p| member(p, "b").filter(|b| b.alive));
    }
    // One that joins and stops with the same words.
    wait(a.announce(node("c"), info(), Duration::ZERO)).unwrap();
    assert!(!member(&*b, "c").unwrap().alive);
}

pub(crate) fn a_member_that_is_not_heard_of_dies(site: &impl Site) {
    let (a, b) = (site.placement(), site.placement());
    let short = Duration::from_millis(200);
    wait(a.announce(node("a"), at("127.0.0.1:1"), LONG)).unwrap();
    for _ in 0..2 {
        wait(b.announce(node("b"), at("127.0.0.1:2"), short)).unwrap();
        told_until(&*a, |p| member(p, "b").filter(|b| !b.alive));
        assert!(member(&*b, "a").unwrap().alive, "another lives on");
    }
    wait(b.announce(node("b"), at("127.0.0.1:2"), LONG)).unwrap();
    assert!(member(&*a, "b").unwrap().alive);
}

/// That renewing tells nobody anything; for placements that count each change, of which joining is so many.
pub(crate) fn a_renewal_is_no_change(site: &impl Site, joining: u64) {
    let (a, b) = (site.placement(), site.placement());
    wait(b.announce(node("b"), at("127.0.0.1:2"), LONG)).unwrap();
    let first = wait(b.swap(None, created(1))).unwrap();
    // Changes come in order: when the record is told, so is what was before.
    let until = |wanted: u64| {
        let mut changes = a.watch();
        while *changes.borrow_and_update() < wanted {
            wait(changes.changed()).unwrap();
        }
    };
    let before = joining + 1;
    until(before);
    for _ in 0..20 {
        wait(b.announce(node("b"), at("127.0.0.1:2"), LONG)).unwrap();
    }
    wait(b.swap(Some(first.revision), next(&first, 2))).unwrap();
    until(before + 1);
    assert_eq!(*a.watch().borrow(), before + 1);
}

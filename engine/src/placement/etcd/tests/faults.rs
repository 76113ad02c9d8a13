//! Crashes and hangs of etcd, and watches with gaps.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Swaps without end, and knows what may be read.
struct Swapper {
    placement: Arc<dyn Placement>,
    last: PlacementRecord,
    /// Those that go on from `last` and of which it is not known whether they won. One may win later, until another does.
    pending: Vec<PlacementRecord>,
    wins: u64,
    number: u128,
}

impl Swapper {
    fn new(placement: Arc<dyn Placement>) -> Self {
        let last = wait(placement.swap(None, created(1))).unwrap();
        Self {
            placement,
            last,
            pending: Vec::new(),
            wins: 0,
            number: 1000,
        }
    }

    fn step(&mut self) {
        self.number += 1;
        let wanted = next(&self.last, self.number);
        match wait(
            self.placement
                .swap(Some(self.last.revision), wanted.clone()),
        ) {
            Ok(record) => {
                assert_eq!(record, wanted);
                self.pending.push(record.clone());
                self.met(record);
            }
            Err(PlacementError::Conflict { current, .. }) => {
                let current = *current.expect("nobody removes it");
                assert_ne!(current, self.last, "a conflict with what was expected");
                self.met(current);
            }
            Err(PlacementError::Unreachable { .. }) => {
                self.pending.push(wanted);
                if let Ok(found) = wait(self.placement.read(ShardId(1))) {
                    self.met(found.expect("nobody removes it"));
                }
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// What is read is what was acknowledged last, or one of those of which it is not known.
    fn met(&mut self, found: PlacementRecord) {
        if found == self.last {
            return;
        }
        assert!(self.pending.contains(&found), "{found:?} is not ours");
        self.last = found;
        self.pending.clear();
        self.wins += 1;
    }
}

#[test]
fn etcd_killed_again_and_again_loses_no_swap_and_makes_none_up() {
    let mut etcd = Etcd::start();
    let mut swapper = Swapper::new(Arc::new(etcd.impatient()));
    let done = AtomicBool::new(false);
    let first = swapper.last.revision;
    let mut swapper = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                swapper.step();
            }
            swapper
        });
        let watcher = etcd.impatient();
        let mut changes = watcher.watch();
        for _ in 0..8 {
            // Some swaps between two crashes.
            for _ in 0..10 {
                wait(changes.changed()).unwrap();
            }
            etcd.kill();
            etcd.up();
        }
        done.store(true, Ordering::Relaxed);
        swapping.join().unwrap()
    });
    // What is not known is settled by one more that wins.
    let before = swapper.wins;
    while swapper.wins == before || !swapper.pending.is_empty() {
        swapper.step();
    }
    let last = wait(swapper.placement.read(ShardId(1))).unwrap().unwrap();
    assert_eq!(last, swapper.last);
    assert_eq!(last.revision.0 - first.0, swapper.wins, "each is one step");
}

#[test]
fn while_etcd_hangs_calls_end_and_afterwards_all_is_well() {
    let etcd = Etcd::start();
    let placement: Arc<dyn Placement> = Arc::new(etcd.impatient());
    let mut swapper = Swapper::new(placement.clone());
    wait(placement.announce(node("a"), at("[::1]:1"), LONG)).unwrap();
    for _ in 0..3 {
        swapper.step();
        etcd.pause();
        let unknown = |ended: Result<(), PlacementError>| {
            let error = ended.expect_err("etcd hangs");
            let is_unknown = matches!(error, PlacementError::Unreachable { .. });
            assert!(is_unknown, "{error:?}");
        };
        let wanted = next(&swapper.last, 5);
        let swapped = placement.swap(Some(swapper.last.revision), wanted.clone());
        unknown(wait(swapped).map(drop));
        unknown(wait(placement.read(ShardId(1))).map(drop));
        unknown(wait(placement.members()).map(drop));
        unknown(wait(placement.announce(node("a"), at("[::1]:1"), LONG)));
        unknown(wait(placement.set_goal(node("a"), Some(Goal::Drain))));
        etcd.resume();
        // Whether it comes now or never: the next swap fences it.
        swapper.pending.push(wanted);
        let before = swapper.wins;
        while swapper.wins == before {
            swapper.step();
        }
    }
    let mut told = placement.watch();
    told.borrow_and_update();
    swapper.step();
    told_until(&*placement, |p| {
        let found = wait(p.read(ShardId(1))).ok()??;
        (found.revision >= swapper.last.revision).then_some(())
    });
    assert!(member(&*placement, "a").is_some_and(|a| a.alive));
}

/// Waits until each of these was told of the last change.
fn each_is_told(etcd: &Etcd, placements: &[&EtcdPlacement], round: u64) {
    let writer = etcd.connect();
    let mut told: Vec<_> = placements.iter().map(|p| p.watch()).collect();
    for told in &mut told {
        told.borrow_and_update();
    }
    wait(writer.swap(None, created(1000 + round))).unwrap();
    for told in &mut told {
        wait(told.changed()).unwrap();
    }
}

#[test]
fn a_watch_goes_on_after_a_crash_without_missing_or_inventing_anything() {
    let mut etcd = Etcd::start();
    let placement = etcd.connect();
    let mut changes = placement.watch();
    let mut expected = 0;
    for round in 0..3 {
        etcd.kill();
        etcd.up();
        // By another, perhaps before the watch is up again.
        let writer = etcd.connect();
        for shard in 0..5 {
            wait(writer.swap(None, created(round * 10 + shard))).unwrap();
        }
        expected += 5;
        while *changes.borrow_and_update() < expected {
            wait(changes.changed()).unwrap();
        }
        assert_eq!(*changes.borrow(), expected, "each once");
    }
}

#[test]
fn a_watch_that_missed_what_was_compacted_tells_that_something_may_have_changed() {
    let mut etcd = Etcd::start();
    let placement = etcd.connect();
    each_is_told(&etcd, &[&placement], 0);
    let mut changes = placement.watch();
    changes.borrow_and_update();
    // The connection is lost; before it is there again, the history of what changed meanwhile is gone.
    etcd.kill();
    etcd.up();
    etcd.operate(async |client| {
        for _ in 0..10 {
            client.put("/elsewhere", "x", None).await.unwrap();
        }
        let put = client.put("/watershed/noise", "x", None).await.unwrap();
        client.delete("/watershed/noise", None).await.unwrap();
        let put = put.header().unwrap().revision();
        client.compact(put + 1, None).await.unwrap();
    });
    wait(changes.changed()).unwrap();
    for round in 1..3 {
        each_is_told(&etcd, &[&placement], round);
    }
}

#[test]
fn another_etcd_in_its_place_is_noticed() {
    let mut etcd = Etcd::start();
    let placement = etcd.connect();
    for shard in 0..20 {
        wait(placement.swap(None, created(shard))).unwrap();
    }
    let mut changes = placement.watch();
    while *changes.borrow_and_update() < 20 {
        wait(changes.changed()).unwrap();
    }
    etcd.wipe();
    etcd.up();
    // Its revisions begin anew: a watch from where the old one's ended would be silent.
    wait(changes.changed()).unwrap();
    let lists = || wait(placement.list());
    let listed = loop {
        match lists() {
            Ok(listed) => break listed,
            Err(error) => assert!(matches!(error, PlacementError::Unreachable { .. })),
        }
    };
    assert!(listed.is_empty());
    each_is_told(&etcd, &[&placement], 0);
    // What it had seen there is worth nothing here.
    let swapped = wait(placement.swap(Some(Revision(1)), next(&created(3), 9)));
    assert!(
        matches!(swapped, Err(PlacementError::Conflict { current: None, .. })),
        "{swapped:?}"
    );
}

#[test]
fn lives_go_on_over_a_crash_and_end_when_nobody_renews_them() {
    let mut etcd = Etcd::start();
    let (a, b) = (etcd.connect(), etcd.connect());
    wait(a.announce(node("a"), at("[::1]:1"), LONG)).unwrap();
    wait(b.announce(node("b"), at("[::1]:2"), Duration::from_secs(2))).unwrap();
    etcd.kill();
    etcd.up();
    // b is not renewed: a is told when it is over.
    told_until(&a, |p| {
        let members = wait(p.members()).ok()?;
        (!members[&node("b")].alive).then_some(())
    });
    assert!(member(&a, "a").unwrap().alive);
    let noisy = etcd.connect();
    noise(&etcd, "/watershed/alive/nobody");
    assert_eq!(
        wait(noisy.members()).unwrap().len(),
        2,
        "a life is no member"
    );
}

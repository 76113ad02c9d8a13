//! Repair: what it says it loses it loses, what it keeps it keeps, and a crash leaves the one log or the other.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use support::{
    Contents, OWNERS, RECEIVER, contents, frames, image, live, options, several_lives, storage_of,
    used,
};
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::repair::{RepairPlan, plan};
use watershed_wal::{
    Durability, Epoch, InstanceId, Log, LogError, LogOptions, LogView, OpenError, Seq, SeqRange,
    Storage, verify,
};

type Files = BTreeMap<String, Vec<u8>>;

fn planned(storage: &MemStorage) -> RepairPlan {
    let before = storage.change_count();
    let plan = plan(storage, &BTreeMap::new()).unwrap().unwrap();
    assert_eq!(storage.change_count(), before, "a plan writes nothing");
    plan
}

fn repair(storage: &MemStorage) -> (RepairPlan, MemStorage) {
    let plan = planned(storage);
    let aside = MemStorage::new();
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    plan.apply(&shared, &aside).unwrap();
    (plan, aside)
}

fn nth(n: usize) -> String {
    format!("{n:016x}.seg")
}

/// The Seqs that are gone, by instance.
fn gone(whole: &Contents, left: &Contents) -> BTreeMap<InstanceId, BTreeSet<Seq>> {
    let mut gone = BTreeMap::new();
    for (id, records) in whole {
        let here = left.get(id);
        for (seq, record) in records {
            match here.and_then(|here| here.get(seq)) {
                Some(found) => assert_eq!(found, record),
                None => {
                    gone.entry(*id).or_insert_with(BTreeSet::new).insert(*seq);
                }
            }
        }
    }
    gone
}

/// What a plan says is gone.
fn said(plan: &RepairPlan) -> BTreeMap<InstanceId, BTreeSet<Seq>> {
    let mut said: BTreeMap<_, BTreeSet<Seq>> = BTreeMap::new();
    for loss in &plan.shards {
        for range in loss.lost.iter().chain(&loss.maybe) {
            said.entry(loss.instance).or_default().extend(range.iter());
        }
    }
    said
}

/// Repairs a damaged copy and checks the outcome against what the log held; gives the plan.
fn check_repair(files: &Files, whole: &Contents, what: &str) -> RepairPlan {
    let storage = storage_of(files);
    let (plan, aside) = repair(&storage);
    let report = verify(Arc::new(storage.clone())).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(report.tail, watershed_wal::LogEnd::Clean, "{what}");
    let left = contents(&storage);
    let said = said(&plan);
    // Nothing promises the last frame of all: it may be taken for a torn tail.
    let last = whole[&OWNERS[1]].iter().next_back().map(|(&seq, _)| seq);
    for (id, gone) in gone(whole, &left) {
        let unhosted = plan.unhosted.iter().any(|lost| lost.instance == id);
        let loss = plan.shards.iter().find(|loss| loss.instance == id);
        let after = loss.and_then(|loss| loss.unknown_after);
        for seq in gone {
            let known = said.get(&id).is_some_and(|said| said.contains(&seq));
            let maybe = after.is_some_and(|after| seq > after);
            let torn = id == OWNERS[1] && Some(seq) == last;
            assert!(
                known || maybe || unhosted || torn,
                "{what}: {seq} of {id} is gone\n{plan}"
            );
        }
    }
    for kept in &plan.kept_aside {
        assert_eq!(
            aside.contents(&kept.file).as_ref(),
            files.get(&kept.file),
            "{what}"
        );
    }
    assert!(aside.contents("repair.txt").is_some());
    assert!(aside.unsynced_names().is_empty() && storage.unsynced_names().is_empty());
    // It opens, twice, and has the same.
    for _ in 0..2 {
        Log::open(Arc::new(storage.clone()), options())
            .unwrap()
            .0
            .close()
            .unwrap();
        assert_eq!(contents(&storage), left, "{what}");
    }
    plan
}

#[test]
fn a_log_without_damage_has_nothing_to_repair() {
    let none = BTreeMap::new();
    assert!(plan(&MemStorage::new(), &none).unwrap().is_none());
    let storage = several_lives();
    assert!(plan(&storage, &none).unwrap().is_none());
    // A torn tail neither.
    let files = image(&storage);
    let (last, bytes) = files.iter().rfind(|(_, bytes)| used(bytes) > 0).unwrap();
    storage.corrupt(last, used(bytes) as u64 - 1, 1).unwrap();
    let before = image(&storage);
    assert!(plan(&storage, &none).unwrap().is_none());
    assert_eq!(image(&storage), before);
}

#[test]
fn what_is_not_damage_is_refused() {
    let none = BTreeMap::new();
    let storage = several_lives();
    storage.put_file("backup.seg", vec![1]);
    assert!(matches!(
        plan(&storage, &none),
        Err(OpenError::Foreign { .. })
    ));
    // A newer format, also behind damage.
    let files = image(&several_lives());
    for (segment, damage) in [(1, false), (3, true)] {
        let mut files = files.clone();
        let bytes = files.get_mut(&nth(segment)).unwrap();
        bytes[4] = 9;
        let crc = crc32fast::hash(&bytes[..68]);
        bytes[68..72].copy_from_slice(&crc.to_le_bytes());
        if damage {
            let bytes = files.get_mut(&nth(1)).unwrap();
            let at = frames(bytes)[4];
            bytes[at + 80] ^= 1;
        }
        let refused = plan(&storage_of(&files), &none);
        assert!(
            matches!(refused, Err(OpenError::NewerFormat { found: 9, .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn one_damaged_frame_costs_its_records_and_nothing_else() {
    let storage = several_lives();
    let whole = contents(&storage);
    let mut files = image(&storage);
    let bytes = files.get_mut(&nth(1)).unwrap();
    let hit = frames(bytes)[5];
    bytes[hit + 100] ^= 0x10;
    let plan = check_repair(&files, &whole, "a flipped byte");
    let storage = storage_of(&files);
    repair(&storage);
    let lost = gone(&whole, &contents(&storage));
    assert_eq!(lost.values().map(BTreeSet::len).sum::<usize>(), 1, "{plan}");
    let owners = plan.shards.iter().filter(|loss| loss.instance != RECEIVER);
    let said: Vec<_> = owners.filter(|loss| !loss.lost.is_empty()).collect();
    assert_eq!(said.len(), 1, "{plan}");
    let seqs: BTreeSet<Seq> = said[0].lost.iter().flat_map(|range| range.iter()).collect();
    assert_eq!(lost[&said[0].instance], seqs);
    assert_eq!(plan.unreadable.len(), 1);
    assert_eq!(
        (
            plan.unreadable[0].segment,
            plan.unreadable[0].offset <= hit as u64
        ),
        (1, true)
    );
    // Holds and notes are those of the last head.
    let (view, _) = LogView::open(Arc::new(storage)).unwrap();
    let instances = view.instances();
    assert!(
        instances
            .iter()
            .any(|i| i.id == OWNERS[0] && i.holds[0].name == "kept")
    );
    assert!(
        instances
            .iter()
            .any(|i| i.id == OWNERS[1] && i.notes["a note"] == "a note's value")
    );
}

/// The frame of an instance's record in a segment, and its offset.
fn frame_of(files: &Files, id: InstanceId, seq: Seq) -> (String, usize) {
    let (view, _) = LogView::open(Arc::new(storage_of(files))).unwrap();
    let line = view
        .dump()
        .find(|line| line.instance == Some(id) && line.seq == Some(seq))
        .unwrap();
    (nth(line.segment as usize), line.offset as usize)
}

fn damaged_at(files: &Files, id: InstanceId, seq: Seq) -> MemStorage {
    let mut files = files.clone();
    let (name, at) = frame_of(&files, id, seq);
    files.get_mut(&name).unwrap()[at + 75] ^= 4;
    storage_of(&files)
}

#[test]
fn rule_01_after_a_repair_the_next_owner_voids_what_was_lost_and_what_followed_it() {
    let whole = contents(&several_lives());
    let storage = damaged_at(&image(&several_lives()), OWNERS[0], Seq(9));
    let (plan, _) = repair(&storage);
    let last = *whole[&OWNERS[0]].keys().next_back().unwrap();
    let loss = plan
        .shards
        .iter()
        .find(|loss| loss.instance == OWNERS[0])
        .unwrap();
    assert_eq!(loss.lost, [SeqRange::single(Seq(9))], "{plan}");
    assert_eq!(loss.void, SeqRange::new(Seq(9), last));
    let log = support::open(&storage);
    let owner = log.instance(OWNERS[0]).unwrap();
    // The hole is visible, and nobody reads past it.
    assert_eq!(owner.watermarks().durable, Seq(8));
    let all = SeqRange::new(Seq(1), last).unwrap();
    let read: Vec<_> = owner.read(all).collect();
    assert_eq!(read.len(), 9);
    assert!(
        matches!(read[8], Err(LogError::Gap { missing, .. }) if missing == SeqRange::single(Seq(9)))
    );
    // What follows is there, for whoever has the rest.
    let behind = SeqRange::new(Seq(10), last).unwrap();
    assert_eq!(
        owner.read(behind).filter(Result::is_ok).count() as u64,
        last.0 - 9
    );
    let term = owner.next_term(Epoch(1));
    let start = owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
    assert_eq!(start, last.next(), "no Seq is given out again");
    assert_eq!(owner.watermarks().durable, start);
    let served: Vec<_> = owner
        .read(SeqRange::new(Seq(1), start).unwrap())
        .map(Result::unwrap)
        .collect();
    assert_eq!(served.len(), 9);
    assert_eq!(served[8].seq(), start);
    assert!(owner.note("wal.lost").is_none());
    log.close().unwrap();
    // For good.
    let log = support::open(&storage);
    let owner = log.instance(OWNERS[0]).unwrap();
    assert!(owner.note("wal.lost").is_none());
    let again: Vec<_> = owner
        .read(SeqRange::new(Seq(1), start).unwrap())
        .map(Result::unwrap)
        .collect();
    assert_eq!(again, served);
}

#[test]
fn rule_01_a_start_record_that_was_lost_is_never_named_again() {
    // The start record of the last opening, in the last segment: no later head knows of it.
    let files = image(&several_lives());
    let whole = contents(&several_lives());
    for id in OWNERS {
        let records = &whole[&id];
        let start = records
            .values()
            .rev()
            .find(|r| r.kind() == watershed_wal::RecordKind::Start)
            .unwrap();
        let storage = damaged_at(&files, id, start.seq());
        repair(&storage);
        let log = support::open(&storage);
        let owner = log.instance(id).unwrap();
        let stale = owner.start_term(start.term(), Seq::ZERO);
        assert!(
            matches!(stale, Err(LogError::StaleTerm { .. })),
            "{stale:?}"
        );
        // Nor in a later epoch, whose owner may have been lost too.
        let next = owner.next_term(Epoch(2));
        assert!(next.opening > start.term().opening);
        let term = owner.next_term(Epoch(1));
        assert!(term > start.term());
        let seq = owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
        let named: BTreeSet<_> = records.values().map(|r| (r.term(), r.seq())).collect();
        assert!(!named.contains(&(term, seq)));
    }
}

#[test]
fn what_the_store_holds_is_not_missed() {
    let whole = contents(&several_lives());
    let last = *whole[&OWNERS[0]].keys().next_back().unwrap();
    let storage = damaged_at(&image(&several_lives()), OWNERS[0], Seq(9));
    let stores = BTreeMap::from([(OWNERS[0], Seq(12))]);
    let plan = plan(&storage, &stores).unwrap().unwrap();
    let loss = &plan
        .shards
        .iter()
        .find(|loss| loss.instance == OWNERS[0])
        .unwrap();
    assert_eq!((loss.stored, loss.void), (Some(Seq(12)), None));
    assert_eq!(loss.lost, [SeqRange::single(Seq(9))]);
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    plan.apply(&shared, &MemStorage::new()).unwrap();
    let log = support::open(&storage);
    let owner = log.instance(OWNERS[0]).unwrap();
    assert_eq!(
        (owner.watermarks().durable, owner.flushed()),
        (last, Seq(12))
    );
    let replayed = owner
        .read(SeqRange::new(Seq(13), last).unwrap())
        .map(Result::unwrap);
    assert_eq!(replayed.count() as u64, last.0 - 12);
    let term = owner.next_term(Epoch(1));
    let start = owner.start_term(term, last).unwrap().wait().unwrap();
    assert_eq!(start, last.next());
}

#[test]
fn what_the_store_holds_is_not_missed_where_the_repair_did_not_know_it() {
    let whole = contents(&several_lives());
    let last = *whole[&OWNERS[0]].keys().next_back().unwrap();
    let storage = damaged_at(&image(&several_lives()), OWNERS[0], Seq(9));
    repair(&storage);
    let log = support::open(&storage);
    let owner = log.instance(OWNERS[0]).unwrap();
    assert_eq!(owner.watermarks().durable, Seq(8));
    // The store says so when the owner starts: what is behind the hole was replayed.
    let start = owner
        .start_term(owner.next_term(Epoch(1)), last)
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!((start, owner.watermarks().durable), (last.next(), start));
    let behind = SeqRange::new(Seq(10), last).unwrap();
    assert_eq!(
        owner.read(behind).filter(Result::is_ok).count() as u64,
        last.0 - 9
    );
    log.close().unwrap();
    let log = support::open(&storage);
    let owner = log.instance(OWNERS[0]).unwrap();
    assert_eq!(owner.watermarks().durable, start);
}

#[test]
fn a_hosting_that_was_lost_is_made_again_from_what_its_store_holds() {
    let storage = MemStorage::new();
    // One segment: no later head knows the hosting.
    let large = LogOptions {
        segment_bytes: 256 << 10,
        ..options()
    };
    let (log, _) = Log::open(Arc::new(storage.clone()), large).unwrap();
    support::work(&log, 9, 200);
    let storage = storage.crash(Survival::None);
    drop(log);
    let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
    let hosted = view
        .dump()
        .find(|line| line.kind == "host" && line.instance == Some(OWNERS[1]))
        .unwrap();
    let whole = contents(&storage);
    storage.corrupt(&nth(1), hosted.offset + 90, 1).unwrap();
    // Without knowing its store it is lost as a whole, and said to be.
    let lost = planned(&storage);
    assert_eq!(lost.unhosted[0].instance, OWNERS[1], "{lost}");
    let stores = BTreeMap::from([(OWNERS[1], Seq::ZERO)]);
    let plan = plan(&storage, &stores).unwrap().unwrap();
    assert!(plan.unhosted.is_empty(), "{plan}");
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    plan.apply(&shared, &MemStorage::new()).unwrap();
    assert_eq!(contents(&storage)[&OWNERS[1]], whole[&OWNERS[1]]);
}

#[test]
fn a_missing_segment_costs_its_records_only() {
    let storage = several_lives();
    let (files, whole) = (image(&storage), contents(&storage));
    let used: Vec<_> = files
        .iter()
        .filter(|(_, bytes)| !frames(bytes).is_empty())
        .collect();
    assert!(used.len() >= 4);
    for (name, _) in &used[..used.len() - 1] {
        let mut files = files.clone();
        files.remove(*name);
        let plan = check_repair(&files, &whole, name);
        assert!(plan.unreadable.iter().all(|gap| gap.is_missing), "{plan}");
    }
    // Two of them.
    let mut files = files.clone();
    files.remove(&nth(1));
    files.remove(&nth(2));
    check_repair(&files, &whole, "the first two");
}

#[test]
fn every_kind_of_damage_to_every_frame_is_repaired() {
    let storage = several_lives();
    let (files, whole) = (image(&storage), contents(&storage));
    let mut repaired = 0;
    for (name, bytes) in &files {
        for at in frames(bytes) {
            // The header, the payload, both, and the whole block.
            let spoiled: [&[usize]; 4] = [&[40], &[73], &[10, 74], &[0, 8, 72, 80]];
            for places in spoiled {
                let mut files = files.clone();
                let bytes = files.get_mut(name).unwrap();
                for place in places {
                    bytes[at + place] ^= 0x55;
                }
                if verify(Arc::new(storage_of(&files))).is_err() {
                    check_repair(&files, &whole, &format!("{name} at {at}, {places:?}"));
                    repaired += 1;
                }
            }
        }
    }
    assert!(repaired > 300, "{repaired}");
}

#[test]
fn damage_in_many_places_is_repaired_in_one_go() {
    let storage = several_lives();
    let (files, whole) = (image(&storage), contents(&storage));
    let mut random = 7u64;
    for round in 0..150 {
        let mut files = files.clone();
        for bytes in files.values_mut() {
            for at in frames(bytes) {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(round);
                if random >> 60 == 0 {
                    bytes[at + (random >> 8) as usize % 90] ^= 1 + (random >> 40) as u8 % 200;
                }
            }
        }
        let storage = storage_of(&files);
        if verify(Arc::new(storage)).is_err() {
            check_repair(&files, &whole, &format!("round {round}"));
        }
    }
}

#[test]
fn a_crash_at_every_change_leaves_the_damaged_log_or_the_repaired_one() {
    let storage = damaged_at(&image(&several_lives()), OWNERS[1], Seq(7));
    let (damaged, before) = (image(&storage), contents(&several_lives()));
    let repaired = {
        let storage = storage_of(&damaged);
        repair(&storage);
        contents(&storage)
    };
    let mut left_damaged = 0;
    for in_aside in [false, true] {
        for n in 1.. {
            let mut done = false;
            for survival in [
                Survival::None,
                Survival::All,
                Survival::Seeded(n),
                Survival::Seeded(!n),
            ] {
                let (storage, aside) = (storage_of(&damaged), MemStorage::new());
                let plan = planned(&storage);
                let crashing = if in_aside { &aside } else { &storage };
                crashing.set_injector(Some(Injector::crash_at_change(n)));
                let shared: Arc<dyn Storage> = Arc::new(storage.clone());
                done = plan.apply(&shared, &aside).is_ok();
                let (storage, aside) = (storage.crash(survival), aside.crash(survival));
                match LogView::open(Arc::new(storage.clone())) {
                    Ok(_) => {
                        assert_eq!(contents(&storage), repaired, "crash at {n}, {survival:?}");
                        // What counts was not made to count before the damaged bytes were kept.
                        for kept in &plan.kept_aside {
                            assert_eq!(
                                aside.contents(&kept.file),
                                damaged.get(&kept.file).cloned()
                            );
                        }
                    }
                    Err(OpenError::Damaged(_)) => {
                        left_damaged += 1;
                        assert!(!done);
                        for (name, bytes) in &damaged {
                            assert_eq!(storage.contents(name).as_ref(), Some(bytes));
                        }
                        repair(&storage);
                        assert_eq!(contents(&storage), repaired);
                    }
                    Err(error) => panic!("crash at {n}, {survival:?}: {error}"),
                }
                drop(live(&storage, 3, 50));
                let after = contents(&storage);
                for (id, records) in &repaired {
                    if *id == RECEIVER || *id == OWNERS[0] {
                        assert!(gone(&BTreeMap::from([(*id, records.clone())]), &after).is_empty());
                    }
                }
            }
            if done {
                break;
            }
        }
    }
    assert!(left_damaged > 20, "{left_damaged}");
    assert!(before.len() == 3);
}

#[test]
fn a_device_that_fails_at_any_call_leaves_the_one_log_or_the_other() {
    let storage = damaged_at(&image(&several_lives()), OWNERS[1], Seq(7));
    let damaged = image(&storage);
    for fault in ["eio", "enospc", "short"] {
        for n in 1.. {
            let storage = storage_of(&damaged);
            let plan = planned(&storage);
            let injector: Injector = format!("nth({n}):{fault}").parse().unwrap();
            storage.set_injector(Some(injector.clone()));
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());
            let done = plan.apply(&shared, &MemStorage::new());
            let fired = storage.fired();
            storage.set_injector(None);
            let storage = storage.crash(Survival::Seeded(n));
            match verify(Arc::new(storage.clone())) {
                Ok(_) => {}
                Err(OpenError::Damaged(_)) => drop(repair(&storage)),
                Err(error) => panic!("{injector}: {error}"),
            }
            drop(live(&storage, 2, 50));
            if fired == 0 {
                done.unwrap();
                break;
            }
        }
    }
}

#[test]
fn without_room_nothing_is_changed() {
    let storage = damaged_at(&image(&several_lives()), OWNERS[1], Seq(7));
    let before = image(&storage);
    let used = before.values().map(|bytes| bytes.len() as u64).sum::<u64>();
    let plan = planned(&storage);
    storage.set_capacity(Some(used + plan.room_bytes() - 1));
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let refused = plan.apply(&shared, &MemStorage::new());
    assert!(matches!(refused, Err(OpenError::Full { needed }) if needed == plan.room_bytes()));
    assert_eq!(image(&storage), before);
    storage.set_capacity(Some(used + plan.room_bytes()));
    plan.apply(&shared, &MemStorage::new()).unwrap();
}

#[test]
fn a_repaired_log_can_be_damaged_and_repaired_again() {
    let mut files = image(&several_lives());
    let mut whole = contents(&several_lives());
    for round in 0..3 {
        let id = OWNERS[round % 2];
        let seq = *whole[&id].keys().nth(4).unwrap();
        let (name, at) = frame_of(&files, id, seq);
        files.get_mut(&name).unwrap()[at + 76] ^= 2;
        check_repair(&files, &whole, &format!("round {round}"));
        let storage = storage_of(&files);
        repair(&storage);
        let log = live(&storage, 3, 80);
        assert_eq!(log.instances().len(), 3);
        let owner = log.instance(OWNERS[0]).unwrap();
        support::put(&owner, 99, 100, Durability::Sync);
        log.close().unwrap();
        files = image(&storage);
        whole = contents(&storage);
    }
}

#[test]
fn a_device_that_lies_at_any_write_or_sync_is_found_out_or_harmless() {
    let clean = MemStorage::new();
    live(&clean, 9, 200).close().unwrap();
    let whole = contents(&clean);
    let mut found = 0;
    for fault in [
        "on(write)&nth({n}):lost",
        "on(write)&nth({n}):misdirect",
        "on(sync)&nth({n}):lost",
    ] {
        for n in 1u64.. {
            let injector: Injector = fault.replace("{n}", &n.to_string()).parse().unwrap();
            let storage = MemStorage::new();
            storage.set_injector(Some(injector.clone()));
            live(&storage, 9, 200).close().unwrap();
            let fired = storage.fired();
            let storage = storage.crash(Survival::Seeded(n));
            if verify(Arc::new(storage.clone())).is_err() {
                found += 1;
                repair(&storage);
            }
            for (id, records) in contents(&storage) {
                for (seq, record) in records {
                    assert_eq!(whole[&id].get(&seq), Some(&record), "{injector}");
                }
            }
            if fired == 0 {
                break;
            }
        }
    }
    assert!(found > 30, "{found}");
}

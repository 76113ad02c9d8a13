//! One pass over the log for many instances gives what reading each of them gives: records, voids, holes and errors.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use support::{OWNERS, RECEIVER, body, frames, open, put, several_lives, storage_of, term};
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, Log, LogError, Record, RecordKind, Seq, SeqRange,
    ShardId, Storage as _, Swept,
};

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).unwrap()
}

/// What a sweep gives of each instance, and the error that ended it.
fn sweep(
    log: &Log,
    ranges: &[(InstanceId, SeqRange)],
) -> (BTreeMap<InstanceId, Vec<Record>>, Option<LogError>) {
    let mut found: BTreeMap<_, Vec<Record>> = BTreeMap::new();
    for swept in log.sweep(ranges.to_vec()).unwrap() {
        match swept {
            Ok(swept) => found
                .entry(swept.instance())
                .or_default()
                .extend(swept.into_records()),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

/// What reading one instance gives.
fn read(log: &Log, id: InstanceId, range: SeqRange) -> (Vec<Record>, Option<LogError>) {
    let mut records = Vec::new();
    for record in log.instance(id).unwrap().read(range) {
        match record {
            Ok(record) => records.push(record),
            Err(error) => return (records, Some(error)),
        }
    }
    (records, None)
}

/// Each instance's records up to its first hole; what a receiver was not sent at first is no hole.
fn everything(log: &Log) -> Vec<(InstanceId, SeqRange)> {
    let all = log.instances().into_iter();
    all.filter_map(|instance| Some((instance.id(), instance.has().intervals().next()?)))
        .collect()
}

#[test]
fn a_sweep_gives_what_reading_each_instance_gives() {
    let log = open(&several_lives());
    let all = everything(&log);
    assert_eq!(all.len(), 3);
    // All; the ends of all; parts of some.
    let ends = all
        .iter()
        .map(|(id, all)| (*id, SeqRange::single(all.last())));
    let parts = all[1..].iter();
    let parts = parts.map(|(id, all)| (*id, range(all.last().0.div_ceil(2), all.last().0)));
    for ranges in [all.clone(), ends.collect(), parts.collect(), Vec::new()] {
        let (found, error) = sweep(&log, &ranges);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(found.len(), ranges.len());
        for (id, range) in ranges {
            assert_eq!((found[&id].clone(), None), read_all(&log, id, range));
        }
    }
}

fn read_all(log: &Log, id: InstanceId, range: SeqRange) -> (Vec<Record>, Option<()>) {
    let (records, error) = read(log, id, range);
    (records, error.map(|error| panic!("{error}")))
}

#[test]
fn records_that_came_out_of_order_are_swept_in_order() {
    let storage = several_lives();
    let log = open(&storage);
    let (records, _) = read(&log, OWNERS[1], range(1, 20));
    let late = InstanceId(77);
    let copy = log.host(ShardId(9), late, Seq::ZERO, Vec::new()).unwrap();
    // In one frame and over several, backwards, with the third missing at first.
    for part in [
        &records[12..],
        &records[3..12],
        &records[..2],
        &records[2..3],
    ] {
        let part = part.iter().rev().cloned().collect();
        copy.append_at(part).unwrap().wait().unwrap();
    }
    log.close().unwrap();
    let log = open(&storage);
    let (found, error) = sweep(&log, &everything(&log));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(found[&late], records);
    assert_eq!(found[&OWNERS[1]][..20], records);
}

#[test]
fn void_seqs_are_passed_over_and_their_records_are_not_given() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let id = OWNERS[0];
    let owner = log.host(ShardId(1), id, Seq::ZERO, Vec::new()).unwrap();
    owner
        .start_term(term(1), Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    put(&owner, 1, 10, Durability::Sync);
    let early: Vec<_> = (0..5)
        .map(|n| put(&owner, n, 10, Durability::Buffered))
        .collect();
    let (lost, _) = read(&log, id, range(early[0].0, early[4].0));
    let storage = storage.crash(Survival::None);
    let log = open(&storage);
    let owner = log.instance(id).unwrap();
    owner.start_term(term(2), early[4]).unwrap().wait().unwrap();
    put(&owner, 9, 10, Durability::Sync);
    // A receiver that had got what the owner lost before it heard of its being void.
    let copy = log
        .host(ShardId(1), RECEIVER, Seq::ZERO, Vec::new())
        .unwrap();
    let (kept, _) = read(&log, id, range(1, early[4].0 + 2));
    copy.append_at(kept[..2].to_vec()).unwrap().wait().unwrap();
    copy.append_at(lost).unwrap().wait().unwrap();
    copy.append_at(kept[2..].to_vec()).unwrap().wait().unwrap();
    log.close().unwrap();
    let log = open(&storage);
    let (found, error) = sweep(&log, &everything(&log));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(found[&id], kept);
    assert_eq!(found[&RECEIVER], kept);
}

#[test]
fn a_hole_ends_a_sweep_with_the_error_that_reading_gives() {
    let log = open(&several_lives());
    let has = log.instance(RECEIVER).unwrap().has();
    let first = has.intervals().next().unwrap();
    let beyond = range(first.first().0, has.max().unwrap().0);
    assert!(beyond != first, "the receiver has holes");
    let (found, error) = sweep(&log, &[(OWNERS[0], range(1, 9)), (RECEIVER, beyond)]);
    let (records, expected) = read(&log, RECEIVER, beyond);
    assert!(matches!(expected, Some(LogError::Gap { .. })));
    assert_eq!(format!("{error:?}"), format!("{expected:?}"));
    assert_eq!(found[&RECEIVER], records);
    assert_eq!(found[&OWNERS[0]].len(), 9, "others are given first");
}

#[test]
fn damage_ends_a_sweep_with_the_error_that_reading_gives() {
    let storage = several_lives();
    let log = open(&storage);
    let all = everything(&log);
    // The second segment: the first has been read when the sweep meets the damage.
    let mut names = storage.list().unwrap();
    names.sort();
    let bytes = storage.contents(&names[1]).unwrap();
    let at = frames(&bytes)[3];
    storage.corrupt(&names[1], at as u64 + 80, 0x20).unwrap();
    let (found, error) = sweep(&log, &all);
    let error = error.expect("damage is an error");
    assert!(matches!(error, LogError::Damaged(_)), "{error}");
    let words = format!("{error:?}");
    let of: Vec<_> = all
        .iter()
        .filter(|(id, range)| {
            let (_, error) = read(&log, *id, *range);
            error.is_some_and(|error| format!("{error:?}") == words)
        })
        .collect();
    assert!(!of.is_empty(), "no reader gives {words}");
    // Nothing but whole prefixes was given before.
    for (id, found) in found {
        let clean = open(&storage_of(&support::image(&several_lives())));
        let (first, last) = (found[0].seq().0, found.last().unwrap().seq().0);
        let (whole, _) = read(&clean, id, range(first, last));
        assert_eq!(found.len(), whole.len());
    }
}

#[test]
fn an_unknown_instance_and_a_closed_log_are_errors() {
    let log = open(&several_lives());
    let nobody = log.sweep(vec![(InstanceId(5), range(1, 2))]).unwrap_err();
    assert!(matches!(nobody, LogError::UnknownInstance(InstanceId(5))));
    log.close().unwrap();
    let closed = log.sweep(vec![(OWNERS[0], range(1, 2))]).unwrap_err();
    assert!(matches!(closed, LogError::Closed));
}

/// The point of it: not once for each instance.
#[test]
fn each_segment_is_read_once_however_many_instances_share_it() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let owners: Vec<_> = (1..=20)
        .map(|id| {
            let id = InstanceId(id);
            let owner = log.host(ShardId(1), id, Seq::ZERO, Vec::new()).unwrap();
            let term = owner.next_term(Epoch(1));
            owner.start_term(term, Seq::ZERO).unwrap().wait().unwrap();
            owner
        })
        .collect();
    for n in 0..40 {
        for owner in &owners {
            put(owner, n, 200, Durability::Buffered);
        }
    }
    log.close().unwrap();
    let log = open(&storage);
    let segments = log.status().segments;
    assert!(segments > 3);
    let before = storage.io_count();
    let (found, error) = sweep(&log, &everything(&log));
    assert!(error.is_none(), "{error:?}");
    assert!(found.values().all(|records| records.len() == 41));
    let reads = storage.io_count() - before;
    assert!(reads <= segments + 2, "{reads} reads, {segments} segments");
}

/// A few KiB of log may hold many MiB of bodies.
#[test]
fn what_compresses_well_does_not_make_a_step_large() {
    const LEN: usize = 1 << 20;
    let storage = MemStorage::new();
    let log = open(&storage);
    let id = OWNERS[0];
    let owner = log.host(ShardId(1), id, Seq::ZERO, Vec::new()).unwrap();
    owner
        .start_term(term(1), Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    for n in 0..40_u8 {
        let zeros = Bytes::from(vec![n; LEN]);
        owner
            .submit(RecordKind::Batch, zeros, Durability::Sync, Inline::Allowed)
            .unwrap()
            .wait()
            .unwrap();
    }
    put(&owner, 1, 10, Durability::Sync);
    log.close().unwrap();
    let log = open(&storage);
    let steps: Vec<Swept> = log
        .sweep(everything(&log))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let most = steps.iter().map(Swept::body_bytes).max().unwrap();
    assert!((LEN..=8 * LEN).contains(&most), "{most} bytes at once");
    let records: Vec<_> = steps.into_iter().flat_map(Swept::into_records).collect();
    assert_eq!(records.len(), 42);
    assert_eq!(records[41].body(), &body(id, 1, 10));
    for (n, record) in (0..40_u8).zip(&records[1..]) {
        assert!(record.body().len() == LEN && record.body().iter().all(|&byte| byte == n));
    }
}

//! Files of removed segments that are filled again: at every crash, under every reader, at the limit, on a full device.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{
    OWNERS, contents, contents_of, has_head, image, is_recycled, let_wait, open, options, owner,
    put, recycled, storage_of, until,
};
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::repair::plan;
use watershed_wal::{
    DirStorage, Durability, Inline, InstanceLog, Log, LogEnd, LogError, LogOptions, LogView,
    OpenError, Record, RecordKind, Seq, SeqRange, Storage, StorageFile, verify,
};

const SEGMENT: u64 = 32 << 10;

fn names(storage: &dyn Storage, end: &str) -> Vec<String> {
    let mut names = storage.list().unwrap();
    names.retain(|name| name.ends_with(end));
    names.sort();
    names
}

/// What one owner was told.
#[derive(Default)]
struct Told {
    durable: Seq,
    flushed: Seq,
    acked: BTreeMap<Seq, Record>,
}

fn small() -> LogOptions {
    LogOptions {
        limit_bytes: 16 * SEGMENT,
        recent_bytes: 4096,
        compress_from_bytes: usize::MAX,
        buffered_sync_every: Duration::from_millis(2),
        ..options()
    }
}

/// One life of the process: opens, checks, writes and flushes, so that segments go and come again.
fn live(storage: &MemStorage, told: &mut Told, steps: u64) -> Result<(), LogError> {
    let (log, _) = match Log::open(Arc::new(storage.clone()), small()) {
        Ok(opened) => opened,
        Err(OpenError::Io { .. } | OpenError::Full { .. }) => return Err(LogError::Closed),
        Err(error) => panic!("{error}"),
    };
    let hosted = log.instance(OWNERS[0]);
    if hosted.is_none() {
        assert_eq!(told.durable, Seq::ZERO, "the instance is gone");
        log.host(watershed_wal::ShardId(1), OWNERS[0], Seq::ZERO, Vec::new())?;
    }
    let owner = log.instance(OWNERS[0]).unwrap();
    check(told, &owner)?;
    let started = owner.start_term(owner.next_term(watershed_wal::Epoch(1)), told.durable)?;
    told.durable = started.wait()?;
    for step in 0..steps {
        let durability = if step % 4 == 3 {
            Durability::Buffered
        } else {
            Durability::Sync
        };
        let body = support::body(OWNERS[0], step, 4000 + step as usize * 13);
        let submitted =
            owner.submit(RecordKind::Batch, body.clone(), durability, Inline::Allowed)?;
        let term = submitted.term;
        let seq = submitted.wait()?;
        let record = Record::new(term, seq, RecordKind::Batch, body);
        told.acked.insert(seq, record);
        if durability == Durability::Sync {
            told.durable = seq;
        }
        if step % 9 == 8 {
            told.flushed = told.durable;
            owner.set_flushed(told.flushed);
        }
    }
    log.close()
}

fn check(told: &mut Told, owner: &InstanceLog) -> Result<(), LogError> {
    let durable = owner.watermarks().durable;
    assert!(durable >= told.durable, "{durable} of {}", told.durable);
    let mut here = BTreeMap::new();
    for record in SeqRange::after(told.flushed, durable)
        .into_iter()
        .flat_map(|range| owner.read(range))
    {
        match record {
            Ok(record) => here.insert(record.seq(), record),
            Err(error @ LogError::Io { .. }) => return Err(error),
            Err(error) => panic!("{error}"),
        };
    }
    for (seq, record) in &told.acked {
        let is_kept = *seq > told.flushed && *seq <= told.durable;
        assert!(!is_kept || here.get(seq) == Some(record), "{seq} is lost");
        // Buffered: lost, or as it was.
        let other = here.get(seq).filter(|found| found.term() == record.term());
        assert!(other.is_none_or(|found| found == record), "{seq} is wrong");
    }
    told.acked.retain(|seq, _| *seq <= durable);
    told.durable = durable;
    Ok(())
}

const STEPS: u64 = 60;

/// The first life ends at a fault, the second soon after, the third goes through.
fn survives(injector: &Injector, survival: Survival, second: u64) -> u64 {
    let storage = MemStorage::new();
    storage.set_injector(Some(injector.clone()));
    let mut told = Told::default();
    match live(&storage, &mut told, STEPS) {
        Ok(())
        | Err(
            LogError::Poisoned { .. }
            | LogError::Closed
            | LogError::Full { .. }
            | LogError::Io { .. },
        ) => {}
        Err(error) => panic!("{injector}: {error}"),
    }
    let fired = storage.fired();
    let storage = storage.crash(survival);
    storage.set_injector(Some(Injector::crash_at_change(second)));
    let _ = live(&storage, &mut told, STEPS);
    let storage = storage.crash(survival);
    live(&storage, &mut told, STEPS)
        .unwrap_or_else(|error| panic!("{injector}, {survival:?}, {second}: {error}"));
    verify(Arc::new(storage)).unwrap();
    fired
}

#[test]
fn a_crash_at_every_change_of_a_log_that_recycles_loses_nothing() {
    let storage = MemStorage::new();
    live(&storage, &mut Told::default(), STEPS).unwrap();
    let used = image(&storage);
    assert!(used.values().any(|bytes| is_recycled(bytes)), "it does not");
    for at in 1..=storage.change_count() + 5 {
        for survival in [
            Survival::None,
            Survival::All,
            Survival::Seeded(at),
            Survival::Seeded(!at),
        ] {
            survives(&Injector::crash_at_change(at), survival, at % 97 + 1);
        }
    }
}

#[test]
fn each_step_of_recycling_may_be_the_last_or_fail() {
    let steps = [
        "on(rename)",
        "on(write)&path(*.recycled)",
        "on(sync)&path(*.recycled)",
        "on(syncdir)",
    ];
    for step in steps {
        for fault in ["crash", "eio", "enospc"] {
            let mut fired = 0;
            for nth in 1..=12 {
                let injector: Injector = format!("{step}&nth({nth}):{fault}").parse().unwrap();
                for seed in 0..6 {
                    fired += survives(&injector, Survival::Seeded(nth * 100 + seed), 30 + seed);
                }
                fired += survives(&injector, Survival::None, nth);
                fired += survives(&injector, Survival::All, nth);
            }
            assert!(fired > 0, "{step} never came");
        }
    }
}

#[test]
fn a_segment_in_a_recycled_file_ends_cleanly_and_opens_with_what_it_held() {
    let files = recycled();
    let storage = storage_of(&files);
    let report = verify(Arc::new(storage.clone())).unwrap();
    assert_eq!(report.tail, LogEnd::Clean, "old bytes are no torn tail");
    let before = contents(&storage);
    assert!(before[&OWNERS[1]].len() > 5);
    let log = open(&storage);
    log.close().unwrap();
    let after = contents(&storage);
    for (id, records) in before {
        assert!(
            records
                .iter()
                .all(|(seq, record)| after[&id][seq] == *record)
        );
    }
}

#[test]
fn a_torn_frame_in_a_recycled_file_is_cut_and_said() {
    let files = recycled();
    let storage = storage_of(&files);
    let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
    // The frame that only carries the promise, at the end, is promised by nobody.
    let last = view.dump().last().unwrap();
    assert_eq!(last.kind, "frame");
    let name = format!("{:016x}.seg", last.segment);
    let before = contents_of(&view);
    let frame = view.dump().filter(|line| line.kind == "frame");
    let frame = frame.filter(|line| line.offset < last.offset).last();
    assert!(frame.is_some());
    storage.corrupt(&name, last.offset + 60, 1).unwrap();
    let report = verify(Arc::new(storage.clone())).unwrap();
    assert_eq!(report.tail, LogEnd::Clean, "its header does not show");
    assert!(contents(&storage) == before);
    // Promised: what rots before it is damage, never a torn tail.
    let storage = storage_of(&files);
    let frame = frame.unwrap();
    storage.corrupt(&name, frame.offset + 9, 1).unwrap();
    let damaged = LogView::open(Arc::new(storage)).map(drop);
    assert!(matches!(damaged, Err(OpenError::Damaged(_))), "{damaged:?}");
}

/// Crashed in the middle of a frame, in a recycled file: its header is whole, its payload has old bytes.
#[test]
fn a_payload_of_new_and_old_bytes_is_a_torn_tail() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let owner = owner(&log, OWNERS[0]);
    let_wait(&log, &owner, 3);
    while !image(&storage).values().any(|bytes| is_recycled(bytes)) {
        put(&owner, 1, 6000, Durability::Sync);
    }
    let durable = put(&owner, 2, 100, Durability::Sync);
    put(&owner, 3, 3000, Durability::Buffered);
    let mut torn = 0;
    for seed in 0..200 {
        let left = storage_of(&image(&storage));
        let name = names(&left, ".seg")
            .into_iter()
            .rfind(|name| has_head(&left.contents(name).unwrap()))
            .unwrap();
        assert!(is_recycled(&left.contents(&name).unwrap()));
        let (view, _) = LogView::open(Arc::new(left.clone())).unwrap();
        let last = view.dump().filter(|line| line.kind == "frame").last();
        let last = last.unwrap();
        drop(view);
        // A sector of the payload is as it was before.
        let mut bytes = left.contents(&name).unwrap();
        let at = (last.offset as usize + 72 + seed * 13) / 512 * 512 + 512;
        if at + 512 > (last.offset + last.len) as usize {
            continue;
        }
        bytes[at..at + 512].copy_from_slice(&[0xa5; 512]);
        left.put_file(&name, bytes);
        let report = verify(Arc::new(left.clone())).unwrap();
        let cut = LogEnd::Torn {
            segment: last.segment,
            offset: report_end(&left, last.segment),
            bytes_cut: last.offset + last.len - report_end(&left, last.segment),
        };
        assert_eq!(report.tail, cut);
        let log = open(&left);
        let found = log.instance(OWNERS[0]).unwrap().watermarks().durable;
        assert_eq!(found, durable);
        torn += 1;
    }
    assert!(torn > 10);
    drop(log);
}

/// Where the last frame that counts ends.
fn report_end(storage: &MemStorage, segment: u64) -> u64 {
    let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
    let frames = view
        .dump()
        .filter(|line| line.segment == segment && (line.kind == "frame" || line.kind == "head"));
    frames.map(|line| line.offset + line.len).max().unwrap()
}

#[test]
fn opening_and_repairing_remove_what_waited_and_nothing_else() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let written = owner(&log, OWNERS[0]);
    let_wait(&log, &written, 4);
    assert!(log.status().recycled_bytes >= 4 * SEGMENT);
    assert!(log.status().bytes >= log.status().recycled_bytes + SEGMENT);
    log.close().unwrap();
    let left = storage.crash(Survival::None);
    let waited = names(&left, ".recycled");
    assert!(waited.len() >= 4);
    let others = ["1.recycled", "x.recycled", "000000000000000G.recycled"];
    for other in others {
        left.put_file(other, vec![1]);
    }
    let damaged = storage_of(&image(&left));
    open(&left).close().unwrap();
    let still = left.list().unwrap();
    assert!(waited.iter().all(|name| !still.contains(name)), "{still:?}");
    assert!(others.iter().all(|&name| still.iter().any(|n| n == name)));
    // Repair: on a device that has no room but theirs.
    let head = names(&damaged, ".seg");
    let head = head
        .iter()
        .find(|name| has_head(&damaged.contents(name).unwrap()));
    damaged.corrupt(head.unwrap(), 200, 0xff).unwrap();
    let found = plan(&damaged, &BTreeMap::new()).unwrap().unwrap();
    let used: u64 = image(&damaged)
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum();
    damaged.set_capacity(Some(used));
    let shared: Arc<dyn Storage> = Arc::new(damaged.clone());
    found.apply(&shared, &MemStorage::new()).unwrap();
    verify(Arc::new(damaged)).unwrap();
}

#[test]
fn files_that_wait_are_used_one_by_one_and_stay_within_half_of_the_limit() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), small()).unwrap();
    let owner = owner(&log, OWNERS[0]);
    let within = |log: &Log| {
        let status = log.status();
        assert!(status.bytes <= status.limit, "{status:?}");
        assert!(status.recycled_bytes <= status.limit / 2, "{status:?}");
    };
    // As far as the limit lets it, then all is flushed at once.
    let last = loop {
        let body = support::body(OWNERS[0], 1, 6000);
        match owner.submit(RecordKind::Batch, body, Durability::Sync, Inline::Allowed) {
            Ok(submitted) => drop(submitted.wait().unwrap()),
            Err(LogError::Full { .. }) => break owner.watermarks().durable,
            Err(error) => panic!("{error}"),
        }
        within(&log);
    };
    assert!(log.pinning().is_some());
    owner.set_flushed(last);
    // One or two of the half became spares at once.
    until("half of it waits", || {
        within(&log);
        log.status().recycled_bytes >= 6 * SEGMENT
    });
    assert!(names(&storage, ".recycled").len() >= 6);
    assert!(log.pinning().is_none(), "what waits is no reason to flush");
    // Up to the limit again: all of them are filled before another is made.
    let waiting = log.status().recycled_bytes;
    let ids = names(&storage, ".seg").len();
    loop {
        let body = support::body(OWNERS[0], 1, 6000);
        match owner.submit(RecordKind::Batch, body, Durability::Sync, Inline::Allowed) {
            Ok(submitted) => drop(submitted.wait().unwrap()),
            Err(LogError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        within(&log);
    }
    assert_eq!(log.status().recycled_bytes, 0);
    let again = image(&storage);
    let again = again.values().filter(|bytes| is_recycled(bytes)).count();
    assert!(again as u64 >= waiting / SEGMENT - 1, "{again}, {ids}");
    log.close().unwrap();
}

#[test]
fn a_longer_segment_and_a_full_device_take_the_room_of_files_that_wait() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), small()).unwrap();
    let written = owner(&log, OWNERS[0]);
    let_wait(&log, &written, 6);
    // No file that waits is long enough, and they and it are more than the limit.
    put(&written, 1, 11 * SEGMENT as usize, Durability::Sync);
    let status = log.status();
    assert!(status.bytes <= status.limit, "{status:?}");
    assert!(status.recycled_bytes < 6 * SEGMENT, "{status:?}");
    log.close().unwrap();

    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), small()).unwrap();
    let written = owner(&log, OWNERS[0]);
    let_wait(&log, &written, 6);
    let used: u64 = image(&storage)
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum();
    storage.set_capacity(Some(used));
    put(&written, 1, 3 * SEGMENT as usize, Durability::Sync);
    assert!(log.status().recycled_bytes < 6 * SEGMENT);
    log.close().unwrap();
}

/// While anybody has a file open it stays what it is, in this process and for who reads the directory.
#[test]
fn a_file_that_somebody_reads_is_not_filled_again() {
    let dir = tempfile::tempdir().unwrap();
    let real: Arc<dyn Storage> = Arc::new(DirStorage::new(dir.path()).unwrap());
    let reader: Arc<dyn Storage> = Arc::new(DirStorage::read_only(dir.path()).unwrap());
    let memory: Arc<dyn Storage> = Arc::new(MemStorage::new());
    for (storage, reader) in [(real, reader), (Arc::clone(&memory), memory)] {
        let (log, _) = Log::open(Arc::clone(&storage), small()).unwrap();
        let written = owner(&log, OWNERS[0]);
        while log.status().segments < 4 {
            put(&written, 1, 6000, Durability::Sync);
        }
        let (view, _) = LogView::open(Arc::clone(&reader)).unwrap();
        let before = contents_of(&view);
        let lines = view.dump().count();
        written.set_flushed(written.watermarks().durable);
        until("segments are gone", || log.status().segments == 1);
        assert_eq!(log.status().recycled_bytes, 0, "they were removed");
        for n in 0..20 {
            put(&written, n, 6000, Durability::Sync);
        }
        assert!(contents_of(&view) == before);
        assert_eq!(view.dump().count(), lines);
        drop(view);
        // Nobody reads them any more.
        while log.status().segments < 3 {
            put(&written, 1, 6000, Durability::Sync);
        }
        written.set_flushed(written.watermarks().durable);
        until("files wait", || log.status().recycled_bytes > 0);
        log.close().unwrap();
    }
}

/// Readers go on, record by record, while the files behind them are filled again.
#[test]
fn readers_and_views_beside_recycling_get_what_was_written_or_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::new(dir.path()).unwrap();
    let (log, _) = Log::open(Arc::new(storage), small()).unwrap();
    let written = owner(&log, OWNERS[0]);
    let ended = AtomicBool::new(false);
    let is_right = |record: &Record| {
        let n = record.seq().0;
        record.kind() != RecordKind::Batch
            || *record.body() == support::body(OWNERS[0], n, 2000 + n as usize % 3000)
    };
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut read = 0;
            while !ended.load(Ordering::Relaxed) {
                let end = written.watermarks().durable;
                let from = Seq(end.0.saturating_sub(60));
                for record in SeqRange::after(from, end)
                    .into_iter()
                    .flat_map(|range| written.read(range))
                {
                    match record {
                        Ok(record) => assert!(is_right(&record), "{record:?}"),
                        Err(LogError::Gap { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                    read += 1;
                }
            }
            read
        });
        let views = scope.spawn(|| {
            let mut viewed = 0;
            while !ended.load(Ordering::Relaxed) {
                let reader = DirStorage::read_only(dir.path()).unwrap();
                let Ok((view, _)) = LogView::open(Arc::new(reader)) else {
                    continue; // files went four times while it was opened
                };
                let instance = &view.instances()[0];
                let kept = SeqRange::after(instance.flushed, instance.has.max().unwrap());
                for record in kept.into_iter().flat_map(|kept| view.read(OWNERS[0], kept)) {
                    assert!(is_right(&record.unwrap()));
                }
                assert!(view.dump().all(|line| line.kind != "unreadable"));
                viewed += 1;
            }
            viewed
        });
        let mut filled_again = 0;
        let mut waited = 0;
        for _ in 0..3000 {
            let n = written.watermarks().assigned.next().0;
            let body = support::body(OWNERS[0], n, 2000 + n as usize % 3000);
            let put = written.submit(
                RecordKind::Batch,
                body,
                Durability::Buffered,
                Inline::Allowed,
            );
            match put {
                Ok(submitted) => assert_eq!(submitted.wait().unwrap().0, n),
                Err(LogError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            if n.is_multiple_of(40) {
                written.set_flushed(Seq(written.watermarks().durable.0.saturating_sub(30)));
            }
            let waits = log.status().recycled_bytes;
            filled_again += u64::from(waits < waited);
            waited = waits;
        }
        ended.store(true, Ordering::Relaxed);
        assert!(reads.join().unwrap() > 0);
        let _ = views.join().unwrap();
        assert!(filled_again > 0, "no file was filled again");
    });
    log.close().unwrap();
}

/// A header of version 1 or 9 of any segment and nonce, as who writes records could make it.
fn forged(version: u16, segment: u64, offset: u64) -> Vec<u8> {
    let mut bytes = b"WSHF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(segment.to_le_bytes());
    bytes.extend(77u64.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend([0; 8]);
    // It promises the end of that segment.
    bytes.extend(segment.to_le_bytes());
    bytes.extend(SEGMENT.to_le_bytes());
    bytes.extend([0; 12]);
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    assert_eq!(bytes.len(), 72);
    bytes
}

/// A file in which every place that was free is full of forged frames of the segment that it is to be.
fn full_of_forgeries(file: &[u8], segment: u64, version: u16, from: usize) -> Vec<u8> {
    let mut file = file.to_vec();
    let mut at = from.next_multiple_of(8);
    while at + 72 <= file.len() {
        file[at..at + 72].copy_from_slice(&forged(version, segment, at as u64));
        at += 72;
    }
    file
}

/// What records' bodies have left in a recycled file is nobody's frame, whatever it looks like.
#[test]
fn rule_09_frames_forged_in_old_bodies_never_pass_for_new() {
    // A spare: all of it but the mark is old.
    let storage = MemStorage::new();
    let log = open(&storage);
    let written = owner(&log, OWNERS[0]);
    let_wait(&log, &written, 3);
    let is_spare = |bytes: &[u8]| bytes.starts_with(b"WSHF") && bytes[6] == 2;
    while !image(&storage)
        .iter()
        .any(|(name, bytes)| name.ends_with(".seg") && is_spare(bytes))
    {
        put(&written, 1, 6000, Durability::Sync);
    }
    let durable = written.watermarks().durable;
    let files = image(&storage.crash(Survival::None));
    let (name, spare) = files
        .iter()
        .find(|(name, bytes)| name.ends_with(".seg") && is_spare(bytes))
        .unwrap();
    let id = u64::from_str_radix(&name[..16], 16).unwrap();
    assert!(files.keys().rfind(|name| name.ends_with(".seg")) == Some(name));
    for version in [1, 2, 9] {
        let left = storage_of(&files);
        left.put_file(name, full_of_forgeries(spare, id, version, 4096));
        let (log, report) = Log::open(Arc::new(left), options()).unwrap();
        assert_eq!(report.tail, LogEnd::Clean);
        let found = log.instance(OWNERS[0]).unwrap().watermarks().durable;
        assert!(found >= durable);
    }
    // Segments: behind the last frame, and in the gaps between synced ones.
    let files = recycled();
    let before = contents(&storage_of(&files));
    let (view, _) = LogView::open(Arc::new(storage_of(&files))).unwrap();
    let frames: Vec<_> = view
        .dump()
        .filter(|l| ["head", "frame"].contains(&l.kind.as_str()))
        .collect();
    for version in [1, 9] {
        let mut filled = files.clone();
        let mut gaps = 0;
        for (place, frame) in frames.iter().enumerate() {
            let bytes = filled
                .get_mut(&format!("{:016x}.seg", frame.segment))
                .unwrap();
            let end = (frame.offset + frame.len) as usize;
            let next = frames
                .get(place + 1)
                .filter(|next| next.segment == frame.segment);
            let next = next.map_or(bytes.len(), |next| next.offset as usize);
            gaps += usize::from(next > end + 80);
            let forged = full_of_forgeries(&bytes[..next], frame.segment, version, end);
            bytes[..next].copy_from_slice(&forged);
        }
        assert!(gaps > 5);
        let left = storage_of(&filled);
        assert_eq!(verify(Arc::new(left.clone())).unwrap().tail, LogEnd::Clean);
        assert!(contents(&left) == before);
        let log = open(&left);
        let swept = log.instances().into_iter().map(|instance| {
            let marks = instance.watermarks();
            let range = before[&instance.id()]
                .keys()
                .next()
                .map(|&first| (first, marks.durable));
            (
                instance.id(),
                range.and_then(|(first, last)| SeqRange::new(first, last)),
            )
        });
        let ranges = swept.filter_map(|(id, range)| Some((id, range?))).collect();
        let swept: usize = log
            .sweep(ranges)
            .unwrap()
            .map(|swept| swept.unwrap().into_records().len())
            .sum();
        assert!(swept >= before.values().map(BTreeMap::len).sum());
    }
}

/// A log whose owner takes a segment away between each listing and the opening that follows, for so many listings; and
/// from then on names one that is not there, if it is `stuck`.
#[derive(Debug)]
struct Fleeting {
    storage: MemStorage,
    listings: AtomicU64,
    fleeting: u64,
    stuck: bool,
    /// A file that the owner has claimed, and in how many openings of any file from now the claim ends.
    claimed: Mutex<Option<(Arc<dyn StorageFile>, u64)>>,
}

impl Storage for Fleeting {
    fn list(&self) -> std::io::Result<Vec<String>> {
        let mut names = self.storage.list()?;
        let listing = self.listings.fetch_add(1, Ordering::Relaxed);
        if listing < self.fleeting || self.stuck {
            names.push(format!("{:016x}.seg", 1000 + listing.min(self.fleeting)));
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> std::io::Result<Arc<dyn StorageFile>> {
        self.storage.create(name, len)
    }

    fn open(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
        let mut claimed = self.claimed.lock().unwrap();
        if let Some((file, left)) = &mut *claimed {
            *left -= 1;
            if *left == 0 {
                file.unclaim()?;
                *claimed = None;
            }
        }
        self.storage.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.storage.sync_dir()
    }

    fn free_bytes(&self) -> std::io::Result<Option<u64>> {
        self.storage.free_bytes()
    }
}

#[test]
fn a_view_starts_over_for_as_long_as_segments_come_and_go() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), small()).unwrap();
    let written = owner(&log, OWNERS[0]);
    put(&written, 1, 100, Durability::Sync);
    log.close().unwrap();
    let view = |fleeting, stuck| {
        let storage = Fleeting {
            storage: storage.clone(),
            listings: AtomicU64::new(0),
            fleeting,
            stuck,
            claimed: Mutex::new(None),
        };
        LogView::open(Arc::new(storage)).map(|(view, _)| view.instances().len())
    };
    assert_eq!(view(0, false).unwrap(), 1);
    assert_eq!(view(40, false).unwrap(), 1);
    // What stays so is no owner's doing.
    assert!(matches!(view(0, true), Err(OpenError::Io { .. })));
}

#[test]
fn a_view_waits_for_a_file_that_is_about_to_get_another_name() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), small()).unwrap();
    put(&owner(&log, OWNERS[0]), 1, 100, Durability::Sync);
    log.close().unwrap();
    drop(log);
    let name = &names(&storage, ".seg")[0];
    let file = storage.open(name).unwrap();
    assert!(file.claim().unwrap());
    let refused = storage.open(name).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ResourceBusy);
    let fleeting = Fleeting {
        storage: storage.clone(),
        listings: AtomicU64::new(0),
        fleeting: 0,
        stuck: false,
        claimed: Mutex::new(Some((file, 100))),
    };
    let (view, _) = LogView::open(Arc::new(fleeting)).unwrap();
    assert_eq!(view.instances().len(), 1);
}

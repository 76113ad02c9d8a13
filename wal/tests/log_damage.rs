//! The recovery table of FORMAT.md, label by label, and every byte of a small log flipped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Damage, DamageKind, Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogEnd,
    LogOptions, LogView, OpenError, Record, RecordKind, Seq, SeqRange, ShardId, Storage as _, Term,
    verify,
};

const ID: InstanceId = InstanceId(0xabc);
const SHARD: ShardId = ShardId(4);

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 4 << 20,
        // No mark frame unless the log is closed.
        buffered_sync_every: Duration::from_secs(3600),
        ..LogOptions::default()
    }
}

fn open(storage: &MemStorage) -> Result<(Log, watershed_wal::OpenReport), OpenError> {
    Log::open(Arc::new(storage.clone()), options())
}

fn owner(storage: &MemStorage) -> (Log, InstanceLog) {
    let (log, _) = open(storage).unwrap();
    let instance = log.host(SHARD, ID, Seq::ZERO, Vec::new()).unwrap();
    let term = Term::new(Epoch(1), 1);
    instance
        .start_term(term, Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    (log, instance)
}

fn put(instance: &InstanceLog, len: usize, durability: Durability) -> Seq {
    let body: Vec<u8> = (0..len).map(|i| (i * i * 7 + len) as u8).collect();
    instance
        .submit(RecordKind::Batch, body.into(), durability, Inline::Never)
        .unwrap()
        .wait()
        .unwrap()
}

/// A log of `count` synced records after its start record; crashed, so without a closing mark.
fn crashed(count: usize) -> MemStorage {
    let storage = MemStorage::new();
    let (_log, instance) = owner(&storage);
    for n in 0..count {
        put(&instance, 300 + n, Durability::Sync);
    }
    storage.crash(Survival::None)
}

fn closed(count: usize) -> MemStorage {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    for n in 0..count {
        put(&instance, 300 + n, Durability::Sync);
    }
    log.close().unwrap();
    storage.crash(Survival::None)
}

fn names(storage: &MemStorage) -> Vec<String> {
    let mut names = storage.list().unwrap();
    names.sort();
    names
}

/// Offsets of the frames of a segment, by their magic at a block or 8-byte boundary.
fn frames(storage: &MemStorage, name: &str) -> Vec<u64> {
    let bytes = storage.contents(name).unwrap();
    let starts = (0..bytes.len()).step_by(8);
    starts
        .filter(|&at| bytes[at..].starts_with(b"WSHF"))
        .map(|at| at as u64)
        .collect()
}

fn damage(storage: &MemStorage) -> Damage {
    let verified = match verify(Arc::new(storage.clone())) {
        Err(OpenError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    };
    // The same words from both.
    match open(storage) {
        Err(OpenError::Damaged(damage)) => assert_eq!(damage.to_string(), verified.to_string()),
        other => panic!("{other:?}"),
    }
    verified
}

fn durable(storage: &MemStorage) -> Seq {
    let (log, _) = open(storage).unwrap();
    log.instance(ID).unwrap().watermarks().durable
}

const FIRST: &str = "0000000000000001.seg";

#[test]
fn r1_a_clean_end() {
    let report = verify(Arc::new(crashed(3))).unwrap();
    assert_eq!((report.tail, report.records), (LogEnd::Clean, 4));
}

#[test]
fn r2_a_torn_tail_is_cut() {
    let storage = crashed(3);
    let last = *frames(&storage, FIRST).last().unwrap();
    storage.corrupt(FIRST, last + 100, 1).unwrap();
    let (log, report) = open(&storage).unwrap();
    assert!(
        matches!(report.tail, LogEnd::Torn { segment: 1, offset, .. } if offset <= last),
        "{report:?}"
    );
    assert_eq!(log.instance(ID).unwrap().watermarks().durable, Seq(3));
    drop(log);
    // Cut for good: the next opening finds a clean end.
    assert_eq!(verify(Arc::new(storage)).unwrap().tail, LogEnd::Clean);
}

#[test]
fn r3_damage_that_a_later_frame_promised_is_refused() {
    let storage = crashed(5);
    let frames = frames(&storage, FIRST);
    let hit = frames[frames.len() - 2];
    storage.corrupt(FIRST, hit + 200, 0x40).unwrap();
    // The frame before the last was durable when the last was written.
    let damage = damage(&storage);
    assert_eq!(
        (damage.segment, damage.what.clone()),
        (1, DamageKind::Payload)
    );
    assert_eq!(damage.shards, vec![(SHARD, SeqRange::new(Seq(5), Seq(5)))]);
    let text = damage.to_string();
    assert!(
        text.contains("shard 4 (Seqs 5..=5)") && text.contains("watershed wal repair"),
        "{text}"
    );
}

#[test]
fn r3_damage_before_what_the_successor_names_is_refused() {
    let storage = crashed(3);
    drop(open(&storage).unwrap());
    let last = *frames(&storage, FIRST).last().unwrap();
    storage.corrupt(FIRST, last + 80, 1).unwrap();
    assert_eq!(damage(&storage).segment, 1);
}

#[test]
fn r3_rot_of_the_last_frame_is_found_once_the_log_was_closed() {
    let storage = closed(3);
    let frames = frames(&storage, FIRST);
    storage
        .corrupt(FIRST, frames[frames.len() - 2] + 80, 1)
        .unwrap();
    assert_eq!(damage(&storage).segment, 1);
}

#[test]
fn r4_a_head_that_is_needed_is_damaged() {
    let storage = crashed(3);
    storage.corrupt(FIRST, 20, 1).unwrap();
    assert_eq!(damage(&storage).offset, 0);
    let storage = crashed(3);
    drop(open(&storage).unwrap());
    storage.corrupt(FIRST, 20, 1).unwrap();
    assert_eq!(damage(&storage).what, DamageKind::Head);
}

/// Changes a header and gives it a matching checksum again.
fn rewrite(storage: &MemStorage, at: u64, change: impl FnOnce(&mut [u8])) {
    let mut bytes = storage.contents(FIRST).unwrap();
    let at = usize::try_from(at).unwrap();
    change(&mut bytes[at..]);
    let crc = crc32fast::hash(&bytes[at..at + 68]);
    bytes[at + 68..at + 72].copy_from_slice(&crc.to_le_bytes());
    storage.put_file(FIRST, bytes);
}

#[test]
fn r5_a_newer_format_is_refused() {
    for at in [0, 1] {
        let storage = crashed(3);
        let at = if at == 0 {
            0
        } else {
            *frames(&storage, FIRST).last().unwrap()
        };
        rewrite(&storage, at, |header| header[4] = 9);
        let result = open(&storage);
        assert!(
            matches!(result, Err(OpenError::NewerFormat { found: 9, .. })),
            "{result:?}"
        );
    }
}

#[test]
fn r6_a_foreign_file_is_refused() {
    let storage = crashed(2);
    storage.put_file(
        "00000000000000ff.seg",
        b"SQLite format 3\0 and so on".to_vec(),
    );
    assert!(matches!(open(&storage), Err(OpenError::Foreign { .. })));
    let storage = crashed(2);
    storage.put_file("backup.seg", Vec::new());
    assert!(matches!(open(&storage), Err(OpenError::Foreign { .. })));
    let storage = crashed(2);
    storage.put_file("notes.txt", b"mine".to_vec());
    open(&storage).unwrap();
}

#[test]
fn r7_a_missing_segment_is_refused() {
    let storage = crashed(2);
    drop(open(&storage).unwrap());
    storage.remove(FIRST).unwrap();
    let result = open(&storage);
    assert!(
        matches!(result, Err(OpenError::MissingSegment { segment: 1, .. })),
        "{result:?}"
    );
}

#[test]
fn r7_a_segment_that_may_go_is_not_missed_and_its_rot_does_no_harm() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    while names(&storage).len() < 4 {
        put(&instance, 3000, Durability::Sync);
    }
    let last = put(&instance, 3000, Durability::Sync);
    let mut old = std::collections::BTreeMap::new();
    let mut keep = |storage: &MemStorage| {
        old.extend(names(storage).into_iter().map(|name| {
            let bytes = storage.contents(&name).unwrap();
            (name, bytes)
        }));
    };
    keep(&storage);
    instance.set_flushed(last);
    log.close().unwrap();
    drop((log, instance));
    // Once an opening has noted what may go, the head of the next says it.
    for _ in 0..3 {
        keep(&storage);
        let (log, _) = open(&storage).unwrap();
        while log.status().segments > 1 {
            std::thread::yield_now();
        }
    }
    let kept = names(&storage);
    assert_eq!(durable(&storage), last);
    // Their removal was lost with the power, and they have rotted since.
    let mut back = 0;
    for (name, mut bytes) in old {
        if !kept.contains(&name) && bytes.iter().any(|&byte| byte != 0) {
            bytes[60..2000].fill(0x5a);
            storage.put_file(&name, bytes);
            back += 1;
        }
    }
    assert!(back > 0);
    assert_eq!(durable(&storage), last);
    assert!(storage.contents(FIRST).is_none());
}

#[test]
fn r8_spares_and_torn_heads_are_passed_over() {
    let storage = crashed(2);
    storage.put_file("0000000000000010.seg", vec![0; 32 << 10]);
    let mut torn = storage.contents(FIRST).unwrap();
    torn[50..].fill(0);
    storage.put_file("0000000000000011.seg", torn);
    assert_eq!(durable(&storage), Seq(3));
    assert!(!names(&storage).contains(&"0000000000000010.seg".to_owned()));
}

#[test]
fn r8_a_segment_that_no_head_goes_on_from_is_passed_over() {
    let storage = crashed(2);
    let used = |storage: &MemStorage| {
        let mut names = names(storage).into_iter();
        names
            .rfind(|name| !frames(storage, name).is_empty())
            .unwrap()
    };
    // An opening began it and was cut off before the name was durable; the next went on from the segment before.
    let survivor = MemStorage::new();
    for name in names(&storage) {
        survivor.put_file(&name, storage.contents(&name).unwrap());
    }
    drop(open(&storage).unwrap());
    let begun = used(&storage);
    assert_ne!(begun, FIRST);
    survivor.put_file("0000000000000010.seg", vec![0; 32 << 10]);
    drop(open(&survivor).unwrap());
    assert!(used(&survivor) > begun);
    survivor.put_file(&begun, storage.contents(&begun).unwrap());
    assert_eq!(durable(&survivor), Seq(3));
    assert!(survivor.contents(&begun).is_none());
}

#[test]
fn r9_contents_that_do_not_decode_are_refused() {
    let storage = crashed(2);
    let last = *frames(&storage, FIRST).last().unwrap();
    // One item more than the payload holds.
    rewrite(&storage, last, |header| header[36] += 1);
    assert!(matches!(damage(&storage).what, DamageKind::Contents(_)));
}

fn records(view: &LogView, through: Seq) -> Result<Vec<Record>, watershed_wal::LogError> {
    view.read(ID, SeqRange::new(Seq(1), through).unwrap())
        .collect()
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    let mut last = Seq(1);
    for n in 0..70 {
        let durability = if n % 2 == 0 {
            Durability::Buffered
        } else {
            Durability::Sync
        };
        last = put(&instance, 400 + n * 5, durability);
    }
    instance
        .put_note("key", Bytes::from_static(b"value"))
        .unwrap()
        .wait()
        .unwrap();
    log.close().unwrap();
    let storage = storage.crash(Survival::None);
    let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
    let whole = records(&view, last).unwrap();
    let used: Vec<_> = names(&storage)
        .into_iter()
        .filter(|name| !frames(&storage, name).is_empty())
        .collect();
    assert!(used.len() >= 3, "{used:?}");
    let found = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for name in &used {
            let (storage, whole, found) = (storage.crash(Survival::All), &whole, &found);
            scope.spawn(move || {
                let len = storage.contents(name).unwrap().len() as u64;
                for at in 0..len {
                    // One bit of each byte, another one each time.
                    let bit = 1 << (at % 8);
                    storage.corrupt(name, at, bit).unwrap();
                    match LogView::open(Arc::new(storage.clone())) {
                        Ok((view, _)) => {
                            let instance = &view.instances()[0];
                            assert_eq!(instance.notes["key"], "value", "{name} at {at}");
                            assert_eq!(&records(&view, last).unwrap(), whole, "{name} at {at}");
                        }
                        Err(_) => {
                            found.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                    storage.corrupt(name, at, bit).unwrap();
                }
            });
        }
    });
    assert!(found.into_inner() > 20_000);
}

#[test]
fn a_view_of_a_running_log_sees_a_prefix_and_never_damage() {
    let storage = MemStorage::new();
    let (log, instance) = owner(&storage);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..400 {
                let seq = put(&instance, n * 3, Durability::Sync);
                if n % 50 == 49 {
                    instance.set_flushed(Seq(seq.0 - 20));
                }
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let promised = instance.watermarks().durable;
            let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
            let seen = view.instances().remove(0);
            assert!(seen.has.contiguous_after(Seq::ZERO) >= promised);
            if let Some(range) = SeqRange::after(seen.flushed, seen.has.max().unwrap_or_default()) {
                for record in view.read(ID, range) {
                    record.unwrap();
                }
            }
        }
    });
    log.close().unwrap();
}

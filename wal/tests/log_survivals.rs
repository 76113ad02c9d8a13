//! The power goes at every change of a small log, and every image that it may leave is opened: each subset of the unsynced
//! sectors and of the unsynced names, nothing drawn by lot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions, Record,
    RecordKind, Seq, SeqRange, ShardId, Term, verify,
};

const ID: InstanceId = InstanceId(1);
/// More than this at one change, and the log is not small.
const MOST: usize = 1 << 16;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 1 << 20,
        // By itself nothing is synced: what is buffered stays so until the next `Sync`.
        buffered_sync_every: Duration::from_secs(1 << 20),
        compress_from_bytes: usize::MAX,
        ..LogOptions::default()
    }
}

/// What the writer knows.
#[derive(Default)]
struct Told {
    submitted: BTreeMap<Seq, Bytes>,
    /// All up to here were acknowledged durable.
    durable: Seq,
    flushed: Seq,
}

fn write(
    told: &mut Told,
    log: &InstanceLog,
    len: usize,
    durability: Durability,
) -> Result<(), LogError> {
    let n = told.submitted.len();
    let body: Bytes = (0..len)
        .map(|i| (i * i + 7 * n + 1) as u8)
        .collect::<Vec<_>>()
        .into();
    let submitted = log.submit(RecordKind::Batch, body.clone(), durability, Inline::Allowed)?;
    let seq = submitted.seq;
    told.submitted.insert(seq, body);
    submitted.wait()?;
    if durability == Durability::Sync {
        told.durable = seq;
    }
    Ok(())
}

/// Rolls, also behind what is not synced, as each synced frame begins a block of its own, and truncates; a few sectors wait
/// for each sync.
fn live(storage: &MemStorage, told: &mut Told) -> Result<(), LogError> {
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).map_err(|_| LogError::Closed)?;
    let instance = log.host(ShardId(1), ID, Seq::ZERO, Vec::new())?;
    let started = instance.start_term(Term::new(Epoch(1), 1), Seq::ZERO)?;
    told.durable = started.wait()?;
    for round in 0..4 {
        write(told, &instance, 20, Durability::Buffered)?;
        write(told, &instance, 700, Durability::Buffered)?;
        write(told, &instance, 1300, Durability::Buffered)?;
        write(told, &instance, 1500 + 100 * round, Durability::Sync)?;
        write(told, &instance, 900, Durability::Sync)?;
        if round == 2 {
            told.flushed = told.durable;
            instance.set_flushed(told.flushed);
        }
    }
    log.close()
}

/// That what was promised is here, and nothing else; through an opening.
fn check(left: &MemStorage, told: &Told) {
    verify(Arc::new(left.clone())).unwrap();
    let (log, _) = Log::open(Arc::new(left.clone()), options()).unwrap();
    let Some(instance) = log.instance(ID) else {
        assert_eq!(told.durable, Seq::ZERO, "the hosting is lost");
        return;
    };
    let durable = instance.watermarks().durable;
    assert!(durable >= told.durable, "{durable:?} of {:?}", told.durable);
    let Some(range) = SeqRange::after(told.flushed, durable) else {
        return;
    };
    let found: Vec<Record> = instance.read(range).map(Result::unwrap).collect();
    let seqs = found.iter().map(Record::seq);
    assert!(seqs.eq(range.iter()), "not all of {range}");
    for record in found
        .iter()
        .filter(|record| record.kind() == RecordKind::Batch)
    {
        assert_eq!(told.submitted.get(&record.seq()), Some(record.body()));
    }
}

#[test]
fn every_image_that_a_power_loss_may_leave_holds_what_was_promised() {
    let storage = MemStorage::new();
    live(&storage, &mut Told::default()).unwrap();
    let total = storage.change_count();
    let (mut images, mut largest) = (0, 0);
    for at in 1..=total {
        let storage = MemStorage::new();
        storage.set_injector(Some(Injector::crash_at_change(at)));
        let mut told = Told::default();
        let _ = live(&storage, &mut told);
        let mut here = 0;
        for left in storage.crash_every_way() {
            check(&left, &told);
            here += 1;
            assert!(here <= MOST, "too many at change {at} to try them all");
        }
        images += here;
        largest = largest.max(here);
    }
    println!("{images} images of {total} changes, {largest} at most of one");
    assert!(largest >= 1 << 7, "no change left much open");
}

/// The enumeration is the whole of it: what seeds draw is among it, and so are both ends.
#[test]
fn all_that_seeds_draw_is_enumerated() {
    use watershed_wal::Storage;
    let make = || {
        let storage = MemStorage::new();
        let kept = storage.create("kept", 1536).unwrap();
        storage.create("gone", 512).unwrap();
        storage.sync_dir().unwrap();
        kept.write_at(0, &[1; 1024]).unwrap();
        kept.write_at(500, &[2; 24]).unwrap();
        storage.remove("gone").unwrap();
        storage
            .create("new", 512)
            .unwrap()
            .write_at(0, &[3])
            .unwrap();
        storage
    };
    let image = |left: &MemStorage| {
        let mut names = left.list().unwrap();
        names.sort();
        let contents = |name: String| (left.contents(&name).unwrap(), name);
        names.into_iter().map(contents).collect::<Vec<_>>()
    };
    let every: Vec<_> = make().crash_every_way().map(|left| image(&left)).collect();
    // Sectors 0 and 1 of `kept` have three states each; `new` is there with either of two, or not; `gone` is or is not.
    assert_eq!(every.len(), 3 * 3 * (2 + 1) * 2);
    let distinct: std::collections::BTreeSet<_> = every.iter().collect();
    assert_eq!(distinct.len(), every.len());
    let seeds = (0..2000).map(Survival::Seeded);
    for survival in seeds.chain([Survival::None, Survival::All]) {
        let left = image(&make().crash(survival));
        assert!(every.contains(&left), "{survival:?} is not among them");
    }
}

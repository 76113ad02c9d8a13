//! Makes the logs that are kept as test data, in a directory that is not there yet:
//!
//! ```text
//! cargo run -p watershed-wal --example keep_log -- wal/tests/data/v1
//! ```
//!
//! Each goes into a directory of its own, with the listing that every later version must read out of it. What was
//! kept once is never made again: a new format version gets a directory of its own.

#[path = "../tests/support/listing.rs"]
mod listing;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    Durability, Epoch, HoldBudget, Inline, InstanceId, InstanceLog, Log, LogOptions, LogView,
    RecordKind, Seq, SeqRange, ShardId, Storage, repair,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const OWNERS: [InstanceId; 2] = [InstanceId(0xa1), InstanceId(0xa2)];
const RECEIVER: InstanceId = InstanceId(0xb1);
const GONE: InstanceId = InstanceId(0xc1);
const BUDGET: HoldBudget = HoldBudget {
    bytes: 1 << 40,
    time: Duration::from_secs(1 << 30),
};

fn main() -> Outcome<()> {
    let to = std::env::args().nth(1).ok_or("name a directory to make")?;
    let to = Path::new(&to);
    std::fs::create_dir(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let closed = work(MemStorage::new(), 3)?;
    keep(&to.join("closed"), &closed)?;
    keep(&to.join("torn-tail"), &torn()?)?;
    keep(&to.join("repaired"), &repaired(&closed)?)?;
    keep(&to.join("truncated"), &truncated()?)?;
    keep(&to.join("recycled"), &recycled()?)?;
    Ok(())
}

fn open(storage: &MemStorage) -> Outcome<Log> {
    let options = LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 16 << 20,
        buffered_sync_every: Duration::from_secs(3600),
        ..LogOptions::default()
    };
    Ok(Log::open(Arc::new(storage.clone()), options)?.0)
}

fn submit(
    log: &InstanceLog,
    kind: RecordKind,
    body: Vec<u8>,
    durability: Durability,
) -> Outcome<Seq> {
    let submitted = log.submit(kind, body.into(), durability, Inline::Never)?;
    Ok(submitted.wait()?)
}

fn body(n: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| (i * i * 31 + n * 7) as u8).collect()
}

/// Several lives with records of every kind, some compressed, a receiver with a hole, holds, notes and marks.
fn work(storage: MemStorage, lives: u64) -> Outcome<MemStorage> {
    for life in 0..lives {
        let log = open(&storage)?;
        for (shard, id) in [(1, OWNERS[0]), (2, OWNERS[1]), (1, RECEIVER), (3, GONE)] {
            if life == 0 {
                log.host(ShardId(shard), id, Seq::ZERO, Vec::new())?;
            }
        }
        let owners = OWNERS.map(|id| log.instance(id));
        let owners = owners.into_iter().flatten().collect::<Vec<_>>();
        for owner in &owners {
            owner
                .start_term(owner.next_term(Epoch(1 + life / 2)), Seq::ZERO)?
                .wait()?;
        }
        for n in 0..6 {
            let durability = if n % 3 == 2 {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            submit(
                &owners[n as usize % 2],
                RecordKind::Batch,
                body(n, 40 + n * 31),
                durability,
            )?;
        }
        // Compressed.
        submit(
            &owners[1],
            RecordKind::Batch,
            vec![b'z'; 6000],
            Durability::Sync,
        )?;
        for kind in [
            RecordKind::Mark,
            RecordKind::PurgeMark,
            RecordKind::Repair,
            RecordKind::SealedHoles,
        ] {
            submit(&owners[0], kind, body(life, 9), Durability::Buffered)?;
        }
        let receiver = log.instance(RECEIVER).ok_or("no receiver")?;
        let end = owners[0].watermarks().assigned;
        for record in owners[0].read(SeqRange::new(Seq(1), end).ok_or("no records")?) {
            let record = record?;
            if record.seq().0 % 5 != 0 {
                receiver.append_at(vec![record])?.wait()?;
            }
        }
        owners[0].hold("kept", Seq(1), BUDGET)?;
        owners[1].hold(&format!("of life {life}"), Seq(1), BUDGET)?;
        if life > 0 {
            owners[1].release_hold(&format!("of life {}", life - 1))?;
            owners[0].put_note("gone again", Bytes::new())?.wait()?;
        }
        owners[0]
            .put_note("gone again", Bytes::from_static(b"soon"))?
            .wait()?;
        owners[1]
            .put_note("note", Bytes::from_static(b"\x00\xff its value"))?
            .wait()?;
        if life == 1 {
            log.forget(GONE)?;
        }
        log.close()?;
    }
    Ok(storage.crash(Survival::None))
}

/// The power goes while a frame is written: it is there in part.
fn torn() -> Outcome<MemStorage> {
    let storage = work(MemStorage::new(), 1)?;
    let log = open(&storage)?;
    let owner = log.instance(OWNERS[0]).ok_or("no owner")?;
    owner
        .start_term(owner.next_term(Epoch(1)), Seq::ZERO)?
        .wait()?;
    submit(&owner, RecordKind::Batch, body(1, 700), Durability::Sync)?;
    submit(
        &owner,
        RecordKind::Batch,
        body(2, 3000),
        Durability::Buffered,
    )?;
    let left = storage.crash(Survival::All);
    drop(log);
    let names = left.list()?;
    let written = |name: &&String| {
        left.contents(name)
            .is_some_and(|bytes| bytes.starts_with(b"WSHF"))
    };
    let last = names.iter().filter(written).max().ok_or("no segment")?;
    let mut bytes = left.contents(last).ok_or("no segment")?;
    let end = bytes.iter().rposition(|&byte| byte != 0).ok_or("empty")?;
    bytes[end - 1500..].fill(0);
    left.put_file(last, bytes);
    Ok(left)
}

/// A frame of the middle was unreadable, and was given up.
fn repaired(closed: &MemStorage) -> Outcome<MemStorage> {
    let storage = closed.crash(Survival::All);
    let (view, _) = LogView::open(Arc::new(storage.clone()))?;
    let hit = view
        .dump()
        .find(|line| line.instance == Some(OWNERS[0]) && line.seq == Some(Seq(3)));
    let hit = hit.ok_or("no such record")?;
    storage.corrupt(&format!("{:016x}.seg", hit.segment), hit.offset + 80, 1)?;
    let plan = repair::plan(&storage, &Default::default())?.ok_or("no damage")?;
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    plan.apply(&shared, &MemStorage::new())?;
    Ok(storage)
}

/// The oldest segments are gone, as all in them was flushed.
fn truncated() -> Outcome<MemStorage> {
    let storage = MemStorage::new();
    let log = open(&storage)?;
    let owner = log.host(ShardId(7), OWNERS[0], Seq(100), Vec::new())?;
    owner
        .start_term(owner.next_term(Epoch(4)), Seq(100))?
        .wait()?;
    for n in 0..30 {
        submit(&owner, RecordKind::Batch, body(n, 2000), Durability::Sync)?;
    }
    owner.set_flushed(Seq(120));
    while storage.contents("0000000000000001.seg").is_some() {
        std::thread::yield_now();
    }
    log.close()?;
    // With what it removed: only the process ends.
    Ok(storage.crash(Survival::All))
}

/// Segments in files that were others' before, and a spare in one.
fn recycled() -> Outcome<MemStorage> {
    let storage = MemStorage::new();
    let log = open(&storage)?;
    let owner = log.host(ShardId(7), OWNERS[0], Seq::ZERO, Vec::new())?;
    owner
        .start_term(owner.next_term(Epoch(1)), Seq::ZERO)?
        .wait()?;
    let fill = |segments: u64| -> Outcome<()> {
        while log.status().segments < segments {
            submit(&owner, RecordKind::Batch, body(5, 2500), Durability::Sync)?;
        }
        Ok(())
    };
    fill(5)?;
    owner.set_flushed(owner.watermarks().durable);
    while log.status().recycled_bytes < 4 * (32 << 10) {
        std::thread::yield_now();
    }
    fill(5)?;
    owner.set_flushed(owner.watermarks().durable);
    while log.status().segments > 1 {
        std::thread::yield_now();
    }
    fill(2)?;
    owner
        .put_note("note", Bytes::from_static(b"its value"))?
        .wait()?;
    log.close()?;
    Ok(storage.crash(Survival::None))
}

fn keep(to: &Path, storage: &MemStorage) -> Outcome<()> {
    std::fs::create_dir(to)?;
    for name in storage.list()? {
        let bytes = storage.contents(&name).ok_or("gone")?;
        // Spares that were made for it hold nothing, nor do files that wait.
        if name.ends_with(".seg") && bytes.iter().any(|&byte| byte != 0) {
            std::fs::write(to.join(name), bytes)?;
        }
    }
    let (view, report) = LogView::open(Arc::new(storage.clone()))?;
    std::fs::write(to.join("CONTENTS.txt"), listing::listing(&view, &report))?;
    println!("{}: {} records", to.display(), report.records);
    Ok(())
}

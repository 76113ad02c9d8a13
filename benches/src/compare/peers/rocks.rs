//! RocksDB with its own log.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, WriteBatch, WriteBufferManager,
    WriteOptions,
};

use crate::compare::contest::Contender;
use crate::compare::drive::{batches, stream, threads};
use crate::compare::error::CompareError;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "RocksDB";
pub(crate) const MODE: &str = "the same build, hardware CRC (checked); its own log, 4 files recycled, all filled once before; pipelined writes, concurrent \
     memtable; memtables of 64 MiB, 256 MiB together, block cache 128 MiB, compression and background jobs as Watershed's";

const MIB: usize = 1 << 20;
/// Logs that are written once and recycled before anything is measured: as in one that has run for a while, a sync
/// has then no new file length to record, however much a slice writes.
const PRIMED_LOGS: u64 = 4;
const MEMTABLE_BYTES: usize = 64 * MIB;
const MEMTABLES_BYTES: usize = 256 * MIB;

/// How a write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// Logged and synced.
    Synced,
    /// Logged.
    Written,
    /// In the memtable only.
    Off,
}

impl Log {
    fn options(self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self == Self::Synced);
        options.disable_wal(self == Self::Off);
        options
    }
}

fn options(buffers: &WriteBufferManager, log: Log) -> Options {
    let mut options = tuned(Options::default());
    options.set_write_buffer_manager(buffers);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    if log != Log::Off {
        options.set_recycle_log_file_num(4);
    }
    options
}

/// For replaying a log: into one memtable that holds all of it, or into ones of the usual size, each flushed once full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    OneMemtable,
    UsualMemtables,
}

pub(crate) fn recovering(base: Options, replay: Replay) -> Options {
    let mut options = tuned(base);
    options.set_write_buffer_size(match replay {
        Replay::OneMemtable => 3 << 30,
        Replay::UsualMemtables => MEMTABLE_BYTES,
    });
    // RocksDB reserves as much disk for a log as for its memtable, unless it is told how long logs may be.
    options.set_max_total_wal_size(2 << 30);
    options
}

fn tuned(mut options: Options) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(&Cache::new_lru_cache(128 * MIB));
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(3);
    options.set_enable_pipelined_write(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_bytes_per_sync(1 << 20);
    options
}

fn budget() -> WriteBufferManager {
    WriteBufferManager::new_write_buffer_manager(MEMTABLES_BYTES, false)
}

fn open(dir: &Path, databases: u64, log: Log) -> Result<Vec<DB>, CompareError> {
    let buffers = budget();
    let share = MEMTABLES_BYTES / usize::try_from(databases).unwrap_or(1);
    let open_one = |number| {
        let dir = dir.join(format!("{number}"));
        let db = DB::open(&options(&buffers, log), &dir)?;
        check_crc(&dir)?;
        if log != Log::Off {
            prime(&db, share.min(MEMTABLE_BYTES))?;
        }
        Ok(db)
    };
    (0..databases).map(open_one).collect()
}

/// A RocksDB that computes its checksums in software would be a straw man. It says at opening which it is.
fn check_crc(dir: &Path) -> Result<(), CompareError> {
    let file = dir.join("LOG");
    let said = std::fs::read_to_string(&file).map_err(CompareError::io("read", &file))?;
    let line = said.lines().find(|line| line.contains("Fast CRC32"));
    if line.is_some_and(|line| line.contains("supported: Supported")) {
        return Ok(());
    }
    Err(CompareError::SlowCrc)
}

/// Fills logs, so that the next ones are recycled.
fn prime(db: &DB, bytes: usize) -> Result<(), CompareError> {
    let piece = vec![b'p'; 64 << 10];
    for _ in 0..PRIMED_LOGS {
        for number in 0..bytes / piece.len() {
            db.put(number.to_be_bytes(), &piece)?;
        }
        db.flush()?;
    }
    Ok(())
}

fn of_databases(count: u64) -> String {
    if count == 1 {
        "1 database".into()
    } else {
        format!("{count} databases")
    }
}

/// Threads that wait for each write; with several databases each has its own.
pub(crate) fn blocking(writes: &Writes, databases: u64, count: u64, log: Log) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!(
            "{}, one put a call, {}",
            super::threads_named(count),
            of_databases(databases)
        ),
        in_flight: (log == Log::Synced).then_some(count),
        open: Box::new(move |dir| {
            let (all, how) = (open(dir, databases, log)?, log.options());
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |caller, key, value| {
                    Ok(of_caller(&all, caller).put_opt(key, value, &how)?)
                })
            }))
        }),
    }
}

/// Threads that wait for each write, to whichever database its key belongs to.
pub(crate) fn spread(writes: &Writes, databases: u64, count: u64, log: Log) -> Contender<'_> {
    let databases_named = of_databases(databases);
    Contender {
        peer: NAME,
        caller: format!("{count} threads, one put a call, keys over {databases_named}"),
        in_flight: (log == Log::Synced).then_some(count),
        open: Box::new(move |dir| {
            let (all, how) = (open(dir, databases, log)?, log.options());
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |_, key, value| {
                    // Keys begin with random bytes.
                    let of_key = key
                        .first_chunk()
                        .map_or(0, |first| u64::from_ne_bytes(*first));
                    Ok(of_caller(&all, of_key).put_opt(key, value, &how)?)
                })
            }))
        }),
    }
}

/// Threads that write batches.
pub(crate) fn batched(
    writes: &Writes,
    databases: u64,
    count: u64,
    size: usize,
    log: Log,
) -> Contender<'_> {
    let without = if log == Log::Off { ", no log" } else { "" };
    Contender {
        peer: NAME,
        caller: format!(
            "{}, batches of {size}, {}{without}",
            super::threads_named(count),
            of_databases(databases)
        ),
        in_flight: (log == Log::Synced).then_some(count * size as u64),
        open: Box::new(move |dir| {
            let (all, how) = (open(dir, databases, log)?, log.options());
            Ok(Box::new(move |slice, time| {
                // Which of its databases a caller writes next.
                let turn: Vec<_> = (0..count).map(std::sync::atomic::AtomicU64::new).collect();
                batches(count, size, slice, time, writes, |caller, group| {
                    let mut batch = WriteBatch::default();
                    group.for_each(|(key, value)| batch.put(key, value));
                    let order = std::sync::atomic::Ordering::Relaxed;
                    let next = usize::try_from(caller)
                        .ok()
                        .and_then(|caller| turn.get(caller));
                    let at = next.map_or(caller, |next| next.fetch_add(count, order));
                    Ok(of_caller(&all, at).write_opt(batch, &how)?)
                })
            }))
        }),
    }
}

/// An even stream of synchronous writes.
pub(crate) fn even(writes: &Writes, callers: u64, per_second: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("open loop, {callers} threads, 1 database"),
        in_flight: Some(callers),
        open: Box::new(move |dir| {
            let (all, how) = (open(dir, 1, Log::Synced)?, Log::Synced.options());
            Ok(Box::new(move |slice, time| {
                stream(
                    callers,
                    per_second,
                    slice,
                    time,
                    writes,
                    |caller, key, value| Ok(of_caller(&all, caller).put_opt(key, value, &how)?),
                )
            }))
        }),
    }
}

fn of_caller(all: &[DB], caller: u64) -> &DB {
    // Below the number of databases.
    &all[(caller % all.len() as u64) as usize]
}

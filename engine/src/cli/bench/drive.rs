//! One cell: callers that ask again as soon as they have their answer; a warm-up, then the time that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Pace;
use super::args::{Form, Load};
use super::cells::Cell;
use super::machine;
use super::mover::{self, Moves};
use super::stage::{Stage, absent_key, key, value};
use crate::cli::failure::{Failure, Kind};
use crate::cli::latency::Latencies;
use crate::cli::random::Random;
use crate::{Batch, Durability, Engine, Error, ScanOptions, ShardId, Write};

/// Entries of one scan.
const SCANNED: u64 = 100;
/// Of so many requests of a mixed load one is a write.
const MIXED: u64 = 10;
/// Writes in flight beside measured reads.
const BESIDE: u32 = 64;
/// How long until it is looked again whether anything was counted.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// What a thread of ours needs; the default of 2 MiB would be a gigabyte of addresses for 512 of them.
const STACK_BYTES: usize = 256 << 10;

/// What came of a cell in the time that counts.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) time: Duration,
    pub(super) asked: Tally,
    /// Writes beside the measured reads.
    pub(super) beside: Tally,
    pub(super) syncs: u64,
    /// Bytes handed to write calls: log, flushes, compactions.
    pub(super) file_bytes: Option<u64>,
    pub(super) moves: Option<Moves>,
}

/// What callers did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) writes: u64,
    /// Keys written, asked for, or scanned.
    pub(super) keys: u64,
    /// Keys and values of those that were written or found.
    pub(super) bytes: u64,
    pub(super) written_bytes: u64,
    /// Reads that found their key.
    pub(super) found: u64,
    pub(super) latencies: Latencies,
}

impl Tally {
    fn add(&mut self, done: Done, time: Duration) {
        self.requests += 1;
        self.latencies.add(time);
        self.keys += done.keys;
        self.bytes += done.bytes;
        if done.write {
            self.writes += 1;
            self.written_bytes += done.bytes;
        } else {
            self.found += u64::from(done.bytes > 0);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.writes += other.writes;
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.written_bytes += other.written_bytes;
        self.found += other.found;
        self.latencies.merge(&other.latencies);
    }
}

/// What one request did.
#[derive(Debug, Clone, Copy)]
struct Done {
    write: bool,
    keys: u64,
    bytes: u64,
}

impl Done {
    fn read(key: &str, value: Option<&Bytes>) -> Self {
        Self {
            write: false,
            keys: 1,
            bytes: value.map_or(0, |value| len(key.len() + value.len())),
        }
    }
}

/// One request, before it is asked.
#[expect(
    clippy::large_enum_variant,
    reason = "each caller has one at a time, which is used at once: a box would cost more than the move"
)]
enum Request {
    Write(Write, Done),
    Get(String),
    Scan(ScanOptions),
}

const WARM_UP: u8 = 0;
const COUNTS: u8 = 1;
const OVER: u8 = 2;

/// What the callers of a cell share.
struct Work {
    engine: Engine,
    load: Load,
    durability: Durability,
    shards: u64,
    value_bytes: usize,
    batch: u32,
    keys: u64,
    text: Bytes,
    phase: Arc<AtomicU8>,
    /// Whether any request has been counted, or a caller has ended.
    counted: Arc<AtomicBool>,
}

/// Tells that a caller has ended, however it did.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Work {
    fn of(stage: &Stage, cell: &Cell, phase: &Arc<AtomicU8>) -> Self {
        Self {
            engine: stage.engine.clone(),
            load: cell.load,
            durability: cell.durability.map_or(Durability::Sync, Durability::from),
            shards: cell.shards,
            value_bytes: cell.value_bytes as usize,
            batch: cell.batch,
            keys: stage.keys,
            text: stage.text.clone(),
            phase: Arc::clone(phase),
            counted: Arc::default(),
        }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn request(&self, random: &mut Random) -> Request {
        let number = random.below(self.keys);
        match self.load {
            Load::Put => self.write(random),
            Load::Mixed if random.below(MIXED) == 0 => self.write(random),
            Load::Get | Load::Mixed | Load::GetWhilePut => Request::Get(key(number)),
            Load::Miss => Request::Get(absent_key(number)),
            Load::Scan => Request::Scan(ScanOptions::all().from(key(number)).limit(SCANNED)),
        }
    }

    /// A single key goes to its own shard; a batch, which is of one shard, to any.
    fn write(&self, random: &mut Random) -> Request {
        let mut bytes = 0;
        let mut next = |random: &mut Random| {
            let key = key(random.below(self.keys));
            let value = value(&self.text, self.value_bytes, random);
            bytes += len(key.len() + value.len());
            (key, value)
        };
        let write = if self.batch == 1 {
            let (key, value) = next(random);
            self.engine.put(key, value)
        } else {
            let mut batch = Batch::new();
            for _ in 0..self.batch {
                let (key, value) = next(random);
                batch.put(key, value);
            }
            let shard = ShardId(random.below(self.shards));
            self.engine.shard(shard).write(batch)
        };
        let done = Done {
            write: true,
            keys: u64::from(self.batch),
            bytes,
        };
        Request::Write(write.durability(self.durability), done)
    }

    fn wait(&self, request: Request) -> Result<Done, Error> {
        match request {
            Request::Write(write, done) => write.wait().map(|_| done),
            Request::Get(key) => {
                let value = self.engine.get(&key).wait()?;
                Ok(Done::read(&key, value.as_ref()))
            }
            Request::Scan(options) => {
                let mut done = Done::read("", None);
                done.keys = 0;
                for entry in self.engine.scan(options) {
                    let entry = entry?;
                    done.keys += 1;
                    done.bytes += len(entry.key.len() + entry.value.len());
                }
                Ok(done)
            }
        }
    }

    async fn ask(&self, request: Request) -> Result<Done, Error> {
        match request {
            Request::Write(write, done) => write.await.map(|_| done),
            Request::Get(key) => {
                let value = self.engine.get(&key).await?;
                Ok(Done::read(&key, value.as_ref()))
            }
            Request::Scan(options) => {
                let mut done = Done::read("", None);
                done.keys = 0;
                let mut scan = self.engine.scan(options);
                while let Some(entry) = scan.next_entry().await {
                    let entry = entry?;
                    done.keys += 1;
                    done.bytes += len(entry.key.len() + entry.value.len());
                }
                Ok(done)
            }
        }
    }

    fn thread(&self, seed: u64) -> Result<Tally, Error> {
        let (mut random, mut tally) = (Random::new(seed), Tally::default());
        let _ends = Ends(&self.counted);
        while self.phase() != OVER {
            let begin = Instant::now();
            let done = self.wait(self.request(&mut random))?;
            if self.phase() == COUNTS {
                tally.add(done, begin.elapsed());
                self.counted.store(true, Ordering::Relaxed);
            }
        }
        Ok(tally)
    }

    async fn task(self: Arc<Self>, seed: u64) -> Result<Tally, Error> {
        let (mut random, mut tally) = (Random::new(seed), Tally::default());
        let _ends = Ends(&self.counted);
        while self.phase() != OVER {
            let begin = Instant::now();
            let done = self.ask(self.request(&mut random)).await?;
            if self.phase() == COUNTS {
                tally.add(done, begin.elapsed());
                self.counted.store(true, Ordering::Relaxed);
            }
        }
        Ok(tally)
    }
}

/// Callers that have begun.
enum Callers {
    Threads(Vec<std::thread::JoinHandle<Result<Tally, Error>>>),
    Tasks(JoinSet<Result<Tally, Error>>),
}

impl Callers {
    fn begin(work: Work, form: Form, count: u32, runtime: &Runtime) -> Result<Self, Failure> {
        let work = Arc::new(work);
        if form == Form::Async {
            let mut tasks = JoinSet::new();
            for seed in 0..count {
                let task = Arc::clone(&work).task(seed.into());
                tasks.spawn_on(task, runtime.handle());
            }
            return Ok(Self::Tasks(tasks));
        }
        let mut threads = Vec::new();
        for seed in 0..count {
            let own = Arc::clone(&work);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let begun = thread.spawn(move || own.thread(seed.into()));
            threads.push(begun.map_err(|error| {
                work.phase.store(OVER, Ordering::Relaxed);
                Failure::new(
                    Kind::Io,
                    format!("starting thread {seed} of {count}: {error}"),
                )
            })?);
        }
        Ok(Self::Threads(threads))
    }

    /// The sum of all, once each has ended.
    fn end(self, runtime: &Runtime) -> Result<Tally, Failure> {
        let mut results = Vec::new();
        match self {
            Self::Threads(threads) => {
                for thread in threads {
                    let joined = thread.join();
                    results.push(joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                }
            }
            Self::Tasks(tasks) => results = runtime.block_on(tasks.join_all()),
        }
        let mut sum = Tally::default();
        for tally in results {
            sum.merge(&tally?);
        }
        Ok(sum)
    }
}

/// Runs a cell.
pub(super) fn run(stage: &Stage, cell: &Cell, pace: Pace) -> Result<Measured, Failure> {
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let moved = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = stage
            .other
            .as_ref()
            .map(|other| scope.spawn(move || mover::keep_moving(&stage.engine, other, moved)));
        let measured = run_callers(stage, cell, pace, &phase);
        // Also after a failure: the mover must not go on for ever.
        moved.store(true, Ordering::Relaxed);
        let moves = mover.map(|mover| {
            mover
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mut measured = measured?;
        measured.moves = moves.transpose()?;
        Ok(measured)
    })
}

fn run_callers(
    stage: &Stage,
    cell: &Cell,
    pace: Pace,
    phase: &Arc<AtomicU8>,
) -> Result<Measured, Failure> {
    let work = Work::of(stage, cell, phase);
    let mut counted = vec![Arc::clone(&work.counted)];
    let callers = Callers::begin(work, cell.form, cell.in_flight, &stage.runtime)?;
    let beside = (cell.load == Load::GetWhilePut).then(|| {
        let work = Work {
            load: Load::Put,
            ..Work::of(stage, cell, phase)
        };
        counted.push(Arc::clone(&work.counted));
        Callers::begin(work, Form::Async, BESIDE, &stage.runtime)
    });
    std::thread::sleep(pace.warm_up);
    let before = Counters::now(stage);
    let begin = Instant::now();
    phase.store(COUNTS, Ordering::Relaxed);
    std::thread::sleep(pace.measured);
    // A row without a single request would tell nothing: on a slow or busy machine its time is longer.
    while !counted.iter().all(|any| any.load(Ordering::Relaxed)) {
        std::thread::sleep(LOOK_AGAIN);
    }
    phase.store(OVER, Ordering::Relaxed);
    let (time, after) = (begin.elapsed(), Counters::now(stage));
    let asked = callers.end(&stage.runtime);
    let beside = beside.transpose()?.map(|beside| beside.end(&stage.runtime));
    let (before, after) = (before?, after?);
    let written = after.file_bytes.zip(before.file_bytes);
    Ok(Measured {
        time,
        asked: asked?,
        beside: beside.transpose()?.unwrap_or_default(),
        syncs: after.syncs - before.syncs,
        file_bytes: written.map(|(after, before)| after - before),
        moves: None,
    })
}

struct Counters {
    /// Of the logs of both engines.
    syncs: u64,
    file_bytes: Option<u64>,
}

impl Counters {
    fn now(stage: &Stage) -> Result<Self, Error> {
        let mut syncs = stage.engine.status()?.log.syncs;
        if let Some(other) = &stage.other {
            syncs += other.status()?.log.syncs;
        }
        Ok(Self {
            syncs,
            file_bytes: machine::written_bytes(),
        })
    }
}

fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

//! What needs a process of its own: memory that nothing else uses, and a log that its process did not close.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use watershed::{Durability, Engine};
use watershed_wal::{Inline, RecordKind, single_put};

use super::error::CompareError;
use super::load::{VALUE_BYTES, Writes, numbers};
use super::peers::our_log::Shards;
use super::peers::rocks::{self, Replay};
use super::shim::Probe;
use crate::report::Row;
use crate::stats::{Better, Spread, ratios};

/// Shards of the recovered engine: enough that none of them flushes while its log is filled.
const RECOVERED_SHARDS: u64 = 32;
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Task {
    /// Writes all records to a fresh Watershed.
    FillOurs,
    /// Writes all records to a fresh RocksDB.
    FillRocks,
    /// Opens a Watershed and reads the last record; says how many seconds that took.
    OpenOurs,
    /// Opens a RocksDB, replaying into one memtable, and reads the last record; says how many seconds that took.
    OpenRocks,
    /// The same, replaying into memtables of the usual size.
    OpenRocksUsual,
    /// Fills a log alone; says how many bytes of memory that took.
    LogMemory,
}

#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    task: Task,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    records: u64,
    /// Of a Watershed; one that was filled by hand may have others.
    #[arg(long, default_value_t = RECOVERED_SHARDS)]
    shards: u64,
}

/// Does the task, says its result on one line, and waits to be killed: nothing is closed in order.
pub(crate) fn run(args: &ChildArgs) -> Result<(), CompareError> {
    let writes = Writes::new(VALUE_BYTES);
    let last = writes.nth(args.records - 1).0;
    let started = Instant::now();
    let say = |result: f64| {
        println!("{result}");
        let _ = std::io::stdout().flush();
        // Killed here, or the process that started this one is gone: either way nothing is closed.
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    };
    match args.task {
        Task::FillOurs => {
            let engine = open_ours(args)?;
            fill_ours(&engine, &writes, args.records)?;
            say(started.elapsed().as_secs_f64());
        }
        Task::OpenOurs => {
            let engine = open_ours(args)?;
            let found = engine.get(last).wait()?.is_some();
            say(if found {
                started.elapsed().as_secs_f64()
            } else {
                f64::NAN
            });
        }
        Task::FillRocks => {
            let db = open_rocks(&args.dir, Replay::OneMemtable)?;
            for number in numbers(0, 0).take(usize::try_from(args.records).unwrap_or(usize::MAX)) {
                let (key, value) = writes.nth(number);
                db.put(key, value)?;
            }
            say(started.elapsed().as_secs_f64());
        }
        Task::OpenRocks | Task::OpenRocksUsual => {
            let replay = match args.task {
                Task::OpenRocksUsual => Replay::UsualMemtables,
                _ => Replay::OneMemtable,
            };
            let db = open_rocks(&args.dir, replay)?;
            let found = db.get(last)?.is_some();
            say(if found {
                started.elapsed().as_secs_f64()
            } else {
                f64::NAN
            });
        }
        Task::LogMemory => {
            let shards = Shards::open(&args.dir, 16)?;
            let before = resident_bytes();
            fill_log(&shards, &writes, args.records)?;
            say(resident_bytes() - before);
        }
    }
    Ok(())
}

fn open_ours(args: &ChildArgs) -> Result<Engine, CompareError> {
    let options = Engine::options()
        .shards(args.shards)
        .log_limit_bytes(8 << 30)
        .write_buffer_bytes(16 << 30);
    Ok(options.open(args.dir.join("engine"))?)
}

fn fill_ours(engine: &Engine, writes: &Writes, records: u64) -> Result<(), CompareError> {
    const IN_FLIGHT: u64 = 256;
    use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
    let puts = stream::iter(0..records).map(|number| {
        let (key, value) = writes.nth(number);
        engine
            .put(key, value)
            .durability(Durability::Buffered)
            .into_future()
    });
    let in_flight = usize::try_from(IN_FLIGHT).unwrap_or(usize::MAX);
    let all = puts
        .buffer_unordered(in_flight)
        .try_for_each(|_| std::future::ready(Ok(())));
    Ok(pollster::block_on(all)?)
}

fn fill_log(shards: &Shards, writes: &Writes, records: u64) -> Result<(), CompareError> {
    for number in 0..records {
        let (key, value) = writes.nth(number);
        let body = single_put(&key, value);
        shards
            .of_caller(number)
            .submit(
                RecordKind::Batch,
                body,
                Durability::Buffered,
                Inline::Allowed,
            )?
            .wait()?;
    }
    Ok(shards.log.sync()?)
}

fn open_rocks(dir: &Path, replay: Replay) -> Result<rocksdb::DB, CompareError> {
    // Like Watershed it replays into memory and flushes later; this one has no setter.
    let base = rocksdb::Options::default().get_options_from_string(
        "avoid_flush_during_recovery=true;avoid_flush_during_shutdown=true",
    )?;
    let options = rocks::recovering(base, replay);
    Ok(rocksdb::DB::open(&options, dir.join("db"))?)
}

/// Memory of this process that is in use and not a file's.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}

/// A child that is killed when it is let go.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a task in a process of its own, and kills that once it has said its result.
fn ask(task: Task, dir: &Path, records: u64) -> Result<f64, CompareError> {
    let name = task
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    let program = std::env::current_exe().map_err(CompareError::io("find", "this program"))?;
    let child = Command::new(&program)
        .args(["child", &name, "--records", &records.to_string(), "--dir"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(CompareError::io("run", &program))?;
    let mut running = Running(child);
    let mut said = String::new();
    if let Some(out) = running.0.stdout.take() {
        let read = BufReader::new(out).read_line(&mut said);
        read.map_err(CompareError::io("read from", &program))?;
    }
    match said.trim().parse::<f64>() {
        Ok(result) if result.is_finite() => Ok(result),
        _ => Err(CompareError::Child { what: name, said }),
    }
}

/// What a recovery is measured with.
struct Logged {
    dir: tempfile::TempDir,
    records: u64,
    ours: String,
    theirs: String,
}

impl Logged {
    /// The same writes in both logs, of processes that were killed.
    fn fill(dir: &Path, quick: bool) -> Result<Self, CompareError> {
        let dir =
            tempfile::tempdir_in(dir).map_err(CompareError::io("make a directory in", dir))?;
        // Somewhat more than 130 bytes of log each.
        let records = if quick { 500_000 } else { 8_000_000 };
        ask(Task::FillOurs, dir.path(), records)?;
        ask(Task::FillRocks, dir.path(), records)?;
        let mib = |files: &Path, ending: &str| {
            Ok::<_, CompareError>(bytes_of(files, ending)? as f64 / MIB)
        };
        let ours = mib(&dir.path().join("engine/wal"), "")?;
        let theirs = mib(&dir.path().join("db"), ".log")?;
        Ok(Self {
            dir,
            records,
            ours: format!("{RECOVERED_SHARDS} shards, {ours:.0} MiB of log"),
            theirs: format!("1 database, {theirs:.0} MiB of log"),
        })
    }

    /// RocksDB's log as its process left it, where a recovery may change it.
    fn copy(&self) -> Result<tempfile::TempDir, CompareError> {
        fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> CompareError {
            let path = path.to_owned();
            move |source| CompareError::io("copy", path)(source)
        }
        let copy = tempfile::tempdir_in(self.dir.path()).map_err(failed(self.dir.path()))?;
        let (from, to) = (self.dir.path().join("db"), copy.path().join("db"));
        std::fs::create_dir(&to).map_err(failed(&to))?;
        for entry in std::fs::read_dir(&from).map_err(failed(&from))? {
            let path = entry.map_err(failed(&from))?.path();
            let Some(name) = path.file_name() else {
                continue;
            };
            std::fs::copy(&path, to.join(name)).map_err(failed(&path))?;
            // On the device already when the recovery begins, like the log that is not a copy.
            let file = std::fs::File::open(to.join(name)).map_err(failed(&path))?;
            file.sync_all().map_err(failed(&path))?;
        }
        Ok(copy)
    }
}

/// Bytes of the files in a directory whose names end so.
fn bytes_of(dir: &Path, ending: &str) -> Result<u64, CompareError> {
    let failed = |source| CompareError::io("read", dir)(source);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            bytes += entry.metadata().map_err(failed)?.len();
        }
    }
    Ok(bytes)
}

/// Opening after the process was killed, until the last record is read. RocksDB replays in two ways, and is compared in
/// both: into one memtable that holds everything, and into memtables of the usual size that are flushed on the way.
pub(crate) fn recovery(name: &str, dir: &Path, quick: bool) -> Result<Vec<Row>, CompareError> {
    let logged = Logged::fill(dir, quick)?;
    let (at, records) = (logged.dir.path(), logged.records);
    std::thread::sleep(Duration::from_secs(1));
    let (mut ours, mut one, mut usual) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(ask(Task::OpenOurs, at, records)?);
        one.push(ask(Task::OpenRocks, at, records)?);
        let copy = logged.copy()?;
        usual.push(ask(Task::OpenRocksUsual, copy.path(), records)?);
    }
    let fsync_ms = Probe::new(at)?.fsync_ms()?;
    let row = |how: &str, theirs: &[f64]| {
        let mut row = plain_row(name, "s", fsync_ms);
        row.peer = rocks::NAME.to_owned();
        row.ours = Spread::of(&ours).median;
        row.theirs = Spread::of(theirs).median;
        row.ours_caller.clone_from(&logged.ours);
        row.theirs_caller = format!("{}, {how}", logged.theirs);
        row.goal = Some(1.5);
        row.rounds = ours.len();
        row.set_ratio(ratios(&ours, theirs, Better::Less));
        row
    };
    Ok(vec![
        row("into one memtable, nothing flushed", &one),
        row("into memtables of 64 MiB, flushed once full", &usual),
    ])
}

/// The memory of a log of which no record may go.
pub(crate) fn log_memory(name: &str, dir: &Path, quick: bool) -> Result<Row, CompareError> {
    let dir = tempfile::tempdir_in(dir).map_err(CompareError::io("make a directory in", dir))?;
    let records = if quick { 1_000_000 } else { 10_000_000 };
    let bytes = ask(Task::LogMemory, dir.path(), records)? / MIB;
    let fsync_ms = Probe::new(dir.path())?.fsync_ms()?;
    let mut row = plain_row(name, "MiB", fsync_ms);
    row.peer = "a limit".to_owned();
    row.ours = bytes;
    row.theirs = 256.0;
    row.ours_caller = "16 shards, recent records included".to_owned();
    // The limit is for ten million.
    row.goal = (!quick).then_some(1.0);
    row.set_ratio(ratios(&[bytes], &[256.0], Better::Less));
    Ok(row)
}

fn plain_row(workload: &str, unit: &'static str, fsync_ms: f64) -> Row {
    Row {
        workload: workload.to_owned(),
        peer: String::new(),
        ours: f64::NAN,
        theirs: f64::NAN,
        unit,
        ratio_median: f64::NAN,
        ratio_min: f64::NAN,
        ratio_max: f64::NAN,
        goal: None,
        fsync_ms,
        rounds: 1,
        slice_seconds: None,
        ours_caller: String::new(),
        theirs_caller: String::new(),
        ours_syncs_per_1000: None,
        theirs_syncs_per_1000: None,
        ours_cpu_us_per_write: None,
        theirs_cpu_us_per_write: None,
        ours_written_bytes_per_write: None,
        theirs_written_bytes_per_write: None,
    }
}

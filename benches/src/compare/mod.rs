//! `make compare`: this engine, or its log alone, beside its peers.
//!
//! Everything runs in one process, in interleaved rounds, on one file system, below a library that counts syncs and can
//! slow them down for all alike. A ratio is of two slices of the same round; a contender whose acknowledgements its
//! syncs can't have covered ends the comparison.

mod child;
mod drive;
mod engine;
mod error;
mod load;
mod log;
mod peers;
mod rounds;
mod shim;
mod words;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use self::child::ChildArgs;
use self::error::CompareError;
use self::load::{KEY_BYTES, VALUE_BYTES, Writes};
use self::rounds::{Contest, Pace};
use self::shim::{Probe, Shim};
use crate::plot;
use crate::report::{Document, Meta, Mode, Row, table};

/// Ten minutes a side.
const SUSTAINED: Pace = Pace {
    rounds: 10,
    spare_rounds: 0,
    slice: Duration::from_secs(60),
    patience: Duration::ZERO,
};

/// Watershed and its peers, side by side on this machine.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The whole engine, beside RocksDB, fjall and redb.
    Engine(RunArgs),
    /// The log alone, beside raft-engine.
    Log(RunArgs),
    #[command(hide = true)]
    Child(ChildArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// About two minutes: shorter slices, and only what is short.
    #[arg(long)]
    quick: bool,
    /// One JSON document on standard output.
    #[arg(long)]
    json: bool,
    /// Where to write: a directory on the disk that counts. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Ten minutes of flushes and compactions for each side as well.
    #[arg(long)]
    long: bool,
    /// Every sync takes at least so many milliseconds, for all sides alike.
    #[arg(long, value_name = "N")]
    fsync_ms: Option<f64>,
    /// Only workloads whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Rounds that count. Default: 7 with --quick, else 9.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Milliseconds of each side in each round. Default: 120 with --quick, else 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slice_ms: Option<u32>,
    /// Where the picture of the ratios goes. Default: target/compare-WHAT.svg.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl RunArgs {
    fn pace(&self) -> Pace {
        let (rounds, slice) = if self.quick { (7, 120) } else { (9, 1000) };
        let rounds = self.rounds.map_or(rounds, usize::from);
        Pace {
            rounds,
            spare_rounds: rounds / 3,
            slice: Duration::from_millis(self.slice_ms.map_or(slice, u64::from)),
            patience: Duration::from_secs(if self.quick { 2 } else { 15 }),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }
}

/// Runs the command line. Exit status: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<ExitCode, CompareError> {
    let Some(shim) = Shim::attached()? else {
        return shim::run_again();
    };
    match &cli.what {
        What::Engine(args) => run(Compared::Engine, args, &shim)?,
        What::Log(args) => run(Compared::Log, args, &shim)?,
        What::Child(args) => child::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Engine,
    Log,
}

impl Compared {
    fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Log => "log",
        }
    }

    fn modes(self) -> Vec<Mode> {
        match self {
            Self::Engine => engine::modes(),
            Self::Log => log::modes(),
        }
    }
}

fn run(compared: Compared, args: &RunArgs, shim: &Shim) -> Result<(), CompareError> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("watershed-compare-")
        .tempdir_in(&parent)
        .map_err(CompareError::io("make a directory in", &parent))?;
    let plot = args.plot.clone();
    let default_plot = || PathBuf::from(format!("target/compare-{}.svg", compared.name()));
    let plot = plot.unwrap_or_else(default_plot);
    let pace = args.pace();
    let probe = Probe::new(dir.path())?;
    let meta = Meta {
        compared: compared.name(),
        quick: args.quick,
        rounds: pace.rounds,
        slice_seconds: pace.slice.as_secs_f64(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        file_system: file_system(dir.path())?,
        fsync_ms: probe.fsync_ms()?,
        fsync_ms_injected: args.fsync_ms,
        key_bytes: KEY_BYTES,
        value_bytes: VALUE_BYTES,
        modes: compared.modes(),
        plot: plot.display().to_string(),
    };
    let rows = rows(compared, args, dir.path(), shim, &probe)?;
    let document = Document { meta, rows };
    draw(&plot, &document)?;
    print(&document, args.json);
    Ok(())
}

/// Everything that was asked for, one after the other.
fn rows(
    compared: Compared,
    args: &RunArgs,
    dir: &Path,
    shim: &Shim,
    probe: &Probe,
) -> Result<Vec<Row>, CompareError> {
    let (small, large) = (Writes::new(VALUE_BYTES), Writes::new(log::LARGE));
    let contests = match compared {
        Compared::Engine => engine::contests(&small, args.quick),
        Compared::Log => log::contests(&small, &large),
    };
    let mut rows = Vec::new();
    for mut contest in contests
        .into_iter()
        .filter(|contest| args.wants(&contest.name))
    {
        if let Some(least) = args.fsync_ms {
            contest.least_sync = Duration::try_from_secs_f64(least / 1e3).unwrap_or_default();
        }
        rows.extend(run_one(contest, dir, args.pace(), shim, probe)?);
    }
    match compared {
        Compared::Engine if args.wants("recovery") => rows.push(child::recovery(dir, args.quick)?),
        Compared::Log if args.wants("log, memory") => {
            rows.push(child::log_memory(dir, args.quick)?)
        }
        _ => {}
    }
    if args.long && compared == Compared::Engine {
        rows.extend(run_one(
            engine::sustained(&small),
            dir,
            SUSTAINED,
            shim,
            probe,
        )?);
    }
    match &args.only {
        Some(only) if rows.is_empty() => Err(CompareError::NothingNamed(only.clone())),
        _ => Ok(rows),
    }
}

fn run_one(
    contest: Contest<'_>,
    dir: &Path,
    pace: Pace,
    shim: &Shim,
    probe: &Probe,
) -> Result<Vec<Row>, CompareError> {
    let (name, sides) = (contest.name.clone(), contest.contenders.len());
    let started = Instant::now();
    let rows = contest.run(dir, pace, shim, probe)?;
    let took = started.elapsed().as_secs_f64();
    eprintln!("{name}: {sides} sides, {took:.0} s");
    Ok(rows)
}

fn draw(plot: &Path, document: &Document) -> Result<(), CompareError> {
    if let Some(parent) = plot.parent() {
        std::fs::create_dir_all(parent).map_err(CompareError::io("create", parent))?;
    }
    std::fs::write(plot, plot::svg(document)).map_err(CompareError::io("write", plot))
}

fn print(document: &Document, json: bool) {
    let text = if json {
        serde_json::to_string_pretty(document).unwrap_or_default()
    } else {
        table(document)
    };
    // Who closed the pipe has read enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The file system that a directory is on; one in memory is refused.
fn file_system(dir: &Path) -> Result<String, CompareError> {
    let dir = dir.canonicalize().map_err(CompareError::io("find", dir))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(CompareError::io("read", "/proc/self/mounts"))?;
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len());
    let file_system = found.map_or("unknown", |(_, kind)| kind).to_owned();
    if file_system == "tmpfs" {
        return Err(CompareError::NoDevice { dir, file_system });
    }
    Ok(file_system)
}

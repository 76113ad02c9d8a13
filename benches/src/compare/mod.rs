//! `make compare`: this engine, or its log alone, beside its peers.
//!
//! Everything runs in one process, in interleaved rounds, on one file system, below a library that counts syncs and can
//! slow them down for all alike. A ratio is of two slices of the same round; a contender whose acknowledgements its
//! syncs can't have covered ends the comparison.

mod child;
mod contest;
mod drive;
mod engine;
mod error;
mod load;
mod log;
mod peers;
mod rounds;
mod rows;
mod shim;
mod words;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use self::child::ChildArgs;
use self::contest::{Contest, Pace};
use self::error::CompareError;
use self::load::{KEY_BYTES, VALUE_BYTES, Writes};
use self::shim::{Probe, Shim};
use crate::plot;
use crate::report::{Document, Meta, Mode, Row, table};

/// Rounds of the sustained load; with one more that warms up.
const SUSTAINED_ROUNDS: u16 = 10;
/// Ten minutes a side.
const LONG_SECONDS: u32 = 600;

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
    /// Ten minutes of flushes and compactions for each side as well; the same as --sustained-seconds 600.
    #[arg(long)]
    long: bool,
    /// So many seconds of flushes and compactions for each side as well.
    #[arg(long, value_name = "N", conflicts_with = "long", value_parser = clap::value_parser!(u32).range(10..))]
    sustained_seconds: Option<u32>,
    /// Every sync takes at least so many milliseconds, for all sides alike.
    #[arg(long, value_name = "N", value_parser = milliseconds)]
    fsync_ms: Option<f64>,
    /// Only rows whose workload contains this, and who takes part in them.
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
            pays_debts: false,
        }
    }

    /// The pace of the sustained load, where it was asked for.
    fn sustained(&self) -> Option<Pace> {
        let seconds = self
            .sustained_seconds
            .or(self.long.then_some(LONG_SECONDS))?;
        Some(Pace {
            rounds: SUSTAINED_ROUNDS.into(),
            spare_rounds: 0,
            slice: Duration::from_secs(seconds.into()) / u32::from(SUSTAINED_ROUNDS),
            patience: Duration::ZERO,
            pays_debts: true,
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }

    /// What is wanted of a contest, with the sync that was asked for.
    fn adapted<'a>(&self, contest: Contest<'a>) -> Option<Contest<'a>> {
        let mut contest = match &self.only {
            Some(only) => contest.only(only)?,
            None => contest,
        };
        if let Some(least) = self.fsync_ms {
            contest.least_sync = Duration::from_secs_f64(least / 1e3);
        }
        Some(contest)
    }
}

/// A time that a sync may be made to take.
fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=10_000.0).contains(&ms) => Ok(ms),
        _ => Err(format!(
            "{text:?} is not a number of milliseconds from 0 to 10000"
        )),
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
    let updates = Writes::of_keys(VALUE_BYTES, engine::SUSTAINED_KEYS);
    let contests = match compared {
        Compared::Engine => engine::contests(&small, args.quick),
        Compared::Log => log::contests(&small, &large),
    };
    let mut paced: Vec<(Contest<'_>, Pace)> = contests
        .into_iter()
        .filter_map(|contest| Some((args.adapted(contest)?, args.pace())))
        .collect();
    if let (Compared::Engine, Some(pace)) = (compared, args.sustained()) {
        paced.extend(
            args.adapted(engine::sustained(&updates))
                .map(|contest| (contest, pace)),
        );
    }
    let alone = Alone::of(compared).filter(|alone| args.wants(alone.name(args.quick)));
    if let (Some(only), true, None) = (&args.only, paced.is_empty(), alone) {
        return Err(CompareError::NothingNamed(only.clone()));
    }
    let expected: Duration = paced
        .iter()
        .map(|(contest, pace)| pace.expected(contest.contenders.len()))
        .sum();
    let expected = expected + alone.map_or(Duration::ZERO, |alone| alone.expected(args.quick));
    eprintln!("{}", announced(expected));
    let mut rows = Vec::new();
    for (contest, pace) in paced {
        rows.extend(run_one(contest, dir, pace, shim, probe)?);
    }
    if let Some(alone) = alone {
        eprintln!("{}", alone.name(args.quick));
        rows.extend(alone.rows(dir, args.quick)?);
    }
    Ok(rows)
}

/// What is told of the time before anything runs.
fn announced(expected: Duration) -> String {
    let seconds = expected.as_secs().max(1);
    let time = match seconds {
        0..120 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    };
    format!(
        "takes about {time} on a machine that does nothing else, and up to twice that where others use the disk"
    )
}

/// What runs in processes of its own, and not in rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    Recovery,
    LogMemory,
}

impl Alone {
    fn of(compared: Compared) -> Option<Self> {
        match compared {
            Compared::Engine => Some(Self::Recovery),
            Compared::Log => Some(Self::LogMemory),
        }
    }

    fn name(self, quick: bool) -> &'static str {
        match (self, quick) {
            (Self::Recovery, true) => "recovery of a log of 70 MB",
            (Self::Recovery, false) => "recovery of a log of 1 GiB",
            (Self::LogMemory, true) => "log, memory with 1 million live records",
            (Self::LogMemory, false) => "log, memory with 10 million live records",
        }
    }

    fn expected(self, quick: bool) -> Duration {
        Duration::from_secs(match (self, quick) {
            (Self::Recovery, true) => 15,
            (Self::Recovery, false) => 300,
            (Self::LogMemory, true) => 3,
            (Self::LogMemory, false) => 30,
        })
    }

    fn rows(self, dir: &Path, quick: bool) -> Result<Vec<Row>, CompareError> {
        match self {
            Self::Recovery => child::recovery(self.name(quick), dir, quick),
            Self::LogMemory => Ok(vec![child::log_memory(self.name(quick), dir, quick)?]),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["compare", "engine"].iter().chain(words);
        match Cli::try_parse_from(words)?.what {
            What::Engine(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_sustained_load_lasts_as_long_as_asked() {
        assert!(args(&["--quick"]).unwrap().sustained().is_none());
        let side = |words: &[&str]| {
            let pace = args(words).unwrap().sustained().unwrap();
            pace.slice * u32::try_from(pace.rounds).unwrap()
        };
        assert_eq!(side(&["--long"]), Duration::from_secs(600));
        assert_eq!(
            side(&["--sustained-seconds", "30"]),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--fsync-ms", "-1"],
            ["--fsync-ms", "NaN"],
            ["--rounds", "0"],
            ["--slice-ms", "x"],
            ["--sustained-seconds", "1"],
        ] {
            assert!(args(&bad).is_err(), "{bad:?}");
        }
        assert!(args(&["--long", "--sustained-seconds", "30"]).is_err());
    }

    #[test]
    fn the_sync_that_was_asked_for_is_everybodys() {
        let writes = Writes::new(VALUE_BYTES);
        let asked = args(&["--fsync-ms", "3.5", "--only", "1 writer"]).unwrap();
        let contests = engine::contests(&writes, true).into_iter();
        let adapted: Vec<_> = contests.filter_map(|one| asked.adapted(one)).collect();
        let names: Vec<_> = adapted.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["sync, 1 writer", "buffered, 1 writer"]);
        let slow = Duration::from_micros(3500);
        assert!(adapted.iter().all(|one| one.least_sync == slow));
    }

    #[test]
    fn the_time_it_takes_is_told_before() {
        assert!(announced(Duration::from_secs(100)).starts_with("takes about 100 seconds"));
        assert!(announced(Duration::from_secs(601)).starts_with("takes about 11 minutes"));
    }
}

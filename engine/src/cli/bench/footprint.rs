//! What shards cost by themselves: time to make and to open them, file handles, memory, threads.
//!
//! Each number is of a process of its own, the command itself run again, so that nothing else has used its memory: one
//! makes the engine, writes a little to every shard and is killed; one opens what that left, and closes; one opens that.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine;
use crate::cli::failure::{Failure, Kind};
use crate::cli::output::Answer;
use crate::cli::progress::Watch;
use crate::{Durability, Engine, Error, ShardId};

/// Keys that are written to each shard.
const KEYS: u64 = 10;
const VALUE: [u8; 100] = [b'v'; 100];
/// What an engine needs beside its shards.
const OTHER_FILES: u64 = 64;
/// Of each shard, once open and with one SST.
const FILES_PER_SHARD: u64 = 7;
const CLOSE: &str = "close\n";

/// One engine with so many shards.
#[derive(Debug, Serialize)]
pub(super) struct Footprint {
    pub(super) shards: u64,
    /// Why it was not measured.
    pub(super) skipped: Option<String>,
    pub(super) create_ms: Option<f64>,
    /// After the process before was killed.
    pub(super) open_after_kill_ms: Option<f64>,
    /// After it was closed.
    pub(super) open_ms: Option<f64>,
    /// Open, after it was closed.
    pub(super) files: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
}

/// What a process says that has opened its engine.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    ms: f64,
    files: Option<u64>,
    memory_bytes: Option<u64>,
    threads: Option<u64>,
}

/// Opens an engine and says what that took; `watershed bench` runs this, and nobody else.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct OpenArgs {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    shards: u64,
    /// Write to every shard before saying anything.
    #[arg(long)]
    fill: bool,
}

/// The process of its own: opens, says what it took, and waits to be told to close, or to be killed.
pub(in crate::cli) fn open_child(args: &OpenArgs) -> Result<Answer, Failure> {
    let before = (
        machine::open_files(),
        machine::memory_bytes(),
        machine::threads(),
    );
    let begin = Instant::now();
    let engine = Engine::options().shards(args.shards).open(&args.dir)?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    if args.fill {
        fill(&engine)?;
    }
    let more = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
    let opened = Opened {
        ms,
        files: more(machine::open_files(), before.0),
        memory_bytes: more(machine::memory_bytes(), before.1),
        threads: more(machine::threads(), before.2),
    };
    let line = serde_json::to_string(&opened).unwrap_or_default();
    crate::cli::output::print(&line)?;
    let mut said = String::new();
    // Nobody there any more means the same as being killed.
    let _ = std::io::stdin().read_line(&mut said);
    if said == CLOSE {
        engine.close()?;
    }
    Ok(Answer::printed())
}

fn fill(engine: &Engine) -> Result<(), Error> {
    for shard in engine.shards() {
        let shard: ShardId = shard;
        for number in 0..KEYS {
            let put = engine.shard(shard).put(format!("key/{number}"), VALUE);
            put.durability(Durability::Buffered).wait()?;
        }
    }
    Ok(())
}

/// Measures each of the counts. One that needs more handles than this process may have is a failure where it was
/// `asked` for, else it is skipped with its reason.
pub(super) fn measure(
    counts: &[u64],
    asked: bool,
    root: &Path,
    watch: &Watch,
) -> Result<Vec<Footprint>, Failure> {
    let mut all = Vec::new();
    for &shards in counts {
        watch.say(&format!("opening {shards} shards"));
        let needed = shards * FILES_PER_SHARD + OTHER_FILES;
        let short = machine::open_files_limit().filter(|limit| *limit < needed);
        all.push(match short {
            Some(limit) => {
                let reason = format!(
                    "{shards} shards need {needed} open files, and {limit} are allowed: ulimit -n {needed}"
                );
                if asked {
                    return Err(Failure::new(Kind::Io, reason));
                }
                skipped(shards, reason)
            }
            None => one(shards, root)?,
        });
    }
    Ok(all)
}

fn skipped(shards: u64, reason: String) -> Footprint {
    Footprint {
        shards,
        skipped: Some(reason),
        create_ms: None,
        open_after_kill_ms: None,
        open_ms: None,
        files: None,
        memory_bytes: None,
        threads: None,
    }
}

fn one(shards: u64, root: &Path) -> Result<Footprint, Failure> {
    let failed = |error: std::io::Error| Failure::file("make a directory in", root, &error);
    let parent = tempfile::tempdir_in(root).map_err(failed)?;
    let dir = parent.path().join("engine");
    // Killed when it is dropped.
    let (made, _) = Opener::start(&dir, shards, true)?;
    let (after_kill, opener) = Opener::start(&dir, shards, false)?;
    opener.close()?;
    let (opened, opener) = Opener::start(&dir, shards, false)?;
    opener.close()?;
    Ok(Footprint {
        shards,
        skipped: None,
        create_ms: Some(made.ms),
        open_after_kill_ms: Some(after_kill.ms),
        open_ms: Some(opened.ms),
        files: opened.files,
        memory_bytes: opened.memory_bytes,
        threads: opened.threads,
    })
}

/// A process that has opened an engine; killed when it is let go.
struct Opener(Child);

impl Drop for Opener {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Opener {
    fn start(dir: &Path, shards: u64, fill: bool) -> Result<(Opened, Self), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Kind::Io, format!("running this command again: {error}"))
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args([
            "bench-open",
            "--json",
            "--shards",
            &shards.to_string(),
            "--dir",
        ]);
        command
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if fill {
            command.arg("--fill");
        }
        let mut opener = Self(command.spawn().map_err(failed)?);
        let mut said = BufReader::new(opener.0.stdout.take().ok_or_else(nothing)?);
        let mut line = String::new();
        said.read_line(&mut line).map_err(failed)?;
        if let Ok(opened) = serde_json::from_str(&line) {
            return Ok((opened, opener));
        }
        // Not that line: the document of its failure, of several lines.
        let mut rest = line;
        while said.read_line(&mut rest).map_err(failed)? > 0 {}
        let document: Value = serde_json::from_str(&rest).map_err(|_| nothing())?;
        let why = document["error"]["message"].as_str().ok_or_else(nothing)?;
        Err(Failure::new(
            Kind::Engine,
            format!("opening {shards} shards: {why}"),
        ))
    }

    fn close(mut self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Kind::Io,
                format!("talking to a process of this command: {error}"),
            )
        };
        if let Some(mut to) = self.0.stdin.take() {
            to.write_all(CLOSE.as_bytes()).map_err(failed)?;
        }
        let status = self.0.wait().map_err(failed)?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::new(
                Kind::Engine,
                format!("a process that closed its engine ended with {status}"),
            ))
        }
    }
}

fn nothing() -> Failure {
    Failure::new(
        Kind::Io,
        "a process of this command ended without a word: see its standard error",
    )
}

//! `watershed bench`: this engine alone on this machine. Rates and times, no comparison and no verdict.
//!
//! ```text
//! args.rs    the flags                       stage.rs      an open engine with what its cells read
//! cells.rs   flags to a matrix of cells      drive.rs      one cell: callers, warm-up, the time that counts
//! mover.rs   a shard that keeps moving       footprint.rs  what shards cost: memory, handles, time to open
//! machine.rs the device and this process     report.rs     rows for a program, a table for a person
//! ```
//!
//! All on one disk, in a directory that is removed afterwards. It goes through the public API only.

mod args;
mod cells;
mod drive;
mod footprint;
mod machine;
mod mover;
mod report;
mod stage;

pub(in crate::cli) use args::BenchArgs;
pub(in crate::cli) use footprint::{OpenArgs, open_child};

use std::path::Path;
use std::time::Duration;

use super::failure::Failure;
use super::output::{Answer, Output};
use super::progress::Watch;
use cells::Cell;
use drive::Measured;
use machine::Probe;
use report::{Meta, Row};
use stage::Stage;

/// How long a cell runs.
#[derive(Debug, Clone, Copy)]
struct Pace {
    warm_up: Duration,
    measured: Duration,
}

pub(super) fn run(args: &BenchArgs, output: &Output) -> Result<Answer, Failure> {
    let cells = cells::of(args)?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let failed = |error: std::io::Error| Failure::file("make a directory in", &parent, &error);
    let root = tempfile::Builder::new()
        .prefix("watershed-bench-")
        .tempdir_in(&parent)
        .map_err(failed)?;
    let pace = args.pace();
    let watch = Watch::new(output);
    if !cells.is_empty() {
        let each = (pace.warm_up + pace.measured).as_secs_f64();
        let seconds = each * cells.len() as f64;
        watch.say(&format!(
            "{} rows, about {seconds:.0} s and the time to fill what is read",
            cells.len()
        ));
    }
    let probe = Probe::new(root.path())?;
    let meta = Meta::new(args, pace, probe.fsync_ms()?);
    let rows = measure(&cells, args.keys, pace, root.path(), &probe, &watch)?;
    let open = footprint::measure(
        &args.open_counts(),
        args.open.is_some(),
        root.path(),
        &watch,
    )?;
    Ok(Answer::new(
        report::text(&meta, &rows, &open),
        report::document(&meta, &rows, &open),
    ))
}

/// All cells, those of one stage one after the other; the rows come in the order of the cells.
fn measure(
    cells: &[Cell],
    keys: u64,
    pace: Pace,
    root: &Path,
    probe: &Probe,
    watch: &Watch,
) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Option<Row>> = cells.iter().map(|_| None).collect();
    for first in 0..cells.len() {
        if rows[first].is_some() {
            continue;
        }
        let together = |cell: &Cell| cell.stage() == cells[first].stage();
        let reads = cells.iter().any(|cell| together(cell) && cell.load.reads());
        let stage = Stage::open(root, &cells[first], keys, reads)?;
        for (cell, row) in cells.iter().zip(&mut rows) {
            if !together(cell) {
                continue;
            }
            watch.say(&cell.to_string());
            let before = probe.fsync_ms()?;
            let measured: Measured = stage.run(cell, pace)?;
            let fsync_ms = before.max(probe.fsync_ms()?);
            *row = Some(Row::new(cell, &measured, fsync_ms));
        }
        stage.close()?;
    }
    Ok(rows.into_iter().flatten().collect())
}

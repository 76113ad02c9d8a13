//! What was measured: a row for each cell, for a program and for a person.

use serde::Serialize;
use serde_json::{Value, json};

use super::Pace;
use super::args::BenchArgs;
use super::cells::{Cell, name};
use super::drive::{Measured, Tally};
use super::footprint::Footprint;
use crate::cli::output::{bytes, micros, thousands};

/// Where and how.
#[derive(Debug, Serialize)]
pub(super) struct Meta {
    quick: bool,
    cores: usize,
    seconds: f64,
    warm_up_seconds: f64,
    keys: u64,
    /// Before anything else ran.
    fsync_ms: f64,
}

impl Meta {
    pub(super) fn new(args: &BenchArgs, pace: Pace, fsync_ms: f64) -> Self {
        Self {
            quick: args.quick,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            seconds: pace.measured.as_secs_f64(),
            warm_up_seconds: pace.warm_up.as_secs_f64(),
            keys: args.keys,
            fsync_ms,
        }
    }
}

/// One cell and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    cell: Cell,
    seconds: f64,
    requests: u64,
    /// Requests that were writes.
    writes: u64,
    /// Keys a second: written, asked for, or scanned.
    per_s: f64,
    requests_per_s: f64,
    /// Keys and values written or found, in 10^6 bytes a second.
    mb_s: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// Point reads that found their key, scans that found any.
    found: u64,
    /// Syncs of the log for 1,000 writes.
    syncs_per_1000: Option<f64>,
    /// Bytes handed to write calls for each byte of keys and values written: log, flushes, compactions.
    written_per_byte: Option<f64>,
    /// The device's time for a sync beside this cell, in milliseconds: before or after it, whichever was longer.
    fsync_ms: f64,
    /// Of the load beside it.
    writes_beside_per_s: Option<f64>,
    moves: Option<Moved>,
}

#[derive(Debug, Serialize)]
struct Moved {
    done: u64,
    given_up: u64,
    copied_bytes: u64,
    longest_pause_ms: f64,
}

impl Row {
    pub(super) fn new(cell: &Cell, measured: &Measured, fsync_ms: f64) -> Self {
        let seconds = measured.time.as_secs_f64();
        let per_s = |count: u64| count as f64 / seconds;
        let (asked, beside) = (&measured.asked, &measured.beside);
        let writes = asked.writes + beside.writes;
        let written = asked.written_bytes + beside.written_bytes;
        let syncs = (writes > 0).then(|| measured.syncs as f64 * 1e3 / writes as f64);
        let of_files = |bytes: u64| (written > 0).then(|| bytes as f64 / written as f64);
        let Tally { latencies, .. } = asked;
        Self {
            cell: *cell,
            seconds,
            requests: asked.requests,
            writes: asked.writes,
            per_s: per_s(asked.keys),
            requests_per_s: per_s(asked.requests),
            mb_s: asked.bytes as f64 / 1e6 / seconds,
            p50_us: latencies.percentile(50),
            p99_us: latencies.percentile(99),
            p999_us: latencies.quantile(999, 1000),
            max_us: latencies.percentile(100),
            found: asked.found,
            syncs_per_1000: syncs,
            written_per_byte: measured.file_bytes.and_then(of_files),
            fsync_ms,
            writes_beside_per_s: (beside.writes > 0).then(|| per_s(beside.writes)),
            moves: measured.moves.as_ref().map(|moves| Moved {
                done: moves.done,
                given_up: moves.given_up,
                copied_bytes: moves.copied_bytes,
                longest_pause_ms: moves.longest_pause_us as f64 / 1e3,
            }),
        }
    }

    fn cells(&self) -> [String; 15] {
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |n| format!("{n:.1}"));
        let durability = self.cell.durability;
        [
            name(&self.cell.load),
            name(&self.cell.form),
            self.cell.in_flight.to_string(),
            durability.map_or_else(|| "-".into(), |how| name(&how)),
            self.cell.shards.to_string(),
            self.cell.value_bytes.to_string(),
            self.cell.batch.to_string(),
            // A rate is a whole number that fits.
            thousands(self.per_s as u64),
            format!("{:.1}", self.mb_s),
            micros(self.p50_us),
            micros(self.p99_us),
            micros(self.max_us),
            number(self.syncs_per_1000),
            number(self.written_per_byte),
            format!("{:.2}", self.fsync_ms),
        ]
    }

    /// What its columns do not say.
    fn beside(&self) -> Option<String> {
        let cell = self.cell;
        let moves = self.moves.as_ref().map(|moves| {
            format!(
                "while a shard moved {} times ({} given up, {} copied, longest pause {:.1} ms)",
                moves.done,
                moves.given_up,
                bytes(moves.copied_bytes),
                moves.longest_pause_ms
            )
        });
        let writes = self.writes_beside_per_s.map(|rate| {
            let rate = thousands(rate as u64);
            format!("while 64 writes in flight went through at {rate} a second")
        });
        let what = moves.or(writes)?;
        Some(format!("{cell}: {what}"))
    }
}

pub(super) fn document(meta: &Meta, rows: &[Row], open: &[Footprint]) -> Value {
    json!({ "meta": meta, "rows": rows, "open": open })
}

pub(super) fn text(meta: &Meta, rows: &[Row], open: &[Footprint]) -> String {
    let mut lines = vec![format!(
        "{} cores, one sync takes {:.2} ms; {} keys, {} s a row",
        meta.cores,
        meta.fsync_ms,
        thousands(meta.keys),
        meta.seconds
    )];
    if !rows.is_empty() {
        let header = [
            "load",
            "form",
            "in flight",
            "durability",
            "shards",
            "value B",
            "batch",
            "keys/s",
            "MB/s",
            "p50",
            "p99",
            "max",
            "syncs/1000",
            "written B/B",
            "sync ms",
        ];
        let mut cells = vec![header.map(str::to_owned)];
        cells.extend(rows.iter().map(Row::cells));
        lines.push(String::new());
        lines.extend(aligned(&cells, 4));
        let beside: Vec<String> = rows.iter().filter_map(Row::beside).collect();
        if !beside.is_empty() {
            lines.push(String::new());
        }
        lines.extend(beside);
    }
    if !open.is_empty() {
        let header = [
            "shards",
            "made in",
            "opened in",
            "after a kill",
            "open files",
            "memory",
            "threads",
        ];
        let mut cells = vec![header.map(str::to_owned)];
        cells.extend(
            open.iter()
                .filter(|one| one.skipped.is_none())
                .map(open_cells),
        );
        lines.push(String::new());
        lines.extend(aligned(&cells, 0));
        lines.extend(open.iter().filter_map(|one| one.skipped.clone()));
    }
    lines.join("\n")
}

fn open_cells(one: &Footprint) -> [String; 7] {
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".into(), |ms| format!("{ms:.0} ms"));
    let count = |count: Option<u64>| count.map_or_else(|| "-".into(), thousands);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    [
        thousands(one.shards),
        ms(one.create_ms),
        ms(one.open_ms),
        ms(one.open_after_kill_ms),
        count(one.files),
        one.memory_bytes.map_or_else(|| "-".into(), mib),
        count(one.threads),
    ]
}

/// Columns as wide as their widest cell: the first `words` to the left, the others to the right.
fn aligned<const N: usize>(cells: &[[String; N]], words: usize) -> Vec<String> {
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let pad = |(column, (cell, width)): (usize, (&String, usize))| match column {
        // The third is a number among words.
        2 => format!("{cell:>width$}"),
        _ if column < words => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    };
    let line = |row: &[String; N]| {
        let padded: Vec<String> = row.iter().zip(widths).enumerate().map(pad).collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::cells;
    use crate::cli::bench::mover::Moves;

    fn cell() -> Cell {
        #[derive(clap::Parser)]
        struct Bench {
            #[command(flatten)]
            args: BenchArgs,
        }
        let bench: Bench = clap::Parser::parse_from(["bench", "--in-flight", "8", "--migrate"]);
        cells::of(&bench.args).ok().unwrap()[0]
    }

    fn measured() -> Measured {
        let mut asked = Tally {
            requests: 2000,
            writes: 2000,
            keys: 2000,
            bytes: 280_000,
            written_bytes: 280_000,
            ..Tally::default()
        };
        asked.latencies.add(Duration::from_micros(100));
        Measured {
            time: Duration::from_secs(2),
            asked,
            syncs: 500,
            file_bytes: Some(560_000),
            moves: Some(Moves {
                done: 3,
                longest_pause_us: 4500,
                ..Moves::default()
            }),
            ..Measured::default()
        }
    }

    #[test]
    fn a_row_tells_its_cell_and_what_came_of_it() {
        let row = serde_json::to_value(Row::new(&cell(), &measured(), 0.1)).unwrap();
        for (field, value) in [
            ("load", json!("put")),
            ("form", json!("async")),
            ("in_flight", json!(8)),
            ("durability", json!("sync")),
            ("per_s", json!(1000.0)),
            ("syncs_per_1000", json!(250.0)),
            ("written_per_byte", json!(2.0)),
            ("mb_s", json!(0.14)),
            ("fsync_ms", json!(0.1)),
        ] {
            assert_eq!(row[field], value, "{field} of {row}");
        }
        assert_eq!(row["moves"]["longest_pause_ms"], 4.5);
        assert!(row["writes_beside_per_s"].is_null());
    }

    #[test]
    fn the_table_has_a_line_for_each_row_and_says_what_went_on_beside_it() {
        let meta = Meta {
            quick: true,
            cores: 4,
            seconds: 0.5,
            warm_up_seconds: 0.1,
            keys: 1000,
            fsync_ms: 0.1,
        };
        let text = text(&meta, &[Row::new(&cell(), &measured(), 0.1)], &[]);
        let lines: Vec<&str> = text.lines().collect();
        let wide = |line: &str| line.chars().count();
        assert_eq!(wide(lines[2]), wide(lines[3]), "{text}");
        assert!(
            lines[3].starts_with("put   async          8  sync"),
            "{text}"
        );
        assert!(
            lines[5].contains("moved 3 times") && lines[5].contains("4.5 ms"),
            "{text}"
        );
    }
}

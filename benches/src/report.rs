//! What a comparison found: its rows, its one JSON document, its table.

use serde::Serialize;

use crate::stats::Spread;

/// One comparison of this engine with a peer, or with a limit.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What both did.
    pub workload: String,
    /// With whom it is compared.
    pub peer: String,
    /// The median of this side, in `unit`.
    pub ours: f64,
    /// The median of the other side, in `unit`.
    pub theirs: f64,
    /// What both are counted in.
    pub unit: &'static str,
    /// The median of the rounds' ratios; more is better for this engine.
    pub ratio_median: f64,
    /// The worst round.
    pub ratio_min: f64,
    /// The best round.
    pub ratio_max: f64,
    /// The least ratio aimed at; none where none is set, or where a sync takes not about as long as the goal's.
    pub goal: Option<f64>,
    /// The device's time for one sync while this ran, in milliseconds.
    pub fsync_ms: f64,
    /// Rounds that counted.
    pub rounds: usize,
    /// Seconds of each side in each round; none where a round lasts until something is done.
    pub slice_seconds: Option<f64>,
    /// Who called this engine, and how.
    pub ours_caller: String,
    /// Who called the peer, and how.
    pub theirs_caller: String,
    /// Syncs of the device, or synchronous writes, for 1,000 of this engine's writes.
    pub ours_syncs_per_1000: Option<f64>,
    /// The same of the peer.
    pub theirs_syncs_per_1000: Option<f64>,
    /// Processor time of the whole process, user's and kernel's, for one of this engine's writes, in microseconds. It
    /// holds where other programs take the processor away.
    pub ours_cpu_us_per_write: Option<f64>,
    /// The same of the peer.
    pub theirs_cpu_us_per_write: Option<f64>,
    /// Bytes handed to write calls for one of this engine's writes: log, flushes and compactions of the slice. Writes into
    /// mapped memory are not in it.
    pub ours_written_bytes_per_write: Option<f64>,
    /// The same of the peer.
    pub theirs_written_bytes_per_write: Option<f64>,
}

impl Row {
    /// Whether the median reached the goal, where there is one.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.goal.map(|goal| self.ratio_median >= goal)
    }

    /// Sets the ratio's three numbers.
    pub fn set_ratio(&mut self, ratio: Spread) {
        self.ratio_median = ratio.median;
        self.ratio_min = ratio.min;
        self.ratio_max = ratio.max;
    }
}

/// Where and how a comparison ran.
#[derive(Clone, Debug, Serialize)]
pub struct Meta {
    /// `log` or `engine`.
    pub compared: &'static str,
    /// Shorter slices, and only what is short.
    pub quick: bool,
    /// Rounds of each workload, unless its row says otherwise.
    pub rounds: usize,
    /// Seconds of each side in each round, unless the row says otherwise.
    pub slice_seconds: f64,
    /// Cores that this process may use.
    pub cores: usize,
    /// The directory's file system.
    pub file_system: String,
    /// The median time of one sync on it, nothing else running here, in milliseconds.
    pub fsync_ms: f64,
    /// The least time of a sync asked for with `--fsync-ms`.
    pub fsync_ms_injected: Option<f64>,
    /// Bytes of each key and value, unless the row says otherwise.
    pub key_bytes: usize,
    /// See `key_bytes`.
    pub value_bytes: usize,
    /// How each peer was set up.
    pub modes: Vec<Mode>,
    /// Where the plot is.
    pub plot: String,
}

/// How a peer was set up.
#[derive(Clone, Debug, Serialize)]
pub struct Mode {
    /// The peer.
    pub peer: &'static str,
    /// Its set-up, in words.
    pub mode: &'static str,
}

/// The whole of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// Where and how.
    pub meta: Meta,
    /// What came of it.
    pub rows: Vec<Row>,
}

/// A goal, and the time of a sync at which it is one.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The least ratio.
    pub ratio: f64,
    /// At about this time of a sync, in milliseconds; none: at any.
    pub fsync_ms: Option<f64>,
}

impl Goal {
    /// The goal's ratio where a sync takes `fsync_ms`: between half and twice its own time.
    #[must_use]
    pub fn at(&self, fsync_ms: f64) -> Option<f64> {
        match self.fsync_ms {
            Some(own) if fsync_ms < own / 2.0 || fsync_ms > own * 2.0 => None,
            _ => Some(self.ratio),
        }
    }
}

/// The document as a person reads it.
#[must_use]
pub fn table(document: &Document) -> String {
    let meta = &document.meta;
    let mut lines = vec![
        format!(
            "{} cores, {}, one sync takes {:.3} ms; {} interleaved rounds of {} s a side{}",
            meta.cores,
            meta.file_system,
            meta.fsync_ms,
            meta.rounds,
            meta.slice_seconds,
            if meta.quick { " (quick)" } else { "" },
        ),
        String::new(),
    ];
    let header = [
        "workload",
        "peer",
        "ours",
        "theirs",
        "ratio",
        "spread",
        "goal",
        "",
        "sync ms",
        "syncs/1000",
        "CPU us",
        "written B",
        "our caller",
        "their caller",
    ];
    let mut cells = vec![header.map(str::to_owned)];
    cells.extend(document.rows.iter().map(row_cells));
    lines.extend(aligned(&cells));
    lines.push(String::new());
    for mode in &meta.modes {
        lines.push(format!("{}: {}", mode.peer, mode.mode));
    }
    lines.push("syncs/1000, CPU us, written B: ours / theirs, of a write; the ratio is turned so that more is better".into());
    lines.push(format!("plot: {}", meta.plot));
    lines.join("\n")
}

fn row_cells(row: &Row) -> [String; 14] {
    let both = |ours: Option<f64>, theirs: Option<f64>| {
        let [ours, theirs] = [ours, theirs].map(|n| n.map_or_else(|| "-".into(), short));
        format!("{ours} / {theirs}")
    };
    [
        row.workload.clone(),
        row.peer.clone(),
        format!("{} {}", grouped(row.ours), row.unit),
        format!("{} {}", grouped(row.theirs), row.unit),
        format!("{:.2}", row.ratio_median),
        format!("{:.2} .. {:.2}", row.ratio_min, row.ratio_max),
        row.goal
            .map_or_else(|| "-".into(), |goal| format!("{goal}")),
        match row.met() {
            Some(true) => "met".into(),
            Some(false) => "below".into(),
            None => String::new(),
        },
        format!("{:.3}", row.fsync_ms),
        both(row.ours_syncs_per_1000, row.theirs_syncs_per_1000),
        both(row.ours_cpu_us_per_write, row.theirs_cpu_us_per_write),
        both(
            row.ours_written_bytes_per_write,
            row.theirs_written_bytes_per_write,
        ),
        row.ours_caller.clone(),
        row.theirs_caller.clone(),
    ]
}

/// Columns as wide as their widest cell: words to the left, numbers to the right.
fn aligned<const N: usize>(cells: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let padded = row.iter().zip(widths).enumerate();
        let padded: Vec<String> = padded
            .map(|(column, (cell, width))| match column {
                0 | 1 | 7 | 12 | 13 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

/// A number of three digits or so.
fn short(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// A number with its thousands apart; a small one keeps what is behind its point.
#[must_use]
pub fn grouped(number: f64) -> String {
    if !number.is_finite() || number.abs() < 100.0 {
        return short(number);
    }
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(ratio: f64, goal: Option<f64>) -> Row {
        Row {
            workload: "sync, 64 in flight".into(),
            peer: "RocksDB".into(),
            ours: 123_456.0,
            theirs: 30_864.0,
            unit: "writes/s",
            ratio_median: ratio,
            ratio_min: ratio - 0.5,
            ratio_max: ratio + 0.5,
            goal,
            fsync_ms: 0.07,
            rounds: 7,
            slice_seconds: Some(0.25),
            ours_caller: "one caller, 64 in flight".into(),
            theirs_caller: "64 threads".into(),
            ours_syncs_per_1000: Some(15.6),
            theirs_syncs_per_1000: None,
            ours_cpu_us_per_write: Some(5.0),
            theirs_cpu_us_per_write: Some(12.5),
            ours_written_bytes_per_write: Some(160.0),
            theirs_written_bytes_per_write: Some(150.0),
        }
    }

    pub(crate) fn document(rows: Vec<Row>) -> Document {
        let meta = Meta {
            compared: "engine",
            quick: true,
            rounds: 7,
            slice_seconds: 0.25,
            cores: 4,
            file_system: "ext4".into(),
            fsync_ms: 0.073,
            fsync_ms_injected: None,
            key_bytes: 16,
            value_bytes: 100,
            modes: vec![Mode {
                peer: "RocksDB",
                mode: "its own log",
            }],
            plot: "plot.svg".into(),
        };
        Document { meta, rows }
    }

    #[test]
    fn a_goal_counts_where_a_sync_takes_about_as_long_as_its_own() {
        let goal = Goal {
            ratio: 4.0,
            fsync_ms: Some(0.1),
        };
        assert_eq!(goal.at(0.07), Some(4.0));
        assert_eq!(goal.at(0.2), Some(4.0));
        assert_eq!(goal.at(0.04), None);
        assert_eq!(goal.at(1.0), None);
        let everywhere = Goal {
            fsync_ms: None,
            ..goal
        };
        assert_eq!(everywhere.at(20.0), Some(4.0));
    }

    #[test]
    fn the_document_has_the_fields_that_were_asked_for() {
        let document = document(vec![row(4.0, None), row(4.0, Some(3.0))]);
        let json = serde_json::to_value(&document).unwrap();
        let row = json["rows"][0].as_object().unwrap();
        for field in [
            "workload",
            "peer",
            "ours",
            "theirs",
            "ratio_median",
            "ratio_min",
            "ratio_max",
            "goal",
            "fsync_ms",
        ] {
            assert!(row.contains_key(field), "{field} in {row:?}");
        }
        assert!(row["goal"].is_null());
        assert_eq!(json["rows"][1]["goal"], 3.0);
        assert_eq!(json["meta"]["cores"], 4);
    }

    #[test]
    fn the_table_says_which_goals_are_met() {
        let rows = vec![row(4.0, Some(4.0)), row(3.99, Some(4.0)), row(1.0, None)];
        let table = table(&document(rows));
        let lines: Vec<&str> = table.lines().skip(3).take(3).collect();
        assert!(lines[0].contains("  4  met"), "{table}");
        assert!(lines[1].contains("  4  below"), "{table}");
        assert!(!lines[2].contains("met") && !lines[2].contains("below"));
        assert!(lines[0].contains("123,456 writes/s"));
        assert!(lines[0].contains("3.50 .. 4.50"));
        assert!(lines[0].contains("15.6 / -"));
        assert!(lines[0].contains("5.00 / 12.5"));
        assert!(lines[0].contains("160 / 150"));
        assert!(
            lines[0].ends_with("one caller, 64 in flight  64 threads"),
            "{table}"
        );
    }

    #[test]
    fn columns_line_up() {
        let cells = [["a", "b", "1"], ["long", "b", "100"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&cells), ["a     b    1", "long  b  100"]);
    }

    #[test]
    fn thousands_are_apart() {
        let all = [0.25, 12.34, 123.4, 1234.0, 1_234_567.0].map(grouped);
        assert_eq!(all, ["0.25", "12.3", "123", "1,234", "1,234,567"]);
    }
}

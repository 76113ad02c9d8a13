//! The flags of `watershed bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::Pace;
use crate::cli::args::DurabilityArg;

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Load {
    /// Writes of random keys.
    Put,
    /// Point reads of keys that are there.
    Get,
    /// Point reads of keys that are not there.
    Miss,
    /// Scans of 100 entries from a random key on.
    Scan,
    /// Nine reads for each write.
    Mixed,
    /// Point reads, while 64 writes are in flight that are not measured.
    GetWhilePut,
}

impl Load {
    pub(super) fn reads(self) -> bool {
        self != Self::Put
    }

    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Mixed | Self::GetWhilePut)
    }
}

/// How the callers call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Tasks of an asynchronous runtime with two threads.
    Async,
    /// A thread for each request in flight.
    Blocking,
}

/// Without any of the lists: a matrix of what is asked most. With one or more: every combination of them.
#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct BenchArgs {
    /// A few seconds instead of two minutes, with rougher figures and fewer cells.
    #[arg(long)]
    pub(super) quick: bool,
    /// Measure on the disk of this directory, in a temporary directory made and removed there.
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// What the callers do. [default: put]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub(super) load: Vec<Load>,
    /// Numbers of shards, 1 to 1000. [default: 16]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) shards: Vec<u64>,
    /// How the callers call. [default: async]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub(super) form: Vec<Form>,
    /// Numbers of requests in flight: tasks, or threads where the form is blocking. [default: 256]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) in_flight: Vec<u32>,
    /// When a write counts as done. [default: sync]
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub(super) durability: Vec<DurabilityArg>,
    /// Bytes of a value, to 16 MiB. [default: 128]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=16 << 20))]
    pub(super) value_bytes: Vec<u32>,
    /// Keys of a write; more than one is an atomic batch in one shard. [default: 1]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) batch: Vec<u32>,
    /// Move a shard to a second engine and back all the while.
    #[arg(long)]
    pub(super) migrate: bool,
    /// Keys that are written and read.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(super) keys: u64,
    /// How long each cell is measured. [default: 5, 0.5 with --quick]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(super) seconds: Option<Duration>,
    /// How long each cell runs before that. [default: 1, 0.1 with --quick]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(super) warm_up: Option<Duration>,
    /// Memory, file handles and time to open with so many shards, 1 to 10000, each in a process of its own; alone, only this.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) open: Option<Vec<u64>>,
}

impl BenchArgs {
    /// Whether a list of the matrix was given.
    pub(super) fn names_cells(&self) -> bool {
        !(self.load.is_empty()
            && self.shards.is_empty()
            && self.form.is_empty()
            && self.in_flight.is_empty()
            && self.durability.is_empty()
            && self.value_bytes.is_empty()
            && self.batch.is_empty()
            && !self.migrate)
    }

    pub(super) fn pace(&self) -> Pace {
        let (warm_up, measured) = if self.quick { (100, 500) } else { (1000, 5000) };
        Pace {
            warm_up: self.warm_up.unwrap_or(Duration::from_millis(warm_up)),
            measured: self.seconds.unwrap_or(Duration::from_millis(measured)),
        }
    }

    /// The numbers of shards that are opened to see what they cost.
    pub(super) fn open_counts(&self) -> Vec<u64> {
        match &self.open {
            Some(counts) => counts.clone(),
            None if self.names_cells() => vec![],
            None if self.quick => vec![16],
            None => vec![16, 100, 1000],
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!(
            "{text:?} is not a number of seconds from 0.01 to 86400"
        )),
    }
}

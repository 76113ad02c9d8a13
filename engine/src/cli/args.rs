//! The commands and their flags, as a user types them.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::bench::{BenchArgs, OpenArgs};
use super::demo::Kill;
use super::node::NodeArgs;
use super::place::PlaceArgs;
use super::shards::{DrainArgs, RebalanceArgs, ShardCommand};
use crate::Durability;
use crate::net::{Role, certs};

/// Where a local engine is, unless `--dir` names another place.
pub(super) const DEFAULT_DIR: &str = "watershed-data";
/// Where a cluster's authority is, unless `--dir` names another place.
const DEFAULT_CERTS: &str = "watershed-certs";

/// An embeddable, write-ahead-logged storage engine whose shards move between nodes while they are being written.
#[derive(Debug, Parser)]
#[command(name = "watershed", version, about, max_term_width = 100)]
pub(super) struct Args {
    /// Print one JSON document on standard output; progress goes to standard error.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Load documents, move shards to a new node while writers write, and check every acknowledged write.
    #[command(args_override_self = true)]
    Demo(DemoArgs),
    /// Measure this engine alone on this machine.
    Bench(BenchArgs),
    /// A part of `bench` that needs a process of its own.
    #[command(hide = true)]
    BenchOpen(OpenArgs),
    /// Load newline-delimited JSON documents, plain or compressed with Zstandard.
    Load(LoadArgs),
    /// Set a key to a value.
    Put(PutArgs),
    /// Print a key's value.
    Get(GetArgs),
    /// Remove a key.
    Delete(DeleteArgs),
    /// Print keys and values in key order.
    Scan(ScanArgs),
    /// Show what a cluster is doing, or the shards, the log and the migrations of an engine's directory.
    Status(StatusArgs),
    /// Make, delete, show and move the shards of a cluster.
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Have a node take its part of the shards.
    Rebalance(RebalanceArgs),
    /// Have a node give its shards away.
    Drain(DrainArgs),
    /// Run a node: an engine, its server for other nodes, and a port for /metrics and /healthz.
    Node(NodeArgs),
    /// Look into a write-ahead log, also while an engine is running on it; repair one.
    #[command(subcommand)]
    Wal(WalCommand),
    /// Check the certificate that a migration left.
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Make the certificates by which the nodes, clients and admins of a cluster know each other.
    #[command(subcommand)]
    Certs(CertsCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Make a cluster's authority: the certificate that all nodes trust, and the key that signs theirs.
    Init(CertsInitArgs),
    /// Make the certificate of one node, client or admin.
    Issue(CertsIssueArgs),
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct CertsInitArgs {
    /// Where the authority is kept.
    #[arg(long, default_value = DEFAULT_CERTS)]
    pub(super) dir: PathBuf,
    /// How many days it is good for.
    #[arg(long, value_name = "N", default_value_t = 10 * certs::DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) days: u32,
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct CertsIssueArgs {
    /// Where the authority is kept.
    #[arg(long, default_value = DEFAULT_CERTS)]
    pub(super) dir: PathBuf,
    /// What its holder may do.
    #[arg(long, value_enum)]
    pub(super) role: RoleArg,
    /// Its holder's name; that of a node as in the placement.
    #[arg(long)]
    pub(super) name: crate::NodeId,
    /// How many days it is good for.
    #[arg(long, value_name = "N", default_value_t = certs::DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) days: u32,
    /// Where the certificate and its key are written. Default: beside the authority.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// A node of the cluster.
    Node,
    /// Reads and writes.
    Client,
    /// Reads, writes, and moves shards.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(arg: RoleArg) -> Self {
        match arg {
            RoleArg::Node => Self::Node,
            RoleArg::Client => Self::Client,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum CertificateCommand {
    /// Check that it is whole and that its fields agree with each other.
    Verify {
        /// The certificate: `certificates/<migration>.json` in an engine's directory.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum WalCommand {
    /// Check every frame. A clean end or a torn tail is fine; damage exits with status 1.
    Verify {
        /// The engine's directory.
        dir: PathBuf,
    },
    /// Print one line for each record.
    Dump {
        /// The engine's directory.
        dir: PathBuf,
    },
    /// Give up what damage made unreadable, so that the engine opens again. Shows first what is lost.
    Repair {
        /// Only show what would be lost; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// The engine's directory.
        dir: PathBuf,
    },
}

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DurabilityArg {
    /// It survives power loss.
    Sync,
    /// It survives the death of the process, and may vanish at power loss.
    Buffered,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Sync => Self::Sync,
            DurabilityArg::Buffered => Self::Buffered,
        }
    }
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct DemoArgs {
    /// Documents to load, one JSON object a line, plain or .zst; without it, made-up ones.
    #[arg(long, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,
    /// The field of a document that is its key.
    #[arg(long, value_name = "FIELD", default_value = "id")]
    pub(super) key: String,
    /// How many nodes there are before one more is added.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) nodes: u32,
    /// Nodes are processes of their own, on loopback, with certificates.
    #[arg(long)]
    pub(super) processes: bool,
    /// Kill one of the processes (source, target, driver, placement) when the first migration is in a phase (bulk-copy,
    /// dual-write, quiesce, drain, delta-pass, activate, cleanup), and start it again.
    #[arg(long, value_name = "WHO@PHASE", requires = "processes")]
    pub(super) kill: Option<Kill>,
    /// How many shards the cluster has.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=256))]
    pub(super) shards: u32,
    /// How many writers insert, update and delete at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) writers: u32,
    /// How many writes must be acknowledged while shards move, at least.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub(super) writes: u64,
    /// Where the nodes keep their data: a new or empty directory, kept afterwards. Without it, a temporary one.
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Lose each forwarded record with this probability, 0 to 1: what is lost must come through the delta pass.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub(super) fail_forward: f64,
    /// Switch anti-entropy off; a migration then depends on its delta pass alone.
    #[arg(long)]
    pub(super) no_anti_entropy: bool,
    /// Skip the delta pass.
    #[arg(long, hide = true)]
    pub(super) no_delta_pass: bool,
    /// When a write counts as done.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(super) durability: DurabilityArg,
}

#[derive(Debug, ClapArgs)]
pub(super) struct LoadArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// The field of a document that is its key: a string or a number.
    #[arg(long, value_name = "FIELD", default_value = "id")]
    pub(super) key: String,
    /// When a document counts as loaded.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(super) durability: DurabilityArg,
    /// One JSON object a line, plain or compressed with Zstandard.
    pub(super) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PutArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// When the write counts as done.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(super) durability: DurabilityArg,
    /// The key.
    pub(super) key: String,
    /// The value; `-` reads it from standard input.
    pub(super) value: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct GetArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// The key.
    pub(super) key: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// When the write counts as done.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(super) durability: DurabilityArg,
    /// The key.
    pub(super) key: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ScanArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
    /// Only keys that start with this.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    pub(super) prefix: Option<String>,
    /// Only keys from this one on.
    #[arg(long)]
    pub(super) from: Option<String>,
    /// Only keys below this one.
    #[arg(long)]
    pub(super) to: Option<String>,
    /// The greatest key first.
    #[arg(long)]
    pub(super) reverse: bool,
    /// At most so many entries.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) place: PlaceArgs,
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text} is not between 0 and 1"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_contradict_nothing() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_later_demo_flag_replaces_an_earlier_one() {
        let args = Args::try_parse_from(["watershed", "demo", "--writers", "8", "--writers", "3"])
            .unwrap();
        let Command::Demo(demo) = args.command else {
            panic!("not a demo")
        };
        assert_eq!(demo.writers, 3);
    }

    #[test]
    fn a_probability_is_between_0_and_1() {
        for bad in ["-0.1", "1.5", "NaN", "x", "inf"] {
            assert!(probability(bad).is_err(), "{bad}");
        }
        assert_eq!(probability("0.02"), Ok(0.02));
    }
}

//! The flags of commands about shards and nodes.

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::place::ClusterArgs;
use crate::migration::MigrationConfig;
use crate::{NodeId, ShardId};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ShardCommand {
    /// Make an empty shard on a node.
    Create(CreateArgs),
    /// Delete a shard with all its data.
    Drop(OnArgs),
    /// Show the shards of a cluster, and who owns them.
    List(ClusterArgs),
    /// Say why a shard does not move, or how it moves.
    Explain(OnArgs),
    /// Move a shard to another node.
    Migrate(MigrateArgs),
    /// Cut over a migration that is held.
    Cutover(OnArgs),
    /// End a migration's grace time: the old copy is compared and deleted now.
    Cleanup(OnArgs),
    /// Have a migration stand still.
    Pause(OnArgs),
    /// Have it go on.
    Resume(OnArgs),
    /// Change the limits of a migration that is under way.
    Limits(LimitsArgs),
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct OnArgs {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// The shard's number.
    #[arg(value_parser = shard)]
    pub(super) shard: ShardId,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct CreateArgs {
    #[command(flatten)]
    pub(super) one: OnArgs,
    /// The node that is to own it.
    #[arg(long, value_name = "NODE")]
    pub(super) on: NodeId,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct MigrateArgs {
    #[command(flatten)]
    pub(super) one: OnArgs,
    /// The node that is to own it.
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<NodeId>,
    /// Only say what would be done.
    #[arg(long, conflicts_with_all = ["hold", "cancel", "no_wait"])]
    pub(super) dry_run: bool,
    /// Stop before the cutover, until `shard cutover`.
    #[arg(long, conflicts_with = "cancel")]
    pub(super) hold: bool,
    /// Give up the migration that it is in; what was copied is removed.
    #[arg(long, conflicts_with = "to")]
    pub(super) cancel: bool,
    /// Return once it is under way.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// What the copy may take, in bytes a second.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1024..))]
    rate: Option<u64>,
    /// How long writers may be paused at most.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(5..=60_000))]
    pause_max_ms: Option<u64>,
    /// How long the old copy is kept.
    #[arg(long, value_name = "MS")]
    grace_ms: Option<u64>,
}

impl MigrateArgs {
    pub(super) fn config(&self) -> MigrationConfig {
        let usual = MigrationConfig::default();
        MigrationConfig {
            hold: self.hold,
            rate_bytes_per_s: self.rate,
            pause_max_ms: self.pause_max_ms.unwrap_or(usual.pause_max_ms),
            grace_ms: self.grace_ms.unwrap_or(usual.grace_ms),
            ..usual
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct LimitsArgs {
    #[command(flatten)]
    pub(super) one: OnArgs,
    /// What the copy may take, in bytes a second, at least 1024; 0 takes the bound away.
    #[arg(long, value_name = "BYTES", required_unless_present = "pause_max_ms")]
    pub(super) rate: Option<u64>,
    /// How long writers may be paused at most.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(5..=60_000))]
    pub(super) pause_max_ms: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct RebalanceArgs {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// The node that is to take its part.
    #[arg(long, value_name = "NODE")]
    pub(super) add: NodeId,
    /// Only show which shards would move.
    #[arg(long, conflicts_with = "no_wait")]
    pub(super) dry_run: bool,
    /// Return once it is ordered; the nodes see to it by themselves.
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct DrainArgs {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// The node that is to be emptied.
    pub(super) node: NodeId,
    /// Only show which shards would move.
    #[arg(long, conflicts_with_all = ["no_wait", "cancel", "forget", "finish"])]
    pub(super) dry_run: bool,
    /// Return once it is ordered; the nodes see to it by themselves.
    #[arg(long, conflicts_with = "forget")]
    pub(super) no_wait: bool,
    /// End the grace times of its old copies too, so that it may be stopped for good.
    #[arg(long, conflicts_with_all = ["no_wait", "cancel", "forget"])]
    pub(super) finish: bool,
    /// Let it keep the shards that it still has, and take others again.
    #[arg(long, conflicts_with = "forget")]
    pub(super) cancel: bool,
    /// Forget the node, which must have been drained, finished and stopped.
    #[arg(long)]
    pub(super) forget: bool,
}

fn shard(text: &str) -> Result<ShardId, String> {
    let number = text.parse().map(ShardId);
    number.map_err(|_| format!("{text:?} is not the number of a shard"))
}

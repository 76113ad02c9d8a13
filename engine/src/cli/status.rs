//! `status`: the shards, the log and the migrations of an engine's directory, read without its lock.

use std::fmt::Write;

use serde_json::json;

use super::args::StatusArgs;
use super::data::read_only;
use super::failure::Failure;
use super::output::{Answer, bytes, thousands};
use super::place::Place;
use super::shards::cluster;
use crate::EngineStatus;

pub(super) fn run(args: &StatusArgs) -> Result<Answer, Failure> {
    let dir = match args.place.place()? {
        Place::Dir(dir) => dir,
        Place::Cluster(..) => return cluster::status(&args.place),
    };
    let status = read_only(&dir)?.status()?;
    Ok(Answer::new(text(&status), json!(status)))
}

fn text(status: &EngineStatus) -> String {
    let mut page = String::new();
    // Writing to a string can't fail.
    let _ = write_text(status, &mut page);
    page
}

fn write_text(status: &EngineStatus, page: &mut String) -> std::fmt::Result {
    let log = &status.log;
    writeln!(page, "node {}: {} shards", status.node, status.shards.len())?;
    writeln!(
        page,
        "log: {} segments, {} of {}",
        log.segments,
        bytes(log.bytes),
        bytes(log.limit)
    )?;
    if let Some(reason) = &log.poisoned {
        writeln!(page, "log: writes are refused: {reason}")?;
    }
    for hold in &log.holds {
        writeln!(
            page,
            "hold {:?} of shard {} keeps {} of log",
            hold.name,
            hold.shard,
            bytes(hold.bytes)
        )?;
    }
    writeln!(
        page,
        "\nshard  role      epoch      assigned       applied       flushed        keys       size"
    )?;
    for shard in &status.shards {
        writeln!(
            page,
            "{:>5}  {:<8}  {:>5}  {:>12}  {:>12}  {:>12}  {:>10}  {:>9}",
            shard.shard.to_string(),
            shard.role.to_string(),
            shard.epoch.to_string(),
            shard.assigned.to_string(),
            shard.applied.to_string(),
            shard.flushed.to_string(),
            thousands(shard.keys_estimate),
            bytes(shard.bytes),
        )?;
    }
    for migration in &status.migrations {
        writeln!(
            page,
            "migration of shard {}: {} -> {}, {}",
            migration.shard, migration.source, migration.target, migration.phase
        )?;
    }
    page.truncate(page.trim_end().len());
    Ok(())
}

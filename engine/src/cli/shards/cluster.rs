//! What a cluster is doing, as text.

use std::fmt::Write;

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::{Answer, bytes};
use crate::cli::place::PlaceArgs;
use crate::migration::Phase;
use crate::migration::balance::Goal;
use crate::{Admin, ClusterStatus, MoveStatus};

pub(in crate::cli) fn status(args: &PlaceArgs) -> Result<Answer, Failure> {
    // Only called where a cluster is named.
    let Some(admin) = args.admin()? else {
        return Err(Failure::usage("name a node of the cluster with --cluster"));
    };
    let status = admin.status()?;
    let mut text = nodes(&status);
    text.push('\n');
    text.push_str(&shards(&status));
    Ok(Answer::new(text, json!(status)))
}

pub(super) fn list(admin: &Admin) -> Result<Answer, Failure> {
    let status = admin.status()?;
    let document = json!({ "shards": status.shards, "count": status.shards.len() });
    Ok(Answer::new(shards(&status), document))
}

fn nodes(status: &ClusterStatus) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "node                  address                  weight  shards  state"
    );
    for node in &status.nodes {
        let state = match (&node.silent, node.alive, node.goal) {
            (Some(reason), false, _) => format!("dead: {reason}"),
            (Some(reason), true, _) => format!("silent: {reason}"),
            (None, false, _) => "answers, but the placement does not hear of it".into(),
            (None, true, Some(Goal::Fill)) => "takes its part".into(),
            (None, true, Some(Goal::Drain)) if node.owns == 0 => "drained".into(),
            (None, true, Some(Goal::Drain)) => "gives its shards away".into(),
            (None, true, None) => "serves".into(),
        };
        let _ = writeln!(
            page,
            "{:<20}  {:<23}  {:>6}  {:>6}  {state}",
            node.node, node.address, node.weight, node.owns
        );
    }
    page
}

fn shards(status: &ClusterStatus) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "shard  owner                 epoch       applied       size  state"
    );
    for shard in &status.shards {
        let (applied, size) = match &shard.copy {
            Some(copy) => (copy.applied.to_string(), bytes(copy.bytes)),
            None => ("?".into(), "?".into()),
        };
        let state = match (&shard.moving, &shard.gave_up) {
            (Some(moving), _) => one_line(moving),
            (None, Some(reason)) => format!("last migration given up: {reason}"),
            (None, None) => String::new(),
        };
        let line = format!(
            "{:>5}  {:<20}  {:>5}  {applied:>12}  {size:>9}  {state}",
            shard.shard.to_string(),
            shard.owner,
            shard.epoch.to_string(),
        );
        let _ = writeln!(page, "{}", line.trim_end());
    }
    page.truncate(page.trim_end().len());
    page
}

/// How a migration goes.
pub(super) fn one_line(moving: &MoveStatus) -> String {
    let mut line = format!("{} -> {}, {}", moving.source, moving.target, moving.phase);
    match moving.phase {
        Phase::BulkCopy => {
            if let Some(percent) = moving.percent {
                let _ = write!(line, " {percent} %");
            }
            if let Some(eta) = moving.copy_eta_s.filter(|eta| *eta > 0) {
                let _ = write!(line, ", {eta} s left");
            }
        }
        _ if moving.paused => line.push_str(", paused"),
        Phase::DualWrite if moving.held => line.push_str(", waits for cutover"),
        Phase::Cleanup => {
            let _ = write!(line, ", will free {}", bytes(moving.frees_bytes));
        }
        _ => {}
    }
    if moving.re_opens > 0 {
        let _ = write!(line, ", {} cutovers given up", moving.re_opens);
    }
    // What went wrong before the new owner served has been got over.
    if let Some(trouble) = moving
        .trouble
        .as_ref()
        .filter(|_| moving.phase < Phase::Cleanup)
    {
        let _ = write!(line, "; {trouble}");
    }
    line
}

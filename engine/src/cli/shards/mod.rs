//! `shard`, `rebalance` and `drain`: what an operator has a cluster do.
//!
//! A command that moves shards shows how it goes until it is done. Ended early it leaves the nodes to go on by themselves;
//! given again it shows how they go on.

mod args;
pub(super) mod cluster;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

pub(super) use args::{DrainArgs, RebalanceArgs, ShardCommand};
use args::{MigrateArgs, OnArgs};

use super::failure::{Failure, Kind};
use super::output::{Answer, Output, bytes};
use crate::migration::balance::{Goal, Move};
use crate::migration::{MigrationConfig, MigrationId, Phase};
use crate::{Admin, ClusterStatus, NodeId, Outcome, ShardId, ShardMap, Wish};

/// How often the status is looked at while something goes on.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(super) fn run(command: &ShardCommand, output: &Output) -> Result<Answer, Failure> {
    match command {
        ShardCommand::List(args) => cluster::list(&args.admin()?),
        ShardCommand::Explain(args) => explain(args),
        ShardCommand::Create(args) => {
            args.one
                .cluster
                .admin()?
                .create_shard(args.one.shard, &args.on)?;
            let (shard, on) = (args.one.shard, &args.on);
            let document = json!({ "shard": shard, "owner": on });
            Ok(Answer::new(
                format!("shard {shard} made on node {on}"),
                document,
            ))
        }
        ShardCommand::Drop(args) => {
            let freed = args.cluster.admin()?.drop_shard(args.shard)?;
            let text = format!("shard {} deleted, {} freed", args.shard, bytes(freed));
            Ok(Answer::new(
                text,
                json!({ "shard": args.shard, "freed_bytes": freed }),
            ))
        }
        ShardCommand::Migrate(args) => migrate(args, output),
        ShardCommand::Cutover(args) => steer(
            args,
            Wish::Cutover,
            "cuts over once its target has caught up",
        ),
        ShardCommand::Cleanup(args) => steer(args, Wish::Cleanup, "ends its grace time"),
        ShardCommand::Pause(args) => steer(args, Wish::Pause, "stands still"),
        ShardCommand::Resume(args) => steer(args, Wish::Resume, "goes on"),
        ShardCommand::Limits(args) => {
            let wish = Wish::Limits {
                rate_bytes_per_s: args.rate,
                pause_max_ms: args.pause_max_ms,
            };
            steer(&args.one, wish, "has other limits")
        }
    }
}

fn explain(args: &OnArgs) -> Result<Answer, Failure> {
    let said = args.cluster.admin()?.explain(args.shard)?;
    let document = json!({ "shard": args.shard, "said": said });
    Ok(Answer::new(
        format!("shard {}: {}", args.shard, said.join("\n  ")),
        document,
    ))
}

fn steer(args: &OnArgs, wish: Wish, what: &str) -> Result<Answer, Failure> {
    let migration = args.cluster.admin()?.steer(args.shard, wish)?;
    let text = format!("the migration of shard {} {what}", args.shard);
    Ok(Answer::new(
        text,
        json!({ "shard": args.shard, "migration": migration }),
    ))
}

fn migrate(args: &MigrateArgs, output: &Output) -> Result<Answer, Failure> {
    let admin = args.one.cluster.admin()?;
    let shard = args.one.shard;
    if args.cancel {
        return steer(&args.one, Wish::Cancel, "is given up");
    }
    let Some(to) = &args.to else {
        return Err(Failure::usage(
            "name the node that is to own the shard with --to NODE",
        ));
    };
    let config = args.config();
    let status = admin.status()?;
    let before = check(&status, shard, to)?;
    if args.dry_run {
        return Ok(dry_run(before, shard, to, &config));
    }
    let migration = admin.migrate(shard, to, config)?;
    if args.no_wait {
        let document = json!({ "shard": shard, "to": to, "migration": migration });
        return Ok(Answer::new(
            format!("shard {shard} begins to move to node {to}"),
            document,
        ));
    }
    let ended = follow(&admin, shard, migration, to, args.hold, output)?;
    let document = json!({ "shard": shard, "to": to, "migration": migration, "phase": ended });
    Ok(Answer::new(
        match ended {
            Phase::DualWrite => format!(
                "shard {shard} is ready to move to node {to}: `watershed shard cutover {shard}`"
            ),
            _ => format!(
                "node {to} owns shard {shard}; the old copy is deleted after the grace time, or with `watershed shard cleanup {shard}`"
            ),
        },
        document,
    ))
}

/// What can be told of a move before it begins.
fn check<'a>(
    status: &'a ClusterStatus,
    shard: ShardId,
    to: &NodeId,
) -> Result<&'a ShardMap, Failure> {
    let refused = |what: String| Err(Failure::new(Kind::Refused, what));
    let found = status.shards.iter().find(|known| known.shard == shard);
    let Some(found) = found else {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no shard {shard}"),
        ));
    };
    let Some(node) = status.nodes.iter().find(|node| node.node == *to) else {
        return Err(Failure::new(
            Kind::NotFound,
            format!(
                "node {to} has not joined the cluster; `watershed status` names those that have"
            ),
        ));
    };
    if let Some(reason) = &node.silent {
        return refused(format!(
            "node {to} gives no answer ({reason}): start it first"
        ));
    }
    if found.owner == *to {
        return refused(format!("node {to} owns shard {shard} already"));
    }
    match &found.moving {
        Some(moving) if moving.phase != Phase::Cleanup => refused(format!(
            "shard {shard} is moving to node {} already, in phase {}",
            moving.target, moving.phase
        )),
        _ => Ok(found),
    }
}

fn dry_run(of: &ShardMap, shard: ShardId, to: &NodeId, config: &MigrationConfig) -> Answer {
    let size = of.copy.as_ref().map(|copy| copy.bytes);
    let seconds = size
        .zip(config.rate_bytes_per_s)
        .map(|(size, rate)| size / rate.max(1));
    let mut text = format!(
        "would move shard {shard} from node {} to node {to}",
        of.owner
    );
    if let Some(size) = size {
        text.push_str(&format!(", about {}", bytes(size)));
    }
    if let Some(seconds) = seconds {
        text.push_str(&format!(", at least {seconds} s at that rate"));
    }
    let document = json!({
        "shard": shard, "from": of.owner, "to": to, "bytes": size, "seconds": seconds,
        "pause_max_ms": config.pause_max_ms, "dry_run": true,
    });
    Answer::new(text, document)
}

/// Shows a migration until its target serves, or waits for the cutover where it is held.
fn follow(
    admin: &Admin,
    shard: ShardId,
    migration: MigrationId,
    to: &NodeId,
    hold: bool,
    output: &Output,
) -> Result<Phase, Failure> {
    let mut said = String::new();
    loop {
        let status = admin.status()?;
        let of = status.shards.iter().find(|known| known.shard == shard);
        let of =
            of.ok_or_else(|| Failure::new(Kind::NotFound, format!("shard {shard} is gone")))?;
        match &of.moving {
            Some(moving) if moving.migration == migration => {
                let line = cluster::one_line(moving);
                if line != said {
                    output.say(&format!("shard {shard}: {line}"));
                    said = line;
                }
                if moving.phase == Phase::Cleanup || (hold && moving.held && moving.lag == 0) {
                    return Ok(moving.phase);
                }
            }
            // Either it waits for its turn, or it is over.
            _ => match admin.outcome(shard, migration, to)? {
                Outcome::Waits => {}
                Outcome::Moved => return Ok(Phase::Done),
                Outcome::GaveUp(reason) => {
                    let what = format!("the migration of shard {shard} was given up: {reason}");
                    return Err(Failure::new(Kind::Engine, what));
                }
            },
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn rebalance(args: &RebalanceArgs, output: &Output) -> Result<Answer, Failure> {
    let admin = args.cluster.admin()?;
    let moves = admin.planned(Some((&args.add, Goal::Fill)))?;
    let moves: Vec<Move> = moves
        .into_iter()
        .filter(|step| step.to == args.add)
        .collect();
    show_plan(&moves, output);
    if args.dry_run {
        return Ok(planned(
            &moves,
            &format!("{} shards would move to node {}", moves.len(), args.add),
        ));
    }
    admin.set_goal(&args.add, Some(Goal::Fill))?;
    if args.no_wait {
        return Ok(planned(
            &moves,
            &format!("{} shards begin to move to node {}", moves.len(), args.add),
        ));
    }
    follow_all(&admin, &moves, output, |status, left| {
        let node = status.nodes.iter().find(|node| node.node == args.add);
        left.is_empty() && node.is_none_or(|node| node.goal.is_none())
    })?;
    Ok(planned(
        &moves,
        &format!(
            "node {} has its part: {} shards moved to it",
            args.add,
            moves.len()
        ),
    ))
}

pub(super) fn drain(args: &DrainArgs, output: &Output) -> Result<Answer, Failure> {
    let admin = args.cluster.admin()?;
    let node = &args.node;
    if args.cancel {
        admin.set_goal(node, None)?;
        let text = format!("node {node} keeps the shards that it still has");
        return Ok(Answer::new(text, json!({ "node": node, "goal": null })));
    }
    if args.forget {
        admin.forget(node)?;
        let text = format!("node {node} is forgotten");
        return Ok(Answer::new(
            text,
            json!({ "node": node, "forgotten": true }),
        ));
    }
    let moves = admin.planned(Some((node, Goal::Drain)))?;
    let moves: Vec<Move> = moves
        .into_iter()
        .filter(|step| step.from == *node)
        .collect();
    let owns = owned(&admin.status()?, node);
    if owns > moves.len() {
        let what = format!(
            "node {node} owns {owns} shards, and no other node could take them: add one first"
        );
        return Err(Failure::new(Kind::Refused, what));
    }
    show_plan(&moves, output);
    if args.dry_run {
        return Ok(planned(
            &moves,
            &format!("{} shards would leave node {node}", moves.len()),
        ));
    }
    admin.set_goal(node, Some(Goal::Drain))?;
    if args.no_wait {
        return Ok(planned(
            &moves,
            &format!("{} shards begin to leave node {node}", moves.len()),
        ));
    }
    follow_all(&admin, &moves, output, |status, _| owned(status, node) == 0)?;
    let mut text = format!(
        "node {node} owns no shard any more: {} left it",
        moves.len()
    );
    if args.finish {
        finish_cleanups(&admin, node, output)?;
        text.push_str(", and its old copies are deleted: it may be stopped");
    }
    Ok(planned(&moves, &text))
}

fn owned(status: &ClusterStatus, node: &NodeId) -> usize {
    status
        .shards
        .iter()
        .filter(|shard| shard.owner == *node)
        .count()
}

fn show_plan(moves: &[Move], output: &Output) {
    for step in moves {
        output.say(&format!(
            "shard {}: {} -> {}",
            step.shard, step.from, step.to
        ));
    }
}

fn planned(moves: &[Move], text: &str) -> Answer {
    Answer::new(text, json!({ "moves": moves, "count": moves.len() }))
}

/// Shows what moves until `done` says so of the status and of the shards that are still to move.
fn follow_all(
    admin: &Admin,
    moves: &[Move],
    output: &Output,
    done: impl Fn(&ClusterStatus, &[Move]) -> bool,
) -> Result<(), Failure> {
    let mut said = BTreeSet::new();
    loop {
        let (status, left) = (admin.status()?, admin.planned(None)?);
        let concerned = |shard: &&ShardMap| moves.iter().any(|step| step.shard == shard.shard);
        for shard in status.shards.iter().filter(concerned) {
            let moving = shard
                .moving
                .as_ref()
                .filter(|m| moves.iter().any(|step| step.to == m.target));
            let moving = moving.map(cluster::one_line);
            let line =
                moving.or_else(|| shard.gave_up.as_ref().map(|why| format!("given up: {why}")));
            if let Some(line) = line.map(|line| format!("shard {}: {line}", shard.shard))
                && said.insert(line.clone())
            {
                output.say(&line);
            }
        }
        if done(&status, &left) {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Ends the grace times of what a node still keeps.
fn finish_cleanups(admin: &Admin, node: &NodeId, output: &Output) -> Result<(), Failure> {
    let mut told = BTreeSet::new();
    loop {
        let status = admin.status()?;
        let kept: Vec<ShardId> = status
            .shards
            .iter()
            .filter(|shard| shard.moving.as_ref().is_some_and(|m| m.source == *node))
            .map(|shard| shard.shard)
            .collect();
        if kept.is_empty() {
            return Ok(());
        }
        for shard in kept {
            // Once each: it goes on by itself from there.
            if told.insert(shard)
                && let Err(error) = admin.steer(shard, Wish::Cleanup)
            {
                output.say(&format!("shard {shard}: {error}"));
                told.remove(&shard);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

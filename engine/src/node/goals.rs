//! What operators want of nodes is carried out by the nodes that are to get shards: each begins the moves of which it is
//! the target.
//!
//! The plan is made anew each time from what the placement says, so nobody has to remember it, and a restart loses
//! nothing. A move that failed is tried again after a while; it holds up no other.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use watershed_migration::balance::{self, Goal, Move, Seat};
use watershed_migration::{NodeId, PlacementRecord};
use watershed_wal::ShardId;

use super::Node;
use crate::migrate::{Migrate, Migration};
use crate::placement::Member;

/// How long a failed move waits for its next try, the first time and at the most.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_LONGEST: Duration = Duration::from_secs(300);

/// The moves that the members' goals ask for.
pub(crate) fn plan(members: &BTreeMap<NodeId, Member>, records: &[PlacementRecord]) -> Vec<Move> {
    let seat = |(node, member): (&NodeId, &Member)| Seat {
        node: node.clone(),
        weight: member.info.weight,
        goal: member.goal,
    };
    let seats: Vec<Seat> = members.iter().map(seat).collect();
    let owners: Vec<_> = records
        .iter()
        .map(|record| (record.shard, record.owner.clone()))
        .collect();
    balance::plan(&seats, &owners)
}

/// The moves to this node that goals asked for.
#[derive(Debug, Default)]
pub(super) struct Pursuit {
    begun: HashMap<ShardId, Migration>,
    failed: HashMap<ShardId, Failed>,
}

#[derive(Debug)]
struct Failed {
    again: Instant,
    wait: Duration,
}

impl Pursuit {
    /// Begins what is to be begun.
    pub(super) async fn go_on(
        &mut self,
        node: &Node,
        members: &BTreeMap<NodeId, Member>,
        records: &[PlacementRecord],
    ) {
        self.see_what_ended();
        let goal_of = |of: &NodeId| members.get(of).and_then(|member| member.goal);
        if members.values().all(|member| member.goal.is_none()) {
            self.failed.clear();
            return;
        }
        let mine: Vec<Move> = plan(members, records)
            .into_iter()
            .filter(|step| step.to == node.id)
            .collect();
        if mine.is_empty() && self.begun.is_empty() && goal_of(&node.id) == Some(Goal::Fill) {
            tracing::info!("this node has its part of the shards");
            if let Err(error) = node.placement.set_goal(node.id.clone(), None).await {
                tracing::debug!(%error, "the goal stands a while longer");
            }
            return;
        }
        for step in mine {
            let why = match goal_of(&step.from) {
                Some(Goal::Drain) => format!("the draining of {}", step.from),
                _ => format!("the filling of {}", step.to),
            };
            self.begin(node, &step, records, &why).await;
        }
    }

    async fn begin(&mut self, node: &Node, step: &Move, records: &[PlacementRecord], why: &str) {
        let shard = step.shard;
        let waits = self
            .failed
            .get(&shard)
            .is_some_and(|f| f.again > Instant::now());
        let record = records.iter().find(|record| record.shard == shard);
        let moving = record.and_then(PlacementRecord::active_migration);
        // In Cleanup it may move on.
        let busy = moving.is_some_and(|migration| migration.phase.before_activate());
        if waits || busy || self.begun.contains_key(&shard) {
            return;
        }
        let migrate = Migrate::new(Ok(node.clone()), shard)
            .to(node.id.as_str())
            .started_by(why);
        match migrate.start_async().await {
            Ok(migration) => {
                self.begun.insert(shard, migration);
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "a move can't be begun");
                self.put_off(shard);
            }
        }
    }

    fn see_what_ended(&mut self) {
        let ended: Vec<(ShardId, bool)> = self
            .begun
            .iter()
            .filter_map(|(shard, migration)| Some((*shard, migration.outcome()?)))
            .collect();
        for (shard, moved) in ended {
            self.begun.remove(&shard);
            if moved {
                self.failed.remove(&shard);
            } else {
                self.put_off(shard);
            }
        }
    }

    fn put_off(&mut self, shard: ShardId) {
        let wait = self.failed.get(&shard).map_or(AGAIN_FIRST, |failed| {
            failed.wait.saturating_mul(2).min(AGAIN_LONGEST)
        });
        let again = Instant::now() + wait;
        self.failed.insert(shard, Failed { again, wait });
    }
}

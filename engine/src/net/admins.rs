//! The service for operators: what a node tells of itself and of the cluster, and orders that it carries out.
//!
//! Orders and answers are JSON documents ([`Order`], and what each gives), in one gRPC method: they are few, seldom, and
//! for people. Who gives an order sends it to the node that carries it out: a migration is started at its target and
//! steered at its driver.

use bytes::Bytes;
use serde_json::{Value, json};
use tonic::Status;
use watershed_migration::{Limits, PlacementRecord};
use watershed_wal::ShardId;

use super::identity::Role;
use super::raw::{Answered, Handler, no_such_method};
use super::server::{Caller, Callers};
use crate::Error;
use crate::admin::{Fault, Order, Report, Wish};
use crate::link::BoxFuture;
use crate::migrate::{Migrate, Migration};
use crate::node::Node;
use crate::status;

const SERVICE: &str = "watershed.admin.v1.Admin";
/// The bytes of its messages are the JSON documents themselves.
pub(crate) const DO: &str = "/watershed.admin.v1.Admin/Do";

/// Answers operators from a node.
#[derive(Debug, Clone)]
pub(super) struct Admins {
    pub(super) node: Node,
    pub(super) callers: Callers,
}

impl Handler for Admins {
    const NAME: &'static str = SERVICE;

    fn answer(
        &self,
        method: &str,
        caller: &Caller,
        request: Bytes,
    ) -> Result<BoxFuture<'static, Answered>, Status> {
        self.callers
            .only(caller, &[Role::Admin, Role::Node], "only admins")?;
        if method != DO {
            return Err(no_such_method());
        }
        let who = caller.identity.as_ref();
        let who = who.map_or_else(
            || "somebody without a certificate".into(),
            ToString::to_string,
        );
        let node = self.node.clone();
        // An order that was begun is carried out, also when its giver has gone.
        let task = self.node.runtime.spawn(async move {
            let answer = match serde_json::from_slice::<Order>(&request) {
                Ok(order) => {
                    if order.changes() {
                        tracing::info!(%who, ?order, "an operator's order");
                    }
                    carry_out(&node, order, &who).await
                }
                Err(error) => Err(Fault::new("bad-order", format!("not an order that this node knows ({error}); upgrade the older of both sides"))),
            };
            let answer = match answer {
                Ok(done) => json!({ "done": done }),
                Err(fault) => json!({ "fault": fault }),
            };
            Bytes::from(answer.to_string())
        });
        Ok(Box::pin(async move {
            task.await
                .map_err(|_| Status::unavailable("the node is closing"))
        }))
    }
}

async fn carry_out(node: &Node, order: Order, who: &str) -> Result<Value, Fault> {
    match order {
        Order::Report => Ok(json!(report(node).await)),
        Order::Records => Ok(json!(node.placement.list().await.map_err(Error::from)?)),
        Order::Members => Ok(json!(node.placement.members().await.map_err(Error::from)?)),
        Order::Migrate { shard, to, config } => {
            let migrate = Migrate::new(Ok(node.clone()), shard)
                .to(to.as_str())
                .config(config)
                .started_by(who);
            let migration = migrate.start_async().await?;
            Ok(json!({ "migration": migration.id() }))
        }
        Order::Steer { shard, wish } => steer(node, shard, wish).await,
        Order::Create { shard } => {
            node.create_shard(shard).await?;
            Ok(json!({ "shard": shard }))
        }
        Order::Drop { shard } => {
            let freed = node.drop_shard(shard).await?;
            Ok(json!({ "freed_bytes": freed }))
        }
        Order::Goal { node: of, goal } => {
            node.placement
                .set_goal(of, goal)
                .await
                .map_err(Error::from)?;
            Ok(Value::Null)
        }
        Order::Forget { node: gone } => {
            let records = node.placement.list().await.map_err(Error::from)?;
            if let Some(record) = records.iter().find(|record| concerns(record, &gone)) {
                let what = format!(
                    "node {gone} has a part in shard {}: drain it first",
                    record.shard
                );
                return Err(Fault::new("refused", what));
            }
            let members = node.placement.members().await.map_err(Error::from)?;
            if members.get(&gone).is_some_and(|member| member.alive) {
                let what = format!("node {gone} is alive and would join again: stop it first");
                return Err(Fault::new("refused", what));
            }
            let removed = node.placement.remove_member(gone).await;
            removed.map_err(Error::from)?;
            Ok(Value::Null)
        }
    }
}

/// Whether a node owns the shard, keeps a copy of it, or has a part in its migration.
fn concerns(record: &PlacementRecord, node: &watershed_migration::NodeId) -> bool {
    let migration = record.active_migration();
    record.owner == *node
        || record.followers.contains(node)
        || record.frozen.as_ref().is_some_and(|f| f.node == *node)
        || migration.is_some_and(|m| m.source == *node || m.target == *node)
}

async fn report(node: &Node) -> Report {
    // Estimates of sizes may read files.
    let of = node.clone();
    let status = node.runtime.spawn_blocking(move || status::of_node(&of));
    let migrations = node.migrations.list();
    Report {
        status: status.await.map_or(Value::Null, |status| json!(status)),
        idle_ms: migrations
            .iter()
            .filter(|migration| migration.outcome().is_none())
            .map(|migration| (migration.id(), migration.idle_ms()))
            .collect(),
        failed: migrations
            .iter()
            .filter_map(|migration| Some((migration.id(), migration.failure()?.to_string())))
            .collect(),
    }
}

async fn steer(node: &Node, shard: ShardId, wish: Wish) -> Result<Value, Fault> {
    let record = node.placement.read(shard).await.map_err(Error::from)?;
    let record = record.ok_or(Error::NoShard { shard })?;
    let Some(migration) = record.active_migration() else {
        let what = format!("shard {shard} is not being moved");
        return Err(Fault::new("not-moving", what));
    };
    let driven = node.migrations.driving(migration.id);
    let Some(driven) = driven.filter(|_| migration.driver == node.id) else {
        let what = format!(
            "the migration of shard {shard} is driven by node {}: tell it there",
            migration.driver
        );
        return Err(Fault::new("not-driver", what));
    };
    if matches!(wish, Wish::Cancel | Wish::Cutover) && !migration.phase.before_activate() {
        let what = format!(
            "shard {shard} belongs to node {} already; move it back with a migration of its own",
            record.owner
        );
        return Err(Fault::new("too-late", what));
    }
    tell(&driven, wish)?;
    Ok(json!({ "migration": driven.id() }))
}

fn tell(migration: &Migration, wish: Wish) -> Result<(), Error> {
    match wish {
        Wish::Cutover => migration.cutover(),
        Wish::Cancel => migration.abort(),
        Wish::Cleanup => migration.cleanup(),
        Wish::Pause => migration.pause(),
        Wish::Resume => migration.resume(),
        Wish::Limits {
            rate_bytes_per_s,
            pause_max_ms,
        } => {
            let rate = rate_bytes_per_s.map(|rate| (rate > 0).then_some(rate));
            migration.set_limits(Limits {
                rate_bytes_per_s: rate,
                pause_max_ms,
            })?;
        }
    }
    Ok(())
}

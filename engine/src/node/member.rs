//! This node among the others: it says that it is there, learns where they are, and takes over what a dead one drove.
//!
//! Liveness is the placement's: a node that was not heard of within the time it asked for counts as dead. That decides
//! only who drives a migration, never who owns a shard, so being wrong costs a change of drivers and nothing else: the
//! one taken over from is refused everywhere by its lower term (rule 15). Of several that could take over the target
//! comes first, then the source, then the others by name; who is later waits longer, and one swap decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use watershed_migration::{DriverTerm, MigrationId, MigrationRecord, NodeId, PlacementRecord};

use super::Node;
use super::goals::Pursuit;
use crate::Error;
use crate::migrate;
use crate::placement::{Member, NodeInfo, PlacementError};
use crate::sync::lock;

/// How long a node that is not heard of counts as alive.
const ALIVE_FOR: Duration = Duration::from_secs(5);
/// How often it is heard of, and looks for what dead ones drove.
const RENEW_EVERY: Duration = Duration::from_millis(1500);
/// How long a renewal, or a farewell, may take.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(2);
/// The members are read again at the most so often, however often the map changes.
const LEARN_EVERY: Duration = Duration::from_millis(100);

/// The part of a node in its cluster; empty until it joins.
#[derive(Debug, Default)]
pub(super) struct Membership(Mutex<Option<Joined>>);

#[derive(Debug)]
struct Joined {
    info: NodeInfo,
    keeping: JoinHandle<()>,
}

impl Node {
    /// Announces this node, learns of the others, and keeps doing so until the node closes. Joining again changes what
    /// is announced.
    pub(crate) async fn join(&self, info: NodeInfo) -> Result<(), Error> {
        check(&info)?;
        let (me, placement) = (self.id.clone(), &self.placement);
        placement.announce(me, info.clone(), ALIVE_FOR).await?;
        learn(self).await?;
        let keeping = self.runtime.spawn(keep(self.clone(), info.clone()));
        let before = lock(&self.member.0).replace(Joined { info, keeping });
        if let Some(before) = before {
            before.keeping.abort();
        }
        Ok(())
    }

    /// Says that the node is about to stop, so that others take over at once what it drives.
    pub(super) async fn leave(&self) {
        let joined = lock(&self.member.0).take();
        let Some(Joined { info, keeping }) = joined else {
            return;
        };
        keeping.abort();
        let farewell = self
            .placement
            .announce(self.id.clone(), info, Duration::ZERO);
        match tokio::time::timeout(ANNOUNCE_WITHIN, farewell).await {
            Ok(Ok(())) => {}
            // They will find out by themselves.
            Ok(Err(error)) => tracing::debug!(%error, "the farewell was not heard"),
            Err(_) => tracing::debug!("the farewell was not answered"),
        }
    }
}

fn check(info: &NodeInfo) -> Result<(), Error> {
    let wrong = |what: String| Err(Error::Options { what });
    let port = info.address.rsplit_once(':').map(|(_, port)| port);
    if port.is_none_or(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return wrong(format!(
            "{:?} is no address that others can reach: give it as HOST:PORT",
            info.address
        ));
    }
    if info.weight == 0 {
        return wrong("a node's weight is at least 1; to empty a node, drain it".into());
    }
    Ok(())
}

async fn keep(node: Node, info: NodeInfo) {
    let mut changes = node.placement.watch();
    let mut renew = tokio::time::interval(RENEW_EVERY);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = true;
    let mut orphans = Orphans::default();
    let mut pursuit = Pursuit::default();
    loop {
        tokio::select! {
            _ = renew.tick() => {
                let renewed = announce(&node, &info).await;
                say_once(&mut heard, renewed);
                if let Err(error) = look(&node, &mut orphans, &mut pursuit).await {
                    tracing::debug!(%error, "what is to be done in the cluster can't be read");
                }
            }
            Ok(()) = changes.changed() => {
                if let Err(error) = learn(&node).await {
                    tracing::debug!(%error, "the members can't be read");
                }
                tokio::time::sleep(LEARN_EVERY).await;
            }
        }
    }
}

/// Sees to what died nodes drove, and to what operators want.
async fn look(node: &Node, orphans: &mut Orphans, pursuit: &mut Pursuit) -> Result<(), Error> {
    let members = node.placement.members().await?;
    let records = node.placement.list().await?;
    orphans.take_over(node, &members, &records).await;
    pursuit.go_on(node, &members, &records).await;
    Ok(())
}

async fn announce(node: &Node, info: &NodeInfo) -> Result<(), PlacementError> {
    let announcing = node
        .placement
        .announce(node.id.clone(), info.clone(), ALIVE_FOR);
    let timeout = |_| PlacementError::Unreachable {
        reason: format!("no answer within {ANNOUNCE_WITHIN:?}"),
    };
    tokio::time::timeout(ANNOUNCE_WITHIN, announcing)
        .await
        .map_err(timeout)?
}

/// Tells of the first failure in a row, and of its end.
fn say_once(heard: &mut bool, renewed: Result<(), PlacementError>) {
    match renewed {
        Err(error) if std::mem::take(heard) => {
            tracing::warn!(%error, "the placement does not hear of this node: if that goes on, others take over the migrations that it drives");
        }
        Ok(()) if !*heard => {
            *heard = true;
            tracing::info!("the placement hears of this node again");
        }
        _ => {}
    }
}

/// Tells the link where the others are.
async fn learn(node: &Node) -> Result<(), PlacementError> {
    let Some(link) = &node.link else {
        return Ok(());
    };
    for (name, member) in node.placement.members().await? {
        link.know(&name, &member.info.address);
    }
    Ok(())
}

/// The migrations whose driver is dead, and since when they were seen so.
#[derive(Debug, Default)]
struct Orphans(HashMap<(MigrationId, DriverTerm), Instant>);

impl Orphans {
    async fn take_over(
        &mut self,
        node: &Node,
        members: &BTreeMap<NodeId, Member>,
        records: &[PlacementRecord],
    ) {
        let orphaned = records.iter().filter_map(|record| {
            let migration = record.active_migration()?.clone();
            let dead = members.get(&migration.driver).is_none_or(|m| !m.alive);
            let known = (migration.id, migration.driver_term);
            (dead && migration.driver != node.id).then_some((known, migration, record))
        });
        let orphaned: Vec<_> = orphaned.collect();
        self.0
            .retain(|known, _| orphaned.iter().any(|(still, ..)| still == known));
        let now = Instant::now();
        for (known, migration, record) in orphaned {
            let since = *self.0.entry(known).or_insert(now);
            if now.duration_since(since) < patience(&node.id, &migration, members) {
                continue;
            }
            tracing::warn!(shard = %record.shard, migration = %migration.id, driver = %migration.driver, "the driver of a migration has died: taking over");
            if let Err(error) = migrate::take_over(node, record, migration.id).await {
                tracing::warn!(migration = %migration.id, %error, "could not take over; trying again");
            }
        }
    }
}

/// How long this node leaves an orphan to others that are better placed and alive.
fn patience(
    me: &NodeId,
    migration: &MigrationRecord,
    members: &BTreeMap<NodeId, Member>,
) -> Duration {
    let alive = |node: &&NodeId| members.get(*node).is_some_and(|member| member.alive);
    let concerned = [&migration.target, &migration.source];
    let others = members.keys().filter(|node| !concerned.contains(node));
    let before = concerned
        .into_iter()
        .chain(others)
        .take_while(|node| *node != me)
        .filter(alive)
        .count();
    RENEW_EVERY.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_a_node_a_weight() {
        let info = |address: &str, weight| NodeInfo {
            address: address.into(),
            weight,
        };
        for good in ["10.0.0.1:7400", "[::1]:1", "node-1.example:65535"] {
            assert!(check(&info(good, 1)).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.1", "a:", ":x", "a:0", "a:65536", "a:-1"] {
            assert!(check(&info(bad, 1)).is_err(), "{bad}");
        }
        assert!(check(&info("a:1", 0)).is_err());
    }
}

//! Nodes, and whether they are alive: a key bound to a lease, which goes when the lease is not renewed.
//!
//! An announcement of what is known already renews the lease and looks whether all is as it should be, which writes
//! nothing and tells nobody. Only where something is different (the first time, after a silence, when an operator removed
//! the node) it writes, in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Error, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use watershed_migration::NodeId;
use watershed_migration::balance::Goal;

use super::Shared;
use super::keys::{Joined, decode, encode, node_of};
use super::shards::{Ended, MAX_ANSWER_BYTES, ROUNDS, is_still, too_busy};
use crate::placement::{LONGEST_LIFE, Member, NodeInfo, PlacementError};

/// The leases that were granted to nodes which announce themselves here. Held for a whole announcement, so that of two
/// at once the later one's lease is the one that counts.
pub(super) type Leases = tokio::sync::Mutex<BTreeMap<NodeId, Lease>>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    id: i64,
    seconds: i64,
}

impl Shared {
    pub(super) async fn members(&self) -> Result<BTreeMap<NodeId, Member>, PlacementError> {
        let (members, lives) = (self.keys.members(), self.keys.lives());
        let [found, alive] = self.get_both(&members, &lives, true).await?;
        let mut read = BTreeMap::new();
        for key in &found {
            let Joined { info, goal } = decode(key)?;
            let member = Member {
                info,
                goal,
                alive: false,
            };
            read.insert(node_of(&members, key)?, member);
        }
        for key in &alive {
            if let Some(member) = read.get_mut(&node_of(&lives, key)?) {
                member.alive = true;
            }
        }
        Ok(read)
    }

    /// What is at two keys, or below them, at one moment.
    async fn get_both(
        &self,
        a: &str,
        b: &str,
        below: bool,
    ) -> Result<[Vec<etcd_client::KeyValue>; 2], PlacementError> {
        let options = below.then(|| GetOptions::new().with_prefix());
        let both = [TxnOp::get(a, options.clone()), TxnOp::get(b, options)];
        let txn = Txn::new().and_then(both);
        let asked = self.pool.ask(|client| {
            let txn = txn.clone();
            let mut client = client
                .kv_client()
                .max_decoding_message_size(MAX_ANSWER_BYTES);
            async move { client.txn(txn).await }
        });
        match &asked.await?.op_responses()[..] {
            [TxnOpResponse::Get(a), TxnOpResponse::Get(b)] => {
                Ok([a.kvs().to_vec(), b.kvs().to_vec()])
            }
            _ => Err(PlacementError::Unreachable {
                reason: "etcd's answer is not one to what was asked".into(),
            }),
        }
    }

    pub(super) async fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> Result<(), PlacementError> {
        let mut leases = self.leases.lock().await;
        if alive_for.is_zero() {
            self.join(&node, &info, None).await?;
            if let Some(lease) = leases.remove(&node) {
                self.let_go(lease).await;
            }
            return Ok(());
        }
        let seconds = whole_seconds(alive_for);
        let before = leases.get(&node).copied();
        if let Some(lease) = before.filter(|lease| lease.seconds == seconds)
            && self.renew(lease).await?
            && self.is_announced(&node, &info, lease).await?
        {
            return Ok(());
        }
        let lease = self.grant(seconds).await?;
        self.join(&node, &info, Some(lease)).await?;
        if let Some(before) = leases.insert(node, lease) {
            self.let_go(before).await;
        }
        Ok(())
    }

    async fn grant(&self, seconds: i64) -> Result<Lease, PlacementError> {
        // Asked twice it grants two, of which one ends by itself.
        let granted = self.pool.ask(|client| async move {
            let mut client = client.lease_client();
            client.grant(seconds, None).await
        });
        let id = granted.await?.id();
        Ok(Lease { id, seconds })
    }

    /// Gives whether the lease was still there.
    async fn renew(&self, lease: Lease) -> Result<bool, PlacementError> {
        let renewed = self.pool.ask(|client| async move {
            match client.lease_client().keep_alive(lease.id).await {
                Ok(_) => Ok(true),
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        });
        renewed.await
    }

    /// A lease that no key is bound to any more.
    async fn let_go(&self, lease: Lease) {
        let revoked = self.pool.send(|client| async move {
            let mut client = client.lease_client();
            client.revoke(lease.id).await
        });
        if let Err(error) = revoked.await {
            tracing::debug!(%error, "a lease in etcd ends later, by itself");
        }
    }

    /// Whether everything is as an announcement would make it.
    async fn is_announced(
        &self,
        node: &NodeId,
        info: &NodeInfo,
        lease: Lease,
    ) -> Result<bool, PlacementError> {
        let (member, life) = (self.keys.member(node), self.keys.life(node));
        let [member, life] = self.get_both(&member, &life, false).await?;
        let (Some(member), Some(life)) = (member.first(), life.first()) else {
            return Ok(false);
        };
        let kept: Joined = decode(member)?;
        Ok(kept.info == *info && life.lease() == lease.id)
    }

    /// A member's value, and what it says.
    async fn find_member(
        &self,
        node: &NodeId,
    ) -> Result<Option<(Vec<u8>, Joined)>, PlacementError> {
        let found = self.get(&self.keys.member(node), None).await?;
        let kept = found.kvs().first();
        kept.map(|key| Ok((key.value().to_vec(), decode(key)?)))
            .transpose()
    }

    /// Makes a node a member, that is alive by this lease or is not.
    async fn join(
        &self,
        node: &NodeId,
        info: &NodeInfo,
        lease: Option<Lease>,
    ) -> Result<(), PlacementError> {
        let (member, life) = (self.keys.member(node), self.keys.life(node));
        for _ in 0..ROUNDS {
            let kept = self.find_member(node).await?;
            let joined = Joined {
                info: info.clone(),
                goal: kept.as_ref().and_then(|(_, kept)| kept.goal),
            };
            let is_news = kept.as_ref().is_none_or(|(_, kept)| *kept != joined);
            let said = is_news.then(|| TxnOp::put(&*member, encode(&joined), None));
            let life = match lease {
                Some(lease) => {
                    let bound = PutOptions::new().with_lease(lease.id);
                    TxnOp::put(&*life, "", Some(bound))
                }
                None => TxnOp::delete(&*life, None),
            };
            let before = kept.as_ref().map(|(value, _)| &**value);
            let txn = Txn::new()
                .when([is_still(&member, before)])
                .and_then(said.into_iter().chain([life]).collect::<Vec<_>>())
                .or_else([TxnOp::get(&*member, None)]);
            if matches!(self.commit(txn).await?, Ended::Done) {
                return Ok(());
            }
        }
        Err(too_busy(format_args!("node {node}")))
    }

    pub(super) async fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> Result<(), PlacementError> {
        let member = self.keys.member(&node);
        for _ in 0..ROUNDS {
            let Some((before, kept)) = self.find_member(&node).await? else {
                return Err(PlacementError::NoMember { node });
            };
            if kept.goal == goal {
                return Ok(());
            }
            let joined = Joined { goal, ..kept };
            let changed = self.change(&member, Some(&before), encode(&joined));
            if matches!(changed.await?, Ended::Done) {
                return Ok(());
            }
        }
        Err(too_busy(format_args!("node {node}")))
    }

    pub(super) async fn remove_member(&self, node: NodeId) -> Result<(), PlacementError> {
        let (member, life) = (self.keys.member(&node), self.keys.life(&node));
        let gone = [TxnOp::delete(member, None), TxnOp::delete(life, None)];
        self.commit(Txn::new().and_then(gone)).await.map(drop)
    }
}

/// Rounded up: a lease has no smaller unit.
fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.min(LONGEST_LIFE).as_millis().div_ceil(1000);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

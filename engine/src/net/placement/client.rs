//! A placement that another node serves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::Status;
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::placement_client::PlacementClient;
use super::proto::{
    AnnounceRequest, ClusterRequest, CreateClusterRequest, ListRequest, MembersRequest,
    ReadRequest, Record, RemoveMemberRequest, RemoveRequest, SetGoalRequest, SwapRequest,
    WatchRequest, swap_response::Outcome,
};
use super::{from_wire, members, to_wire};
use crate::link::BoxFuture;
use crate::net::link::{Channel, origin, reason};
use crate::net::{MAX_RECORD_BYTES, NetLink};
use crate::placement::{ClusterInfo, Member, NodeInfo, Placement, PlacementError};

/// How long a call may take: the journal's syncs are in it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the watch is begun again after it has ended.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// The placement that another node serves (see [`NetServices::placement`](crate::net::NetServices::placement)).
pub struct RemotePlacement {
    host: Host,
    changes: watch::Sender<u64>,
    watching: AbortHandle,
}

/// Where it is.
#[derive(Clone)]
struct Host {
    link: NetLink,
    node: NodeId,
}

impl RemotePlacement {
    /// The placement of `node`, which `link` must know. Nothing is asked yet.
    #[must_use]
    pub fn new(link: NetLink, node: NodeId) -> Self {
        let host = Host { link, node };
        let changes = watch::Sender::new(0);
        let watching = host.clone().keep_watching(changes.clone());
        let watching = host.link.runtime().spawn(watching).abort_handle();
        Self {
            host,
            changes,
            watching,
        }
    }
}

impl Drop for RemotePlacement {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl fmt::Debug for RemotePlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemotePlacement")
            .field("node", &self.host.node)
            .finish_non_exhaustive()
    }
}

fn unreachable(reason: impl Into<String>) -> PlacementError {
    PlacementError::Unreachable {
        reason: reason.into(),
    }
}

impl Host {
    /// A call, within its time; what the link or the host says against it is an unknown outcome. It runs in the link's
    /// runtime: the caller's may have no timers.
    fn call<T, F>(
        &self,
        call: impl FnOnce(PlacementClient<Channel>) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<T, PlacementError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send,
    {
        let Self { link, node } = self.clone();
        let runtime = link.runtime().clone();
        Box::pin(async move {
            let calling = async move {
                let client = Self::client(&link, &node).await?;
                call(client)
                    .await
                    .map_err(|status| unreachable(reason(&status)))
            };
            // Made where there are timers.
            let called = runtime.spawn(async { tokio::time::timeout(CALL_TIMEOUT, calling).await });
            match called.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(unreachable(format!("no answer within {CALL_TIMEOUT:?}"))),
                Err(_) => Err(PlacementError::Closed),
            }
        })
    }

    async fn client(
        link: &NetLink,
        node: &NodeId,
    ) -> Result<PlacementClient<Channel>, PlacementError> {
        let channel = link.channel(node).await;
        let channel = channel.map_err(|error| unreachable(error.to_string()))?;
        Ok(PlacementClient::with_origin(channel, origin())
            .max_decoding_message_size(MAX_RECORD_BYTES))
    }

    /// Tells of each change; and of each time that the watch begins, since some may have been missed.
    async fn keep_watching(self, changes: watch::Sender<u64>) {
        loop {
            if let Err(error) = self.watch(&changes).await {
                tracing::debug!(node = %self.node, %error, "the placement is not watched for a moment");
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    async fn watch(&self, changes: &watch::Sender<u64>) -> Result<(), PlacementError> {
        let failed = |status: Status| unreachable(reason(&status));
        let mut client = Self::client(&self.link, &self.node).await?;
        let answer = client.watch(WatchRequest {}).await.map_err(failed)?;
        let mut stream = answer.into_inner();
        while stream.message().await.map_err(failed)?.is_some() {
            changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }
}

/// Rounded up, so that no time at all stays what is none.
fn in_ms(time: Duration) -> u64 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

fn read_record(record: Option<Record>) -> Result<Option<PlacementRecord>, PlacementError> {
    let record = record.as_ref().map(from_wire).transpose();
    record.map_err(unreachable)
}

impl Placement for RemotePlacement {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        let call = self
            .host
            .call(|mut client| async move { client.cluster(ClusterRequest {}).await });
        Box::pin(async move {
            let shards = call.await?.into_inner().shards;
            Ok((shards > 0).then_some(ClusterInfo { shards }))
        })
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        let request = CreateClusterRequest {
            shards: info.shards,
        };
        let call = self
            .host
            .call(move |mut client| async move { client.create_cluster(request).await });
        Box::pin(async move {
            let shards = call.await?.into_inner().shards;
            Ok(ClusterInfo { shards })
        })
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        let request = ReadRequest { shard: shard.0 };
        let call = self
            .host
            .call(move |mut client| async move { client.read(request).await });
        Box::pin(async move { read_record(call.await?.into_inner().record) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        let call = self.host.call(|mut client| async move {
            let mut messages = client.list(ListRequest {}).await?.into_inner();
            let mut records = Vec::new();
            while let Some(message) = messages.message().await? {
                records.extend(message.records);
            }
            Ok(records)
        });
        Box::pin(async move {
            let records = call.await?;
            let read = records.iter().map(from_wire);
            read.collect::<Result<_, _>>().map_err(unreachable)
        })
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        let shard = record.shard;
        let request = SwapRequest {
            expected: expected.map(|revision| revision.0),
            record: Some(to_wire(&record)),
        };
        let call = self
            .host
            .call(move |mut client| async move { client.swap(request).await });
        Box::pin(async move {
            match call.await?.into_inner().outcome {
                Some(Outcome::Stored(stored)) => from_wire(&stored).map_err(unreachable),
                Some(Outcome::Conflict(conflict)) => Err(PlacementError::Conflict {
                    shard,
                    current: read_record(conflict.current)?.map(Box::new),
                }),
                Some(Outcome::Revision(refused)) => Err(PlacementError::Revision {
                    shard,
                    expected: Revision(refused.expected),
                    offered: Revision(refused.offered),
                }),
                None => Err(unreachable("an answer without an outcome")),
            }
        })
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        let request = RemoveRequest {
            shard: shard.0,
            expected: expected.0,
        };
        let call = self
            .host
            .call(move |mut client| async move { client.remove(request).await });
        Box::pin(async move {
            match call.await?.into_inner().conflict {
                None => Ok(()),
                Some(conflict) => Err(PlacementError::Conflict {
                    shard,
                    current: read_record(conflict.current)?.map(Box::new),
                }),
            }
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        let call = self
            .host
            .call(|mut client| async move { client.members(MembersRequest {}).await });
        Box::pin(async move {
            let found = call.await?.into_inner().members;
            let read = found.into_iter().map(members::from_wire);
            read.collect::<Result<_, _>>().map_err(unreachable)
        })
    }

    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        let request = AnnounceRequest {
            node: node.into(),
            info: Some(members::info_to_wire(info)),
            alive_for_ms: in_ms(alive_for),
        };
        let call = self
            .host
            .call(move |mut client| async move { client.announce(request).await });
        Box::pin(async move { call.await.map(drop) })
    }

    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        let request = SetGoalRequest {
            node: node.to_string(),
            goal: goal.map(|goal| members::goal_to_wire(goal).into()),
        };
        let call = self
            .host
            .call(move |mut client| async move { client.set_goal(request).await });
        Box::pin(async move {
            match call.await?.into_inner().no_member {
                false => Ok(()),
                true => Err(PlacementError::NoMember { node }),
            }
        })
    }

    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        let request = RemoveMemberRequest { node: node.into() };
        let call = self
            .host
            .call(move |mut client| async move { client.remove_member(request).await });
        Box::pin(async move { call.await.map(drop) })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

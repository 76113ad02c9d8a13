//! Serves a placement of this node to the others.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use watershed_migration::Revision;
use watershed_wal::ShardId;

use super::placement_server::{Placement as Service, PlacementServer};
use super::proto::{
    AnnounceRequest, AnnounceResponse, ClusterRequest, ClusterResponse, Conflict,
    CreateClusterRequest, ListRequest, ListResponse, MembersRequest, MembersResponse, ReadRequest,
    ReadResponse, RemoveMemberRequest, RemoveMemberResponse, RemoveRequest, RemoveResponse,
    RevisionRefused, SetGoalRequest, SetGoalResponse, SwapRequest, SwapResponse, WatchRequest,
    WatchResponse, swap_response::Outcome,
};
use super::{from_wire, members, to_wire};
use crate::net::server::Callers;
use crate::placement::{ClusterInfo, Placement, PlacementError};

/// Records in one message of a list: with certificates in them a few kilobytes each.
const LISTED: usize = 64;

/// The service: a placement, and who may ask for it.
pub(in crate::net) struct Served {
    placement: Arc<dyn Placement>,
    callers: Callers,
    /// The server stops: a watch, which goes on for ever, ends.
    stopped: watch::Receiver<bool>,
}

impl Served {
    pub(in crate::net) fn new(
        placement: Arc<dyn Placement>,
        callers: Callers,
        stopped: watch::Receiver<bool>,
    ) -> PlacementServer<Self> {
        let served = Self {
            placement,
            callers,
            stopped,
        };
        PlacementServer::new(served).max_decoding_message_size(crate::net::MAX_RECORD_BYTES)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.callers.only_nodes(request.extensions())
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Served").field(&self.placement).finish()
    }
}

fn failed(error: &PlacementError) -> Status {
    Status::unavailable(error.to_string())
}

type Listed = Pin<Box<dyn Stream<Item = Result<ListResponse, Status>> + Send>>;
type Watched = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Served {
    async fn cluster(
        &self,
        request: Request<ClusterRequest>,
    ) -> Result<Response<ClusterResponse>, Status> {
        self.check(&request)?;
        let info = self.placement.cluster().await.map_err(|e| failed(&e))?;
        let shards = info.map_or(0, |info| info.shards);
        Ok(Response::new(ClusterResponse { shards }))
    }

    async fn create_cluster(
        &self,
        request: Request<CreateClusterRequest>,
    ) -> Result<Response<ClusterResponse>, Status> {
        self.check(&request)?;
        let shards = request.get_ref().shards;
        if shards == 0 {
            return Err(Status::invalid_argument("a cluster has at least one shard"));
        }
        let made = self.placement.create_cluster(ClusterInfo { shards }).await;
        let shards = made.map_err(|e| failed(&e))?.shards;
        Ok(Response::new(ClusterResponse { shards }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        self.check(&request)?;
        let shard = ShardId(request.get_ref().shard);
        let record = self.placement.read(shard).await.map_err(|e| failed(&e))?;
        let record = record.as_ref().map(to_wire);
        Ok(Response::new(ReadResponse { record }))
    }

    type ListStream = Listed;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Listed>, Status> {
        self.check(&request)?;
        let records = self.placement.list().await.map_err(|e| failed(&e))?;
        let mut records = records.into_iter().peekable();
        let messages = std::iter::from_fn(move || {
            records.peek()?;
            let records = records.by_ref().take(LISTED);
            let records = records.map(|record| to_wire(&record)).collect();
            Some(Ok(ListResponse { records }))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn swap(&self, request: Request<SwapRequest>) -> Result<Response<SwapResponse>, Status> {
        self.check(&request)?;
        let SwapRequest { expected, record } = request.into_inner();
        let record = record.ok_or_else(|| Status::invalid_argument("a swap without a record"))?;
        let record = from_wire(&record).map_err(Status::invalid_argument)?;
        let outcome = match self.placement.swap(expected.map(Revision), record).await {
            Ok(stored) => Outcome::Stored(to_wire(&stored)),
            Err(PlacementError::Conflict { current, .. }) => Outcome::Conflict(Conflict {
                current: current.as_deref().map(to_wire),
            }),
            Err(PlacementError::Revision {
                expected, offered, ..
            }) => Outcome::Revision(RevisionRefused {
                expected: expected.0,
                offered: offered.0,
            }),
            Err(error) => return Err(failed(&error)),
        };
        let outcome = Some(outcome);
        Ok(Response::new(SwapResponse { outcome }))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveResponse>, Status> {
        self.check(&request)?;
        let RemoveRequest { shard, expected } = *request.get_ref();
        let removed = self.placement.remove(ShardId(shard), Revision(expected));
        let conflict = match removed.await {
            Ok(()) => None,
            Err(PlacementError::Conflict { current, .. }) => Some(Conflict {
                current: current.as_deref().map(to_wire),
            }),
            Err(error) => return Err(failed(&error)),
        };
        Ok(Response::new(RemoveResponse { conflict }))
    }

    type WatchStream = Watched;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Watched>, Status> {
        self.check(&request)?;
        // Its first element is the state of now.
        let changes = WatchStream::new(self.placement.watch()).map(|_| Some(WatchResponse {}));
        let stop = WatchStream::new(self.stopped.clone()).filter_map(|stop| stop.then_some(None));
        let messages = changes.merge(stop).map_while(|message| message.map(Ok));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        self.check(&request)?;
        let found = self.placement.members().await.map_err(|e| failed(&e))?;
        let members = found.iter().map(members::to_wire).collect();
        Ok(Response::new(MembersResponse { members }))
    }

    async fn announce(
        &self,
        request: Request<AnnounceRequest>,
    ) -> Result<Response<AnnounceResponse>, Status> {
        self.check(&request)?;
        let node = members::name(&request.get_ref().node).map_err(Status::invalid_argument)?;
        self.callers.only_itself(request.extensions(), &node)?;
        let AnnounceRequest {
            info, alive_for_ms, ..
        } = request.into_inner();
        let info = members::info(info).map_err(Status::invalid_argument)?;
        let alive_for = Duration::from_millis(alive_for_ms);
        let announced = self.placement.announce(node, info, alive_for).await;
        announced.map_err(|e| failed(&e))?;
        Ok(Response::new(AnnounceResponse {}))
    }

    async fn set_goal(
        &self,
        request: Request<SetGoalRequest>,
    ) -> Result<Response<SetGoalResponse>, Status> {
        self.check(&request)?;
        let SetGoalRequest { node, goal } = request.into_inner();
        let node = members::name(&node).map_err(Status::invalid_argument)?;
        let goal = members::goal(goal).map_err(Status::invalid_argument)?;
        let no_member = match self.placement.set_goal(node, goal).await {
            Ok(()) => false,
            Err(PlacementError::NoMember { .. }) => true,
            Err(error) => return Err(failed(&error)),
        };
        Ok(Response::new(SetGoalResponse { no_member }))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        self.check(&request)?;
        let node = members::name(&request.get_ref().node).map_err(Status::invalid_argument)?;
        let removed = self.placement.remove_member(node).await;
        removed.map_err(|e| failed(&e))?;
        Ok(Response::new(RemoveMemberResponse {}))
    }
}

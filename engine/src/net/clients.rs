//! The service for clients: requests for data, answered where the shard is owned, and the map of who owns what.

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use watershed_migration::messages::{RefusedKind, Request, Response};

use super::identity::Role;
use super::raw::{Answered, Handler, no_such_method};
use super::server::{Caller, Callers};
use crate::link::BoxFuture;
use crate::node::Node;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from proto/"
)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/watershed.client.v1.rs"));
}

use proto::{MapRequest, MapResponse, Node as Located, Owner};

const SERVICE: &str = "watershed.client.v1.Client";
/// See `proto/watershed/client/v1/client.proto`.
pub(crate) const CALL: &str = "/watershed.client.v1.Client/Call";
pub(crate) const MAP: &str = "/watershed.client.v1.Client/Map";
pub(super) const GREET: &str = "/watershed.client.v1.Client/Greet";

/// Answers clients from a node.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) node: Node,
    pub(super) callers: Callers,
}

impl Handler for Clients {
    const NAME: &'static str = SERVICE;

    fn answer(
        &self,
        method: &str,
        caller: &Caller,
        request: Bytes,
    ) -> Result<BoxFuture<'static, Answered>, Status> {
        let all = &[Role::Client, Role::Admin, Role::Node];
        self.callers.only(caller, all, "only clients")?;
        match method {
            CALL => {
                let served = self.serve(request);
                Ok(Box::pin(async move { Ok(served.await) }))
            }
            MAP => {
                let MapRequest {} = MapRequest::decode(request)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let node = self.node.clone();
                Ok(Box::pin(async move { map(&node).await }))
            }
            GREET => Ok(Box::pin(async { Ok(Bytes::new()) })),
            _ => Err(no_such_method()),
        }
    }
}

impl Clients {
    /// Answers a request about data; what else nodes ask each other is none of a client's business.
    fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        let refused = |message: String| {
            let refused = Response::refused(RefusedKind::Unsupported, message).encode();
            let refused: BoxFuture<'static, Bytes> = Box::pin(async { refused });
            refused
        };
        match Request::decode_bytes(request) {
            Ok(request) if is_for_clients(&request) => self.node.answer_request(request),
            Ok(request) => refused(format!("{} is for nodes only", request.name())),
            Err(error) => refused(error.to_string()),
        }
    }
}

const fn is_for_clients(request: &Request) -> bool {
    matches!(
        request,
        Request::Write { .. }
            | Request::OpenSession { .. }
            | Request::Get { .. }
            | Request::Scan { .. }
    )
}

async fn map(node: &Node) -> Answered {
    let failed = |error: crate::placement::PlacementError| Status::unavailable(error.to_string());
    let records = node.placement.list().await.map_err(failed)?;
    let members = node.placement.members().await.map_err(failed)?;
    let owner = |record: watershed_migration::PlacementRecord| Owner {
        shard: record.shard.0,
        node: record.owner.to_string(),
        epoch: record.epoch.0,
    };
    let located = |(name, member): (watershed_migration::NodeId, crate::Member)| Located {
        name: name.to_string(),
        address: member.info.address,
    };
    let map = MapResponse {
        node: node.id.to_string(),
        shards: node.shards,
        owners: records.into_iter().map(owner).collect(),
        nodes: members.into_iter().map(located).collect(),
    };
    Ok(map.encode_to_vec().into())
}

//! Calls to a node: a request is encoded, carried by the link, and its response decoded, also to this node itself.

use std::time::Duration;

use bytes::Bytes;
use watershed_migration::NodeId;
use watershed_migration::messages::{Request, Response, WireError};

use crate::link::{BoxFuture, LinkError};
use crate::node::Node;

/// A node as its peers see it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    node: Node,
    to: NodeId,
}

/// Why a call gave no response that can be understood.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("node {to} answered what can't be read: {source}")]
    Wire { to: NodeId, source: WireError },
    #[error("node {to} gave no response within {} ms; whether the request was carried out is not known", after.as_millis())]
    TimedOut { to: NodeId, after: Duration },
}

impl CallError {
    /// The call got lost, and says nothing about whether the node is there.
    pub(super) fn was_lost(&self) -> bool {
        matches!(self, Self::Link(LinkError::Lost { .. }))
    }
}

impl Peer {
    pub(super) fn new(node: &Node, to: NodeId) -> Self {
        Self {
            node: node.clone(),
            to,
        }
    }

    pub(super) fn id(&self) -> &NodeId {
        &self.to
    }

    /// Sends a request and waits for its response.
    pub(super) async fn call(&self, request: Request) -> Result<Response, CallError> {
        let bytes = self.carry(request.encode()).await?;
        Response::decode_bytes(bytes).map_err(|source| CallError::Wire {
            to: self.to.clone(),
            source,
        })
    }

    /// As [`Peer::call`], given up after `timeout`. The request may be carried out all the same.
    pub(super) async fn call_within(
        &self,
        timeout: Duration,
        request: Request,
    ) -> Result<Response, CallError> {
        match tokio::time::timeout(timeout, self.call(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::TimedOut {
                to: self.to.clone(),
                after: timeout,
            }),
        }
    }

    fn carry(&self, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        if self.to == self.node.id {
            // The way back into this node, by the same bytes as from any other.
            let answer = self.node.answer(request);
            return Box::pin(async move { Ok(answer.await) });
        }
        match &self.node.link {
            Some(link) => link.call(&self.to, request),
            None => {
                let node = self.to.clone();
                Box::pin(async move { Err(LinkError::UnknownNode { node }) })
            }
        }
    }
}

//! The link between nodes: a call carries one encoded request to a node and its encoded response back.
//!
//! Owns the trait [`Link`] (an embedder may bring one), the trait [`Service`] (what a node answers), and two links:
//! [`LocalLink`] between the engines of one process and [`FaultyLink`], which loses forwarded records on purpose. What
//! the bytes mean is in `watershed_migration::{Request, Response}`; a link looks into them only to lose some.
//!
//! A call without a response decides nothing: the request may have been carried out. So may one whose future was
//! dropped.

mod faulty;
mod local;

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use watershed_migration::NodeId;

pub use faulty::FaultyLink;
pub use local::LocalLink;

/// A future behind a pointer, as the public traits give them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The way to other nodes.
pub trait Link: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` to node `to` and gives its response.
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// Told where a node is, by what it announced in the placement. Default: nothing, for a link that knows by itself.
    fn know(&self, node: &NodeId, address: &str) {
        let _ = (node, address);
    }
}

/// What a node answers to other nodes.
pub trait Service: Send + Sync + 'static {
    /// Carries out a request. What is wrong with it is said in the response, which is encoded too.
    ///
    /// An implementation goes on with a request it has begun when the future is dropped: a caller that gives up
    /// waiting must not leave half a step behind.
    fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// Why a call gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The node is not known to this link: nothing was sent.
    #[error("node {node} is not known here; start it, or check its name")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node is down or can't be reached: nothing was carried out.
    #[error("node {node} can't be reached ({reason}); it is tried again")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What was met.
        reason: String,
    },
    /// No response came: the request may have been carried out.
    #[error(
        "node {node} gave no response ({reason}); whether the request was carried out is not known"
    )]
    Lost {
        /// The node.
        node: NodeId,
        /// What was met.
        reason: String,
    },
}

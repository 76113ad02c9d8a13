//! Nodes on a network: a [`Link`](crate::Link) over gRPC and mutual TLS, the server that answers it, and a placement that
//! one node serves to the others.
//!
//! A message of `watershed-migration` goes as the request of one gRPC call, its answer as the response; gRPC adds the
//! connection, flow control, keep-alive and cancelling. Both sides show certificates of the cluster's authority
//! ([`Security::Mutual`]), which say who they are: a node reaches exactly the node that it means, and each call checks
//! the caller's role. Without certificates ([`Security::Insecure`]) everything stays on this machine's loopback.
//!
//! Two nodes, of which the first serves the placement (both parts run in one process here, each is one of its own in
//! earnest); the certificates are those of `watershed certs`:
//!
//! ```no_run
//! use std::sync::Arc;
//! use watershed::net::{NetLink, NetServer, NetServices, RemotePlacement, Security, TlsFiles};
//! use watershed::{Engine, FilePlacement, Placement};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Runtime::new()?;
//! let _inside = runtime.enter();
//! let certificates = |node: &str| {
//!     Security::Mutual(TlsFiles {
//!         authority: "watershed-certs/ca.pem".into(),
//!         certificate: format!("watershed-certs/node-{node}.pem").into(),
//!         key: format!("watershed-certs/node-{node}.key").into(),
//!     })
//! };
//!
//! let placement: Arc<dyn Placement> = Arc::new(FilePlacement::open("a/placement")?);
//! let link = NetLink::new(&"a".parse()?, certificates("a"))?;
//! link.know("a".parse()?, "10.0.0.1:7400");
//! link.know("b".parse()?, "10.0.0.2:7400");
//! let options = Engine::options().node("a").placement(placement.clone());
//! let a = options.link(Arc::new(link)).open("a/data")?;
//! let services = NetServices::new(a.service()?).placement(placement);
//! let server = NetServer::start("10.0.0.1:7400".parse()?, certificates("a"), services);
//! let server_a = runtime.block_on(server)?;
//!
//! let link = NetLink::new(&"b".parse()?, certificates("b"))?;
//! link.know("a".parse()?, "10.0.0.1:7400");
//! link.know("b".parse()?, "10.0.0.2:7400");
//! let placement = RemotePlacement::new(link.clone(), "a".parse()?);
//! let options = Engine::options().node("b").placement(Arc::new(placement));
//! let b = options.link(Arc::new(link)).open("b/data")?;
//! let services = NetServices::new(b.service()?);
//! let server = NetServer::start("10.0.0.2:7400".parse()?, certificates("b"), services);
//! let server_b = runtime.block_on(server)?;
//!
//! let shard = a.shards()[0];
//! a.migrate(shard).to("b").start()?.wait()?;
//!
//! a.close()?;
//! b.close()?;
//! runtime.block_on(async {
//!     server_a.stop().await;
//!     server_b.stop().await;
//! });
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! certs.rs      an authority of the cluster's own      identity.rs   who a certificate is for
//! tls.rs        certificates in use, read again        codec.rs      messages that are encoded already
//! clients.rs    what clients may ask                    admins.rs     what operators may
//! raw.rs        services of messages that are bytes
//! server.rs     what comes in                          link.rs       what goes out
//! refusals.rs   who was refused, said once             placement/    the map of owners, served to other nodes
//! ```

mod admins;
pub mod certs;
mod clients;
mod codec;
mod identity;
mod link;
mod placement;
mod raw;
mod refusals;
mod server;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use admins::DO as ADMIN_DO;
pub(crate) use clients::{CALL as CLIENT_CALL, MAP as CLIENT_MAP, proto as client_proto};
pub use identity::{Identity, IdentityError, Role};
pub use link::NetLink;
#[cfg(feature = "etcd")]
pub(crate) use link::join_causes;
pub use placement::RemotePlacement;
pub use refusals::RefusalClass;
pub use server::{NetServer, NetServices};
pub use tls::{TlsError, TlsFiles};

/// How nodes know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// By certificates of the cluster's authority.
    Mutual(TlsFiles),
    /// Not at all: whoever can connect is believed. On the loopback interface only.
    Insecure,
}

/// Why a server or link can't be made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The certificates are no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Without certificates, and open to other machines.
    #[error(
        "{address} is not on the loopback interface: without certificates anybody there could read and write everything; give certificates, or an address such as 127.0.0.1:7400"
    )]
    Exposed {
        /// The address.
        address: String,
    },
    /// The certificate is for somebody else.
    #[error(
        "{found} is not the certificate of node {node}; make one with `watershed certs issue --role node --name {node}`"
    )]
    NotThisNode {
        /// Whom the certificate is for.
        found: Identity,
        /// The node.
        node: watershed_migration::NodeId,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::sync::Arc<io::Error>,
    },
    /// Called outside of a tokio runtime with I/O and time.
    #[error(
        "there is no tokio runtime here: make servers and links within one that has I/O and time"
    )]
    NoRuntime,
}

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing may be heard of a peer before it is asked whether it is there, and then until it counts as gone.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What one call may have on its way before its receiver takes it, and all calls of a connection together.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The most bytes of a message about placement records, which have certificates in them.
const MAX_RECORD_BYTES: usize = 8 << 20;
/// A frame carries a chunk of a file in few pieces.
const FRAME_BYTES: u32 = 256 << 10;

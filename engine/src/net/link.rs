//! What goes out: one connection to each node, made when it is needed and again when it has ended.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Request};
use watershed_migration::NodeId;
use watershed_migration::messages::MAX_MESSAGE_BYTES;

use super::codec::{CALL, Encoded, GREET};
use super::identity::Identity;
use super::tls::{Expected, Tls, failed_handshake};
use super::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW, FRAME_BYTES, KEEP_ALIVE_EVERY, KEEP_ALIVE_TIMEOUT,
    NetError, STREAM_WINDOW, Security, clients,
};
use crate::link::{BoxFuture, Link, LinkError};
use crate::sync::lock;

/// After a connection failed, calls fail for so long without another try.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The way to the other nodes of a cluster, over gRPC and mutual TLS.
///
/// Clones are the same link. It knows the nodes that [`NetLink::know`] told it, this one too: requests for a shard that
/// has just come here go the same way.
#[derive(Clone)]
pub struct NetLink(Arc<Shared>);

struct Shared {
    /// Where connections live: calls may be made in any runtime, or in none.
    runtime: Handle,
    tls: Option<Tls>,
    /// What a new connection asks for first, which must be open to this side; see [`Shared::connect`].
    greeting: &'static str,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
}

/// A node, and the connection to it.
struct Peer {
    /// `None`: whatever node is at the address.
    node: Option<NodeId>,
    address: String,
    connection: tokio::sync::Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    sender: Option<SendRequest<Body>>,
    failed: Option<(Instant, String)>,
}

/// How one call ended without an answer.
enum Failed {
    /// It did not leave, or was refused as a whole.
    NotBegun(String),
    Unknown(String),
}

impl NetLink {
    /// A link of the node `own`, that knows no node yet. Its connections live on the tokio runtime that this is called
    /// in.
    ///
    /// # Errors
    /// When the certificates are no use or are not this node's, and outside of a runtime.
    pub fn new(own: &NodeId, security: Security) -> Result<Self, NetError> {
        let tls = match security {
            Security::Mutual(files) => Some(Tls::load(files)?),
            Security::Insecure => None,
        };
        if let Some(tls) = &tls {
            let found = tls.current().identity.clone();
            if found != Identity::node(own.clone()) {
                let node = own.clone();
                return Err(NetError::NotThisNode { found, node });
            }
        }
        Self::showing(tls, GREET)
    }

    /// A link of a client or an admin.
    pub(crate) fn of_client(security: Security) -> Result<Self, NetError> {
        let tls = match security {
            Security::Mutual(files) => Some(Tls::load(files)?),
            Security::Insecure => None,
        };
        Self::showing(tls, clients::GREET)
    }

    /// A link that shows this certificate, whosever it is.
    pub(super) fn showing(tls: Option<Tls>, greeting: &'static str) -> Result<Self, NetError> {
        Ok(Self(Arc::new(Shared {
            runtime: Handle::try_current().map_err(|_| NetError::NoRuntime)?,
            tls,
            greeting,
            peers: Mutex::default(),
        })))
    }

    /// Tells where a node is, as HOST:PORT. A connection to where it was before is used no more.
    pub fn know(&self, node: NodeId, address: impl Into<String>) {
        let peer = Peer::new(Some(node.clone()), address.into());
        let mut peers = lock(&self.0.peers);
        if peers
            .get(&node)
            .is_none_or(|known| known.address != peer.address)
        {
            peers.insert(node, Arc::new(peer));
        }
    }

    /// Asks a node that it knows: one message to a method, and the answer.
    pub(crate) fn ask(
        &self,
        to: &NodeId,
        method: &'static str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let node = to.clone();
        let Some(peer) = lock(&self.0.peers).get(to).cloned() else {
            return Box::pin(async { Err(LinkError::UnknownNode { node }) });
        };
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let asked = shared.ask(&peer, method, request).await;
            asked.map_err(|failed| match failed {
                Failed::NotBegun(reason) => LinkError::Unreachable { node, reason },
                Failed::Unknown(reason) => LinkError::Lost { node, reason },
            })
        })
    }

    /// Asks whatever node is at an address, over a connection for this once.
    pub(crate) fn ask_at(
        &self,
        address: &str,
        method: &'static str,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let peer = Arc::new(Peer::new(None, address.to_owned()));
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let asked = shared.ask(&peer, method, request).await;
            asked.map_err(|(Failed::NotBegun(reason) | Failed::Unknown(reason))| reason)
        })
    }

    /// Where its connections live.
    pub(super) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// A connection to a node, for a gRPC service of its own.
    pub(super) async fn channel(&self, to: &NodeId) -> Result<Channel, LinkError> {
        let peer = lock(&self.0.peers).get(to).cloned();
        let peer = peer.ok_or_else(|| LinkError::UnknownNode { node: to.clone() })?;
        let sender = self.0.sender(&peer).await;
        let unreachable = |reason| LinkError::Unreachable {
            node: to.clone(),
            reason,
        };
        sender.map(Channel::over).map_err(unreachable)
    }

    /// Forgets a node that has left.
    pub fn forget(&self, node: &NodeId) {
        lock(&self.0.peers).remove(node);
    }
}

impl fmt::Debug for NetLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = lock(&self.0.peers);
        let known = peers.iter().map(|(node, peer)| (node, &peer.address));
        f.debug_map().entries(known).finish()
    }
}

impl Link for NetLink {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        self.ask(to, CALL, request)
    }

    fn know(&self, node: &NodeId, address: &str) {
        self.know(node.clone(), address);
    }
}

impl Peer {
    fn new(node: Option<NodeId>, address: String) -> Self {
        Self {
            node,
            address,
            connection: tokio::sync::Mutex::default(),
        }
    }
}

impl Shared {
    async fn ask(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        method: &'static str,
        request: Bytes,
    ) -> Result<Bytes, Failed> {
        let sender = self.sender(peer).await.map_err(Failed::NotBegun)?;
        call(sender, method, request).await
    }

    /// The connection to a peer, made where there is none. Several callers wait for the same attempt.
    async fn sender(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<SendRequest<Body>, String> {
        let mut connection = peer.connection.lock().await;
        if let Some(sender) = connection.sender.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        if let Some((at, reason)) = &connection.failed
            && at.elapsed() < RETRY_AFTER
        {
            return Err(reason.clone());
        }
        let (shared, to) = (Arc::clone(self), Arc::clone(peer));
        let connecting = async move {
            let connecting = shared.connect(&to);
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| {
                Err(format!(
                    "{} did not answer within {CONNECT_TIMEOUT:?}",
                    to.address
                ))
            })
        };
        let connected = self.runtime.spawn(connecting).await;
        let connected = connected.unwrap_or_else(|_| Err("the link's runtime has ended".into()));
        match &connected {
            Ok(sender) => {
                connection.failed = None;
                connection.sender = Some(sender.clone());
            }
            Err(reason) => {
                connection.sender = None;
                connection.failed = Some((Instant::now(), reason.clone()));
            }
        }
        connected
    }

    /// Connects, and makes sure that both sides take each other: a server looks at certificates last.
    async fn connect(&self, peer: &Peer) -> Result<SendRequest<Body>, String> {
        let address = &peer.address;
        let failed = |error: std::io::Error| format!("{address}: {error}");
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        // Small requests must not wait for each other; where that can't be set they only come later.
        let _ = stream.set_nodelay(true);
        let opened = match &self.tls {
            None => {
                let there: SocketAddr = stream.peer_addr().map_err(failed)?;
                if !there.ip().is_loopback() {
                    let address = there.to_string();
                    return Err(NetError::Exposed { address }.to_string());
                }
                open(stream, address).await?
            }
            Some(tls) => {
                let expected = match &peer.node {
                    Some(node) => Expected::Exactly(Identity::node(node.clone())),
                    None => Expected::AnyNode,
                };
                let config = tls.current().client(expected);
                let config = config.map_err(|error| error.to_string())?;
                // Not sent and not looked at: the certificate's own name counts.
                let name = ServerName::from(there_ip(&stream).map_err(failed)?);
                let connector = TlsConnector::from(Arc::new(config));
                let stream = connector.connect(name, stream).await;
                let stream =
                    stream.map_err(|error| format!("{address}: {}", failed_handshake(&error)))?;
                open(stream, address).await?
            }
        };
        let (sender, ended) = opened;
        let reason = match call(sender.clone(), self.greeting, Bytes::new()).await {
            Ok(_) => return Ok(sender),
            Err(Failed::NotBegun(reason) | Failed::Unknown(reason)) => reason,
        };
        if !sender.is_closed() {
            return Err(format!("{address}: {reason}"));
        }
        // The connection itself knows why it ended: that this side's certificate was refused, for example.
        let why = ended.await.ok().flatten();
        Err(format!("{address}: {}", why.unwrap_or(reason)))
    }
}

/// A connection that is up, and what will say why it has ended.
type Opened = (SendRequest<Body>, oneshot::Receiver<Option<String>>);

fn there_ip(stream: &TcpStream) -> std::io::Result<std::net::IpAddr> {
    Ok(stream.peer_addr()?.ip())
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: &str,
) -> Result<Opened, String> {
    let shaken = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = shaken.map_err(|error| format!("{address}: {error}"))?;
    let address = address.to_owned();
    let (tell, ended) = oneshot::channel();
    tokio::spawn(async move {
        let why = connection.await.err().map(|error| causes(&error));
        if let Some(why) = &why {
            tracing::debug!(address, why, "a connection to a node ended");
        }
        // Only who opens it listens.
        let _ = tell.send(why);
    });
    Ok((sender, ended))
}

/// HTTP wants a host; it is the connection that says which node is asked.
pub(super) fn origin() -> http::Uri {
    http::Uri::from_static("http://watershed")
}

async fn call(
    sender: SendRequest<Body>,
    method: &'static str,
    request: Bytes,
) -> Result<Bytes, Failed> {
    let channel = Channel::over(sender);
    let unsent = Arc::clone(&channel.unsent);
    let mut grpc =
        Grpc::with_origin(channel, origin()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let path = http::uri::PathAndQuery::from_static(method);
    if let Err(error) = grpc.ready().await {
        return Err(Failed::NotBegun(error.to_string()));
    }
    match grpc.unary(Request::new(request), path, Encoded).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => {
            let reason = reason(&status);
            let refused = matches!(
                status.code(),
                Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
            );
            if refused || unsent.load(Ordering::Relaxed) {
                Err(Failed::NotBegun(reason))
            } else {
                Err(Failed::Unknown(reason))
            }
        }
    }
}

/// What a status says, down to the cause that the transport met.
pub(super) fn reason(status: &tonic::Status) -> String {
    join_causes(status.message().to_owned(), status.source())
}

fn causes(error: &dyn Error) -> String {
    join_causes(error.to_string(), error.source())
}

/// Each cause that the text before it does not say already.
pub(crate) fn join_causes(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(cause) = source {
        let said = cause.to_string();
        if text.is_empty() {
            text = said;
        } else if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// A connection, as tonic's client takes it.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<Body>,
    /// The request never left.
    unsent: Arc<AtomicBool>,
}

impl Channel {
    fn over(sender: SendRequest<Body>) -> Self {
        Self {
            sender,
            unsent: Arc::default(),
        }
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sent = self.sender.try_send_request(request);
        let unsent = Arc::clone(&self.unsent);
        Box::pin(async move {
            sent.await.map_err(|mut error| {
                if error.take_message().is_some() {
                    unsent.store(true, Ordering::Relaxed);
                }
                error.into_error()
            })
        })
    }
}

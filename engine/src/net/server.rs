//! What comes in: connections, each with a known caller, and their calls.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::server::Connected;
use watershed_migration::NodeId;

use super::admins::Admins;
use super::clients::Clients;
use super::codec::{CALL, GREET, SERVICE};
use super::identity::{Identity, Role};
use super::raw::{Answered, Handler, Raw, no_such_method};
use super::refusals::{RefusalClass, Refusals};
use super::tls::{Tls, failed_handshake};
use super::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW, FRAME_BYTES, KEEP_ALIVE_EVERY, KEEP_ALIVE_TIMEOUT,
    NetError, STREAM_WINDOW, Security, placement,
};
use crate::engine::Engine;
use crate::link::{BoxFuture, Service};
use crate::node::Node;
use crate::placement::Placement;

/// The most connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// The most calls of one connection at once; more wait at the caller.
const CALLS: u32 = 128;
/// What headers of a call may take.
const HEADER_BYTES: u32 = 16 << 10;
/// How long a peer that was refused may take to read that.
const LINGER: Duration = Duration::from_secs(1);
/// How long calls that are going on may take when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Answers other nodes' calls with a [`Service`]. Dropped, it ends at once; see [`NetServer::stop`].
#[derive(Debug)]
pub struct NetServer {
    address: SocketAddr,
    refusals: Arc<Refusals>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    serving: JoinHandle<()>,
}

/// What a [`NetServer`] answers with.
#[derive(Clone)]
pub struct NetServices {
    nodes: Arc<dyn Service>,
    placement: Option<Arc<dyn Placement>>,
    /// Whose data clients may ask for.
    node: Option<Node>,
}

impl NetServices {
    /// `nodes` answers what nodes ask each other: an engine's [`Engine::service`](crate::Engine::service).
    #[must_use]
    pub fn new(nodes: Arc<dyn Service>) -> Self {
        Self {
            nodes,
            placement: None,
            node: None,
        }
    }

    /// Everything that an engine answers: what nodes ask each other, and what clients and operators ask. It does not keep the engine
    /// open.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn of(engine: &Engine) -> Result<Self, crate::Error> {
        let mut services = Self::new(engine.service()?);
        services.node = Some(engine.node()?);
        Ok(services)
    }

    /// Serves a placement of this process too, to the [`RemotePlacement`](super::RemotePlacement)s of other nodes.
    #[must_use]
    pub fn placement(mut self, placement: Arc<dyn Placement>) -> Self {
        self.placement = Some(placement);
        self
    }
}

impl NetServer {
    /// Listens on `address` (port 0: any that is free), and answers on the tokio runtime that this is called in.
    ///
    /// # Errors
    /// When the certificates are no use, the address is taken, or it is open to others and there are no certificates.
    pub async fn start(
        address: SocketAddr,
        security: Security,
        services: NetServices,
    ) -> Result<Self, NetError> {
        let tls = match security {
            Security::Mutual(files) => Some(Tls::load(files)?),
            Security::Insecure if address.ip().is_loopback() => None,
            Security::Insecure => {
                let address = address.to_string();
                return Err(NetError::Exposed { address });
            }
        };
        let failed = |source: io::Error| NetError::Listen {
            address,
            source: Arc::new(source),
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let (ready, incoming) = mpsc::channel(16);
        let refusals = Arc::new(Refusals::default());
        let door = Door {
            tls: tls.map(Arc::new),
            refusals: Arc::clone(&refusals),
            stopped: stopped.clone(),
            ready,
        };
        let accepting = tokio::spawn(door.accept(listener));
        let callers = Callers(Arc::clone(&refusals));
        let serving = tokio::spawn(serve(services, callers, incoming, stopped));
        Ok(Self {
            address,
            refusals,
            stop,
            accepting,
            serving,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many peers it has refused, by class.
    #[must_use]
    pub fn refusals(&self) -> [(RefusalClass, u64); RefusalClass::ALL.len()] {
        self.refusals.counts()
    }

    /// Accepts nothing more, lets calls that are going on end for a few seconds, and ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, &mut self.serving)
            .await
            .is_err()
        {
            tracing::warn!(address = %self.address, "calls that were going on are cut off");
        }
    }
}

impl Drop for NetServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.serving.abort();
    }
}

async fn serve(
    services: NetServices,
    callers: Callers,
    incoming: mpsc::Receiver<Connection>,
    mut stopped: watch::Receiver<bool>,
) {
    let placement = services.placement;
    let placement = placement
        .map(|placement| placement::Served::new(placement, callers.clone(), stopped.clone()));
    let admins = services.node.clone().map(|node| {
        Raw(Admins {
            node,
            callers: callers.clone(),
        })
    });
    let clients = services.node.map(|node| {
        Raw(Clients {
            node,
            callers: callers.clone(),
        })
    });
    let nodes = Nodes {
        service: services.nodes,
        callers,
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status(SERVICE, tonic_health::ServingStatus::Serving)
        .await;
    let incoming = tokio_stream::StreamExt::map(ReceiverStream::new(incoming), Ok::<_, Infallible>);
    let stop = async move {
        // An error is a server that was dropped.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(Raw(nodes))
        .add_service(health_service)
        .add_optional_service(placement)
        .add_optional_service(clients)
        .add_optional_service(admins)
        .serve_with_incoming_shutdown(incoming, stop)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the server for other nodes ended");
    }
}

/// Lets connections in.
struct Door {
    tls: Option<Arc<Tls>>,
    refusals: Arc<Refusals>,
    stopped: watch::Receiver<bool>,
    ready: mpsc::Sender<Connection>,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let mut stopped = self.stopped.clone();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let door = Arc::new(self);
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let door = Arc::clone(&door);
                    tokio::spawn(async move { door.admit(stream, peer, permit).await });
                }
                Err(error) => {
                    // No more files, for example: the connections that are up go on.
                    tracing::error!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let shaken = tokio::time::timeout(CONNECT_TIMEOUT, self.shake_hands(stream)).await;
        let slow = || {
            let reason = "it did not finish the TLS handshake".to_owned();
            Err((RefusalClass::Slow, reason))
        };
        match shaken.unwrap_or_else(|_| slow()) {
            Ok((io, identity)) => {
                let mut server = self.stopped.clone();
                let connection = Connection {
                    io,
                    caller: Caller {
                        address: peer,
                        identity,
                    },
                    cut: Some(Box::pin(
                        async move { while server.changed().await.is_ok() {} },
                    )),
                    _permit: permit,
                };
                // Fails only where the server has ended.
                let _ = self.ready.send(connection).await;
            }
            Err((class, reason)) => self.refusals.note(peer.ip(), class, &reason),
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
    ) -> Result<(Box<dyn Io>, Option<Identity>), (RefusalClass, String)> {
        // Small answers must not wait for each other; where that can't be set they only come later.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok((Box::new(stream), None));
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.current().server));
        let stream = match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                linger(stream).await;
                return Err((RefusalClass::Handshake, failed_handshake(&error)));
            }
        };
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(<[_]>::first).ok_or_else(|| {
            (
                RefusalClass::Handshake,
                "it shows no certificate".to_owned(),
            )
        })?;
        let identity = Identity::of(certificate)
            .map_err(|error| (RefusalClass::Identity, error.to_string()))?;
        Ok((Box::new(stream), Some(identity)))
    }
}

/// Lets the other side read why it was refused: closed at once, with bytes of it not read, the connection would be reset,
/// and what was sent be lost.
async fn linger(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // It may be gone, or not go.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    /// `None` without certificates: then everybody is believed.
    pub(super) identity: Option<Identity>,
}

/// A connection that was let in.
struct Connection {
    io: Box<dyn Io>,
    caller: Caller,
    /// Comes when the server is dropped: connections have tasks of their own, which would go on.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_cut = self
            .cut
            .as_mut()
            .is_none_or(|cut| cut.as_mut().poll(cx).is_ready());
        if is_cut {
            self.cut = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Says who may call what.
#[derive(Debug, Clone)]
pub(super) struct Callers(Arc<Refusals>);

impl Callers {
    /// Lets nodes through, and nobody else: for what moves shards or changes their owner.
    pub(super) fn only_nodes(&self, call: &http::Extensions) -> Result<(), Status> {
        let Some(caller) = call.get::<Caller>() else {
            return Err(Status::internal("the caller is not known"));
        };
        self.only(caller, &[Role::Node], "only nodes")
    }

    /// Lets these roles through, which are `said` so.
    pub(super) fn only(&self, caller: &Caller, roles: &[Role], said: &str) -> Result<(), Status> {
        match &caller.identity {
            Some(identity) if !roles.contains(&identity.role) => {
                let reason = format!("{identity} asks for what {said} may");
                self.0
                    .note(caller.address.ip(), RefusalClass::Role, &reason);
                Err(Status::permission_denied(reason))
            }
            _ => Ok(()),
        }
    }

    /// Lets a node speak for itself, and for no other. Without certificates everybody is believed.
    pub(super) fn only_itself(&self, call: &http::Extensions, node: &NodeId) -> Result<(), Status> {
        self.only_nodes(call)?;
        let caller = call.get::<Caller>();
        match caller.and_then(|caller| Some((caller.address, caller.identity.as_ref()?))) {
            Some((address, identity)) if identity.name != *node => {
                let reason = format!("{identity} speaks for node {node}, which only that node may");
                self.0.note(address.ip(), RefusalClass::Role, &reason);
                Err(Status::permission_denied(reason))
            }
            _ => Ok(()),
        }
    }
}

/// The gRPC service of nodes.
#[derive(Clone)]
struct Nodes {
    service: Arc<dyn Service>,
    callers: Callers,
}

impl Handler for Nodes {
    const NAME: &'static str = SERVICE;

    fn answer(
        &self,
        method: &str,
        caller: &Caller,
        request: Bytes,
    ) -> Result<BoxFuture<'static, Answered>, Status> {
        self.callers.only(caller, &[Role::Node], "only nodes")?;
        match method {
            CALL => {
                let served = self.service.serve(request);
                Ok(Box::pin(async move { Ok(served.await) }))
            }
            GREET => Ok(Box::pin(async { Ok(Bytes::new()) })),
            _ => Err(no_such_method()),
        }
    }
}

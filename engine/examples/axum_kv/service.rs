//! One node of the service: an engine, what other nodes reach it by, and the HTTP side.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use watershed::net::{NetLink, NetServer, NetServices, RemotePlacement, Security};
use watershed::{Engine, FilePlacement, NodeId, NodeInfo, Placement};

use crate::Failure;
use crate::routes::{App, routes};

/// How long requests may take to end once the service is to stop.
const GRACE: Duration = Duration::from_secs(15);

/// What a node is started with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    pub(crate) dir: PathBuf,
    /// Where other nodes reach it; port 0: any that is free.
    pub(crate) peer: SocketAddr,
    /// The node that serves the map of owners, and where it is; none: this one does.
    pub(crate) placement: Option<(NodeId, String)>,
    pub(crate) security: Security,
    /// Where the nodes' HTTP services are.
    pub(crate) sites: BTreeMap<NodeId, String>,
    /// Send clients to the owner of a key instead of asking it for them.
    pub(crate) redirect: bool,
}

/// A node that is up.
pub(crate) struct Service {
    pub(crate) engine: Engine,
    peers: NetServer,
    http: JoinHandle<std::io::Result<()>>,
    stop: watch::Sender<bool>,
}

impl Service {
    /// Opens the engine, then answers other nodes, then clients, who come by `listener`.
    pub(crate) async fn start(settings: Settings, listener: TcpListener) -> Result<Self, Failure> {
        let link = NetLink::new(&settings.node, settings.security.clone())?;
        let placement: Arc<dyn Placement> = match &settings.placement {
            None => Arc::new(FilePlacement::open(settings.dir.join("placement"))?),
            Some((host, address)) => {
                link.know(host.clone(), address);
                Arc::new(RemotePlacement::new(link.clone(), host.clone()))
            }
        };
        let options = Engine::options()
            .node(settings.node.as_str())
            .placement(placement.clone())
            .link(Arc::new(link));
        // Opening blocks, and so do joining and closing.
        let dir = settings.dir.join("data");
        let engine = spawn_blocking(move || options.open(dir)).await??;

        let mut services = NetServices::of(&engine)?;
        if settings.placement.is_none() {
            services = services.placement(placement.clone());
        }
        let peers = NetServer::start(settings.peer, settings.security, services).await?;
        let info = NodeInfo {
            address: peers.address().to_string(),
            weight: 1,
        };
        let joining = engine.clone();
        spawn_blocking(move || joining.join(info)).await??;

        let app = App {
            engine: engine.clone(),
            placement,
            sites: settings.sites,
            redirect: settings.redirect,
        };
        let (stop, mut stopped) = watch::channel(false);
        let stopping = async move {
            // An error: nobody can stop it any more, so it is to stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serving = axum::serve(listener, routes(app)).with_graceful_shutdown(stopping);
        Ok(Self {
            engine,
            peers,
            http: tokio::spawn(serving.into_future()),
            stop,
        })
    }

    /// Where other nodes reach it.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.peers.address()
    }

    /// Takes no more requests; those that were taken go on, see [`Service::close`].
    pub(crate) fn begin_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Finishes the requests that were taken, closes the engine, and only then stops answering other nodes: closing
    /// tells them, through the placement, which may be here.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        self.begin_to_stop();
        let Self {
            engine,
            peers,
            mut http,
            ..
        } = self;
        let finished = tokio::time::timeout(GRACE, &mut http).await;
        if finished.is_err() {
            eprintln!("requests that take longer than {GRACE:?} are cut off");
            http.abort();
        }
        spawn_blocking(move || engine.close()).await??;
        peers.stop().await;
        if let Ok(served) = finished {
            served??;
        }
        Ok(())
    }
}

//! The assembly of a node: placement, link, engine, server, in this order; and back.
//!
//! A node may be killed at any moment: what is done here at the end in good order saves the next start some work, and lets
//! requests under way end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::config::{LogSettings, NodeConfig, PlacementChoice};
use super::health::Health;
use super::http::Http;
use super::placement::{self, Opened, Placed};
use super::signals::Stop;
use super::{Trial, stepped};
use crate::cli::failure::{Failure, Kind};
use crate::cli::output::{Answer, Output, print};
use crate::net::{NetError, NetLink, NetServer, NetServices};
use crate::{Engine, EngineOptions, Error, FaultyLink, Link, NodeInfo, Placement, PlacementError};

/// How long stopping in good order may take; then the process ends as if it were killed.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// How long threads that still run may take when everything else has ended.
const THREADS_WITHIN: Duration = Duration::from_secs(1);

/// Runs a node until it is told to stop.
pub(super) fn run(config: NodeConfig, trial: Trial, output: &Output) -> Result<Answer, Failure> {
    log_lines(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("ws-net")
        .enable_all()
        .build()
        .map_err(|error| failed("starting threads", &error))?;
    let ended = runtime.block_on(node(config, trial, output));
    runtime.shutdown_timeout(THREADS_WITHIN);
    ended.map(|()| Answer::printed())
}

async fn node(config: NodeConfig, trial: Trial, output: &Output) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| failed("listening for signals", &error))?;
    let health = Arc::new(Health::new());
    let http = match config.http {
        None => None,
        Some(address) => Some(Http::start(address, Arc::clone(&health)).await.map_err(
            |source| NetError::Listen {
                address,
                source: Arc::new(source),
            },
        )?),
    };
    let link = NetLink::new(&config.name, config.security.clone())?;
    for (node, address) in &config.nodes {
        link.know(node.clone(), address);
    }
    let placed = match placement::open(&config, &link, &health, &mut stop).await? {
        Opened::Placed(placed) => Some(placed),
        Opened::Own => None,
        Opened::Stop => return Ok(()),
    };
    let Some(engine) = open(&config, trial, &link, placed.as_ref(), &health, &mut stop).await?
    else {
        tracing::info!(node = %config.name, "stopped before it served");
        return Ok(());
    };
    let started = start(&config, &link, placed, &engine, &health).await;
    let address = match started {
        Ok(address) => address,
        Err(failure) => {
            // The directory must be free again when the caller reads the failure.
            let closed = close(engine, None).await;
            tracing::debug!(?closed, "closed after a failed start");
            return Err(failure);
        }
    };
    drop(engine);
    if !stop.is_told() {
        ready(&config, &address, http.as_ref(), output);
    }
    stop.told().await;
    let stopped = tokio::time::timeout(STOP_WITHIN, stop_serving(&health)).await;
    stopped.unwrap_or_else(|_| {
        let message = format!(
            "stopping took longer than {STOP_WITHIN:?}, and was given up: nothing acknowledged is lost, the next start replays the log"
        );
        Err(Failure::new(Kind::Engine, message))
    })
}

/// Opens the engine, as soon as the placement answers. `None`: the process is to stop.
async fn open(
    config: &NodeConfig,
    trial: Trial,
    link: &NetLink,
    placed: Option<&Placed>,
    health: &Health,
    stop: &mut Stop,
) -> Result<Option<Engine>, Failure> {
    let name = match &config.placement {
        PlacementChoice::Remote(host) => format!("served by node {host}"),
        _ => "the map of owners".to_owned(),
    };
    let steps = trial.stepped.then(stepped::observer);
    loop {
        let mut options = config.engine_options().link(way(link, trial));
        if let Some(observer) = steps.clone() {
            options = options.migration_observer(observer);
        }
        if let Some(Placed { placement, .. }) = placed {
            if !placement::wait_for(&**placement, &name, health, stop).await? {
                return Ok(None);
            }
            options = options.placement(Arc::clone(placement));
        }
        health.starting("the engine is opening: after a crash it replays its log first".into());
        // To its end also when a signal comes: what was begun is closed in good order then.
        match open_engine(options, config.dir.clone()).await {
            Ok(engine) => return Ok(Some(engine)),
            Err(Error::Placement(PlacementError::Unreachable { reason })) => {
                tracing::warn!(
                    reason,
                    "the placement went away while the engine was opening"
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The link, which loses forwarded records where the trial says so.
fn way(link: &NetLink, trial: Trial) -> Arc<dyn Link> {
    let link = Arc::new(link.clone());
    if trial.fail_forward > 0.0 {
        let seed = u64::from(std::process::id());
        return Arc::new(FaultyLink::new(link, trial.fail_forward, seed));
    }
    link
}

async fn open_engine(options: EngineOptions, dir: PathBuf) -> Result<Engine, Error> {
    let opening = tokio::task::spawn_blocking(move || options.open(dir));
    opening.await.unwrap_or(Err(Error::Closed))
}

/// Lets the other nodes in, and tells them where this one is. Gives where that is.
async fn start(
    config: &NodeConfig,
    link: &NetLink,
    placed: Option<Placed>,
    engine: &Engine,
    health: &Arc<Health>,
) -> Result<Addresses, Failure> {
    let placed = match placed {
        Some(placed) => Some(placed),
        None => engine.own_placement()?.map(|placement| Placed {
            placement,
            serve: true,
        }),
    };
    let mut services = NetServices::of(engine)?;
    if let Some(Placed { placement, .. }) = placed.as_ref().filter(|placed| placed.serve) {
        services = services.placement(Arc::clone(placement));
    }
    let server = NetServer::start(config.listen, config.security.clone(), services).await?;
    let listen = server.address();
    let advertise = config
        .advertise
        .clone()
        .unwrap_or_else(|| listen.to_string());
    link.know(config.name.clone(), &advertise);
    join(engine, &advertise, config.weight).await?;
    if let Some(Placed { placement, .. }) = placed {
        let looking: Arc<dyn Placement> = placement;
        tokio::spawn(placement::keep_looking(looking, Arc::clone(health)));
    }
    health.serving(engine.clone(), server);
    Ok(Addresses {
        listen: listen.to_string(),
        advertise,
    })
}

async fn join(engine: &Engine, address: &str, weight: u32) -> Result<(), Failure> {
    let info = NodeInfo {
        address: address.to_owned(),
        weight,
    };
    let engine = engine.clone();
    let joining = tokio::task::spawn_blocking(move || engine.join(info));
    Ok(joining.await.unwrap_or(Err(Error::Closed))?)
}

/// Where a node is.
struct Addresses {
    listen: String,
    advertise: String,
}

/// Tells, on one line of standard output, that the node serves: scripts wait for it.
fn ready(config: &NodeConfig, address: &Addresses, http: Option<&Http>, output: &Output) {
    let http = http.map(|http| http.address().to_string());
    let Addresses { listen, advertise } = address;
    tracing::info!(node = %config.name, listen, advertise, http, "serving");
    let line = if output.json() {
        let ready = json!({"name": config.name, "listen": listen, "http": http});
        json!({ "ready": ready }).to_string()
    } else {
        let watched = http.map_or(String::new(), |http| format!(", http {http}"));
        format!("ready: node {} on {listen}{watched}", config.name)
    };
    if let Err(failure) = print(&line) {
        // Nobody reads it: the node serves all the same.
        tracing::warn!(
            reason = failure.message(),
            "that the node serves could not be told"
        );
    }
}

async fn stop_serving(health: &Health) -> Result<(), Failure> {
    let Some((engine, server)) = health.stopping() else {
        return Ok(());
    };
    close(engine, Some(server)).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Lets calls end, puts into files what is in memory, and closes the engine.
async fn close(engine: Engine, server: Option<NetServer>) -> Result<(), Failure> {
    if let Some(server) = server {
        server.stop().await;
    }
    let closing = tokio::task::spawn_blocking(move || {
        if let Err(error) = engine.flush() {
            tracing::warn!(%error, "not everything could be flushed: the next start replays the log");
        }
        engine.close()
    });
    Ok(closing.await.unwrap_or(Err(Error::Closed))?)
}

/// Log lines go to standard error; `RUST_LOG` wins over the configuration.
fn log_lines(settings: &LogSettings) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&settings.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber can only mean that the embedding process set its own: that one stays.
    let _ = if settings.json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_target(false).try_init()
    };
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Io, format!("{what}: {error}"))
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match &error {
            NetError::Listen { address, source }
                if source.kind() == std::io::ErrorKind::AddrInUse =>
            {
                let message = format!(
                    "another process listens on {address}: stop it, or listen on another port"
                );
                Self::new(Kind::Io, message)
            }
            NetError::Listen { .. } | NetError::NoRuntime => Self::new(Kind::Io, error.to_string()),
            _ => Self::new(Kind::Refused, error.to_string()),
        }
    }
}

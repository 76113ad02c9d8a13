//! Where the map of owners is: kept by the engine itself, in a directory of this machine, with another node, or in etcd.

use std::sync::Arc;
use std::time::Duration;

use super::config::{NodeConfig, PlacementChoice};
use super::health::Health;
use super::signals::Stop;
use crate::cli::failure::Failure;
use crate::net::{NetLink, RemotePlacement};
use crate::{FilePlacement, Placement, PlacementError};

/// Until a placement that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often it is said that it is still waited for, in tries.
const SAY_EVERY: u32 = 20;
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// A placement, and whether this node serves it to the others.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) placement: Arc<dyn Placement>,
    pub(super) serve: bool,
}

/// What came of opening a placement.
pub(super) enum Opened {
    Placed(Placed),
    /// The engine opens its own.
    Own,
    /// The process is to stop.
    Stop,
}

/// Opens the placement. One that others keep is waited for.
pub(super) async fn open(
    config: &NodeConfig,
    link: &NetLink,
    health: &Health,
    stop: &mut Stop,
) -> Result<Opened, Failure> {
    let (placement, serve): (Arc<dyn Placement>, bool) = match &config.placement {
        PlacementChoice::Own => return Ok(Opened::Own),
        PlacementChoice::Hosted(dir) => {
            let opened = FilePlacement::open(dir);
            let opened = opened.map_err(|error| Failure::from(crate::Error::from(error)))?;
            (Arc::new(opened), true)
        }
        PlacementChoice::Remote(host) => {
            let remote = RemotePlacement::new(link.clone(), host.clone());
            (Arc::new(remote), false)
        }
        PlacementChoice::Etcd { endpoints, prefix } => {
            let mut waiting = Waiting::new(format!("etcd at {}", endpoints.join(", ")));
            loop {
                let Some(made) = stop.unless(etcd(endpoints, prefix)).await else {
                    return Ok(Opened::Stop);
                };
                match made {
                    Ok(placement) => break (placement, false),
                    Err(error) => {
                        if !waiting.on(error, health, stop).await? {
                            return Ok(Opened::Stop);
                        }
                    }
                }
            }
        }
    };
    Ok(Opened::Placed(Placed { placement, serve }))
}

#[cfg(feature = "etcd")]
async fn etcd(endpoints: &[String], prefix: &str) -> Result<Arc<dyn Placement>, PlacementError> {
    let options = crate::EtcdOptions::new(endpoints.to_vec()).prefix(prefix);
    let connected = crate::EtcdPlacement::connect(options).await?;
    Ok(Arc::new(connected))
}

/// Never called: the configuration is refused.
#[cfg(not(feature = "etcd"))]
async fn etcd(_: &[String], _: &str) -> Result<Arc<dyn Placement>, PlacementError> {
    Err(PlacementError::Closed)
}

/// A placement that is waited for.
struct Waiting {
    name: String,
    tries: u32,
}

impl Waiting {
    fn new(name: String) -> Self {
        Self { name, tries: 0 }
    }

    /// Says why it is waited for, and waits a little; `false`: the process is to stop.
    ///
    /// # Errors
    /// What does not pass by waiting.
    async fn on(
        &mut self,
        error: PlacementError,
        health: &Health,
        stop: &mut Stop,
    ) -> Result<bool, Failure> {
        let reason = match error {
            PlacementError::Unreachable { reason } => reason,
            error => return Err(crate::Error::from(error).into()),
        };
        let name = &self.name;
        health.starting(format!(
            "waiting for the placement, {name}, which can't be reached: {reason}"
        ));
        if self.tries.is_multiple_of(SAY_EVERY) {
            tracing::warn!(
                placement = name,
                reason,
                "waiting for the placement; it is asked again until it answers"
            );
        }
        self.tries = self.tries.saturating_add(1);
        Ok(stop.unless(tokio::time::sleep(ASK_AGAIN)).await.is_some())
    }
}

/// Waits until the placement answers. `false`: the process is to stop.
pub(super) async fn wait_for(
    placement: &dyn Placement,
    name: &str,
    health: &Health,
    stop: &mut Stop,
) -> Result<bool, Failure> {
    let mut waiting = Waiting::new(name.to_owned());
    loop {
        let Some(looked) = stop.unless(look(placement)).await else {
            return Ok(false);
        };
        match looked {
            Ok(()) => {
                if waiting.tries > 0 {
                    tracing::info!(placement = name, "the placement answers");
                }
                return Ok(true);
            }
            Err(error) => {
                if !waiting.on(error, health, stop).await? {
                    return Ok(false);
                }
            }
        }
    }
}

/// Whether the placement answers now.
async fn look(placement: &dyn Placement) -> Result<(), PlacementError> {
    match tokio::time::timeout(LOOK_WITHIN, placement.cluster()).await {
        Ok(answered) => answered.map(|_| ()),
        Err(_) => Err(PlacementError::Unreachable {
            reason: format!("no answer within {LOOK_WITHIN:?}"),
        }),
    }
}

/// Looks every few seconds whether the placement answers, for whoever asks how the node is.
pub(super) async fn keep_looking(placement: Arc<dyn Placement>, health: Arc<Health>) {
    loop {
        let answered = look(&*placement).await;
        health.placement(answered.err().map(|error| error.to_string()));
        tokio::time::sleep(LOOK_WITHIN).await;
    }
}

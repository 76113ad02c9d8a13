//! Where the map of owners is: kept by the engine itself, in a directory of this machine, with another node, or in etcd.

use std::sync::Arc;
use std::time::Duration;

use super::config::{NodeConfig, PlacementChoice};
use super::health::Health;
use super::signals::Stop;
use crate::cli::failure::{Failure, Kind};
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

/// Opens the placement; `None` where the engine opens its own.
pub(super) fn open(config: &NodeConfig, link: &NetLink) -> Result<Option<Placed>, Failure> {
    let (placement, serve): (Arc<dyn Placement>, bool) = match &config.placement {
        PlacementChoice::Own => return Ok(None),
        PlacementChoice::Hosted(dir) => {
            let opened = FilePlacement::open(dir);
            let opened = opened.map_err(|error| Failure::from(crate::Error::from(error)))?;
            (Arc::new(opened), true)
        }
        PlacementChoice::Remote(host) => {
            let remote = RemotePlacement::new(link.clone(), host.clone());
            (Arc::new(remote), false)
        }
        PlacementChoice::Etcd { endpoints, prefix } => (etcd(endpoints, prefix)?, false),
    };
    Ok(Some(Placed { placement, serve }))
}

/// The one place where a placement in etcd is made: an `Arc` of it in place of the error.
fn etcd(endpoints: &[String], prefix: &str) -> Result<Arc<dyn Placement>, Failure> {
    Err(Failure::new(
        Kind::Refused,
        format!(
            "the map of owners is to be in etcd ({}, below {prefix}), and this build has no etcd support: use `dir` or `host` in [placement]",
            endpoints.join(", ")
        ),
    ))
}

/// Waits until the placement answers. `false`: the process is to stop.
pub(super) async fn wait_for(
    placement: &dyn Placement,
    name: &str,
    health: &Health,
    stop: &mut Stop,
) -> Result<bool, Failure> {
    let mut tries: u32 = 0;
    loop {
        let Some(looked) = stop.unless(look(placement)).await else {
            return Ok(false);
        };
        let reason = match looked {
            Ok(()) => {
                if tries > 0 {
                    tracing::info!(placement = name, "the placement answers");
                }
                return Ok(true);
            }
            Err(PlacementError::Unreachable { reason }) => reason,
            Err(error) => return Err(crate::Error::from(error).into()),
        };
        health.starting(format!(
            "waiting for the placement, {name}, which can't be reached: {reason}"
        ));
        if tries.is_multiple_of(SAY_EVERY) {
            tracing::warn!(
                placement = name,
                reason,
                "waiting for the placement; it is asked again until it answers"
            );
        }
        tries = tries.saturating_add(1);
        if stop.unless(tokio::time::sleep(ASK_AGAIN)).await.is_none() {
            return Ok(false);
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

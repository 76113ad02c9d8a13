//! Whether the node serves, and what is not as it should be.

use std::sync::{Mutex, RwLock};

use serde::Serialize;

use crate::Engine;
use crate::net::{NetServer, RefusalClass};
use crate::sync::{lock, read, write};

/// How a node stands, as it changes while it starts, serves and stops.
#[derive(Debug)]
pub(super) struct Health {
    stage: RwLock<Stage>,
    /// Why the placement can't be asked, if it can't.
    placement: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Stage {
    /// With what it waits for.
    Starting(String),
    Serving(Engine, NetServer),
    Stopping,
}

/// What `/healthz` says.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Requests for the shards that are here are answered.
    pub(super) serving: bool,
    /// What is not as it should be; where it does not serve, why.
    pub(super) problems: Vec<String>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            stage: RwLock::new(Stage::Starting("it is starting".into())),
            placement: Mutex::default(),
        }
    }

    /// It does not serve yet, for this reason.
    pub(super) fn starting(&self, reason: String) {
        *write(&self.stage) = Stage::Starting(reason);
    }

    /// From now on it serves.
    pub(super) fn serving(&self, engine: Engine, server: NetServer) {
        *write(&self.stage) = Stage::Serving(engine, server);
    }

    /// It is about to end. Gives what served, once.
    pub(super) fn stopping(&self) -> Option<(Engine, NetServer)> {
        match std::mem::replace(&mut *write(&self.stage), Stage::Stopping) {
            Stage::Serving(engine, server) => Some((engine, server)),
            Stage::Starting(_) | Stage::Stopping => None,
        }
    }

    /// Notes whether the placement answers.
    pub(super) fn placement(&self, trouble: Option<String>) {
        *lock(&self.placement) = trouble;
    }

    /// The engine, while it serves, and whom its server has refused.
    pub(super) fn engine(&self) -> Option<(Engine, Vec<(RefusalClass, u64)>)> {
        match &*read(&self.stage) {
            Stage::Serving(engine, server) => Some((engine.clone(), server.refusals().into())),
            Stage::Starting(_) | Stage::Stopping => None,
        }
    }

    /// Whether the placement answered last.
    pub(super) fn placement_answers(&self) -> bool {
        lock(&self.placement).is_none()
    }

    pub(super) fn verdict(&self) -> Verdict {
        let not_serving = |reason: String| Verdict {
            serving: false,
            problems: vec![reason],
        };
        let engine = match &*read(&self.stage) {
            Stage::Starting(reason) => return not_serving(reason.clone()),
            Stage::Stopping => return not_serving("it is stopping".into()),
            Stage::Serving(engine, _) => engine.clone(),
        };
        let log = match engine.log_status() {
            Ok(log) => log,
            Err(error) => return not_serving(error.to_string()),
        };
        if let Some(reason) = log.poisoned {
            return not_serving(format!(
                "the log failed ({reason}): writes are refused until the node is started again"
            ));
        }
        let mut problems = Vec::new();
        if log.full {
            problems.push("writes are refused for want of room in the log or on its disk".into());
        }
        if let Some(trouble) = lock(&self.placement).clone() {
            problems.push(format!(
                "shards are served and none changes its owner: {trouble}"
            ));
        }
        Verdict {
            serving: true,
            problems,
        }
    }
}

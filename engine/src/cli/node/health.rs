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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use watershed_wal::mem::MemStorage;

    use super::super::metrics;
    use super::*;
    use crate::net::{NetServices, Security};

    fn has(page: &str, line: &str) -> bool {
        page.lines().any(|found| found == line)
    }

    #[test]
    fn what_is_wrong_is_told_and_numbers_are_told_all_the_same() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let health = Health::new();
        health.starting("waiting for something".into());
        let verdict = health.verdict();
        assert_eq!(
            (verdict.serving, &*verdict.problems[0]),
            (false, "waiting for something")
        );
        let page = metrics::page(&health);
        assert!(
            has(&page, "watershed_serving 0") && page.ends_with("# EOF\n"),
            "{page}"
        );

        let device = MemStorage::new();
        let dir = tempfile::tempdir().unwrap();
        let mut options = Engine::options().shards(2);
        options.log_storage = Some(Arc::new(device.clone()));
        let engine = options.open(dir.path()).unwrap();
        let services = NetServices::of(&engine).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = NetServer::start(address, Security::Insecure, services);
        let server = runtime.block_on(server).unwrap();
        health.serving(engine.clone(), server);
        assert!(health.verdict().serving && health.verdict().problems.is_empty());

        // The placement decides who owns what next, not what is served.
        health.placement(Some("it is gone".into()));
        let verdict = health.verdict();
        assert!(verdict.serving && verdict.problems[0].contains("it is gone"));
        let page = metrics::page(&health);
        assert!(has(&page, "watershed_serving 1"), "{page}");
        assert!(has(&page, "watershed_placement_reachable 0"), "{page}");

        device.set_injector(Some("on(sync):eio".parse().unwrap()));
        engine.put("k", "v").wait().unwrap_err();
        let verdict = health.verdict();
        assert!(!verdict.serving, "{verdict:?}");
        assert!(
            verdict.problems[0].starts_with("the log failed"),
            "{verdict:?}"
        );
        let page = metrics::page(&health);
        assert!(has(&page, "watershed_log_poisoned 1"), "{page}");
        assert!(has(&page, "watershed_serving 0"), "{page}");

        device.set_injector(None);
        let (_, server) = health.stopping().unwrap();
        assert!(health.stopping().is_none());
        assert_eq!(health.verdict().problems, ["it is stopping"]);
        runtime.block_on(server.stop());
        // The log's failure was told.
        let _ = engine.close();
    }
}

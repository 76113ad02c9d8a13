//! Moves a shard by orders to the nodes, as an operator does.

use std::sync::Arc;
use std::time::Duration;

use super::stage::Stage;
use super::{Demo, failed};
use crate::cli::demo::cluster::Move;
use crate::cli::demo::movers::{LONGER_PAUSES, Moves, say_moved};
use crate::cli::failure::{Failure, Kind};
use crate::cli::progress::Watch;
use crate::migration::machine::Progress;
use crate::migration::{Certificate, MigrationConfig, MigrationId, Phase, PlacementRecord};
use crate::{Admin, AdminError, BoxFuture, NodeId, Outcome};

/// How often the placement is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often an order that nobody answered is given again, with a pause between.
const ORDERS: u32 = 40;
const ORDER_AGAIN: Duration = Duration::from_millis(500);

/// One move.
pub(super) struct OrderedMove {
    admin: Arc<Admin>,
    step: Move,
    driver: NodeId,
    to: NodeId,
    names: String,
    config: MigrationConfig,
    watch: Watch,
    stage: Arc<Stage>,
    migration: Option<MigrationId>,
}

impl OrderedMove {
    pub(super) fn new(
        demo: &Demo<'_>,
        admin: &Arc<Admin>,
        names: &[String],
        step: Move,
        driver: Option<NodeId>,
        stage: &Arc<Stage>,
    ) -> Result<Self, Failure> {
        let (from, to) = (&names[step.source], &names[step.target]);
        let target: NodeId = to.parse().map_err(failed)?;
        Ok(Self {
            admin: admin.clone(),
            step,
            driver: driver.unwrap_or_else(|| target.clone()),
            to: target,
            names: format!("{from} -> {to}"),
            config: demo.config.clone(),
            watch: demo.watch.clone(),
            stage: stage.clone(),
            migration: None,
        })
    }

    /// Asks on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Admin) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let admin = self.admin.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&admin));
        let closed = AdminError::Cluster(crate::Error::Closed);
        asking.await.unwrap_or(Err(closed))
    }

    /// What the placement says, once it answers.
    async fn record(&self) -> Result<PlacementRecord, Failure> {
        let shard = self.step.shard;
        let mut last = None;
        for _ in 0..ORDERS {
            match self.ask(move |admin| admin.placement_record(shard)).await {
                Ok(record) => return Ok(record),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(ORDER_AGAIN).await;
        }
        Err(last.map_or_else(|| failed("no answer"), Failure::from))
    }

    /// Orders the migration. An order without an answer may have been heard: then the placement says so.
    async fn order(&self) -> Result<MigrationId, Failure> {
        let shard = self.step.shard;
        let mut last = None;
        for _ in 0..ORDERS {
            let (driver, to, config) = (self.driver.clone(), self.to.clone(), self.config.clone());
            match self
                .ask(move |admin| admin.migrate_by(&driver, shard, &to, config))
                .await
            {
                Ok(migration) => return Ok(migration),
                Err(error) => last = Some(error),
            }
            let record = self.record().await?;
            if let Some(migration) = record.active_migration().filter(|m| m.target == self.to) {
                return Ok(migration.id);
            }
            tokio::time::sleep(ORDER_AGAIN).await;
        }
        Err(last.map_or_else(|| failed("no answer"), Failure::from))
    }

    /// Moves the shard; where no attempt fits into the pause again with a longer one. An order that its driver has
    /// forgotten before it had begun is given again.
    async fn move_it(&mut self) -> Result<Certificate, Failure> {
        let mut longer = 0;
        loop {
            let migration = self.order().await?;
            let Some(reason) = self.until_served(migration).await? else {
                break;
            };
            let forgotten = reason.is_empty();
            if !forgotten && longer == LONGER_PAUSES {
                let message = format!("shard {}: {reason}", self.step.shard);
                return Err(Failure::new(Kind::Engine, message));
            }
            if !forgotten {
                longer += 1;
                self.config.pause_max_ms *= 2;
                self.watch.say(&format!(
                    "shard {:>3} {}: {reason}; trying again with a pause of at most {} ms",
                    self.step.shard, self.names, self.config.pause_max_ms
                ));
            }
        }
        let record = self.record().await?;
        let migration = record
            .migration
            .ok_or_else(|| failed("the migration is gone"))?;
        self.migration = Some(migration.id);
        let certificate = migration
            .certificate
            .ok_or_else(|| failed("no certificate"))?;
        say_moved(&self.watch, self.step.shard, &self.names, &certificate);
        Ok(*certificate)
    }

    /// `None` once the target serves; or why it was given up, empty where its driver knows nothing of it.
    async fn until_served(&self, id: MigrationId) -> Result<Option<String>, Failure> {
        let mut unknown = 0;
        loop {
            let record = self.record().await?;
            match record.migration.filter(|m| m.id == id) {
                Some(m) if m.certificate.is_some() => return Ok(None),
                Some(m) if m.phase == Phase::Aborted => {
                    return Ok(Some(
                        m.reason.unwrap_or_else(|| "no reason was kept".into()),
                    ));
                }
                Some(_) => unknown = 0,
                None => {
                    let (shard, driver) = (self.step.shard, self.driver.clone());
                    let outcome = self
                        .ask(move |admin| admin.outcome(shard, id, &driver))
                        .await;
                    match outcome {
                        Ok(Outcome::GaveUp(reason)) => return Ok(Some(reason)),
                        // It waits for its turn; one that was killed has forgotten what had not begun.
                        _ if !self.stage.kills().is_empty() => unknown += 1,
                        _ => {}
                    }
                }
            }
            if unknown > 500 {
                return Ok(Some(String::new()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn until_done(&self) -> Result<Progress, Failure> {
        let id = self.migration.ok_or_else(|| failed("it has not moved"))?;
        loop {
            let record = self.record().await?;
            let over = record
                .migration
                .is_none_or(|m| m.id != id || m.phase == Phase::Done);
            if over && let Some(progress) = self.stage.last(id) {
                return Ok(progress);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Moves for OrderedMove {
    fn serve(&mut self) -> BoxFuture<'_, Result<Certificate, Failure>> {
        Box::pin(self.move_it())
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<Progress, Failure>> {
        Box::pin(self.until_done())
    }
}

//! Opening a node: which copies of shards are here, and what each may do.
//!
//! | the log knows the instance, and the placement says | then |
//! |---|---|
//! | it owns the shard | replay, decide an interrupted pause (rule 6), start the next term, serve |
//! | it is the frozen copy | host it frozen, until Cleanup |
//! | it is a target being made (migrate/ says so) | host it as a receiver |
//! | none of these | a left-over of a migration or drop that has ended: delete it |
//!
//! What only a directory is left of goes too: leftovers.rs. Replay is in replay.rs.
//!
//! An owned shard whose log or directory is missing is an error that names it, never an empty shard.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use watershed_migration::{NodeId, PlacementRecord};
use watershed_wal::{
    DirStorage, Epoch, InstanceId, InstanceLog, Log, OpenReport, Seq, ShardId, Storage,
};

use super::{Node, NodeInner, at_once, keep, replay};
use crate::Error;
use crate::datadir::DataDir;
use crate::migrate::{self, Migrations};
use crate::options::{DEFAULT_SHARDS, EngineOptions};
use crate::placement::{ClusterInfo, FilePlacement, Placement, PlacementError, Witness};
use crate::shard::{ApplyPool, Hosted, Role};
use crate::store::{Applied, Store, StoreEnv};

/// A copy that is here, and what it is to its shard.
#[derive(Debug)]
struct Found {
    hosted: Arc<Hosted>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Owned { epoch: Epoch },
    Frozen { owner: NodeId, epoch: Epoch },
    Receiving,
}

impl Place {
    /// What the placement says that the copy is.
    fn of(record: PlacementRecord, node: &NodeId, instance: InstanceId) -> Option<Self> {
        let epoch = record.epoch;
        if record.is_owned_by(node, instance) {
            return Some(Self::Owned { epoch });
        }
        let frozen = record.frozen.as_ref();
        let is_frozen = frozen.is_some_and(|it| it.instance == instance && it.node == *node);
        is_frozen.then_some(Self::Frozen {
            owner: record.owner,
            epoch,
        })
    }
}

/// Threads that apply: a core is left to who writes and one to the log (on four cores a third gave nothing, as measured with
/// 256 and 1,024 in flight on 16 shards).
fn apply_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    cores.saturating_sub(2).clamp(2, 8)
}

impl Node {
    /// Opens a node in `dir`. Runs on the engine's runtime.
    pub(crate) async fn open(options: EngineOptions, dir: &Path) -> Result<Self, Error> {
        let id = options.node_id()?;
        let data = DataDir::open(dir, &id)?;
        let (placement, own_placement): (Arc<dyn Placement>, _) = match options.placement {
            Some(placement) => (placement, None),
            None => {
                let own = Arc::new(FilePlacement::open(data.placement())?);
                (own.clone(), Some(own))
            }
        };
        let runtime = tokio::runtime::Handle::current();
        let witness = Witness::open(placement, id.clone(), &data.seen(), runtime.clone())?;
        let witness = Arc::new(witness);
        let wal = data.wal();
        let storage: Arc<dyn Storage> = match options.log_storage {
            Some(storage) => storage,
            None => Arc::new(DirStorage::new(&wal).map_err(|e| Error::io("open", &wal, e))?),
        };
        let (log, report) = Log::open(storage, options.log).map_err(|error| Error::LogOpen {
            dir: wal,
            source: Arc::new(error),
        })?;
        log_report(&report);
        let cluster = join_cluster(&*witness, options.shards).await?;
        let pool = ApplyPool::start(apply_threads())
            .map_err(|error| Error::io("start threads for", dir, error))?;
        let node = Self(Arc::new(NodeInner {
            id,
            dir: data.root().to_path_buf(),
            data,
            log,
            env: StoreEnv::new(&options.store)?,
            placement: witness.clone(),
            witness,
            own_placement,
            link: options.link,
            runtime,
            migrations: Migrations::new(
                options.migrations_at_once,
                options.migration_defaults,
                options.migration_observer,
            ),
            stale_epochs: Default::default(),
            shards: cluster.shards,
            pool,
            keeper: keep::Keeper::default(),
            member: Default::default(),
            hosted: Default::default(),
            owned: Default::default(),
            closed: Default::default(),
            requests: Default::default(),
            foreground: Default::default(),
            alive: true.into(),
        }));
        if let Err(error) = node.host_everything().await {
            // The lock and the files must be free again when the caller reads the error.
            let closed = node.close().await;
            tracing::debug!(?closed, "closed after a failed opening");
            node.release();
            return Err(error);
        }
        Ok(node)
    }

    async fn host_everything(&self) -> Result<(), Error> {
        self.check_placement().await?;
        let expected = migrate::expected_receivers(&self.dir)?;
        self.host_known(&expected).await?;
        self.create_missing().await?;
        self.check_owned().await?;
        self.sweep_leftovers(&expected).await?;
        migrate::resume(self).await;
        keep::Keeper::start(self)
    }

    /// Refuses a placement that went back in time before anything is begun or deleted by its word (rule 16).
    async fn check_placement(&self) -> Result<(), Error> {
        let records = self.placement.list().await?;
        for log in self.log.instances() {
            let (shard, instance) = (log.shard(), log.id());
            let Some(record) = records.iter().find(|record| record.shard == shard) else {
                self.witness.may_delete(shard, instance)?;
                continue;
            };
            if let Some(last) = log.terms().last()
                && last.term.epoch > record.epoch
            {
                return Err(Error::older_placement(shard, record.epoch, last.term.epoch));
            }
        }
        Ok(())
    }

    /// Hosts what the log knows: opens the stores, several at once, replays the log in one pass, starts terms.
    async fn host_known(&self, expected: &HashSet<InstanceId>) -> Result<(), Error> {
        let found = at_once::for_each(&self.runtime, self.log.instances(), |log| {
            let (node, expected) = (self.clone(), expected.contains(&log.id()));
            async move { node.host_one(log, expected).await }
        });
        let found: Vec<Found> = found.await?.into_iter().flatten().collect();
        let copies: Vec<_> = found.iter().map(|found| found.hosted.clone()).collect();
        let log = self.log.clone();
        let replay = self
            .runtime
            .spawn_blocking(move || replay::replay(&log, &copies));
        replay.await.unwrap_or(Err(Error::Closed))?;
        let mut starting = Vec::new();
        for Found { hosted, place } in found {
            match place {
                Place::Owned { epoch } => starting.push((hosted, epoch)),
                Place::Frozen { owner, epoch } => {
                    hosted.give_away(owner, epoch);
                }
                Place::Receiving => {}
            }
        }
        keep::make_room(self, starting.len()).await;
        // All at once: so the start records ride on few syncs.
        let started: Vec<_> = starting
            .into_iter()
            .map(|(hosted, epoch)| {
                self.runtime
                    .spawn(async move { hosted.become_owner(epoch).await })
            })
            .collect();
        let mut all = Ok(());
        for task in started {
            all = all.and(task.await.unwrap_or(Err(Error::Closed)).map(drop));
        }
        all
    }

    /// Hosts one copy, its store as it was when the engine stopped; deletes what belongs to nothing.
    async fn host_one(&self, log: InstanceLog, expected: bool) -> Result<Option<Found>, Error> {
        let (shard, instance) = (log.shard(), log.id());
        let mut record = self.placement.read(shard).await?;
        if let Some(found) = record.take_if(|record| record.is_owned_by(&self.id, instance)) {
            record = Some(migrate::before_serving(self, &log, found).await?);
        }
        let place = record.and_then(|record| Place::of(record, &self.id, instance));
        let place = place.or(expected.then_some(Place::Receiving));
        let dir = self.shard_dir(shard, instance);
        let node = self.clone();
        let hosting = self.runtime.spawn_blocking(move || {
            let Some(place) = place else {
                tracing::info!(%shard, %instance, "deleting a copy that belongs to nothing");
                node.log.forget(instance)?;
                Store::destroy(&dir)?;
                return Ok(None);
            };
            let has_store = !matches!(place, Place::Receiving) || dir.is_dir();
            let store = has_store
                .then(|| Store::open(&node.env, &dir))
                .transpose()?;
            let hosted = Hosted::new(log, dir, store, Role::Receiver, node.pool.clone());
            node.add_hosted(hosted.clone());
            Ok(Some(Found { hosted, place }))
        });
        hosting.await.unwrap_or(Err(Error::Closed))
    }

    /// Makes the cluster's shards where this node is the first to open it, or was stopped before it had made them all.
    async fn create_missing(&self) -> Result<(), Error> {
        let records = self.placement.list().await?;
        let have: HashSet<ShardId> = records.iter().map(|record| record.shard).collect();
        if !have.is_empty() && !self.data.is_making()? {
            return Ok(());
        }
        self.data.set_making(true)?;
        let missing = (0..self.shards).map(ShardId);
        let missing = missing.filter(|shard| !have.contains(shard));
        let made = at_once::for_each(&self.runtime, missing, |shard| {
            let node = self.clone();
            async move {
                match node.create_shard(shard).await {
                    // Another node makes the same cluster at this moment.
                    Err(
                        Error::ShardExists { .. }
                        | Error::Placement(PlacementError::Conflict {
                            current: Some(_), ..
                        }),
                    ) => Ok(()),
                    made => made,
                }
            }
        });
        made.await?;
        self.data.set_making(false)
    }

    /// Makes an empty shard that this node owns.
    pub(crate) async fn create_shard(&self, shard: ShardId) -> Result<(), Error> {
        if self.placement.read(shard).await?.is_some() {
            return Err(Error::ShardExists { shard });
        }
        let instance = InstanceId::random();
        let node = self.clone();
        let made = self.runtime.spawn_blocking(move || {
            let dir = node.shard_dir(shard, instance);
            let store = Store::create(&node.env, &dir, Applied::default())?;
            let log = node.log.host(shard, instance, Seq::ZERO, Vec::new())?;
            Ok(Hosted::new(
                log,
                dir,
                Some(store),
                Role::Receiver,
                node.pool.clone(),
            ))
        });
        let hosted: Arc<Hosted> = made.await.unwrap_or(Err(Error::Closed))?;
        self.add_hosted(hosted.clone());
        let record = PlacementRecord::create(shard, self.id.clone(), instance);
        let record = match self.placement.swap(None, record).await {
            Ok(record) => record,
            Err(error) => {
                // What the placement does not name is deleted at the next opening, if not now.
                let removed = self.remove(instance);
                tracing::debug!(%shard, ?removed, "a shard could not be made");
                return Err(error.into());
            }
        };
        hosted.become_owner(record.epoch).await?;
        Ok(())
    }

    /// Every shard that the placement says is owned here must be here.
    async fn check_owned(&self) -> Result<(), Error> {
        for record in self.placement.list().await? {
            if record.owner == self.id && self.hosted_instance(record.instance).is_none() {
                return Err(Error::inconsistent(
                    record.shard,
                    format!(
                        "the placement says instance {} is here, and the log of {} does not know it: restore the directory",
                        record.instance,
                        self.dir.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Deletes a shard that this node owns, with all its data.
    pub(crate) async fn drop_shard(&self, shard: ShardId) -> Result<u64, Error> {
        let record = self
            .placement
            .read(shard)
            .await?
            .ok_or(Error::NoShard { shard })?;
        if record.owner != self.id {
            return Err(Error::Moved {
                shard,
                owner: record.owner,
                epoch: record.epoch,
            });
        }
        if record.active_migration().is_some() || record.frozen.is_some() {
            return Err(Error::ShardBusy { shard });
        }
        self.placement.remove(shard, record.revision).await?;
        let node = self.clone();
        let removed = self
            .runtime
            .spawn_blocking(move || node.remove(record.instance));
        removed.await.unwrap_or(Err(Error::Closed))
    }
}

/// What the cluster was made with; makes it where it is new.
async fn join_cluster(placement: &dyn Placement, asked: Option<u64>) -> Result<ClusterInfo, Error> {
    if asked == Some(0) {
        return Err(Error::Options {
            what: "a cluster has at least 1 shard".into(),
        });
    }
    let wanted = ClusterInfo {
        shards: asked.unwrap_or(DEFAULT_SHARDS),
    };
    let info = placement.create_cluster(wanted).await?;
    match asked {
        Some(asked) if asked != info.shards => Err(Error::Options {
            what: format!(
                "the cluster has {} shards, and {asked} were asked for: the number is fixed when a cluster is made",
                info.shards
            ),
        }),
        _ => Ok(info),
    }
}

fn log_report(report: &OpenReport) {
    if let watershed_wal::LogEnd::Torn { .. } = report.tail {
        tracing::warn!(tail = ?report.tail, "the log's torn tail was cut: nothing in it was promised durable");
    }
    tracing::info!(
        segments = report.segments,
        records = report.records,
        "log opened"
    );
}

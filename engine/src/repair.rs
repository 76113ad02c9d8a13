//! Repairing the log of a closed engine's directory: an explicit choice, shown before it is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use watershed_wal::repair::{RepairPlan, RepairReport, plan};
use watershed_wal::{DirStorage, InstanceId, OpenError, Seq, ShardId, Storage};

use crate::Error;
use crate::datadir::DataDir;
use crate::store::{Store, StoreEnv, StoreLimits};

/// What a repair would do to a directory whose engine is closed; the directory is locked while it is there.
#[derive(Debug)]
pub struct LogRepair {
    data: DataDir,
    plan: Option<RepairPlan>,
}

impl LogRepair {
    /// Finds out what a repair of the log in `dir` would lose. Changes nothing.
    ///
    /// # Errors
    /// When an engine has the directory, when it is not an engine's or of a newer version, and where damage is not
    /// what keeps the log from opening.
    pub fn plan(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let data = DataDir::lock_existing(dir.as_ref())?;
        let wal = data.wal();
        let storage =
            DirStorage::read_only(&wal).map_err(|error| Error::io("open", &wal, error))?;
        let plan = plan(&storage, &stores(&data)?).map_err(|error| failed(&wal, error))?;
        Ok(Self { data, plan })
    }

    /// What would be lost and kept; `None` where there is nothing to repair.
    #[must_use]
    pub const fn found(&self) -> Option<&RepairPlan> {
        self.plan.as_ref()
    }

    /// Repairs the log; gives where the damaged segments are kept. `None` where there was nothing to repair.
    ///
    /// # Errors
    /// When there is no room, or the device fails: the log is the damaged one then, or the repaired one.
    pub fn apply(self) -> Result<Option<(RepairReport, PathBuf)>, Error> {
        let Some(plan) = &self.plan else {
            return Ok(None);
        };
        let wal = self.data.wal();
        let storage = DirStorage::new(&wal).map_err(|error| Error::io("open", &wal, error))?;
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let kept = self.free_name(plan.name())?;
        let aside = DirStorage::new(&kept).map_err(|error| Error::io("create", &kept, error))?;
        let report = plan
            .apply(&storage, &aside)
            .map_err(|error| failed(&wal, error))?;
        Ok(Some((report, kept)))
    }

    /// A name in the directory that nothing has: what was kept before is never written over.
    fn free_name(&self, name: &str) -> Result<PathBuf, Error> {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        for name in std::iter::once(name.to_owned()).chain(numbered) {
            let path = self.data.root().join(name);
            match path.symlink_metadata() {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(Error::io("look for", &path, error)),
            }
        }
        unreachable!("the numbers never end")
    }
}

fn failed(wal: &Path, error: OpenError) -> Error {
    Error::LogOpen {
        dir: wal.into(),
        source: Arc::new(error),
    }
}

/// Up to which Seq the stores hold everything for good, where they can be read.
fn stores(data: &DataDir) -> Result<BTreeMap<InstanceId, Seq>, Error> {
    let shards = data.root().join("shards");
    let read = |error| Error::io("list", &shards, error);
    let env = StoreEnv::new(&StoreLimits::default())?;
    let mut stores = BTreeMap::new();
    for entry in std::fs::read_dir(&shards).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let Some((shard, instance)) = name.to_str().and_then(parse) else {
            continue;
        };
        match Store::open_read_only(&env, &data.shard(shard, instance)) {
            Ok(store) => drop(stores.insert(instance, store.applied().seq)),
            Err(error) => tracing::warn!(%shard, %error, "what this store holds is not known"),
        }
    }
    Ok(stores)
}

fn parse(name: &str) -> Option<(ShardId, InstanceId)> {
    let (shard, instance) = name.split_once('-')?;
    Some((ShardId(shard.parse().ok()?), instance.parse().ok()?))
}

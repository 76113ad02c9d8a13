//! Directories under `shards/` that belong to nothing: a crash came between two steps of making or deleting a copy.
//!
//! A deletion takes the records out of the log first and the directory last, and making a store gives the directory its
//! name last, so what is left over is a directory that the log does not know. It goes at the next opening, unless the
//! placement or the note of a migration names its instance: that is a loss, and not for this module to hide.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;

use watershed_wal::{InstanceId, ShardId};

use super::Node;
use crate::Error;
use crate::placement::Witness;
use crate::store::Store;

impl Node {
    /// Deletes what is left over; `expected` are the copies that migrations are making.
    pub(super) async fn sweep_leftovers(
        &self,
        expected: &HashSet<InstanceId>,
    ) -> Result<(), Error> {
        let mut kept = expected.clone();
        kept.extend(self.hosted_all().iter().map(|hosted| hosted.instance));
        for record in self.placement.list().await? {
            kept.insert(record.instance);
            kept.extend(record.frozen.map(|frozen| frozen.instance));
        }
        let shards = self.data.shards();
        let witness = self.witness.clone();
        let swept = self
            .runtime
            .spawn_blocking(move || sweep(&shards, &kept, &witness));
        swept.await.unwrap_or(Err(Error::Closed))
    }
}

fn sweep(shards: &Path, kept: &HashSet<InstanceId>, witness: &Witness) -> Result<(), Error> {
    let entries = match std::fs::read_dir(shards) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", shards, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", shards, error))?;
        let name = entry.file_name();
        match name.to_str().and_then(parse) {
            // What is beside a copy's name was never finished, or is on its way out.
            Some((shard, instance, whole)) if !(whole && kept.contains(&instance)) => {
                if whole {
                    witness.may_delete(shard, instance)?;
                }
                let bytes = destroy(&entry.path(), whole)?;
                tracing::info!(dir = %entry.path().display(), bytes, "deleted a copy that a crash left over");
            }
            Some(_) => {}
            None => {
                tracing::warn!(path = %entry.path().display(), "not a shard's directory: left alone");
            }
        }
    }
    Ok(())
}

/// The shard and the instance in a directory's name, and whether the name is a copy's own, not one beside it.
fn parse(name: &str) -> Option<(ShardId, InstanceId, bool)> {
    let (shard, rest) = name.split_once('-')?;
    let shard = ShardId(shard.parse().ok()?);
    let (instance, suffix) = rest.split_once('.').unwrap_or((rest, ""));
    Some((shard, instance.parse().ok()?, suffix.is_empty()))
}

fn destroy(dir: &Path, whole: bool) -> Result<u64, Error> {
    if whole {
        return Ok(Store::destroy(dir)?);
    }
    Ok(Store::remove_remains(dir)?)
}

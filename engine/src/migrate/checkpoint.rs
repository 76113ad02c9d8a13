//! The checkpoint that a source serves: made once for a migration, read in chunks, removed at its end.
//!
//! ```text
//! <data directory>/checkpoints/<migration>/files/          the store's files, by hard links
//! <data directory>/checkpoints/<migration>/manifest.json   durable once the files are: without it they are nothing
//! ```
//!
//! It outlives a crash of the source, so that the target goes on with the same files where it stopped.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use watershed_migration::MigrationId;
use watershed_migration::messages::FileInfo;
use watershed_wal::{InstanceId, LogDigest, Seq, ShardId, TermStart};

use super::durable;
use crate::Error;
use crate::store::Store;

const DIRECTORY: &str = "checkpoints";

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) migration: MigrationId,
    pub(super) shard: ShardId,
    /// The copy it was made of.
    pub(super) instance: InstanceId,
    /// B, read out of the finished checkpoint (rule 2).
    pub(super) base: Seq,
    /// The running log digest at B.
    pub(super) digest: LogDigest,
    /// The term history up to B.
    pub(super) terms: Vec<TermStart>,
    pub(super) files: Vec<FileInfo>,
}

/// A finished checkpoint.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) manifest: Manifest,
    dir: PathBuf,
    lengths: HashMap<String, u64>,
}

/// Where the checkpoints of a data directory are.
pub(super) fn root(data: &Path) -> PathBuf {
    data.join(DIRECTORY)
}

fn dir_of(data: &Path, migration: MigrationId) -> PathBuf {
    root(data).join(migration.to_string())
}

impl Served {
    /// The checkpoint of this migration and copy: the one that is there, or a new one. Blocks.
    pub(super) fn open_or_make(
        data: &Path,
        migration: MigrationId,
        shard: ShardId,
        instance: InstanceId,
        store: &Store,
    ) -> Result<Self, Error> {
        if let Some(served) = Self::open(data, migration)?
            && served.manifest.instance == instance
        {
            return Ok(served);
        }
        let dir = dir_of(data, migration);
        durable::remove_dir(&dir)?;
        durable::make_dir(&dir)?;
        let made = store.checkpoint(&dir.join("files"))?;
        let manifest = Manifest {
            migration,
            shard,
            instance,
            base: made.applied.seq,
            digest: made.applied.digest,
            terms: made.terms,
            files: made.files,
        };
        durable::write_json(&dir.join("manifest.json"), &manifest)?;
        Ok(Self::new(dir, manifest))
    }

    /// The finished checkpoint of this migration, if there is one. Blocks.
    pub(super) fn open(data: &Path, migration: MigrationId) -> Result<Option<Self>, Error> {
        let dir = dir_of(data, migration);
        let manifest = durable::read_json(&dir.join("manifest.json"))?;
        Ok(manifest.map(|manifest| Self::new(dir, manifest)))
    }

    fn new(dir: PathBuf, manifest: Manifest) -> Self {
        let lengths = manifest
            .files
            .iter()
            .map(|file| (file.name.clone(), file.len))
            .collect();
        Self {
            manifest,
            dir,
            lengths,
        }
    }

    /// Up to `len` bytes of a file from `offset` on; `None` for a file or place the checkpoint does not have. Blocks.
    pub(super) fn read(&self, name: &str, offset: u64, len: u32) -> Result<Option<Bytes>, Error> {
        // Only names of the manifest are opened, so a peer can't ask for another file of this machine.
        let Some(total) = self.lengths.get(name).filter(|&&total| offset <= total) else {
            return Ok(None);
        };
        let path = self.dir.join("files").join(name);
        let len = u64::from(len).min(total - offset);
        let mut chunk = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut chunk, offset));
        read.map_err(|error| Error::io("read", &path, error))?;
        Ok(Some(chunk.into()))
    }
}

/// Removes the checkpoint of a migration; one that is gone is fine. Blocks.
pub(super) fn remove(data: &Path, migration: MigrationId) -> Result<(), Error> {
    durable::remove_dir(&dir_of(data, migration))
}

/// The migrations that a checkpoint, finished or not, is here for. Blocks.
pub(super) fn list(data: &Path) -> Result<Vec<MigrationId>, Error> {
    let root = root(data);
    let entries = match std::fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", root, error)),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

//! What a target keeps on its disk of a copy that is being made.
//!
//! ```text
//! <data directory>/incoming/<migration>.json        the note: which copy, of whom; with the checkpoint's manifest once known
//! <data directory>/incoming/<migration>/            its files, while they come; renamed to shards/<id>-<instance> when proven
//! ```

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use watershed_migration::MigrationId;
use watershed_migration::messages::Manifest;
use watershed_migration::target::TargetNote;
use watershed_wal::InstanceId;

use crate::Error;
use crate::migrate::durable;

const DIRECTORY: &str = "incoming";

/// What the file of a migration holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::migrate) struct Kept {
    pub(in crate::migrate) note: TargetNote,
    pub(in crate::migrate) manifest: Option<Manifest>,
}

fn root(data: &Path) -> PathBuf {
    data.join(DIRECTORY)
}

fn file(data: &Path, migration: MigrationId) -> PathBuf {
    root(data).join(format!("{migration}.json"))
}

/// Where the checkpoint's files come.
pub(in crate::migrate) fn dir(data: &Path, migration: MigrationId) -> PathBuf {
    root(data).join(migration.to_string())
}

/// Keeps it, durably. Blocks.
pub(in crate::migrate) fn write(data: &Path, kept: &Kept) -> Result<(), Error> {
    let path = file(data, kept.note.migration);
    durable::make_dir(&root(data))?;
    durable::write_json(&path, kept)
}

/// What is kept of a migration. Blocks.
pub(in crate::migrate) fn read(data: &Path, migration: MigrationId) -> Result<Option<Kept>, Error> {
    durable::read_json(&file(data, migration))
}

/// What is kept of all migrations to this node. Blocks.
pub(in crate::migrate) fn list(data: &Path) -> Result<Vec<Kept>, Error> {
    let mut all = Vec::new();
    for path in durable::list_json(&root(data))? {
        all.extend(durable::read_json(&path)?);
    }
    Ok(all)
}

/// The copies that migrations to this node have begun: an opening hosts them as receivers. Blocks.
pub(crate) fn expected_receivers(data: &Path) -> Result<HashSet<InstanceId>, Error> {
    Ok(list(data)?
        .into_iter()
        .map(|kept| kept.note.instance)
        .collect())
}

/// Removes what is kept of a migration, its note last. Blocks.
pub(in crate::migrate) fn remove(data: &Path, migration: MigrationId) -> Result<(), Error> {
    durable::remove_dir(&dir(data, migration))?;
    durable::remove_file(&file(data, migration))
}

/// Removes files of copies whose note is gone. Blocks.
pub(in crate::migrate) fn sweep(data: &Path) -> Result<(), Error> {
    let noted: HashSet<String> = list(data)?
        .iter()
        .map(|kept| kept.note.migration.to_string())
        .collect();
    let entries = match std::fs::read_dir(root(data)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", root(data), error)),
    };
    for entry in entries.flatten() {
        let noted = entry
            .file_name()
            .to_str()
            .is_some_and(|name| noted.contains(name));
        if !noted && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            durable::remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

//! The certificates of a data directory: `certificates/<migration>.json`, one for each activation it drove or saw.

use std::path::{Path, PathBuf};

use watershed_migration::{Certificate, MigrationId};

use super::durable;
use crate::Error;

/// Where the certificate of a migration is.
pub(super) fn path(data: &Path, migration: MigrationId) -> PathBuf {
    data.join("certificates").join(format!("{migration}.json"))
}

/// Writes a certificate, replacing an earlier one of the same migration; durable when it returns. Blocks.
pub(super) fn write(
    data: &Path,
    migration: MigrationId,
    certificate: &Certificate,
) -> Result<PathBuf, Error> {
    let path = path(data, migration);
    path.parent().map_or(Ok(()), durable::make_dir)?;
    durable::write_json(&path, certificate)?;
    Ok(path)
}

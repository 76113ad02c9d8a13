//! Small files that must survive a crash whole: written under a temporary name, synced, renamed, the name synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The ending of what is not whole yet.
const TEMPORARY: &str = "new";

fn in_path<T>(op: &'static str, path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| Error::io(op, path, error))
}

/// Makes `dir` and its missing parents, durably.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => in_path("create", dir, made)?,
        }
        sync_dir(parent)?;
    }
    Ok(())
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    in_path("sync", dir, File::open(dir).and_then(|dir| dir.sync_all()))
}

/// Replaces `path` by a JSON document; durable when it returns.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut bytes = in_path(
        "encode",
        path,
        serde_json::to_vec_pretty(value).map_err(io::Error::other),
    )?;
    bytes.push(b'\n');
    let temporary = path.with_extension(TEMPORARY);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    in_path("write", &temporary, written)?;
    in_path("rename to", path, fs::rename(&temporary, path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Reads a JSON document; `None` where there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => in_path(
            "decode",
            path,
            serde_json::from_slice(&bytes).map_err(io::Error::other),
        )
        .map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// The files of `dir` that end in `.json`, sorted; none where the directory is missing.
pub(super) fn list_json(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = in_path("list", dir, entry)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Removes a file, durably; one that is gone is fine.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Removes a directory with all in it, durably; one that is gone is fine.
pub(super) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Ok(()) => dir.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", dir, error)),
    }
}

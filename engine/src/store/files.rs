//! Directories and files around RocksDB: syncing them, checksums of whole files, making and removing a
//! directory so that a crash leaves it whole or gone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub(crate) use watershed_migration::messages::FileInfo;
use watershed_wal::{DirStorage, Storage as _};
use xxhash_rust::xxh3::Xxh3;

use super::error::StoreError;

/// The file that room is proven with: a name that RocksDB passes over.
const ROOM: &str = "ROOM";

/// The directory beside `dir` with a suffix on its name: for what is not whole yet, or any more.
pub(super) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    dir.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| StoreError::io("sync", path, e))
}

/// Syncs the entries of the directory that holds `path`.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    sync(parent(path))
}

/// Proves that `dir` takes a file of so many bytes, by making one: quotas and limits are known to nobody else. Where the
/// disk says that it has less, it is not tried: nobody else shall find it full. What a crash leaves of the file the next
/// call takes away.
pub(super) fn prove_room(dir: &Path, bytes: u64) -> Result<(), StoreError> {
    const OP: &str = "make files";
    let path = dir.join(ROOM);
    let free = DirStorage::read_only(dir).and_then(|dir| dir.free_bytes());
    let free = free.map_err(|e| StoreError::io("look at", dir, e))?;
    if let Some(free) = free.filter(|&free| free < bytes) {
        return Err(StoreError::NoRoom {
            op: OP,
            dir: dir.to_owned(),
            message: format!("{bytes} bytes are needed and the disk has {free}"),
        });
    }
    let made = File::create(&path).and_then(|mut file| {
        std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
        file.sync_all()
    });
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &path, e));
        }
        _ => {}
    }
    made.map_err(|e| StoreError::room(OP, dir, e))
}

/// Names and lengths of the files in `dir`, sorted by name. Anything but a file is refused.
pub(super) fn list(dir: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let failed = |e| StoreError::io("list", dir, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).map_err(|e| StoreError::io("look at", &path, e))?;
        match entry.file_name().into_string() {
            Ok(name) if meta.is_file() => files.push((name, meta.len())),
            _ => return Err(StoreError::FileExtra { path }),
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Syncs each file in `dir` and its entries.
pub(super) fn sync_dir_and_files(dir: &Path) -> Result<(), StoreError> {
    for (name, _) in list(dir)? {
        sync(&dir.join(name))?;
    }
    sync(dir)
}

/// Gives a directory that is whole and synced its name; refuses to put it over another.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    refuse_existing(to)?;
    fs::rename(from, to).map_err(|e| StoreError::io("rename to", to, e))?;
    sync_parent(to)
}

pub(super) fn refuse_existing(dir: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(dir) {
        Ok(_) => Err(StoreError::Exists {
            dir: dir.to_owned(),
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("look at", dir, e)),
    }
}

/// Removes a directory if it is there; returns the bytes of its files.
pub(super) fn remove_tree(dir: &Path) -> Result<u64, StoreError> {
    let bytes = match fs::read_dir(dir) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|meta| meta.len())
            .sum(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(StoreError::io("list", dir, e)),
    };
    fs::remove_dir_all(dir).map_err(|e| StoreError::io("remove", dir, e))?;
    sync_parent(dir)?;
    Ok(bytes)
}

/// The xxh3-128 of a whole file, and its length.
pub(super) fn checksum(path: &Path) -> Result<(u64, u128), StoreError> {
    let failed = |e| StoreError::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 256 << 10];
    let mut len = 0;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((len, hasher.digest128())),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e)),
        };
        hasher.update(&buffer[..n]);
        len += n as u64;
    }
}

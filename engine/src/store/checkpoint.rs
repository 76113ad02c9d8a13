//! Checkpoints: a copy of the store's files by hard links, and the check of such a copy at its receiver.
//!
//! A checkpoint's mark is read out of the finished checkpoint, never taken from the live store: writes go on
//! while it is made, and what it holds is what its own files say.

use std::collections::HashSet;
use std::path::{Component, Path};

use rocksdb::{DB, IteratorMode, Options, ReadOptions};
use watershed_wal::TermStart;

use super::Store;
use super::env::StoreEnv;
use super::error::StoreError;
use super::files::{self, FileInfo};
use super::format::{Applied, ENTRY_RANGE};
use super::open::load_marks;
use super::read::take_apart;

/// A finished checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The mark that its files hold.
    pub(crate) applied: Applied,
    /// The term history up to the mark.
    pub(crate) terms: Vec<TermStart>,
    /// All its files, sorted by name.
    pub(crate) files: Vec<FileInfo>,
}

impl Store {
    /// Flushes, and links the files into a new directory on the same file system. It is made under another
    /// name, synced and renamed: a checkpoint that has its name is whole. Writes go on meanwhile.
    ///
    /// # Errors
    /// When `into` exists, the store is read-only or closed, or the disk or RocksDB fail.
    pub(crate) fn checkpoint(&self, into: &Path) -> Result<Checkpoint, StoreError> {
        let inner = &self.0;
        inner.refuse_read_only()?;
        files::refuse_existing(into)?;
        let making = files::beside(into, ".new");
        files::remove_tree(&making)?;
        // RocksDB's own half-made one, left by a crash.
        files::remove_tree(&files::beside(&making, ".tmp"))?;
        {
            let db = inner.db()?;
            rocksdb::checkpoint::Checkpoint::new(&db)
                .and_then(|maker| maker.create_checkpoint(&making))
                .map_err(|e| StoreError::rocks("make a checkpoint", &inner.dir, e))?;
        }
        remove_empty_logs(&making)?;
        let db = DB::open_for_read_only(inner.env.read_only(), &making, false)
            .map_err(|e| StoreError::rocks("open a checkpoint", &making, e))?;
        let (applied, terms) = load_marks(&db, &making)?;
        drop(db);
        files::sync_dir_and_files(&making)?;
        let files = files::list(&making)?
            .into_iter()
            .map(|(name, _)| {
                let (len, xxh3_128) = files::checksum(&making.join(&name))?;
                Ok(FileInfo {
                    name,
                    len,
                    xxh3_128,
                })
            })
            .collect::<Result<_, StoreError>>()?;
        files::publish(&making, into)?;
        Ok(Checkpoint {
            applied,
            terms: terms.starts().to_vec(),
            files,
        })
    }

    /// Proves that a directory holds exactly the files of a checkpoint and that they are a store: each file's
    /// length and checksum, no file more, then a scan of all of it with RocksDB's own checksums, past its
    /// cache and, where the file system takes it, past the system's. Changes nothing.
    ///
    /// # Returns
    /// The mark that the files hold.
    ///
    /// # Errors
    /// The first thing that is wrong, by name.
    pub(crate) fn verify_dir(
        env: &StoreEnv,
        dir: &Path,
        files: &[FileInfo],
    ) -> Result<Applied, StoreError> {
        verify_files(dir, files)?;
        let open = |options: &Options| DB::open_for_read_only(options, dir, false);
        // Not every file system takes direct reads; one that does not says so at the first file.
        let db = match open(&env.verifying(true)) {
            Ok(db) => db,
            Err(_) => {
                open(&env.verifying(false)).map_err(|e| StoreError::rocks("open a copy", dir, e))?
            }
        };
        let (applied, _) = load_marks(&db, dir)?;
        scan_all(&db, dir, applied)?;
        Ok(applied)
    }
}

/// RocksDB copies its own log too. Nothing is ever in it, so there is nothing to send or check.
fn remove_empty_logs(dir: &Path) -> Result<(), StoreError> {
    for (name, len) in files::list(dir)? {
        if len == 0 && Path::new(&name).extension().is_some_and(|e| e == "log") {
            let path = dir.join(name);
            std::fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
        }
    }
    Ok(())
}

fn verify_files(dir: &Path, files: &[FileInfo]) -> Result<(), StoreError> {
    let mut listed = HashSet::with_capacity(files.len());
    for file in files {
        let mut parts = Path::new(&file.name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(name)), None) if name.to_str() == Some(&file.name)
        );
        if !plain || !listed.insert(file.name.as_str()) {
            return Err(StoreError::FileList {
                dir: dir.to_owned(),
                name: file.name.clone(),
            });
        }
    }
    let mut found = std::collections::HashMap::new();
    for (name, len) in files::list(dir)? {
        if !listed.contains(name.as_str()) {
            return Err(StoreError::FileExtra {
                path: dir.join(name),
            });
        }
        found.insert(name, len);
    }
    // Lengths first: they cost nothing, and tell a copy that is cut before gigabytes of others are read.
    for file in files {
        let path = dir.join(&file.name);
        match found.get(&file.name) {
            None => return Err(StoreError::FileMissing { path }),
            Some(&len) if len != file.len => {
                return Err(StoreError::FileLength {
                    path,
                    expected: file.len,
                    found: len,
                });
            }
            Some(_) => {}
        }
    }
    for file in files {
        let path = dir.join(&file.name);
        let (_, xxh3_128) = files::checksum(&path)?;
        if xxh3_128 != file.xxh3_128 {
            return Err(StoreError::FileChecksum {
                path,
                expected: file.xxh3_128,
                found: xxh3_128,
            });
        }
    }
    Ok(())
}

/// Reads every entry: each in its place, with a valid head, and not of after the mark.
fn scan_all(db: &DB, dir: &Path, applied: Applied) -> Result<(), StoreError> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_verify_checksums(true);
    options.set_readahead_size(2 << 20);
    options.set_iterate_upper_bound(ENTRY_RANGE.1);
    let start = IteratorMode::From(&ENTRY_RANGE.0, rocksdb::Direction::Forward);
    for item in db.iterator_opt(start, options) {
        let (_, stored) = item.map_err(|e| StoreError::rocks("scan a copy", dir, e))?;
        let (head, _) = take_apart(dir, &stored)?;
        if head.seq > applied.seq {
            let what = format!(
                "it has a value of Seq {}, its mark is {}",
                head.seq, applied.seq
            );
            return Err(StoreError::damaged(dir, what));
        }
    }
    Ok(())
}

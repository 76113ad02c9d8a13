//! The data directory: its marks, its lock, and how it comes to be.
//!
//! ```text
//! FORMAT        JSON: the format version, and the node whose directory it is
//! LOCK          held by flock while an engine is open; the system frees it with the process
//! wal/          the log                        shards/<id>-<instance>/   one RocksDB for each hosting
//! placement/    the map of owners, where the engine keeps its own
//! seen          the highest epoch and revision seen of each shard in any placement (rule 16)
//! incoming/, checkpoints/, certificates/       of migrations
//! ```
//!
//! A directory is made under a temporary name and renamed, so that one that exists can be opened.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use watershed_migration::NodeId;
use watershed_wal::{InstanceId, ShardId};

use crate::Error;
use crate::sync::lock;

/// The format that this version writes, and the newest it reads.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
/// There while the cluster's shards are being made, so that an interrupted making is gone on with, and a shard that
/// was dropped later is not made again.
const MAKING_FILE: &str = "MAKING";

#[derive(Debug, Serialize, Deserialize)]
struct FormatMark {
    format: u32,
    node: Option<NodeId>,
}

/// An engine's directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    node: NodeId,
    /// Held while the engine is open.
    lock: Mutex<Option<File>>,
}

impl DataDir {
    /// Opens the directory for writing, making it where there is none (or an empty one).
    pub(crate) fn open(root: &Path, node: &NodeId) -> Result<Self, Error> {
        if is_vacant(root)? {
            make(root, node)?;
        }
        let found = read_format(root)?;
        if found != *node {
            return Err(Error::Options {
                what: format!(
                    "{} belongs to node {found:?}, and node {node:?} was named: open it under its own name",
                    root.display(),
                    found = found.to_string(),
                    node = node.to_string()
                ),
            });
        }
        Self::lock(root, found, true)
    }

    /// Locks a directory that is there, whoever's it is. Nothing is written.
    pub(crate) fn lock_existing(root: &Path) -> Result<Self, Error> {
        let node = read_format(root)?;
        Self::lock(root, node, false)
    }

    fn lock(root: &Path, node: NodeId, create: bool) -> Result<Self, Error> {
        let path = root.join(LOCK_FILE);
        let file = File::options()
            .create(create)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { dir: root.into() }),
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
        Ok(Self {
            root: root.into(),
            node,
            lock: Mutex::new(Some(file)),
        })
    }

    /// Looks at a directory that another process may be using. Nothing is written.
    pub(crate) fn look(root: &Path) -> Result<Self, Error> {
        let node = read_format(root)?;
        Ok(Self {
            root: root.into(),
            node,
            lock: Mutex::default(),
        })
    }

    /// Frees the directory for others, whatever still refers to this engine.
    pub(crate) fn release(&self) {
        if let Some(file) = lock(&self.lock).take() {
            // By name: a child process that is being started may hold a copy of the handle for a moment.
            let _ = file.unlock();
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.node
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    pub(crate) fn placement(&self) -> PathBuf {
        self.root.join("placement")
    }

    pub(crate) fn seen(&self) -> PathBuf {
        self.root.join("seen")
    }

    pub(crate) fn is_making(&self) -> Result<bool, Error> {
        let path = self.root.join(MAKING_FILE);
        path.try_exists()
            .map_err(|error| Error::io("look for", &path, error))
    }

    pub(crate) fn set_making(&self, making: bool) -> Result<(), Error> {
        let path = self.root.join(MAKING_FILE);
        let done = if making {
            File::create(&path).and_then(|file| file.sync_all())
        } else {
            fs::remove_file(&path)
        };
        done.and_then(|()| File::open(&self.root)?.sync_all())
            .map_err(|error| Error::io("change", &path, error))
    }

    pub(crate) fn shard(&self, shard: ShardId, instance: InstanceId) -> PathBuf {
        self.shards().join(format!("{shard}-{instance}"))
    }

    /// Where the directories of all copies are.
    pub(crate) fn shards(&self) -> PathBuf {
        self.root.join("shards")
    }
}

/// Whether there is nothing at `root` yet, or an empty directory.
fn is_vacant(root: &Path) -> Result<bool, Error> {
    match fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("open", root, error)),
    }
}

fn make(root: &Path, node: &NodeId) -> Result<(), Error> {
    let root = std::path::absolute(root).map_err(|error| Error::io("open", root, error))?;
    let parent = root.parent().ok_or_else(|| Error::NotADataDirectory {
        dir: root.clone(),
        reason: "the root of the file system can't be one".into(),
    })?;
    fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
    let made = tempfile::Builder::new()
        .prefix(".watershed-new-")
        .tempdir_in(parent)
        .map_err(|error| Error::io("create a directory in", parent, error))?;
    fill(made.path(), node).map_err(|error| Error::io("fill", made.path(), error))?;
    // From here on the directory is the engine's, not a temporary one.
    let made = made.keep();
    let renamed = fs::rename(&made, &root).and_then(|()| File::open(parent)?.sync_all());
    renamed.map_err(|error| {
        // Left over where the rename failed; nothing else knows its name.
        let _ = fs::remove_dir_all(&made);
        Error::io("create", &root, error)
    })
}

fn fill(dir: &Path, node: &NodeId) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(dir.join("wal"))?;
    fs::create_dir(dir.join("shards"))?;
    File::create(dir.join(LOCK_FILE))?.sync_all()?;
    let mark = FormatMark {
        format: FORMAT,
        node: Some(node.clone()),
    };
    let mut file = File::create(dir.join(FORMAT_FILE))?;
    writeln!(file, "{}", serde_json::to_string(&mark)?)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Reads the mark; gives the node's name.
fn read_format(root: &Path) -> Result<NodeId, Error> {
    let not_ours = |reason: String| Error::NotADataDirectory {
        dir: root.into(),
        reason,
    };
    let path = root.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::metadata(root) {
                Ok(_) => Err(not_ours("it has no FORMAT file".into())),
                Err(error) => Err(Error::io("open", root, error)),
            };
        }
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    // The version is read by itself: the rest of a newer mark may look different.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version = serde_json::from_str(&text)
        .map_err(|error| not_ours(format!("its FORMAT file can't be read: {error}")))?;
    if version.format > FORMAT {
        return Err(Error::NewerFormat {
            dir: root.into(),
            found: version.format,
            supported: FORMAT,
        });
    }
    let mark: FormatMark = serde_json::from_str(&text)
        .map_err(|error| not_ours(format!("its FORMAT file can't be read: {error}")))?;
    mark.node
        .ok_or_else(|| not_ours("its FORMAT file names no node".into()))
}

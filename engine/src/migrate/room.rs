//! Whether the target's disk has room for what a copy still brings.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use watershed_migration::NodeId;
use watershed_wal::{DirStorage, Storage};

use crate::Error;

/// What a copy leaves free: the node's own log and stores must go on.
const KEPT_FREE_BYTES: u64 = 16 << 20;
/// After so many bytes it is looked again: others use the disk, too.
const LOOK_EVERY_BYTES: u64 = 8 << 20;

/// Too little room for a copy.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "node {node} has {free} bytes to spare where its data is ({}), and {needed} are needed for the rest of the copy: \
     make room there, or name another target", dir.display()
)]
pub(super) struct NoRoom {
    node: NodeId,
    dir: PathBuf,
    needed: u64,
    free: u64,
}

/// Watches the room of one copy.
#[derive(Debug)]
pub(super) struct Room {
    node: NodeId,
    dir: PathBuf,
    since: AtomicU64,
}

impl Room {
    pub(super) fn new(node: NodeId, dir: PathBuf) -> Self {
        Self {
            node,
            dir,
            since: AtomicU64::new(LOOK_EVERY_BYTES),
        }
    }

    /// Looks, each time some megabytes have come, whether what is left fits. Blocks.
    pub(super) fn check(&self, came: u64, left: u64) -> Result<Result<(), NoRoom>, Error> {
        if self.since.fetch_add(came, Ordering::Relaxed) + came < LOOK_EVERY_BYTES {
            return Ok(Ok(()));
        }
        self.since.store(0, Ordering::Relaxed);
        self.look(left)
    }

    /// Looks whether so many bytes fit. Blocks.
    pub(super) fn look(&self, needed: u64) -> Result<Result<(), NoRoom>, Error> {
        let free = spare_bytes(&self.dir)?;
        Ok(if free < needed {
            Err(self.none(needed, free))
        } else {
            Ok(())
        })
    }

    /// The disk, a quota or a limit refused what the look before allowed.
    pub(super) fn full(&self, needed: u64) -> NoRoom {
        let free = spare_bytes(&self.dir).unwrap_or(0);
        self.none(needed, free)
    }

    fn none(&self, needed: u64, free: u64) -> NoRoom {
        NoRoom {
            node: self.node.clone(),
            dir: self.dir.clone(),
            needed,
            free,
        }
    }
}

/// Bytes that a copy may take of the file system with the data directory. Blocks.
pub(super) fn spare_bytes(data: &Path) -> Result<u64, Error> {
    let free = DirStorage::read_only(data).and_then(|storage| storage.free_bytes());
    // A system that can't tell is taken for roomy: the copy then ends with the disk's own error.
    let free = free.map_err(|error| Error::io("look at", data, error))?;
    Ok(free.map_or(u64::MAX, |free| free.saturating_sub(KEPT_FREE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_let_through_and_what_does_not_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new("b".parse().unwrap(), dir.path().to_owned());
        room.look(1).unwrap().unwrap();
        let none = room.look(1 << 62).unwrap().unwrap_err().to_string();
        assert!(none.contains("node b has") && none.contains(&(1u64 << 62).to_string()));
    }

    #[test]
    fn it_looks_first_and_then_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new("b".parse().unwrap(), dir.path().to_owned());
        assert!(room.check(1, 1 << 62).unwrap().is_err());
        assert!(room.check(1, 1 << 62).unwrap().is_ok());
        assert!(room.check(LOOK_EVERY_BYTES, 1 << 62).unwrap().is_err());
    }
}

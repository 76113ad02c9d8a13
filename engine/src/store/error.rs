//! What can go wrong in a store, by cause. Which of them heal by a re-open or a fresh copy is in
//! [`StoreError::needs_reopen`] and [`StoreError::is_damage`]; what a shard does about it is not decided here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use watershed_wal::{FormatError, RecordKind, Seq, Term};

/// What opening a store is called in errors.
pub(super) const OPEN: &str = "open";

/// What the system says of a disk, a quota and a file that are full.
const NO_ROOM: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
];

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "each variant says what its fields are, in its message"
)]
pub enum StoreError {
    /// No store there.
    #[error(
        "there is no store in {dir:?}: the directory is missing or holds no RocksDB; restore it, or drop this copy and fetch the shard again"
    )]
    Missing { dir: PathBuf },
    /// A store, or something else, is there already.
    #[error("{dir:?} exists already; a store is made in a directory of its own, remove it first")]
    Exists { dir: PathBuf },
    /// The bytes there are not what was written.
    #[error(
        "the store in {dir:?} is damaged: {what}; restore it, or drop this copy and fetch the shard again"
    )]
    Damaged { dir: PathBuf, what: String },
    /// Another process, or this one, has it open.
    #[error(
        "the store in {dir:?} is in use: {what}; close the other user first, or open it read-only"
    )]
    Locked { dir: PathBuf, what: String },
    /// Made by a newer program.
    #[error(
        "the store in {dir:?} has format {found}, this program reads up to {supported}: use a newer Watershed"
    )]
    NewerFormat {
        dir: PathBuf,
        found: u8,
        supported: u8,
    },
    /// The operating system refused a file operation of ours.
    #[error("{op} {path:?} failed: {source}; check the disk, its free space and permissions")]
    Io {
        op: &'static str,
        path: PathBuf,
        source: Arc<std::io::Error>,
    },
    /// RocksDB failed, for a cause other than those above.
    #[error(
        "RocksDB could not {op} in {dir:?}: {message}; re-open the store, check the disk and its free space"
    )]
    Rocks {
        op: &'static str,
        dir: PathBuf,
        message: String,
    },
    /// The disk, or a limit on files, left RocksDB no room.
    #[error(
        "there is no room to {op} in {dir:?}: {message}; free some, the shard then goes on by itself"
    )]
    NoRoom {
        op: &'static str,
        dir: PathBuf,
        message: String,
    },
    /// A record that does not follow what is applied: a bug of the caller, nothing was applied.
    #[error(
        "record {found} does not follow {applied}, the last applied one, in {dir:?}; nothing of its group was applied"
    )]
    NotContiguous {
        dir: PathBuf,
        applied: Seq,
        found: Seq,
    },
    /// A record of a term lower than one that is applied: it is of another lineage.
    #[error(
        "record {seq} is of term {found}, {applied} is applied already in {dir:?}; this copy's lineage has parted from the log's, start again from a checkpoint"
    )]
    OldTerm {
        dir: PathBuf,
        seq: Seq,
        found: Term,
        applied: Term,
    },
    /// A record body that cannot be read.
    #[error("record {seq} ({kind}) cannot be applied in {dir:?}: {source}")]
    BadRecord {
        dir: PathBuf,
        seq: Seq,
        kind: RecordKind,
        source: FormatError,
    },
    /// A record of a newer program.
    #[error(
        "record {seq} in {dir:?} holds {what}, which this program cannot apply: use a newer Watershed"
    )]
    Unsupported {
        dir: PathBuf,
        seq: Seq,
        what: &'static str,
    },
    /// The snapshot was taken back.
    #[error("the snapshot has expired: its store was closed, re-opened or removed; take a new one")]
    SnapshotExpired,
    /// Closed, or a re-open failed.
    #[error("the store in {dir:?} is closed; open it again")]
    Closed { dir: PathBuf },
    /// A write on a store that was opened to read.
    #[error(
        "the store in {dir:?} is open read-only; open it for writing where no other process has it"
    )]
    ReadOnly { dir: PathBuf },
    /// A file of the list is not there.
    #[error("{path:?} is missing; fetch it again")]
    FileMissing { path: PathBuf },
    /// A file that is not on the list.
    #[error("{path:?} does not belong to the checkpoint; remove it")]
    FileExtra { path: PathBuf },
    /// A list that names a file twice, or one outside the directory.
    #[error("the list of files for {dir:?} is not valid: {name:?}; ask its sender for a new one")]
    FileList { dir: PathBuf, name: String },
    /// A file of another length.
    #[error("{path:?} has {found} bytes, its list says {expected}; fetch it again")]
    FileLength {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// A file with other bytes.
    #[error("{path:?} has checksum {found:032x}, its list says {expected:032x}; fetch it again")]
    FileChecksum {
        path: PathBuf,
        expected: u128,
        found: u128,
    },
}

impl StoreError {
    /// An error of the operating system.
    pub(crate) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            op,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// An error of the operating system where room was asked for.
    pub(super) fn room(op: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::NoRoom {
                    op,
                    dir: path.to_owned(),
                    message: source.to_string(),
                }
            }
            _ => Self::io(op, path, source),
        }
    }

    /// An error of RocksDB, sorted by what it says.
    pub(super) fn rocks(op: &'static str, dir: &Path, error: rocksdb::Error) -> Self {
        use rocksdb::ErrorKind;
        let kind = error.kind();
        let dir = dir.to_owned();
        let message = error.into_string();
        match kind {
            ErrorKind::Corruption => Self::Damaged { dir, what: message },
            // RocksDB has no kind for this: the first is this process, the second another.
            ErrorKind::IOError
                if message.starts_with("IO error: lock hold by current process")
                    || message.starts_with("IO error: While lock file") =>
            {
                Self::Locked { dir, what: message }
            }
            // Nor for this, that the crate shows: a quota and a limit on file sizes are as full as a full disk.
            ErrorKind::IOError if NO_ROOM.iter().any(|text| message.contains(text)) => {
                Self::NoRoom { op, dir, message }
            }
            // CURRENT is there, so the store is; a file that its manifest names is not.
            ErrorKind::IOError | ErrorKind::NotFound
                if op == OPEN && message.contains("No such file or directory") =>
            {
                Self::Damaged { dir, what: message }
            }
            _ => Self::Rocks { op, dir, message },
        }
    }

    /// Bytes of the store that say what no store says.
    pub(crate) fn damaged(dir: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            dir: dir.to_owned(),
            what: what.into(),
        }
    }

    /// Whether RocksDB itself failed, so that a [`reopen`](super::Store::reopen) and a replay may heal it.
    pub(crate) fn needs_reopen(&self) -> bool {
        matches!(
            self,
            Self::Rocks { .. } | Self::NoRoom { .. } | Self::Damaged { .. }
        )
    }

    /// Whether it ends by itself once there is room.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }

    /// Whether the bytes on disk are wrong, so that only another copy heals it.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Missing { .. }
                | Self::FileMissing { .. }
                | Self::FileLength { .. }
                | Self::FileChecksum { .. }
        )
    }
}

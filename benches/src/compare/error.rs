//! What can go wrong in a comparison.

use std::path::{Path, PathBuf};

/// Why a comparison ended without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CompareError {
    /// This engine failed.
    #[error("watershed: {0}")]
    Engine(#[from] watershed::Error),
    /// This engine's log failed.
    #[error("watershed-wal: {0}")]
    Log(#[from] watershed_wal::LogError),
    /// This engine's log did not open.
    #[error("watershed-wal: {0}")]
    LogOpen(#[from] watershed_wal::OpenError),
    /// RocksDB failed.
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    /// fjall failed.
    #[error("fjall: {0}")]
    Fjall(#[from] fjall::Error),
    /// redb failed.
    #[error("redb: {0}")]
    Redb(#[from] Box<redb::Error>),
    /// raft-engine failed.
    #[error("raft-engine: {0}")]
    Raft(#[from] raft_engine::Error),
    /// A file or directory of the comparison itself.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The directory has no device below it.
    #[error("{} is on {file_system}, which no sync ever reaches a device from: name a directory on a disk with --dir", dir.display())]
    NoDevice {
        /// The directory.
        dir: PathBuf,
        /// Its file system.
        file_system: String,
    },
    /// RocksDB was compiled without the processor's checksum instructions.
    #[error(
        "RocksDB says that it computes CRC32C in software: build with `make compare`, or with the rustflags of \
         .cargo/config.toml"
    )]
    SlowCrc,
    /// The shim that counts syncs did not compile.
    #[error("cannot compile the library that counts syncs with `cc`: {0}")]
    Shim(String),
    /// Writes were acknowledged that no sync can have covered: the sides would not be compared at the same durability.
    #[error(
        "{contender} acknowledged {writes} synchronous writes with {syncs} syncs counted and {in_flight} in flight: \
         either it does not sync, or it does so in a way the counting library does not see"
    )]
    NotDurable {
        /// Who.
        contender: String,
        /// Acknowledged.
        writes: u64,
        /// Counted.
        syncs: u64,
        /// At once.
        in_flight: u64,
    },
    /// A process that this one started gave no result.
    #[error("the process for {what} gave no result, but said {said:?}")]
    Child {
        /// What it was to do.
        what: String,
        /// What it said.
        said: String,
    },
    /// `--only` left nothing to do.
    #[error("no workload that would run has {0:?} in its name: without --only all are shown")]
    NothingNamed(String),
}

impl CompareError {
    /// An I/O error on a path.
    pub(crate) fn io(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// redb has an error type for each call.
pub(crate) fn redb_error(error: impl Into<redb::Error>) -> CompareError {
    CompareError::Redb(Box::new(error.into()))
}

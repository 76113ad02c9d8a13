//! The device and this process, as the system tells of them.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::failure::Failure;

const SYNCS: usize = 31;
const BLOCK: [u8; 4096] = [b'w'; 4096];

/// Times the device's sync: a block overwritten, then fdatasync.
pub(super) struct Probe {
    file: File,
    path: PathBuf,
}

impl Probe {
    pub(super) fn new(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("probe");
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| Failure::file("create", &path, &error))?;
        let probe = Self { file, path };
        // Once, so that none of the syncs that count has a file length to record.
        probe.sync_ms()?;
        Ok(probe)
    }

    /// The median of some syncs, in milliseconds.
    pub(super) fn fsync_ms(&self) -> Result<f64, Failure> {
        let times: Result<Vec<f64>, Failure> = (0..SYNCS).map(|_| self.sync_ms()).collect();
        let mut times = times?;
        times.sort_by(f64::total_cmp);
        Ok(times[SYNCS / 2])
    }

    fn sync_ms(&self) -> Result<f64, Failure> {
        let failed = |error| Failure::file("write", &self.path, &error);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.write_all(&BLOCK).map_err(failed)?;
        let begin = Instant::now();
        file.sync_data().map_err(failed)?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

/// Bytes that this process has handed to write calls, where the system counts them. (What it counts as written to a device
/// are whole folios, up to 2 MiB, for every 4 KiB that make one dirty.)
pub(super) fn written_bytes() -> Option<u64> {
    field("/proc/self/io", "wchar:")
}

/// Bytes of this process's memory that are no file's.
pub(super) fn memory_bytes() -> Option<u64> {
    field("/proc/self/status", "RssAnon:").map(|kib| kib * 1024)
}

/// Threads of this process.
pub(super) fn threads() -> Option<u64> {
    field("/proc/self/status", "Threads:")
}

/// Files that this process has open.
pub(super) fn open_files() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?;
    // One is the directory that is being read.
    u64::try_from(open.count()).ok()?.checked_sub(1)
}

/// How many files this process may have open.
pub(super) fn open_files_limit() -> Option<u64> {
    field("/proc/self/limits", "Max open files")
}

/// The first number behind a name.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

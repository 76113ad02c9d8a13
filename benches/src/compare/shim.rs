//! The preloaded library that counts syncs and slows them down, seen from Rust: a file shared with it.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use super::error::CompareError;
use crate::stats::Spread;

const SOURCE: &str = include_str!("../../shim/sync_shim.c");
/// Names the shared file; set in the process that has the library.
const SHARED: &str = "WATERSHED_SYNC_SHIM";
const SHARED_BYTES: u64 = 4096;
/// Writes of a probe.
const PROBE_WRITES: usize = 40;
const PROBE_BLOCK: usize = 4096;

/// Counted since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// fsync, fdatasync, msync.
    pub(crate) syncs: u64,
    /// Writes to descriptors that sync each.
    pub(crate) sync_writes: u64,
}

impl Counts {
    /// What made something durable since `before`.
    pub(crate) fn since(self, before: Self) -> u64 {
        self.syncs - before.syncs + self.sync_writes - before.sync_writes
    }
}

/// The shared file, in a process that has the library.
#[derive(Debug)]
pub(crate) struct Shim {
    file: File,
    path: PathBuf,
}

impl Shim {
    /// The shared file, or nothing in a process without the library.
    pub(crate) fn attached() -> Result<Option<Self>, CompareError> {
        let Some(path) = std::env::var_os(SHARED).map(PathBuf::from) else {
            return Ok(None);
        };
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(CompareError::io("open", &path))?;
        Ok(Some(Self { file, path }))
    }

    pub(crate) fn counts(&self) -> Result<Counts, CompareError> {
        let mut words = [0; 16];
        self.file
            .read_exact_at(&mut words, 8)
            .map_err(CompareError::io("read", &self.path))?;
        let (syncs, sync_writes) = words.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        Ok(Counts {
            syncs: number(syncs),
            sync_writes: number(sync_writes),
        })
    }

    /// From now on a sync takes at least this long.
    pub(crate) fn set_least(&self, time: Duration) -> Result<(), CompareError> {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.file
            .write_all_at(&micros.to_ne_bytes(), 0)
            .map_err(CompareError::io("write", &self.path))
    }
}

/// Runs this program again, with the same arguments and the library preloaded.
pub(crate) fn run_again() -> Result<ExitCode, CompareError> {
    let dir = tempfile::Builder::new().prefix("watershed-shim-").tempdir();
    let dir = dir.map_err(CompareError::io(
        "make a directory in",
        std::env::temp_dir(),
    ))?;
    let library = compile(dir.path())?;
    let shared = shared_file(dir.path())?;
    let program = std::env::current_exe().map_err(CompareError::io("find", "this program"))?;
    let status = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env("LD_PRELOAD", library)
        .env(SHARED, shared.path())
        .status()
        .map_err(CompareError::io("run", program))?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

fn compile(dir: &Path) -> Result<PathBuf, CompareError> {
    let (source, library) = (dir.join("sync_shim.c"), dir.join("sync_shim.so"));
    std::fs::write(&source, SOURCE).map_err(CompareError::io("write", &source))?;
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .map_err(|error| CompareError::Shim(format!("{error}; install gcc")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(CompareError::Shim(said));
    }
    Ok(library)
}

/// In memory where there is such a place: the counting itself must not write to the disk that is measured.
fn shared_file(otherwise: &Path) -> Result<tempfile::NamedTempFile, CompareError> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory } else { otherwise };
    let file = tempfile::Builder::new()
        .prefix("watershed-shim-")
        .tempfile_in(place)
        .map_err(CompareError::io("make a file in", place))?;
    file.as_file()
        .set_len(SHARED_BYTES)
        .map_err(CompareError::io("write", file.path()))?;
    Ok(file)
}

/// Times the device's sync: a block overwritten, then fdatasync.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
    path: PathBuf,
    /// The least median so far.
    least_ms: Cell<f64>,
}

impl Probe {
    pub(crate) fn new(dir: &Path) -> Result<Self, CompareError> {
        let path = dir.join("probe");
        let options = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = options.map_err(CompareError::io("create", &path))?;
        file.write_all_at(&vec![0; PROBE_BLOCK * PROBE_WRITES], 0)
            .and_then(|()| file.sync_all())
            .map_err(CompareError::io("write", &path))?;
        Ok(Self {
            file,
            path,
            least_ms: Cell::new(f64::INFINITY),
        })
    }

    /// The median of some syncs, in milliseconds.
    pub(crate) fn fsync_ms(&self) -> Result<f64, CompareError> {
        let mut times = Vec::new();
        let mut at = 0;
        for _ in 0..PROBE_WRITES {
            self.file
                .write_all_at(&[1; PROBE_BLOCK], at)
                .map_err(CompareError::io("write", &self.path))?;
            at += PROBE_BLOCK as u64;
            let begin = Instant::now();
            self.file
                .sync_data()
                .map_err(CompareError::io("sync", &self.path))?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let median = Spread::of(&times).median;
        self.least_ms.set(self.least_ms.get().min(median));
        Ok(median)
    }

    /// The same, once the device is about as fast as it ever was, or patience has run out. A sync takes `least` anyhow.
    pub(crate) fn calm_fsync_ms(
        &self,
        least: Duration,
        patience: &mut Duration,
    ) -> Result<f64, CompareError> {
        const AGAIN_AFTER: Duration = Duration::from_millis(100);
        loop {
            let median = self.fsync_ms()?;
            let usual = self.least_ms.get().max(least.as_secs_f64() * 1e3);
            if median <= 2.0 * usual || patience.is_zero() {
                return Ok(median);
            }
            std::thread::sleep(AGAIN_AFTER);
            *patience = patience.saturating_sub(AGAIN_AFTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `dd` below the library, and gives what was counted.
    fn counted(flag: &str) -> Counts {
        let dir = tempfile::tempdir().unwrap();
        let library = compile(dir.path()).unwrap();
        let shared = shared_file(dir.path()).unwrap();
        let output = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096", "count=3", flag])
            .arg(format!("of={}", dir.path().join("out").display()))
            .env("LD_PRELOAD", library)
            .env(SHARED, shared.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let shim = Shim {
            file: shared.reopen().unwrap(),
            path: shared.path().to_owned(),
        };
        shim.counts().unwrap()
    }

    #[test]
    fn syncs_and_synchronous_writes_are_counted_and_plain_writes_are_not() {
        let plain = counted("conv=notrunc");
        assert_eq!((plain.syncs, plain.sync_writes), (0, 0));
        let synced = counted("conv=fdatasync");
        assert_eq!((synced.syncs, synced.sync_writes), (1, 0));
        let written = counted("oflag=dsync");
        assert_eq!((written.syncs, written.sync_writes), (0, 3));
        let all = Counts {
            syncs: 5,
            sync_writes: 4,
        };
        assert_eq!(all.since(synced), 8);
    }
}

//! The real storage: one directory of a Unix file system.
//!
//! Positioned reads and writes on shared handles, fdatasync for data, fsync of the directory for names. Creating
//! a file writes its zeros and syncs them, so that later overwrites inside it allocate nothing and their
//! fdatasync has no metadata to write. Read-only storage opens files read-only and refuses everything else.
//!
//! Who opens a file locks it, shared (`flock`): the log's owner fills the file of a removed segment anew only where it
//! gets the lock for itself, so nobody ever reads a file that becomes another.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::map::Map;
use crate::storage::{Storage, StorageFile};

/// Zeros are written in pieces of this size. Larger ones get larger folios of the page cache, and each small write into
/// one of those costs more: 2.5 us after pieces of 1 MiB, 0.9 us after 64 KiB.
const ZEROS: usize = 64 << 10;

/// A directory of the file system as the log's storage.
#[derive(Debug)]
pub struct DirStorage {
    path: PathBuf,
    /// Kept open, so that syncing it is one call.
    dir: File,
    writable: bool,
}

impl DirStorage {
    /// The directory at `path`, for reading and writing. Makes it (and what is missing above it), durably, if it
    /// is not there.
    ///
    /// # Errors
    /// When it can't be made or opened.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        make_dir_durably(path)?;
        Self::opened(path, true)
    }

    /// The directory at `path`, for reading only: nothing is ever written, made, renamed or removed.
    ///
    /// # Errors
    /// When it is not there or can't be opened.
    pub fn read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::opened(path.as_ref(), false)
    }

    fn opened(path: &Path, writable: bool) -> io::Result<Self> {
        let dir = File::open(path).map_err(|e| at(e, "open the directory", path))?;
        if !dir.metadata()?.is_dir() {
            let error = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(at(error, "open the directory", path));
        }
        Ok(Self {
            path: path.to_owned(),
            dir,
            writable,
        })
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of a name, which must be one plain component.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            format!("{} is opened read-only", self.path.display()),
        ))
    }
}

impl Storage for DirStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| at(e, "list", &self.path))? {
            let entry = entry?;
            // Directories, and names that are no text, are none of ours.
            if !entry.file_type()?.is_file() {
                continue;
            }
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.check_writable()?;
        let path = self.file(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| at(e, "create", &path))?;
        if let Err(error) = fill_with_zeros(&file, len) {
            // The room it took is wanted back, most of all on a full disk. What failed first is what to report.
            drop(file);
            let _ = fs::remove_file(&path);
            return Err(at(error, "reserve room for", &path));
        }
        hold(&file, &path).map_err(|e| at(e, "lock", &path))?;
        let map = Map::of_filled(&file);
        Ok(Arc::new(DirFile { file, path, map }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.file(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(self.writable)
            .open(&path)
            .map_err(|e| at(e, "open", &path))?;
        hold(&file, &path).map_err(|e| at(e, "open", &path))?;
        let map = Map::none();
        Ok(Arc::new(DirFile { file, path, map }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        let (from, to) = (self.file(from)?, self.file(to)?);
        fs::rename(&from, to).map_err(|e| at(e, "rename", &from))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        let path = self.file(name)?;
        fs::remove_file(&path).map_err(|e| at(e, "remove", &path))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.check_writable()?;
        self.dir
            .sync_all()
            .map_err(|e| at(e, "sync the directory", &self.path))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let stat =
            rustix::fs::fstatvfs(&self.dir).map_err(|e| at(e.into(), "statvfs", &self.path))?;
        // f_bavail: what a process without privileges may take.
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}

/// An open file, and its path for error messages.
#[derive(Debug)]
struct DirFile {
    file: File,
    path: PathBuf,
    /// For short appends.
    map: Map,
}

impl StorageFile for DirFile {
    fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|e| at(e, "stat", &self.path))?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let here = offset + done as u64;
            match self.file.read_at(&mut buf[done..], here) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(at(e, "read", &self.path)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| at(e, "write", &self.path))
    }

    fn put_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.map.put(offset, data) {
            return Ok(());
        }
        self.write_at(offset, data)
    }

    fn begin_puts(&self) {
        self.map.map_again(&self.file);
    }

    fn end_puts(&self) {
        self.map.drop_it();
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| at(e, "sync", &self.path))
    }

    fn claim(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => {
                // Asking for more has ended the lock that opening took.
                self.file
                    .lock_shared()
                    .map_err(|e| at(e, "lock", &self.path))?;
                Ok(false)
            }
            Err(TryLockError::Error(error)) => Err(at(error, "lock", &self.path)),
        }
    }

    fn unclaim(&self) -> io::Result<()> {
        self.file
            .lock_shared()
            .map_err(|e| at(e, "unlock", &self.path))
    }
}

/// Keeps a file that was opened from being claimed, for as long as it is open. It may have been before that: then what
/// has the name now, if anything has, is another file.
fn hold(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
        // Where files can't be locked none is ever claimed.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (held, named) = (file.metadata()?, fs::metadata(path)?);
    if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
        return Ok(());
    }
    Err(io::ErrorKind::NotFound.into())
}

fn fill_with_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min(usize::try_from(len).unwrap_or(ZEROS))];
    let mut done = 0;
    while done < len {
        let piece = usize::try_from(len - done).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all_at(&zeros[..piece], done)?;
        done += piece as u64;
    }
    // Size and allocation are metadata: all of it, this once.
    file.sync_all()
}

/// Makes a directory and its missing parents, each name durable in the directory above it.
fn make_dir_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dir_durably(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(at(e, "create the directory", path)),
    }
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| at(e, "sync the directory", parent))
}

/// Names are single plain components, so that no name leads out of the directory.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if plain {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{name:?} is not a plain file name"),
    ))
}

/// The same error with what was tried and where, its kind kept.
fn at(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

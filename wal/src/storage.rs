//! What the log asks of a directory of files, as two traits.
//!
//! The contract is the file system's at its weakest: what was written survives the death of the process at
//! once, and power loss only after [`StorageFile::sync`]; a name made, renamed or removed survives power loss
//! only after [`Storage::sync_dir`]; an unsynced write may survive in part, sector by sector. `DirStorage` is
//! the real one, `mem::MemStorage` one that crashes and fails on demand. Callers write a file from one thread
//! at a time; reads may run beside it, and a sync, which covers what was written before it began.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// One flat directory of files.
pub trait Storage: Send + Sync + Debug + 'static {
    /// The names of all files, in no particular order.
    ///
    /// # Errors
    /// When the directory can't be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new file of `len` zero bytes, open for reading and writing.
    ///
    /// The room is really reserved (zeros are written, not promised), and contents and size are synced before
    /// this returns, so that later writes inside it change no metadata. Its *name* is durable only after
    /// [`Storage::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists` when there is one, `StorageFull` when there is no room (nothing is left behind then).
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens a file for reading and (unless the storage is read-only) writing. While the handle is there, nobody
    /// [claims](StorageFile::claim) the file for other contents, whatever its name becomes.
    ///
    /// # Errors
    /// `NotFound` when there is none, `ResourceBusy` while it is claimed.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives a file another name, replacing the file that has it. Open handles go on.
    ///
    /// # Errors
    /// `NotFound` when there is no `from`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open handles go on reading.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every creation, rename and removal before it durable.
    ///
    /// # Errors
    /// When the device fails; what is durable then is unknown.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes a new file could still take, or `None` where nobody knows.
    ///
    /// # Errors
    /// When the file system can't be asked.
    fn free_bytes(&self) -> io::Result<Option<u64>>;
}

/// An open file of a [`Storage`]; dropping the last handle closes it without a sync.
pub trait StorageFile: Send + Sync + Debug {
    /// The file's size in bytes.
    ///
    /// # Errors
    /// When the file can't be asked.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`StorageFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads from `offset` on until `buf` is full or the file ends; gives the bytes read.
    ///
    /// # Errors
    /// When the device fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `data` at `offset`, growing the file where needed. After an error any part of it may be
    /// in the file.
    ///
    /// # Errors
    /// When the device fails or is full.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// As [`StorageFile::write_at`], for a short write of a file that this storage made and that has its length: in the
    /// cheapest way that there is.
    ///
    /// # Errors
    /// As [`StorageFile::write_at`].
    fn put_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }

    /// Short writes will come again, to a file that this storage made, after [`StorageFile::end_puts`].
    fn begin_puts(&self) {}

    /// No more short writes will come: what was kept for them may go.
    fn end_puts(&self) {}

    /// Makes every write before it durable (fdatasync). Never to be tried again after an error: the kernel has
    /// marked the pages clean, so a second call would succeed without having written them.
    ///
    /// # Errors
    /// When the device fails; what is durable then is unknown.
    fn sync(&self) -> io::Result<()>;

    /// Claims the file for other contents, if no other handle of it is open, in this process or another; says whether
    /// it is claimed. While it is, [`Storage::open`] fails for everybody with [`io::ErrorKind::ResourceBusy`]. A storage that
    /// can't tell claims nothing.
    ///
    /// # Errors
    /// When the file system can't be asked.
    fn claim(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Ends the claim: what the file holds may be read again.
    ///
    /// # Errors
    /// When the file system can't be asked.
    fn unclaim(&self) -> io::Result<()> {
        Ok(())
    }
}

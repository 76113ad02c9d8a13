//! A journal of small changes: one line for each, in a file that is made whole again when most of it is past.
//!
//! It keeps the map of [`FilePlacement`](super::FilePlacement) (map.rs says which lines) and what a node has seen of any
//! placement (seen.rs).
//!
//! ```text
//! line    := crc32 of the JSON as 8 hexadecimal digits | space | JSON | newline
//! line 1  := {"format":{"version":V,"lines":N}}     N: how many lines were durable when the file was made
//! others  := an entry of the [`Ledger`], which says the version, too
//! ```
//!
//! Each change is one appended line and one fdatasync. When most of the file is past, it is written again under a
//! temporary name, synced and renamed. What a reader does:
//!
//! | found | done |
//! |---|---|
//! | whole lines to the end | all taken, after a sync: they may be in the page cache only |
//! | the last line without its newline | torn, never acknowledged: cut, or completed when only the newline is missing |
//! | the last line with a hole of zero bytes | torn: its sectors came out of order; cut |
//! | anything else wrong in any line | refused, naming the line: an owner might go back in time |
//! | fewer lines than the first promises | refused: the file was made whole before it got its name |
//! | an older version | taken, and written again as this one when it is opened to be changed |
//! | a newer version | refused |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PlacementError;

/// The ending of a journal that is not whole yet.
const TEMPORARY: &str = "new";
/// A journal shorter than this is not worth writing again.
const COMPACT_FROM_BYTES: u64 = 256 << 10;
/// It is written again when it has grown to so many times what was live.
const COMPACT_FACTOR: u64 = 4;

/// What the lines of a journal add up to.
pub(super) trait Ledger: Default {
    /// One line.
    type Entry: Serialize + DeserializeOwned;

    /// The version of the journals written here; older ones are read.
    const VERSION: u32;

    /// Takes an entry; what does not go on from the state is refused with the reason.
    fn take(&mut self, entry: Self::Entry) -> Result<(), String>;

    /// The entries that make this state from an empty one.
    fn entries(&self) -> Vec<Self::Entry>;
}

/// Line 1.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: Format,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    version: u32,
    lines: u64,
}

/// What reading a journal gave.
#[derive(Debug)]
pub(super) struct Read<S> {
    pub(super) state: S,
    version: u32,
    /// Where the last whole line ends.
    pub(super) end: u64,
    /// The file goes on behind `end`, with a change that was never acknowledged, or lacks its last newline.
    pub(super) torn: bool,
}

/// The open journal: appends changes.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    compact_at: u64,
    poisoned: Option<Arc<str>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one. The caller sees to it that nobody else has it open.
    pub(super) fn open<S: Ledger>(path: &Path) -> Result<(Self, S), PlacementError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = S::default();
                let (file, len) = write_new(path, &state)?;
                return Ok((Self::new(path, file, len, len), state));
            }
            Err(error) => return Err(PlacementError::io("read", path, error)),
        };
        let read = parse::<S>(path, &bytes)?;
        if read.torn {
            tracing::warn!(
                file = %path.display(),
                offset = read.end,
                "the journal ends in a change that was never acknowledged: it is cut"
            );
        }
        if read.torn || read.version < S::VERSION {
            let (file, len) = write_new(path, &read.state)?;
            return Ok((Self::new(path, file, len, len), read.state));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| PlacementError::io("open", path, error))?;
        // A process that was killed between its write and its sync left lines in the page cache only.
        file.sync_data()
            .map_err(|error| PlacementError::io("sync", path, error))?;
        let live = encode_all(path, &read.state)?.len();
        Ok((Self::new(path, file, read.end, live as u64), read.state))
    }

    fn new(path: &Path, file: File, len: u64, live: u64) -> Self {
        Self {
            path: path.to_path_buf(),
            file,
            len,
            compact_at: COMPACT_FROM_BYTES.max(live.saturating_mul(COMPACT_FACTOR)),
            poisoned: None,
        }
    }

    /// Why nothing is known any more, after a failed sync.
    pub(super) fn poisoned(&self) -> Option<Arc<str>> {
        self.poisoned.clone()
    }

    /// Appends an entry; durable when it returns.
    pub(super) fn append(&mut self, entry: &impl Serialize) -> Result<(), PlacementError> {
        if let Some(reason) = self.poisoned() {
            return Err(PlacementError::Poisoned { reason });
        }
        let line = encode(&self.path, entry)?;
        if let Err(error) = self.file.write_all_at(&line, self.len) {
            return Err(self.take_back(error));
        }
        if let Err(error) = self.file.sync_data() {
            // The kernel has marked the pages clean: a later sync would succeed without writing them.
            return Err(self.poison("sync", &error));
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Writes the journal again when most of it is past. Its failure leaves the old one in use.
    pub(super) fn compact_if_due(&mut self, state: &impl Ledger) -> Result<(), PlacementError> {
        if self.len < self.compact_at || self.poisoned.is_some() {
            return Ok(());
        }
        self.compact(state)
    }

    pub(super) fn compact(&mut self, state: &impl Ledger) -> Result<(), PlacementError> {
        match write_new(&self.path, state) {
            Ok((file, len)) => {
                *self = Self::new(&self.path, file, len, len);
                Ok(())
            }
            Err(error @ PlacementError::Poisoned { .. }) => {
                self.poisoned = Some(error.to_string().into());
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%error, "the journal could not be written again: the long one stays in use");
                self.compact_at = self.compact_at.saturating_mul(2);
                Ok(())
            }
        }
    }

    /// After a failed write (a full disk): cuts what was written of it, so that it certainly did not happen.
    fn take_back(&mut self, error: io::Error) -> PlacementError {
        let cut = self
            .file
            .set_len(self.len)
            .and_then(|()| self.file.sync_data());
        match cut {
            Ok(()) => PlacementError::io("write", &self.path, error),
            Err(_) => self.poison("write", &error),
        }
    }

    fn poison(&mut self, op: &str, error: &io::Error) -> PlacementError {
        let reason: Arc<str> = format!("{op} {}: {error}", self.path.display()).into();
        self.poisoned = Some(reason.clone());
        PlacementError::Poisoned { reason }
    }
}

/// Writes a whole journal beside the old one and puts it in its place. An error other than `Poisoned` leaves the old
/// one in place; `Poisoned` means that either may be there after a crash, so that nothing may be appended to one.
fn write_new<S: Ledger>(path: &Path, state: &S) -> Result<(File, u64), PlacementError> {
    let temporary = path.with_extension(TEMPORARY);
    let bytes = encode_all(path, state)?;
    let made = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(file)
    })();
    let file = made.map_err(|error| PlacementError::io("write", &temporary, error))?;
    let renamed = fs::rename(&temporary, path);
    renamed.map_err(|error| PlacementError::io("rename", &temporary, error))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    sync_dir(dir).map_err(|error| PlacementError::Poisoned {
        reason: format!("sync {}: {error}", dir.display()).into(),
    })?;
    Ok((file, bytes.len() as u64))
}

/// Makes names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn encode_all<S: Ledger>(path: &Path, state: &S) -> Result<Vec<u8>, PlacementError> {
    let entries = state.entries();
    let format = Format {
        version: S::VERSION,
        lines: 1 + entries.len() as u64,
    };
    let mut bytes = encode(path, &Head { format })?;
    for entry in entries {
        bytes.extend(encode(path, &entry)?);
    }
    Ok(bytes)
}

fn encode(path: &Path, entry: &impl Serialize) -> Result<Vec<u8>, PlacementError> {
    // Only a map with keys that are no text could fail, and no entry has one; still no panic in the writer's thread.
    let json = serde_json::to_vec(entry)
        .map_err(|error| PlacementError::io("encode", path, io::Error::other(error)))?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Reads the lines of a journal; the module's table says what is cut and what refused.
pub(super) fn parse<S: Ledger>(path: &Path, bytes: &[u8]) -> Result<Read<S>, PlacementError> {
    let damaged = |line: u64, what: String| PlacementError::Damaged {
        file: path.to_path_buf(),
        line,
        what,
    };
    let mut read = Read {
        state: S::default(),
        version: 0,
        end: 0,
        torn: false,
    };
    let mut promised = 1;
    let mut taken: u64 = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let number = taken + 1;
        let (line, next) = match rest.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        let is_last = next.is_none_or(<[u8]>::is_empty);
        let json = match unwrap(line) {
            Ok(json) => json,
            Err(_) if is_last && number > promised && is_torn(line, next.is_none()) => {
                read.torn = true;
                break;
            }
            Err(what) => return Err(damaged(number, what)),
        };
        if number == 1 {
            let format = read_format(path, json, S::VERSION)?;
            (read.version, promised) = (format.version, format.lines);
        } else {
            let entry = serde_json::from_slice(json).map_err(|error| {
                damaged(
                    number,
                    format!("its checksum is right and its content is not known here: {error}"),
                )
            })?;
            let taken = read.state.take(entry);
            taken.map_err(|what| damaged(number, what))?;
        }
        taken = number;
        read.end += line.len() as u64 + u64::from(next.is_some());
        read.torn = next.is_none();
        rest = next.unwrap_or_default();
    }
    if taken < promised.max(1) {
        return Err(damaged(
            taken + 1,
            format!("{promised} lines were made durable, {taken} are here"),
        ));
    }
    Ok(read)
}

/// Whether a last line that does not decode was only half written, rather than damaged later.
fn is_torn(line: &[u8], unterminated: bool) -> bool {
    if unterminated {
        // Whole but for one odd byte: the newline itself was damaged.
        let Some((_, body)) = line.split_last() else {
            return true;
        };
        return unwrap(body).is_err();
    }
    // JSON has no zero bytes, and one alone may be damage; a sector that never came leaves many.
    line.iter().filter(|&&byte| byte == 0).count() > 1
}

/// What the first line says, and promises: how many lines are durable.
fn read_format(path: &Path, json: &[u8], supported: u32) -> Result<Format, PlacementError> {
    match serde_json::from_slice(json) {
        Ok(Head { format }) if format.version > supported => Err(PlacementError::NewerFormat {
            file: path.to_path_buf(),
            found: format.version,
            supported,
        }),
        Ok(Head { format }) => Ok(format),
        Err(_) => Err(PlacementError::Damaged {
            file: path.to_path_buf(),
            line: 1,
            what: "not the first line of such a journal".into(),
        }),
    }
}

/// The JSON of a line whose checksum is right.
fn unwrap(line: &[u8]) -> Result<&[u8], String> {
    let (crc, json) = match line.split_at_checked(9) {
        Some((head, json)) if head[8] == b' ' => (&head[..8], json),
        _ => return Err("it has no checksum".into()),
    };
    let computed = format!("{:08x}", crc32fast::hash(json));
    if crc != computed.as_bytes() {
        return Err(format!(
            "its checksum is {}, its bytes give {computed}",
            String::from_utf8_lossy(crc)
        ));
    }
    Ok(json)
}

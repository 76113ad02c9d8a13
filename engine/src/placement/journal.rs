//! The journal of [`FilePlacement`](super::FilePlacement): one line for each change, the newest line of a shard wins.
//!
//! ```text
//! line    := crc32 of the JSON as 8 hexadecimal digits | space | JSON | newline
//! line 1  := {"format":{"version":1,"lines":N}}     N: how many lines were durable when the file was made
//! others  := {"cluster":{..}} | {"record":{..}} | {"removed":{"shard":..,"revision":..}}
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
//! | a newer version | refused |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::{ClusterInfo, PlacementError};

const FORMAT: u32 = 1;
pub(super) const NAME: &str = "journal";
const TEMPORARY: &str = "journal.new";
/// A journal shorter than this is not worth writing again.
const COMPACT_FROM_BYTES: u64 = 256 << 10;
/// It is written again when it has grown to so many times what was live.
const COMPACT_FACTOR: u64 = 4;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Entry {
    Format { version: u32, lines: u64 },
    Cluster(ClusterInfo),
    Record(Box<PlacementRecord>),
    Removed { shard: ShardId, revision: Revision },
}

/// What the lines add up to.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) cluster: Option<ClusterInfo>,
    pub(super) records: BTreeMap<ShardId, PlacementRecord>,
    /// The last revision of shards that were removed, so that a new record goes on from it.
    pub(super) removed: BTreeMap<ShardId, Revision>,
}

impl State {
    /// The highest revision the shard ever had.
    pub(super) fn revision(&self, shard: ShardId) -> Option<Revision> {
        let record = self.records.get(&shard).map(|record| record.revision);
        record.or_else(|| self.removed.get(&shard).copied())
    }

    /// Takes an entry; what does not go on from the state is refused with the reason.
    pub(super) fn take(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Format { .. } => return Err("a second format line".into()),
            Entry::Cluster(info) => match self.cluster {
                Some(made) => {
                    return Err(format!(
                        "the cluster was made before, with {} shards",
                        made.shards
                    ));
                }
                None => self.cluster = Some(info),
            },
            Entry::Record(record) => {
                self.goes_on(record.shard, record.revision)?;
                self.removed.remove(&record.shard);
                self.records.insert(record.shard, *record);
            }
            Entry::Removed { shard, revision } => {
                self.goes_on(shard, revision)?;
                self.records.remove(&shard);
                self.removed.insert(shard, revision);
            }
        }
        Ok(())
    }

    fn goes_on(&self, shard: ShardId, revision: Revision) -> Result<(), String> {
        match self.revision(shard) {
            Some(known) if known >= revision => Err(format!(
                "shard {shard} has revision {revision} after revision {known}"
            )),
            _ => Ok(()),
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let cluster = self.cluster.map(Entry::Cluster).into_iter();
        let records = self
            .records
            .values()
            .cloned()
            .map(|record| Entry::Record(Box::new(record)));
        let removed = self
            .removed
            .iter()
            .map(|(&shard, &revision)| Entry::Removed { shard, revision });
        cluster.chain(records).chain(removed)
    }

    fn lines(&self) -> usize {
        1 + usize::from(self.cluster.is_some()) + self.records.len() + self.removed.len()
    }
}

/// What reading a journal gave.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) state: State,
    /// Where the last whole line ends.
    pub(super) end: u64,
    /// The file goes on behind `end`, with a change that was never acknowledged, or lacks its last newline.
    pub(super) torn: bool,
}

/// The open journal: appends changes.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    file: File,
    len: u64,
    compact_at: u64,
    poisoned: Option<Arc<str>>,
}

impl Journal {
    /// Opens the journal in `dir`, or makes an empty one. The caller holds the directory's lock.
    pub(super) fn open(dir: &Path) -> Result<(Self, State), PlacementError> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let state = State::default();
                let (file, len) = write_new(dir, &state)?;
                return Ok((Self::new(dir, file, len, len), state));
            }
            Err(error) => return Err(PlacementError::io("read", path, error)),
        };
        let read = parse(&path, &bytes)?;
        if read.torn {
            tracing::warn!(
                file = %path.display(),
                offset = read.end,
                "the journal ends in a change that was never acknowledged: it is cut"
            );
            let (file, len) = write_new(dir, &read.state)?;
            return Ok((Self::new(dir, file, len, len), read.state));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| PlacementError::io("open", &path, error))?;
        // A process that was killed between its write and its sync left lines in the page cache only.
        file.sync_data()
            .map_err(|error| PlacementError::io("sync", &path, error))?;
        let live = encode_all(&read.state)?.len();
        Ok((Self::new(dir, file, read.end, live as u64), read.state))
    }

    fn new(dir: &Path, file: File, len: u64, live: u64) -> Self {
        Self {
            dir: dir.to_path_buf(),
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
    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), PlacementError> {
        if let Some(reason) = self.poisoned() {
            return Err(PlacementError::Poisoned { reason });
        }
        let line = encode(entry)?;
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
    pub(super) fn compact_if_due(&mut self, state: &State) -> Result<(), PlacementError> {
        if self.len < self.compact_at || self.poisoned.is_some() {
            return Ok(());
        }
        self.compact(state)
    }

    pub(super) fn compact(&mut self, state: &State) -> Result<(), PlacementError> {
        match write_new(&self.dir, state) {
            Ok((file, len)) => {
                *self = Self::new(&self.dir, file, len, len);
                Ok(())
            }
            Err(error @ PlacementError::Poisoned { .. }) => {
                self.poisoned = Some(error.to_string().into());
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%error, "the placement journal could not be written again: the long one stays in use");
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
            Ok(()) => PlacementError::io("write", self.dir.join(NAME), error),
            Err(_) => self.poison("write", &error),
        }
    }

    fn poison(&mut self, op: &str, error: &io::Error) -> PlacementError {
        let reason: Arc<str> = format!("{op} {}: {error}", self.dir.join(NAME).display()).into();
        self.poisoned = Some(reason.clone());
        PlacementError::Poisoned { reason }
    }
}

/// Writes a whole journal beside the old one and puts it in its place. An error other than `Poisoned` leaves the old
/// one in place; `Poisoned` means that either may be there after a crash, so that nothing may be appended to one.
fn write_new(dir: &Path, state: &State) -> Result<(File, u64), PlacementError> {
    let temporary = dir.join(TEMPORARY);
    let bytes = encode_all(state)?;
    let made = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(file)
    })();
    let file = made.map_err(|error| PlacementError::io("write", &temporary, error))?;
    let renamed = fs::rename(&temporary, dir.join(NAME));
    renamed.map_err(|error| PlacementError::io("rename", &temporary, error))?;
    sync_dir(dir).map_err(|error| PlacementError::Poisoned {
        reason: format!("sync {}: {error}", dir.display()).into(),
    })?;
    Ok((file, bytes.len() as u64))
}

/// Makes names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn encode_all(state: &State) -> Result<Vec<u8>, PlacementError> {
    let mut bytes = encode(&Entry::Format {
        version: FORMAT,
        lines: state.lines() as u64,
    })?;
    for entry in state.entries() {
        bytes.extend(encode(&entry)?);
    }
    Ok(bytes)
}

fn encode(entry: &Entry) -> Result<Vec<u8>, PlacementError> {
    // Only a map with keys that are no text could fail, and a record has none; still no panic in the writer's thread.
    let json = serde_json::to_vec(entry)
        .map_err(|error| PlacementError::io("encode", NAME, io::Error::other(error)))?;
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    Ok(line)
}

/// Reads the lines of a journal; the module's table says what is cut and what refused.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Read, PlacementError> {
    let damaged = |line: u64, what: String| PlacementError::Damaged {
        file: path.to_path_buf(),
        line,
        what,
    };
    let mut read = Read {
        state: State::default(),
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
        let entry = match decode(line) {
            Ok(entry) => entry,
            Err(_) if is_last && number > promised && is_torn(line, next.is_none()) => {
                read.torn = true;
                break;
            }
            Err(what) => return Err(damaged(number, what)),
        };
        match (number, entry) {
            (1, Entry::Format { version, .. }) if version > FORMAT => {
                return Err(PlacementError::NewerFormat {
                    file: path.to_path_buf(),
                    found: version,
                    supported: FORMAT,
                });
            }
            (1, Entry::Format { lines, .. }) => promised = lines,
            (1, _) => {
                return Err(damaged(
                    1,
                    "not the first line of a placement journal".into(),
                ));
            }
            (_, entry) => read
                .state
                .take(entry)
                .map_err(|what| damaged(number, what))?,
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
        return decode(body).is_err();
    }
    // JSON has no zero bytes, and one alone may be damage; a sector that never came leaves many.
    line.iter().filter(|&&byte| byte == 0).count() > 1
}

fn decode(line: &[u8]) -> Result<Entry, String> {
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
    serde_json::from_slice(json).map_err(|error| {
        format!("its checksum is right and its content is not known here: {error}")
    })
}

//! Copying a checkpoint's files to the target: several at once, resumable by file and offset, checked, throttled.
//!
//! A finished file is never fetched again. Of each file several chunks are asked for ahead, so that the way there and
//! back costs once, not once a chunk; each file's bytes arrive in its own order, so that its checksum is made as they
//! come and what is there of it is always a prefix. A source that does not answer is tried again for a while: it may be
//! restarting.
//!
//! What is asked for and not yet written is bounded, in bytes and as a part of the whole: that much is fetched again
//! after a crash, and a [`Part`]'s last unsynced bytes where the power went.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use watershed_migration::messages::{Envelope, FileInfo, RefusedKind, Request, Response};

use super::part::{self, Finished, Part};
use super::peer::{CallError, Peer};
use super::room::{NoRoom, Room};
use super::tasks::Tasks;
use super::throttle::{Speed, Throttle};
use crate::Error;
use crate::sync::lock;

/// The sizes of a chunk: the greatest where there is much to copy.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNK_BYTES_LEAST: u64 = 64 << 10;
/// Under a rate as low as a few chunks a second the smallest keep the flow even.
const SLOW_BYTES_PER_S: u64 = 8 << 20;
/// How many chunks the whole is cut into at least, and the part of it that may be on its way.
const CHUNKS_LEAST: u64 = 64;
const IN_FLIGHT_PART: u64 = 16;
/// Files fetched at once, and chunks of one asked for ahead.
const FILES_AT_ONCE: usize = 4;
const AHEAD: usize = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often in a row, and for how long, there may be no chunk before the copy is given up: longer than a restart takes;
/// and the waits between tries.
const TRIES: u32 = 40;
const PATIENCE: Duration = Duration::from_secs(300);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Why a copy ended without all its files.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the source refused: {message}")]
    Refused { kind: RefusedKind, message: String },
    #[error("the source answered something else than a chunk of {file}")]
    Unexpected { file: String },
    #[error("a chunk of {file} at {offset} arrived damaged")]
    Chunk { file: String, offset: u64 },
    #[error(
        "{file} has checksum {found:032x}, the checkpoint says {expected:032x}: its copy at the source is damaged"
    )]
    File {
        file: String,
        expected: u128,
        found: u128,
    },
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Here(#[from] Error),
}

impl PullError {
    /// Whether the same call may succeed later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Call(_) | Self::Chunk { .. } => true,
            // A source that closes or opens does not know the shard for a while, and one that obeys another driver
            // already goes on once that driver was heard here.
            Self::Refused { kind, .. } => matches!(
                kind,
                RefusedKind::NotReady
                    | RefusedKind::Busy
                    | RefusedKind::Unknown
                    | RefusedKind::Failed
                    | RefusedKind::StaleDriver
                    | RefusedKind::StaleAttempt
            ),
            _ => false,
        }
    }
}

/// One copy of a checkpoint.
#[derive(Debug)]
pub(super) struct Pull {
    /// Where the files go.
    pub(super) dir: PathBuf,
    pub(super) files: Vec<FileInfo>,
    pub(super) source: Peer,
    /// The newest: a driver that takes over goes on with a copy that is running.
    pub(super) env: Arc<Mutex<Envelope>>,
    pub(super) speed: watch::Receiver<Speed>,
    pub(super) tasks: Tasks,
    /// Bytes that are here, for the progress.
    pub(super) copied: Arc<AtomicU64>,
    pub(super) room: Arc<Room>,
}

impl Pull {
    /// Fetches what is missing; all files are here, checked and synced when it returns.
    pub(super) async fn run(self) -> Result<(), PullError> {
        self.copied.store(0, Ordering::Relaxed);
        let mut missing = VecDeque::new();
        for file in &self.files {
            if part::is_finished(&self.dir, file) {
                self.copied.fetch_add(file.len, Ordering::Relaxed);
            } else {
                missing.push_back(file.clone());
            }
        }
        // The longest first, so that no long one is left for the end.
        missing
            .make_contiguous()
            .sort_by_key(|file| std::cmp::Reverse(file.len));
        let held: u64 = missing.iter().map(|file| part::held(&self.dir, file)).sum();
        let left = missing
            .iter()
            .map(|file| file.len)
            .sum::<u64>()
            .saturating_sub(held);
        let fetching = Arc::new(Fetching::new(self, left));
        let mut running = JoinSet::new();
        loop {
            while running.len() < FILES_AT_ONCE {
                let Some(file) = missing.pop_front() else {
                    break;
                };
                let fetching = fetching.clone();
                running.spawn(async move { fetching.file(&file).await });
            }
            match running.join_next().await {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                // What else runs is aborted with the set.
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(_)) => return Err(PullError::Here(Error::Closed)),
            }
        }
    }
}

/// What the files of a copy share while they are fetched.
struct Fetching {
    pull: Pull,
    throttle: Throttle,
    /// Bytes that the disk does not hold yet.
    left: AtomicU64,
    chunk: u64,
    /// A permit for each chunk on its way.
    in_flight: Arc<Semaphore>,
}

/// A chunk on its way.
struct Asked {
    chunk: JoinHandle<Result<Bytes, PullError>>,
    _permit: OwnedSemaphorePermit,
}

impl Fetching {
    fn new(pull: Pull, left: u64) -> Self {
        let total = pull
            .files
            .iter()
            .fold(0u64, |sum, file| sum.saturating_add(file.len));
        let chunk = (total / CHUNKS_LEAST).clamp(CHUNK_BYTES_LEAST, CHUNK_BYTES);
        let most = usize::try_from(total / IN_FLIGHT_PART / chunk).unwrap_or(usize::MAX);
        Self {
            throttle: Throttle::new(pull.speed.clone()),
            left: AtomicU64::new(left),
            pull,
            chunk,
            in_flight: Arc::new(Semaphore::new(most.clamp(2, FILES_AT_ONCE * AHEAD))),
        }
    }

    async fn file(&self, file: &FileInfo) -> Result<(), PullError> {
        loop {
            match self.fetch(file).await? {
                Finished::Right => return Ok(()),
                Finished::Again => {
                    tracing::warn!(file = %file.name, "what was kept of a half copied file was bad: it is fetched again");
                    self.pull.copied.fetch_sub(file.len, Ordering::Relaxed);
                    self.left.fetch_add(file.len, Ordering::Relaxed);
                }
                Finished::Wrong { found } => {
                    return Err(PullError::File {
                        file: file.name.clone(),
                        expected: file.xxh3_128,
                        found,
                    });
                }
            }
        }
    }

    async fn fetch(&self, file: &FileInfo) -> Result<Finished, PullError> {
        let (dir, info) = (self.pull.dir.clone(), file.clone());
        let mut part = self
            .pull
            .tasks
            .blocking(move || Part::open(&dir, &info))
            .await?;
        self.pull.copied.fetch_add(part.at(), Ordering::Relaxed);
        // Tries in a row without a chunk, and since when.
        let (mut failures, mut since) = (0_u32, Instant::now());
        while part.at() < file.len {
            let before = part.at();
            let (back, outcome) = self.fetch_from(part, file).await?;
            part = back;
            match outcome {
                Ok(()) => {}
                Err(error) if error.may_pass() => {
                    if part.at() > before || failures == 0 {
                        (failures, since) = (0, Instant::now());
                    } else if failures > TRIES && since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    failures = failures.saturating_add(1);
                    let wait = RETRY_FIRST
                        .saturating_mul(1 << failures.min(10))
                        .min(RETRY_LONGEST);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.pull.tasks.blocking(move || part.finish()).await?)
    }

    /// Fetches from where the part file ends, until its end or the first failure. An error of this node's own disk
    /// is the outer one.
    async fn fetch_from(
        &self,
        mut part: Part,
        file: &FileInfo,
    ) -> Result<(Part, Result<(), PullError>), PullError> {
        let mut asked = part.at();
        let mut ahead: VecDeque<Asked> = VecDeque::new();
        loop {
            if asked < file.len && ahead.len() < AHEAD {
                let len = (file.len - asked).min(self.chunk_now());
                // What has come is written before anything is waited for.
                if let Some(permit) = self.may_ask(len, ahead.is_empty()).await {
                    ahead.push_back(self.ask(file, asked, len, permit));
                    asked += len;
                    continue;
                }
            }
            let Some(mut next) = ahead.pop_front() else {
                return Ok((part, Ok(())));
            };
            let bytes = match (&mut next.chunk).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return Ok((part, Err(error))),
                // The runtime is shutting down.
                Err(_) => return Err(PullError::Here(Error::Closed)),
            };
            part = self.write(part, bytes).await?;
        }
    }

    /// Whether so many bytes may be asked for: at once, or after waiting for that.
    async fn may_ask(&self, bytes: u64, wait: bool) -> Option<OwnedSemaphorePermit> {
        let permits = self.in_flight.clone();
        if wait {
            let permit = permits.acquire_owned().await.ok();
            self.throttle.take(bytes).await;
            return permit;
        }
        let permit = permits.try_acquire_owned().ok()?;
        self.throttle.try_take(bytes).then_some(permit)
    }

    fn chunk_now(&self) -> u64 {
        match self.throttle.bytes_per_s() {
            Some(rate) if rate < SLOW_BYTES_PER_S => CHUNK_BYTES_LEAST,
            _ => self.chunk,
        }
    }

    /// Dropping what it gives lets the call run out; its chunk is then asked for again.
    fn ask(&self, file: &FileInfo, offset: u64, len: u64, permit: OwnedSemaphorePermit) -> Asked {
        let (source, env) = (self.pull.source.clone(), *lock(&self.pull.env));
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Asked {
            chunk: tokio::spawn(chunk(source, env, file.name.clone(), offset, len)),
            _permit: permit,
        }
    }

    async fn write(&self, mut part: Part, bytes: Bytes) -> Result<Part, PullError> {
        let len = bytes.len() as u64;
        let left = self.left.load(Ordering::Relaxed);
        let room = self.pull.room.clone();
        let written = self.pull.tasks.blocking(move || {
            if let Err(none) = room.check(len, left)? {
                return Ok(Err(none));
            }
            match part.write(&bytes) {
                Err(Error::Io { source, .. }) if is_full(&source) => Ok(Err(room.full(left))),
                other => other.map(|()| Ok(part)),
            }
        });
        let part = written.await??;
        self.pull.copied.fetch_add(len, Ordering::Relaxed);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(len))
            })
            .ok();
        Ok(part)
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

async fn chunk(
    source: Peer,
    env: Envelope,
    name: String,
    offset: u64,
    len: u32,
) -> Result<Bytes, PullError> {
    let request = Request::ReadFile {
        env,
        name: name.clone(),
        offset,
        len,
    };
    match source.call_within(CALL_TIMEOUT, request).await? {
        Response::FileChunk { bytes, crc32 } => {
            let whole = bytes.len() as u64 == u64::from(len) && crc32fast::hash(&bytes) == crc32;
            whole
                .then_some(bytes)
                .ok_or(PullError::Chunk { file: name, offset })
        }
        Response::Refused(refused) => Err(PullError::Refused {
            kind: refused.kind,
            message: refused.message,
        }),
        _ => Err(PullError::Unexpected { file: name }),
    }
}

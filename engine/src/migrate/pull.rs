//! Copying a checkpoint's files to the target: resumable by file and offset, checked, throttled.
//!
//! A finished file is never fetched again. Several chunks are asked for ahead, so that the way there and back costs
//! once, not once a chunk. A source that does not answer is tried again for a while: it may be restarting.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use watershed_migration::messages::{Envelope, FileInfo, RefusedKind, Request, Response};

use super::part::{self, Finished, Part};
use super::peer::{CallError, Peer};
use super::tasks::Tasks;
use crate::Error;

const CHUNK_BYTES: u32 = 1 << 20;
/// Under a rate as low as a few chunks a second smaller ones keep the flow even.
const CHUNK_BYTES_SLOW: u32 = 64 << 10;
const SLOW_BYTES_PER_S: u64 = 8 << 20;
/// Chunks asked for ahead.
const AHEAD: usize = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries in a row without a chunk before the copy is given up, and the waits between them.
const TRIES: u32 = 40;
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
    Here(#[from] Error),
}

impl PullError {
    /// Whether the same call may succeed later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Call(_) | Self::Chunk { .. } => true,
            Self::Refused { kind, .. } => matches!(kind, RefusedKind::NotReady | RefusedKind::Busy),
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
    pub(super) env: Envelope,
    pub(super) rate_bytes_per_s: Option<u64>,
    pub(super) tasks: Tasks,
    /// Bytes that are here, for the progress.
    pub(super) copied: Arc<AtomicU64>,
}

impl Pull {
    /// Fetches what is missing; all files are here, checked and synced when it returns.
    pub(super) async fn run(&self) -> Result<(), PullError> {
        self.copied.store(0, Ordering::Relaxed);
        let mut throttle = Throttle::new(self.rate_bytes_per_s);
        for file in &self.files {
            if part::is_finished(&self.dir, file) {
                self.copied.fetch_add(file.len, Ordering::Relaxed);
                continue;
            }
            loop {
                match self.fetch(file, &mut throttle).await? {
                    Finished::Right => break,
                    Finished::Again => {
                        tracing::warn!(file = %file.name, "what was kept of a half copied file was bad: it is fetched again");
                        self.copied.fetch_sub(file.len, Ordering::Relaxed);
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
        Ok(())
    }

    async fn fetch(&self, file: &FileInfo, throttle: &mut Throttle) -> Result<Finished, PullError> {
        let (dir, info) = (self.dir.clone(), file.clone());
        let mut part = self.tasks.blocking(move || Part::open(&dir, &info)).await?;
        self.copied.fetch_add(part.at(), Ordering::Relaxed);
        let mut failures = 0;
        while part.at() < file.len {
            let before = part.at();
            let (back, outcome) = self.fetch_from(part, file, throttle).await?;
            part = back;
            match outcome {
                Ok(()) => {}
                Err(error) if error.may_pass() && failures + 1 < TRIES => {
                    failures = if part.at() > before { 0 } else { failures + 1 };
                    let wait = RETRY_FIRST
                        .saturating_mul(1 << failures.min(10))
                        .min(RETRY_LONGEST);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.tasks.blocking(move || part.finish()).await?)
    }

    /// Fetches from where the part file ends, until its end or the first failure. An error of this node's own disk
    /// is the outer one.
    async fn fetch_from(
        &self,
        mut part: Part,
        file: &FileInfo,
        throttle: &mut Throttle,
    ) -> Result<(Part, Result<(), PullError>), PullError> {
        let mut asked = part.at();
        let mut ahead = VecDeque::new();
        loop {
            while ahead.len() < AHEAD && asked < file.len {
                let len = u32::try_from(file.len - asked)
                    .unwrap_or(u32::MAX)
                    .min(throttle.chunk());
                throttle.take(u64::from(len)).await;
                // Dropping the handle lets the call run out; its chunk is then asked for again.
                ahead.push_back(tokio::spawn(chunk(
                    self.source.clone(),
                    self.env,
                    file.name.clone(),
                    asked,
                    len,
                )));
                asked += u64::from(len);
            }
            let Some(next) = ahead.pop_front() else {
                return Ok((part, Ok(())));
            };
            let bytes = match next.await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return Ok((part, Err(error))),
                // The runtime is shutting down.
                Err(_) => return Err(PullError::Here(Error::Closed)),
            };
            let len = bytes.len() as u64;
            part = self
                .tasks
                .blocking(move || part.write(&bytes).map(|()| part))
                .await?;
            self.copied.fetch_add(len, Ordering::Relaxed);
        }
    }
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

/// Keeps the average rate under its bound.
#[derive(Debug)]
struct Throttle {
    bytes_per_s: Option<u64>,
    started: Instant,
    taken: u64,
}

impl Throttle {
    fn new(bytes_per_s: Option<u64>) -> Self {
        Self {
            bytes_per_s,
            started: Instant::now(),
            taken: 0,
        }
    }

    fn chunk(&self) -> u32 {
        match self.bytes_per_s {
            Some(rate) if rate < SLOW_BYTES_PER_S => CHUNK_BYTES_SLOW,
            _ => CHUNK_BYTES,
        }
    }

    async fn take(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let due_us = u128::from(self.taken) * 1_000_000 / u128::from(rate.max(1));
        self.taken += bytes;
        let due = Duration::from_micros(u64::try_from(due_us).unwrap_or(u64::MAX));
        tokio::time::sleep(due.saturating_sub(self.started.elapsed())).await;
    }
}

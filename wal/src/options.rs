//! How a log is set up, and what it says of itself.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::error::OpenError;
use crate::times::Times;
use crate::words::{InstanceId, Seq, ShardId};

/// The least segment: a head, and room for a few frames.
pub(crate) const MIN_SEGMENT_BYTES: u32 = 32 * 1024;

/// How a log is set up. Checked once, by [`crate::Log::open`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes a segment file is made with (16 MiB). One that must hold a larger frame is made larger.
    pub segment_bytes: u32,
    /// Bytes all segments may take together (1 GiB); writes are refused as [`crate::LogError::Full`] beyond.
    /// Only for notes that free room, once nothing within it is left for them, another segment is made beyond it.
    pub limit_bytes: u64,
    /// How often buffered writes are synced in the background (200 ms).
    pub buffered_sync_every: Duration,
    /// Bytes of recent records kept in memory for readers (16 MiB).
    pub recent_bytes: usize,
    /// The longest body of a record (33 MiB: a 32 MiB batch and its encoding).
    pub max_body_bytes: usize,
    /// Bodies from this size on are compressed where it pays (4096; `usize::MAX`: never).
    pub compress_from_bytes: usize,
    /// Bytes that may wait to be written (64 MiB); a submit beyond is refused as [`crate::LogError::Busy`].
    pub max_pending_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            limit_bytes: 1 << 30,
            buffered_sync_every: Duration::from_millis(200),
            recent_bytes: 16 << 20,
            max_body_bytes: 33 << 20,
            compress_from_bytes: 4096,
            max_pending_bytes: 64 << 20,
        }
    }
}

impl LogOptions {
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let wrong = |option, value, why| Err(OpenError::InvalidOption { option, value, why });
        if self.segment_bytes < MIN_SEGMENT_BYTES {
            return wrong(
                "segment_bytes",
                self.segment_bytes.into(),
                "a segment has at least 32 KiB",
            );
        }
        if self.limit_bytes < 3 * u64::from(self.segment_bytes) {
            return wrong(
                "limit_bytes",
                self.limit_bytes,
                "the log needs room for at least three segments",
            );
        }
        if self.max_body_bytes > MAX_BODY_BYTES {
            return wrong(
                "max_body_bytes",
                crate::codec::len64(self.max_body_bytes),
                "the format carries bodies of up to 1 GiB",
            );
        }
        Ok(())
    }
}

/// The longest body that the format carries.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 30;

/// How the log's files ended when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum LogEnd {
    /// After a whole frame.
    Clean,
    /// In a frame that was never promised durable: power was lost, or the process died, while it was written.
    Torn {
        /// The segment.
        segment: u64,
        /// Where the log now ends.
        offset: u64,
        /// Bytes beyond it that are given up.
        bytes_cut: u64,
    },
}

/// What opening the log found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// How the log's files ended.
    pub tail: LogEnd,
    /// Records found.
    pub records: u64,
    /// Frames found.
    pub frames: u64,
    /// Segments read.
    pub segments: u64,
    /// Bytes of those segments up to their ends.
    pub bytes: u64,
    /// Instances hosted.
    pub instances: u64,
}

/// What verifying a log found; damage is an [`OpenError`] instead.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Frames found.
    pub frames: u64,
    /// Records found.
    pub records: u64,
    /// Bytes of those segments up to their ends.
    pub bytes: u64,
    /// How the log's files ended.
    pub tail: LogEnd,
}

/// What the log is doing.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LogStatus {
    /// Segment files in use.
    pub segments: u64,
    /// Bytes that all segment files take, spares included, and those that wait to be filled again.
    pub bytes: u64,
    /// Those of them that wait: nothing is in them, and what needs room takes it from them first.
    pub recycled_bytes: u64,
    /// Bytes that they may take.
    pub limit: u64,
    /// Syncs of the device since the log was opened.
    pub syncs: u64,
    /// How long a sync takes, smoothed, in microseconds.
    pub sync_latency_us: u64,
    /// How long syncs have taken since the log was opened.
    pub sync_times: Times,
    /// Frames written since the log was opened.
    pub frames: u64,
    /// Records written since the log was opened.
    pub records: u64,
    /// Bytes that wait to be written.
    pub pending_bytes: u64,
    /// Why writes are refused, if they are.
    pub poisoned: Option<String>,
    /// Whether writes are refused for want of room.
    pub full: bool,
    /// The holds of all instances.
    pub holds: Vec<HoldInfo>,
}

/// Two marks of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watermarks {
    /// The last Seq handed out, or the greatest received.
    pub assigned: Seq,
    /// This and all before it survive power loss.
    pub durable: Seq,
}

/// What a hold may cost before it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HoldBudget {
    /// Physical bytes of log that it may keep.
    pub bytes: u64,
    /// How long, counted while the node is up.
    pub time: Duration,
}

/// A hold as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HoldInfo {
    /// The shard.
    pub shard: ShardId,
    /// The instance.
    pub instance: InstanceId,
    /// The hold's name, unique in its instance.
    pub name: String,
    /// It keeps the records after this Seq.
    pub from: Seq,
    /// What it may cost.
    pub budget: HoldBudget,
    /// Physical bytes of log that it keeps now.
    pub bytes: u64,
    /// How long it has kept them.
    pub age: Duration,
    /// Over budget: it keeps nothing any more, its owner starts again from a checkpoint.
    pub expired: bool,
}

/// A node-local note of an instance.
pub(crate) type Notes = std::collections::BTreeMap<String, Bytes>;

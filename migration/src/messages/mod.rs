//! What crosses the link between nodes: requests, responses, and their bytes.
//!
//! ```text
//! message := version u8 (1) | postcard of Request or Response
//! ```
//!
//! A decoder refuses what is longer than [`MAX_MESSAGE_BYTES`], of a newer version, cut, followed by more bytes,
//! or beyond a list's bound, with a typed error and without a panic: the bytes are a stranger's. Whether a
//! request is allowed is for the roles to say.

mod data;
mod request;
mod response;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use data::{Condition, DataEntry, EntryVersion, Expect, ScanBound, ScanRequest};
pub use request::{Envelope, Manifest, Request};
pub use response::{FileInfo, PageEntry, Refused, RefusedKind, Response, SourceState, TargetState};

/// The version of the encoding.
pub const MESSAGE_VERSION: u8 = 1;
/// The most bytes a message may have.
pub const MAX_MESSAGE_BYTES: usize = 40 << 20;
/// The most ranges in one message.
pub const RANGES_MAX: usize = 4096;
/// The most missing ranges in a target's marks: one would do to prove nothing, a few show where.
pub const MARKS_MISSING_MAX: usize = 64;
/// The most files in a manifest.
pub const FILES_MAX: usize = 1 << 16;
/// The most terms in a history.
pub const TERMS_MAX: usize = 1 << 16;
/// The most entries in a page, a multi-get or a batch of conditions.
pub const ENTRIES_MAX: usize = 1 << 16;
/// The most bytes of a file's name in a manifest.
pub const FILE_NAME_MAX: usize = 255;
/// The most bytes of a text: a reason, an error, who asked.
pub const TEXT_MAX: usize = 64 << 10;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// No byte at all.
    #[error(
        "an empty message: the peer is not a Watershed node, or cut the connection; send it again"
    )]
    Empty,
    /// Longer than any message of ours.
    #[error("a message of {len} bytes, at most {MAX_MESSAGE_BYTES} are read: split the request")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Of a newer or unknown version.
    #[error(
        "a message of version {found}, this node reads {MESSAGE_VERSION}: upgrade the older of both nodes"
    )]
    Version {
        /// Its version.
        found: u8,
    },
    /// Not what the version says.
    #[error("a damaged {what}: {reason}; send it again")]
    Damaged {
        /// Request or response.
        what: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// A list beyond its bound.
    #[error("a {what} with {found} {list}, at most {most} are read: split it")]
    Bound {
        /// Request or response.
        what: &'static str,
        /// Of what.
        list: &'static str,
        /// How many.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
}

/// The bounds of a message's lists, checked after decoding and before anybody acts on it.
pub(crate) struct Bounds {
    what: &'static str,
    broken: Option<WireError>,
}

impl Bounds {
    pub(crate) fn at_most(&mut self, list: &'static str, found: usize, most: usize) {
        if found > most && self.broken.is_none() {
            self.broken = Some(WireError::Bound {
                what: self.what,
                list,
                found,
                most,
            });
        }
    }
}

pub(crate) trait Bounded {
    const WHAT: &'static str;
    fn bounds(&self, bounds: &mut Bounds);
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    let bytes = postcard::to_extend(message, vec![MESSAGE_VERSION])
        .expect("a message serialises into memory: its types have no failing serialiser");
    Bytes::from(bytes)
}

pub(crate) fn decode<T: DeserializeOwned + Bounded>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLong { len: bytes.len() });
    }
    let (&version, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if version != MESSAGE_VERSION {
        return Err(WireError::Version { found: version });
    }
    let damaged = |reason: String| WireError::Damaged {
        what: T::WHAT,
        reason,
    };
    let (message, rest) =
        postcard::take_from_bytes::<T>(body).map_err(|error| damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes follow it", rest.len())));
    }
    let mut bounds = Bounds {
        what: T::WHAT,
        broken: None,
    };
    message.bounds(&mut bounds);
    bounds.broken.map_or(Ok(message), Err)
}

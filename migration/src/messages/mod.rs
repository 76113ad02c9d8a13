//! What crosses the link between nodes: requests, responses, and their bytes.
//!
//! The bytes are Protocol Buffers, as `proto/watershed/node/v1/node.proto` describes them (and `migration.proto`, which
//! it imports): every message and field, with its unit and its bound. The types here are what the rest of the program knows; `wire` is the way between both.
//!
//! ```text
//! message := version | readable_from | one body
//! ```
//!
//! Nodes of different versions read each other: `version` is the sender's, `readable_from` the oldest version that
//! may read this very message. A reader
//!
//! | meets | and |
//! |---|---|
//! | `readable_from` above its own version | refuses the message with [`WireError::Version`] |
//! | a body that it does not know | refuses the message with [`WireError::Unknown`] |
//! | a field that it does not know | ignores the field |
//! | what is cut, contradicts itself, or lacks what it must have | refuses it as [`WireError::Damaged`], naming the field |
//! | a list beyond its bound | refuses it with [`WireError::Bound`], before it is decoded |
//! | more than [`MAX_MESSAGE_BYTES`] | refuses it with [`WireError::TooLong`] |
//!
//! all without a panic: the bytes are a stranger's. Whether a request is allowed is for the roles to say.
//!
//! # Changing the messages
//!
//! - The number of a field, a body or an enum's value is never used again.
//! - A new field is one that may be left out; without it a message means what it meant before there was the field.
//! - [`MESSAGE_VERSION`] goes up with a release that changes a message. `readable_from` goes up too, but only of a
//!   message that an older reader would misunderstand: one with a field that must not be ignored, or with a new value
//!   of an enum or a oneof. A new body needs no such care, as who doesn't know it refuses it.
//! - A new list gets a bound in `wire/bounds.rs`, and does not compile without.
//! - `tests/data/messages-v1.txt` holds a message of each kind as version 1 encoded it. It is never changed: a new
//!   version adds a file of its own.

mod data;
mod proto;
mod request;
mod response;
mod wire;

use thiserror::Error;

pub use data::{Condition, DataEntry, EntryVersion, Expect, ScanBound, ScanRequest, SessionMark};
pub use request::{Envelope, Manifest, Request};
pub use response::{FileInfo, PageEntry, Refused, RefusedKind, Response, SourceState, TargetState};

/// The version of the messages, as this program sends them.
pub const MESSAGE_VERSION: u32 = 1;
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
/// The most followers in a placement record.
pub const FOLLOWERS_MAX: usize = 4096;
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
    /// Of a newer version that this node would misunderstand.
    #[error(
        "a message of version {found} that versions from {readable_from} on can read, this node is of version \
         {MESSAGE_VERSION}: upgrade this node"
    )]
    Version {
        /// The sender's version.
        found: u32,
        /// The oldest version that can read it.
        readable_from: u32,
    },
    /// With a body of a kind that this node does not know.
    #[error(
        "a {what} of a kind that this node does not know (body {field}): it is of version {version} and this node of \
         {MESSAGE_VERSION}; upgrade this node, or do without what was asked for"
    )]
    Unknown {
        /// Request or response.
        what: &'static str,
        /// The field number of its body.
        field: u32,
        /// The sender's version.
        version: u32,
    },
    /// Not what the protocol says.
    #[error("a damaged {what}: {reason}; send it again")]
    Damaged {
        /// Request or response.
        what: &'static str,
        /// In which field, and what is wrong with it.
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

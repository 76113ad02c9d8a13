//! The write-ahead log of Watershed: group commit, per-shard sequences, watermarks, reading by sequence range.
#![forbid(unsafe_code)]

mod codec;
mod digest;
mod record;
mod seqset;
mod storage;
mod words;

pub use codec::FormatError;
pub use digest::LogDigest;
pub use record::{Record, RecordKind, StartBody};
pub use seqset::{EmptyRange, SeqRange, SeqSet};
pub use storage::{Storage, StorageFile};
pub use words::{
    Durability, Epoch, InstanceId, NumberTooLarge, ParseInstanceIdError, Seq, ShardId, Term, TermStart,
};

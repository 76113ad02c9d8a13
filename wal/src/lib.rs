//! The write-ahead log of Watershed: group commit, per-shard sequences, watermarks, reading by sequence range.
//!
//! Many shards share one log, so that one sync commits the waiting writes of all. Open a [`Log`], host an
//! [`InstanceLog`] for each shard, start a term, submit. The bytes are drawn in `FORMAT.md`.
//!
//! **Invariant:** no RocksDB, no network, no async runtime. Futures are plain ones that any runtime can poll.
#![deny(unsafe_code)] // allowed in map.rs alone

mod batch;
mod codec;
mod completion;
mod digest;
mod dir;
mod error;
mod format;
#[doc(hidden)]
#[macro_use]
pub mod hex_id;
mod log;
mod map;
pub mod mem;
mod options;
mod record;
mod seqset;
mod storage;
mod sync;
mod times;
mod words;

pub use batch::{
    BatchBuilder, BatchReader, ClientStamp, Op, append_put, appended_put_len, single_delete,
    single_put, validate_batch,
};
pub use codec::FormatError;
pub use completion::{BlockedThread, Completer, Completion};
pub use digest::LogDigest;
pub use dir::DirStorage;
pub use error::{Damage, DamageKind, LogError, OpenError};
pub use log::*;
pub use options::{
    HoldBudget, HoldInfo, LogEnd, LogOptions, LogStatus, OpenReport, VerifyReport, Watermarks,
};
pub use record::{Record, RecordKind, StartBody};
pub use seqset::{EmptyRange, SeqRange, SeqSet};
pub use storage::{Storage, StorageFile};
#[cfg(watershed_shuttle)]
#[doc(hidden)]
pub use sync::checked;
pub use times::{TimeBucket, TimeCounts, Times};
pub use words::{
    Durability, Epoch, InstanceId, NumberTooLarge, ParseInstanceIdError, Seq, ShardId, Term,
    TermStart,
};

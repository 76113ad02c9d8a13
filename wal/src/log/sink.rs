//! What follows a commit: the sink of an instance, and what it is given.

use std::fmt::Debug;

use crate::completion::{Completer, Completion};
use crate::error::LogError;
use crate::record::Record;
use crate::words::Durability;

/// A committed record and the completer of who waits for it.
#[derive(Debug)]
pub struct Committed {
    /// The record.
    pub record: Record,
    /// As it was submitted.
    pub durability: Durability,
    /// Completes the write's [`crate::Completion`].
    pub done: Completer,
}

impl Committed {
    /// A record that its caller got from [`crate::InstanceLog::append`], as the log hands over others.
    pub fn buffered(record: Record) -> (Self, Completion) {
        let (completion, done) = Completion::single();
        let committed = Self {
            record,
            durability: Durability::Buffered,
            done,
        };
        (committed, completion)
    }
}

/// Takes an instance's records as they are committed, to apply them.
pub trait CommitSink: Send + Sync {
    /// Records on their way: called once for each frame, in commit order, before the frame is durable, so that
    /// applying them takes the same time as its sync. Each is committed later by [`CommitSink::committed`], or the log
    /// fails: until then nobody may be shown what they did. Must be quick.
    ///
    /// `inline`: on the thread that submitted to this instance, which applies by itself after [`crate::Lead::commit`].
    fn appended(&self, records: &[Record], inline: bool) {
        let _ = (records, inline);
    }

    /// Called in commit order, one call at a time per instance, once the records are durable (a frame with a
    /// `Sync` write) or written (a frame of `Buffered` ones). Must be quick, and must not wait for a commit.
    ///
    /// `inline`: on the thread that submitted to this instance, inside [`crate::Lead::commit`], which may go on
    /// to apply once `commit` returns.
    fn committed(&self, batch: Vec<Committed>, inline: bool);

    /// The log is poisoned. Waiters of records that were not committed got the error from the log itself.
    fn failed(&self, error: &LogError);
}

impl Debug for dyn CommitSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommitSink")
    }
}

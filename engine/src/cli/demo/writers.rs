//! The writers: each owns a part of the keys and inserts, updates, deletes and now and then reads back, with many
//! requests in flight but one at a time for each key.
//!
//! A write that the engine says did not happen is sent again; one whose outcome it does not know is left to the oracle
//! as a possibility; any other error ends the demo.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::oracle::{Finding, Oracle};
use super::tally::{Kind, Period, Tally, may_resend};
use crate::cli::failure::Failure;
use crate::cli::latency::Latencies;
use crate::cli::place::Data;
use crate::cli::random::Random;
use crate::{Durability, Error, Retry, Version};

/// Requests that one writer keeps in flight.
const IN_FLIGHT: usize = 32;
/// How often a write that did not happen is sent again before the demo gives up.
const SENDS_MAX: u32 = 1000;
const RESEND_AFTER: Duration = Duration::from_millis(5);

/// One write. `value` is `None` for a delete.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) key: Bytes,
    pub(super) kind: Kind,
    pub(super) value: Option<Bytes>,
}

/// How a write ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) op: Op,
    pub(super) outcome: Outcome,
    period: Period,
    time: Duration,
}

/// What is known of a write.
#[derive(Debug)]
pub(super) enum Outcome {
    Acknowledged(Version),
    Unknown,
    Failed(Error),
}

/// Where writes go, and how.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) data: Arc<dyn Data>,
    pub(super) durability: Durability,
    pub(super) tally: Arc<Tally>,
}

impl Sender {
    /// Sends a write until it is acknowledged or there is no use in it. Submitted, and counted, at the first poll.
    pub(super) async fn send(self, op: Op) -> Ended {
        let started = Instant::now();
        let period = self.tally.period();
        self.tally.submit(self.data.shard_of(&op.key), op.kind);
        let mut sends = 1;
        let outcome = loop {
            let write = match &op.value {
                Some(value) => self.data.put(&op.key, value),
                None => self.data.delete(&op.key),
            };
            match write.durability(self.durability).await {
                Ok(version) => {
                    self.tally.acknowledge(period);
                    break Outcome::Acknowledged(version);
                }
                Err(error) if error.retry() == Retry::Unknown => break Outcome::Unknown,
                Err(error) if may_resend(error.retry()) && sends < SENDS_MAX => {
                    sends += 1;
                    self.tally.resend();
                    tokio::time::sleep(RESEND_AFTER).await;
                }
                Err(error) => break Outcome::Failed(error),
            }
        };
        Ended {
            op,
            outcome,
            period,
            time: started.elapsed(),
        }
    }
}

/// A key that a writer owns.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) key: Bytes,
    /// The document that its next revision is made from.
    pub(super) document: Bytes,
}

/// What a writer leaves when it has stopped.
#[derive(Debug, Default)]
pub(super) struct Wrote {
    pub(super) oracle: Oracle,
    /// By [`Period`].
    pub(super) latencies: [Latencies; 3],
    pub(super) reads: u64,
    /// Reads that did not see the writer's own last acknowledged write.
    pub(super) stale_reads: u64,
}

/// One writer.
pub(super) struct Writer {
    number: u32,
    sender: Sender,
    random: Random,
    /// Keys that have a value and nothing in flight.
    live: Vec<Owned>,
    /// Deleted keys with nothing in flight.
    dead: Vec<Owned>,
    revision: u64,
    wrote: Wrote,
    requests: JoinSet<Request>,
}

/// A request that ended.
enum Request {
    Write(Owned, Ended),
    Read(Owned, Result<Option<(Bytes, Version)>, Error>),
}

impl Writer {
    /// A writer that owns `live`, about which `oracle` knows.
    pub(super) fn new(number: u32, sender: Sender, live: Vec<Owned>, oracle: Oracle) -> Self {
        Self {
            number,
            sender,
            random: Random::new(u64::from(number) + 1),
            live,
            dead: Vec::new(),
            revision: 0,
            wrote: Wrote {
                oracle,
                ..Wrote::default()
            },
            requests: JoinSet::new(),
        }
    }

    /// Writes until the tally says stop, then waits for what is in flight.
    pub(super) async fn run(mut self) -> Result<Wrote, Failure> {
        while !self.sender.tally.stopped() {
            while self.requests.len() < IN_FLIGHT {
                self.start();
            }
            self.one_done().await?;
        }
        while !self.requests.is_empty() {
            self.one_done().await?;
        }
        Ok(self.wrote)
    }

    /// Of 16 requests, 6 update, 5 insert, 4 delete and 1 reads back; what has no key to work on inserts.
    fn start(&mut self) {
        match self.random.below(16) {
            0..6 => match self.random.take(&mut self.live) {
                Some(owned) => self.write(owned, Kind::Update),
                None => self.insert(),
            },
            6..10 => match self.random.take(&mut self.live) {
                Some(owned) => self.write(owned, Kind::Delete),
                None => self.insert(),
            },
            10 => match self.random.take(&mut self.live) {
                Some(owned) => self.read(owned),
                None => self.insert(),
            },
            _ => self.insert(),
        }
    }

    /// A key that was never there, or, one time in three, one that was deleted.
    fn insert(&mut self) {
        let again = if self.random.below(3) == 0 {
            self.random.take(&mut self.dead)
        } else {
            None
        };
        let owned = again.unwrap_or_else(|| {
            let (writer, number) = (self.number, self.revision);
            Owned {
                key: format!("new/{writer:03}/{number:09}").into(),
                document: format!(r#"{{"id":"new/{writer:03}/{number:09}","name":"Place {number} of writer {writer}"}}"#)
                    .into(),
            }
        });
        self.write(owned, Kind::Insert);
    }

    fn write(&mut self, owned: Owned, kind: Kind) {
        self.revision += 1;
        let value =
            (kind != Kind::Delete).then(|| revised(&owned.document, self.number, self.revision));
        let write = self.sender.clone().send(Op {
            key: owned.key.clone(),
            kind,
            value,
        });
        self.requests
            .spawn(async move { Request::Write(owned, write.await) });
    }

    fn read(&mut self, owned: Owned) {
        let read = self.sender.data.get_versioned(&owned.key);
        self.requests
            .spawn(async move { Request::Read(owned, read.await) });
    }

    async fn one_done(&mut self) -> Result<(), Failure> {
        let Some(done) = self.requests.join_next().await else {
            return Ok(());
        };
        match done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Request::Write(owned, ended) => self.written(owned, ended),
            Request::Read(owned, found) => self.read_back(owned, found),
        }
    }

    fn written(&mut self, owned: Owned, ended: Ended) -> Result<(), Failure> {
        let deleted = ended.op.kind == Kind::Delete;
        if self.wrote.note(ended)? {
            if deleted {
                &mut self.dead
            } else {
                &mut self.live
            }
            .push(owned);
        }
        Ok(())
    }

    /// The key is this writer's alone and nothing was in flight on it, so exactly one answer is right.
    fn read_back(
        &mut self,
        owned: Owned,
        found: Result<Option<(Bytes, Version)>, Error>,
    ) -> Result<(), Failure> {
        match found {
            Ok(found) => {
                let found = found
                    .as_ref()
                    .map(|(value, version)| (&value[..], *version));
                self.wrote.reads += 1;
                if self.wrote.oracle.judge(&owned.key, found) != Finding::Right {
                    self.wrote.stale_reads += 1;
                }
            }
            Err(error) if may_resend(error.retry()) => self.sender.tally.resend(),
            Err(error) => return Err(error.into()),
        }
        self.live.push(owned);
        Ok(())
    }
}

impl Wrote {
    /// Takes in how a write ended; false where its key must be left alone from now on.
    pub(super) fn note(&mut self, ended: Ended) -> Result<bool, Failure> {
        let Ended {
            op: Op { key, value, .. },
            outcome,
            period,
            time,
        } = ended;
        match outcome {
            Outcome::Acknowledged(version) => {
                self.latencies[period as usize].add(time);
                self.oracle.acknowledged(key, version, value.as_deref());
                Ok(true)
            }
            Outcome::Unknown => {
                self.oracle.unknown(key, value.as_deref());
                Ok(false)
            }
            Outcome::Failed(error) => Err(error.into()),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.oracle.merge(other.oracle);
        for (mine, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.merge(theirs);
        }
        self.reads += other.reads;
        self.stale_reads += other.stale_reads;
    }
}

/// A JSON object with two more fields at its end, so that no two revisions are the same bytes.
fn revised(document: &[u8], writer: u32, revision: u64) -> Bytes {
    let text = document.trim_ascii_end();
    let body = text.strip_suffix(b"}").unwrap_or(text);
    let comma = if body.trim_ascii_end().ends_with(b"{") {
        ""
    } else {
        ","
    };
    let mut value = body.to_vec();
    value.extend_from_slice(
        format!(r#"{comma}"writer":{writer},"revision":{revision}}}"#).as_bytes(),
    );
    value.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_still_a_json_object() {
        for (document, expected) in [
            (r#"{"id":"a"} "#, r#"{"id":"a","writer":2,"revision":9}"#),
            ("{}", r#"{"writer":2,"revision":9}"#),
        ] {
            assert_eq!(revised(document.as_bytes(), 2, 9), expected);
        }
    }
}

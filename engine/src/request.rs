//! Requests as a user builds them: set what matters, then `.wait()` on a thread, or `.await` in any async runtime.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_wal::{BlockedThread, Durability, Inline, ShardId, single_delete, single_put};

use crate::batch::{check_key, check_value};
use crate::brief;
use crate::link::BoxFuture;
use crate::node::Node;
use crate::shard::{Condition, Expected, WriteRequest};
use crate::store::Version;
use crate::{Batch, Error, shard_of, sync};

/// What is to be written.
#[derive(Debug)]
enum What {
    /// One operation, encoded where it was given, or why it can't be; with its key's hash.
    One(Result<(u64, Bytes), Error>),
    Batch(Batch),
}

/// A write that has not been sent: nothing happens until it is waited for.
///
/// It gives the version that the written keys have from now on. A future that is dropped leaves a write that never
/// happened or commits whole.
#[derive(Debug)]
#[must_use = "a write happens when it is waited for: call `.wait()` or `.await`"]
pub struct Write {
    node: Result<Node, Error>,
    what: What,
    shard: Option<ShardId>,
    durability: Durability,
    conditions: Vec<Condition>,
    deadline: Option<Duration>,
}

impl Write {
    fn new(node: Result<Node, Error>, what: What) -> Self {
        Self {
            node,
            what,
            shard: None,
            durability: Durability::Sync,
            conditions: Vec::new(),
            deadline: None,
        }
    }

    pub(crate) fn put(node: Result<Node, Error>, key: &[u8], value: &[u8]) -> Self {
        let checked = check_key(key).and_then(|()| check_value(value));
        Self::new(
            node,
            What::One(checked.map(|()| (shard_of::hash(key), single_put(key, value)))),
        )
    }

    pub(crate) fn delete(node: Result<Node, Error>, key: &[u8]) -> Self {
        let checked = check_key(key);
        Self::new(
            node,
            What::One(checked.map(|()| (shard_of::hash(key), single_delete(key)))),
        )
    }

    pub(crate) fn batch(node: Result<Node, Error>, batch: Batch) -> Self {
        Self::new(node, What::Batch(batch))
    }

    /// When it is acknowledged. Default [`Durability::Sync`]: when it survives power loss.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Writes to this shard, whatever the keys' hashes say. Read it back with the same shard named.
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Only if `key` has this version: nothing wrote or deleted it since.
    pub fn if_version(mut self, key: impl AsRef<[u8]>, version: Version) -> Self {
        self.conditions.push(Condition {
            key: Bytes::copy_from_slice(key.as_ref()),
            expected: Expected::Version(version),
        });
        self
    }

    /// Only if `key` has no value.
    pub fn if_absent(mut self, key: impl AsRef<[u8]>) -> Self {
        self.conditions.push(Condition {
            key: Bytes::copy_from_slice(key.as_ref()),
            expected: Expected::Absent,
        });
        self
    }

    /// How long it may wait to be taken, as during a cutover. What is not taken by then fails as not applied.
    /// Default: no limit here, and 10 seconds for an owner on another node that does not answer.
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Writes, and waits on this thread. A thread that is alone commits by itself.
    ///
    /// # Errors
    /// See [`Error::retry`] for what to do about each.
    pub fn wait(self) -> Result<Version, Error> {
        let node = self.node.clone()?;
        let durability = self.durability;
        let run = std::pin::pin!(self.run(Inline::Allowed));
        let _blocked = BlockedThread::enter();
        match durability {
            Durability::Buffered => brief::block_on(Entered::new(node, run)),
            _ => pollster::block_on(Entered::new(node, run)),
        }
    }

    async fn run(self, inline: Inline) -> Result<Version, Error> {
        let node = self.node?;
        let (shard, body) = encode(&node, self.what, self.shard)?;
        let request = WriteRequest {
            body,
            conditions: self.conditions,
            durability: self.durability,
            deadline: self.deadline.and_then(after),
            session: None,
        };
        for condition in &request.conditions {
            check_key(&condition.key)?;
            let of = node.shard_of(&condition.key);
            if self.shard.is_none() && of != shard {
                return Err(Error::CrossShard {
                    first: shard,
                    other: of,
                });
            }
        }
        node.write(shard, &request, inline).await
    }
}

/// The moment `within` from now; `None` where it is beyond what a clock can tell, and so no limit.
fn after(within: Duration) -> Option<Instant> {
    Instant::now().checked_add(within)
}

fn encode(node: &Node, what: What, named: Option<ShardId>) -> Result<(ShardId, Bytes), Error> {
    match what {
        What::One(encoded) => {
            let (hash, body) = encoded?;
            let shard = named.unwrap_or_else(|| shard_of::shard_of(hash, node.shards));
            Ok((shard, body))
        }
        What::Batch(batch) => batch.finish(named, node.shards),
    }
}

impl IntoFuture for Write {
    type Output = Result<Version, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        match self.node.clone() {
            // An asynchronous caller's thread has other work: the log's own thread commits.
            Ok(node) => entered(&node, self.run(Inline::Never)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

type Shape<T> = fn(Vec<Option<(Bytes, Version)>>) -> T;

/// A read that has not been sent: nothing happens until it is waited for.
#[derive(Debug)]
#[must_use = "a read happens when it is waited for: call `.wait()` or `.await`"]
pub struct Read<T> {
    node: Result<Node, Error>,
    keys: Vec<Bytes>,
    shard: Option<ShardId>,
    deadline: Option<Duration>,
    shape: Shape<T>,
}

impl<T: Send + 'static> Read<T> {
    pub(crate) fn new(
        node: Result<Node, Error>,
        shard: Option<ShardId>,
        keys: Vec<Bytes>,
        shape: Shape<T>,
    ) -> Self {
        Self {
            node,
            keys,
            shard,
            deadline: None,
            shape,
        }
    }

    /// Reads from this shard, whatever the keys' hashes say.
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    /// How long it may wait to be answered, as during a cutover.
    pub fn deadline(mut self, within: Duration) -> Self {
        self.deadline = Some(within);
        self
    }

    /// Reads on this thread.
    ///
    /// # Errors
    /// See [`Error::retry`] for what to do about each.
    pub fn wait(self) -> Result<T, Error> {
        let node = self.node.clone()?;
        let run = std::pin::pin!(self.run(true));
        pollster::block_on(Entered::new(node, run))
    }

    async fn run(self, on_this_thread: bool) -> Result<T, Error> {
        let node = self.node?;
        for key in &self.keys {
            check_key(key)?;
        }
        let deadline = self.deadline.and_then(after);
        let groups = group_by_shard(&node, &self.keys, self.shard);
        let mut found = vec![None; self.keys.len()];
        for (shard, places) in groups {
            let keys = places
                .iter()
                .map(|place| self.keys[*place].clone())
                .collect();
            let values = node.get(shard, keys, deadline, on_this_thread).await?;
            for (place, value) in places.into_iter().zip(values) {
                found[place] = value;
            }
        }
        Ok((self.shape)(found))
    }
}

/// The keys' places, shard by shard, in order of the shards' first keys.
fn group_by_shard(
    node: &Node,
    keys: &[Bytes],
    named: Option<ShardId>,
) -> Vec<(ShardId, Vec<usize>)> {
    let mut groups: Vec<(ShardId, Vec<usize>)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for (place, key) in keys.iter().enumerate() {
        let shard = named.unwrap_or_else(|| node.shard_of(key));
        let group = *known.entry(shard).or_insert_with(|| {
            groups.push((shard, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(place);
    }
    groups
}

impl<T: Send + 'static> IntoFuture for Read<T> {
    type Output = Result<T, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        match self.node.clone() {
            Ok(node) => entered(&node, self.run(false)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// A request's future: it finds the engine's timers wherever it is polled, so that callers need no runtime of their
/// own, and ends with [`Error::Closed`] once the engine has none.
pub(crate) struct Entered<F> {
    node: Node,
    future: F,
}

impl<F> Entered<F> {
    pub(crate) fn new(node: Node, future: F) -> Self {
        node.requests.fetch_add(1, Ordering::AcqRel);
        Self { node, future }
    }
}

impl<F> Drop for Entered<F> {
    fn drop(&mut self) {
        self.node.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T, F: Future<Output = Result<T, Error>> + Unpin> Future for Entered<F> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Held while polling: closing waits for it before it ends the timers that the future may use.
        let alive = sync::read(&this.node.alive);
        if !*alive {
            return Poll::Ready(Err(Error::Closed));
        }
        let _entered = this.node.runtime.enter();
        Pin::new(&mut this.future).poll(context)
    }
}

pub(crate) fn entered<T: 'static>(
    node: &Node,
    future: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(Entered::new(node.clone(), Box::pin(future)))
}

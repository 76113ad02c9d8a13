//! Requests as a user builds them: set what matters, then `.wait()` on a thread, or `.await` in any async runtime.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_wal::{BlockedThread, Durability, Inline, ShardId, single_delete, single_put};

use crate::backend::Backend;
use crate::batch::{check_key, check_value};
use crate::brief;
use crate::link::BoxFuture;
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
    on: Result<Backend, Error>,
    what: What,
    shard: Option<ShardId>,
    durability: Durability,
    conditions: Vec<Condition>,
    deadline: Option<Duration>,
}

impl Write {
    fn new(on: Result<Backend, Error>, what: What) -> Self {
        Self {
            on,
            what,
            shard: None,
            durability: Durability::Sync,
            conditions: Vec::new(),
            deadline: None,
        }
    }

    pub(crate) fn put(on: Result<Backend, Error>, key: &[u8], value: &[u8]) -> Self {
        let checked = check_key(key).and_then(|()| check_value(value));
        Self::new(
            on,
            What::One(checked.map(|()| (shard_of::hash(key), single_put(key, value)))),
        )
    }

    pub(crate) fn delete(on: Result<Backend, Error>, key: &[u8]) -> Self {
        let checked = check_key(key);
        Self::new(
            on,
            What::One(checked.map(|()| (shard_of::hash(key), single_delete(key)))),
        )
    }

    pub(crate) fn batch(on: Result<Backend, Error>, batch: Batch) -> Self {
        Self::new(on, What::Batch(batch))
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
        let on = self.on.clone()?;
        let durability = self.durability;
        let run = std::pin::pin!(self.run(Inline::Allowed));
        let _blocked = BlockedThread::enter();
        match durability {
            Durability::Buffered => brief::block_on(Entered::new(on, run)),
            _ => pollster::block_on(Entered::new(on, run)),
        }
    }

    async fn run(self, inline: Inline) -> Result<Version, Error> {
        let on = self.on?;
        let (shard, body) = encode(&on, self.what, self.shard)?;
        let request = WriteRequest {
            body,
            conditions: self.conditions,
            durability: self.durability,
            deadline: self.deadline.and_then(after),
            session: None,
        };
        for condition in &request.conditions {
            check_key(&condition.key)?;
            let of = on.shard_of(&condition.key);
            if self.shard.is_none() && of != shard {
                return Err(Error::CrossShard {
                    first: shard,
                    other: of,
                });
            }
        }
        on.write(shard, &request, inline).await
    }
}

/// The moment `within` from now; `None` where it is beyond what a clock can tell, and so no limit.
fn after(within: Duration) -> Option<Instant> {
    Instant::now().checked_add(within)
}

fn encode(on: &Backend, what: What, named: Option<ShardId>) -> Result<(ShardId, Bytes), Error> {
    match what {
        What::One(encoded) => {
            let (hash, body) = encoded?;
            let shard = named.unwrap_or_else(|| shard_of::shard_of(hash, on.shards()));
            Ok((shard, body))
        }
        What::Batch(batch) => batch.finish(named, on.shards()),
    }
}

impl IntoFuture for Write {
    type Output = Result<Version, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        match self.on.clone() {
            // An asynchronous caller's thread has other work: the log's own thread commits.
            Ok(on) => entered(&on, self.run(Inline::Never)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

type Shape<T> = fn(Vec<Option<(Bytes, Version)>>) -> T;

/// A read that has not been sent: nothing happens until it is waited for.
#[derive(Debug)]
#[must_use = "a read happens when it is waited for: call `.wait()` or `.await`"]
pub struct Read<T> {
    on: Result<Backend, Error>,
    keys: Vec<Bytes>,
    shard: Option<ShardId>,
    deadline: Option<Duration>,
    shape: Shape<T>,
}

impl Read<Option<Bytes>> {
    pub(crate) fn value(on: Result<Backend, Error>, key: &[u8]) -> Self {
        Self::new(on, vec![Bytes::copy_from_slice(key)], |mut found| {
            found.pop().flatten().map(|(value, _)| value)
        })
    }
}

impl Read<Option<(Bytes, Version)>> {
    pub(crate) fn versioned(on: Result<Backend, Error>, key: &[u8]) -> Self {
        Self::new(on, vec![Bytes::copy_from_slice(key)], |mut found| {
            found.pop().flatten()
        })
    }
}

impl Read<Vec<Option<(Bytes, Version)>>> {
    pub(crate) fn several(
        on: Result<Backend, Error>,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Self {
        let copy = |key: &[u8]| Bytes::copy_from_slice(key);
        let keys = keys.into_iter().map(|key| copy(key.as_ref()));
        Self::new(on, keys.collect(), |found| found)
    }
}

impl<T: Send + 'static> Read<T> {
    fn new(on: Result<Backend, Error>, keys: Vec<Bytes>, shape: Shape<T>) -> Self {
        Self {
            on,
            keys,
            shard: None,
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
        let on = self.on.clone()?;
        let run = std::pin::pin!(self.run(true));
        pollster::block_on(Entered::new(on, run))
    }

    async fn run(self, on_this_thread: bool) -> Result<T, Error> {
        let on = self.on?;
        for key in &self.keys {
            check_key(key)?;
        }
        let deadline = self.deadline.and_then(after);
        let groups = group_by_shard(&on, &self.keys, self.shard);
        let mut found = vec![None; self.keys.len()];
        let keys_of = |places: &[usize]| {
            let keys = places.iter().map(|place| self.keys[*place].clone());
            keys.collect::<Vec<_>>()
        };
        let mut asked = Vec::new();
        if on.is_remote() && groups.len() > 1 {
            // Each shard is a call of its own: they go out together.
            for (shard, places) in groups {
                let (on, keys) = (on.clone(), keys_of(&places));
                let task = on
                    .runtime()
                    .clone()
                    .spawn(async move { on.get(shard, keys, deadline, false).await });
                asked.push((places, task));
            }
            for (places, task) in asked {
                let values = task.await.unwrap_or(Err(Error::Closed))?;
                for (place, value) in places.into_iter().zip(values) {
                    found[place] = value;
                }
            }
            return Ok((self.shape)(found));
        }
        for (shard, places) in groups {
            let keys = keys_of(&places);
            let values = on.get(shard, keys, deadline, on_this_thread).await?;
            for (place, value) in places.into_iter().zip(values) {
                found[place] = value;
            }
        }
        Ok((self.shape)(found))
    }
}

/// The keys' places, shard by shard, in order of the shards' first keys.
fn group_by_shard(
    on: &Backend,
    keys: &[Bytes],
    named: Option<ShardId>,
) -> Vec<(ShardId, Vec<usize>)> {
    let mut groups: Vec<(ShardId, Vec<usize>)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for (place, key) in keys.iter().enumerate() {
        let shard = named.unwrap_or_else(|| on.shard_of(key));
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
        match self.on.clone() {
            Ok(on) => entered(&on, self.run(false)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// A request's future: it finds the engine's timers wherever it is polled, so that callers need no runtime of their
/// own, and ends with [`Error::Closed`] once the engine has none.
pub(crate) struct Entered<F> {
    on: Backend,
    future: F,
}

impl<F> Entered<F> {
    pub(crate) fn new(on: impl Into<Backend>, future: F) -> Self {
        let on = on.into();
        on.requests().fetch_add(1, Ordering::AcqRel);
        Self { on, future }
    }
}

impl<F> Drop for Entered<F> {
    fn drop(&mut self) {
        self.on.requests().fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T, F: Future<Output = Result<T, Error>> + Unpin> Future for Entered<F> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Held while polling: closing waits for it before it ends the timers that the future may use.
        let alive = sync::read(this.on.alive());
        if !*alive {
            return Poll::Ready(Err(Error::Closed));
        }
        let _entered = this.on.runtime().enter();
        Pin::new(&mut this.future).poll(context)
    }
}

pub(crate) fn entered<T: 'static>(
    on: &Backend,
    future: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(Entered::new(on.clone(), Box::pin(future)))
}

//! Snapshots and scans as a user holds them: owned, `Send`, without a lifetime.
//!
//! A scan reads pages and holds nothing of RocksDB between them but its snapshots. Pages start small, so that a scan
//! of a few entries stays cheap, and grow.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use watershed_migration::messages::{ScanBound, ScanRequest};
use watershed_wal::{Seq, ShardId};

use crate::Error;
use crate::backend::Backend;
use crate::engine::apart;
use crate::node::Node;
use crate::request::Entered;
use crate::store::{Entry, ScanOptions, Shown, Store, StoreSnapshot, Version};

const FIRST_PAGE: usize = 32;
const LARGEST_PAGE: usize = 1024;
const PAGE_BYTES: usize = 1 << 20;

/// A consistent view of one shard at one Seq. It is taken back, and then answers [`Error::SnapshotExpired`], when the
/// engine closes or the shard's copy goes away.
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: StoreSnapshot,
}

impl Snapshot {
    pub(crate) fn take(node: &Node, shard: ShardId) -> Result<Self, Error> {
        let taking = take_snapshot(node, shard, true);
        let inner = pollster::block_on(Entered::new(node.clone(), std::pin::pin!(taking)))?;
        match inner {
            Some(inner) => Ok(Self { inner }),
            None => {
                let record = apart(|| node.runtime.block_on(node.placement.read(shard)))?;
                let record = record.ok_or(Error::NoShard { shard })?;
                Err(Error::Moved {
                    shard,
                    owner: record.owner,
                    epoch: record.epoch,
                })
            }
        }
    }

    /// The Seq it shows: all writes up to it, none after.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.inner.applied().seq
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error::SnapshotExpired`], and what RocksDB says.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self.inner.get(key.as_ref())?.map(|(value, _)| value))
    }

    /// The value of `key` with its version.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Bytes, Version)>, Error> {
        Ok(self.inner.get(key.as_ref())?)
    }

    /// Several keys, in their order.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn multi_get(
        &self,
        keys: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Option<(Bytes, Version)>>, Error> {
        Ok(self.inner.multi_get(keys)?)
    }

    /// Its entries in key order.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan {
            on: None,
            left: options.entries_limit().unwrap_or(u64::MAX),
            options,
            sources: Some(vec![Source::new(From::Snapshot(self.inner.clone()))]),
            plan: Plan::Given,
            heads: BTreeMap::new(),
            without_head: vec![0],
            failed: None,
        }
    }
}

/// The shard's store at one Seq, `None` where another node owns it.
async fn take_snapshot(
    node: &Node,
    shard: ShardId,
    on_this_thread: bool,
) -> Result<Option<StoreSnapshot>, Error> {
    let take = |store: &Store| {
        let snapshot = store.snapshot()?;
        let seq = snapshot.applied().seq;
        Ok(Shown {
            value: snapshot,
            seq,
        })
    };
    match node.local_read(shard, None, on_this_thread, take).await? {
        crate::node::Local::Done(snapshot) => Ok(Some(snapshot)),
        crate::node::Local::Elsewhere { .. } => Ok(None),
    }
}

/// Where a source's pages come from.
#[derive(Debug)]
enum From {
    Snapshot(StoreSnapshot),
    Node(ShardId),
}

/// One shard's part of a scan.
#[derive(Debug)]
struct Source {
    from: From,
    ready: VecDeque<Entry>,
    cursor: Option<Bytes>,
    last_key: Option<Bytes>,
    page: usize,
    done: bool,
}

impl Source {
    fn new(from: From) -> Self {
        Self {
            from,
            ready: VecDeque::new(),
            cursor: None,
            last_key: None,
            page: FIRST_PAGE,
            done: false,
        }
    }

    async fn fill(
        &mut self,
        on: Option<&Backend>,
        options: &ScanOptions,
        on_this_thread: bool,
    ) -> Result<(), Error> {
        let page = self.page;
        match &self.from {
            From::Snapshot(snapshot) => {
                let (snapshot, range, cursor) =
                    (snapshot.clone(), options.range(), self.cursor.clone());
                let read = move || snapshot.page(&range, cursor.as_deref(), page, PAGE_BYTES);
                let found = match on {
                    Some(on) if !on_this_thread => on
                        .runtime()
                        .spawn_blocking(read)
                        .await
                        .map_err(|_| Error::Closed)??,
                    _ => read()?,
                };
                self.done = found.cursor.is_none();
                self.cursor = found.cursor;
                self.ready.extend(found.entries);
            }
            From::Node(shard) => {
                let on = on.ok_or(Error::Closed)?;
                let scan = self.request(options, page);
                let (entries, done) = on.remote_page(*shard, scan).await?;
                self.done = done;
                self.last_key = entries
                    .last()
                    .map(|entry| entry.key.clone())
                    .or(self.last_key.take());
                self.ready.extend(entries);
            }
        }
        self.page = (page * 4).min(LARGEST_PAGE);
        Ok(())
    }

    /// The next page's request: after the last key seen.
    fn request(&self, options: &ScanOptions, page: usize) -> ScanRequest {
        let (mut from, mut to) = options.bounds();
        if let Some(last) = &self.last_key {
            let end = if options.is_reverse() {
                &mut to
            } else {
                &mut from
            };
            *end = Bound::Excluded(last.clone());
        }
        let wire = |bound| match bound {
            Bound::Unbounded => ScanBound::Open,
            Bound::Included(key) => ScanBound::Included(key),
            Bound::Excluded(key) => ScanBound::Excluded(key),
        };
        ScanRequest {
            from: wire(from),
            to: wire(to),
            reverse: options.is_reverse(),
            limit: u32::try_from(page).unwrap_or(u32::MAX),
            max_bytes: u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX),
        }
    }
}

/// A scan: an iterator that reads on this thread, or [`Scan::next_entry`] in async code.
///
/// It ends after its first error.
#[derive(Debug)]
pub struct Scan {
    on: Option<Backend>,
    options: ScanOptions,
    /// `None` until the first entry is asked for.
    sources: Option<Vec<Source>>,
    plan: Plan,
    /// The next entry of each source that has one.
    heads: BTreeMap<(Bytes, usize), Entry>,
    /// The sources whose next entry is not known.
    without_head: Vec<usize>,
    left: u64,
    failed: Option<Error>,
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    All,
    One(ShardId),
    Given,
}

impl Scan {
    pub(crate) fn of_all(on: Result<Backend, Error>, options: ScanOptions) -> Self {
        Self::planned(on, Plan::All, options)
    }

    pub(crate) fn of_one(on: Result<Backend, Error>, shard: ShardId, options: ScanOptions) -> Self {
        Self::planned(on, Plan::One(shard), options)
    }

    fn planned(on: Result<Backend, Error>, plan: Plan, options: ScanOptions) -> Self {
        let (on, failed) = match on {
            Ok(on) => (Some(on), None),
            Err(error) => (None, Some(error)),
        };
        Self {
            on,
            left: options.entries_limit().unwrap_or(u64::MAX),
            options,
            sources: None,
            plan,
            heads: BTreeMap::new(),
            without_head: Vec::new(),
            failed,
        }
    }

    /// The next entry, for async code; `None` at the end.
    pub async fn next_entry(&mut self) -> Option<Result<Entry, Error>> {
        if self.is_over() {
            return None;
        }
        let found = match self.on.clone() {
            Some(on) => Entered::new(on, Box::pin(self.step(false))).await,
            None => self.step(false).await,
        };
        self.count(found)
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.failed.is_none()
    }

    /// Counts what was found; nothing comes behind the end, or an error, whoever gave it.
    fn count(&mut self, found: Result<Option<Entry>, Error>) -> Option<Result<Entry, Error>> {
        match &found {
            Ok(Some(_)) => self.left = self.left.saturating_sub(1),
            _ => {
                self.left = 0;
                self.failed = None;
            }
        }
        found.transpose()
    }

    async fn step(&mut self, on_this_thread: bool) -> Result<Option<Entry>, Error> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.advance(on_this_thread).await,
        }
    }

    /// A caller may drop this at any await and ask again: an entry leaves where no await follows, and what a source was
    /// asked for is kept only once it is there.
    async fn advance(&mut self, on_this_thread: bool) -> Result<Option<Entry>, Error> {
        if self.sources.is_none() {
            let sources = self.find_sources(on_this_thread).await?;
            self.without_head = (0..sources.len()).collect();
            self.sources = Some(sources);
        }
        let sources = self.sources.as_deref_mut().unwrap_or_default();
        while let Some(&place) = self.without_head.last() {
            if let Some(source) = sources.get_mut(place) {
                let on = self.on.as_ref();
                let head = next_of(source, on, &self.options, on_this_thread).await?;
                if let Some(entry) = head {
                    self.heads.insert((entry.key.clone(), place), entry);
                }
            }
            self.without_head.pop();
        }
        let next = if self.options.is_reverse() {
            self.heads.pop_last()
        } else {
            self.heads.pop_first()
        };
        Ok(next.map(|((_, place), entry)| {
            self.without_head.push(place);
            entry
        }))
    }

    async fn find_sources(&self, on_this_thread: bool) -> Result<Vec<Source>, Error> {
        let on = self.on.as_ref().ok_or(Error::Closed)?;
        let shards = match self.plan {
            Plan::All => on.all_shards().await?,
            Plan::One(shard) => vec![shard],
            Plan::Given => Vec::new(),
        };
        let mut sources = Vec::with_capacity(shards.len());
        for shard in shards {
            let here = match on {
                Backend::Node(node) => take_snapshot(node, shard, on_this_thread).await?,
                #[cfg(feature = "net")]
                Backend::Remote(_) => None,
            };
            let from = here.map_or(From::Node(shard), From::Snapshot);
            sources.push(Source::new(from));
        }
        Ok(sources)
    }
}

async fn next_of(
    source: &mut Source,
    on: Option<&Backend>,
    options: &ScanOptions,
    on_this_thread: bool,
) -> Result<Option<Entry>, Error> {
    while source.ready.is_empty() && !source.done {
        source.fill(on, options, on_this_thread).await?;
    }
    Ok(source.ready.pop_front())
}

impl Iterator for Scan {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over() {
            return None;
        }
        let found = match self.on.clone() {
            Some(on) => {
                let step = std::pin::pin!(self.step(true));
                pollster::block_on(Entered::new(on, step))
            }
            None => pollster::block_on(self.step(true)),
        };
        self.count(found)
    }
}

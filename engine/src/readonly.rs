//! An engine opened for reading only, also while another process has it open: nothing is locked, nothing is written.
//!
//! What a store has not flushed is read from the log into an overlay, which is as large as what is unflushed and so
//! bounded by the log's limit. What is shown is one moment for each shard, at opening; a later one needs another
//! opening.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use watershed_migration::{NodeId, PlacementRecord};
use watershed_wal::{
    BatchReader, DirStorage, InstanceView, LogStatus, LogView, Op, Record, RecordKind, SeqRange,
    ShardId, VerifyReport,
};

use crate::Error;
use crate::datadir::DataDir;
use crate::placement::{ClusterInfo, FilePlacement, PlacementError, SeenBefore};
use crate::shard_of::{hash, shard_of};
use crate::status::{EngineStatus, ShardRole, ShardStatus};
use crate::store::{
    Entry, INTERNAL_KEYSPACE, ScanOptions, Store, StoreEnv, StoreLimits, StoreSnapshot,
    USER_KEYSPACE, Version,
};

/// What is unflushed of a key: a value, or its deletion.
type Unflushed = BTreeMap<Bytes, (Version, Option<Bytes>)>;

/// How often what a node has seen and its placement are read until they fit together.
const READ_ATTEMPTS: u32 = 5;

/// An engine's directory, open for reading.
#[derive(Debug)]
pub struct ReadOnly {
    node: NodeId,
    dir: PathBuf,
    shards: u64,
    report: VerifyReport,
    copies: Vec<Copy>,
}

/// One copy of a shard.
#[derive(Debug)]
struct Copy {
    view: InstanceView,
    role: ShardRole,
    store: Store,
    snapshot: StoreSnapshot,
    overlay: Unflushed,
    applied: watershed_wal::Seq,
}

impl ReadOnly {
    pub(crate) fn open(limits: &StoreLimits, dir: &Path) -> Result<Self, Error> {
        let data = DataDir::look(dir)?;
        let wal = data.wal();
        let log_error = |source| Error::LogOpen {
            dir: wal.clone(),
            source: Arc::new(source),
        };
        let storage =
            DirStorage::read_only(&wal).map_err(|error| Error::io("open", &wal, error))?;
        let env = StoreEnv::new(limits)?;
        let (view, report) = LogView::open(Arc::new(storage)).map_err(log_error)?;
        let (cluster, records) = read_placement(&data)?;
        let mut copies = Vec::new();
        for instance in view.instances() {
            let Some(role) = role_of(&records, data.node(), &instance) else {
                continue;
            };
            let place = data.shard(instance.shard, instance.id);
            if !place.is_dir() {
                continue;
            }
            copies.push(open_copy(&env, &place, &view, instance, role)?);
        }
        copies.sort_by_key(|copy| (copy.view.shard, copy.view.id));
        Ok(Self {
            node: data.node().clone(),
            dir: dir.into(),
            shards: cluster.shards,
            report,
            copies,
        })
    }

    fn owned(&self, shard: ShardId) -> Result<&Copy, Error> {
        let owned = |copy: &&Copy| copy.view.shard == shard && copy.role == ShardRole::Owner;
        self.copies
            .iter()
            .find(owned)
            .ok_or_else(|| Error::Options {
                what: format!(
                    "shard {shard} is not owned by node {} in {}: read it where its owner is",
                    self.node,
                    self.dir.display()
                ),
            })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When this directory's node does not own the key's shard, and what RocksDB says.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        Ok(self.get_versioned(key)?.map(|(value, _)| value))
    }

    /// The value of `key` with its version.
    ///
    /// # Errors
    /// As [`ReadOnly::get`].
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Bytes, Version)>, Error> {
        let key = key.as_ref();
        crate::batch::check_key(key)?;
        let copy = self.owned(shard_of(hash(key), self.shards))?;
        match copy.overlay.get(key) {
            Some((version, value)) => Ok(value.clone().map(|value| (value, *version))),
            None => Ok(copy.snapshot.get(key)?),
        }
    }

    /// The entries of all owned shards in key order.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn scan(
        &self,
        options: ScanOptions,
    ) -> Result<impl Iterator<Item = Result<Entry, Error>>, Error> {
        // Small pages of each copy, merged: nothing is held but a page of each.
        let limit = options.entries_limit().unwrap_or(u64::MAX);
        let owned = self
            .copies
            .iter()
            .filter(|copy| copy.role == ShardRole::Owner);
        let mut sources: Vec<_> = owned.map(|copy| Merged::new(copy, &options)).collect();
        let reverse = options.is_reverse();
        let mut heads = Vec::new();
        for source in &mut sources {
            heads.push(source.next().transpose()?);
        }
        let mut left = limit;
        Ok(std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let found = heads
                .iter()
                .enumerate()
                .filter_map(|(at, head)| Some((at, &head.as_ref()?.key)));
            let best = if reverse {
                found.max_by(|a, b| a.1.cmp(b.1))
            } else {
                found.min_by(|a, b| a.1.cmp(b.1))
            };
            let (at, _) = best?;
            match sources[at].next().transpose() {
                Ok(next) => std::mem::replace(&mut heads[at], next).map(Ok),
                Err(error) => {
                    left = 0;
                    Some(Err(error))
                }
            }
        }))
    }

    /// The shards and the log as they were at opening.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn status(&self) -> Result<EngineStatus, Error> {
        let shards: Result<Vec<_>, Error> = self.copies.iter().map(Copy::status).collect();
        let mut log = LogStatus::default();
        log.segments = self.report.segments;
        log.bytes = self.report.bytes;
        log.frames = self.report.frames;
        log.records = self.report.records;
        log.holds = self
            .copies
            .iter()
            .flat_map(|copy| copy.view.holds.clone())
            .collect();
        Ok(EngineStatus {
            node: self.node.clone(),
            cache_bytes: 0,
            memtable_bytes: 0,
            log,
            shards: shards?,
            migrations: Vec::new(),
            migration_counts: Default::default(),
            stale_epochs: 0,
        })
    }
}

/// The placement in the directory itself, or the one beside it that the engines of a [`crate::LocalCluster`] share.
fn read_placement(data: &DataDir) -> Result<(ClusterInfo, Vec<PlacementRecord>), Error> {
    let own = data.placement();
    let dir = match data.root().parent() {
        Some(parent) if !own.is_dir() && parent.join("placement").is_dir() => {
            parent.join("placement")
        }
        _ => own,
    };
    let mut attempts_left = READ_ATTEMPTS;
    let (cluster, records) = loop {
        let seen = SeenBefore::read(&data.seen())?;
        let (cluster, records) = FilePlacement::read_dir(&dir)?;
        attempts_left -= 1;
        match seen.admit(&records) {
            Ok(()) => break (cluster, records),
            // An engine may have dropped the shard between the two looks; the next two are of after that.
            Err(PlacementError::WentBack { found: None, .. }) if attempts_left > 0 => {}
            Err(error) => return Err(error.into()),
        }
    };
    let cluster = cluster.ok_or_else(|| Error::NotADataDirectory {
        dir: data.root().into(),
        reason: "its cluster has not been made yet: open it for writing once".into(),
    })?;
    Ok((cluster, records))
}

fn role_of(
    records: &[PlacementRecord],
    node: &NodeId,
    instance: &InstanceView,
) -> Option<ShardRole> {
    let record = records
        .iter()
        .find(|record| record.shard == instance.shard)?;
    if record.is_owned_by(node, instance.id) {
        return Some(ShardRole::Owner);
    }
    let frozen = record.frozen.as_ref();
    Some(
        if frozen.is_some_and(|frozen| frozen.instance == instance.id) {
            ShardRole::Frozen
        } else {
            ShardRole::Receiver
        },
    )
}

fn open_copy(
    env: &StoreEnv,
    dir: &Path,
    log: &LogView,
    view: InstanceView,
    role: ShardRole,
) -> Result<Copy, Error> {
    let store = Store::open_read_only(env, dir)?;
    let snapshot = store.snapshot()?;
    let mut applied = snapshot.applied().seq;
    let mut overlay = Unflushed::new();
    if let Some(range) = SeqRange::after(applied, view.has.contiguous_after(applied)) {
        for record in log.read(view.id, range) {
            let record = record?;
            lay_over(&mut overlay, &record, view.shard)?;
            applied = record.seq();
        }
    }
    Ok(Copy {
        view,
        role,
        store,
        snapshot,
        overlay,
        applied,
    })
}

fn lay_over(overlay: &mut Unflushed, record: &Record, shard: ShardId) -> Result<(), Error> {
    if record.kind() != RecordKind::Batch {
        return Ok(());
    }
    let version = Version {
        term: record.term(),
        seq: record.seq(),
    };
    let damaged = |error| Error::inconsistent(shard, format!("record {}: {error}", record.seq()));
    for op in BatchReader::new(record.body().clone()).map_err(damaged)? {
        match op.map_err(damaged)? {
            Op::Put {
                keyspace: USER_KEYSPACE,
                key,
                value,
                ..
            } => overlay.insert(key, (version, Some(value))),
            Op::Delete {
                keyspace: USER_KEYSPACE,
                key,
                ..
            } => overlay.insert(key, (version, None)),
            // What the engine keeps for itself is shown to nobody.
            Op::Put {
                keyspace: INTERNAL_KEYSPACE,
                ..
            } => None,
            _ => {
                return Err(Error::inconsistent(
                    shard,
                    "an operation of a newer version: use that version",
                ));
            }
        };
    }
    Ok(())
}

impl Copy {
    fn status(&self) -> Result<ShardStatus, Error> {
        let stats = self.store.stats()?;
        let end = self.view.has.max().unwrap_or(self.view.base);
        let term = self.view.terms.last().map(|start| start.term);
        Ok(ShardStatus {
            shard: self.view.shard,
            instance: self.view.id,
            role: self.role,
            epoch: term.map(|term| term.epoch).unwrap_or_default(),
            term,
            assigned: end,
            durable: self.view.has.contiguous_after(self.view.base),
            applied: self.applied,
            flushed: self.snapshot.applied().seq,
            keys_estimate: stats.keys_estimate,
            bytes: stats.sst_bytes,
            holds: self.view.holds.clone(),
            store_error: None,
            parked: 0,
            parked_longest_ms: 0,
            writes: 0,
        })
    }
}

/// An overlay's entry.
type Over<'a> = (&'a Bytes, &'a (Version, Option<Bytes>));

/// A copy's store and overlay, merged in key order.
struct Merged<'a> {
    copy: &'a Copy,
    range: crate::store::ScanRange,
    reverse: bool,
    /// The overlay's keys in the range, in the scan's order.
    over: Box<dyn Iterator<Item = Over<'a>> + 'a>,
    next_over: Option<Over<'a>>,
    ready: std::collections::VecDeque<Entry>,
    cursor: Option<Bytes>,
    done: bool,
}

const PAGE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

impl<'a> Merged<'a> {
    fn new(copy: &'a Copy, options: &ScanOptions) -> Self {
        let bounds = options.bounds();
        let reverse = options.is_reverse();
        let within = if is_empty(&bounds) {
            None
        } else {
            Some(copy.overlay.range::<Bytes, _>(bounds))
        };
        let within = within.into_iter().flatten();
        let mut over: Box<dyn Iterator<Item = _> + 'a> = if reverse {
            Box::new(within.collect::<Vec<_>>().into_iter().rev())
        } else {
            Box::new(within)
        };
        Self {
            copy,
            range: options.range(),
            reverse,
            next_over: over.next(),
            over,
            ready: Default::default(),
            cursor: None,
            done: false,
        }
    }

    fn fill(&mut self) -> Result<(), Error> {
        while self.ready.is_empty() && !self.done {
            let cursor = self.cursor.take();
            let page = self
                .copy
                .snapshot
                .page(&self.range, cursor.as_deref(), PAGE, PAGE_BYTES)?;
            self.done = page.cursor.is_none();
            self.cursor = page.cursor;
            self.ready.extend(page.entries);
        }
        Ok(())
    }
}

/// What `BTreeMap::range` would panic at.
fn is_empty((from, to): &(std::ops::Bound<Bytes>, std::ops::Bound<Bytes>)) -> bool {
    use std::ops::Bound::{Excluded, Included};
    match (from, to) {
        (Included(from), Included(to)) => from > to,
        (Included(from) | Excluded(from), Included(to) | Excluded(to)) => from >= to,
        _ => false,
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(error) = self.fill() {
                return Some(Err(error));
            }
            let stored = self.ready.front().map(|entry| &entry.key);
            let over = self.next_over.map(|(key, _)| key);
            let take_over = match (stored, over) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(stored), Some(over)) if self.reverse => over >= stored,
                (Some(stored), Some(over)) => over <= stored,
            };
            if !take_over {
                return self.ready.pop_front().map(Ok);
            }
            if stored == over {
                self.ready.pop_front();
            }
            let (key, (version, value)) = self.next_over.take()?;
            self.next_over = self.over.next();
            if let Some(value) = value {
                return Some(Ok(Entry {
                    key: key.clone(),
                    value: value.clone(),
                    version: *version,
                }));
            }
        }
    }
}

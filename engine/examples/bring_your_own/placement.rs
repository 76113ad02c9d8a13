//! A placement of one's own: a table in memory, behind a mutex, that is kept in one file.
//!
//! What [`Placement`] asks of an implementation, and where it is done here:
//!
//! - *A swap counts only if the record is still the expected one.* Changes are made one after the other, each on a copy
//!   of the table ([`TablePlacement::change`]).
//! - *It is durable before anybody can read it.* The copy is written to a new file, synced and renamed before it becomes
//!   the table that readers see. A database, or a service like etcd, does the same with a transaction.
//! - *Revisions and epochs only grow, also across removing and creating.* What a removed shard had last is kept
//!   ([`Removed`]), and a new record of it goes on from there.
//! - *Whoever can't tell whether a change is durable refuses to be read.* A failed rename decides nothing: the table
//!   becomes an error. Opening the file again tells.
//! - *A future dropped after it was polled leaves a change that happens whole or not at all.* Nothing is awaited in the
//!   middle of one. It syncs on the caller's thread, which is short here; where it is not, give it a thread of its own.
//! - *Who is alive is not durable* and renewing it writes nothing. A thread ends the lives of members that were not
//!   heard of, for that is a change that [`Placement::watch`] has to tell.
//!
//! The engines of one process share it through an `Arc`. Nothing keeps a second process from the same file: a placement
//! for several processes needs a lock, as `FilePlacement` has, or a server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use watershed::migration::balance::Goal;
use watershed::migration::{PlacementRecord, Revision};
use watershed::{BoxFuture, ClusterInfo, Epoch, Member, NodeId, NodeInfo};
use watershed::{Placement, PlacementError, ShardId};

/// How long members count as alive when the placement is opened, until they are heard of: its restart kills nobody.
const AFTER_OPENING: Duration = Duration::from_secs(10);
/// Nobody means to be thought alive for longer without a word.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Table {
    cluster: Option<ClusterInfo>,
    records: BTreeMap<ShardId, PlacementRecord>,
    removed: BTreeMap<ShardId, Removed>,
    members: BTreeMap<NodeId, Joined>,
}

/// The last that a removed shard had.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Removed {
    revision: Revision,
    epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Joined {
    info: NodeInfo,
    goal: Option<Goal>,
}

/// When the life of each member ends; who is not in it counts as dead.
#[derive(Debug)]
struct Lives {
    until: BTreeMap<NodeId, Instant>,
    closed: bool,
}

/// A [`Placement`] in a file.
#[derive(Debug)]
pub(crate) struct TablePlacement {
    shared: Arc<Shared>,
    undertaker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    /// Held by whoever makes a change, through its sync: readers don't wait for that.
    turn: Mutex<()>,
    /// What is durable, or why that is not known any more.
    table: Mutex<Result<Table, PlacementError>>,
    lives: Mutex<Lives>,
    another_end: Condvar,
    changes: watch::Sender<u64>,
}

impl TablePlacement {
    /// Opens the placement in `file`, or an empty one where there is no such file.
    pub(crate) fn open(file: impl Into<PathBuf>) -> Result<Self, PlacementError> {
        let file = file.into();
        let table = load(&file)?;
        let until = Instant::now() + AFTER_OPENING;
        let alive = table.members.keys().map(|node| (node.clone(), until));
        let shared = Arc::new(Shared {
            lives: Mutex::new(Lives {
                until: alive.collect(),
                closed: false,
            }),
            table: Mutex::new(Ok(table)),
            turn: Mutex::new(()),
            another_end: Condvar::new(),
            changes: watch::Sender::new(0),
            file,
        });
        let undertaker = thread::spawn({
            let shared = shared.clone();
            move || shared.end_lives()
        });
        Ok(Self {
            shared,
            undertaker: Some(undertaker),
        })
    }

    fn look<T>(&self, look: impl FnOnce(&Table) -> T) -> Result<T, PlacementError> {
        match &*lock(&self.shared.table) {
            Ok(table) => Ok(look(table)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Makes a change: first durable, then visible, then told. One that changes nothing writes and tells nothing.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Table) -> Result<T, PlacementError>,
    ) -> Result<T, PlacementError> {
        let _turn = lock(&self.shared.turn);
        let before = self.look(Table::clone)?;
        let mut table = before.clone();
        let done = change(&mut table)?;
        if table == before {
            return Ok(done);
        }
        let saved = save(&self.shared.file, &table);
        if let Err(error) = saved {
            if matches!(error, PlacementError::Poisoned { .. }) {
                *lock(&self.shared.table) = Err(error.clone());
            }
            return Err(error);
        }
        *lock(&self.shared.table) = Ok(table);
        self.shared.tell();
        Ok(done)
    }

    /// Whether this only says that a member is still there. It then lives on, and nothing is written.
    fn renew(
        &self,
        node: &NodeId,
        info: &NodeInfo,
        until: Instant,
    ) -> Result<bool, PlacementError> {
        let known = self.look(|table| table.members.get(node).map(|known| known.info == *info))?;
        let mut lives = lock(&self.shared.lives);
        match lives.until.get_mut(node) {
            Some(life) if known == Some(true) => {
                *life = until;
                self.shared.another_end.notify_one();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> Result<(), PlacementError> {
        let until = Instant::now() + alive_for.min(LONGEST);
        if !alive_for.is_zero() && self.renew(&node, &info, until)? {
            return Ok(());
        }
        self.change(|table| {
            let goal = table.members.get(&node).and_then(|known| known.goal);
            table.members.insert(node.clone(), Joined { info, goal });
            Ok(())
        })?;
        let mut lives = lock(&self.shared.lives);
        let (was_alive, is_alive) = match alive_for.is_zero() {
            true => (lives.until.remove(&node).is_some(), false),
            false => (lives.until.insert(node, until).is_some(), true),
        };
        drop(lives);
        self.shared.another_end.notify_one();
        if was_alive != is_alive {
            self.shared.tell();
        }
        Ok(())
    }
}

impl Table {
    fn swap(
        &mut self,
        expected: Option<Revision>,
        mut record: PlacementRecord,
    ) -> Result<PlacementRecord, PlacementError> {
        let shard = record.shard;
        self.is_at(shard, expected)?;
        match (expected, self.removed.remove(&shard)) {
            (Some(expected), _) if record.revision <= expected => {
                return Err(PlacementError::Revision {
                    shard,
                    expected,
                    offered: record.revision,
                });
            }
            (None, Some(removed)) => {
                record.revision = record.revision.max(Revision(removed.revision.0 + 1));
                record.epoch = record.epoch.max(Epoch(removed.epoch.0 + 1));
            }
            _ => {}
        }
        self.records.insert(shard, record.clone());
        Ok(record)
    }

    fn remove(&mut self, shard: ShardId, expected: Revision) -> Result<(), PlacementError> {
        self.is_at(shard, Some(expected))?;
        if let Some(PlacementRecord {
            revision, epoch, ..
        }) = self.records.remove(&shard)
        {
            self.removed.insert(shard, Removed { revision, epoch });
        }
        Ok(())
    }

    fn is_at(&self, shard: ShardId, expected: Option<Revision>) -> Result<(), PlacementError> {
        let current = self.records.get(&shard);
        if current.map(|current| current.revision) == expected {
            return Ok(());
        }
        Err(PlacementError::Conflict {
            shard,
            current: current.cloned().map(Box::new),
        })
    }
}

impl Shared {
    fn tell(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends the lives of members that were not heard of, until the placement is closed.
    fn end_lives(&self) {
        let mut lives = lock(&self.lives);
        while !lives.closed {
            let (now, before) = (Instant::now(), lives.until.len());
            lives.until.retain(|_, until| *until > now);
            if lives.until.len() < before {
                self.tell();
            }
            let next = lives.until.values().min();
            let sleep = next.map_or(LONGEST, |next| next.saturating_duration_since(now));
            let woken = self.another_end.wait_timeout(lives, sleep);
            (lives, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for TablePlacement {
    fn drop(&mut self) {
        lock(&self.shared.lives).closed = true;
        self.shared.another_end.notify_one();
        if let Some(undertaker) = self.undertaker.take() {
            // One that panicked has printed why.
            let _ = undertaker.join();
        }
    }
}

impl Placement for TablePlacement {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        Box::pin(async { self.look(|table| table.cluster) })
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        Box::pin(async move { self.change(|table| Ok(*table.cluster.get_or_insert(info))) })
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        Box::pin(async move { self.look(|table| table.records.get(&shard).cloned()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        Box::pin(async { self.look(|table| table.records.values().cloned().collect()) })
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        Box::pin(async move { self.change(|table| table.swap(expected, record)) })
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move { self.change(|table| table.remove(shard, expected)) })
    }

    fn members(&self) -> BoxFuture<'_, Result<BTreeMap<NodeId, Member>, PlacementError>> {
        Box::pin(async {
            let members = self.look(|table| table.members.clone())?;
            let lives = lock(&self.shared.lives);
            let member = |(node, joined): (NodeId, Joined)| {
                let alive = lives.until.contains_key(&node);
                let Joined { info, goal } = joined;
                (node, Member { info, goal, alive })
            };
            Ok(members.into_iter().map(member).collect())
        })
    }

    fn announce(
        &self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move { self.announce(node, info, alive_for) })
    }

    fn set_goal(
        &self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move {
            self.change(|table| match table.members.get_mut(&node) {
                Some(member) => {
                    member.goal = goal;
                    Ok(())
                }
                None => Err(PlacementError::NoMember { node }),
            })
        })
    }

    fn remove_member(&self, node: NodeId) -> BoxFuture<'_, Result<(), PlacementError>> {
        Box::pin(async move {
            lock(&self.shared.lives).until.remove(&node);
            self.change(|table| {
                table.members.remove(&node);
                Ok(())
            })
        })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

/// What the file says. Each record is checked: one that is not sound is not believed.
fn load(file: &Path) -> Result<Table, PlacementError> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Table::default()),
        Err(error) => return Err(failed("read", file, error)),
    };
    let damaged = |what: String| PlacementError::Damaged {
        file: file.to_owned(),
        line: 1,
        what,
    };
    let table: Table = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    for record in table.records.values() {
        record
            .validate()
            .map_err(|error| damaged(error.to_string()))?;
    }
    Ok(table)
}

/// Replaces the file by one that says `table`, and returns when that survives power loss.
fn save(file: &Path, table: &Table) -> Result<(), PlacementError> {
    let new = file.with_extension("new");
    let text = serde_json::to_vec(table).expect("a table serialises into memory");
    let written = File::create(&new).and_then(|mut opened| {
        opened.write_all(&text)?;
        opened.sync_all()
    });
    written.map_err(|error| failed("write", &new, error))?;
    // From here on the old table or the new one may be what a restart finds.
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let renamed =
        fs::rename(&new, file).and_then(|()| File::open(dir.unwrap_or(Path::new(".")))?.sync_all());
    renamed.map_err(|error| PlacementError::Poisoned {
        reason: format!("rename {}: {error}", file.display()).into(),
    })
}

fn failed(op: &'static str, path: &Path, source: io::Error) -> PlacementError {
    PlacementError::Io {
        op,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The thread of a [`FilePlacement`](super::FilePlacement): makes changes durable, one after the other, and ends the lives
//! of members that were not heard of.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use watershed_migration::balance::Goal;
use watershed_migration::{NodeId, PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::journal::{Journal, Ledger};
use super::lives::Lives;
use super::map::{Entry, Joined, Left, Map, Removed};
use super::{ClusterInfo, LONGEST_LIFE, NodeInfo, PlacementError};
use crate::sync::{self, lock};

/// What the thread is given to do.
pub(super) type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// What the thread and the callers share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    /// The durable map, or why it is not known any more.
    pub(super) state: RwLock<Result<Map, PlacementError>>,
    pub(super) lives: Mutex<Lives>,
    pub(super) changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn look<T>(&self, look: impl FnOnce(&Map) -> T) -> Result<T, PlacementError> {
        match &*sync::read(&self.state) {
            Ok(state) => Ok(look(state)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Renews a member about whom nothing is new; false where there is something to write or to tell.
    pub(super) fn renew(
        &self,
        node: &NodeId,
        info: &NodeInfo,
        alive_for: Duration,
    ) -> Result<bool, PlacementError> {
        let as_it_was = self.look(|state| {
            let known = state.members.get(node);
            known.is_some_and(|known| known.info == *info)
        })?;
        Ok(as_it_was && lock(&self.lives).renew(node, alive_for, Instant::now()))
    }

    fn tell(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// What the thread owns.
pub(super) struct Writer {
    pub(super) journal: Journal,
    pub(super) shared: Arc<Shared>,
    pub(super) lock: File,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // By name: a child process that is being started may hold a copy of the handle for a moment.
        let _ = self.lock.unlock();
    }
}

impl Writer {
    /// Does what it is given until nobody can give more.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let next_end = lock(&self.shared.lives).next_end();
            let job = match next_end {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(end) => jobs.recv_timeout(end.saturating_duration_since(Instant::now())),
            };
            match job {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.end_lives();
        }
    }

    fn end_lives(&self) {
        let ended = lock(&self.shared.lives).expire(Instant::now());
        if ended.is_empty() {
            return;
        }
        for node in &ended {
            tracing::warn!(%node, "a node was not heard of for as long as it asked for: it counts as dead");
        }
        self.shared.tell();
    }

    fn state(&self) -> Result<Map, PlacementError> {
        sync::read(&self.shared.state).clone()
    }

    /// Makes an entry durable, then visible.
    fn keep(&mut self, entry: Entry) -> Result<(), PlacementError> {
        if let Err(error) = self.journal.append(&entry) {
            self.poison_if_unknown();
            return Err(error);
        }
        let mut state = self.state()?;
        // The caller checked that it goes on from the state, which only this thread changes.
        let taken = state.take(entry);
        assert!(
            taken.is_ok(),
            "a change that was checked is refused: {taken:?}"
        );
        let compacted = self.journal.compact_if_due(&state);
        *sync::write(&self.shared.state) = Ok(state);
        if let Err(error) = compacted {
            self.poison_if_unknown();
            tracing::error!(%error, "the placement failed after a change was made durable");
        }
        Ok(())
    }

    /// Makes an entry durable, then visible, and tells that there is a change.
    fn commit(&mut self, entry: Entry) -> Result<(), PlacementError> {
        self.keep(entry)?;
        self.shared.tell();
        Ok(())
    }

    /// Once it is unknown what is durable, an old record must not be read either: its reader would take a swap that
    /// may have won for lost, and serve beside the new owner.
    fn poison_if_unknown(&self) {
        if let Some(reason) = self.journal.poisoned() {
            *sync::write(&self.shared.state) = Err(PlacementError::Poisoned { reason });
        }
    }

    pub(super) fn create_cluster(
        &mut self,
        info: ClusterInfo,
    ) -> Result<ClusterInfo, PlacementError> {
        match self.shared.look(|state| state.cluster)? {
            Some(made) => Ok(made),
            None => self.commit(Entry::Cluster(info)).map(|()| info),
        }
    }

    pub(super) fn swap(
        &mut self,
        expected: Option<Revision>,
        mut record: PlacementRecord,
    ) -> Result<PlacementRecord, PlacementError> {
        let state = self.state()?;
        let shard = record.shard;
        let current = state.records.get(&shard);
        if current.map(|current| current.revision) != expected {
            return Err(PlacementError::Conflict {
                shard,
                current: current.cloned().map(Box::new),
            });
        }
        match (expected, state.removed.get(&shard)) {
            (Some(expected), _) if record.revision <= expected => {
                return Err(PlacementError::Revision {
                    shard,
                    expected,
                    offered: record.revision,
                });
            }
            (None, Some(removed)) => removed.go_on(&mut record),
            _ => {}
        }
        self.commit(Entry::Record(Box::new(record.clone())))?;
        Ok(record)
    }

    pub(super) fn remove(
        &mut self,
        shard: ShardId,
        expected: Revision,
    ) -> Result<(), PlacementError> {
        let state = self.state()?;
        match state.records.get(&shard) {
            Some(current) if current.revision == expected => {
                self.commit(Entry::Removed(Removed::of(current)))
            }
            current => Err(PlacementError::Conflict {
                shard,
                current: current.cloned().map(Box::new),
            }),
        }
    }

    fn member(&self, node: &NodeId) -> Result<Option<Joined>, PlacementError> {
        self.shared.look(|state| state.members.get(node).cloned())
    }

    pub(super) fn announce(
        &mut self,
        node: NodeId,
        info: NodeInfo,
        alive_for: Duration,
    ) -> Result<(), PlacementError> {
        let known = self.member(&node)?;
        let mut joined = Joined {
            node: node.clone(),
            goal: known.as_ref().and_then(|known| known.goal),
            alive_for_ms: known.as_ref().map_or(0, |known| known.alive_for_ms),
            info,
        };
        if !alive_for.is_zero() {
            // At most a day.
            joined.alive_for_ms = alive_for
                .min(LONGEST_LIFE)
                .as_millis()
                .try_into()
                .unwrap_or(0);
        }
        let is_news = known.as_ref().is_none_or(|known| known.info != joined.info);
        if known.as_ref() != Some(&joined) {
            self.keep(Entry::Member(joined))?;
        }
        let is_change = lock(&self.shared.lives).set(&node, alive_for, Instant::now());
        if is_news || is_change {
            self.shared.tell();
        }
        Ok(())
    }

    pub(super) fn set_goal(
        &mut self,
        node: NodeId,
        goal: Option<Goal>,
    ) -> Result<(), PlacementError> {
        match self.member(&node)? {
            None => Err(PlacementError::NoMember { node }),
            Some(known) if known.goal == goal => Ok(()),
            Some(known) => self.commit(Entry::Member(Joined { goal, ..known })),
        }
    }

    pub(super) fn remove_member(&mut self, node: NodeId) -> Result<(), PlacementError> {
        if self.member(&node)?.is_none() {
            return Ok(());
        }
        self.keep(Entry::Left(Left { node: node.clone() }))?;
        lock(&self.shared.lives).forget(&node);
        self.shared.tell();
        Ok(())
    }
}

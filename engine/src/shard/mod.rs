//! One hosting of a shard on this node: its log, its store, and what it may do now.
//!
//! A [`Hosted`] is an *instance* of a shard (DESIGN: a shard that leaves and comes back is a new one). It owns the
//! way of a write from the gate to the memtable:
//!
//! ```text
//! write.rs       room -> once, conditions -> gate, Seq (one critical section in the log) -> commit
//! once.rs        a write that may come twice; sessions.rs keeps which were taken
//! direct.rs      a buffered write that meets nobody: appended and applied by its own thread
//! apply.rs       records, in Seq order, beside the sync of their frame -> store -> completions, woken together
//! pool.rs        the threads that apply
//! heal.rs        a store that failed is opened again and caught up, unseen
//! serving.rs     who may write and read now: quiesce, give away, become owner
//! ```
//!
//! It leaves out which node owns the shard (node/), how a request gets to another node (node/route.rs), and the
//! phases of a migration (migrate/).
//!
//! Rules kept here, each with a test:
//! 1. A completion of an owner's write fires after its frame is committed and the store has applied it, never before,
//!    and no read shows it sooner.
//! 2. The store's applied Seq only grows by the next Seq, whatever order records were committed in.
//! 3. A write that found the gate closed has no Seq and left no trace.
//! 4. A write of a session gets a Seq once, and its entry rides in that record.

mod apply;
mod conditions;
mod direct;
mod heal;
mod once;
mod pool;
mod serving;
mod sessions;
#[cfg(test)]
mod tests;
mod write;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, Weak};

use tokio::sync::{Semaphore, watch};
use watershed_migration::NodeId;
use watershed_wal::{Completer, Epoch, InstanceId, InstanceLog, Record, Seq, ShardId, Term};

pub(crate) use conditions::{Condition, Expected};
pub(crate) use once::SessionUse;
pub(crate) use pool::ApplyPool;
pub(crate) use serving::Serving;
pub(crate) use sessions::LIMITS;
pub(crate) use write::{WriteRequest, Written};

use crate::Error;
use crate::store::{Applied, Store};
use crate::sync::lock;

/// How much of one shard's writes may wait for commit and apply together: one unit is a write or a KiB of it.
const ROOM_UNITS: usize = 64 << 10;

/// What an instance is to its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes another owner's records.
    Receiver,
    /// Owns the shard; its term has started.
    Owner {
        /// Its term.
        term: Term,
    },
    /// Gave the shard away; kept unchanged through the grace time.
    Frozen {
        /// Who owns it now.
        owner: NodeId,
        /// Since which epoch.
        epoch: Epoch,
    },
    /// Its store failed beyond repair.
    Failed {
        /// What it said.
        reason: String,
    },
    /// Closed with the engine, dropped, or deleted.
    Closed,
}

/// One hosting of a shard.
#[derive(Debug)]
pub(crate) struct Hosted {
    pub(crate) shard: ShardId,
    pub(crate) instance: InstanceId,
    pub(crate) dir: PathBuf,
    pub(crate) log: InstanceLog,
    /// Absent until a receiver's copy is complete, and after closing.
    store: RwLock<Option<Store>>,
    role: RwLock<Role>,
    /// Reads are answered (rule 7: not from Drain on until re-opened, nor before the start record).
    reads_open: AtomicBool,
    /// Counts changes of role, gate and reads; who waits for a change watches it.
    changes: watch::Sender<u64>,
    parked: Mutex<serving::ParkedSince>,
    /// Writes that were acknowledged here, since it was hosted.
    writes: AtomicU64,
    assign: Mutex<conditions::Assign>,
    /// Conditional writes are about: appliers tell their overlay what was applied.
    overlay_on: AtomicBool,
    /// Odd while the store heals (heal.rs).
    heals: AtomicU64,
    health: Mutex<heal::Health>,
    /// `health` says why writes are refused: looked at by every write.
    waits_for_room: AtomicBool,
    queue: Mutex<ApplyQueue>,
    drained: Condvar,
    /// Up to where records are both committed and applied: what may be read and acknowledged.
    applied: watch::Sender<Seq>,
    room: Semaphore,
    pool: ApplyPool,
    me: Weak<Hosted>,
}

/// Records on their way into the store, and the writers who wait for them.
#[derive(Debug, Default)]
struct ApplyQueue {
    /// Written and not applied, in Seq order; perhaps not committed yet.
    items: VecDeque<Record>,
    /// Committed and not applied, in Seq order.
    acks: VecDeque<Ack>,
    /// The last record committed; and the last that the store has, of which it may have more than is committed.
    committed: Seq,
    applied: Seq,
    /// Records are read from the log once they are committed, not taken from `items`: those of a receiver, which come in any
    /// order, and after a failure of the store.
    by_log: ByLog,
    /// Records were committed that are to be read from the log.
    catch_up: bool,
    /// The store failed and is to be healed.
    heal: bool,
    /// Nothing is applied any more: who comes late is told so at once.
    is_closed: bool,
    /// A thread applies this shard now; it takes what is added meanwhile.
    claimed: bool,
    /// The pool has been asked to.
    scheduled: bool,
    /// Threads that wait for the claim to end: to wake nobody is a call to the system, too.
    waiting: usize,
}

impl ApplyQueue {
    /// Whether nobody applies, and there is nothing to do.
    fn is_idle(&self) -> bool {
        let has_work = !self.items.is_empty() || self.catch_up || self.heal;
        !self.claimed && !has_work && self.by_log == ByLog::No
    }
}

/// See [`ApplyQueue::by_log`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByLog {
    No,
    /// Until the store has this one, and the shard is owned here.
    Until(Seq),
}

impl Default for ByLog {
    /// A copy's first record, be it of a receiver or of a term that starts, comes this way.
    fn default() -> Self {
        Self::Until(Seq::ZERO)
    }
}

/// A write that is committed and not applied.
#[derive(Debug)]
struct Ack {
    seq: Seq,
    /// What it gives back of the shard's room.
    units: usize,
    done: Completer,
}

impl Hosted {
    /// A hosting with this role; `store` may come later ([`Hosted::attach_store`]).
    pub(crate) fn new(
        log: InstanceLog,
        dir: PathBuf,
        store: Option<Store>,
        role: Role,
        pool: ApplyPool,
    ) -> Arc<Self> {
        let applied = store
            .as_ref()
            .map_or(log.base(), |store| store.applied().seq);
        let hosted = Arc::new_cyclic(|me| Self {
            shard: log.shard(),
            instance: log.id(),
            dir,
            log: log.clone(),
            store: RwLock::new(store),
            role: RwLock::new(role),
            reads_open: AtomicBool::new(false),
            changes: watch::Sender::new(0),
            parked: Mutex::default(),
            writes: AtomicU64::new(0),
            assign: Mutex::default(),
            overlay_on: AtomicBool::new(false),
            heals: AtomicU64::new(0),
            health: Mutex::default(),
            waits_for_room: AtomicBool::new(false),
            queue: Mutex::new(ApplyQueue {
                committed: applied,
                applied,
                ..ApplyQueue::default()
            }),
            drained: Condvar::new(),
            applied: watch::Sender::new(applied),
            room: Semaphore::new(ROOM_UNITS),
            pool,
            me: me.clone(),
        });
        log.set_sink(Some(Arc::new(apply::Sink::new(&hosted))));
        hosted
    }

    /// Puts a receiver's verified copy to use: records above it are applied from now on.
    pub(crate) fn attach_store(&self, store: Store) {
        let applied = store.applied().seq;
        *crate::sync::write(&self.store) = Some(store);
        self.settle_read(applied);
        self.catch_up_later();
    }

    /// The store, where there is one.
    pub(crate) fn store(&self) -> Result<Store, Error> {
        crate::sync::read(&self.store)
            .clone()
            .ok_or(Error::NoInstance {
                shard: self.shard,
                instance: self.instance,
            })
    }

    /// What the store has: Seq, term and digest.
    pub(crate) fn applied(&self) -> Option<Applied> {
        self.store().ok().map(|store| store.applied())
    }

    /// Up to where records are applied and committed, once that is at least `seq`.
    pub(crate) async fn wait_applied(&self, seq: Seq) -> Result<Seq, Error> {
        let now = self.visible();
        if now >= seq {
            return Ok(now);
        }
        let mut applied = self.applied.subscribe();
        let mut changes = self.changes.subscribe();
        loop {
            let now = *applied.borrow_and_update();
            if now >= seq {
                return Ok(now);
            }
            if let Some(error) = self.waits_for_room() {
                return Err(error);
            }
            if let Some(error) = self.log.failure() {
                return Err(error.into());
            }
            match self.role() {
                Role::Closed => return Err(Error::Closed),
                Role::Failed { reason } => {
                    return Err(Error::ShardFailed {
                        shard: self.shard,
                        reason,
                    });
                }
                _ => {}
            }
            tokio::select! {
                _ = applied.changed() => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Up to where records are applied and committed.
    pub(crate) fn visible(&self) -> Seq {
        *self.applied.borrow()
    }

    /// How many writes were acknowledged here.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Keeps another owner's records; durable when it returns.
    pub(crate) async fn receive(&self, records: Vec<Record>) -> Result<(), Error> {
        let kept = self.log.append_at(records)?;
        Ok(kept.done.await?)
    }

    pub(crate) fn role(&self) -> Role {
        crate::sync::read(&self.role).clone()
    }

    /// Ends the hosting: requests get [`Error::Closed`], snapshots expire, the store is released.
    pub(crate) fn close(&self) {
        self.set_role(Role::Closed);
        self.room.close();
        self.wait_idle();
        self.log.set_sink(None);
        let store = crate::sync::write(&self.store).take();
        if let Some(store) = store {
            store.revoke_snapshots();
        }
        self.applied.send_modify(|_| {});
    }

    /// Waits until no thread applies this shard.
    fn wait_idle(&self) {
        let mut queue = lock(&self.queue);
        queue.waiting += 1;
        while queue.claimed {
            queue = self
                .drained
                .wait(queue)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        queue.waiting -= 1;
        // What is left and committed is replayed at the next opening; its waiters learn that the engine closed.
        queue.is_closed = true;
        queue.items.clear();
        queue.acks.clear();
    }
}

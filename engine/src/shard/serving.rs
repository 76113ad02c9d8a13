//! Who may write and read now: the steps by which ownership leaves this instance, and arrives.
//!
//! Writing is decided by the log's gate (closing it and reading F is one critical section there, rule 4), reading by a
//! flag (rule 7). A request that meets either closed waits for a *change* and then asks again from the start: it may
//! find the shard re-opened, given away, or closed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use watershed_migration::NodeId;
use watershed_wal::{Epoch, LogError, Seq, Term};

use super::{Hosted, Role};
use crate::Error;
use crate::store::Shown;
use crate::sync::lock;

/// Where a request that can't be served here goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Here, now.
    Here,
    /// Nowhere yet: wait for a change.
    Wait,
    /// To this node.
    Elsewhere { owner: NodeId, epoch: Epoch },
}

/// Requests that wait for a change, by their turn of coming: the first has waited longest.
#[derive(Debug, Default)]
pub(super) struct ParkedSince {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// A request that waits for a change; counted while it does.
#[derive(Debug)]
pub(crate) struct Parked<'a> {
    hosted: &'a Hosted,
    turn: u64,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        lock(&self.hosted.parked).since.remove(&self.turn);
    }
}

impl Hosted {
    pub(super) fn set_role(&self, role: Role) {
        *crate::sync::write(&self.role) = role;
        self.note_change();
    }

    pub(crate) fn is_owner(&self) -> bool {
        matches!(*crate::sync::read(&self.role), Role::Owner { .. })
    }

    /// Wakes every request that waits to ask again.
    pub(crate) fn note_change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Counts a request as waiting, from now until the value is dropped.
    pub(crate) fn park(&self) -> Parked<'_> {
        let mut parked = lock(&self.parked);
        let turn = parked.next;
        parked.next += 1;
        parked.since.insert(turn, Instant::now());
        drop(parked);
        Parked { hosted: self, turn }
    }

    /// How many requests wait now, and how long the first of them has.
    pub(crate) fn parked(&self) -> (u64, Option<Duration>) {
        let parked = lock(&self.parked);
        let longest = parked.since.values().next().map(Instant::elapsed);
        let count = u64::try_from(parked.since.len()).unwrap_or(u64::MAX);
        (count, longest)
    }

    /// Whether a read is answered here now.
    pub(crate) fn serves_reads(&self) -> Result<Serving, Error> {
        match self.role() {
            Role::Owner { .. } if self.reads_open.load(Ordering::Acquire) => {
                match Self::is_healing(self.heals()).then(|| self.waits_for_room()) {
                    // Its heal stopped in the middle: it would show an older state.
                    Some(Some(error)) => Err(error),
                    _ => Ok(Serving::Here),
                }
            }
            Role::Owner { .. } | Role::Receiver => Ok(Serving::Wait),
            Role::Frozen { owner, epoch } => Ok(Serving::Elsewhere { owner, epoch }),
            Role::Failed { reason } => Err(Error::ShardFailed {
                shard: self.shard,
                reason,
            }),
            Role::Closed => Err(Error::Closed),
        }
    }

    /// What a read found, once all that it shows is committed: the store may have it while its frame is being synced.
    pub(crate) async fn committed_read<T>(&self, shown: Shown<T>) -> Result<T, Error> {
        self.wait_applied(shown.seq).await?;
        Ok(shown.value)
    }

    /// Quiesce: later writes wait. Gives F, the last Seq assigned.
    pub(crate) fn close_gate(&self) -> Result<Seq, Error> {
        Ok(self.log.close_gate()?)
    }

    /// Ends a quiesce without giving the shard away: parked writes and reads go on.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        self.log.open_gate()?;
        self.reads_open.store(true, Ordering::Release);
        self.note_change();
        Ok(())
    }

    /// No read is answered from here until [`Hosted::reopen`] (rule 7).
    pub(crate) fn close_reads(&self) {
        self.reads_open.store(false, Ordering::Release);
    }

    /// Freezes the copy after the placement gave the shard to `owner`; the parked requests go there. Gives how many.
    pub(crate) fn give_away(&self, owner: NodeId, epoch: Epoch) -> u64 {
        self.close_reads();
        let (parked, _) = self.parked();
        self.set_role(Role::Frozen { owner, epoch });
        parked
    }

    /// Starts this instance's term: serves once the start record is durable and applied (rules 1 and 7).
    ///
    /// The caller has read the placement record and found this node, this instance and this epoch in it.
    pub(crate) async fn become_owner(&self, epoch: Epoch) -> Result<(Term, Seq), Error> {
        if let Some(last) = self
            .log
            .terms()
            .last()
            .filter(|last| last.term.epoch > epoch)
        {
            return Err(Error::older_placement(self.shard, epoch, last.term.epoch));
        }
        let term = self.log.next_term(epoch);
        let applied = self.store()?.applied();
        // Read again with what was received since, should it be there.
        lock(&self.assign).sessions = None;
        // The role comes first: the start record is the first that is applied as an owner's.
        self.set_role(Role::Owner { term });
        let started = self.log.start_term(term, applied.seq)?;
        let seq = started.seq;
        if let Some(lead) = started.lead {
            lead.commit();
            self.apply_queued();
        }
        started
            .done
            .await
            .map_err(|error| Error::unknown(self.shard, &error))?;
        self.reads_open.store(true, Ordering::Release);
        self.note_change();
        Ok((term, seq))
    }

    /// Why a submit was refused, where it is not simply an error.
    pub(super) fn refusal(&self, error: LogError) -> Result<Serving, Error> {
        match error {
            LogError::GateClosed => match self.role() {
                Role::Owner { .. } | Role::Receiver => Ok(Serving::Wait),
                Role::Frozen { owner, epoch } => Ok(Serving::Elsewhere { owner, epoch }),
                Role::Failed { reason } => Err(Error::ShardFailed {
                    shard: self.shard,
                    reason,
                }),
                Role::Closed => Err(Error::Closed),
            },
            other => Err(other.into()),
        }
    }
}

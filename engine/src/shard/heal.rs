//! After a background error of RocksDB: this shard's store alone is closed, opened again, and the log replayed.
//!
//! Opening again takes back what was in memtables, so until the replay has caught up the store shows a state of before,
//! without writes that were acknowledged. Nothing may be read or decided from it then. A count says so: odd while the
//! store heals. Who reads looks at it before and after, which costs nothing between two errors; who decides conditions
//! looks once, in the section that the count is made odd in.
//!
//! Two ways lead here: a group of records that the store did not take (the applier heals at once, and the group's writers
//! wait for it), and the node's keeper, which finds a store that failed while nobody wrote: such a one would pin the log
//! until the next write. The keeper's heals wait longer from one to the next, since a cause that stays fails again.
//!
//! | what is found | what is done |
//! |---|---|
//! | room, and the directory | closed, opened, replayed; it serves on |
//! | no room | left open: reads go on, writes are refused by name, what was committed stays in the log; the keeper looks again |
//! | no room in the middle of it | the same, but reads are refused, too: the store shows an older state |
//! | anything else, asked for by the keeper | left open: reads go on; the keeper looks again |
//! | anything else, under a write | the shard is out of service |

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use watershed_wal::{Committed, Seq, SeqRange};

use super::{Hosted, Role, write};
use crate::Error;
use crate::store::{Store, StoreError};
use crate::sync::lock;

/// How long the keeper waits after a heal before the next: doubled from one to the next, up to the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LONGEST: Duration = Duration::from_secs(8);
/// A store that was well for so long starts from the first again.
const CALM: Duration = Duration::from_secs(60);

/// How a store that failed fares.
#[derive(Debug, Default)]
pub(super) struct Health {
    waiting: Option<Waiting>,
    /// When the keeper healed last, and how often in a row.
    last: Option<(Instant, u32)>,
}

/// There was no room to go on.
#[derive(Debug)]
struct Waiting {
    reason: StoreError,
    /// The last record that was committed and not applied.
    through: Seq,
}

impl Health {
    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(at, count)| {
            let doubled = 1u32.checked_shl(count.saturating_sub(1));
            let wait = BACKOFF_FIRST.saturating_mul(doubled.unwrap_or(u32::MAX));
            now.saturating_duration_since(at) >= wait.min(BACKOFF_LONGEST)
        })
    }

    fn note_heal(&mut self, now: Instant) {
        let before = self
            .last
            .filter(|(at, _)| now.saturating_duration_since(*at) < CALM);
        self.last = Some((now, before.map_or(1, |(_, count)| count.saturating_add(1))));
    }
}

impl Hosted {
    /// How often the store began or ended to heal.
    pub(crate) fn heals(&self) -> u64 {
        self.heals.load(Ordering::Acquire)
    }

    /// Whether a store whose count this is shows an older state.
    pub(crate) const fn is_healing(heals: u64) -> bool {
        !heals.is_multiple_of(2)
    }

    /// Why writes are refused until there is room, if they are.
    pub(crate) fn waits_for_room(&self) -> Option<Error> {
        if !self.waits_for_room.load(Ordering::Acquire) {
            return None;
        }
        let health = lock(&self.health);
        let waiting = health.waiting.as_ref()?;
        Some(waiting.reason.clone().into())
    }

    /// Has a store that failed while nobody wrote healed, in a while: on the thread that applies. Called by the keeper.
    pub(crate) fn heal_later(&self) {
        let Ok(store) = self.store() else { return };
        if matches!(self.role(), Role::Failed { .. } | Role::Closed) {
            return;
        }
        if self.waits_for_room().is_none() && store.background_error().is_none() {
            return;
        }
        if lock(&self.health).is_due(Instant::now()) {
            self.schedule_for(|queue| queue.heal = true);
        }
    }

    /// What [`Hosted::heal_later`] asked for. Called by the one thread that applies.
    pub(super) fn heal_now(&self) {
        let Ok(store) = self.store() else { return };
        let waiting = lock(&self.health).waiting.as_ref().map(|w| w.through);
        let error = match store.background_error() {
            Some(error) => error,
            None if waiting.is_some() => "it waited for room".into(),
            // Healed by a write meanwhile.
            None => return,
        };
        if let Err(cause) = store.can_reopen() {
            tracing::debug!(shard = %self.shard, %error, %cause, "a failed store can't be opened again yet");
            return;
        }
        lock(&self.health).note_heal(Instant::now());
        // Before the store falls back to what is flushed.
        let applied = store.applied().seq;
        let through = waiting.map_or(applied, |through| through.max(applied));
        let healed = self.open_again(&store, &error, through);
        if healed.is_ok() && self.role() == Role::Receiver {
            self.catch_up_later();
        }
    }

    /// Opens the store again and replays the log up to `through`; without room writes wait for it, and for another cause
    /// the shard is out of service. Called by the one thread that applies.
    pub(super) fn heal(&self, error: &StoreError, through: Seq) -> Result<(), Error> {
        if !error.needs_reopen() {
            return Err(error.clone().into());
        }
        let store = self.store()?;
        match store.can_reopen() {
            Err(cause) if cause.is_no_room() => {
                self.wait_for_room(cause.clone(), through);
                Err(cause.into())
            }
            // Another cause is named by the opening.
            _ => self.open_again(&store, error, through),
        }
    }

    fn open_again(
        &self,
        store: &Store,
        error: &dyn std::fmt::Display,
        through: Seq,
    ) -> Result<(), Error> {
        let dir = store.dir().display();
        tracing::warn!(shard = %self.shard, %dir, %error, "the store failed: it is opened again and the log replayed");
        {
            let _nothing_is_being_decided = lock(&self.assign);
            // Odd already where the last one ended in the middle.
            self.heals.fetch_or(1, Ordering::AcqRel);
        }
        // From now on requests wait for how it ends.
        self.waits_for_room.store(false, Ordering::Release);
        let healed = store
            .reopen()
            .map_err(Error::from)
            .and_then(|()| self.replay(SeqRange::after(store.applied().seq, through)));
        match &healed {
            Ok(()) => {
                self.applied.send_replace(through);
                self.forget_pending(through);
                lock(&self.health).waiting = None;
            }
            Err(Error::Store(error)) if error.is_no_room() => {
                // The count stays odd: the store shows an older state.
                self.wait_for_room(error.clone(), through);
                return healed;
            }
            // First: an older state must not be read for a moment.
            Err(error) => self.fail(error),
        }
        self.heals.fetch_add(1, Ordering::AcqRel);
        self.note_change();
        healed
    }

    /// Refuses writes until the keeper's heal has found room; what is committed up to `through` is applied then.
    fn wait_for_room(&self, reason: StoreError, through: Seq) {
        let before = {
            let mut health = lock(&self.health);
            let before = health.waiting.take();
            let through = before.as_ref().map_or(through, |w| w.through.max(through));
            tracing::debug!(shard = %self.shard, %through, "records wait in the log");
            let reason = reason.clone();
            health.waiting = Some(Waiting { reason, through });
            before
        };
        if before.is_none() {
            tracing::warn!(shard = %self.shard, %reason, "no room: writes are refused until there is");
        }
        self.waits_for_room.store(true, Ordering::Release);
        self.note_change();
    }

    /// Leaves committed records in the log while there is no room to apply them; their writers learn that the outcome is
    /// not certain yet. True where it did.
    pub(super) fn leave_in_log(&self, items: &mut VecDeque<Committed>) -> bool {
        {
            let mut health = lock(&self.health);
            let Some(waiting) = &mut health.waiting else {
                return false;
            };
            if let Some(last) = items.back() {
                waiting.through = waiting.through.max(last.record.seq());
            }
        }
        let units = items
            .iter()
            .map(|item| write::units(item.record.body().len()))
            .sum();
        items.clear();
        self.release_room(units);
        true
    }
}

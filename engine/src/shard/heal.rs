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

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use watershed_wal::Seq;

use super::{Hosted, Role};
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
    /// There was no room to go on.
    waiting: Option<StoreError>,
    /// When the keeper healed last, and how often in a row.
    last: Option<(Instant, u32)>,
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
        health.waiting.clone().map(Error::from)
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
        let error = match store.background_error() {
            Some(error) => error,
            None if lock(&self.health).waiting.is_some() => "it waited for room".into(),
            // Healed by a write meanwhile.
            None => return,
        };
        if let Err(cause) = store.can_reopen() {
            tracing::debug!(shard = %self.shard, %error, %cause, "a failed store can't be opened again yet");
            return;
        }
        lock(&self.health).note_heal(Instant::now());
        let healed = self.open_again(&store, &error);
        if healed.is_ok() && self.role() == Role::Receiver {
            self.catch_up_later();
        }
    }

    /// Opens the store again and replays the log, all that is committed; without room writes wait for it, and for another
    /// cause the shard is out of service. Called by the one thread that applies.
    pub(super) fn heal(&self, error: &StoreError) -> Result<(), Error> {
        if !error.needs_reopen() {
            return Err(error.clone().into());
        }
        let store = self.store()?;
        match store.can_reopen() {
            Err(cause) if cause.is_no_room() => {
                self.wait_for_room(cause.clone());
                Err(cause.into())
            }
            // Another cause is named by the opening.
            _ => self.open_again(&store, error),
        }
    }

    fn open_again(&self, store: &Store, error: &dyn std::fmt::Display) -> Result<(), Error> {
        let dir = store.dir().display();
        tracing::warn!(shard = %self.shard, %dir, %error, "the store failed: it is opened again and the log replayed");
        {
            let _nothing_is_being_decided = lock(&self.assign);
            // Odd already where the last one ended in the middle.
            self.heals.fetch_or(1, Ordering::AcqRel);
        }
        // From now on requests wait for how it ends.
        self.waits_for_room.store(false, Ordering::Release);
        // What it had and is not committed yet is read from the log once it is.
        lock(&self.queue).read_from_log(Some(store.applied().seq));
        let reopened = store.reopen().map_err(Error::from);
        let healed = reopened.and_then(|()| {
            lock(&self.queue).applied = store.applied().seq;
            self.replay(store)
        });
        match &healed {
            Ok(()) => lock(&self.health).waiting = None,
            Err(Error::Store(error)) if error.is_no_room() => {
                // The count stays odd: the store shows an older state.
                self.wait_for_room(error.clone());
                return healed;
            }
            // First: an older state must not be read for a moment.
            Err(error) => self.fail(error),
        }
        self.heals.fetch_add(1, Ordering::AcqRel);
        self.note_change();
        healed
    }

    /// Refuses writes until the keeper's heal has found room; what is committed is applied then.
    fn wait_for_room(&self, reason: StoreError) {
        let before = lock(&self.health).waiting.replace(reason.clone());
        if before.is_none() {
            tracing::warn!(shard = %self.shard, %reason, "no room: writes are refused until there is");
        }
        self.waits_for_room.store(true, Ordering::Release);
        self.note_change();
    }

    /// Leaves records, up to `last`, in the log while there is no room to apply them; the writers of those that are
    /// committed learn that the outcome is not certain yet. True where it did.
    pub(super) fn leave_in_log(&self, last: Option<Seq>) -> bool {
        if lock(&self.health).waiting.is_none() {
            return false;
        }
        let mut queue = lock(&self.queue);
        queue.read_from_log(last);
        let acks = std::mem::take(&mut queue.acks);
        drop(queue);
        self.release_room(acks.iter().map(|ack| ack.units).sum());
        true
    }
}

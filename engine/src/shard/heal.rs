//! After a background error of RocksDB: this shard's store alone is closed, opened again, and the log replayed.
//!
//! Opening again takes back what was in memtables, so until the replay has caught up the store shows a state of before,
//! without writes that were acknowledged. Nothing may be read or decided from it then. A count says so: odd while the
//! store heals. Who reads looks at it before and after, which costs nothing between two errors; who decides conditions
//! looks once, in the section that the count is made odd in.

use std::sync::atomic::Ordering;

use watershed_wal::{Seq, SeqRange};

use super::Hosted;
use crate::Error;
use crate::store::StoreError;
use crate::sync::lock;

impl Hosted {
    /// How often the store began or ended to heal.
    pub(crate) fn heals(&self) -> u64 {
        self.heals.load(Ordering::Acquire)
    }

    /// Whether a store whose count this is shows an older state.
    pub(crate) const fn is_healing(heals: u64) -> bool {
        !heals.is_multiple_of(2)
    }

    /// Opens the store again and replays the log up to `through`; the shard is out of service where that fails. Called
    /// by the one thread that applies.
    pub(super) fn heal(&self, error: &StoreError, through: Seq) -> Result<(), Error> {
        if !error.needs_reopen() {
            return Err(error.clone().into());
        }
        let store = self.store()?;
        let dir = store.dir().display();
        tracing::warn!(shard = %self.shard, %dir, %error, "the store failed: it is opened again and the log replayed");
        {
            let _nothing_is_being_decided = lock(&self.assign);
            self.heals.fetch_add(1, Ordering::AcqRel);
        }
        let healed = store
            .reopen()
            .map_err(Error::from)
            .and_then(|()| self.replay(SeqRange::after(store.applied().seq, through)));
        if let Err(error) = &healed {
            // First: an older state must not be read for a moment.
            self.fail(error);
        }
        self.heals.fetch_add(1, Ordering::AcqRel);
        self.note_change();
        healed
    }
}

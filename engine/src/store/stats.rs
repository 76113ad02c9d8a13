//! Numbers about one store, for status and for choosing what to flush.

use rocksdb::properties::{self, PropName};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// What RocksDB says about itself. Estimates where it only estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreStats {
    /// Bytes of SST files, also of those that only a snapshot still needs.
    pub(crate) sst_bytes: u64,
    /// Bytes of memtables.
    pub(crate) memtable_bytes: u64,
    /// About how many keys, tombstones and the store's own included.
    pub(crate) keys_estimate: u64,
    /// Bytes that compactions will have to rewrite, about.
    pub(crate) compaction_debt_bytes: u64,
    /// Snapshots that are open.
    pub(crate) snapshots: u64,
    /// Whether RocksDB has stopped writes until a flush or compaction catches up.
    pub(crate) stalled: bool,
}

impl Store {
    /// The store's numbers now.
    ///
    /// # Errors
    /// When the store is closed, or RocksDB fails.
    pub(crate) fn stats(&self) -> Result<StoreStats, StoreError> {
        let db = self.0.db()?;
        let number = |name: &PropName| {
            db.property_int_value(name)
                .map(Option::unwrap_or_default)
                .map_err(|e| StoreError::rocks("read its properties", &self.0.dir, e))
        };
        Ok(StoreStats {
            sst_bytes: number(properties::TOTAL_SST_FILES_SIZE)?,
            memtable_bytes: number(properties::CUR_SIZE_ALL_MEM_TABLES)?,
            keys_estimate: number(properties::ESTIMATE_NUM_KEYS)?,
            compaction_debt_bytes: number(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?,
            snapshots: number(properties::NUM_SNAPSHOTS)?,
            stalled: number(properties::IS_WRITE_STOPPED)? > 0,
        })
    }
}

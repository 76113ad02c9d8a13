//! What all stores of a node share: one block cache, one write-buffer budget, one pool of background threads,
//! one rate limiter, one set of options. Everything RocksDB is told about how to work is told here.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, Env, InfoLogger, LogLevel,
    LruCacheOptions, Options, WriteBufferManager,
};

use super::error::StoreError;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What all stores of a node may use together.
#[derive(Clone, Debug)]
pub(crate) struct StoreLimits {
    /// Blocks, indexes and filters kept in memory, of all stores.
    pub(crate) block_cache_bytes: usize,
    /// Memtables of all stores.
    pub(crate) write_buffer_bytes: usize,
    /// Threads that compact; as many again, at least one, flush. Never lowered once a process has more.
    pub(crate) background_threads: usize,
    /// What flushes and compactions of all stores may write, bytes a second.
    pub(crate) background_bytes_per_second: Option<u64>,
    /// Open SST files of one store.
    pub(crate) open_files_per_store: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 * MIB,
            write_buffer_bytes: 256 * MIB,
            background_threads: 2,
            background_bytes_per_second: None,
            open_files_per_store: 256,
        }
    }
}

/// Opens stores that share their memory and threads.
#[derive(Clone)]
pub(crate) struct StoreEnv(Arc<Shared>);

struct Shared {
    /// For a store that is written. RocksDB's copies of it share cache, budget, threads and limiter.
    writable: Options,
    /// For one that another process may be writing: its files may go, so all are opened at once.
    read_only: Options,
    cache: Cache,
    buffers: WriteBufferManager,
}

impl StoreEnv {
    /// The shared part of a node's stores.
    ///
    /// # Errors
    /// When RocksDB refuses its environment or an option.
    pub(crate) fn new(limits: &StoreLimits) -> Result<Self, StoreError> {
        let failed = |e| StoreError::rocks("set up", Path::new(""), e);
        let mut env = Env::new().map_err(failed)?;
        let threads = to_c_int(limits.background_threads.max(1));
        env.set_low_priority_background_threads(threads);
        env.set_high_priority_background_threads(threads);
        let cache = block_cache(limits.block_cache_bytes);
        let buffers =
            WriteBufferManager::new_write_buffer_manager(limits.write_buffer_bytes, false);

        let mut writable = base_options(&env).map_err(failed)?;
        writable.set_block_based_table_factory(&table_options(Some(&cache)));
        writable.set_write_buffer_manager(&buffers);
        writable.set_write_buffer_size((limits.write_buffer_bytes / 4).clamp(MIB, 64 * MIB));
        writable.set_max_background_jobs(threads.saturating_add(1));
        writable.set_max_open_files(to_c_int(limits.open_files_per_store.max(16)));
        if let Some(rate) = limits.background_bytes_per_second {
            let rate = i64::try_from(rate.max(1)).unwrap_or(i64::MAX);
            writable.set_ratelimiter(rate, 100_000, 10);
        }
        let mut read_only = base_options(&env).map_err(failed)?;
        read_only.set_block_based_table_factory(&table_options(Some(&cache)));
        read_only.set_max_open_files(-1);
        Ok(Self(Arc::new(Shared {
            writable,
            read_only,
            cache,
            buffers,
        })))
    }

    pub(super) fn writable(&self) -> &Options {
        &self.0.writable
    }

    pub(super) fn read_only(&self) -> &Options {
        &self.0.read_only
    }

    /// For verifying: nothing cached by RocksDB, so that what is checked is what the device has.
    pub(super) fn verifying(&self, direct: bool) -> Options {
        let mut options = self.0.read_only.clone();
        options.set_block_based_table_factory(&table_options(None));
        options.set_use_direct_reads(direct);
        options
    }

    /// Bytes of the block cache and of the memtables that all stores use now.
    pub(crate) fn memory_bytes(&self) -> (usize, usize) {
        (self.0.cache.get_usage(), self.0.buffers.get_usage())
    }
}

impl std::fmt::Debug for StoreEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreEnv").finish_non_exhaustive()
    }
}

/// RocksDB takes 32-bit numbers of threads and files.
fn to_c_int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn base_options(env: &Env) -> Result<Options, rocksdb::Error> {
    // These two have no setter of their own. Memtables are not written out when a store closes: closing must
    // not take as long as a flush, and the log has what they hold.
    let mut options = Options::default().get_options_from_string(
        "avoid_flush_during_shutdown=true;file_checksum_gen_factory=FileChecksumGenCrc32cFactory",
    )?;
    options.set_env(env);
    options.create_if_missing(false);
    options.set_paranoid_checks(true);
    // No LOG files: what is worth a line goes where the program's own lines go.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, forward_log));
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);

    // A store has one writer and may be one of a thousand: small arenas, no threads or files kept ready.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_arena_block_size(64 * KIB);
    options.set_max_write_buffer_number(4);
    options.set_manifest_preallocation_size(64 * KIB);
    options.set_max_manifest_file_size(4 * MIB);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_table_cache_num_shard_bits(2);

    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_bytes_per_sync(1 << 20);
    Ok(options)
}

/// A cache in parts of at least 4 MiB, so that one large value does not take a part for itself.
fn block_cache(bytes: usize) -> Cache {
    let parts = (bytes / (4 * MIB)).clamp(1, 64);
    let mut options = LruCacheOptions::default();
    options.set_capacity(bytes);
    options.set_num_shard_bits(i32::try_from(parts.ilog2()).unwrap_or(0));
    Cache::new_lru_cache_opts(&options)
}

fn table_options(cache: Option<&Cache>) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(8 * KIB);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(6);
    // In parts: a whole filter or index of a large SST may be more than a part of the cache holds, and would
    // then be read anew at every get.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(8 * KIB);
    match cache {
        Some(cache) => {
            table.set_block_cache(cache);
            // Else each open file holds its index and filter outside the cache's bound.
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            table.set_pin_top_level_index_and_filter(true);
        }
        None => table.disable_cache(),
    }
    table
}

fn forward_log(level: LogLevel, line: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => {
            tracing::error!(target: "watershed::rocksdb", "{line}")
        }
        LogLevel::Warn => tracing::warn!(target: "watershed::rocksdb", "{line}"),
        // The header: all options of each store, at every opening.
        _ => tracing::trace!(target: "watershed::rocksdb", "{line}"),
    }
}

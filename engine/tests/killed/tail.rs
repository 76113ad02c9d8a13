//! A log whose records no store has flushed: what a process writes before it is killed, what must be there when all of
//! it has been replayed, and what replaying it may take of memory.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use watershed::{Batch, Durability, Engine, ScanOptions, ShardId};

use crate::process::Random;

/// Of which sort a tail is.
#[derive(Clone, Copy)]
pub(crate) struct Tail {
    pub(crate) shards: u64,
    /// Writes of each shard.
    pub(crate) writes: u64,
    pub(crate) value_bytes: u64,
}

/// Many shards, small writes of all sorts.
pub(crate) const MIXED: Tail = Tail {
    shards: 100,
    writes: 200,
    value_bytes: 300,
};
/// Far more bytes than a process that opens it may use.
pub(crate) const LARGE: Tail = Tail {
    shards: 16,
    writes: 768,
    value_bytes: 16 << 10,
};
const WRITERS: usize = 4;

impl Tail {
    /// Opens an engine whose stores keep all that is written in memory, or as little as they can.
    pub(crate) fn open(self, dir: &Path, write_buffer: usize) -> Engine {
        Engine::options()
            .shards(self.shards)
            .segment_bytes(4 << 20)
            .write_buffer_bytes(write_buffer)
            .block_cache_bytes(4 << 20)
            .open(dir.join("tail"))
            .unwrap()
    }

    /// Writes everything. A writer has shards of its own, so each shard's order is known.
    pub(crate) fn write(self, engine: &Engine) {
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || {
                    for n in 0..self.writes {
                        for shard in (0..self.shards).skip(writer).step_by(WRITERS) {
                            let durability = if (shard + n).is_multiple_of(97) {
                                Durability::Sync
                            } else {
                                Durability::Buffered
                            };
                            let batch = batch(&self.nth(shard, n));
                            let write = engine.shard(ShardId(shard)).write(batch);
                            write.durability(durability).wait().unwrap();
                        }
                    }
                });
            }
        });
    }

    /// The operations of a shard's write: mostly one put, or a delete, or several of both.
    fn nth(self, shard: u64, n: u64) -> Vec<(String, Option<Bytes>)> {
        let mut random = Random::new(shard << 32 | n);
        let several = if random.below(4) == 0 { 5 } else { 1 };
        let ops = 0..several;
        ops.map(|_| {
            let key = format!("{}/{}", shard, random.below(self.writes / 2));
            let delete = random.below(5) == 0;
            (key, (!delete).then(|| self.value(&mut random)))
        })
        .collect()
    }

    /// Bytes that compress, or not.
    fn value(self, random: &mut Random) -> Bytes {
        let len = usize::try_from(random.below(self.value_bytes) + self.value_bytes / 2).unwrap();
        if random.below(4) == 0 {
            return vec![7; len].into();
        }
        let mut value = Vec::with_capacity(len + 8);
        while value.len() < len {
            value.extend_from_slice(&random.next().to_le_bytes());
        }
        value.into()
    }

    /// Each shard has what its writes left, and nothing else.
    pub(crate) fn check(self, engine: &Engine) {
        for shard in 0..self.shards {
            let mut model = BTreeMap::new();
            for (key, value) in (0..self.writes).flat_map(|n| self.nth(shard, n)) {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            let found = engine.shard(ShardId(shard)).scan(ScanOptions::all());
            let found: BTreeMap<String, Bytes> = found
                .map(|entry| {
                    let entry = entry.unwrap();
                    (String::from_utf8(entry.key.to_vec()).unwrap(), entry.value)
                })
                .collect();
            assert!(found == model, "shard {shard} differs");
        }
    }
}

fn batch(ops: &[(String, Option<Bytes>)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in ops {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        };
    }
    batch
}

/// The most memory that this process has had, in bytes; `None` where the system does not say.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

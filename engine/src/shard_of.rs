//! Which shard a key belongs to: the xxh3-64 of the key modulo the cluster's shard count, for ever.

use watershed_wal::ShardId;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// `shards` is at least 1: the cluster record refuses 0.
pub(crate) fn shard_of(hash: u64, shards: u64) -> ShardId {
    ShardId(hash % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_key_never_changes() {
        // Data on disk was placed by these numbers.
        let shards: Vec<u64> = ["a", "b", "watershed", "AD/03/Vila"]
            .iter()
            .map(|key| shard_of(hash(key.as_bytes()), 16).0)
            .collect();
        assert_eq!(shards, [15, 15, 11, 4]);
    }
}

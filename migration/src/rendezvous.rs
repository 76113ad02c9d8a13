//! Rendezvous hashing with weights: which node a shard belongs on.
//!
//! Each node draws as many tickets for the shard as it has weight, each ticket a hash of shard, node and ticket
//! number; the highest ticket wins. So each node gets its share, adding a node (or weight) moves only what the new
//! tickets win, and everybody computes the same without asking, in integers only.
//! (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.)

use watershed_wal::ShardId;
use xxhash_rust::xxh3::xxh3_64;

use crate::words::NodeId;

/// The most tickets of one node; a greater weight counts as this.
pub const WEIGHT_MAX: u32 = 1024;

/// The node that `shard` belongs on; `None` where no node has weight.
#[must_use]
pub fn assign(shard: ShardId, nodes: &[(NodeId, u32)]) -> Option<NodeId> {
    let best = |node: &NodeId, weight: u32| {
        (0..weight.min(WEIGHT_MAX))
            .map(|number| ticket(shard, node, number))
            .max()
    };
    nodes
        .iter()
        .filter_map(|(node, weight)| Some((best(node, *weight)?, node)))
        .max()
        .map(|(_, node)| node.clone())
}

fn ticket(shard: ShardId, node: &NodeId, number: u32) -> u64 {
    let mut bytes = Vec::with_capacity(12 + NodeId::MAX_LEN);
    bytes.extend_from_slice(&shard.0.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(node.as_str().as_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[(&str, u32)]) -> Vec<(NodeId, u32)> {
        names
            .iter()
            .map(|(n, w)| (n.parse().unwrap(), *w))
            .collect()
    }

    #[test]
    fn adding_a_node_moves_only_what_it_gets() {
        let before = nodes(&[("a", 1), ("b", 1), ("c", 2)]);
        let mut after = before.clone();
        after.extend(nodes(&[("d", 1)]));
        let mut moved = 0;
        for shard in (0..2000).map(ShardId) {
            let (old, new) = (
                assign(shard, &before).unwrap(),
                assign(shard, &after).unwrap(),
            );
            if old != new {
                assert_eq!(new.as_str(), "d");
                moved += 1;
            }
        }
        assert!(
            (300..500).contains(&moved),
            "{moved} of 2000, a fifth expected"
        );
    }

    #[test]
    fn shares_follow_the_weights_and_no_weight_gets_nothing() {
        let all = nodes(&[("a", 1), ("b", 3), ("c", 0)]);
        let of_b = (0..4000)
            .filter(|&s| assign(ShardId(s), &all).unwrap().as_str() == "b")
            .count();
        assert!(
            (2850..3150).contains(&of_b),
            "{of_b} of 4000, three quarters expected"
        );
        assert_eq!(assign(ShardId(1), &nodes(&[("c", 0)])), None);
        assert_eq!(assign(ShardId(1), &[]), None);
    }
}

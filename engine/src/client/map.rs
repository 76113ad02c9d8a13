//! Who owns what, as last heard. What is heard of one shard only goes forward: a lower epoch is older news.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use watershed_migration::NodeId;
use watershed_wal::{Epoch, ShardId};

use crate::net::client_proto::MapResponse;

/// A cluster as a client knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    /// How many shards keys are spread over; 0 before anything was heard.
    pub(super) shards: u64,
    owners: BTreeMap<ShardId, (NodeId, Epoch)>,
    pub(super) nodes: HashMap<NodeId, String>,
}

impl Map {
    /// What a node said.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("a map that can't be read ({what})");
        let heard = MapResponse::decode(bytes).map_err(|error| wrong(&error))?;
        if heard.shards == 0 {
            return Err(wrong(&"it has no shards"));
        }
        let name = |name: &str| name.parse::<NodeId>().map_err(|error| wrong(&error));
        let mut map = Self {
            shards: heard.shards,
            ..Self::default()
        };
        for owner in heard.owners {
            let of = (name(&owner.node)?, Epoch(owner.epoch));
            map.owners.insert(ShardId(owner.shard), of);
        }
        for node in heard.nodes {
            map.nodes.insert(name(&node.name)?, node.address);
        }
        Ok(map)
    }

    pub(super) fn owner(&self, shard: ShardId) -> Option<&(NodeId, Epoch)> {
        self.owners.get(&shard)
    }

    pub(super) fn all_shards(&self) -> Vec<ShardId> {
        self.owners.keys().copied().collect()
    }

    /// Notes an owner; false where that was known, or something newer is.
    pub(super) fn learn(&mut self, shard: ShardId, owner: NodeId, epoch: Epoch) -> bool {
        let newer = self.owner(shard).is_none_or(|(_, known)| *known < epoch);
        if newer {
            self.owners.insert(shard, (owner, epoch));
        }
        newer
    }

    /// Goes on with a newer map. Shards that it does not have are gone.
    pub(super) fn replace(&mut self, mut heard: Self) {
        for (shard, known) in &self.owners {
            if let Some(owner) = heard.owners.get_mut(shard)
                && owner.1 < known.1
            {
                *owner = known.clone();
            }
        }
        *self = heard;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::client_proto::{Node, Owner};

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn heard(owners: &[(u64, &str, u64)]) -> Map {
        let owners = owners.iter().map(|&(shard, node, epoch)| Owner {
            shard,
            node: node.into(),
            epoch,
        });
        let message = MapResponse {
            node: "a".into(),
            shards: 16,
            owners: owners.collect(),
            nodes: vec![Node {
                name: "a".into(),
                address: "h:1".into(),
            }],
        };
        Map::decode(&message.encode_to_vec()).unwrap()
    }

    #[test]
    fn news_of_a_shard_only_go_forward() {
        let mut map = heard(&[(0, "a", 3), (1, "a", 1)]);
        assert!(!map.learn(ShardId(0), node("b"), Epoch(3)));
        assert!(map.learn(ShardId(0), node("b"), Epoch(4)));
        map.replace(heard(&[(0, "a", 3), (2, "c", 1)]));
        assert_eq!(map.owner(ShardId(0)), Some(&(node("b"), Epoch(4))));
        assert_eq!(map.owner(ShardId(1)), None, "it was dropped");
        assert_eq!(map.all_shards(), [ShardId(0), ShardId(2)]);
        map.replace(heard(&[(0, "c", 5)]));
        assert_eq!(map.owner(ShardId(0)), Some(&(node("c"), Epoch(5))));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let bad_name = MapResponse {
            shards: 1,
            owners: vec![Owner {
                node: "no name".into(),
                ..Owner::default()
            }],
            ..MapResponse::default()
        };
        for bad in [Vec::new(), vec![0xff; 9], bad_name.encode_to_vec()] {
            assert!(Map::decode(&bad).is_err(), "{bad:?}");
        }
    }
}

//! Which shards are to move when a node is to take its part, or to be emptied.
//!
//! Every node computes the same plan from the placement alone, by [rendezvous hashing](crate::rendezvous), and carries out
//! the moves of which it is the target: nobody coordinates, and nobody's restart loses the plan. Only what the goals ask
//! for moves: a shard that an operator has put elsewhere stays there.

use serde::{Deserialize, Serialize};
use watershed_wal::ShardId;

use crate::rendezvous::assign;
use crate::words::NodeId;

/// What an operator wants of a node. It stands in the placement until it is reached or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// It is to own the shards that fall to it by its weight beside those of the others. Over once it does.
    Fill,
    /// It is to own none, and gets none. It stands until it is taken back, or the node is removed.
    Drain,
}

/// A node, as planning sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its name.
    pub node: NodeId,
    /// Its part beside the others'.
    pub weight: u32,
    /// What is wanted of it.
    pub goal: Option<Goal>,
}

/// A shard that is to move.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Who owns it.
    pub from: NodeId,
    /// Who is to own it.
    pub to: NodeId,
}

/// The moves that the goals ask for, by shard. Each may be carried out at any time and in any order; after each the plan
/// is the same but for that move.
#[must_use]
pub fn plan(seats: &[Seat], owners: &[(ShardId, NodeId)]) -> Vec<Move> {
    let wants = |node: &NodeId, goal| {
        let mut found = seats.iter().filter(|seat| seat.node == *node);
        found.any(|seat| seat.goal == Some(goal))
    };
    let open: Vec<(NodeId, u32)> = seats
        .iter()
        .filter(|seat| seat.goal != Some(Goal::Drain))
        .map(|seat| (seat.node.clone(), seat.weight))
        .collect();
    let mut moves = Vec::new();
    for (shard, from) in owners {
        let Some(to) = assign(*shard, &open).filter(|to| to != from) else {
            continue;
        };
        if wants(from, Goal::Drain) || wants(&to, Goal::Fill) {
            moves.push(Move {
                shard: *shard,
                from: from.clone(),
                to,
            });
        }
    }
    moves.sort_by_key(|step| step.shard);
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seats(of: &[(&str, u32, Option<Goal>)]) -> Vec<Seat> {
        let seat = |&(node, weight, goal): &(&str, u32, Option<Goal>)| Seat {
            node: node.parse().unwrap(),
            weight,
            goal,
        };
        of.iter().map(seat).collect()
    }

    fn all_on(node: &str, shards: u64) -> Vec<(ShardId, NodeId)> {
        (0..shards)
            .map(|s| (ShardId(s), node.parse().unwrap()))
            .collect()
    }

    #[test]
    fn without_a_goal_nothing_moves() {
        let seats = seats(&[("a", 1, None), ("b", 5, None)]);
        assert_eq!(plan(&seats, &all_on("a", 64)), []);
        assert_eq!(plan(&[], &all_on("a", 64)), []);
    }

    #[test]
    fn a_new_node_gets_its_part_and_nothing_else_moves() {
        let seats = seats(&[("a", 1, None), ("b", 1, None), ("c", 2, Some(Goal::Fill))]);
        let moves = plan(&seats, &all_on("a", 1000));
        assert!(
            (430..570).contains(&moves.len()),
            "{} of 1000, half expected",
            moves.len()
        );
        assert!(
            moves
                .iter()
                .all(|m| m.to.as_str() == "c" && m.from.as_str() == "a")
        );
    }

    #[test]
    fn a_drained_node_is_emptied_onto_those_that_are_open() {
        let drain = Some(Goal::Drain);
        let draining = seats(&[("a", 1, drain), ("b", 1, None), ("c", 1, drain)]);
        let mut owners = all_on("a", 8);
        owners.extend([(ShardId(8), "b".parse().unwrap())]);
        let moves = plan(&draining, &owners);
        assert_eq!(moves.len(), 8);
        assert!(moves.iter().all(|m| m.to.as_str() == "b"));
        // Nowhere to go.
        assert_eq!(plan(&seats(&[("a", 1, drain)]), &all_on("a", 8)), []);
    }

    fn any_seats() -> impl Strategy<Value = Vec<Seat>> {
        let goal = prop_oneof![Just(None), Just(Some(Goal::Fill)), Just(Some(Goal::Drain))];
        proptest::collection::vec((0_u32..4, goal), 1..6).prop_map(|of| {
            let seat = |(n, (weight, goal))| Seat {
                node: format!("n{n}").parse().unwrap(),
                weight,
                goal,
            };
            of.into_iter().enumerate().map(seat).collect()
        })
    }

    proptest! {
        /// Moves carried out one after the other, in any order, come to an end after as many as were planned, and each
        /// leaves the plan of the others as it was.
        #[test]
        fn a_plan_is_carried_out_move_by_move(
            seats in any_seats(),
            places in proptest::collection::vec(0_usize..6, 1..40),
            order in any::<u64>(),
        ) {
            let owner = |(shard, place): (usize, usize)| {
                (ShardId(shard as u64), format!("n{place}").parse().unwrap())
            };
            let mut owners: Vec<(ShardId, NodeId)> = places.into_iter().enumerate().map(owner).collect();
            let mut planned = plan(&seats, &owners);
            while !planned.is_empty() {
                let next = planned.remove((order % planned.len() as u64) as usize);
                prop_assert_ne!(&next.from, &next.to);
                for owner in owners.iter_mut().filter(|owner| owner.0 == next.shard) {
                    prop_assert_eq!(&owner.1, &next.from);
                    owner.1 = next.to.clone();
                }
                prop_assert_eq!(&plan(&seats, &owners), &planned);
            }
            let drained = |node: &NodeId| {
                seats.iter().any(|s| s.node == *node && s.goal == Some(Goal::Drain))
            };
            let open = seats.iter().any(|s| s.weight > 0 && s.goal != Some(Goal::Drain));
            prop_assert!(!open || owners.iter().all(|(_, node)| !drained(node)));
        }
    }
}

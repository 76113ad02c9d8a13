//! Members of the cluster, as messages: checked on their way in.

use watershed_migration::NodeId;
use watershed_migration::balance::Goal;

use super::proto;
use crate::placement::{Member, NodeInfo};

/// The longest HOST:PORT: a host's name has 253 bytes at most.
const MAX_ADDRESS_BYTES: usize = 260;

pub(super) fn name(node: &str) -> Result<NodeId, String> {
    node.parse().map_err(|error| format!("{error}"))
}

pub(super) fn info(info: Option<proto::NodeInfo>) -> Result<NodeInfo, String> {
    let proto::NodeInfo { address, weight } = info.ok_or("a node that says nothing of itself")?;
    if address.len() > MAX_ADDRESS_BYTES {
        let len = address.len();
        return Err(format!(
            "an address of {len} bytes: HOST:PORT has {MAX_ADDRESS_BYTES} at most"
        ));
    }
    Ok(NodeInfo { address, weight })
}

pub(super) fn info_to_wire(info: NodeInfo) -> proto::NodeInfo {
    let NodeInfo { address, weight } = info;
    proto::NodeInfo { address, weight }
}

pub(super) fn to_wire((node, member): (&NodeId, &Member)) -> proto::Member {
    proto::Member {
        node: node.to_string(),
        info: Some(info_to_wire(member.info.clone())),
        goal: member.goal.map(|goal| goal_to_wire(goal).into()),
        alive: member.alive,
    }
}

pub(super) fn from_wire(member: proto::Member) -> Result<(NodeId, Member), String> {
    let read = Member {
        info: info(member.info)?,
        goal: goal(member.goal)?,
        alive: member.alive,
    };
    Ok((name(&member.node)?, read))
}

pub(super) const fn goal_to_wire(goal: Goal) -> proto::Goal {
    match goal {
        Goal::Fill => proto::Goal::Fill,
        Goal::Drain => proto::Goal::Drain,
    }
}

pub(super) fn goal(goal: Option<i32>) -> Result<Option<Goal>, String> {
    let read = |number| match proto::Goal::try_from(number) {
        Ok(proto::Goal::Fill) => Ok(Goal::Fill),
        Ok(proto::Goal::Drain) => Ok(Goal::Drain),
        _ => Err(format!(
            "goal {number} is not known here; upgrade this node"
        )),
    };
    goal.map(read).transpose()
}

//! The peers, each opened so that it does the same work at the same durability.

pub(crate) mod fjall;
pub(crate) mod our_log;
pub(crate) mod ours;
pub(crate) mod raft;
pub(crate) mod redb;
pub(crate) mod rocks;

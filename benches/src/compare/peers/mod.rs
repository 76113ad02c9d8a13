//! The peers, each opened so that it does the same work at the same durability.

pub(crate) mod fjall;
pub(crate) mod our_log;
pub(crate) mod ours;
pub(crate) mod raft;
pub(crate) mod redb;
pub(crate) mod rocks;

/// So many threads, in words.
fn threads_named(count: u64) -> String {
    if count == 1 {
        "1 thread".into()
    } else {
        format!("{count} threads")
    }
}

//! Who owns the shards that are elsewhere, as last heard: requests for them need not ask the placement each, and go on
//! while it can't be reached.
//!
//! What is wrong here costs a detour only: whoever is asked and is not the owner refuses, and says who is. It is believed
//! until the placement tells of any change, or a request that went by it failed; then the placement is read again. Where that
//! fails, the last heard is still the best guess.

use std::collections::HashMap;
use std::sync::RwLock;

use tokio::sync::watch;
use watershed_migration::NodeId;
use watershed_wal::{Epoch, ShardId};

use crate::sync;

#[derive(Debug)]
pub(crate) struct Owners {
    heard: RwLock<HashMap<ShardId, Heard>>,
    changes: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Heard {
    owner: NodeId,
    epoch: Epoch,
    /// The placement's count of changes before which it was heard; none where it failed since.
    at: Option<u64>,
}

impl Owners {
    pub(crate) fn new(changes: watch::Receiver<u64>) -> Self {
        Self {
            heard: RwLock::default(),
            changes,
        }
    }

    /// The placement's count of changes: to be taken before what is then learnt is asked for.
    pub(super) fn now(&self) -> u64 {
        *self.changes.borrow()
    }

    /// The owner, where nothing speaks against what was heard.
    pub(super) fn trusted(&self, shard: ShardId) -> Option<(NodeId, Epoch)> {
        let now = self.now();
        let heard = sync::read(&self.heard);
        let heard = heard.get(&shard).filter(|heard| heard.at == Some(now))?;
        Some((heard.owner.clone(), heard.epoch))
    }

    /// The owner that was heard of last.
    pub(super) fn last(&self, shard: ShardId) -> Option<(NodeId, Epoch)> {
        let heard = sync::read(&self.heard);
        let heard = heard.get(&shard)?;
        Some((heard.owner.clone(), heard.epoch))
    }

    /// Notes what the placement said, or a node that is not the owner any more; older news are passed over.
    pub(super) fn learn(&self, shard: ShardId, owner: &NodeId, epoch: Epoch, at: u64) {
        let mut heard = sync::write(&self.heard);
        if heard.get(&shard).is_some_and(|known| known.epoch > epoch) {
            return;
        }
        let owner = owner.clone();
        let at = Some(at);
        heard.insert(shard, Heard { owner, epoch, at });
    }

    /// A request that went by it was served at `Some(at)` or later; `None`: it was not, so the placement is to be asked.
    pub(super) fn note(&self, shard: ShardId, epoch: Epoch, served: Option<u64>) {
        let is_known = |heard: &Heard| heard.epoch != epoch || heard.at == served;
        // Nearly always as it was, and then nobody waits here.
        if sync::read(&self.heard).get(&shard).is_none_or(is_known) {
            return;
        }
        if let Some(heard) = sync::write(&self.heard).get_mut(&shard)
            && heard.epoch == epoch
        {
            heard.at = served;
        }
    }

    /// It is here, or nowhere.
    pub(super) fn forget(&self, shard: ShardId) {
        if sync::read(&self.heard).contains_key(&shard) {
            sync::write(&self.heard).remove(&shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn what_was_heard_is_believed_until_something_changes_or_fails() {
        let changes = watch::Sender::new(0);
        let owners = Owners::new(changes.subscribe());
        let (a, b) = ((node("a"), Epoch(1)), (node("b"), Epoch(2)));
        assert_eq!((owners.trusted(SHARD), owners.last(SHARD)), (None, None));
        owners.learn(SHARD, &a.0, a.1, owners.now());
        assert_eq!(owners.trusted(SHARD), Some(a.clone()));
        // A change, of whatever: to be asked, but still the best guess; and believed again once it has served.
        changes.send_modify(|count| *count += 1);
        assert_eq!(
            (owners.trusted(SHARD), owners.last(SHARD)),
            (None, Some(a.clone()))
        );
        owners.note(SHARD, a.1, Some(owners.now()));
        assert_eq!(owners.trusted(SHARD), Some(a.clone()));
        owners.note(SHARD, a.1, None);
        assert_eq!(
            (owners.trusted(SHARD), owners.last(SHARD)),
            (None, Some(a.clone()))
        );
        // A change that comes while it is asked for is one to ask for again.
        let before = owners.now();
        changes.send_modify(|count| *count += 1);
        owners.learn(SHARD, &b.0, b.1, before);
        assert_eq!(
            (owners.trusted(SHARD), owners.last(SHARD)),
            (None, Some(b.clone()))
        );
        // Older news, and what came of a request by them.
        owners.learn(SHARD, &a.0, a.1, owners.now());
        owners.note(SHARD, a.1, Some(owners.now()));
        assert_eq!((owners.trusted(SHARD), owners.last(SHARD)), (None, Some(b)));
        owners.forget(SHARD);
        assert_eq!(owners.last(SHARD), None);
    }
}

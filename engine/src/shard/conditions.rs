//! Conditions of a write, decided when its Seq is assigned, pending writes included (rule 13).
//!
//! A condition names a key and what must be there: a version, or nothing. The store alone can't answer while writes to
//! the key are assigned but not applied, so once a shard meets a condition it keeps an *overlay* of its pending
//! writes' keys; a shard that never sees one pays nothing for it. An overlay that starts while writes are in flight is
//! whole once those are applied: until then conditional writes wait, others go on.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use watershed_wal::{BatchReader, Op, Seq, Term};

use super::Hosted;
use super::sessions::Sessions;
use crate::Error;
use crate::store::{USER_KEYSPACE, Version};
use crate::sync::lock;

/// An overlay that no condition asked for during so many writes is given up.
const OVERLAY_IDLE_WRITES: u32 = 16 << 10;

/// What a key must be for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) key: Bytes,
    pub(crate) expected: Expected,
}

/// What a condition expects at its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// No value.
    Absent,
    /// The value of this version.
    Version(Version),
}

/// What the critical section of assigning Seqs keeps.
#[derive(Debug, Default)]
pub(super) struct Assign {
    overlay: Option<Overlay>,
    /// Read from the store when the first write of a session comes, and kept from then on.
    pub(super) sessions: Option<Sessions>,
    /// The last Seq assigned here.
    last: Seq,
}

#[derive(Debug)]
struct Overlay {
    /// Whole once this is applied: what came before it is not in it.
    whole_after: Seq,
    /// The newest pending write of a key: its version, and whether it leaves a value.
    keys: HashMap<Bytes, (Version, bool)>,
    order: VecDeque<(Seq, Vec<Bytes>)>,
    idle_writes: u32,
}

/// How the conditions of a write stand.
#[derive(Debug)]
pub(super) enum Decision {
    Holds,
    /// Ask again once this Seq is applied.
    AfterApplied(Seq),
    /// The answer is no, and it may be given once this Seq is applied: it rests on a write that is not yet certain.
    Fails {
        /// Which condition.
        index: u32,
        /// What its key holds.
        found: Option<Version>,
        after: Seq,
    },
}

impl Assign {
    /// Notes an assigned write. Called for every write while the section is held.
    pub(super) fn assigned(&mut self, term: Term, seq: Seq, body: &Bytes) {
        self.last = seq;
        let Some(overlay) = &mut self.overlay else {
            return;
        };
        overlay.idle_writes += 1;
        if overlay.idle_writes > OVERLAY_IDLE_WRITES {
            self.overlay = None;
            return;
        }
        let version = Version { term, seq };
        let mut keys = Vec::new();
        // The body was made by our own encoder a moment ago.
        for op in BatchReader::new(body.clone())
            .into_iter()
            .flatten()
            .flatten()
        {
            let (key, leaves_value) = match op {
                Op::Put {
                    keyspace: USER_KEYSPACE,
                    key,
                    ..
                } => (key, true),
                Op::Delete {
                    keyspace: USER_KEYSPACE,
                    key,
                    ..
                } => (key, false),
                _ => continue,
            };
            overlay.keys.insert(key.clone(), (version, leaves_value));
            keys.push(key);
        }
        overlay.order.push_back((seq, keys));
    }
}

impl Overlay {
    fn applied(&mut self, through: Seq) {
        while self.order.front().is_some_and(|(seq, _)| *seq <= through) {
            let Some((seq, keys)) = self.order.pop_front() else {
                return;
            };
            for key in keys {
                if self
                    .keys
                    .get(&key)
                    .is_some_and(|(version, _)| version.seq <= seq)
                {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

impl Hosted {
    /// Decides the conditions while the section `assign` is held.
    pub(super) fn decide(
        &self,
        assign: &mut Assign,
        conditions: &[Condition],
    ) -> Result<Decision, Error> {
        let store = self.store()?;
        let applied = store.applied().seq;
        let overlay = assign.overlay.get_or_insert_with(|| {
            self.overlay_on.store(true, Ordering::Release);
            Overlay {
                whole_after: assign.last,
                keys: HashMap::new(),
                order: VecDeque::new(),
                idle_writes: 0,
            }
        });
        overlay.idle_writes = 0;
        overlay.applied(applied);
        if applied < overlay.whole_after {
            return Ok(Decision::AfterApplied(overlay.whole_after));
        }
        for (index, condition) in conditions.iter().enumerate() {
            let (found, after) = match overlay.keys.get(&condition.key) {
                Some((version, leaves_value)) => (leaves_value.then_some(*version), version.seq),
                None => {
                    let found = store.version_of(&condition.key)?;
                    (
                        found.and_then(|(version, tombstone)| (!tombstone).then_some(version)),
                        applied,
                    )
                }
            };
            let holds = match condition.expected {
                Expected::Absent => found.is_none(),
                Expected::Version(version) => found == Some(version),
            };
            if !holds {
                return Ok(Decision::Fails {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    found,
                    after,
                });
            }
        }
        Ok(Decision::Holds)
    }

    /// Drops overlay entries that the store has now.
    pub(super) fn forget_pending(&self, through: Seq) {
        if !self.overlay_on.load(Ordering::Acquire) {
            return;
        }
        let mut assign = lock(&self.assign);
        match &mut assign.overlay {
            Some(overlay) => overlay.applied(through),
            None => self.overlay_on.store(false, Ordering::Release),
        }
    }
}

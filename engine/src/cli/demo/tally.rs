//! What all writers share: the phase that each shard is in, and the counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use serde::Serialize;

use crate::migration::Phase;
use crate::{Retry, ShardId};

/// What a write does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// When a write was submitted, seen from the moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Period {
    Before,
    During,
    After,
}

impl Period {
    pub(super) const ALL: [Self; 3] = [Self::Before, Self::During, Self::After];

    fn of(code: u8) -> Self {
        Self::ALL[usize::from(code)]
    }
}

/// Writes by what they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct ByKind {
    pub(super) insert: u64,
    pub(super) update: u64,
    pub(super) delete: u64,
}

/// The name under which writes to shards outside any migration are counted.
pub(super) const NO_PHASE: &str = "none";

/// Shared counters.
#[derive(Debug)]
pub(super) struct Tally {
    /// For each shard, 0 or 1 + the index of its migration's phase.
    phases: Vec<AtomicU8>,
    submitted: Vec<[AtomicU64; 3]>,
    acknowledged: [AtomicU64; 3],
    resent: AtomicU64,
    period: AtomicU8,
    stop: AtomicBool,
}

impl Tally {
    pub(super) fn new(shards: u32) -> Self {
        Self {
            phases: (0..shards).map(|_| AtomicU8::new(0)).collect(),
            submitted: (0..=Phase::ALL.len()).map(|_| Default::default()).collect(),
            acknowledged: Default::default(),
            resent: AtomicU64::new(0),
            period: AtomicU8::new(Period::Before as u8),
            stop: AtomicBool::new(false),
        }
    }

    /// The migration of `shard` is in this phase from now on.
    pub(super) fn enter(&self, shard: ShardId, phase: Phase) {
        let code = if phase.is_final() {
            0
        } else {
            let index = Phase::ALL
                .iter()
                .position(|known| *known == phase)
                .unwrap_or(0);
            u8::try_from(index + 1).unwrap_or(0)
        };
        if let Some(slot) = self.slot(shard) {
            slot.store(code, Ordering::SeqCst);
        }
    }

    fn slot(&self, shard: ShardId) -> Option<&AtomicU8> {
        self.phases.get(usize::try_from(shard.0).ok()?)
    }

    /// A write to `shard` is about to be submitted.
    pub(super) fn submit(&self, shard: ShardId, kind: Kind) {
        let code = self
            .slot(shard)
            .map_or(0, |slot| slot.load(Ordering::SeqCst));
        self.submitted[usize::from(code)][kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A write submitted in `period` was acknowledged.
    pub(super) fn acknowledge(&self, period: Period) {
        self.acknowledged[period as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A write that had not happened is sent again.
    pub(super) fn resend(&self) {
        self.resent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    pub(super) fn acknowledged(&self, period: Period) -> u64 {
        self.acknowledged[period as usize].load(Ordering::Relaxed)
    }

    pub(super) fn acknowledged_in_all(&self) -> u64 {
        Period::ALL
            .into_iter()
            .map(|period| self.acknowledged(period))
            .sum()
    }

    pub(super) fn period(&self) -> Period {
        Period::of(self.period.load(Ordering::Relaxed))
    }

    pub(super) fn set_period(&self, period: Period) {
        self.period.store(period as u8, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Submitted writes under the phase of their shard's migration, for the phases that a migration passes through.
    pub(super) fn by_phase(&self) -> BTreeMap<String, ByKind> {
        let names =
            std::iter::once(NO_PHASE.to_owned()).chain(Phase::ALL.iter().map(ToString::to_string));
        let counted = names.zip(&self.submitted).map(|(name, counts)| {
            let count = |kind: Kind| counts[kind as usize].load(Ordering::Relaxed);
            let by_kind = ByKind {
                insert: count(Kind::Insert),
                update: count(Kind::Update),
                delete: count(Kind::Delete),
            };
            (name, by_kind)
        });
        let ends = Phase::ALL
            .iter()
            .filter(|phase| phase.is_final())
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        counted.filter(|(name, _)| !ends.contains(name)).collect()
    }
}

/// Whether a write that failed in this way did not happen and may be sent again as it is.
pub(super) fn may_resend(retry: Retry) -> bool {
    matches!(retry, Retry::Now | Retry::Elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_count_under_the_phase_of_their_own_shard() {
        let tally = Tally::new(2);
        tally.enter(ShardId(1), Phase::Drain);
        tally.submit(ShardId(0), Kind::Insert);
        tally.submit(ShardId(1), Kind::Delete);
        tally.enter(ShardId(1), Phase::Done);
        tally.submit(ShardId(1), Kind::Update);
        let by_phase = tally.by_phase();
        assert_eq!(
            by_phase[NO_PHASE],
            ByKind {
                insert: 1,
                update: 1,
                delete: 0
            }
        );
        assert_eq!(
            by_phase["drain"],
            ByKind {
                insert: 0,
                update: 0,
                delete: 1
            }
        );
        assert!(by_phase.contains_key("plan") && !by_phase.contains_key("done"));
    }
}

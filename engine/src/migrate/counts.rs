//! What is counted of migrations while an engine is open, for whoever watches a node.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use watershed_migration::machine::{Outcome, Progress};
use watershed_wal::{TimeCounts, Times};

use crate::sync::lock;

/// The numbers as they are counted. What is of the source is counted where the shard left, the rest where it was driven.
#[derive(Debug, Default)]
pub(crate) struct MoveCounts {
    pauses: TimeCounts,
    re_opens: AtomicU64,
    done: AtomicU64,
    aborted: AtomicU64,
    holes_filled: AtomicU64,
    delta_records: AtomicU64,
    differences: AtomicU64,
    last_clean: Mutex<Option<Instant>>,
}

/// What was counted of migrations since the engine was opened.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct MigrationCounts {
    /// Pauses of shards that this node owned, from closing the gate to release or re-opening.
    pub pauses: Times,
    /// How many of them ended in re-opening.
    pub re_opens: u64,
    /// Migrations driven here to their end.
    pub done: u64,
    /// Migrations driven here that ended otherwise.
    pub aborted: u64,
    /// Ranges of missing records that migrations driven here have shipped.
    pub holes_filled: u64,
    /// Records in them.
    pub delta_records: u64,
    /// How long ago an old copy was last compared and found equal to the new owner's; `None` before the first time.
    pub last_clean_comparison: Option<Duration>,
    /// Entries in which old copies differed from the new owner's.
    pub differences: u64,
}

impl MoveCounts {
    /// A pause has ended.
    pub(super) fn paused(&self, took: Duration, re_opened: bool) {
        self.pauses.note(took);
        self.re_opens
            .fetch_add(u64::from(re_opened), Ordering::Relaxed);
    }

    /// What a driver has shipped, beyond what it had `before`.
    pub(super) fn shipped(&self, before: &Progress, now: &Progress) {
        let add = |counter: &AtomicU64, before: u64, now: u64| {
            counter.fetch_add(now.saturating_sub(before), Ordering::Relaxed);
        };
        add(&self.holes_filled, before.holes_filled, now.holes_filled);
        add(&self.delta_records, before.delta_records, now.delta_records);
    }

    /// A migration that was driven here has ended.
    pub(super) fn ended(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Done => {
                self.done.fetch_add(1, Ordering::Relaxed);
                // The old copy is deleted only once it was compared.
                *lock(&self.last_clean) = Some(Instant::now());
            }
            Outcome::CopiesDiffer { found, .. } => {
                self.differences.fetch_add(*found, Ordering::Relaxed);
            }
            // Another driver counts how it ends.
            Outcome::Superseded { .. } => {}
            _ => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> MigrationCounts {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MigrationCounts {
            pauses: self.pauses.read(),
            re_opens: number(&self.re_opens),
            done: number(&self.done),
            aborted: number(&self.aborted),
            holes_filled: number(&self.holes_filled),
            delta_records: number(&self.delta_records),
            last_clean_comparison: lock(&self.last_clean).map(|at| at.elapsed()),
            differences: number(&self.differences),
        }
    }
}

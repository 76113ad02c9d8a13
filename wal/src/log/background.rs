//! The background sync of what was written without one.
//!
//! Direct appends go on beside it, so it covers only what was written when it began. The writer stays in its place,
//! and nobody takes it until the sync has ended; a frame that is appended meanwhile starts in a block of its own, so
//! that no block with bytes that are about to be promised is written again.

use std::sync::Arc;

use super::commit::failed;
use super::core::{Core, PanicGuard};
use super::state::{Delivery, InstanceIndex, State};
use crate::format::frame::Position;
use crate::seqset::SeqRange;
use crate::storage::StorageFile;
use crate::sync::{Instant, MutexGuard};

/// What a background sync covers.
struct Covered {
    file: Arc<dyn StorageFile>,
    through: Position,
    ranges: Vec<(InstanceIndex, Vec<SeqRange>)>,
}

impl Core {
    /// Syncs what was written without.
    pub(crate) fn background_sync<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let Some(covered) = state.begin_sync() else {
            return state;
        };
        drop(state);
        let guard = PanicGuard(self);
        let begin = Instant::now();
        let result = covered.file.sync();
        if result.is_ok() {
            self.metrics.synced(begin.elapsed());
        }
        guard.disarm();
        let mut state = self.lock();
        state.syncing = false;
        match result {
            Ok(()) => {
                state.end_sync(covered);
                state.unrecorded_since = Some(Instant::now());
            }
            Err(error) => {
                let reason = failed("syncing", covered.through.segment, &error);
                self.poison(&mut state, &reason, Vec::new());
            }
        }
        drop(state);
        self.deliver(usize::MAX, None);
        self.lock()
    }
}

impl State {
    fn begin_sync(&mut self) -> Option<Covered> {
        if !self.can_write() {
            return None;
        }
        let writer = self.writer.as_mut()?;
        writer.sealed = writer.end;
        writer.dirty = false;
        let file = Arc::clone(&writer.file);
        let through = Position {
            segment: writer.segment,
            offset: writer.end,
        };
        self.syncing = true;
        self.unsynced_since = None;
        let mut ranges = Vec::with_capacity(self.unsynced.len());
        for at in std::mem::take(&mut self.unsynced) {
            if let Ok(instance) = self.instance_mut(at) {
                ranges.push((at, std::mem::take(&mut instance.unsynced)));
            }
        }
        Some(Covered {
            file,
            through,
            ranges,
        })
    }

    /// What the sync covered is durable now.
    fn end_sync(&mut self, covered: Covered) {
        if let Some(writer) = &mut self.writer {
            writer.synced = covered.through;
        }
        let mut delivery = Delivery::default();
        for (at, ranges) in covered.ranges {
            if let Ok(instance) = self.instance_mut(at) {
                let ready = instance.now_durable(ranges).into_iter();
                delivery.plain.extend(ready.map(|done| (done, Ok(()))));
            }
        }
        if !delivery.plain.is_empty() {
            self.deliveries.push_back(delivery);
        }
    }
}

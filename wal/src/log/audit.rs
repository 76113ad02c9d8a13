//! What must be true of the log when none of its threads can go on: for the checks in `tests/shuttle/` alone.
//!
//! A wait that only its timeout ends is right where the design says so (a background sync, a lead that was
//! leaked, a device that is full). Anywhere else it is a wake-up that was lost, which the timeout would hide.

use std::sync::{Arc, Weak};

use super::Log;
use super::core::Core;
use super::state::{State, ThreadState};

/// Looks at a log without keeping it open.
#[derive(Clone, Debug)]
pub struct Audit(Weak<Core>);

impl Log {
    /// For [`Audit::idle`].
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit(Arc::downgrade(&self.handle.core))
    }
}

impl Audit {
    /// To be called when no thread can run: whether each that waits does so by design. `leaked`: a lead may have
    /// been, so that what is queued waits for the log thread's timeout.
    ///
    /// # Errors
    /// What waits for nothing.
    pub fn idle(&self, leaked: bool) -> Result<(), String> {
        let Some(core) = self.0.upgrade() else {
            return Ok(());
        };
        let state = core.lock();
        why_idle(&state, leaked).map_err(|why| {
            format!(
                "{why}; log thread {:?}, {} pending of {} wanted, taken {}, writing {}, deliveries {}, spares {}, full {:?}",
                state.thread,
                state.pending.entries.len(),
                state.late_close,
                state.taken,
                state.writer.is_none(),
                state.deliveries.len(),
                state.room.spares.len(),
                state.room.full,
            )
        })
    }
}

fn why_idle(state: &State, leaked: bool) -> Result<(), &'static str> {
    if state.closed {
        return Ok(());
    }
    if !state.deliveries.is_empty() && !state.delivering {
        return Err("a delivery waits for nobody");
    }
    if state.removable.is_some() || state.keeper_called {
        return Err("the keeper was called and sleeps");
    }
    if state.poison.is_some() {
        return Ok(());
    }
    for instance in state.instances.iter().flatten() {
        let mark = instance.durable_mark;
        if instance.waiting.iter().any(|&(seq, _)| seq < mark) {
            return Err("who waits for the durable mark was not told");
        }
    }
    let gathers = state.thread == ThreadState::Gathering;
    let is_pending = !state.pending.entries.is_empty() && state.writer.is_some();
    if is_pending && gathers && state.pending.entries.len() >= state.late_close {
        return Err("enough writes came, and the log thread gathers on");
    }
    if is_pending && !gathers && (!leaked || state.thread != ThreadState::Timed) {
        return Err("a write waits for nobody");
    }
    if !state.unsynced.is_empty() && state.unsynced_since.is_none() {
        return Err("what is written is never synced");
    }
    if !state.unsynced.is_empty() && state.thread == ThreadState::Deep {
        return Err("a background sync waits for nobody");
    }
    if state.closing {
        return Err("closing waits for nobody");
    }
    Ok(())
}

//! The log thread: commits what no submitting thread leads, syncs buffered writes, and marks idle syncs.
//!
//! It looks at the state, does the first thing that is due, and looks again. It is called when something is
//! queued that nobody leads; by itself it looks again after `buffered_sync_every` while anything is unsettled,
//! so that a lead that was leaked holds nothing up for longer than that.

use std::time::Duration;

use super::core::{Core, PanicGuard};
use super::room::{Room, Use};
use super::state::{State, ThreadState, note_size};
use crate::format::notes::LocalNote;
use crate::format::payload::PayloadWriter;
use crate::sync::{Instant, MutexGuard, wait, wait_for};

/// From this sync latency on a frame waits for the writers of the one before, as plain pipelining would settle
/// into two half-full groups. Below it waiting costs more than fuller frames give: a fifth with 256 in flight on one
/// shard and a sync of 0.08 ms.
const LATE_CLOSE_FROM_US: u64 = 500;

/// Whether waiting for the writers of the last frame pays.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Waits in a row that were in vain.
    in_vain: u32,
    /// Frames to close at once before the next try.
    left: u32,
}

impl Patience {
    /// The most frames between two tries: 2 to this power.
    const LONGEST: u32 = 6;

    fn learn(&mut self, came: bool) {
        self.in_vain = if came {
            0
        } else {
            (self.in_vain + 1).min(Self::LONGEST)
        };
        self.left = (1 << self.in_vain) - 1;
    }

    fn skips(&mut self) -> bool {
        let skips = self.left > 0;
        self.left = self.left.saturating_sub(1);
        skips
    }
}

impl Core {
    /// Runs until the log is closed.
    pub(crate) fn run_log_thread(&self) {
        let mut state = self.lock();
        loop {
            state.thread = ThreadState::Running;
            if !state.deliveries.is_empty() && !state.delivering {
                drop(state);
                self.deliver(usize::MAX, None);
                state = self.lock();
            } else if state.closing && state.poison.is_some() {
                break;
            } else if !state.can_write() {
                state = self.park(state);
            } else if state.poison.is_none() && !state.pending.entries.is_empty() {
                state = self.close_late(state);
                let records = state.pending.entries.len();
                state = self.commit_pending(state, None);
                self.expect_writers(&mut state, records);
            } else if state.poison.is_none() && self.is_due(self.unsynced_due(&state), &state) {
                state = self.background_sync(state);
            } else if state.poison.is_none() && self.is_due(self.mark_due(&state), &state) {
                state = self.mark(state);
            } else if state.closing {
                break;
            } else {
                state = self.park(state);
            }
        }
        state.closed = true;
        self.keeper.notify_all();
        self.prepared.notify_all();
    }

    fn is_due(&self, due: Option<Instant>, state: &State) -> bool {
        due.is_some_and(|due| state.closing || due <= Instant::now())
    }

    /// Waits to be called, or until something is due.
    fn park<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let unsettled = !state.pending.entries.is_empty() || !state.can_write();
        let leaked = unsettled.then(|| Instant::now() + self.options.buffered_sync_every);
        let due = [self.unsynced_due(&state), self.mark_due(&state), leaked];
        match due.into_iter().flatten().min() {
            Some(due) if state.poison.is_none() => {
                state.thread = ThreadState::Timed;
                let timeout = due.saturating_duration_since(Instant::now());
                wait_for(&self.work, state, timeout.max(Duration::from_millis(1)))
            }
            _ => {
                state.thread = ThreadState::Deep;
                wait(&self.work, state)
            }
        }
    }

    /// After a frame of many: how many writes to wait for before the next is closed. Where waiting was in vain, since
    /// the writers need longer than that to come again, it is tried less and less often.
    fn expect_writers(&self, state: &mut State, records: usize) {
        if records > 1 && self.sync_us() >= LATE_CLOSE_FROM_US && !state.closing {
            if state.patience.skips() {
                return;
            }
            let in_flight = records + state.pending.entries.len();
            state.late_close = in_flight - in_flight / 8;
        }
    }

    /// Waits a fraction of a sync for nearly all writers in flight to be in.
    fn close_late<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.late_close == 0 {
            return state;
        }
        let deadline = Instant::now() + Duration::from_micros(self.sync_us() / 4);
        while state.pending.entries.len() < state.late_close && !state.closing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.thread = ThreadState::Gathering;
            state = wait_for(&self.work, state, left);
            state.thread = ThreadState::Running;
        }
        let came = state.pending.entries.len() >= state.late_close;
        state.patience.learn(came);
        state.late_close = 0;
        state
    }

    pub(crate) fn sync_us(&self) -> u64 {
        self.metrics
            .sync_us
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes a small frame that tells how far the log is durable, so that rot of the last acknowledged frame is
    /// told from a torn tail; flushed marks ride with it.
    fn mark<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(mut writer) = state.take_writer() else {
            return state;
        };
        let notes = state.waiting_notes();
        state.unrecorded_since = None;
        let cost = Room::frame_cost(notes.iter().map(note_size).sum());
        if !state.has_room(Use::Notes, &[cost], 0) {
            state.writer = Some(writer);
            return state; // the next head tells
        }
        // What is queued meanwhile is placed behind it.
        state.room.in_flight = cost;
        state.plan_room();
        drop(state);
        let guard = PanicGuard(self);
        let result = writer.mark(self, &notes);
        guard.disarm();
        let mut state = self.lock();
        match result {
            Ok(true) => self.noted(&mut state, &notes),
            Ok(false) => {} // no room left in the segment: the next head tells
            Err(reason) => self.poison(&mut state, &reason, Vec::new()),
        }
        self.put_back(&mut state, writer);
        state
    }

    /// These notes need not be written again.
    pub(crate) fn noted(&self, state: &mut State, notes: &[LocalNote]) {
        state.endings.retain(|ending| !notes.contains(ending));
        for note in notes {
            let LocalNote::Flushed(id, seq) = note else {
                continue;
            };
            let at = state.by_id.get(id).copied();
            if let Some(Ok(instance)) = at.map(|at| state.instance_mut(at)) {
                instance.flushed_noted = instance.flushed_noted.max(*seq);
            }
        }
    }
}

impl super::commit::Writer {
    /// Writes and syncs a frame of these notes; `false` if the segment has no room for it.
    fn mark(&mut self, core: &Core, notes: &[LocalNote]) -> Result<bool, String> {
        let mut payload = Vec::new();
        let mut writer = PayloadWriter::new(&mut payload, &[]);
        notes.iter().for_each(|note| writer.note(note));
        if !self.fits(crate::codec::len64(payload.len())) {
            return Ok(false);
        }
        let count = u32::try_from(notes.len()).map_err(|_| "a frame of 2^32 notes".to_owned())?;
        self.write(super::commit::FrameKind::Plain, count, |out| {
            out.extend_from_slice(&payload)
        })?;
        self.sync(&core.metrics)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::Patience;

    #[test]
    fn waiting_in_vain_is_tried_less_often_and_success_brings_it_back() {
        let mut patience = Patience::default();
        let mut tries = |came: bool, frames: u32| {
            let mut tries = 0;
            for _ in 0..frames {
                if !patience.skips() {
                    tries += 1;
                    patience.learn(came);
                }
            }
            tries
        };
        assert_eq!(tries(true, 100), 100);
        assert_eq!(
            tries(false, 1000),
            20,
            "frames 0, 2, 6, 14 .. and then each 64th"
        );
        assert!(tries(true, 200) > 130);
    }
}

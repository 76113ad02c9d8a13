//! The keeper: a thread that makes segments ahead and takes away those that nobody needs; see `recycle` for their files.
//!
//! It never waits for a caller and calls no sink, so that a caller may wait for it. What it takes away is gone
//! for good, so that a note of the first segment still needed, and the flushed marks that say why, are durable
//! before a file is removed; holds were restored before the keeper starts.

use std::io;
use std::time::Duration;

use super::core::Core;
use super::room::{Full, Room, Spare, Use};
use super::scan::segment_name;
use super::state::{Entry, State};
use crate::format::notes::LocalNote;
use crate::sync::{MutexGuard, wait, wait_for};

/// How soon to try again when there was no room.
const RETRY: Duration = Duration::from_millis(50);
/// How often to look for holds that expire.
const HOLD_CHECK: Duration = Duration::from_secs(1);

impl Core {
    /// Runs until the log is closed.
    pub(crate) fn run_keeper(&self) {
        let mut state = self.lock();
        while !state.closed {
            state.keeper_called = false;
            state = self.remove_garbage(state);
            state = self.remove_noted(state);
            if state.file_bytes() <= self.options.limit_bytes {
                state.room.is_beyond = false;
            }
            state = self.prepare(state);
            self.truncate(&mut state);
            if state.keeper_called || state.closed {
                continue;
            }
            let holds = state
                .instances
                .iter()
                .flatten()
                .any(|i| !i.holds.is_empty());
            state = match (state.room.full.is_some(), holds) {
                (true, _) => wait_for(&self.keeper, state, RETRY),
                (false, true) => wait_for(&self.keeper, state, HOLD_CHECK),
                (false, false) => wait(&self.keeper, state),
            };
        }
    }

    fn remove_garbage<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let garbage = std::mem::take(&mut state.room.garbage);
        if garbage.is_empty() {
            return state;
        }
        drop(state);
        for id in garbage {
            self.remove_segment(id);
        }
        self.lock()
    }

    /// A file that could not be removed is a stray at the next opening: no reason to stop writing.
    pub(crate) fn remove_segment(&self, id: u64) {
        match self.storage.remove(&segment_name(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(segment = id, %error, "a log segment could not be removed");
            }
            _ => {}
        }
    }

    /// Makes spares until there are as many, and one as long, as is wanted.
    fn prepare<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        loop {
            let wanted = state.room.wanted_len;
            let longest = state.room.spares.iter().map(|spare| spare.len).max();
            let enough = state.room.spares.len() >= state.room.wanted.max(1)
                && longest.is_some_and(|len| len >= wanted);
            if enough || state.poison.is_some() || state.closed {
                state.room.wanted = 1;
                state.room.wanted_len = 0;
                state.room.beyond = false;
                state.room.full = None;
                self.prepared.notify_all();
                return state;
            }
            let heads = state.room.head_bytes.saturating_mul(2) + state.room.reserve;
            let len = wanted.max(self.options.segment_bytes.into()).max(heads);
            state = match self.add_spare(state, len) {
                Ok(state) => state,
                Err((state, why)) => return self.no_room(state, why, len),
            };
        }
    }

    /// Makes one more spare, of a file that waits where it can, or gives one of those up for its room; poisons the log
    /// where the device fails. `Err`: why there is no room.
    fn add_spare<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        len: u64,
    ) -> Result<MutexGuard<'a, State>, (MutexGuard<'a, State>, Full)> {
        let recycled = state.room.recycled.pop_if(|file| file.len == len);
        let is_beyond = state.file_bytes().saturating_add(len) > self.options.limit_bytes;
        if is_beyond && recycled.is_none() {
            if let Some(other) = state.room.recycled.pop() {
                return Ok(self.give_up(state, other));
            }
            if !state.room.beyond {
                return Err((state, Full::Limit));
            }
        }
        let id = state.room.next_id;
        state.room.next_id += 1;
        let nonce = state.segments.values().next_back().map_or(0, |s| s.nonce);
        let was_there = recycled.is_some();
        drop(state);
        let made = match recycled {
            Some(recycled) => self.use_again(recycled, id, nonce),
            None => self.make_spare(id, len),
        };
        state = self.lock();
        match made {
            Ok(spare) => {
                state.room.spares.push_back(spare);
                if is_beyond {
                    // One at a time; who still lacks room asks again.
                    state.room.beyond = false;
                    state.room.is_beyond = true;
                }
                state.plan_room();
            }
            // A file system that copies on write may want room for it; it is gone now, which made some.
            Err(error) if is_full(&error) && was_there => {}
            Err(error) if is_full(&error) => match state.room.recycled.pop() {
                Some(other) => return Ok(self.give_up(state, other)),
                None => return Err((state, Full::Device)),
            },
            Err(error) => {
                let reason = format!("making segment {} failed: {error}", segment_name(id));
                self.poison(&mut state, &reason, Vec::new());
                drop(state);
                self.deliver(usize::MAX, None);
                state = self.lock();
            }
        }
        Ok(state)
    }

    fn make_spare(&self, id: u64, len: u64) -> io::Result<Spare> {
        let file = self.storage.create(&segment_name(id), len)?;
        self.storage.sync_dir()?;
        Ok(Spare {
            id,
            file,
            len,
            is_recycled: false,
        })
    }

    fn no_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        why: Full,
        needed: u64,
    ) -> MutexGuard<'a, State> {
        state.room.beyond = false;
        // The next attempt is for an ordinary spare: one write too large for the device must not keep out all others.
        // Who still needs a longer one asks again.
        state.room.wanted = 1;
        state.room.wanted_len = 0;
        if state.room.full.replace(why).is_none() {
            tracing::warn!(
                needed,
                ?why,
                "no room for another log segment; writes will be refused"
            );
        }
        self.prepared.notify_all();
        state
    }

    /// Notes, durably, that the oldest segments may go, as far as nobody needs them. It does not wait for the note:
    /// its frame may need a spare first, and those are made here.
    fn truncate(&self, state: &mut State) {
        if state.truncating || state.check_writable().is_err() {
            return;
        }
        let Some(first) = first_needed(state) else {
            return;
        };
        let mut notes = state.waiting_notes();
        notes.push(LocalNote::FirstSegment(first));
        let entry = Entry::notes(notes.clone());
        let costs = [Room::cost(&entry)];
        if !state.has_room(Use::Truncation, &costs, 0) {
            if state.room.full != Some(Full::Device) {
                self.ask_for_spare(state, Use::Truncation, &costs, 0);
            }
            return; // until there is a spare for it
        }
        state.truncating = true;
        // From now on no hold is given on what is about to go.
        let going: Vec<_> = state
            .segments
            .range(..first)
            .map(|(_, s)| s.max.clone())
            .collect();
        for (at, seq) in going.into_iter().flatten() {
            if let Ok(instance) = state.instance_mut(at) {
                instance.truncated = instance.truncated.max(seq);
            }
        }
        self.noted(state, &notes);
        self.enqueue(state, entry);
        self.call_thread(state);
    }

    /// Removes the segments that a durable note has given up, or keeps their files for others.
    fn remove_noted<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(first) = state.removable.take() else {
            return state;
        };
        state.truncating = false;
        state.first_segment = state.first_segment.max(first);
        let kept = state.segments.split_off(&first);
        let gone = std::mem::replace(&mut state.segments, kept);
        for instance in state.instances.iter_mut().flatten() {
            instance.index.truncate(first);
        }
        let most = self.may_wait(&state);
        drop(state);
        let kept = self.retire(gone, most);
        let mut state = self.lock();
        state.room.recycled.extend(kept);
        state
    }
}

/// The first segment that is still needed, if there are older ones.
fn first_needed(state: &State) -> Option<u64> {
    let last = *state.segments.keys().next_back()?;
    let needed = state
        .segments
        .iter()
        .find(|(id, segment)| {
            **id == last
                || segment.max.iter().any(|(&at, &max)| {
                    // A forgotten instance needs nothing.
                    state.releasable(at).is_some_and(|seq| seq < max)
                })
        })
        .map(|(&id, _)| id)?;
    let oldest = *state.segments.keys().next()?;
    (needed > oldest).then_some(needed)
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

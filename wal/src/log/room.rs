//! Room for what is queued: how much is left, what is promised to whom, and what a full log keeps for notes.
//!
//! Every entry is *placed* when it is queued: after those before it in the current segment, else in the first
//! spare that holds it, each entry at the most that it may cost. The writer places what it writes by the same
//! rule and at no more than that cost, so it is never further than planned: a queued entry always has its room.
//!
//! A full log keeps the last of it for what frees room, in three steps: records leave room for notes, notes
//! leave some for the end of holds and hostings, and those leave room for one truncation. The end of a hold that finds
//! none left rides with that truncation.

use std::collections::VecDeque;
use std::sync::Arc;

use super::recycle::Recycled;
use super::state::{Entry, Instance, State, What, note_size};
use crate::codec::len64;
use crate::format::frame::{BLOCK, HEADER_LEN};
use crate::storage::StorageFile;

/// A frame's header, its place in a block, and the count of its slots.
const FRAME_COST: u64 = HEADER_LEN + BLOCK + 16;
/// Around a head: its header, that of the frame after it, and both alignments.
pub(super) const HEAD_COST: u64 = 2 * (HEADER_LEN + 8);

/// A segment file made ahead.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) id: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) len: u64,
    /// It was another segment's.
    pub(crate) is_recycled: bool,
}

/// What room is wanted for, by how much of the last room it must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Records.
    Records,
    /// Notes that take room: hostings, holds, notes of the store.
    Notes,
    /// Notes that free room. The log may grow beyond its limit for them, one segment at a time.
    Freeing,
    /// The note that segments may go, without which nothing is freed. As `Freeing`, and leaves nothing.
    Truncation,
}

impl Use {
    /// Refused while the log is beyond its limit.
    pub(crate) const fn is_limited(self) -> bool {
        matches!(self, Self::Records | Self::Notes)
    }
}

/// Where the next entry goes: into the current segment (0) or a spare (from 1), with so many bytes left there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    bin: usize,
    left: u64,
}

/// Why there is no spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Another segment would be beyond `limit_bytes`.
    Limit,
    /// The device has no room.
    Device,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Bytes after the last frame of the current segment.
    pub(crate) current: u64,
    pub(crate) spares: VecDeque<Spare>,
    /// Files that wait to be spares again.
    pub(crate) recycled: Vec<Recycled>,
    /// Strays and replaced spares, to be removed.
    pub(crate) garbage: Vec<u64>,
    pub(crate) next_id: u64,
    /// The least length that the next spare must have.
    pub(crate) wanted_len: u64,
    /// How many spares must be ready.
    pub(crate) wanted: usize,
    /// The next spare may be made beyond the limit: what frees room waits for it.
    pub(crate) beyond: bool,
    /// One was: until the log is within its limit again nothing else gets room.
    pub(crate) is_beyond: bool,
    /// The last attempt to make a spare failed.
    pub(crate) full: Option<Full>,
    /// What records leave of the last segment.
    pub(crate) reserve: u64,
    /// The most that the next head may take.
    pub(crate) head_bytes: u64,
    /// The frame that is being written, at its most; it is not in `current` yet.
    pub(crate) in_flight: u64,
    /// After all that is queued.
    pub(super) next: Place,
}

impl Room {
    /// The most that an entry may cost: it may get a frame, and the rest of a block, of its own.
    pub(crate) fn cost(entry: &Entry) -> u64 {
        match entry.what {
            What::Barrier => 0,
            _ => len64(entry.size()) + FRAME_COST,
        }
    }

    /// What is left in a spare behind its head.
    fn inside(&self, spare: &Spare) -> u64 {
        spare.len.saturating_sub(self.head_bytes + HEAD_COST)
    }

    fn place(&self, at: Place, cost: u64) -> Option<Place> {
        if cost <= at.left {
            let left = at.left - cost;
            return Some(Place { left, ..at });
        }
        let spares = self.spares.iter().enumerate().skip(at.bin);
        spares
            .map(|(i, spare)| (i + 1, self.inside(spare)))
            .find(|&(_, inside)| cost <= inside)
            .map(|(bin, inside)| Place {
                bin,
                left: inside - cost,
            })
    }

    /// That entries of these costs can be placed, and leave `keep` in the last segment.
    fn fits(&self, costs: &[u64], keep: u64) -> bool {
        let mut at = self.next;
        for &cost in costs {
            match self.place(at, cost) {
                Some(next) => at = next,
                None => return false,
            }
        }
        at.left >= keep
            || self.spares.iter().skip(at.bin).any(|spare| {
                // A later spare keeps it.
                self.inside(spare) >= keep
            })
    }

    /// Takes the room of an entry that is queued.
    pub(crate) fn take(&mut self, cost: u64) {
        let none = Place {
            bin: self.spares.len(),
            left: 0,
        };
        self.next = self.place(self.next, cost).unwrap_or(none);
    }

    /// What the next frame may take: it goes where its first entry fits.
    pub(crate) fn frame(&self, first: u64) -> u64 {
        let here = Place {
            bin: 0,
            left: self.current,
        };
        let left = self.place(here, first).map_or(first, |at| at.left + first);
        left.saturating_sub(FRAME_COST)
    }

    /// The most that a frame of so many bytes takes.
    pub(crate) fn frame_cost(bytes: usize) -> u64 {
        len64(bytes) + FRAME_COST
    }

    /// What is left for records.
    pub(crate) fn left(&self) -> u64 {
        let spares: u64 = self.spares.iter().skip(self.next.bin).map(|s| s.len).sum();
        (self.next.left + spares).saturating_sub(self.reserve)
    }
}

impl State {
    /// What a use must leave in the last segment.
    pub(crate) fn keep(&self, wanted: Use) -> u64 {
        let hosted = self.by_id.len();
        // Room for one first-segment note, a flushed note of each instance, and the ends of holds that found none.
        let endings: u64 = self.endings.iter().map(|note| len64(note_size(note))).sum();
        let truncation = FRAME_COST + 32 + 40 * len64(hosted) + endings;
        let reserve = self.room.reserve;
        match wanted {
            Use::Records => reserve.max(3 * truncation),
            Use::Notes => (reserve / 2).max(2 * truncation),
            Use::Freeing => truncation,
            Use::Truncation => 0,
        }
    }

    /// Places all that is queued anew: after the current segment, the spares or the next head changed.
    pub(crate) fn plan_room(&mut self) -> bool {
        let room = &mut self.room;
        room.next = Place {
            bin: 0,
            left: room.current,
        };
        let mut placed = true;
        let pending = self.pending.entries.iter().map(Room::cost);
        let in_flight = (room.in_flight > 0).then_some(room.in_flight);
        for cost in in_flight.into_iter().chain(pending) {
            placed &= room.place(room.next, cost).is_some();
            room.take(cost);
        }
        placed
    }

    /// Whether there is room, if heads grow by `growth`.
    pub(crate) fn has_room(&mut self, wanted: Use, costs: &[u64], growth: u64) -> bool {
        let keep = self.keep(wanted);
        if growth == 0 {
            return self.room.fits(costs, keep);
        }
        let before = self.room.head_bytes;
        self.room.head_bytes = self.head_bound() + growth;
        if self.plan_room() && self.room.fits(costs, keep) {
            return true;
        }
        self.room.head_bytes = before;
        self.plan_room();
        false
    }

    /// The most that a head may take, as things are.
    pub(crate) fn head_bound(&self) -> u64 {
        let entries = self.instances.iter().flatten().map(roster_bound);
        64 + len64(entries.sum::<usize>())
    }
}

/// The most that an instance takes of a head, with room for terms that are about to start.
fn roster_bound(instance: &Instance) -> usize {
    let holds = instance.holds.iter().map(|hold| hold.note.name.len() + 64);
    let notes = instance.notes.iter();
    let notes = notes.map(|(key, value)| key.len() + value.len() + 24);
    96 + 32 * (instance.terms.len() + 3) + holds.sum::<usize>() + notes.sum::<usize>()
}

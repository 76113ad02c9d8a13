//! The sessions of a shard's clients: which writes of theirs it took, so that one sent twice is carried out once
//! (rule 17). Nothing here does I/O or knows the time; once.rs asks it where Seqs are assigned.
//!
//! A session's state is entries of keyspace 1, written in the record and the batch of the write they are about. So they
//! are there exactly when the write is, after a crash and on another node, too.
//!
//! ```text
//! key 's' index u16 BE                value session id u128 BE                           a session, by the write that opened it
//! key 's' index u16 BE slot u16 BE    value number u64 LE | low water u64 LE | outcome   a write of it
//! outcome := 0                                                                           written
//!          | 1 condition u32 LE [epoch u64 LE opening u64 LE seq u64 LE]                 not: this condition failed, and what was found
//! ```
//!
//! An entry's version is the write's, and so its result. A number stands in any slot until it is at or below the low-water
//! mark; then its slot is free for another. A session that goes leaves its entries: the next one in its place has a later
//! version, and what is older than that counts no more. So nothing is ever deleted, no tombstone stays behind, and what
//! a shard keeps is bounded by [`Limits`], however many writes there were.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use watershed_migration::SessionId;
use watershed_migration::messages::SessionMark;
use watershed_wal::{Epoch, Seq, Term};

use crate::store::{InternalEntry, Version};

const TAG: u8 = b's';
/// The length of the key and value of what opens a session.
pub(super) const OPENING_LEN: (usize, usize) = (3, 16);
/// The length of the key and value of a write's entry.
pub(super) const WRITTEN_LEN: (usize, usize) = (5, 17);
const WRITTEN: u8 = 0;
const FAILED: u8 = 1;

/// How much is remembered.
///
/// The window of "once" is counted in sessions and writes, never in time (rule 19): a session is known until so many others
/// were used after its own last write, and a write of it until its client says that it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Sessions of a shard: one more, and the one whose last write is the oldest goes.
    pub(crate) sessions: u16,
    /// Writes of a session above its low-water mark: one more is refused.
    pub(crate) in_flight: u16,
}

/// What every shard remembers: about 100 MiB in memory and 50 in its store where all of it is used, which takes a thousand
/// clients with a thousand writes in flight each, all on one shard. Usual is some KiB.
pub(crate) const LIMITS: Limits = Limits {
    sessions: 1024,
    in_flight: 1024,
};

/// What became of a write of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was carried out.
    Written,
    /// A condition failed, and that it did is what was written: it holds for whoever sends the write again.
    Failed {
        /// Which one.
        index: u32,
        /// What was found.
        found: Option<Version>,
    },
}

/// How a write stands, by its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The session is not there.
    UnknownSession,
    /// The client said that it is settled.
    Settled {
        /// The session's low-water mark.
        low_water: u64,
    },
    /// It was taken before; it may not be committed yet.
    Known(Version, Outcome),
    /// Too many are not settled.
    Full,
    /// To be taken, with its entry in this place.
    New(Place),
}

/// Where the entry of a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    index: u16,
    slot: u16,
    number: u64,
    low_water: u64,
}

/// Where a session that is opened goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    index: u16,
    session: SessionId,
}

/// An entry to be written.
pub(super) type Encoded = (Vec<u8>, Vec<u8>);

/// The sessions of a shard, all writes included that have a Seq.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: Limits,
    by_id: HashMap<SessionId, u16>,
    all: BTreeMap<u16, Session>,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    opened: Seq,
    last_used: Seq,
    low_water: u64,
    /// By number, all above `low_water`.
    known: BTreeMap<u64, Known>,
    /// Slots below `slots` whose number is settled.
    free: Vec<u16>,
    slots: u16,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    slot: u16,
    version: Version,
    outcome: Outcome,
}

impl Sessions {
    /// What a store's entries say.
    ///
    /// # Errors
    /// Names an entry that is none of this page's.
    pub(super) fn load(
        limits: Limits,
        entries: impl IntoIterator<Item = InternalEntry>,
    ) -> Result<Self, String> {
        let mut sessions = Self {
            limits,
            by_id: HashMap::new(),
            all: BTreeMap::new(),
        };
        for entry in entries {
            let damaged = || format!("the entry {:02x?} is none of a session", &entry.key[..]);
            match decode(&entry).ok_or_else(damaged)? {
                Decoded::Opened(opening) => sessions.opened(opening, entry.version),
                // Keys come in order, so what opened the session is there before its writes.
                Decoded::Written(place, outcome) => {
                    let session = sessions.all.get_mut(&place.index).ok_or_else(damaged)?;
                    if !session.load(place, entry.version, outcome) {
                        return Err(damaged());
                    }
                }
            }
        }
        for session in sessions.all.values_mut() {
            session.loaded();
        }
        Ok(sessions)
    }

    /// How a write stands. What its mark says to be settled is, from now on.
    pub(super) fn look(&mut self, mark: &SessionMark) -> Look {
        let Some(&index) = self.by_id.get(&mark.session) else {
            return Look::UnknownSession;
        };
        let Some(session) = self.all.get_mut(&index) else {
            return Look::UnknownSession;
        };
        session.settle(mark.low_water);
        let low_water = session.low_water;
        if mark.number <= low_water {
            return Look::Settled { low_water };
        }
        if let Some(known) = session.known.get(&mark.number) {
            return Look::Known(known.version, known.outcome);
        }
        let slot = match session.free.last() {
            Some(&slot) => slot,
            None if session.slots < self.limits.in_flight => session.slots,
            None => return Look::Full,
        };
        Look::New(Place {
            index,
            slot,
            number: mark.number,
            low_water,
        })
    }

    /// Notes a write that has its Seq, in the place that [`Sessions::look`] gave a moment ago.
    pub(super) fn taken(&mut self, place: Place, version: Version, outcome: Outcome) {
        let Some(session) = self.all.get_mut(&place.index) else {
            return;
        };
        if session.free.last() == Some(&place.slot) {
            session.free.pop();
        } else {
            session.slots = session.slots.max(place.slot.saturating_add(1));
        }
        session.last_used = version.seq;
        let known = Known {
            slot: place.slot,
            version,
            outcome,
        };
        session.known.insert(place.number, known);
    }

    /// Where a new session goes: the first free place, else that of the one whose last write is the oldest. `None` where
    /// it is there already.
    pub(super) fn place_for(&self, session: SessionId) -> Option<Opening> {
        if self.by_id.contains_key(&session) {
            return None;
        }
        let free = (0..self.limits.sessions).find(|index| !self.all.contains_key(index));
        let oldest = || self.all.iter().min_by_key(|(_, known)| known.last_used);
        let index = free.or_else(|| oldest().map(|(index, _)| *index))?;
        Some(Opening { index, session })
    }

    /// Notes a session whose opening has its Seq.
    pub(super) fn opened(&mut self, opening: Opening, version: Version) {
        let session = Session {
            id: opening.session,
            opened: version.seq,
            last_used: version.seq,
            low_water: 0,
            known: BTreeMap::new(),
            free: Vec::new(),
            slots: 0,
        };
        self.by_id.insert(opening.session, opening.index);
        if let Some(before) = self.all.insert(opening.index, session) {
            self.by_id.remove(&before.id);
        }
    }
}

impl Session {
    /// Takes the entry of a write in. What is older than the opening was a write of the session that stood here before.
    fn load(&mut self, place: Place, version: Version, outcome: Outcome) -> bool {
        if version.seq < self.opened {
            return true;
        }
        self.last_used = self.last_used.max(version.seq);
        self.slots = self.slots.max(place.slot.saturating_add(1));
        self.low_water = self.low_water.max(place.low_water);
        let known = Known {
            slot: place.slot,
            version,
            outcome,
        };
        let before = self.known.insert(place.number, known);
        before.is_none()
    }

    /// Once all entries are in.
    fn loaded(&mut self) {
        self.settle(self.low_water);
        let used: BTreeSet<u16> = self.known.values().map(|known| known.slot).collect();
        self.free = (0..self.slots)
            .filter(|slot| !used.contains(slot))
            .collect();
    }

    fn settle(&mut self, low_water: u64) {
        self.low_water = self.low_water.max(low_water);
        while let Some(first) = self.known.first_entry()
            && *first.key() <= self.low_water
        {
            self.free.push(first.remove().slot);
        }
    }
}

impl Opening {
    /// The entry that opens the session.
    pub(super) fn encode(self) -> Encoded {
        let mut key = vec![TAG];
        key.extend(self.index.to_be_bytes());
        (key, self.session.0.to_be_bytes().to_vec())
    }
}

impl Place {
    /// The entry of the write, with what became of it.
    pub(super) fn encode(self, outcome: Outcome) -> Encoded {
        let mut key = vec![TAG];
        key.extend(self.index.to_be_bytes());
        key.extend(self.slot.to_be_bytes());
        let mut value = Vec::with_capacity(WRITTEN_LEN.1);
        value.extend(self.number.to_le_bytes());
        value.extend(self.low_water.to_le_bytes());
        match outcome {
            Outcome::Written => value.push(WRITTEN),
            Outcome::Failed { index, found } => {
                value.push(FAILED);
                value.extend(index.to_le_bytes());
                if let Some(Version { term, seq }) = found {
                    for number in [term.epoch.0, term.opening, seq.0] {
                        value.extend(number.to_le_bytes());
                    }
                }
            }
        }
        (key, value)
    }
}

enum Decoded {
    Opened(Opening),
    Written(Place, Outcome),
}

/// `None` for what is not written here.
fn decode(entry: &InternalEntry) -> Option<Decoded> {
    let key = entry.key.strip_prefix(&[TAG])?;
    let (index, slot) = key.split_first_chunk()?;
    let index = u16::from_be_bytes(*index);
    if slot.is_empty() {
        let session = SessionId(u128::from_be_bytes(entry.value[..].try_into().ok()?));
        return Some(Decoded::Opened(Opening { index, session }));
    }
    let slot = u16::from_be_bytes(slot.try_into().ok()?);
    let (number, rest) = number(&entry.value)?;
    let (low_water, rest) = self::number(rest)?;
    let place = Place {
        index,
        slot,
        number,
        low_water,
    };
    let (kind, rest) = rest.split_first()?;
    let outcome = match *kind {
        WRITTEN if rest.is_empty() => Outcome::Written,
        FAILED => {
            let (index, found) = rest.split_first_chunk()?;
            Outcome::Failed {
                index: u32::from_le_bytes(*index),
                found: match found {
                    [] => None,
                    found => Some(version(found)?),
                },
            }
        }
        _ => return None,
    };
    Some(Decoded::Written(place, outcome))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn version(bytes: &[u8]) -> Option<Version> {
    let (epoch, rest) = number(bytes)?;
    let (opening, rest) = number(rest)?;
    let (seq, rest) = number(rest)?;
    rest.is_empty().then_some(())?;
    Some(Version {
        term: Term::new(Epoch::try_from(epoch).ok()?, opening),
        seq: Seq::try_from(seq).ok()?,
    })
}

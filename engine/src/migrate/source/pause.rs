//! What is measured of a pause: from the closed gate to the release.

use std::time::{Duration, Instant};

use watershed_wal::Completion;

#[derive(Debug, Default)]
pub(super) struct Pause {
    since: Option<Instant>,
    /// The quiesce note's way to the disk.
    note: Option<Completion>,
    parked: u64,
    /// Parked requests and length, once released.
    released: Option<(u64, u64)>,
}

impl Pause {
    pub(super) fn begun(&mut self, now: Instant) {
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
    }

    pub(super) fn set_note(&mut self, note: Completion) {
        self.note = Some(note);
    }

    pub(super) fn take_note(&mut self) -> Option<Completion> {
        self.note.take()
    }

    pub(super) fn given_away(&mut self, parked: u64) {
        self.parked = parked;
    }

    /// Ended by re-opening: how long it was.
    pub(super) fn ended(&mut self, now: Instant) -> Option<Duration> {
        let ended = std::mem::take(self);
        Some(now - ended.since?)
    }

    /// How long it was, where it is over now: told once.
    pub(super) fn over(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.released.is_none())?;
        Some(now - since)
    }

    /// Requests that were parked, and microseconds of pause; a second release tells the same. After a restart within
    /// the pause neither is known, and both are 0.
    pub(super) fn released(&mut self, now: Instant) -> (u64, u64) {
        let (since, parked) = (self.since, self.parked);
        *self.released.get_or_insert_with(|| {
            let pause = since.map_or(0, |since| {
                u64::try_from((now - since).as_micros()).unwrap_or(u64::MAX)
            });
            (parked, pause)
        })
    }
}

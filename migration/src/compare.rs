//! Cleanup's comparison of the frozen copy with the serving one, page by page, by version.
//!
//! Both copies are streamed in the order of their keys, tombstones included. The rules: (1) the same version has
//! the same bytes; (2) the target is never older than the source; (3) what the target wrote after F is passed
//! over; (4) what the frozen copy has, the target has. A target's entry at or below F that the source lacks is a
//! difference, too, unless it is a tombstone. Pages come in any size; only one page of each side is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use watershed_wal::Seq;

use crate::messages::{EntryVersion, PageEntry};

/// One side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The frozen copy.
    Source,
    /// The serving copy.
    Target,
}

/// A difference between the copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The key.
    pub key: Bytes,
    /// How they differ.
    pub kind: DifferenceKind,
}

/// How two copies of a key differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Rule 1: the same version, other bytes.
    Bytes {
        /// The version.
        version: EntryVersion,
    },
    /// Rule 2: the target's is older.
    Older {
        /// The source's version.
        source: EntryVersion,
        /// The target's version.
        target: EntryVersion,
    },
    /// Rule 2: the target's is another at or below F.
    Other {
        /// The source's version.
        source: EntryVersion,
        /// The target's version.
        target: EntryVersion,
    },
    /// Rule 4: the target lacks it.
    Lost {
        /// The source's version.
        source: EntryVersion,
    },
    /// The source lacks it, though it is not newer than F.
    Extra {
        /// The target's version.
        target: EntryVersion,
    },
}

/// A page that can't be what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a comparison's page of {side:?} is not in the order of its keys, or empty before the end: ask again"
)]
pub struct BadPage {
    /// Whose page.
    pub side: Side,
}

#[derive(Debug, Default)]
struct Stream {
    entries: VecDeque<PageEntry>,
    last: Option<Bytes>,
    done: bool,
}

/// A comparison under way.
#[derive(Debug)]
pub struct Comparison {
    f: Seq,
    source: Stream,
    target: Stream,
    compared: u64,
    differences: Vec<Difference>,
    found: u64,
}

impl Comparison {
    /// The most differences kept; all are counted.
    pub const KEPT_MAX: usize = 100;

    /// Compares copies whose cutover was at `f`.
    #[must_use]
    pub fn new(f: Seq) -> Self {
        Self {
            f,
            source: Stream::default(),
            target: Stream::default(),
            compared: 0,
            differences: Vec::new(),
            found: 0,
        }
    }

    /// Which page is needed next, and after which key; `None` once everything is compared.
    #[must_use]
    pub fn wants(&self) -> Option<(Side, Option<Bytes>)> {
        let needs = |stream: &Stream| stream.entries.is_empty() && !stream.done;
        if needs(&self.source) {
            Some((Side::Source, self.source.last.clone()))
        } else if needs(&self.target) {
            Some((Side::Target, self.target.last.clone()))
        } else {
            None
        }
    }

    /// Takes the page that was wanted.
    ///
    /// # Errors
    /// When its keys are not in order after the last one, or it is empty and not the last.
    pub fn page(&mut self, side: Side, entries: Vec<PageEntry>, done: bool) -> Result<(), BadPage> {
        let stream = match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        };
        let ordered = entries.windows(2).all(|pair| pair[0].key < pair[1].key)
            && match (&stream.last, entries.first()) {
                (Some(last), Some(first)) => *last < first.key,
                _ => true,
            };
        if !ordered || (entries.is_empty() && !done) || !stream.entries.is_empty() || stream.done {
            return Err(BadPage { side });
        }
        if let Some(entry) = entries.last() {
            stream.last = Some(entry.key.clone());
        }
        stream.entries = entries.into();
        stream.done = done;
        self.merge();
        Ok(())
    }

    /// Keys compared so far.
    #[must_use]
    pub const fn compared(&self) -> u64 {
        self.compared
    }

    /// How many differences were found.
    #[must_use]
    pub const fn found(&self) -> u64 {
        self.found
    }

    /// The first differences.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    fn merge(&mut self) {
        loop {
            let (s, t) = (self.source.entries.front(), self.target.entries.front());
            let (take_source, take_target) = match (s, t) {
                (Some(s), Some(t)) => (s.key <= t.key, t.key <= s.key),
                (Some(_), None) if self.target.done => (true, false),
                (None, Some(_)) if self.source.done => (false, true),
                _ => return,
            };
            let s = take_source
                .then(|| self.source.entries.pop_front())
                .flatten();
            let t = take_target
                .then(|| self.target.entries.pop_front())
                .flatten();
            self.compared += 1;
            if let Some(difference) = self.judge(s, t) {
                self.found += 1;
                if self.differences.len() < Self::KEPT_MAX {
                    self.differences.push(difference);
                }
            }
        }
    }

    fn judge(&self, source: Option<PageEntry>, target: Option<PageEntry>) -> Option<Difference> {
        let newer = |entry: &PageEntry| entry.version.seq > self.f;
        let (key, kind) = match (source, target) {
            (Some(s), Some(t)) if s.version == t.version => {
                if s.hash == t.hash && s.tombstone == t.tombstone {
                    return None;
                }
                (s.key, DifferenceKind::Bytes { version: s.version })
            }
            (Some(_), Some(t)) if newer(&t) => return None,
            (Some(s), Some(t)) => {
                let (source, target) = (s.version, t.version);
                let kind = if target < source {
                    DifferenceKind::Older { source, target }
                } else {
                    DifferenceKind::Other { source, target }
                };
                (s.key, kind)
            }
            // A tombstone may have been purged on one side: absent is what it says, too.
            (Some(s), None) if s.tombstone => return None,
            (Some(s), None) => (s.key, DifferenceKind::Lost { source: s.version }),
            (None, Some(t)) if newer(&t) || t.tombstone => return None,
            (None, Some(t)) => (t.key, DifferenceKind::Extra { target: t.version }),
            (None, None) => return None,
        };
        Some(Difference { key, kind })
    }
}

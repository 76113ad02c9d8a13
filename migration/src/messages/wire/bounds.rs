//! The bound of each list of the protocol, named after its message and field: build.rs asks for one of each.

use crate::messages::{
    ENTRIES_MAX, FILES_MAX, FOLLOWERS_MAX, MARKS_MISSING_MAX, RANGES_MAX, TERMS_MAX,
};
use crate::words::Phase;

/// How much a list may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// What its elements are called.
    pub(super) list: &'static str,
    /// How many are allowed.
    pub(super) most: usize,
    /// How many numbers make one element, in a list of numbers.
    pub(super) numbers: usize,
}

const fn of(list: &'static str, most: usize) -> Bound {
    Bound {
        list,
        most,
        numbers: 1,
    }
}

const fn ranges(list: &'static str, most: usize) -> Bound {
    Bound {
        list,
        most,
        numbers: 2,
    }
}

pub(super) const SHIP_RANGES: Bound = ranges("ranges", RANGES_MAX);
pub(super) const MISSING_RANGES_RANGES: Bound = ranges("ranges", RANGES_MAX);
pub(super) const TARGET_MARKS_MISSING: Bound = ranges("missing ranges", MARKS_MISSING_MAX);
pub(super) const CERTIFICATE_MISSING: Bound = ranges("missing ranges", RANGES_MAX);
pub(super) const CERTIFICATE_FILES: Bound = of("files", FILES_MAX);
pub(super) const CERTIFICATE_PHASE_MS: Bound = of("phases", Phase::ALL.len());
pub(super) const MANIFEST_FILES: Bound = of("files", FILES_MAX);
pub(super) const MANIFEST_TERMS: Bound = of("terms", TERMS_MAX);
pub(super) const TARGET_STATE_FILES: Bound = of("files", FILES_MAX);
pub(super) const PREPARED_TERMS: Bound = of("terms", TERMS_MAX);
pub(super) const PLACEMENT_RECORD_FOLLOWERS: Bound = of("followers", FOLLOWERS_MAX);
pub(super) const WRITE_CONDITIONS: Bound = of("conditions", ENTRIES_MAX);
pub(super) const GET_KEYS: Bound = of("keys", ENTRIES_MAX);
pub(super) const PAGE_ENTRIES: Bound = of("entries", ENTRIES_MAX);
pub(super) const VALUES_VALUES: Bound = of("values", ENTRIES_MAX);
pub(super) const ENTRIES_ENTRIES: Bound = of("entries", ENTRIES_MAX);

//! A page of keys with their versions and hashes, for Cleanup's comparison of the two copies: users' entries and those that
//! the engine keeps beside them, by their stored keys.

use watershed_migration::messages::{ENTRIES_MAX, EntryVersion, PageEntry, Response};

use crate::Error;
use crate::store::{ScanRange, Store};

/// The most bytes of a page: far below what a message may have.
const PAGE_BYTES: usize = 4 << 20;

/// The entries after a key, deleted ones too, out of a snapshot of its own: nothing is held between two pages. Blocks.
pub(super) fn page(store: &Store, after: Option<&[u8]>, limit: u32) -> Result<Response, Error> {
    let limit = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .clamp(1, ENTRIES_MAX);
    let snapshot = store.snapshot()?;
    let page = snapshot.hash_page(&ScanRange::entries(), after, limit, PAGE_BYTES)?;
    let entries = page.entries.into_iter().map(|entry| PageEntry {
        key: entry.key,
        version: EntryVersion {
            term: entry.version.term,
            seq: entry.version.seq,
        },
        tombstone: entry.tombstone,
        hash: entry.hash,
    });
    Ok(Response::Page {
        entries: entries.collect(),
        done: page.cursor.is_none(),
    })
}

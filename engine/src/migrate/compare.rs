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

#[cfg(test)]
mod tests {
    use watershed_wal::{BatchBuilder, Epoch, Op, Record, RecordKind, Seq, Term};

    use super::*;
    use crate::store::{Applied, INTERNAL_KEYSPACE, StoreEnv, StoreLimits};

    /// The pages of a store that has a user's entry and one of the engine's, each of `most` entries.
    fn pages(internal: &'static [u8], most: u32) -> Vec<PageEntry> {
        let dir = tempfile::tempdir().unwrap();
        let env = StoreEnv::new(&StoreLimits::default()).unwrap();
        let store = Store::create(&env, &dir.path().join("s"), Applied::default()).unwrap();
        let mut body = BatchBuilder::new();
        body.put(b"k", b"v").push(&Op::Put {
            keyspace: INTERNAL_KEYSPACE,
            flags: 0,
            key: b"k"[..].into(),
            value: internal.into(),
        });
        let term = Term::new(Epoch(1), 1);
        let record = Record::new(term, Seq(1), RecordKind::Batch, body.finish());
        store.apply(&[record]).unwrap();
        let mut all: Vec<PageEntry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.key.clone());
            let Response::Page { entries, done } = page(&store, after.as_deref(), most).unwrap()
            else {
                panic!("a page");
            };
            all.extend(entries);
            if done {
                return all;
            }
        }
    }

    #[test]
    fn what_the_engine_keeps_for_itself_is_compared_too() {
        let entries = pages(b"1", 10);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].key < entries[1].key);
        assert_eq!(pages(b"1", 1), entries);
        let other = pages(b"2", 10);
        assert_eq!(entries[0], other[0]);
        assert_ne!(entries[1].hash, other[1].hash);
    }
}

//! Tests of the store as a whole; each module's own small ones are at its end.

mod checkpoint;
mod crash;
mod lifecycle;
mod model;

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;
use watershed_wal::{
    BatchBuilder, Epoch, InstanceId, Record, RecordKind, Seq, SeqRange, StartBody, Term,
};

use super::read::Value;
use super::{Applied, ScanOptions, Store, StoreEnv, StoreError, StoreLimits, Version};

fn env() -> StoreEnv {
    StoreEnv::new(&StoreLimits {
        block_cache_bytes: 8 << 20,
        write_buffer_bytes: 32 << 20,
        ..StoreLimits::default()
    })
    .unwrap()
}

fn term(epoch: u64, opening: u64) -> Term {
    Term::new(Epoch(epoch), opening)
}

fn version(term: Term, seq: u64) -> Version {
    Version {
        term,
        seq: Seq(seq),
    }
}

fn start(term: Term, seq: u64, void: Option<(u64, u64)>) -> Record {
    let body = StartBody {
        instance: InstanceId(7),
        void: void.map(|(first, last)| SeqRange::new(Seq(first), Seq(last)).unwrap()),
    };
    Record::new(term, Seq(seq), RecordKind::Start, body.encode())
}

fn batch(term: Term, seq: u64, ops: &[(&[u8], Option<&[u8]>)]) -> Record {
    let mut builder = BatchBuilder::new();
    for (key, value) in ops {
        match value {
            Some(value) => builder.put(key, value),
            None => builder.delete(key),
        };
    }
    Record::new(term, Seq(seq), RecordKind::Batch, builder.finish())
}

fn put(term: Term, seq: u64, key: &[u8], value: &[u8]) -> Record {
    batch(term, seq, &[(key, Some(value))])
}

/// A store with one term started at Seq 1.
fn started(dir: &Path) -> (StoreEnv, Store) {
    let env = env();
    let store = Store::create(&env, dir, Applied::default()).unwrap();
    store.apply(&[start(term(1, 1), 1, None)]).unwrap();
    (env, store)
}

fn all_keys(store: &Store) -> Vec<Bytes> {
    let snapshot = store.snapshot().unwrap();
    let page = snapshot
        .page(&ScanOptions::all().range(), None, usize::MAX, usize::MAX)
        .unwrap();
    assert_eq!(page.cursor, None);
    page.entries.into_iter().map(|entry| entry.key).collect()
}

impl Store {
    fn get(&self, key: &[u8]) -> Result<Value, StoreError> {
        Ok(self.multi_get(&[key])?.remove(0))
    }

    fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Value>, StoreError> {
        Ok(self.read(keys)?.value)
    }
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Copies a directory's files as they are now: what a crash of the process leaves.
fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// A history in which each state tells its Seq: record `n` writes `n` to one of ten keys, or deletes it.
fn numbered(n: u64) -> Record {
    if n == 1 {
        return start(term(1, 1), 1, None);
    }
    let key = format!("key{}", n % 10);
    let value = numbered_value(n);
    batch(term(1, 1), n, &[(key.as_bytes(), value.as_deref())])
}

/// Large enough that some thousands of records make RocksDB flush by itself.
fn numbered_value(n: u64) -> Option<Vec<u8>> {
    (!n.is_multiple_of(7)).then(|| [&n.to_le_bytes()[..], &[0; 500]].concat())
}

/// The store holds exactly the numbered records up to its mark, by reads, by scan and by digest.
fn assert_numbered_prefix(store: &Store) {
    let applied = store.applied();
    let mut digest = watershed_wal::LogDigest::default();
    (1..=applied.seq.0).for_each(|n| digest.add(numbered(n).hash()));
    assert_eq!(applied.digest, digest);
    let mut live = Vec::new();
    for k in 0..10 {
        let key = format!("key{k}");
        let last = (2..=applied.seq.0).rev().find(|n| n % 10 == k);
        let expected = last.map(|n| (version(term(1, 1), n), numbered_value(n)));
        let found = store
            .snapshot()
            .unwrap()
            .get_versioned(key.as_bytes())
            .unwrap();
        assert_eq!(
            found,
            expected
                .clone()
                .map(|(v, value)| (v, value.map(Bytes::from))),
            "{key}"
        );
        if expected.is_some_and(|(_, value)| value.is_some()) {
            live.push(key);
        }
    }
    assert_eq!(all_keys(store), live);
}

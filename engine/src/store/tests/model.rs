//! The store against a `BTreeMap`: any order of writes, flushes, re-openings and snapshots, read in every way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::StoreSnapshot;

type Key = Vec<u8>;
type Write = (Key, Option<Vec<u8>>);

/// The newest write of each key ever written: its version, and the value or `None` for a delete.
type Model = BTreeMap<Key, (Version, Option<Vec<u8>>)>;

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Vec<Write>>),
    NewTerm { skip: u64 },
    Flush,
    Reopen,
    CloseAndOpen,
    Snapshot,
    Scan(Scan),
}

#[derive(Clone, Debug)]
struct Scan {
    from: Option<(Key, bool)>,
    to: Option<(Key, bool)>,
    prefix: Key,
    reverse: bool,
    page: usize,
    page_bytes: usize,
}

/// Short keys of few bytes, so that prefixes, neighbours and 0xff runs meet often.
fn key() -> impl Strategy<Value = Key> {
    let byte = prop_oneof![Just(0), Just(b'a'), Just(0xfe), Just(0xff)];
    prop::collection::vec(byte, 0..4)
}

fn write() -> impl Strategy<Value = Write> {
    let value = prop::collection::vec(any::<u8>(), 0..20);
    (key(), prop::option::weighted(0.7, value))
}

fn scan() -> impl Strategy<Value = Scan> {
    let bound = || prop::option::of((key(), any::<bool>()));
    (
        bound(),
        bound(),
        key(),
        any::<bool>(),
        1..6_usize,
        1..40_usize,
    )
        .prop_map(|(from, to, prefix, reverse, page, page_bytes)| Scan {
            from,
            to,
            prefix,
            reverse,
            page,
            page_bytes,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let batches = prop::collection::vec(prop::collection::vec(write(), 0..5), 1..5);
    prop_oneof![
        6 => batches.prop_map(Step::Apply),
        1 => (0..3_u64).prop_map(|skip| Step::NewTerm { skip }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::CloseAndOpen),
        1 => Just(Step::Snapshot),
        3 => scan().prop_map(Step::Scan),
    ]
}

impl Scan {
    fn options(&self) -> ScanOptions {
        let mut options = ScanOptions::all().prefix(self.prefix.clone());
        options = match self.from.clone() {
            Some((key, true)) => options.from(key),
            Some((key, false)) => options.after(key),
            None => options,
        };
        options = match self.to.clone() {
            Some((key, true)) => options.through(key),
            Some((key, false)) => options.to(key),
            None => options,
        };
        if self.reverse {
            options.reverse()
        } else {
            options
        }
    }

    fn covers(&self, key: &Key) -> bool {
        let above = |(from, inclusive): &(Key, bool)| key > from || (*inclusive && key == from);
        let below = |(to, inclusive): &(Key, bool)| key < to || (*inclusive && key == to);
        key.starts_with(&self.prefix)
            && self.from.as_ref().is_none_or(above)
            && self.to.as_ref().is_none_or(below)
    }

    fn check(&self, snapshot: &StoreSnapshot, model: &Model) {
        let range = self.options().range();
        let mut expected: Vec<_> = model.iter().filter(|(key, _)| self.covers(key)).collect();
        if self.reverse {
            expected.reverse();
        }
        let mut hashed = Vec::new();
        let mut cursor = None;
        loop {
            let page = snapshot.hash_page(&range, cursor.as_deref(), self.page, self.page_bytes);
            let page = page.unwrap();
            assert!(page.entries.len() <= self.page);
            hashed.extend(page.entries);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let hashed: Vec<_> = hashed
            .iter()
            .map(|entry| (entry.key[1..].to_vec(), entry.version, entry.tombstone))
            .collect();
        let versions: Vec<_> = expected
            .iter()
            .map(|(key, (version, value))| (key.to_vec(), *version, value.is_none()))
            .collect();
        assert_eq!(hashed, versions, "{self:?}");

        let mut found = Vec::new();
        loop {
            let page = snapshot.page(&range, cursor.as_deref(), self.page, self.page_bytes);
            let page = page.unwrap();
            assert!(page.entries.len() <= self.page);
            let bytes = |e: &crate::store::Entry| e.key.len() + e.value.len();
            let full: usize = page.entries.iter().rev().skip(1).map(bytes).sum();
            assert!(
                full < self.page_bytes,
                "a page ends with the entry that fills it"
            );
            found.extend(page.entries);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let live: Vec<_> = expected
            .into_iter()
            .filter_map(|(key, (version, value))| {
                Some(crate::store::Entry {
                    key: key.clone().into(),
                    value: value.clone()?.into(),
                    version: *version,
                })
            })
            .collect();
        assert_eq!(found, live, "{self:?}");
    }
}

struct Run {
    _temp: TempDir,
    env: StoreEnv,
    store: Option<Store>,
    records: Vec<Record>,
    model: Model,
    term: Term,
    /// The applied Seq at the last flush that the test asked for.
    flushed: Seq,
    snapshots: Vec<(StoreSnapshot, Model)>,
}

impl Run {
    fn new() -> Self {
        let temp = temp();
        let (env, store) = started(&temp.path().join("s"));
        Self {
            _temp: temp,
            env,
            records: vec![start(term(1, 1), 1, None)],
            store: Some(store),
            model: Model::new(),
            term: term(1, 1),
            flushed: Seq::ZERO,
            snapshots: Vec::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(batches) => self.apply(&batches),
            Step::NewTerm { skip } => {
                let next = self.records.last().unwrap().seq().next().0;
                self.term.opening += 1;
                let void = (skip > 0).then(|| (next, next + skip - 1));
                self.records.push(start(self.term, next + skip, void));
                let record = self.records.last().cloned().unwrap();
                self.store().apply(&[record]).unwrap();
            }
            Step::Flush => {
                self.flushed = self.store().flush().unwrap();
                assert_eq!(self.flushed, self.records.last().unwrap().seq());
            }
            Step::Reopen => {
                self.store().reopen().unwrap();
                self.snapshots.clear();
                assert_eq!(self.store().applied().seq, self.flushed);
                let lost: Vec<_> = self
                    .records
                    .iter()
                    .filter(|record| record.seq() > self.flushed)
                    .cloned()
                    .collect();
                self.store().apply(&lost).unwrap();
            }
            Step::CloseAndOpen => {
                let store = self.store.take().unwrap();
                let dir = store.dir().to_owned();
                store.close().unwrap();
                self.snapshots.clear();
                self.store = Some(Store::open(&self.env, &dir).unwrap());
                self.flushed = self.store().applied().seq;
                assert_eq!(self.flushed, self.records.last().unwrap().seq());
            }
            Step::Snapshot => {
                let snapshot = self.store().snapshot().unwrap();
                self.snapshots.push((snapshot, self.model.clone()));
            }
            Step::Scan(scan) => {
                scan.check(&self.store().snapshot().unwrap(), &self.model);
                for (snapshot, model) in &self.snapshots {
                    scan.check(snapshot, model);
                }
            }
        }
    }

    fn apply(&mut self, batches: &[Vec<Write>]) {
        let first = self.records.len();
        for writes in batches {
            let seq = self.records.last().unwrap().seq().next();
            let ops: Vec<_> = writes.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
            self.records.push(batch(self.term, seq.0, &ops));
            for (key, value) in writes {
                let newest = (version(self.term, seq.0), value.clone());
                self.model.insert(key.clone(), newest);
            }
        }
        self.store().apply(&self.records[first..]).unwrap();
    }

    fn check(&self) {
        let mut digest = watershed_wal::LogDigest::default();
        self.records
            .iter()
            .for_each(|record| digest.add(record.hash()));
        let expected = Applied {
            seq: self.records.last().unwrap().seq(),
            term: self.term,
            digest,
        };
        assert_eq!(self.store().applied(), expected);
        let everything = Scan {
            from: None,
            to: None,
            prefix: Vec::new(),
            reverse: false,
            page: usize::MAX,
            page_bytes: usize::MAX,
        };
        let snapshot = self.store().snapshot().unwrap();
        assert_eq!(snapshot.applied(), expected);
        everything.check(&snapshot, &self.model);
        let keys: Vec<_> = self
            .model
            .keys()
            .cloned()
            .chain([b"none".to_vec()])
            .collect();
        let live: Vec<_> = keys
            .iter()
            .map(|key| {
                let (version, value) = self.model.get(key)?;
                Some((Bytes::from(value.clone()?), *version))
            })
            .collect();
        assert_eq!(self.store().multi_get(&keys).unwrap(), live);
        assert_eq!(snapshot.multi_get(&keys).unwrap(), live);
        for (key, live) in keys.iter().zip(live) {
            assert_eq!(self.store().get(key).unwrap(), live);
            assert_eq!(snapshot.get(key).unwrap(), live);
            let known = self
                .model
                .get(key)
                .map(|(version, value)| (*version, value.is_none()));
            assert_eq!(self.store().version_of(key).unwrap(), known);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_versions(steps in prop::collection::vec(step(), 1..30)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.check();
    }
}

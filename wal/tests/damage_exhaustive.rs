//! All the damage that one place can take, on a small log of several segments: each byte with several patterns, each
//! truncation, each sector and block zeroed or moved, segments lost, copied and swapped. Each is found, or harmless;
//! no record is ever wrong. All of it once more on segments in recycled files, where old bytes stand behind the new.
//!
//! What the log alone can't find: that its newest segments are gone as a whole, or cut to nothing. Nothing that is
//! left promises them.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::{
    Contents, OWNERS, contents_of, frames, image, options, put, recycled, storage_of, term,
};
use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::repair::plan;
use watershed_wal::{Durability, Log, LogView, OpenError, Seq, ShardId, Storage, StorageFile};

type Files = BTreeMap<String, Vec<u8>>;

/// Three lives, of a few dense frames each, closed: everything in it is promised.
fn compact() -> Files {
    let storage = MemStorage::new();
    for life in 1..=3 {
        let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
        let owners = OWNERS.map(|id| {
            log.instance(id).unwrap_or_else(|| {
                log.host(ShardId(id.0 as u64), id, Seq::ZERO, Vec::new())
                    .unwrap()
            })
        });
        for owner in &owners {
            owner
                .start_term(term(life), Seq::ZERO)
                .unwrap()
                .wait()
                .unwrap();
        }
        for n in 0..5 {
            let durability = if n == 4 {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            put(&owners[n as usize % 2], n, 20 + n as usize * 11, durability);
        }
        if life == 1 {
            put(&owners[0], 99, 5000, Durability::Sync);
            owners[0].hold("kept", Seq(1), support::BUDGET).unwrap();
        }
        log.close().unwrap();
    }
    let mut files = image(&storage.crash(Survival::None));
    // Spares hold nothing.
    files.retain(|_, bytes| !frames(bytes).is_empty());
    assert_eq!(files.len(), 3);
    files
}

/// A log to damage.
struct Case {
    files: Files,
    /// Where the last frame of each file ends.
    ends: BTreeMap<String, usize>,
    /// In a full file not every place gets every kind of damage: one of so many, with each alignment among them.
    step: usize,
}

fn cases() -> [Case; 2] {
    let case = |files: Files, step| {
        let (view, _) = LogView::open(Arc::new(storage_of(&files))).unwrap();
        let mut ends = BTreeMap::new();
        for line in view
            .dump()
            .filter(|line| ["head", "frame"].contains(&line.kind.as_str()))
        {
            let end = usize::try_from(line.offset + line.len).unwrap();
            ends.insert(format!("{:016x}.seg", line.segment), end);
        }
        Case { files, ends, step }
    };
    [case(compact(), 1), case(recycled(), 11)]
}

/// What the whole log holds, and how often damage to it was found.
struct Whole {
    contents: Contents,
    found: AtomicU64,
    harmless: AtomicU64,
}

impl Whole {
    fn new(files: &Files) -> Self {
        let (view, _) = LogView::open(Arc::new(storage_of(files))).unwrap();
        Self {
            contents: contents_of(&view),
            found: AtomicU64::new(0),
            harmless: AtomicU64::new(0),
        }
    }

    /// Damage is found, or everything promised is there.
    fn check(&self, storage: &MemStorage, what: impl Fn() -> String) {
        match LogView::open(Arc::new(storage.clone())) {
            Ok((view, _)) => {
                // Not shown: they are long.
                assert!(contents_of(&view) == self.contents, "{}", what());
                let first = &view.instances()[0];
                assert_eq!(first.holds[0].name, "kept", "{}", what());
                self.harmless.fetch_add(1, Ordering::Relaxed);
            }
            Err(OpenError::Io { source, .. }) => panic!("{}: {source}", what()),
            Err(_) => {
                self.found.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// As [`Whole::check`]; where nothing may have promised the rest, a prefix of it is enough.
    fn check_prefix(&self, storage: &MemStorage, what: impl Fn() -> String) {
        let Ok((view, _)) = LogView::open(Arc::new(storage.clone())) else {
            self.found.fetch_add(1, Ordering::Relaxed);
            return;
        };
        for (id, records) in contents_of(&view) {
            let whole = &self.contents[&id];
            assert!(
                whole.iter().zip(&records).all(|(a, b)| a == b),
                "{}",
                what()
            );
            assert!(records.len() <= whole.len(), "{}", what());
        }
        self.harmless.fetch_add(1, Ordering::Relaxed);
    }

    /// What a repair leaves is of what was there.
    fn check_repair(&self, storage: &MemStorage, what: impl Fn() -> String) {
        let Ok(Some(plan)) = plan(storage, &BTreeMap::new()) else {
            return;
        };
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        plan.apply(&shared, &MemStorage::new())
            .unwrap_or_else(|e| panic!("{}: {e}", what()));
        let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
        for (id, records) in contents_of(&view) {
            for (seq, record) in records {
                assert_eq!(self.contents[&id].get(&seq), Some(&record), "{}", what());
            }
        }
    }
}

/// Runs a job for each file, in parallel.
fn for_each_file(files: &Files, job: impl Fn(&str, &[u8]) + Sync) {
    std::thread::scope(|scope| {
        for (name, bytes) in files {
            let job = &job;
            scope.spawn(move || job(name, bytes));
        }
    });
}

#[test]
fn each_byte_with_each_pattern_is_found_or_harmless() {
    for case in cases() {
        flip_each_byte(&case);
    }
}

fn flip_each_byte(case: &Case) {
    let files = &case.files;
    let whole = Whole::new(files);
    for_each_file(files, |name, bytes| {
        let storage = storage_of(files);
        let end = case.ends[name];
        for at in 0..bytes.len() {
            // One bit of each byte, another one each time; where something stands, more.
            let one = 1 << (at % 8);
            let patterns = [one, 0xff, !one, 0x80];
            let patterns = if at < end && at % case.step == 0 {
                &patterns[..]
            } else {
                &patterns[..1]
            };
            for &xor in patterns {
                storage.corrupt(name, at as u64, xor).unwrap();
                whole.check(&storage, || format!("{name}: byte {at} xor {xor:#x}"));
                storage.corrupt(name, at as u64, xor).unwrap();
            }
        }
    });
    let (found, harmless) = (whole.found.into_inner(), whole.harmless.into_inner());
    assert!(
        found > 10_000 && harmless > 10_000,
        "{found} found, {harmless} harmless"
    );
}

#[test]
fn a_repair_of_any_flipped_byte_keeps_only_what_was_there() {
    for case in cases() {
        repair_each_byte(&case);
    }
}

fn repair_each_byte(case: &Case) {
    let files = &case.files;
    let whole = Whole::new(files);
    for_each_file(files, |name, _| {
        // Every seventh: with the offset in the frame all parts of a header and a payload come up.
        for at in (0..case.ends[name]).step_by(7 * case.step) {
            let storage = storage_of(files);
            storage.corrupt(name, at as u64, 0x11).unwrap();
            whole.check_repair(&storage, || format!("{name}: byte {at}"));
        }
    });
}

#[test]
fn each_truncation_is_found_or_harmless() {
    for case in cases() {
        truncate(&case);
    }
}

fn truncate(case: &Case) {
    let files = &case.files;
    let whole = Whole::new(files);
    let newest = files.keys().next_back().unwrap();
    for_each_file(files, |name, bytes| {
        let end = case.ends[name];
        let until = bytes.len().min(end + 64);
        let near = (0..until).step_by(case.step);
        for len in near.chain((until..bytes.len()).step_by(97)) {
            let storage = storage_of(files);
            storage.put_file(name, bytes[..len].to_vec());
            let what = || format!("{name} cut to {len}");
            if name == newest && len == 0 {
                // As if it had never been begun.
                whole.check_prefix(&storage, what);
            } else {
                whole.check(&storage, what);
            }
            // Cut, and of its length all the same: as a copy that stopped, or a device that lost its end.
            let mut zeroed = bytes.to_vec();
            zeroed[len..].fill(0);
            storage.put_file(name, zeroed);
            let what = || format!("{name} zeroed from {len}");
            if name == newest {
                whole.check_prefix(&storage, what);
            } else {
                whole.check(&storage, what);
            }
            if len % 13 == 0 {
                let storage = storage_of(files);
                storage.put_file(name, bytes[..len].to_vec());
                whole.check_repair(&storage, || format!("{name} cut to {len}"));
            }
        }
    });
    assert!(whole.found.into_inner() > 5_000);
}

#[test]
fn zeroed_and_moved_sectors_are_found_or_harmless() {
    for case in cases() {
        zero_and_move(&case);
    }
}

fn zero_and_move(case: &Case) {
    let files = &case.files;
    let whole = Whole::new(files);
    let newest = files.keys().next_back().unwrap();
    for_each_file(files, |name, bytes| {
        for size in [512, 4096] {
            for at in (0..bytes.len()).step_by(size) {
                let storage = storage_of(files);
                let mut changed = bytes.to_vec();
                changed[at..at + size].fill(0);
                let is_last = name == newest && at + size >= case.ends[name];
                storage.put_file(name, changed);
                let what = || format!("{name}: {size} bytes from {at} zeroed");
                if is_last {
                    whole.check_prefix(&storage, what);
                } else {
                    whole.check(&storage, what);
                }
                // Written where another was meant to go: here, and in another segment.
                for (other, source) in files {
                    let from = (at + size) % source.len();
                    let mut changed = bytes.to_vec();
                    changed[at..at + size].copy_from_slice(&source[from..from + size]);
                    let storage = storage_of(files);
                    storage.put_file(name, changed);
                    let what = || format!("{name}: {size} bytes of {other} from {from} at {at}");
                    if is_last {
                        whole.check_prefix(&storage, what);
                    } else {
                        whole.check(&storage, what);
                    }
                    whole.check_repair(&storage, what);
                }
            }
        }
    });
    assert!(whole.found.into_inner() > 50);
}

#[test]
fn segments_lost_copied_and_swapped_are_found_or_harmless() {
    for case in cases() {
        lose_and_swap(&case);
    }
}

fn lose_and_swap(case: &Case) {
    let files = &case.files;
    let whole = Whole::new(files);
    let names: Vec<_> = files.keys().cloned().collect();
    for (place, name) in names.iter().enumerate() {
        let mut without = files.clone();
        without.remove(name);
        let storage = storage_of(&without);
        whole.found.store(0, Ordering::Relaxed);
        if place + 1 == names.len() {
            // Nothing that is left promises it.
            whole.check_prefix(&storage, || format!("without {name}"));
        } else {
            whole.check(&storage, || format!("without {name}"));
            assert_eq!(
                whole.found.swap(0, Ordering::Relaxed),
                1,
                "{name} was not missed"
            );
            whole.check_repair(&storage, || format!("without {name}"));
        }
        for other in &names {
            let mut copied = files.clone();
            copied.insert(other.clone(), files[name].clone());
            if other == names.last().unwrap() {
                whole.check_prefix(&storage_of(&copied), || format!("{name} as {other}"));
            } else {
                whole.check(&storage_of(&copied), || format!("{name} as {other}"));
            }
            let mut swapped = copied.clone();
            swapped.insert(name.clone(), files[other].clone());
            whole.check(&storage_of(&swapped), || {
                format!("{name} and {other} swapped")
            });
        }
        // A copy under a new name, before and after.
        for id in [7u64, 0xffff] {
            let mut more = files.clone();
            more.insert(format!("{id:016x}.seg"), files[name].clone());
            whole.check(&storage_of(&more), || format!("{name} again as {id}"));
        }
    }
}

/// A storage that gives at most so many bytes at a time, as a device may.
#[derive(Debug)]
struct Short(MemStorage, usize);

#[derive(Debug)]
struct ShortFile(Arc<dyn StorageFile>, usize);

impl StorageFile for ShortFile {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = buf.len().min(self.1);
        self.0.read_at(offset, &mut buf[..most])
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, data)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }
}

impl Storage for Short {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str, len: u64) -> std::io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(ShortFile(self.0.create(name, len)?, self.1)))
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(ShortFile(self.0.open(name)?, self.1)))
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> std::io::Result<()> {
        self.0.sync_dir()
    }
    fn free_bytes(&self) -> std::io::Result<Option<u64>> {
        self.0.free_bytes()
    }
}

#[test]
fn short_reads_change_nothing() {
    let files = compact();
    let whole = Whole::new(&files);
    for most in [1, 71, 4095] {
        let short = Short(storage_of(&files), most);
        let (view, _) = LogView::open(Arc::new(short)).unwrap();
        assert_eq!(contents_of(&view), whole.contents);
    }
}

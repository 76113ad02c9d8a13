//! Logs that earlier builds wrote, kept in `tests/data`: each must open for ever, with exactly what it held.

#[path = "support/listing.rs"]
mod listing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use watershed_wal::mem::MemStorage;
use watershed_wal::{Log, LogOptions, LogView, Seq, SeqRange};

/// The kept logs: `tests/data/<version>/<what>`.
fn kept() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let dirs = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    };
    dirs(&data)
        .iter()
        .flat_map(|version| dirs(version))
        .collect()
}

/// The segments of a kept log.
fn load(dir: &Path) -> MemStorage {
    let storage = MemStorage::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".seg") {
            storage.put_file(name, std::fs::read(&path).unwrap());
        }
    }
    storage
}

#[test]
fn each_kept_log_holds_what_is_written_beside_it() {
    let kept = kept();
    assert!(kept.len() >= 4, "{kept:?}");
    for dir in kept {
        let (view, report) = LogView::open(Arc::new(load(&dir))).unwrap();
        let listed = std::fs::read_to_string(dir.join("CONTENTS.txt")).unwrap();
        let found = listing::listing(&view, &report);
        for (number, (found, listed)) in found.lines().zip(listed.lines()).enumerate() {
            assert_eq!(found, listed, "{}: line {}", dir.display(), number + 1);
        }
        assert_eq!(found.len(), listed.len(), "{}", dir.display());
    }
}

#[test]
fn each_kept_log_opens_for_writing_and_keeps_what_it_held() {
    for dir in kept() {
        let storage = load(&dir);
        let (view, _) = LogView::open(Arc::new(storage.clone())).unwrap();
        let before = view.instances();
        let read = |view: &LogView| -> Vec<_> {
            let instances = view.instances().into_iter();
            let read = instances.flat_map(|i| {
                let first = SeqRange::after(i.flushed, i.has.max().unwrap_or_default());
                first.map(|range| {
                    view.read(i.id, range)
                        .filter_map(Result::ok)
                        .collect::<Vec<_>>()
                })
            });
            read.collect()
        };
        let records = read(&view);
        let (log, report) = Log::open(Arc::new(storage.clone()), LogOptions::default()).unwrap();
        assert_eq!(report.instances, before.len() as u64);
        for found in &before {
            let instance = log.instance(found.id).unwrap();
            assert_eq!(
                (instance.base(), instance.terms()),
                (found.base, found.terms.clone())
            );
            assert_eq!(instance.has(), found.has);
            assert_eq!(instance.holds().len(), found.holds.len());
            for (key, value) in &found.notes {
                assert_eq!(instance.note(key).as_ref(), Some(value));
            }
        }
        log.close().unwrap();
        let (view, _) = LogView::open(Arc::new(storage)).unwrap();
        assert_eq!(read(&view), records, "{}", dir.display());
        // A term can be started on it, above all that it knows.
        let (log, _) = Log::open(Arc::new(load(&dir)), LogOptions::default()).unwrap();
        let owner = log.instance(before[0].id).unwrap();
        let end = owner.watermarks().assigned;
        let epoch = owner.terms().last().unwrap().term.epoch;
        let start = owner
            .start_term(owner.next_term(epoch), Seq::ZERO)
            .unwrap()
            .wait()
            .unwrap();
        assert!(start > end);
        assert_eq!(owner.watermarks().durable, start);
    }
}

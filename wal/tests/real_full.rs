//! A file system that is really full, and a device that hangs: writes are refused cleanly, and go on when there is room.
//!
//! As root, where mounting is allowed, the file system is a tmpfs of some hundred KiB; elsewhere the same log runs in a
//! child process whose files may not grow, so that reserving room fails with `EFBIG`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use watershed_wal::mem::{MemStorage, Survival};
use watershed_wal::{
    DirStorage, Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogError, LogOptions,
    OpenError, RecordKind, Seq, SeqRange, ShardId, Storage, verify,
};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        limit_bytes: 64 << 20,
        buffered_sync_every: Duration::from_millis(5),
        ..LogOptions::default()
    }
}

fn host(log: &Log) -> InstanceLog {
    let instance = log
        .host(ShardId(1), InstanceId(1), Seq::ZERO, Vec::new())
        .unwrap();
    let term = instance.next_term(Epoch(1));
    instance
        .start_term(term, Seq::ZERO)
        .unwrap()
        .wait()
        .unwrap();
    instance
}

fn put(log: &InstanceLog) -> Result<Seq, LogError> {
    let body: Vec<u8> = (0..3000u32).map(|i| (i * i * 31) as u8).collect();
    log.submit(
        RecordKind::Batch,
        body.into(),
        Durability::Sync,
        Inline::Allowed,
    )?
    .wait()
}

fn fill(log: &InstanceLog) -> Seq {
    let error = loop {
        if let Err(error) = put(log) {
            break error;
        }
    };
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    let marks = log.watermarks();
    assert_eq!(
        marks.assigned, marks.durable,
        "what was refused took no Seq"
    );
    marks.durable
}

fn put_when_there_is_room(log: &InstanceLog) -> Seq {
    loop {
        match put(log) {
            Ok(seq) => break seq,
            Err(LogError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn holds_all(log: &InstanceLog, last: Seq) {
    let all = SeqRange::new(Seq(1), last).unwrap();
    let seqs: Vec<u64> = log
        .read(all)
        .map(|record| record.unwrap().seq().0)
        .collect();
    assert_eq!(seqs, (1..=last.0).collect::<Vec<_>>());
}

/// Unmounts at the end of the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// A small tmpfs at `path`; `None` where that is not allowed.
fn mount(path: &Path) -> Option<Mounted<'_>> {
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
        .arg(path)
        .output();
    mount
        .ok()
        .filter(|made| made.status.success())
        .map(|_| Mounted(path))
}

#[test]
fn a_full_file_system_refuses_before_anything_is_written_and_goes_on_with_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mounted) = mount(directory.path()) else {
        println!("no file system may be mounted here: a child with a file-size limit shows it");
        return;
    };
    let ballast = mounted.0.join("ballast");
    std::fs::write(&ballast, vec![1; 192 << 10]).unwrap();
    let storage = Arc::new(DirStorage::new(mounted.0.join("wal")).unwrap());
    let (log, _) = Log::open(storage.clone(), options()).unwrap();
    let instance = host(&log);
    let last = fill(&instance);
    assert!(log.status().full && log.status().poisoned.is_none());
    holds_all(&instance, last);
    // Room comes back without an opening.
    std::fs::remove_file(&ballast).unwrap();
    let next = put_when_there_is_room(&instance);
    assert_eq!(next, last.next());
    // And by flushing, on a device that is full again.
    let last = fill(&instance);
    instance.set_flushed(last);
    let next = put_when_there_is_room(&instance);
    assert_eq!(next, last.next());
    log.close().unwrap();
    drop((log, instance));
    let read = verify(storage.clone()).unwrap();
    assert!(read.records > 0);
    for entry in std::fs::read_dir(mounted.0.join("wal")).unwrap() {
        // A spare, or a file that waits to be one: opening would take its room.
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let has_head = bytes.starts_with(b"WSHF") && bytes[6] & 1 == 1;
        if !has_head || path.extension().unwrap() == "recycled" {
            std::fs::remove_file(path).unwrap();
        }
    }
    // Full to the last byte: opening says so, and changes nothing; reading goes on.
    let mut rest = 512 << 10;
    while rest > 512 {
        let name = mounted.0.join(format!("rest-{rest}"));
        if std::fs::write(&name, vec![1; rest]).is_err() {
            let _ = std::fs::remove_file(&name);
        }
        rest /= 2;
    }
    let full = Log::open(storage.clone(), options()).map(drop);
    assert!(matches!(full, Err(OpenError::Full { .. })), "{full:?}");
    assert_eq!(verify(storage).unwrap().records, read.records);
}

#[test]
fn a_segment_whose_zeros_do_not_fit_is_not_left_half_made() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mounted) = mount(directory.path()) else {
        println!("no file system may be mounted here");
        return;
    };
    let storage = DirStorage::new(mounted.0.join("wal")).unwrap();
    let free = storage.free_bytes().unwrap();
    // The device is full after seven pieces of 64 KiB, and in the middle of one.
    let ballast = mounted.0.join("ballast");
    std::fs::write(&ballast, vec![1; 44 << 10]).unwrap();
    let made = storage.create("0000000000000001.seg", 1 << 20).map(drop);
    let kind = made.unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::StorageFull);
    assert_eq!(storage.list().unwrap(), Vec::<String>::new());
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(
        storage.free_bytes().unwrap(),
        free,
        "the room was not given back"
    );
}

/// The process dies while a spare is filled: any number of pieces, and a part of one, are there.
#[test]
fn a_spare_that_was_half_made_when_the_process_died_is_taken_away() {
    let longer = LogOptions {
        segment_bytes: 256 << 10,
        limit_bytes: 4 << 20,
        ..options()
    };
    for len in [
        0,
        1,
        4096,
        (64 << 10) - 1,
        64 << 10,
        (64 << 10) + 512,
        192 << 10,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let storage = Arc::new(DirStorage::new(directory.path()).unwrap());
        let (log, _) = Log::open(storage.clone(), longer.clone()).unwrap();
        let last = put(&host(&log)).unwrap();
        log.close().unwrap();
        drop(log);
        let mut names = storage.list().unwrap();
        names.sort();
        let newest = u64::from_str_radix(names.last().unwrap().trim_end_matches(".seg"), 16);
        let half = format!("{:016x}.seg", newest.unwrap() + 1);
        std::fs::write(directory.path().join(&half), vec![0; len]).unwrap();
        let (log, _) = Log::open(storage.clone(), longer.clone()).unwrap();
        let instance = log.instance(InstanceId(1)).unwrap();
        holds_all(&instance, last);
        let term = instance.next_term(Epoch(1));
        instance
            .start_term(term, Seq::ZERO)
            .unwrap()
            .wait()
            .unwrap();
        assert!(put(&instance).unwrap() > last);
        log.close().unwrap();
        drop((log, instance));
        // Its name may be used again for a whole one.
        if let Ok(bytes) = std::fs::read(directory.path().join(&half)) {
            assert_eq!(
                bytes.len(),
                256 << 10,
                "a half-made segment of {len} bytes was left"
            );
        }
        verify(storage).unwrap();
    }
}

const CHILD: &str = "WATERSHED_FULL_CHILD";

/// What the child does: its segments may be made, a longer one may not.
fn child(dir: &Path) {
    let storage = Arc::new(DirStorage::new(dir.join("wal")).unwrap());
    let (log, _) = Log::open(storage, options()).unwrap();
    let instance = host(&log);
    let mut last = Seq(1);
    for _ in 0..60 {
        last = put(&instance).unwrap();
    }
    // It needs a segment of its own, beyond what a file may have.
    let mut random = 1u64;
    let body: Vec<u8> = (0..200_000)
        .map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 56) as u8
        })
        .collect();
    let large = instance.submit(
        RecordKind::Batch,
        body.into(),
        Durability::Sync,
        Inline::Allowed,
    );
    let large = large.map(drop);
    assert!(matches!(large, Err(LogError::Full { .. })), "{large:?}");
    assert!(log.status().poisoned.is_none());
    assert_eq!(instance.watermarks().assigned, last);
    // Those that fit segments that can be made go on, over several of them.
    for _ in 0..60 {
        let next = put_when_there_is_room(&instance);
        assert_eq!(next, last.next());
        last = next;
    }
    holds_all(&instance, last);
    log.close().unwrap();
}

#[test]
fn a_file_size_limit_refuses_what_needs_more_and_nothing_else() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let directory = tempfile::tempdir().unwrap();
    // In units of 1024 bytes; the signal is ignored, so that a write gives EFBIG.
    let this = std::env::current_exe().unwrap();
    let name = "a_file_size_limit_refuses_what_needs_more_and_nothing_else";
    let ran = Command::new("bash")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 100; exec \"$0\" --exact \"$1\"",
        ])
        .arg(this)
        .arg(name)
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && shown.contains("1 passed"),
        "{shown}"
    );
}

#[test]
fn a_stalled_device_holds_writers_and_nobody_else() {
    let storage = MemStorage::new();
    let (log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
    let instance = host(&log);
    let last = put(&instance).unwrap();
    storage.set_injector(Some("on(sync):stall".parse().unwrap()));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| put(&instance));
        while storage.stalled() == 0 {
            std::thread::yield_now();
        }
        // Reading, looking and submitting go on; nothing is acknowledged.
        holds_all(&instance, last);
        assert_eq!(instance.watermarks().durable, last);
        let body = bytes::Bytes::from_static(b"behind it");
        let waiting = instance
            .submit(RecordKind::Batch, body, Durability::Sync, Inline::Never)
            .unwrap();
        assert!(!writer.is_finished() && !waiting.done.is_done());
        let past = instance
            .durable_past(last)
            .wait_timeout(Duration::from_millis(1));
        assert_eq!(past.unwrap(), None);
        storage.set_injector(None);
        assert_eq!(writer.join().unwrap().unwrap(), last.next());
        assert_eq!(waiting.wait().unwrap(), last.next().next());
    });
    log.close().unwrap();
    let storage = storage.crash(Survival::None);
    assert_eq!(verify(Arc::new(storage)).unwrap().records, last.0 + 2);
}

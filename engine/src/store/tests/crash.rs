//! What is left when the process dies: the directory's files as they are, with nothing flushed on the way.

use super::*;

/// Opens a copy of the files, as after a crash, beside the store that is still open.
fn crashed(env: &StoreEnv, store: &Store, to: &Path) -> Store {
    loop {
        // RocksDB may change files under the copy; it is complete if it did not.
        let files = files_of(store.dir());
        if copy_dir(store.dir(), to).is_ok() && files_of(store.dir()) == files {
            return Store::open(env, to).unwrap();
        }
        let _ = std::fs::remove_dir_all(to);
    }
}

#[test]
fn rule_18_flushed_is_what_a_crash_leaves() {
    let temp = temp();
    let (env, store) = started(&temp.path().join("s"));
    assert_eq!(
        store.flushed().unwrap().seq,
        Seq::ZERO,
        "a memtable is not persisted"
    );
    let mut n = 1;
    for round in 0..6 {
        for _ in 0..=round * 3 {
            n += 1;
            store.apply(&[numbered(n)]).unwrap();
        }
        let flushed = store.flushed().unwrap();
        assert!(flushed.seq < Seq(n));
        let copy = crashed(&env, &store, &temp.path().join(format!("crash{round}")));
        assert_eq!(copy.applied(), flushed);
        assert_eq!(copy.flushed().unwrap(), flushed);
        assert_numbered_prefix(&copy);
        // Replay makes it what it was.
        let missing: Vec<_> = (flushed.seq.0 + 1..=n).map(numbered).collect();
        copy.apply(&missing).unwrap();
        assert_eq!(copy.applied(), store.applied());
        assert_numbered_prefix(&copy);
        assert_eq!(store.flush().unwrap(), Seq(n));
        assert_eq!(store.flushed().unwrap(), store.applied());
    }
}

#[test]
fn rule_18_flushes_of_rocksdbs_own_are_whole_groups() {
    let temp = temp();
    let env = StoreEnv::new(&StoreLimits {
        write_buffer_bytes: 1 << 20,
        ..StoreLimits::default()
    })
    .unwrap();
    let store = Store::create(&env, &temp.path().join("s"), Applied::default()).unwrap();
    let mut n = 0;
    let mut seen = Seq::ZERO;
    while seen < Seq(10_000) {
        let group: Vec<_> = (n + 1..=n + 64).map(numbered).collect();
        n += 64;
        store.apply(&group).unwrap();
        let flushed = store.flushed().unwrap().seq;
        assert!(flushed >= seen, "the flushed mark never goes back");
        assert!(
            flushed.0.is_multiple_of(64),
            "a group is in SSTs whole or not at all: {flushed}"
        );
        seen = flushed;
    }
    let (copy, before) = loop {
        // A flush or compaction may change the files under the copy; it is complete if none did.
        let to = temp.path().join("crash");
        let before = store.flushed().unwrap();
        let files = files_of(store.dir());
        std::thread::yield_now();
        let complete = copy_dir(store.dir(), &to).is_ok();
        if complete && files_of(store.dir()) == files && store.flushed().unwrap() == before {
            break (Store::open(&env, &to).unwrap(), before);
        }
        let _ = std::fs::remove_dir_all(&to);
    };
    // A flush is in the files a moment before it counts as one: never less than was promised, and whole groups.
    let left = copy.applied().seq;
    assert!(left >= before.seq && left <= store.applied().seq, "{left}");
    assert!(left.0.is_multiple_of(64), "{left}");
    while store.flushed().unwrap().seq < left {
        std::thread::yield_now(); // and it will count
    }
    assert_numbered_prefix(&copy);
}

fn files_of(dir: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().into_string().ok()?,
                entry.metadata().ok()?.len(),
            ))
        })
        .collect();
    files.sort();
    files
}

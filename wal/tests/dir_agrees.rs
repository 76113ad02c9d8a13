//! `DirStorage` and `MemStorage` are one contract: the same calls give the same results and contents.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use proptest::prelude::*;
use watershed_wal::mem::MemStorage;
use watershed_wal::{DirStorage, Storage, StorageFile};

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: u8,
        len: u64,
    },
    Open {
        name: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Remove {
        name: u8,
    },
    SyncDir,
    Write {
        handle: usize,
        at: u64,
        data: Vec<u8>,
    },
    Read {
        handle: usize,
        at: u64,
        len: usize,
    },
    Sync {
        handle: usize,
    },
    /// A handle is closed.
    Close {
        handle: usize,
    },
    Claim {
        handle: usize,
    },
    Unclaim {
        handle: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..4u8;
    prop_oneof![
        3 => (name(), 0..3000u64).prop_map(|(name, len)| Step::Create { name, len }),
        2 => name().prop_map(|name| Step::Open { name }),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => name().prop_map(|name| Step::Remove { name }),
        1 => Just(Step::SyncDir),
        6 => (0..8usize, 0..4000u64, prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(handle, at, data)| Step::Write { handle, at, data }),
        4 => (0..8usize, 0..5000u64, 0..600usize).prop_map(|(handle, at, len)| Step::Read { handle, at, len }),
        1 => (0..8usize).prop_map(|handle| Step::Sync { handle }),
        2 => (0..8usize).prop_map(|handle| Step::Close { handle }),
        2 => (0..8usize).prop_map(|handle| Step::Claim { handle }),
        1 => (0..8usize).prop_map(|handle| Step::Unclaim { handle }),
    ]
}

/// What a caller sees of a call.
type Seen = Result<Vec<u8>, io::ErrorKind>;

struct Side {
    storage: Arc<dyn Storage>,
    handles: Vec<Option<Arc<dyn StorageFile>>>,
}

impl Side {
    fn new(storage: impl Storage) -> Self {
        Self {
            storage: Arc::new(storage),
            handles: Vec::new(),
        }
    }

    fn do_step(&mut self, step: &Step) -> Seen {
        let name = |n: &u8| format!("{n}.seg");
        let nothing = |()| Vec::new();
        let handle = |n: &usize| self.handles.get(*n).cloned().flatten();
        let done = match step {
            Step::Create { name: n, len } => {
                let file = self.storage.create(&name(n), *len);
                file.map(|file| self.handles.push(Some(file))).map(nothing)
            }
            Step::Open { name: n } => {
                let file = self.storage.open(&name(n));
                file.map(|file| self.handles.push(Some(file))).map(nothing)
            }
            Step::Rename { from, to } => self.storage.rename(&name(from), &name(to)).map(nothing),
            Step::Remove { name: n } => self.storage.remove(&name(n)).map(nothing),
            Step::SyncDir => self.storage.sync_dir().map(nothing),
            Step::Write {
                handle: n,
                at,
                data,
            } => handle(n)
                .map_or(Ok(()), |file| file.write_at(*at, data))
                .map(nothing),
            Step::Read { handle: n, at, len } => handle(n).map_or(Ok(Vec::new()), |file| {
                let mut buf = vec![0xee; *len];
                let read = file.read_at(*at, &mut buf)?;
                buf.truncate(read);
                buf.extend(file.len()?.to_le_bytes());
                Ok(buf)
            }),
            Step::Sync { handle: n } => handle(n).map_or(Ok(()), |file| file.sync()).map(nothing),
            Step::Close { handle: n } => {
                self.handles.get_mut(*n).map(Option::take);
                Ok(Vec::new())
            }
            Step::Claim { handle: n } => handle(n)
                .map_or(Ok(false), |file| file.claim())
                .map(|is_claimed| vec![u8::from(is_claimed)]),
            Step::Unclaim { handle: n } => {
                handle(n).map_or(Ok(()), |file| file.unclaim()).map(nothing)
            }
        };
        done.map_err(|error| error.kind())
    }

    fn contents(&mut self) -> BTreeMap<String, Vec<u8>> {
        // What is claimed is not there for others.
        self.handles.clear();
        let read = |name: String| {
            let file = self.storage.open(&name).unwrap();
            let mut contents = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            assert_eq!(file.read_at(0, &mut contents).unwrap(), contents.len());
            (name, contents)
        };
        self.storage.list().unwrap().into_iter().map(read).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn dir_and_mem_do_the_same(steps in prop::collection::vec(step(), 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut real = Side::new(DirStorage::new(dir.path().join("wal")).unwrap());
        let mut simulated = Side::new(MemStorage::new());
        for step in steps {
            prop_assert_eq!(real.do_step(&step), simulated.do_step(&step), "{:?}", step);
        }
        prop_assert_eq!(real.contents(), simulated.contents());
    }
}

#[test]
fn dir_makes_its_directory_and_what_is_above() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/wal");
    let storage = DirStorage::new(&path).unwrap();
    storage.create("x", 10).unwrap().write_at(9, b"!").unwrap();
    drop(storage);
    let again = DirStorage::new(&path).unwrap();
    assert_eq!(again.list().unwrap(), ["x"]);
    assert_eq!(again.path(), path);
    assert_eq!(
        std::fs::read(path.join("x")).unwrap(),
        b"\0\0\0\0\0\0\0\0\0!"
    );
}

#[test]
fn dir_really_reserves_what_it_creates() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::new(dir.path()).unwrap();
    let len = 3 * (1 << 20) + 17;
    let file = storage.create("x", len).unwrap();
    assert_eq!(file.len().unwrap(), len);
    let metadata = std::fs::metadata(dir.path().join("x")).unwrap();
    assert!(
        metadata.blocks() * 512 >= len,
        "{} blocks: the file is sparse",
        metadata.blocks()
    );
}

#[test]
fn dir_read_only_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    assert_eq!(
        DirStorage::read_only(&path).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert!(!path.exists());
    DirStorage::new(&path).unwrap().create("x", 4).unwrap();
    let storage = DirStorage::read_only(&path).unwrap();
    let file = storage.open("x").unwrap();
    assert_eq!(file.read_at(0, &mut [0; 9]).unwrap(), 4);
    assert!(file.write_at(0, b"no").is_err());
    for refused in [
        storage.create("y", 1).map(drop),
        storage.rename("x", "y"),
        storage.remove("x"),
        storage.sync_dir(),
    ] {
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ReadOnlyFilesystem
        );
    }
    assert_eq!(std::fs::read(path.join("x")).unwrap(), [0; 4]);
}

#[test]
fn dir_names_stay_inside_it() {
    let dir = tempfile::tempdir().unwrap();
    let storages: [Arc<dyn Storage>; 2] = [
        Arc::new(DirStorage::new(dir.path().join("wal")).unwrap()),
        Arc::new(MemStorage::new()),
    ];
    for storage in storages {
        for name in ["", ".", "..", "../x", "/x", "a/b", "a\0b"] {
            assert_eq!(
                storage.create(name, 1).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
            assert_eq!(
                storage.open(name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn dir_errors_say_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::new(dir.path()).unwrap();
    let error = storage.open("missing.seg").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let path = dir.path().join("missing.seg");
    assert!(
        error
            .to_string()
            .contains(&format!("open {}", path.display())),
        "{error}"
    );
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let error = DirStorage::read_only(dir.path().join("file")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn dir_lists_files_only_and_knows_its_room() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let storage = DirStorage::new(dir.path()).unwrap();
    storage.create("x", 1).unwrap();
    assert_eq!(storage.list().unwrap(), ["x"]);
    assert!(storage.free_bytes().unwrap().is_some_and(|free| free > 0));
}

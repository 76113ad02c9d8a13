//! What `MemStorage` keeps and loses when the power goes: the crash tests of the log stand on these.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use proptest::prelude::*;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{Storage, StorageFile};

const SECTOR: usize = 512;

fn storage_with(name: &str, len: u64) -> (MemStorage, Arc<dyn StorageFile>) {
    let storage = MemStorage::new();
    let file = storage.create(name, len).unwrap();
    storage.sync_dir().unwrap();
    (storage, file)
}

fn seeds() -> impl Iterator<Item = Survival> {
    (0..300).map(Survival::Seeded)
}

#[test]
fn mem_only_the_synced_survives_a_crash_that_keeps_nothing() {
    let (storage, file) = storage_with("a", 2048);
    file.write_at(0, b"synced").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"lost").unwrap();
    file.write_at(1000, b"lost too").unwrap();
    file.write_at(3000, b"beyond the end").unwrap();
    assert_eq!(&storage.contents("a").unwrap()[..6], b"losted");
    let left = storage.crash(Survival::None).contents("a").unwrap();
    let mut expected = vec![0; 2048];
    expected[..6].copy_from_slice(b"synced");
    assert_eq!(left, expected);
}

#[test]
fn mem_everything_survives_a_crash_that_keeps_all() {
    let (storage, file) = storage_with("a", 10);
    file.write_at(4, b"unsynced").unwrap();
    storage.create("b", 3).unwrap();
    storage.rename("a", "c").unwrap();
    let left = storage.crash(Survival::All);
    assert_eq!(left.contents("c").unwrap(), b"\0\0\0\0unsynced");
    assert_eq!(left.contents("b").unwrap(), [0; 3]);
    assert_eq!(left.contents("a"), None);
}

#[test]
fn mem_unsynced_sectors_survive_one_by_one_whole() {
    const SECTORS: usize = 4;
    let mut seen = BTreeSet::new();
    for survival in seeds() {
        let (storage, file) = storage_with("a", (SECTORS * SECTOR) as u64);
        file.write_at(0, &[1; SECTORS * SECTOR]).unwrap();
        let left = storage.crash(survival).contents("a").unwrap();
        assert_eq!(left.len(), SECTORS * SECTOR);
        let sectors: Vec<u8> = left.chunks(SECTOR).map(|sector| sector[0]).collect();
        for (sector, first) in left.chunks(SECTOR).zip(&sectors) {
            assert!(sector.iter().all(|byte| byte == first), "a torn sector");
        }
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 1 << SECTORS, "every subset comes up: {seen:?}");
}

#[test]
fn mem_a_sector_survives_in_any_state_since_its_sync() {
    let mut seen = BTreeSet::new();
    for survival in seeds() {
        let (storage, file) = storage_with("a", SECTOR as u64);
        file.write_at(0, b"S").unwrap();
        file.sync().unwrap();
        file.write_at(1, b"1").unwrap();
        file.write_at(2, b"2").unwrap();
        seen.insert(storage.crash(survival).contents("a").unwrap()[..3].to_vec());
    }
    // A page reaches the disk as it is at some moment: never the second write without the first.
    let states: BTreeSet<_> = [b"S\0\0", b"S1\0", b"S12"]
        .map(|s: &[u8; 3]| s.to_vec())
        .into();
    assert_eq!(seen, states);
}

#[test]
fn mem_growth_may_be_lost_in_part() {
    let mut lens = BTreeSet::new();
    for survival in seeds() {
        let (storage, file) = storage_with("a", 100);
        file.write_at(600, b"x").unwrap();
        file.write_at(1500, b"y").unwrap();
        let left = storage.crash(survival).contents("a").unwrap();
        assert!(left.iter().enumerate().all(|(i, byte)| match i {
            600 => matches!(byte, 0 | b'x'),
            1500 => *byte == b'y',
            _ => *byte == 0,
        }));
        lens.insert(left.len());
    }
    assert_eq!(lens.first(), Some(&100));
    assert_eq!(lens.last(), Some(&1501));
    assert!(lens.len() > 2, "{lens:?}");
}

#[test]
fn mem_names_survive_only_after_sync_dir() {
    let (storage, _) = storage_with("old", 8);
    storage.create("new", 8).unwrap().write_at(0, b"x").unwrap();
    assert_eq!(storage.unsynced_names(), ["new"]);
    assert_eq!(storage.crash(Survival::None).list().unwrap(), ["old"]);

    let (storage, _) = storage_with("old", 8);
    storage.create("new", 8).unwrap();
    storage.sync_dir().unwrap();
    assert_eq!(storage.unsynced_names(), [] as [&str; 0]);
    assert_eq!(
        storage.crash(Survival::None).list().unwrap(),
        ["new", "old"]
    );
}

#[test]
fn mem_a_removed_file_may_be_back_with_its_contents() {
    let mut seen = BTreeSet::new();
    for survival in seeds() {
        let (storage, file) = storage_with("a", 4);
        file.write_at(0, b"data").unwrap();
        file.sync().unwrap();
        storage.remove("a").unwrap();
        assert_eq!(storage.open("a").unwrap_err().kind(), ErrorKind::NotFound);
        seen.insert(storage.crash(survival).contents("a"));
    }
    assert_eq!(seen, [None, Some(b"data".to_vec())].into());
}

#[test]
fn mem_a_renamed_file_has_one_of_its_names() {
    let mut seen = BTreeSet::new();
    for survival in seeds() {
        let (storage, _) = storage_with("1.seg", 4);
        storage.rename("1.seg", "2.seg").unwrap();
        storage.create("1.seg", 9).unwrap();
        storage.rename("2.seg", "3.seg").unwrap();
        let left = storage.crash(survival);
        let names = left.list().unwrap();
        let old = names
            .iter()
            .filter(|name| left.contents(name).unwrap().len() == 4);
        assert_eq!(old.count(), 1, "{names:?}");
        seen.insert(names);
    }
    assert!(seen.len() >= 5, "{seen:?}");
}

#[test]
fn mem_a_failed_sync_is_not_made_good_by_the_next() {
    let (storage, file) = storage_with("a", 2 * SECTOR as u64);
    file.write_at(0, b"given up").unwrap();
    storage.set_injector(Some("on(sync)&nth(1):eio".parse().unwrap()));
    assert!(file.sync().is_err());
    file.write_at(SECTOR as u64, b"written later").unwrap();
    file.sync().unwrap();
    let mut read = [0; 8];
    file.read_at(0, &mut read).unwrap();
    assert_eq!(&read, b"given up", "the live image still has it");
    let left = storage.crash(Survival::None).contents("a").unwrap();
    assert_eq!(&left[..8], &[0; 8]);
    assert_eq!(&left[SECTOR..SECTOR + 13], b"written later");
}

#[test]
fn mem_what_a_failed_sync_gave_up_is_safe_once_written_again() {
    let (storage, file) = storage_with("a", SECTOR as u64);
    file.write_at(0, b"first").unwrap();
    storage.set_injector(Some("on(sync)&nth(1):eio".parse().unwrap()));
    assert!(file.sync().is_err());
    file.write_at(100, b"same sector").unwrap();
    file.sync().unwrap();
    let left = storage.crash(Survival::None).contents("a").unwrap();
    assert_eq!(&left[..5], b"first");
}

#[test]
fn mem_growth_given_up_reads_as_never_written() {
    let (storage, file) = storage_with("a", 10);
    file.write_at(20, b"given up").unwrap();
    storage.set_injector(Some("on(sync)&nth(1):eio".parse().unwrap()));
    assert!(file.sync().is_err());
    file.write_at(1024, b"z").unwrap();
    file.sync().unwrap();
    let left = storage.crash(Survival::None).contents("a").unwrap();
    assert_eq!(left.len(), 1025);
    assert!(left[..1024].iter().all(|byte| *byte == 0));
}

#[test]
fn mem_after_a_crash_fault_everything_fails() {
    let (storage, file) = storage_with("a", SECTOR as u64);
    storage.set_injector(Some(Injector::crash_at_change(2)));
    file.write_at(0, b"one").unwrap();
    let error = file.write_at(3, b"two").unwrap_err();
    assert!(MemStorage::is_power_loss(&error) && storage.is_powered_off());
    let mut buf = [0; 1];
    for error in [
        file.sync().unwrap_err(),
        file.len().unwrap_err(),
        file.read_at(0, &mut buf).unwrap_err(),
        storage.list().unwrap_err(),
        storage.open("a").unwrap_err(),
        storage.create("b", 1).unwrap_err(),
        storage.rename("a", "b").unwrap_err(),
        storage.remove("a").unwrap_err(),
        storage.sync_dir().unwrap_err(),
    ] {
        assert!(MemStorage::is_power_loss(&error), "{error}");
    }
    assert_eq!(storage.fired(), 1);
    // The call that the power went in may have had its effect.
    let left = storage.crash(Survival::All);
    assert_eq!(&left.contents("a").unwrap()[..6], b"onetwo");
    assert!(!left.is_powered_off());
    left.create("b", 1).unwrap();
}

#[test]
fn mem_a_crash_ends_the_storage_it_is_taken_of() {
    let (storage, file) = storage_with("a", 4);
    let left = storage.crash(Survival::None);
    assert!(MemStorage::is_power_loss(&file.sync().unwrap_err()));
    let file = left.open("a").unwrap();
    file.write_at(0, b"ok").unwrap();
    assert_eq!(storage.contents("a").unwrap(), [0; 4]);
}

#[test]
fn mem_a_crash_in_a_sync_may_have_synced_or_not() {
    let mut seen = BTreeSet::new();
    for survival in seeds() {
        let (storage, file) = storage_with("a", 1);
        file.write_at(0, b"x").unwrap();
        storage.set_injector(Some("on(sync):crash".parse().unwrap()));
        assert!(file.sync().is_err());
        seen.insert(storage.crash(survival).contents("a").unwrap());
    }
    assert_eq!(seen, [vec![0], b"x".to_vec()].into());
}

#[test]
fn mem_a_limit_is_a_full_disk() {
    let storage = MemStorage::new();
    assert_eq!(storage.free_bytes().unwrap(), None);
    storage.set_capacity(Some(1000));
    let file = storage.create("a", 900).unwrap();
    assert_eq!(storage.free_bytes().unwrap(), Some(100));
    assert_eq!(
        storage.create("b", 101).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(storage.list().unwrap(), ["a"], "nothing is left behind");
    file.write_at(0, &[1; 900]).unwrap();
    assert_eq!(
        file.write_at(900, &[1; 101]).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(file.len().unwrap(), 900);
    storage.create("b", 100).unwrap();
    storage.remove("a").unwrap();
    assert_eq!(storage.free_bytes().unwrap(), Some(900));
}

#[test]
fn mem_rot_is_on_the_medium() {
    let (storage, file) = storage_with("a", 4);
    file.write_at(0, b"abcd").unwrap();
    file.sync().unwrap();
    file.write_at(0, b"ABCD").unwrap();
    storage.corrupt("a", 1, 0x01).unwrap();
    assert_eq!(storage.contents("a").unwrap(), b"ACCD");
    assert_eq!(
        storage.corrupt("a", 4, 1).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    assert_eq!(
        storage.corrupt("b", 0, 1).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        storage.crash(Survival::None).contents("a").unwrap(),
        b"accd"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize, byte: u8 },
    Sync,
    FailedSync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2000u64, 1..900usize, 1..=255u8).prop_map(|(at, len, byte)| Step::Write { at, len, byte }),
        2 => Just(Step::Sync),
        1 => Just(Step::FailedSync),
    ]
}

proptest! {
    /// Each byte after a crash was in the file at some time since the last sync that covered it.
    #[test]
    fn mem_survivors_are_states_that_were(steps in prop::collection::vec(step(), 0..25), seed in any::<u64>()) {
        let (storage, file) = storage_with("a", 1000);
        let mut live = vec![0u8; 1000];
        // Of each byte: the values it may have after a crash, and whether the next sync covers it.
        let mut may: Vec<BTreeSet<u8>> = vec![[0].into(); 3000];
        let mut dirty = vec![false; 3000];
        for step in steps {
            match step {
                Step::Write { at, len, byte } => {
                    file.write_at(at, &vec![byte; len]).unwrap();
                    let at = usize::try_from(at).unwrap();
                    live.resize(live.len().max(at + len), 0);
                    live[at..at + len].fill(byte);
                    may[at..at + len].iter_mut().for_each(|may| {
                        may.insert(byte);
                    });
                    let sectors = at / SECTOR * SECTOR..(at + len).next_multiple_of(SECTOR).min(3000);
                    dirty[sectors].fill(true);
                }
                Step::Sync => {
                    file.sync().unwrap();
                    for (b, value) in live.iter().enumerate().filter(|(b, _)| dirty[*b]) {
                        may[b] = [*value].into();
                    }
                    dirty.fill(false);
                }
                Step::FailedSync => {
                    storage.set_injector(Some("on(sync)&nth(1):eio".parse().unwrap()));
                    prop_assert!(file.sync().is_err());
                    dirty.fill(false);
                }
            }
            prop_assert_eq!(&storage.contents("a").unwrap(), &live);
        }
        let left = storage.crash(Survival::Seeded(seed)).contents("a").unwrap();
        prop_assert!((1000..=live.len()).contains(&left.len()));
        for (b, value) in left.iter().enumerate() {
            prop_assert!(may[b].contains(value), "byte {} is {}, may be {:?}", b, value, may[b]);
        }
    }
}

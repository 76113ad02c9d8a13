//! Injectors: the same text in and out, and each fires exactly where it says.

use std::io::ErrorKind;

use proptest::prelude::*;
use watershed_wal::Storage;
use watershed_wal::mem::{Fault, Injector, MemStorage, OpClass, Rule, Survival, When};

fn injector() -> impl Strategy<Value = Injector> {
    let on = prop::sample::select(vec![
        OpClass::Any,
        OpClass::Change,
        OpClass::List,
        OpClass::Create,
        OpClass::Open,
        OpClass::Read,
        OpClass::Write,
        OpClass::Sync,
        OpClass::Rename,
        OpClass::Remove,
        OpClass::SyncDir,
    ]);
    let when = prop_oneof![
        Just(When::Always),
        any::<u64>().prop_map(When::Nth),
        any::<u64>().prop_map(When::After),
    ];
    let fault = prop::sample::select(vec![
        Fault::Crash,
        Fault::Eio,
        Fault::Enospc,
        Fault::Short,
        Fault::Lost,
        Fault::Misdirect,
        Fault::Stall,
    ]);
    let rule = (on, prop::option::of("[a-z0-9.*]{1,8}"), when, fault).prop_map(
        |(on, path, when, fault)| Rule {
            on,
            path,
            when,
            fault,
        },
    );
    prop::collection::vec(rule, 1..4).prop_map(Injector::new)
}

proptest! {
    #[test]
    fn mem_injectors_read_as_they_print(injector in injector()) {
        let text = injector.to_string();
        prop_assert_eq!(text.parse::<Injector>(), Ok(injector), "{}", text);
    }

    #[test]
    fn mem_injectors_of_noise_never_panic(text in "[a-z(){}&:;*0-9 ]{0,40}") {
        if let Ok(injector) = text.parse::<Injector>() {
            prop_assert_eq!(injector.to_string().parse::<Injector>(), Ok(injector));
        }
    }
}

#[test]
fn mem_injectors_print_as_they_are_written() {
    for text in [
        "nth(37):crash",
        "on(any):eio",
        "on(sync)&path(*.seg)&nth(2):eio",
        "on(write):enospc",
        "after(10):short",
        "on(change)&nth(1):crash;on(syncdir):eio",
    ] {
        assert_eq!(text.parse::<Injector>().unwrap().to_string(), text);
    }
    assert_eq!(
        Injector::crash_at_change(5).to_string(),
        "on(change)&nth(5):crash"
    );
}

#[test]
fn mem_injectors_that_mean_nothing_are_refused() {
    for text in [
        "",
        "eio",
        ":eio",
        "nth(3)",
        "nth(3):explode",
        "nth(-1):eio",
        "nth(3:eio",
        "nth(1)&after(2):eio",
        "on(sync)&on(read):eio",
        "on(fsync):eio",
        "path():eio",
        "nth(3):eio;",
    ] {
        let error = text.parse::<Injector>().unwrap_err();
        assert!(error.to_string().contains("expected"), "{text}: {error}");
    }
}

fn with(injector: &str) -> MemStorage {
    let storage = MemStorage::new();
    storage.set_injector(Some(injector.parse().unwrap()));
    storage
}

#[test]
fn mem_nth_fires_once_and_after_goes_on() {
    let storage = with("on(create)&nth(2):eio");
    let results: Vec<_> = ["a", "b", "c"]
        .map(|name| storage.create(name, 1).is_ok())
        .into();
    assert_eq!(results, [true, false, true]);
    assert_eq!(storage.list().unwrap(), ["a", "c"]);
    let storage = with("on(create)&after(1):eio");
    let results: Vec<_> = ["a", "b", "c"]
        .map(|name| storage.create(name, 1).is_ok())
        .into();
    assert_eq!(results, [true, false, false]);
    assert_eq!(storage.fired(), 2);
}

#[test]
fn mem_conditions_all_must_hold() {
    let storage = with("on(write)&path(*.seg)&nth(2):enospc");
    let seg = storage.create("1.seg", 8).unwrap();
    let other = storage.create("1.tmp", 8).unwrap();
    seg.write_at(0, b"a").unwrap();
    other.write_at(0, b"b").unwrap();
    seg.sync().unwrap();
    assert_eq!(
        seg.write_at(1, b"c").unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(storage.contents("1.seg").unwrap()[..2], *b"a\0");
}

#[test]
fn mem_paths_are_those_of_now_and_renames_have_two() {
    let storage = with("on(write)&path(b*):eio;on(rename)&path(z):eio");
    let file = storage.create("a", 8).unwrap();
    file.write_at(0, b"x").unwrap();
    storage.rename("a", "b1").unwrap();
    assert!(file.write_at(0, b"x").is_err());
    assert!(storage.rename("b1", "z").is_err());
    assert_eq!(storage.list().unwrap(), ["b1"]);
}

#[test]
fn mem_a_short_write_leaves_its_first_half() {
    let storage = with("on(write):short");
    let file = storage.create("a", 6).unwrap();
    assert_eq!(
        file.write_at(0, b"abcdef").unwrap_err().kind(),
        ErrorKind::WriteZero
    );
    assert_eq!(storage.contents("a").unwrap(), b"abc\0\0\0");
}

#[test]
fn mem_the_first_rule_decides_and_every_rule_counts() {
    let storage = with("nth(2):eio;nth(2):enospc;nth(3):enospc");
    storage.create("a", 1).unwrap();
    assert_eq!(storage.create("b", 1).unwrap_err().kind(), ErrorKind::Other);
    assert_eq!(
        storage.create("c", 1).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(storage.io_count(), 3);
}

#[test]
fn mem_counts_tell_changes_from_reads() {
    let storage = MemStorage::new();
    let file = storage.create("a", 4).unwrap();
    file.write_at(0, b"x").unwrap();
    file.sync().unwrap();
    storage.sync_dir().unwrap();
    file.read_at(0, &mut [0; 4]).unwrap();
    file.len().unwrap();
    storage.list().unwrap();
    storage.open("a").unwrap();
    assert_eq!((storage.io_count(), storage.change_count()), (7, 4));
}

/// The loop of every crash test: a crash at each change until none is left to crash at.
#[test]
fn mem_a_crash_at_each_change_is_a_finite_loop() {
    let work = |storage: &MemStorage| -> std::io::Result<()> {
        let file = storage.create("a", 4)?;
        storage.sync_dir()?;
        file.write_at(0, b"done")?;
        file.sync()
    };
    let mut outcomes = Vec::new();
    for n in 1.. {
        let storage = MemStorage::new();
        storage.set_injector(Some(Injector::crash_at_change(n)));
        let done = work(&storage).is_ok();
        let left = storage.crash(Survival::None).contents("a");
        outcomes.push(left.clone());
        if done {
            assert_eq!(storage.fired(), 0);
            assert_eq!(left.as_deref(), Some(&b"done"[..]));
            break;
        }
    }
    assert_eq!(outcomes.len(), 5);
    assert_eq!(outcomes[..2], [None, None]);
    assert_eq!(outcomes[2..4], [Some(vec![0; 4]), Some(vec![0; 4])]);
}

#[test]
fn mem_a_lost_write_or_sync_says_that_it_is_done() {
    let storage = with("on(write)&nth(2):lost;on(sync)&nth(1):lost");
    let file = storage.create("a", 8).unwrap();
    file.write_at(0, b"one").unwrap();
    file.write_at(4, b"two").unwrap();
    assert_eq!(storage.contents("a").unwrap(), b"one\0\0\0\0\0");
    file.sync().unwrap();
    storage.sync_dir().unwrap();
    let lied = storage.crash(Survival::None);
    assert_eq!(lied.contents("a").unwrap(), [0; 8]);
}

#[test]
fn mem_a_misdirected_write_lands_in_another_block() {
    let storage = with("on(write):misdirect");
    let file = storage.create("a", 12_288).unwrap();
    file.write_at(100, b"here").unwrap();
    file.write_at(12_000, b"end").unwrap();
    let bytes = storage.contents("a").unwrap();
    assert_eq!(&bytes[4196..4200], b"here");
    assert_eq!(&bytes[12_000 - 4096..][..3], b"end");
    assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 7);
}

#[test]
fn mem_a_stalled_call_goes_on_when_the_injector_is_changed() {
    let storage = with("on(sync):stall");
    let file = storage.create("a", 8).unwrap();
    file.write_at(0, b"x").unwrap();
    storage.sync_dir().unwrap();
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| file.sync());
        while storage.stalled() == 0 {
            std::thread::yield_now();
        }
        // Reads go on meanwhile.
        file.read_at(0, &mut [0; 4]).unwrap();
        storage.set_injector(None);
        synced.join().unwrap().unwrap();
    });
    assert_eq!(storage.stalled(), 0);
    // Power that goes ends it too.
    storage.set_injector(Some("on(sync):stall".parse().unwrap()));
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| file.sync());
        while storage.stalled() == 0 {
            std::thread::yield_now();
        }
        let left = storage.crash(Survival::None);
        assert!(synced.join().unwrap().is_err());
        assert_eq!(left.contents("a").unwrap()[0], b'x');
    });
}

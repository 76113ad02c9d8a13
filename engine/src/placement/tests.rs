//! The file placement against crashes, damage and competing swaps; what each placement must do is in contract.rs.

mod example;
mod members;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::{InstanceId, ShardId};

use super::contract::{created, next, wait};
use super::file::NAME;
use super::journal::{self, Journal};
use super::map::{Entry, Map};
use super::*;

fn records(placement: &FilePlacement) -> Vec<PlacementRecord> {
    wait(placement.list()).unwrap()
}

fn journal_path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Puts a journal of these bytes alone into a fresh directory.
fn dir_with(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(journal_path(dir.path()), bytes).unwrap();
    dir
}

/// A journal with the cluster, three shards, swaps and a removal; with the map after each of its lines.
fn history() -> (Vec<u8>, Vec<(usize, Vec<PlacementRecord>)>) {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let path = journal_path(dir.path());
    let mut states = Vec::new();
    let mut note = |placement: &FilePlacement| {
        let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        states.push((len, records(placement)));
    };
    note(&placement);
    wait(placement.create_cluster(ClusterInfo { shards: 3 })).unwrap();
    note(&placement);
    let mut last = Vec::new();
    for shard in 0..3 {
        last.push(wait(placement.swap(None, created(shard))).unwrap());
        note(&placement);
    }
    for round in 0..4_u128 {
        for record in &mut last {
            let to = next(record, 100 + round);
            *record = wait(placement.swap(Some(record.revision), to)).unwrap();
            note(&placement);
        }
    }
    wait(placement.remove(ShardId(1), last[1].revision)).unwrap();
    note(&placement);
    drop(placement);
    (fs::read(path).unwrap(), states)
}

#[test]
fn what_was_swapped_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    assert_eq!(wait(placement.cluster()).unwrap(), None);
    let info = ClusterInfo { shards: 16 };
    assert_eq!(wait(placement.create_cluster(info)).unwrap(), info);
    assert_eq!(
        wait(placement.create_cluster(ClusterInfo { shards: 4 })).unwrap(),
        info,
        "the first decides"
    );
    let first = wait(placement.swap(None, created(3))).unwrap();
    let second = wait(placement.swap(Some(first.revision), next(&first, 9))).unwrap();
    drop(placement);
    let placement = FilePlacement::open(dir.path()).unwrap();
    assert_eq!(wait(placement.cluster()).unwrap(), Some(info));
    assert_eq!(
        wait(placement.read(ShardId(3))).unwrap(),
        Some(second.clone())
    );
    assert_eq!(wait(placement.read(ShardId(4))).unwrap(), None);
    let (cluster, list) = FilePlacement::read_dir(dir.path()).unwrap();
    assert_eq!(
        (cluster, list),
        (Some(info), vec![second]),
        "readable beside the open one"
    );
}

#[test]
fn a_swap_that_expects_another_revision_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let first = wait(placement.swap(None, created(1))).unwrap();
    let second = wait(placement.swap(Some(first.revision), next(&first, 2))).unwrap();
    for expected in [
        None,
        Some(first.revision),
        Some(Revision(second.revision.0 + 1)),
    ] {
        match wait(placement.swap(expected, next(&second, 66))) {
            Err(PlacementError::Conflict { shard, current }) => {
                assert_eq!((shard, current.as_deref()), (ShardId(1), Some(&second)));
            }
            other => panic!("{expected:?} gave {other:?}"),
        }
    }
    let stale = wait(placement.swap(Some(second.revision), second.clone()));
    assert!(
        matches!(stale, Err(PlacementError::Revision { .. })),
        "{stale:?}"
    );
    assert_eq!(records(&placement), [second]);
}

#[test]
fn many_threads_swap_and_each_revision_has_one_winner() {
    const THREADS: u128 = 8;
    const WINS_EACH: u64 = 25;
    let dir = tempfile::tempdir().unwrap();
    let placement = Arc::new(FilePlacement::open(dir.path()).unwrap());
    let first = wait(placement.swap(None, created(1))).unwrap();
    let conflicts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (placement, conflicts) = (placement.clone(), &conflicts);
            scope.spawn(move || {
                let mut won = 0;
                let mut seen = wait(placement.read(ShardId(1))).unwrap().unwrap();
                while won < WINS_EACH {
                    match wait(placement.swap(Some(seen.revision), next(&seen, thread))) {
                        Ok(record) => {
                            assert_eq!(record.instance, InstanceId(thread));
                            seen = record;
                            won += 1;
                        }
                        Err(PlacementError::Conflict { current, .. }) => {
                            conflicts.fetch_add(1, Ordering::Relaxed);
                            seen = *current.unwrap();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let last = wait(placement.read(ShardId(1))).unwrap().unwrap();
    let swaps = u64::try_from(THREADS).unwrap() * WINS_EACH;
    assert_eq!(
        last.revision.0 - first.revision.0,
        swaps,
        "no two swaps won the same revision"
    );
    let lines = fs::read_to_string(journal_path(dir.path()))
        .unwrap()
        .lines()
        .count() as u64;
    assert_eq!(
        lines,
        1 + 1 + swaps,
        "a line for each win, none for {conflicts:?} conflicts"
    );
}

#[test]
fn a_removed_shard_comes_back_with_a_higher_revision() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let first = wait(placement.swap(None, created(1))).unwrap();
    let missed = wait(placement.remove(ShardId(1), Revision(first.revision.0 + 5)));
    assert!(
        matches!(missed, Err(PlacementError::Conflict { .. })),
        "{missed:?}"
    );
    wait(placement.remove(ShardId(1), first.revision)).unwrap();
    assert_eq!(wait(placement.read(ShardId(1))).unwrap(), None);
    drop(placement);
    let placement = FilePlacement::open(dir.path()).unwrap();
    let again = wait(placement.swap(None, created(1))).unwrap();
    assert!(again.revision > first.revision);
    let stale = wait(placement.swap(Some(first.revision), next(&first, 5)));
    assert!(
        matches!(stale, Err(PlacementError::Conflict { .. })),
        "{stale:?}"
    );
}

#[test]
fn a_change_wakes_who_watches() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let mut watch = placement.watch();
    assert!(!watch.has_changed().unwrap());
    wait(placement.swap(None, created(1))).unwrap();
    assert!(watch.has_changed().unwrap());
    watch.borrow_and_update();
    assert!(wait(placement.swap(None, created(1))).is_err());
    assert!(!watch.has_changed().unwrap(), "a conflict is no change");
}

#[test]
fn a_journal_cut_anywhere_gives_a_state_that_was() {
    let (bytes, states) = history();
    let promised = states[0].0;
    for cut in 0..=bytes.len() {
        let dir = dir_with(&bytes[..cut]);
        let opened = FilePlacement::open(dir.path());
        if cut + 1 < promised {
            assert!(
                matches!(opened, Err(PlacementError::Damaged { .. })),
                "cut at {cut}: {opened:?}"
            );
            continue;
        }
        // A line that lacks its newline only may count as well as not: nobody was told of it.
        let at_most = states
            .iter()
            .rev()
            .find(|(len, _)| *len <= cut + 1)
            .unwrap();
        let placement = opened.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(records(&placement), at_most.1, "cut at {cut}");
        let acknowledged = states.iter().rev().find(|(len, _)| *len <= cut);
        assert!(acknowledged.is_none_or(|(len, _)| *len <= at_most.0));
        // What is appended next stands after another opening.
        let more = wait(placement.swap(None, created(9))).unwrap();
        let expected: Vec<_> = records(&placement);
        assert!(expected.contains(&more));
        drop(placement);
        assert_eq!(
            records(&FilePlacement::open(dir.path()).unwrap()),
            expected,
            "cut at {cut}, then swapped"
        );
    }
}

#[test]
fn a_flipped_byte_is_refused_naming_its_line_and_never_an_older_state() {
    let (bytes, states) = history();
    let last = &states.last().unwrap().1;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, bytes[at], bytes[at] ^ b'\n', bytes[at] ^ b' '] {
            if flip == 0 {
                continue;
            }
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count() as u64;
            match journal::parse::<Map>(Path::new(NAME), &damaged) {
                Err(PlacementError::Damaged { line: named, .. }) => {
                    assert_eq!(named, line, "byte {at} ^ {flip:#x}")
                }
                Err(error) => panic!("byte {at} ^ {flip:#x}: {error}"),
                Ok(read) => {
                    let found: Vec<_> = read.state.records.into_values().collect();
                    assert_eq!(&found, last, "byte {at} ^ {flip:#x} changed the map unseen");
                }
            }
        }
    }
}

#[test]
fn a_last_line_with_a_hole_of_zeros_is_cut() {
    let (bytes, states) = history();
    let (before, _) = states[states.len() - 2];
    for from in before..bytes.len() - 2 {
        let mut torn = bytes.clone();
        torn[from..=from + 1].fill(0);
        let read = journal::parse::<Map>(Path::new(NAME), &torn).unwrap();
        assert!(read.torn);
        assert_eq!(read.end, before as u64);
        let found: Vec<_> = read.state.records.into_values().collect();
        assert_eq!(found, states[states.len() - 2].1);
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let foreign = dir_with(b"hello\nworld\n");
    let error = FilePlacement::open(foreign.path()).unwrap_err();
    assert!(
        matches!(error, PlacementError::Damaged { line: 1, .. }),
        "{error}"
    );
    let json = br#"{"format":{"version":3,"lines":1}}"#;
    let newer = dir_with(
        &[
            format!("{:08x} ", crc32fast::hash(json)).as_bytes(),
            json,
            b"\n",
        ]
        .concat(),
    );
    let error = FilePlacement::open(newer.path()).unwrap_err();
    assert!(
        matches!(
            error,
            PlacementError::NewerFormat {
                found: 3,
                supported: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn lines_that_do_not_go_on_are_refused() {
    let (bytes, _) = history();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    for twice in 1..lines.len() {
        let mut doubled = lines.clone();
        doubled.push(lines[twice]);
        let error = journal::parse::<Map>(Path::new(NAME), &doubled.concat()).unwrap_err();
        assert!(
            matches!(error, PlacementError::Damaged { line, .. } if line == lines.len() as u64 + 1),
            "line {twice} again: {error}"
        );
    }
}

#[test]
fn a_journal_written_again_says_the_same_and_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    wait(placement.create_cluster(ClusterInfo { shards: 2 })).unwrap();
    let mut record = wait(placement.swap(None, created(1))).unwrap();
    wait(placement.swap(None, created(2))).unwrap();
    let gone = wait(placement.swap(None, created(3))).unwrap();
    wait(placement.remove(ShardId(3), gone.revision)).unwrap();
    let mut longest = 0;
    for round in 0..3000 {
        record = wait(placement.swap(Some(record.revision), next(&record, round))).unwrap();
        longest = longest.max(fs::metadata(journal_path(dir.path())).unwrap().len());
    }
    assert!(longest < 300 << 10, "{longest} bytes");
    let expected = records(&placement);
    drop(placement);
    let placement = FilePlacement::open(dir.path()).unwrap();
    assert_eq!(records(&placement), expected);
    assert_eq!(
        wait(placement.cluster()).unwrap(),
        Some(ClusterInfo { shards: 2 })
    );
    let again = wait(placement.swap(None, created(3))).unwrap();
    assert!(
        again.revision > gone.revision,
        "a removal outlives the writing"
    );
}

#[test]
fn a_crash_while_the_journal_is_written_again_leaves_the_old_or_the_new() {
    let (bytes, states) = history();
    let last = &states.last().unwrap().1;
    // The whole new journal, as compaction writes it.
    let dir = dir_with(&bytes);
    let (mut journal, state) = Journal::open::<Map>(&dir.path().join(NAME)).unwrap();
    journal.compact(&state).unwrap();
    drop(journal);
    let new = fs::read(journal_path(dir.path())).unwrap();
    assert!(new.len() < bytes.len());
    for cut in 0..=new.len() {
        let dir = dir_with(&bytes);
        fs::write(dir.path().join("journal.new"), &new[..cut]).unwrap();
        let placement = FilePlacement::open(dir.path()).unwrap();
        assert_eq!(
            &records(&placement),
            last,
            "before the rename, {cut} bytes written"
        );
    }
    // Renamed without its content being durable can't happen: it is synced first. So a short one is damage.
    for cut in 0..new.len() - 1 {
        let error = journal::parse::<Map>(Path::new(NAME), &new[..cut]).unwrap_err();
        assert!(
            matches!(error, PlacementError::Damaged { .. }),
            "cut at {cut}: {error}"
        );
    }
    assert_eq!(&records(&FilePlacement::open(dir.path()).unwrap()), last);
}

#[test]
fn an_unacknowledged_change_that_is_whole_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open::<Map>(&dir.path().join(NAME)).unwrap();
    journal
        .append(&Entry::Cluster(ClusterInfo { shards: 1 }))
        .unwrap();
    drop(journal);
    let (mut journal, state) = Journal::open::<Map>(&dir.path().join(NAME)).unwrap();
    assert!(state.cluster.is_some());
    journal
        .append(&Entry::Record(Box::new(created(1))))
        .unwrap();
    drop(journal);
    assert_eq!(records(&FilePlacement::open(dir.path()).unwrap()).len(), 1);
}

#[test]
fn a_second_handle_of_the_same_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let second = FilePlacement::open(dir.path());
    assert!(
        matches!(second, Err(PlacementError::Locked { .. })),
        "{second:?}"
    );
    drop(placement);
    FilePlacement::open(dir.path()).unwrap();
}

const HOLD_IN: &str = "WATERSHED_TEST_HOLD_PLACEMENT";

/// Run in a process of its own by the test below; alone it has nothing to hold.
#[test]
fn helper_that_holds_a_placement() {
    let Some(dir) = std::env::var_os(HOLD_IN) else {
        return;
    };
    let _placement = FilePlacement::open(Path::new(&dir)).unwrap();
    println!("\nholding");
    // Ends when the parent closes its end.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

#[test]
fn a_second_process_is_refused_until_the_first_ends() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([
            "helper_that_holds_a_placement",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(HOLD_IN, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.by_ref().any(|line| line.unwrap() == "holding");
    assert!(held, "the other process could not open it");
    let refused = FilePlacement::open(dir.path());
    assert!(
        matches!(refused, Err(PlacementError::Locked { .. })),
        "{refused:?}"
    );
    // Killed, not asked: the system frees the lock of a process that crashed.
    holder.kill().unwrap();
    holder.wait().unwrap();
    FilePlacement::open(dir.path()).unwrap();
}

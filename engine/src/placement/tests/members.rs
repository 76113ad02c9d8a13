//! The members in the journal, and whether they are alive.

use std::time::Instant;

use super::super::contract::{self, LONG, Site, at, contract_tests, member, node, told_until};
use super::super::lives::Lives;
use super::super::map::Joined;
use super::*;

type Members = BTreeMap<NodeId, Member>;

struct InFile {
    placement: Arc<FilePlacement>,
    _dir: tempfile::TempDir,
}

impl InFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            placement: Arc::new(FilePlacement::open(dir.path()).unwrap()),
            _dir: dir,
        }
    }
}

impl Site for InFile {
    fn placement(&self) -> Arc<dyn Placement> {
        self.placement.clone()
    }
}

contract_tests!(InFile::new());

#[test]
fn a_renewal_is_no_change() {
    contract::a_renewal_is_no_change(&InFile::new(), 1);
}

fn announce(placement: &FilePlacement, name: &str, address: &str, alive_for: Duration) {
    wait(placement.announce(node(name), at(address), alive_for)).unwrap();
}

/// A journal in which nodes join, change, are drained and leave; with the members after each of its lines.
fn history() -> (Vec<u8>, Vec<(usize, Members)>) {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    let path = journal_path(dir.path());
    let mut states = Vec::new();
    let mut note = |placement: &FilePlacement| {
        let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
        states.push((len, wait(placement.members()).unwrap()));
    };
    note(&placement);
    for (name, address) in [("a", "[::1]:1"), ("b", "[::1]:2"), ("a", "[::1]:11")] {
        announce(&placement, name, address, LONG);
        note(&placement);
    }
    wait(placement.set_goal(node("b"), Some(Goal::Drain))).unwrap();
    note(&placement);
    wait(placement.remove_member(node("a"))).unwrap();
    note(&placement);
    announce(&placement, "c", "[::1]:3", LONG);
    note(&placement);
    drop(placement);
    (fs::read(path).unwrap(), states)
}

#[test]
fn members_are_there_after_opening_again_and_none_is_declared_dead() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    announce(&placement, "a", "[::1]:1", LONG);
    announce(&placement, "b", "[::1]:2", Duration::from_millis(1));
    announce(&placement, "c", "[::1]:3", Duration::ZERO);
    wait(placement.set_goal(node("c"), Some(Goal::Drain))).unwrap();
    told_until(&placement, |p| member(p, "b").filter(|b| !b.alive));
    let before = wait(placement.members()).unwrap();
    drop(placement);

    let placement = FilePlacement::open(dir.path()).unwrap();
    let mut after = wait(placement.members()).unwrap();
    assert!(after[&node("a")].alive && after[&node("c")].alive);
    // As short as it asked for, so it may be over already; and then that is told.
    told_until(&placement, |p| member(p, "b").filter(|b| !b.alive));
    for (name, member) in &mut after {
        member.alive = before[name].alive;
    }
    assert_eq!(after, before);
}

#[test]
fn only_what_is_new_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let placement = FilePlacement::open(dir.path()).unwrap();
    announce(&placement, "a", "[::1]:1", LONG);
    let len = || fs::metadata(journal_path(dir.path())).unwrap().len();
    let before = len();
    for alive_for in [LONG, Duration::ZERO, LONG, LONG] {
        announce(&placement, "a", "[::1]:1", alive_for);
        wait(placement.set_goal(node("a"), None)).unwrap();
        wait(placement.remove_member(node("b"))).unwrap();
    }
    assert_eq!(len(), before);
    announce(&placement, "a", "[::1]:11", LONG);
    assert!(len() > before);
}

#[test]
fn a_journal_with_members_cut_anywhere_gives_members_that_were() {
    let (bytes, states) = history();
    for cut in states[0].0..=bytes.len() {
        let dir = dir_with(&bytes[..cut]);
        let placement = FilePlacement::open(dir.path()).unwrap();
        // A line that lacks its newline only may count as well as not.
        let at_most = states.iter().rev().find(|(len, _)| *len <= cut + 1);
        let found = wait(placement.members()).unwrap();
        assert_eq!(&found, &at_most.unwrap().1, "cut at {cut}");
    }
}

#[test]
fn a_flipped_byte_of_a_member_is_refused() {
    let (bytes, states) = history();
    let last: Vec<_> = states.last().unwrap().1.keys().cloned().collect();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, bytes[at] ^ b'\n'] {
            if flip == 0 {
                continue;
            }
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match journal::parse::<Map>(Path::new(NAME), &damaged) {
                Err(PlacementError::Damaged { .. }) => {}
                Err(error) => panic!("byte {at} ^ {flip:#x}: {error}"),
                Ok(read) => {
                    let found: Vec<_> = read.state.members.into_keys().collect();
                    assert_eq!(found, last, "byte {at} ^ {flip:#x} changed them unseen");
                }
            }
        }
    }
}

#[test]
fn a_member_that_leaves_twice_is_refused() {
    let (bytes, _) = history();
    let text = String::from_utf8(bytes).unwrap();
    let left = text.lines().find(|line| line.contains("left")).unwrap();
    let doubled = format!("{text}{left}\n");
    let error = journal::parse::<Map>(Path::new(NAME), doubled.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("node a leaves"), "{error}");
}

#[test]
fn a_journal_of_version_1_opens_and_becomes_version_2() {
    let kept = include_bytes!("journal-1");
    let dir = dir_with(kept);
    let (cluster, beside) = FilePlacement::read_dir(dir.path()).unwrap();
    assert_eq!(cluster, Some(ClusterInfo { shards: 3 }));
    assert_eq!(
        fs::read(journal_path(dir.path())).unwrap(),
        kept,
        "only read"
    );
    let placement = FilePlacement::open(dir.path()).unwrap();
    assert_eq!(
        (records(&placement), records(&placement).len()),
        (beside, 2)
    );
    let again = wait(placement.swap(None, created(1))).unwrap();
    assert!(again.revision > Revision(5), "it was removed at revision 6");
    drop(placement);
    let text = fs::read_to_string(journal_path(dir.path())).unwrap();
    assert!(text.lines().next().unwrap().contains(r#""version":2"#));
}

fn joined(name: &str, alive_for_ms: u64) -> Joined {
    Joined {
        node: node(name),
        info: at("[::1]:1"),
        goal: None,
        alive_for_ms,
    }
}

#[test]
fn a_life_lasts_as_long_as_it_was_asked_for_and_renewed() {
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    let members = [joined("a", 100), joined("b", 0)];
    let mut lives = Lives::from_now(members.iter(), start);
    assert_eq!(lives.next_end(), Some(after(100)));
    let (a, b, time) = (node("a"), node("b"), Duration::from_millis(100));
    assert!(lives.renew(&a, time, after(90)), "in time");
    assert!(lives.expire(after(189)).is_empty());
    assert!(
        !lives.renew(&a, 2 * time, after(189)),
        "another time is news"
    );
    assert_eq!(lives.expire(after(190)), std::slice::from_ref(&a));
    assert!(lives.expire(after(191)).is_empty(), "once");
    assert!(!lives.is_alive(&a) && lives.is_alive(&b));
    assert!(!lives.renew(&a, time, after(200)), "to come back is news");
    assert!(lives.set(&a, time, after(200)) && lives.is_alive(&a));
    assert!(!lives.set(&a, 2 * time, after(210)), "it was alive before");
    assert_eq!(lives.next_end(), Some(after(410)));
    // Late, but nobody had said that it was over.
    assert!(lives.renew(&a, 2 * time, after(500)) && lives.expire(after(500)).is_empty());
    assert!(lives.set(&a, Duration::ZERO, after(501)) && !lives.is_alive(&a));
    assert!(!lives.set(&a, Duration::ZERO, after(502)));
    // Who said nothing has ten seconds.
    assert_eq!(lives.next_end(), Some(after(10_000)));
    lives.set(&b, Duration::MAX, start);
    assert_eq!(lives.next_end(), Some(start + LONGEST_LIFE));
    lives.forget(&b);
    assert_eq!(lives.next_end(), None);
}

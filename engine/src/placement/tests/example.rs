//! The placement of `examples/bring_your_own` does what each placement must do, also after it was opened again.

use std::sync::Arc;

use super::super::Placement;
use super::super::contract::{LONG, Site, at, contract_tests, created, member, next, node, wait};
use super::PlacementError;
use watershed_wal::ShardId;

// As a user writes it, lints of this crate's items included.
#[path = "../../../examples/bring_your_own/placement.rs"]
mod placement;

use placement::TablePlacement;

struct InTable {
    placement: Arc<TablePlacement>,
    _dir: tempfile::TempDir,
}

impl InTable {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let placement = Arc::new(TablePlacement::open(dir.path().join("owners")).unwrap());
        Self {
            placement,
            _dir: dir,
        }
    }
}

impl Site for InTable {
    fn placement(&self) -> Arc<dyn Placement> {
        self.placement.clone()
    }
}

contract_tests!(InTable::new());

#[test]
fn what_was_changed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("owners");
    let placement = TablePlacement::open(&file).unwrap();
    let kept = wait(placement.swap(None, created(1))).unwrap();
    let dropped = wait(placement.swap(None, created(2))).unwrap();
    let dropped = wait(placement.swap(Some(dropped.revision), next(&dropped, 5))).unwrap();
    wait(placement.remove(ShardId(2), dropped.revision)).unwrap();
    wait(Placement::announce(
        &placement,
        node("a"),
        at("[::1]:1"),
        LONG,
    ))
    .unwrap();
    drop(placement);
    let placement = TablePlacement::open(&file).unwrap();
    assert_eq!(wait(placement.list()).unwrap(), [kept]);
    let again = wait(placement.swap(None, created(2))).unwrap();
    assert!(again.revision > dropped.revision && again.epoch > dropped.epoch);
    assert!(
        member(&placement, "a").unwrap().alive,
        "nobody is declared dead"
    );
}

#[test]
fn what_can_not_be_known_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("owners");
    let placement = TablePlacement::open(&file).unwrap();
    let first = wait(placement.swap(None, created(1))).unwrap();
    // Nothing can be renamed over a directory with something in it.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("in the way")).unwrap();
    let swapped = wait(placement.swap(Some(first.revision), next(&first, 2)));
    assert!(
        matches!(swapped, Err(PlacementError::Poisoned { .. })),
        "{swapped:?}"
    );
    let read = wait(placement.read(ShardId(1)));
    assert!(
        matches!(read, Err(PlacementError::Poisoned { .. })),
        "{read:?}"
    );
}

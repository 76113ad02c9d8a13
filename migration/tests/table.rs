//! The driver's whole transition table as text. Regenerate with `WATERSHED_REGEN=1` and review the diff.

use std::fmt::Write;

use watershed_migration::machine::{Signal, Step};

#[test]
fn the_transition_table_is_as_reviewed() {
    let mut text = String::from(
        "# step (phase): signal -> step; a signal that is not shown is never given there\n",
    );
    for step in Step::ALL {
        writeln!(text, "\n{step:?} ({})", step.phase()).unwrap();
        for signal in Signal::ALL {
            if let Some(next) = step.after(*signal) {
                writeln!(text, "  {:12} -> {next:?}", format!("{signal:?}")).unwrap();
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table.txt");
    if std::env::var_os("WATERSHED_REGEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn nothing_leads_back_over_the_activation() {
    let after = [
        Step::BecomeOwner,
        Step::Release,
        Step::Files,
        Step::EnterCleanup,
        Step::CompareSource,
        Step::CompareTarget,
        Step::Grace,
        Step::NoteGrace,
        Step::BeginRetire,
        Step::Retire,
        Step::FinishCleanup,
    ];
    for step in after {
        for signal in Signal::ALL {
            let by_record = matches!(
                signal,
                Signal::AtStart | Signal::AtDualWrite | Signal::AtAborted
            );
            if let Some(next) = step.after(*signal).filter(|_| !by_record) {
                let forward = after.contains(&next) || matches!(next, Step::Over | Step::Reread);
                assert!(forward, "{step:?} {signal:?} -> {next:?}");
                assert_ne!(next, Step::Abort);
            }
        }
    }
}

//! What a driver shows: never ahead of the record, and the phases in their order. And what ends a migration before
//! Activate, and does not after it.

mod stage;

use stage::{Stage, healthy};
use watershed_migration::machine::{Operator, Outcome};
use watershed_migration::messages::{RefusedKind, Request, Response};
use watershed_migration::{MigrationConfig, Phase};

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    }
}

fn abort() -> Operator {
    Operator::Abort {
        reason: "asked".into(),
    }
}

/// Runs until the request of this name is asked for, then gives it no answer.
fn stopped_at(name: &'static str) -> Stage {
    let mut stage = Stage::new(&config());
    let mut lost = false;
    stage.run_while(|_, p, r| {
        lost = lost || r.name() == name;
        (!lost).then(|| (0, healthy(p, r)))
    });
    assert_eq!(stage.asked.last().unwrap().1, name);
    stage
}

#[test]
fn activate_is_not_shown_before_the_source_gave_the_shard_away() {
    let mut stage = Stage::new(&config());
    let mut refusals = 2;
    stage.run(600_000, |_, p, r| match r {
        Request::Activate { .. } if refusals > 0 => {
            refusals -= 1;
            (
                0,
                Response::refused(RefusedKind::NotReady, "the pause is at its bound"),
            )
        }
        _ => (0, healthy(p, r)),
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    stage.phases.dedup();
    let pause = [Phase::StopDualWrite, Phase::Drain, Phase::DeltaPass];
    let mut expected = vec![Phase::Plan, Phase::BulkCopy];
    for _ in 0..3 {
        expected.push(Phase::DualWrite);
        expected.extend(pause);
    }
    expected.extend([Phase::Activate, Phase::Cleanup, Phase::Done]);
    assert_eq!(stage.phases, expected);
    assert_eq!(stage.machine.progress().re_opens, 2);
}

#[test]
fn rule_15_before_activate_an_abort_ends_it_at_each_step_and_is_shown_once_it_won() {
    let before = [
        "Prepare",
        "BeginTarget",
        "Checkpoint",
        "Pull",
        "StartForward",
        "TargetStatus",
        "SourceStatus",
        "Missing",
        "Quiesce",
        "Drain",
        "Verify",
        "Activate",
    ];
    for name in before {
        let mut stage = stopped_at(name);
        assert!(!stage.phases.contains(&Phase::Activate), "{name}");
        stage.operator(abort());
        assert!(
            !stage.phases.contains(&Phase::Aborted),
            "{name}: shown before its swap won"
        );
        stage.run(600_000, |_, p, r| (0, healthy(p, r)));
        assert_eq!(stage.reason(), "asked", "{name}");
        let m = stage.placement.migration.as_ref().unwrap();
        assert_eq!(
            (m.phase, stage.placement.owner.as_str()),
            (Phase::Aborted, "s"),
            "{name}"
        );
        let told: Vec<_> = stage
            .asked
            .iter()
            .rev()
            .take(2)
            .map(|asked| asked.1)
            .collect();
        assert_eq!(told, ["DiscardTarget", "AbortSource"], "{name}");
        assert_eq!(stage.phases.last(), Some(&Phase::Aborted), "{name}");
    }
}

#[test]
fn rule_15_from_activate_on_an_abort_does_nothing() {
    for name in ["BecomeOwner", "Release", "ComparePage", "Retire"] {
        let mut stage = stopped_at(name);
        stage.operator(abort());
        let m = stage.placement.migration.clone().unwrap();
        assert!(m.phase >= Phase::Activate);
        assert!(
            stage.placement.abort(m.id, "asked").is_err(),
            "{name}: the placement refuses, too"
        );
        stage.answer_last(Response::refused(RefusedKind::Failed, "lost"));
        stage.run(600_000, |_, p, r| (0, healthy(p, r)));
        assert_eq!(stage.outcome, Some(Outcome::Done), "{name}");
        assert_eq!(stage.placement.owner.as_str(), "t");
        assert!(!stage.phases.contains(&Phase::Aborted));
    }
}

#[test]
fn rule_15_an_abort_that_loses_to_the_activation_goes_on_to_the_end() {
    let mut stage = stopped_at("Activate");
    let given = match healthy(&stage.placement, stage.last.as_ref().unwrap()) {
        Response::Activated { record } => record,
        other => panic!("{other:?}"),
    };
    // The source's swap wins, its answer is lost, and the operator wants an abort meanwhile.
    stage.placement = *given;
    stage.operator(abort());
    stage.run(600_000, |_, p, r| (0, healthy(p, r)));
    assert_eq!(stage.outcome, Some(Outcome::Done));
    assert!(
        !stage.phases.contains(&Phase::Aborted),
        "{:?}",
        stage.phases
    );
}

#[test]
fn rule_19_the_grace_time_counts_on_after_a_restart() {
    const MINUTE: u64 = 60_000;
    let config = MigrationConfig {
        grace_ms: 60 * MINUTE,
        ..config()
    };
    let mut stage = Stage::new(&config);
    stage.run(52 * MINUTE, |_, p, r| (0, healthy(p, r)));
    assert_eq!(stage.count("Retire"), 0);
    // The record knows it in parts: what was not noted yet is counted again, never left out.
    let noted = stage.placement.frozen.as_ref().unwrap().grace_over_ms;
    assert_eq!(noted, 50 * MINUTE);
    let mut next = Stage::resumed(stage.placement.clone(), &config);
    next.run(10 * MINUTE - 1, |_, p, r| (0, healthy(p, r)));
    assert_eq!(next.count("Retire"), 0, "deleted before its time");
    next.run(10 * MINUTE, |_, p, r| (0, healthy(p, r)));
    assert_eq!((next.count("Retire"), next.now), (1, 10 * MINUTE));
    assert_eq!(next.outcome, Some(Outcome::Done));
}

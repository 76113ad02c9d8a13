//! The reasons of a failure: never empty, and of a pause that did not fit they name the step and how long it took.

mod stage;

use stage::{Stage, gate, healthy, node, ranges};
use watershed_migration::machine::{CallError, Peer, Step};
use watershed_migration::messages::{RefusedKind, Request, Response};
use watershed_migration::{MigrationConfig, MigrationId, MigrationRecord, PlacementRecord};
use watershed_wal::{InstanceId, ShardId};

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 0,
        attempts_max: 3,
        ..MigrationConfig::default()
    }
}

fn slow(name: &str, ms: u64) -> String {
    let mut stage = Stage::new(&config());
    stage.run(600_000, |_, p, r| match r {
        r if r.name() == name => (ms, stale(p, r, ms)),
        _ => (0, healthy(p, r)),
    });
    stage.reason().to_owned()
}

/// What the source says to a command that comes after it re-opened.
fn stale(placement: &PlacementRecord, request: &Request, ms: u64) -> Response {
    match request {
        Request::Verify { .. } | Request::Missing { .. } if ms >= 50 => ranges(&[(90, 99)]),
        Request::Drain { .. } | Request::Activate { .. } => Response::refused(
            RefusedKind::StaleAttempt,
            "it was re-opened: raise the attempt",
        ),
        _ => healthy(placement, request),
    }
}

#[test]
fn a_pause_that_does_not_fit_names_its_step_and_how_long_it_took() {
    let drain = slow("Drain", 47);
    assert!(
        drain.starts_with(
            "gave up after 3 attempts, none fitted into the pause of 50 ms; the last: "
        ),
        "{drain}"
    );
    assert!(
        drain.contains("the drain took 47 ms of the pause's 50 ms: it was re-opened"),
        "{drain}"
    );
    let verify = slow("Verify", 61);
    assert!(
        verify.contains("the target's verification took 61 ms of the pause's 50 ms"),
        "{verify}"
    );
    let activate = slow("Activate", 44);
    assert!(
        activate.contains("giving the shard away took 44 ms of the pause's 50 ms"),
        "{activate}"
    );
}

#[test]
fn a_delta_pass_that_does_not_fit_says_how_much_was_missing() {
    let mut stage = Stage::new(&config());
    let mut paused = false;
    stage.run(600_000, |_, p, r| match r {
        Request::Quiesce { .. } => {
            paused = true;
            (0, healthy(p, r))
        }
        Request::Reopen { .. } => {
            paused = false;
            (0, healthy(p, r))
        }
        Request::Missing { .. } if paused => (20, ranges(&[(90, 99)])),
        Request::Ship { .. } => (35, healthy(p, r)),
        _ => (0, healthy(p, r)),
    });
    let reason = stage.reason();
    let expected = "the delta pass took 75 ms of the pause's 50 ms, with 10 records still missing";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn no_reason_is_empty_whatever_fails() {
    let names = [
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
    ];
    let kinds = [
        RefusedKind::StaleAttempt,
        RefusedKind::WrongInstance,
        RefusedKind::NotOwner,
        RefusedKind::NotReady,
        RefusedKind::NoRoom,
        RefusedKind::Conflict,
        RefusedKind::Busy,
        RefusedKind::Unknown,
        RefusedKind::Failed,
    ];
    for name in names {
        for kind in kinds {
            let mut stage = Stage::new(&config());
            stage.run(36_000_000, |_, p, r| match r {
                // A peer of another make may even say nothing.
                r if r.name() == name => (0, Response::refused(kind, "")),
                _ => (0, healthy(p, r)),
            });
            let reason = stage.reason();
            let words = reason.split_whitespace().count();
            assert!(
                words >= 3 && !reason.trim_end().ends_with(':'),
                "{name} {kind:?}: {reason:?}"
            );
        }
    }
}

#[test]
fn a_driver_that_finds_all_attempts_spent_says_so() {
    let mut stage = Stage::new(&config());
    stage.run(600_000, |_, p, r| match r {
        // Gone when the last quiesce is asked for.
        Request::Quiesce { env, .. } if env.attempt.0 == 3 => (700_000, healthy(p, r)),
        Request::Drain { .. } => (0, Response::refused(RefusedKind::StaleAttempt, "re-opened")),
        _ => (0, healthy(p, r)),
    });
    let mut next = Stage::resumed(stage.placement.clone(), &config());
    next.run(3_600_000, |_, p, r| (0, healthy(p, r)));
    let reason = next.reason();
    assert!(
        reason.contains("gave up after 3 attempts") && reason.contains("an earlier driver"),
        "{reason}"
    );
}

#[test]
fn an_abort_without_a_reason_says_that_none_was_given() {
    let placement = PlacementRecord::create(ShardId(1), node("s"), InstanceId(1));
    let (id, gate) = (MigrationId(1), gate(&config()));
    let m = MigrationRecord::new(id, &placement, node("t"), node("d"), &gate, "test");
    let begun = placement.begin_migration(m).unwrap();
    for reason in ["", "  "] {
        let aborted = begun.abort(id, reason).unwrap();
        assert_eq!(
            aborted.migration.unwrap().reason.unwrap(),
            "no reason was given"
        );
    }
}

#[test]
fn every_step_and_every_failed_call_has_words() {
    for step in Step::ALL {
        assert!(!step.what().is_empty());
    }
    let texts = [
        CallError::Unreachable.to_string(),
        CallError::Garbled.to_string(),
        Peer::Source.to_string(),
        Peer::Target.to_string(),
    ];
    assert!(texts.iter().all(|text| text.len() > 5), "{texts:?}");
}

//! What operators ask of a migration that runs: in the record before it is acted on, heard at any step, and known to the
//! driver that comes next.

mod stage;

use stage::{Stage, gate, healthy};
use watershed_migration::machine::{Operator, Outcome};
use watershed_migration::messages::{Request, Response};
use watershed_migration::{
    Asked, Claim, Limits, MigrationConfig, MigrationRecord, Phase, PhaseChange, PlacementError,
    Refusal,
};

const MINUTE: u64 = 60_000;

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    }
}

fn held() -> MigrationConfig {
    MigrationConfig {
        hold: true,
        ..config()
    }
}

/// Runs on until `name` is asked for, and leaves that without an answer.
fn on_to(mut stage: Stage, name: &'static str) -> Stage {
    let mut lost = false;
    stage.run_while(|_, p, r| {
        lost = lost || r.name() == name;
        (!lost).then(|| (0, healthy(p, r)))
    });
    assert_eq!(stage.asked.last().unwrap().1, name);
    stage
}

fn run_on(stage: &mut Stage, ms: u64) {
    stage.run(stage.now + ms, |_, p, r| (0, healthy(p, r)));
}

fn migration(stage: &Stage) -> &MigrationRecord {
    stage.placement.migration.as_ref().unwrap()
}

/// What was asked for from here on.
fn asked_since(stage: &Stage, before: usize) -> Vec<&'static str> {
    stage.asked[before..].iter().map(|asked| asked.1).collect()
}

/// All steps before Activate that ask a node for something.
const BEFORE_ACTIVATE: [&str; 11] = [
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

#[test]
fn a_cutover_is_in_the_record_and_known_to_the_next_driver() {
    for name in ["Prepare", "TargetStatus", "Missing"] {
        let mut stage = on_to(Stage::new(&held()), name);
        stage.operator(Operator::Cutover);
        assert!(!stage.machine.progress().cutover, "shown before it is kept");
        // The driver is gone as soon as the swap has won; its process is started again.
        stage.run_while(|_, _, _| None);
        assert!(migration(&stage).cutover_asked, "{name}");
        assert!(stage.machine.progress().cutover);
        let mut next = Stage::resumed(stage.placement.clone(), &held());
        run_on(&mut next, MINUTE);
        assert_eq!(next.outcome, Some(Outcome::Done), "{name}");
    }
    let mut held_on = Stage::resumed(on_to(Stage::new(&held()), "Missing").placement, &held());
    run_on(&mut held_on, 10 * MINUTE);
    assert_eq!(held_on.outcome, None, "nobody asked for it");
}

#[test]
fn a_pause_before_activate_opens_the_source_and_then_nothing_is_sent() {
    for name in BEFORE_ACTIVATE {
        let mut stage = on_to(Stage::new(&config()), name);
        let in_pause = ["Quiesce", "Drain", "Verify"].contains(&name);
        let before = stage.asked.len();
        stage.operator(Operator::Pause);
        run_on(&mut stage, 30 * MINUTE);
        let sent = asked_since(&stage, before);
        // Dual-write is always come back to by re-opening, which a source that serves only confirms.
        assert!(
            sent.len() <= 2 && sent.iter().all(|name| *name == "Reopen"),
            "{name}: {sent:?}"
        );
        assert!(!in_pause || !sent.is_empty(), "{name}: left closed");
        assert!(migration(&stage).paused && stage.machine.progress().paused);
        let reached = stage.machine.progress().phase;
        assert!(reached <= Phase::DualWrite, "{name}: {reached}");
        // Another driver is none the wiser, and as quiet.
        let mut next = Stage::resumed(stage.placement.clone(), &config());
        run_on(&mut next, 30 * MINUTE);
        assert_eq!(
            (next.asked.len(), next.outcome.as_ref()),
            (0, None),
            "{name}"
        );
        assert_eq!(next.machine.progress().phase, migration(&next).phase);
        next.operator(Operator::Resume);
        run_on(&mut next, MINUTE);
        assert_eq!(next.outcome, Some(Outcome::Done), "{name}");
        assert!(!next.machine.progress().paused);
    }
}

#[test]
fn a_paused_migration_can_be_aborted_and_takes_other_wishes() {
    let mut stage = on_to(Stage::new(&held()), "Missing");
    stage.operator(Operator::Pause);
    run_on(&mut stage, MINUTE);
    stage.operator(Operator::Cutover);
    run_on(&mut stage, MINUTE);
    assert!(migration(&stage).paused && migration(&stage).cutover_asked);
    assert_eq!((stage.count("Quiesce"), stage.outcome.as_ref()), (0, None));
    stage.operator(Operator::Abort {
        reason: "asked".into(),
    });
    run_on(&mut stage, MINUTE);
    assert_eq!(stage.reason(), "asked");
}

#[test]
fn what_was_paused_from_outside_is_noticed() {
    let mut stage = on_to(Stage::new(&config()), "Missing");
    let id = migration(&stage).id;
    let paused = |paused| Asked {
        paused: Some(paused),
        ..Asked::default()
    };
    stage.placement = stage.placement.note_wishes(id, paused(true)).unwrap();
    stage.answer_last(stage::ranges(&[]));
    run_on(&mut stage, MINUTE);
    assert_eq!((stage.count("Quiesce"), stage.outcome.as_ref()), (0, None));
    stage.placement = stage.placement.note_wishes(id, paused(false)).unwrap();
    run_on(&mut stage, MINUTE);
    assert_eq!(stage.outcome, Some(Outcome::Done));
}

#[test]
fn once_the_activation_is_asked_for_a_pause_waits_for_cleanup() {
    for name in ["Activate", "BecomeOwner", "Release"] {
        let mut stage = on_to(Stage::new(&config()), name);
        stage.operator(Operator::Pause);
        let answer = healthy(&stage.placement, stage.last.as_ref().unwrap());
        if let Response::Activated { record } = &answer {
            stage.placement = (**record).clone();
        }
        stage.answer_last(answer);
        run_on(&mut stage, 10 * MINUTE);
        assert_eq!(migration(&stage).phase, Phase::Cleanup, "{name}");
        assert_eq!(stage.count("ComparePage") + stage.count("Retire"), 0);
        assert!(stage.machine.progress().paused);
        stage.operator(Operator::Cleanup);
        run_on(&mut stage, MINUTE);
        assert_eq!(stage.outcome, Some(Outcome::Done), "{name}");
    }
}

#[test]
fn in_cleanup_a_pause_keeps_the_old_copy_and_stops_the_grace_time() {
    let config = MigrationConfig {
        grace_ms: 60 * MINUTE,
        ..config()
    };
    let mut stage = Stage::new(&config);
    run_on(&mut stage, 30 * MINUTE);
    let compared = stage.count("ComparePage");
    stage.operator(Operator::Pause);
    run_on(&mut stage, 300 * MINUTE);
    assert_eq!((stage.count("Retire"), stage.outcome.as_ref()), (0, None));
    stage.operator(Operator::Resume);
    run_on(&mut stage, 29 * MINUTE);
    assert_eq!(stage.count("Retire"), 0, "the grace time stood still");
    run_on(&mut stage, 10 * MINUTE);
    assert_eq!(stage.count("Retire"), 1);
    assert_eq!(stage.count("ComparePage"), compared, "compared once");
}

#[test]
fn limits_change_while_it_runs_and_the_policy_does_not() {
    let mut stage = on_to(Stage::new(&config()), "Missing");
    let safety = migration(&stage).config.safety;
    let limits = Limits {
        rate_bytes_per_s: Some(Some(1 << 20)),
        pause_max_ms: Some(300),
    };
    stage.operator(Operator::SetLimits(limits));
    let mut bounds = Vec::new();
    stage.run(stage.now + MINUTE, |_, p, r| {
        if let Request::Quiesce { pause_max_ms, .. } = r {
            bounds.push(*pause_max_ms);
        }
        (0, healthy(p, r))
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    assert_eq!(bounds, [300]);
    let m = migration(&stage);
    assert_eq!((m.config.pause_max_ms, m.config.safety), (300, safety));
    assert_eq!(m.config.rate_bytes_per_s, Some(1 << 20));
    assert_eq!(stage.machine.progress().rate_bytes_per_s, Some(1 << 20));
}

#[test]
fn a_limit_out_of_bounds_is_refused_by_the_gate_and_changes_nothing() {
    let mut stage = on_to(Stage::new(&config()), "Missing");
    let bad = Limits {
        rate_bytes_per_s: Some(Some(1)),
        pause_max_ms: None,
    };
    let before = stage.placement.clone();
    stage.operator(Operator::SetLimits(bad));
    assert_eq!(stage.placement, before);
    let trouble = stage.machine.progress().trouble.clone().unwrap();
    assert!(trouble.contains("rate_bytes_per_s is 1"), "{trouble}");
    let refused = gate(&config()).with_limits(bad);
    assert!(matches!(refused, Err(Refusal::InvalidConfig(_))));
    let id = migration(&stage).id;
    let asked = Asked {
        limits: bad,
        ..Asked::default()
    };
    assert!(matches!(
        before.note_wishes(id, asked),
        Err(PlacementError::Unsafe { .. })
    ));
    stage.answer_last(stage::ranges(&[]));
    run_on(&mut stage, MINUTE);
    assert_eq!(stage.outcome, Some(Outcome::Done));
}

#[test]
fn a_paused_record_takes_no_step_towards_activate() {
    let stage = on_to(Stage::new(&config()), "Missing");
    let m = migration(&stage);
    let claim = Claim {
        migration: m.id,
        driver_term: m.driver_term,
    };
    let pause = Asked {
        paused: Some(true),
        ..Asked::default()
    };
    let paused = stage.placement.note_wishes(m.id, pause).unwrap();
    let refused = paused.raise_attempt(claim).unwrap_err();
    assert!(matches!(refused, PlacementError::Paused { .. }));
    assert!(refused.to_string().contains("resume it"), "{refused}");
    let copying = on_to(Stage::new(&config()), "TargetStatus").placement;
    let paused = copying.note_wishes(m.id, pause).unwrap();
    let base = watershed_wal::Seq(10);
    assert!(matches!(
        paused.set_phase(claim, PhaseChange::DualWrite { base }),
        Err(PlacementError::Paused { .. })
    ));
    // An activation of a quiesce that began before the pause.
    let quiesced = on_to(Stage::new(&config()), "Activate");
    let Some(Request::Activate { source, target, .. }) = &quiesced.last else {
        panic!("{:?}", quiesced.last)
    };
    let proof = watershed_migration::Evidence::prove(&gate(&config()), source, target).unwrap();
    assert!(quiesced.placement.activate(&proof).is_ok());
    let paused = quiesced.placement.note_wishes(m.id, pause).unwrap();
    assert!(paused.activate(&proof).is_err());
}

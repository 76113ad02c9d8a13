//! How often the driver asks, and that nothing before Activate goes on for ever: the time is handed in, every
//! request is counted.

mod stage;

use stage::{Stage, copying, healthy, ranges, status};
use watershed_migration::machine::{Operator, Outcome};
use watershed_migration::messages::{RefusedKind, Request, Response};
use watershed_migration::{MigrationConfig, Phase};

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 0,
        catch_up_lag: 4,
        ..MigrationConfig::default()
    }
}

/// Every 50 ms at most a look (status, question), a round and a look at what it left; and what leads there.
fn looks(ms: u64) -> usize {
    usize::try_from(5 * (ms / 50 + 1) + 20).unwrap()
}

#[test]
fn a_held_migration_asks_a_bounded_number_of_times_and_cuts_over_when_told() {
    for missing in [&[][..], &[(50, 52)], &[(20, 80)]] {
        let config = MigrationConfig {
            hold: true,
            ..config()
        };
        let mut stage = Stage::new(&config);
        // Forwards are always in flight: what is shipped is missing again at the next look.
        stage.run(60_000, |_, p, r| match r {
            Request::Missing { .. } => (0, ranges(missing)),
            _ => (0, healthy(p, r)),
        });
        assert_eq!(stage.outcome, None, "it holds");
        assert!(stage.asked.len() <= looks(60_000), "{}", stage.asked.len());
        assert!(missing.is_empty() || stage.count("Ship") > 1000);
        assert_eq!(stage.count("Quiesce"), 0);
        stage.operator(Operator::Cutover);
        stage.run(120_000, |_, p, r| (0, healthy(p, r)));
        assert_eq!(stage.outcome, Some(Outcome::Done));
        assert!(stage.now < 61_000, "cut over at {}", stage.now);
    }
}

#[test]
fn a_target_slower_than_the_writers_ends_with_a_reason() {
    let mut stage = Stage::new(&config());
    let mut written = 1_000_000;
    stage.run(3_600_000, |_, p, r| match r {
        Request::SourceStatus { .. } => {
            written += 100_000;
            (1, status(true, written))
        }
        Request::Missing { .. } => (1, ranges(&[(11, written)])),
        _ => (1, healthy(p, r)),
    });
    let reason = stage.reason();
    assert!(
        reason.contains("does not keep up with the writers") && reason.contains("10 times over"),
        "{reason}"
    );
    assert!(
        stage.asked.len() <= looks(stage.now),
        "{}",
        stage.asked.len()
    );
    assert_eq!(stage.count("Quiesce"), 0, "no pause for what can't fit");
}

#[test]
fn a_short_lag_that_never_shrinks_is_tried_in_the_pause() {
    let mut stage = Stage::new(&config());
    stage.run(3_600_000, |_, p, r| match r {
        Request::Missing { through, .. } if through.0 < 200 => (1, ranges(&[(90, 100)])),
        Request::SourceStatus { .. } => (1, status(true, 150)),
        _ => (1, healthy(p, r)),
    });
    let reason = stage.reason();
    assert!(reason.contains("gave up after 10 attempts"), "{reason}");
    assert!(
        reason.contains("the delta pass took") && reason.contains("11 records still missing"),
        "{reason}"
    );
    assert_eq!(stage.count("Quiesce"), 10);
    // In the pause it looks each millisecond: a question and a round.
    assert!(stage.asked.len() <= 10 * 2 * 50 + looks(stage.now));
}

#[test]
fn a_plan_too_long_to_list_shrinks_by_its_rest() {
    let (mut first, last) = (11, 2_000_000);
    let mut stage = Stage::new(&config());
    stage.run(3_600_000, |_, p, r| match r {
        Request::SourceStatus { .. } => (1, status(true, last)),
        Request::Missing { .. } if first < last => {
            // Each second record is a hole: the list is cut, and as long at each look.
            let holes: Vec<_> = (0..4000).map(|n| (first + 2 * n, first + 2 * n)).collect();
            first += 8000;
            let Response::MissingRanges { ranges, .. } = ranges(&holes) else {
                unreachable!()
            };
            (1, Response::MissingRanges { ranges, more: true })
        }
        _ => (1, healthy(p, r)),
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    assert_eq!(stage.machine.progress().holes_filled, 250 * 4000);
}

#[test]
fn rounds_are_bounded_by_bytes_and_holes_are_counted_as_they_are_filled() {
    let mut left = vec![(11, 20), (30, 39), (50, 59)];
    let mut bounds = Vec::new();
    let mut stage = Stage::new(&config());
    stage.run(60_000, |_, p, r| match r {
        Request::Missing { .. } => (0, ranges(&left)),
        Request::Ship { max_bytes, .. } => {
            bounds.push(*max_bytes);
            // Large records: the bound is reached after one range and a half, then after the next half and one.
            let (records, bytes) = match bounds.len() {
                1 => (15, *max_bytes),
                _ => (15, 1),
            };
            left = match bounds.len() {
                1 => vec![(35, 39), (50, 59)],
                _ => Vec::new(),
            };
            (0, Response::Shipped { records, bytes })
        }
        _ => (0, healthy(p, r)),
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    assert_eq!(bounds, [16 << 20; 2]);
    let progress = stage.machine.progress();
    assert_eq!((progress.holes_filled, progress.delta_records), (3, 30));
}

#[test]
fn a_copy_that_takes_long_is_looked_at_now_and_then() {
    let mut stage = Stage::new(&config());
    stage.run(700_000, |now, p, r| match r {
        Request::TargetStatus { .. } => (0, copying(now / 600, now >= 600_000)),
        _ => (0, healthy(p, r)),
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    let asked = stage.count("TargetStatus");
    assert!((1_000..=600_000 / 50 + 20).contains(&asked), "{asked}");
    assert_eq!(stage.count("Pull"), 1);
}

#[test]
fn a_copy_that_stands_still_is_asked_for_again() {
    let mut stage = Stage::new(&config());
    // Its fetching died with the target's process; the second command begins it again.
    let mut pulls = 0;
    stage.run(100_000, |_, p, r| match r {
        Request::Pull { .. } => {
            pulls += 1;
            (0, Response::Ok)
        }
        Request::TargetStatus { .. } => (0, copying(300, pulls > 1)),
        _ => (0, healthy(p, r)),
    });
    assert_eq!(stage.outcome, Some(Outcome::Done));
    assert_eq!(stage.count("Pull"), 2);
}

#[test]
fn a_copy_that_never_ends_is_given_up_when_the_hold_is() {
    let config = MigrationConfig {
        hold_ms: 60_000,
        ..config()
    };
    let mut stage = Stage::new(&config);
    stage.run(3_600_000, |_, p, r| match r {
        Request::TargetStatus { .. } => (0, copying(300, false)),
        _ => (0, healthy(p, r)),
    });
    let reason = stage.reason();
    assert!(
        reason.contains("60000 ms, hold_ms") && reason.contains("300 of 1000 bytes"),
        "{reason}"
    );
    assert!(
        stage.asked.len() < 60_000 / 50 + 300,
        "{}",
        stage.asked.len()
    );
}

#[test]
fn another_checkpoint_than_the_source_made_is_an_end_not_a_wait() {
    let mut stage = Stage::new(&config());
    stage.run(3_600_000, |_, p, r| match (r, healthy(p, r)) {
        (Request::TargetStatus { .. }, Response::TargetState(mut state)) => {
            state.base = Some(watershed_wal::Seq(11));
            (0, Response::TargetState(state))
        }
        (_, other) => (0, other),
    });
    let reason = stage.reason();
    assert!(reason.contains("another checkpoint"), "{reason}");
}

#[test]
fn a_source_that_never_forwards_is_given_up() {
    let mut stage = Stage::new(&config());
    stage.run(3_600_000, |_, p, r| match r {
        Request::SourceStatus { .. } => (0, status(false, 100)),
        _ => (0, healthy(p, r)),
    });
    let reason = stage.reason();
    assert!(reason.contains("did not go on forwarding"), "{reason}");
    assert!(
        stage.asked.len() <= looks(stage.now),
        "{}",
        stage.asked.len()
    );
}

#[test]
fn a_step_that_always_loses_its_way_ends_with_a_reason() {
    // The record never changes, the step before always succeeds: only the strays are counted.
    for lost in ["BeginTarget", "SourceStatus", "Missing", "Quiesce"] {
        let mut stage = Stage::new(&config());
        stage.run(3_600_000, |_, p, r| match r {
            r if r.name() == lost => (0, Response::refused(RefusedKind::StaleEpoch, "not mine")),
            _ => (0, healthy(p, r)),
        });
        let reason = stage.reason();
        assert!(reason.contains("not mine"), "{lost}: {reason}");
        let asked = stage.asked.len();
        assert!(asked <= 300, "{lost}: {asked}");
        assert!(stage.now > 1_000, "{lost}: no time passed");
    }
}

#[test]
fn after_activate_it_never_gives_up_and_never_hurries() {
    for lost in ["BecomeOwner", "Retire"] {
        let mut stage = Stage::new(&config());
        stage.run(3_600_000, |_, p, r| match r {
            r if r.name() == lost => (0, Response::refused(RefusedKind::StaleEpoch, "not mine")),
            _ => (0, healthy(p, r)),
        });
        assert_eq!(stage.outcome, None, "{lost}");
        assert!(
            stage.asked.len() <= 3_600 + 50,
            "{lost}: {}",
            stage.asked.len()
        );
        stage.run(3_700_000, |_, p, r| (0, healthy(p, r)));
        assert_eq!(stage.outcome, Some(Outcome::Done), "{lost}");
    }
}

#[test]
fn a_farewell_that_nobody_hears_ends_all_the_same() {
    for lost in ["AbortSource", "DiscardTarget", "Release"] {
        let mut stage = Stage::new(&config());
        stage.run(3_600_000, |_, p, r| match r {
            r if r.name() == lost => (0, Response::refused(RefusedKind::Failed, "gone")),
            Request::BeginTarget { .. } if lost != "Release" => {
                (0, Response::refused(RefusedKind::NoRoom, "full"))
            }
            _ => (0, healthy(p, r)),
        });
        match lost {
            "Release" => assert_eq!(stage.outcome, Some(Outcome::Done)),
            _ => assert_eq!(stage.reason(), "full"),
        }
        assert_eq!(stage.count(lost), 13, "{lost}");
    }
}

#[test]
fn clients_get_a_breath_between_two_pauses() {
    let mut stage = Stage::new(&config());
    stage.run(3_600_000, |_, p, r| match r {
        Request::Drain { .. } => (
            45,
            Response::refused(RefusedKind::StaleAttempt, "re-opened"),
        ),
        _ => (0, healthy(p, r)),
    });
    let quiesces: Vec<u64> = stage
        .asked
        .iter()
        .filter(|a| a.1 == "Quiesce")
        .map(|a| a.0)
        .collect();
    assert_eq!(quiesces.len(), 10);
    let breaths: Vec<u64> = quiesces.windows(2).map(|w| w[1] - w[0] - 45).collect();
    assert!(breaths.iter().all(|ms| *ms >= 20), "{breaths:?}");
    assert!(
        breaths.is_sorted() && *breaths.last().unwrap() <= 600,
        "{breaths:?}"
    );
    let phases = [Phase::StopDualWrite, Phase::Drain, Phase::DualWrite];
    assert!(
        stage.phases.windows(3).any(|seen| seen == phases),
        "{:?}",
        stage.phases
    );
}

//! The safety gate: every combination, through every way in.

use watershed_migration::anti_entropy::{
    anti_entropy_may_turn_off, migration_warning_if_ae_disabled, validate_migration_safety,
};
use watershed_migration::{
    MigrationConfig, MigrationCoordinator, MigrationId, MigrationRecord, Phase, PlacementError,
    PlacementRecord, Refusal, SafeConfig, SafetyPolicy,
};
use watershed_wal::{InstanceId, ShardId};

fn config(anti_entropy: bool, delta_pass: bool) -> MigrationConfig {
    MigrationConfig {
        safety: SafetyPolicy {
            anti_entropy,
            delta_pass,
        },
        ..MigrationConfig::default()
    }
}

fn record(config: MigrationConfig) -> (PlacementRecord, MigrationRecord) {
    let placement = PlacementRecord::create(ShardId(1), "s".parse().unwrap(), InstanceId(1));
    let gate = MigrationCoordinator::new(MigrationConfig::default())
        .validate_safety()
        .unwrap();
    let (t, d) = ("t".parse().unwrap(), "d".parse().unwrap());
    let mut migration = MigrationRecord::new(MigrationId(1), &placement, t, d, &gate, "test");
    migration.config = config;
    (placement, migration)
}

/// The gate by each of its names.
fn every_way(config: &MigrationConfig) -> [Result<SafeConfig, Refusal>; 3] {
    [
        MigrationCoordinator::new(config.clone()).validate_safety(),
        validate_migration_safety(config),
        record(config.clone()).1.safe_config(),
    ]
}

#[test]
fn each_combination_gets_the_same_answer_everywhere() {
    let table = [
        (true, true, None),
        (false, true, None),
        (
            false,
            false,
            Some(Refusal::AntiEntropyOffAndDeltaPassSkipped),
        ),
        (true, false, Some(Refusal::NeedsAntiEntropyPass)),
    ];
    for (anti_entropy, delta_pass, refusal) in table {
        let config = config(anti_entropy, delta_pass);
        for answer in every_way(&config) {
            assert_eq!(answer.clone().err(), refusal);
            assert_eq!(
                answer.is_ok_and(|safe| *safe.config() == config),
                refusal.is_none()
            );
        }
        let (placement, migration) = record(config.clone());
        let begun = placement.begin_migration(migration);
        assert_eq!(begun.is_ok(), refusal.is_none());
        assert_eq!(
            matches!(begun, Err(PlacementError::Unsafe { .. })),
            refusal.is_some()
        );
        let warned = migration_warning_if_ae_disabled(&config).is_some();
        assert_eq!(warned, !anti_entropy && delta_pass);
    }
}

#[test]
fn a_refusal_says_what_to_change() {
    let text = Refusal::AntiEntropyOffAndDeltaPassSkipped.to_string();
    for part in [
        "--no-delta-pass",
        "--no-anti-entropy",
        "safety.delta_pass",
        "safety.anti_entropy",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let bad = MigrationConfig {
        pause_max_ms: 1,
        ..MigrationConfig::default()
    };
    for answer in every_way(&bad) {
        let text = answer.unwrap_err().to_string();
        assert!(
            text.contains("MigrationConfig::pause_max_ms is 1: use 5 to 60000"),
            "{text}"
        );
    }
}

#[test]
fn anti_entropy_stays_on_under_a_migration_that_relies_on_it() {
    for phase in Phase::ALL {
        let (_, mut migration) = record(config(true, false));
        migration.phase = phase;
        let refused = anti_entropy_may_turn_off(std::slice::from_ref(&migration)).is_err();
        assert_eq!(refused, !phase.is_final(), "{phase}");
        migration.config.safety.delta_pass = true;
        assert_eq!(anti_entropy_may_turn_off(&[migration]), Ok(()));
    }
}

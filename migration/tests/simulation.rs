//! Random faults under a seeded scheduler: never two owners, nothing acknowledged is lost, and every run ends once
//! the faults stop. Replay one seed with `WATERSHED_SEED=<n> cargo test -p watershed-migration --test simulation`.

mod world;

use watershed_migration::machine::Outcome;
use watershed_migration::{MigrationConfig, Phase};
use world::{Faults, World};

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 5,
        catch_up_lag: 4,
        pause_max_ms: 60,
        ..MigrationConfig::default()
    }
}

fn run(seed: u64) -> (Phase, usize) {
    let mut faults = Faults {
        lose: 60,
        double: 60,
        lose_swap_reply: 150,
        lose_forward: 200,
        crash: 3,
        delay_max: 6,
        until: 1_500,
    };
    if seed.is_multiple_of(3) {
        faults.crash = 15;
    }
    if seed.is_multiple_of(5) {
        (faults.lose, faults.delay_max) = (200, 30);
    }
    let mut world = World::new(seed, faults, config());
    if seed.is_multiple_of(7) {
        world.abort_at = Some(Phase::ALL[(seed / 7 % 7) as usize]);
    }
    world.run();
    let phase = world.placement.migration.as_ref().unwrap().phase;
    if world.outcomes.iter().any(|o| matches!(o, Outcome::Done)) {
        assert_eq!(phase, Phase::Done);
    }
    (phase, world.drivers.len())
}

#[test]
fn never_two_owners_nothing_lost_and_an_end() {
    if let Ok(seed) = std::env::var("WATERSHED_SEED") {
        run(seed.parse().unwrap());
        return;
    }
    let (mut done, mut aborted, mut takeovers) = (0, 0, 0);
    for seed in 0..600 {
        let result = std::panic::catch_unwind(|| run(seed));
        let (phase, drivers) = result.unwrap_or_else(|cause| {
            eprintln!("seed {seed}; replay: WATERSHED_SEED={seed} cargo test -p watershed-migration --test simulation");
            std::panic::resume_unwind(cause)
        });
        match phase {
            Phase::Done => done += 1,
            Phase::Aborted => aborted += 1,
            other => panic!("ended in {other}"),
        }
        takeovers += drivers - 1;
    }
    // A simulation that only ever meets one end proves little.
    assert!(
        done > 200 && aborted > 10 && takeovers > 60,
        "done {done}, aborted {aborted}, takeovers {takeovers}"
    );
}

//! The migration crate's simulation, with the fuzzer's choices in place of a seed's: what is lost, doubled, late or
//! fails, and who crashes when. What must hold are the properties of its tests, looked at after every step.
//!
//! The first bytes are the settings, the others choices in the order in which they are asked for; once they are
//! used up, a generator goes on.

use watershed_migration::machine::Operator;
use watershed_migration::{Limits, MigrationConfig, Phase};

use crate::input::Input;
use crate::properties;
use crate::world::{Faults, Who, World};

/// Faults end then, so that a run does.
const FAULTS_END_MS: u64 = 400;

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some(mut simulated) = world(data) else {
        return;
    };
    if let Err(broken) = look(&mut simulated) {
        // Once more, with a transcript.
        let mut again = world(data).expect("as before").loud();
        let _ = look(&mut again);
        panic!("{broken}\n{}", again.trace.join("\n"));
    }
}

fn look(world: &mut World) -> Result<(), String> {
    let all: Vec<_> = properties::ALL.iter().collect();
    properties::run(world, &all)
}

/// The world as the settings say; `None` where the input is too short for them.
fn world(data: &[u8]) -> Option<World> {
    let mut input = Input::new(data);
    let per_mille = |byte: u8| u64::from(byte);
    let faults = Faults {
        lose: per_mille(input.byte()?),
        double: per_mille(input.byte()?),
        lose_swap_reply: per_mille(input.byte()?),
        lose_forward: 200,
        crash: u64::from(input.below(24)?),
        fail: per_mille(input.below(100)?),
        delay_max: 1 + u64::from(input.below(32)?),
        until: FAULTS_END_MS,
    };
    let options = input.byte()?;
    let config = MigrationConfig {
        grace_ms: 5,
        catch_up_lag: 4,
        pause_max_ms: 60,
        hold: options % 8 == 7,
        ..MigrationConfig::default()
    };
    let (at, who) = (input.byte()?, input.byte()?);
    let phase = Phase::ALL[usize::from(at) % Phase::ALL.len()];
    let mut world = World::new(u64::from(options), faults, config).choosing(input.rest());
    world.clients_until = FAULTS_END_MS;
    world.copy_ms = u64::from(options >> 6) * 40;
    match who % 6 {
        0 => world.abort_at = Some(phase),
        1 => world.takeover_at = Some(phase),
        2 => world.crash_at = Some((Who::Source, phase, 1)),
        3 => world.crash_at = Some((Who::Target, phase, 1)),
        4 => world.crash_at = Some((Who::Driver, phase, 1)),
        _ => {}
    }
    let limits = Limits {
        rate_bytes_per_s: Some(None),
        pause_max_ms: Some(20),
    };
    match who / 6 % 6 {
        0 => world.wish_at = Some((phase, Operator::Pause)),
        1 => world.wish_at = Some((phase, Operator::SetLimits(limits))),
        2 => world.wish(u64::from(at), Operator::Pause),
        _ => {}
    }
    // The operator's word reaches whoever drives then, and may be forgotten with that driver as long as it is not in the
    // record: said again and again.
    for ms in (200..20_000).step_by(200) {
        world.wish(ms, Operator::Cutover);
        if ms > FAULTS_END_MS {
            world.wish(ms, Operator::Cleanup);
            world.wish(ms, Operator::Resume);
        }
    }
    Some(world)
}

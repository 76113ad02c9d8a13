//! The log under dense faults, against the model of `log_ops`: any call may fail in any way, once or from then on,
//! also while the log opens and closes, and room may run out.
//!
//! Beside the laws of `log_ops`: an opening that failed took nothing; and a poisoned log stays poisoned, writes
//! nothing more, and goes on reading.

use super::world::{Restart, World};
use super::{MAX_OPS, OPS, step};
use crate::input::Input;

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(header) = input.byte() else {
        return;
    };
    let mut world = World::new(header);
    for _ in 0..MAX_OPS {
        if faulty_step(&mut world, &mut input).is_none() {
            break;
        }
    }
    world.check_poisoned();
    world.restart(Restart::Crash {
        seed: (header & 0x20 != 0).then_some(u64::from(header)),
    });
}

fn faulty_step(world: &mut World, input: &mut Input<'_>) -> Option<()> {
    match input.below(OPS + 8)? {
        op if op < OPS => step(world, op, input)?,
        24 | 25 => {
            let fault = fault(input)?;
            world.inject(&fault);
        }
        26 | 27 => {
            let how = match input.byte()? {
                0..64 => Restart::Close,
                seed => Restart::Crash {
                    seed: Some(seed.into()),
                },
            };
            let fault = fault(input)?;
            world.restart_under(how, &fault, input.byte()?.into());
        }
        28 => world.limit_room(Some(u64::from(input.byte()?) * 1024)),
        29 => world.limit_room(None),
        _ => world.check_poisoned(),
    }
    Some(())
}

/// An injector: which call, from when on, and how it fails.
fn fault(input: &mut Input<'_>) -> Option<String> {
    const CALLS: [&str; 11] = [
        "any", "change", "write", "sync", "create", "syncdir", "remove", "read", "open", "list",
        "rename",
    ];
    const FAULTS: [&str; 4] = ["crash", "eio", "enospc", "short"];
    let call = CALLS[usize::from(input.byte()?) % CALLS.len()];
    let (when, what) = (input.byte()?, input.byte()?);
    let nth = when % 32;
    let when = if when & 0x80 == 0 {
        format!("nth({})", nth + 1)
    } else {
        format!("after({nth})")
    };
    let what = FAULTS[usize::from(what) % FAULTS.len()];
    Some(format!("on({call})&{when}:{what}"))
}

//! Operations on a log over storage that crashes and fails, against a plain model.
//!
//! What must hold, whatever the operations and wherever the power goes:
//!
//! 1. A record acknowledged as durable (or shown by `tail`, `has` or the durable mark) is there after any crash,
//!    the same, until it was allowed to go.
//! 2. No record is there that was not submitted.
//! 3. An owner's Seqs are dense: each submit takes the next one, and what a crash takes is a tail.
//! 4. Opening after a crash or a failed call succeeds; only rot is damage.
//! 5. Durable calls (`host`, `forget`, `hold`, notes) are in force after any crash once they returned.
//! 6. Without a fault, no call fails but those that should.
//!
//! `model` is what should be; `world` carries out, `checks` compares. An input is a header and a list of operations;
//! every byte string is one.

mod checks;
pub mod faults;
mod model;
mod world;

use watershed_wal::Durability;

use self::world::{Restart, World};
use crate::input::Input;

/// More than this tells nothing new and only slows the fuzzer.
const MAX_OPS: usize = 200;

/// How many operations [`step`] knows.
const OPS: u8 = 24;
/// The header's bit of how the run ends; the lower ones choose options.
const CRASHES_AT_END: u8 = 0x10;

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
        let done = input
            .below(OPS)
            .and_then(|op| step(&mut world, op, &mut input));
        if done.is_none() {
            break;
        }
    }
    // Whatever was promised by now must survive the worst, or a close.
    world.restart(if header & CRASHES_AT_END != 0 {
        Restart::Crash { seed: None }
    } else {
        Restart::Close
    });
}

/// One operation; `None` at the input's end.
fn step(world: &mut World, op: u8, input: &mut Input<'_>) -> Option<()> {
    let which = usize::from(input.byte()?);
    match op {
        0 => world.host(which, input.byte()?),
        1..=3 => world.submit(which, length(input)?, Durability::Sync),
        4 | 5 => world.submit(which, length(input)?, Durability::Buffered),
        6 | 7 => {
            let pattern = input.byte()?;
            let count = input.below(12)?;
            world.submit_many(which, count, pattern, length(input)?);
        }
        8 => world.settle(),
        9 | 10 => {
            let (from, count, stride) = (input.byte()?, input.below(16)?, input.byte()?);
            world.append_at(which, from, count, stride);
        }
        11 => world.append_conflicting(which, input.byte()?),
        12 => world.check_read(which, input.byte()?, input.byte()?),
        13 => world.check_tail(which, input.byte()?),
        14 => world.set_flushed(which, input.byte()?),
        15 => world.hold(which, input.byte()?, input.byte()?),
        16 => world.release_hold(which, input.byte()?),
        17 => world.forget(which),
        18 => world.put_note(which, input.byte()?, input.byte()?),
        19 => world.restart(if which % 4 == 0 {
            Restart::Close
        } else {
            let seed = Some(u64::from(input.u16()?));
            Restart::Crash { seed }
        }),
        20 => world.arm(input.byte()?, input.byte()?),
        21 => world.gate(which, input.byte()? % 2 == 0),
        22 => world.sync(),
        _ => world.check_view(),
    }
    Some(())
}

/// Mostly small bodies, now and then one that fills a good part of a segment.
fn length(input: &mut Input<'_>) -> Option<usize> {
    let byte = usize::from(input.byte()?);
    Some(if byte < 200 { byte } else { (byte - 199) * 256 })
}

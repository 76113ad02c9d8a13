//! The roles of a migration, given what they must take in any order: requests of stale and of present drivers,
//! answers early, late, twice or never, timers at any moment, records as they were read a while ago, crashes.
//!
//! The scene around them keeps its promises (a log whose gate was closed takes no write, a note that was said to be
//! durable is found again, a swap wins only against the revision it names), and the driver proves nothing but by
//! reports that the roles gave. What must hold then, after every event:
//!
//! 1. Nothing panics, and each record of the placement keeps its rules.
//! 2. Never do two copies take writes, and none takes one that the placement does not name: never two owners of one
//!    epoch.
//! 3. The shard is given away only by the source, after its durable note, to a copy that has every write.
//! 4. From then on there is no way back: no abort, no re-opening.
//! 5. A copy is deleted only where the placement says so.
//! 6. A refused command leaves the role in its state.
//!
//! A second kind of input gives the driver's machine arbitrary answers: it may give up, but never changes an owner,
//! breaks a record's rule, or goes on after its end.

mod machine;
mod requests;
mod scene;

use self::scene::Scene;
use crate::input::Input;

/// More than this tells nothing new.
const MAX_EVENTS: usize = 400;

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        None => {}
        Some(0) => machine::run(&mut input),
        Some(_) => {
            let mut scene = Scene::new();
            for _ in 0..MAX_EVENTS {
                if step(&mut scene, &mut input).is_none() {
                    break;
                }
                scene.check();
            }
        }
    }
}

/// One event; `None` at the input's end.
fn step(scene: &mut Scene, input: &mut Input<'_>) -> Option<()> {
    match input.below(16)? {
        0..=3 => scene.ask_source(input)?,
        4 | 5 => scene.ask_target(input)?,
        6..=9 => scene.answer(input.byte()?, input.byte()?),
        10 => scene.read_placement(input.byte()?),
        11 => scene.change_placement(input.byte()?, input.byte()?),
        12 => scene.write(input.below(8)?),
        13 => scene.ship(input.below(8)?),
        14 => scene.pass_time(input.byte()?),
        _ => scene.crash(input.byte()?),
    }
    Some(())
}

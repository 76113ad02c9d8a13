//! A shard that moves to a second engine and back, again and again, while a cell runs.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::migration::MigrationConfig;
use crate::{Engine, Error, ShardId};

/// The shard that moves.
const MOVING: ShardId = ShardId(0);

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) done: u64,
    /// Given up with a reason, as when the pause did not fit.
    pub(super) given_up: u64,
    /// Copied files.
    pub(super) copied_bytes: u64,
    pub(super) longest_pause_us: u64,
}

/// Moves once at least, and until it is over; the shard is with `home` again afterwards.
///
/// # Errors
/// When the shard could not be brought home.
pub(super) fn keep_moving(home: &Engine, away: &Engine, over: &AtomicBool) -> Result<Moves, Error> {
    let mut moves = Moves::default();
    let mut at_home = true;
    loop {
        let (from, to) = if at_home { (home, away) } else { (away, home) };
        match one(from, to, &mut moves) {
            Ok(()) => at_home = !at_home,
            Err(_) => moves.given_up += 1,
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    if !at_home {
        one(away, home, &mut Moves::default())?;
    }
    Ok(moves)
}

fn one(from: &Engine, to: &Engine, moves: &mut Moves) -> Result<(), Error> {
    let config = MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    };
    let target = to.node_id().to_string();
    let migration = from.migrate(MOVING).to(target).config(config).start()?;
    let certificate = migration.wait()?;
    migration.finished()?;
    moves.done += 1;
    moves.copied_bytes += certificate.files.iter().map(|file| file.len).sum::<u64>();
    moves.longest_pause_us = moves
        .longest_pause_us
        .max(certificate.pause_us.unwrap_or(0));
    Ok(())
}

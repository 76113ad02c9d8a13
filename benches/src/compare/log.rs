//! The log alone beside raft-engine.

use super::contest::Contest;
use super::load::Writes;
use super::peers::{our_log, raft};
use super::words::{FAST, against, contest, goal};
use crate::report::Mode;

/// Bytes of the larger values.
pub(crate) const LARGE: usize = 4096;

pub(crate) fn modes() -> Vec<Mode> {
    vec![Mode {
        peer: raft::NAME,
        mode: raft::MODE,
    }]
}

/// All contests that run in rounds: `small` values, and values of [`LARGE`] bytes.
pub(crate) fn contests<'a>(small: &'a Writes, large: &'a Writes) -> Vec<Contest<'a>> {
    [(small, "100 B"), (large, "4 KiB")]
        .into_iter()
        .flat_map(|(writes, size)| {
            [(1, 1.0), (16, 1.4), (256, 1.7)]
                .map(|(count, ratio)| sized(writes, size, count, ratio))
        })
        .collect()
}

fn sized<'a>(writes: &'a Writes, size: &str, count: u64, ratio: f64) -> Contest<'a> {
    let mut contenders = vec![
        our_log::blocking(writes, count),
        raft::blocking(writes, count),
    ];
    let threads = if count == 1 { "thread" } else { "threads" };
    let name = format!("log, sync, {size}, {count} {threads}");
    let mut matches = vec![against(&name, 0, &[1], goal(ratio, FAST))];
    if count == 256 {
        contenders.push(our_log::many(writes, count));
        let tasks = format!("log, sync, {size}, {count} tasks");
        matches.push(against(&tasks, 2, &[1], goal(4.0, FAST)));
    }
    contest(&name, contenders, matches)
}

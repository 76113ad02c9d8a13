//! The whole engine (log, apply, visible) beside whole engines.

use std::time::Duration;

use watershed::Durability;

use super::load::Writes;
use super::peers::rocks::Log;
use super::peers::{fjall, ours, redb, rocks};
use super::rounds::{Beside, Contest};
use super::words::{FAST, SLOW, against, anywhere, contest, goal, limit};
use crate::report::Mode;
use crate::stats::Better;

const BATCH: usize = 512;

pub(crate) fn modes() -> Vec<Mode> {
    let mode = |peer, mode| Mode { peer, mode };
    vec![
        mode(rocks::NAME, rocks::MODE),
        mode(fjall::NAME, fjall::MODE),
        mode(redb::NAME, redb::MODE),
    ]
}

/// All contests that run in rounds; fewer peers and shards in a quick run.
pub(crate) fn contests(writes: &Writes, quick: bool) -> Vec<Contest<'_>> {
    let mut all = vec![
        lone(writes),
        some(writes, quick),
        more(writes),
        many(writes, quick),
    ];
    all.extend([64, 256, 1024].map(|count| slow(writes, count)));
    all.extend([
        buffered_lone(writes),
        buffered_many(writes),
        spread(writes, quick),
        even(writes),
    ]);
    all
}

fn lone(writes: &Writes) -> Contest<'_> {
    let name = "sync, 1 writer";
    contest(
        name,
        vec![
            ours::blocking(writes, 16, 1, Durability::Sync),
            rocks::blocking(writes, 1, 1, Log::Synced),
            fjall::blocking(writes, 1, true),
            redb::blocking(writes, 1),
        ],
        vec![
            against(name, 0, &[1], goal(1.3, FAST)),
            against(name, 0, &[2], None),
            against(name, 0, &[3], None),
        ],
    )
}

fn some(writes: &Writes, quick: bool) -> Contest<'_> {
    let sixteen = "sync, 64 in flight, 16 shards";
    let mut contenders = vec![
        ours::many(writes, 16, 1, 64, Durability::Sync),
        ours::many(writes, 1, 1, 64, Durability::Sync),
        ours::blocking(writes, 16, 64, Durability::Sync),
        rocks::blocking(writes, 1, 64, Log::Synced),
    ];
    let mut matches = vec![
        against(sixteen, 0, &[3], goal(4.0, FAST)),
        against("sync, 64 in flight, 1 shard", 1, &[3], goal(4.0, FAST)),
        against("sync, 64 blocking threads", 2, &[3], goal(3.0, FAST)),
        limit(sixteen, 0, Beside::Device { in_flight: 64 }, None),
    ];
    if !quick {
        contenders.extend([
            fjall::blocking(writes, 64, true),
            redb::blocking(writes, 64),
        ]);
        matches.extend([4, 5].map(|peer| against(sixteen, 0, &[peer], None)));
    }
    contest("sync, 64 in flight", contenders, matches)
}

fn more(writes: &Writes) -> Contest<'_> {
    let (one, sixteen) = (
        "sync, 256 in flight, 1 shard",
        "sync, 256 in flight, 16 shards",
    );
    let syncs = Beside::Syncs { most: 10.0 };
    contest(
        "sync, 256 in flight",
        vec![
            ours::many(writes, 16, 1, 256, Durability::Sync),
            ours::many(writes, 1, 1, 256, Durability::Sync),
            ours::blocking(writes, 16, 256, Durability::Sync),
            rocks::blocking(writes, 1, 256, Log::Synced),
        ],
        vec![
            against(sixteen, 0, &[3], goal(6.0, FAST)),
            against(one, 1, &[3], goal(6.0, FAST)),
            against("sync, 256 blocking threads", 2, &[3], goal(3.0, FAST)),
            limit(sixteen, 0, syncs.clone(), anywhere(1.0)),
            limit(one, 1, syncs, anywhere(1.0)),
            limit(sixteen, 0, Beside::Device { in_flight: 256 }, None),
        ],
    )
}

/// Beside RocksDB's memtables filled with no log at all, the limit of any log in front of them.
fn many(writes: &Writes, quick: bool) -> Contest<'_> {
    let (one, sixteen) = (
        "sync, 1024 in flight, 1 shard",
        "sync, 1024 in flight, 16 shards",
    );
    let beside = |workload: &str, whom: &str| format!("{workload}, beside {whom}");
    let device = Beside::Device { in_flight: 1024 };
    let mut threads = vec![2, 3];
    let mut contenders = vec![
        ours::many(writes, 1, 1, 1024, Durability::Sync),
        ours::many(writes, 16, 1, 1024, Durability::Sync),
        rocks::blocking(writes, 1, 256, Log::Synced),
        rocks::blocking(writes, 1, 1024, Log::Synced),
        rocks::batched(writes, 1, 1, BATCH, Log::Synced),
        rocks::batched(writes, 1, 1, BATCH, Log::Off),
        rocks::batched(writes, 16, 2, BATCH, Log::Off),
    ];
    if !quick {
        contenders.push(rocks::blocking(writes, 1, 64, Log::Synced));
        contenders.push(ours::many(writes, 16, 2, 1024, Durability::Sync));
        threads.push(7);
    }
    let mut matches = vec![
        against(one, 0, &threads, goal(7.0, FAST)),
        against(sixteen, 1, &threads, goal(12.0, FAST)),
        against(&beside(one, "batches of 512"), 0, &[4], goal(1.0, FAST)),
        against(&beside(sixteen, "batches of 512"), 1, &[4], goal(1.7, FAST)),
        against(&beside(one, "a memtable, no log"), 0, &[5], None),
        against(&beside(sixteen, "16 memtables, no log"), 1, &[6], None),
        limit(one, 0, device.clone(), None),
        limit(sixteen, 1, device, None),
    ];
    if !quick {
        matches.push(against(
            &beside(sixteen, "threads, 2 callers of ours"),
            8,
            &threads,
            None,
        ));
    }
    contest("sync, 1024 in flight", contenders, matches)
}

fn slow(writes: &Writes, count: u64) -> Contest<'_> {
    let (name, ratio) = match count {
        64 => ("sync of 1 ms, 64 in flight, 16 shards", 2.0),
        256 => ("sync of 1 ms, 256 in flight, 16 shards", 3.0),
        _ => ("sync of 1 ms, 1024 in flight, 16 shards", 8.0),
    };
    let mut contenders = vec![ours::many(writes, 16, 1, count, Durability::Sync)];
    let threads = if count == 1024 {
        vec![256, 1024]
    } else {
        vec![count]
    };
    contenders.extend(
        threads
            .iter()
            .map(|&count| rocks::blocking(writes, 1, count, Log::Synced)),
    );
    let theirs: Vec<usize> = (1..contenders.len()).collect();
    Contest {
        least_sync: Duration::from_millis(1),
        ..contest(
            name,
            contenders,
            vec![against(name, 0, &theirs, goal(ratio, SLOW))],
        )
    }
}

fn buffered_lone(writes: &Writes) -> Contest<'_> {
    let name = "buffered, 1 writer";
    contest(
        name,
        vec![
            ours::blocking(writes, 16, 1, Durability::Buffered),
            rocks::blocking(writes, 1, 1, Log::Written),
            fjall::blocking(writes, 1, false),
        ],
        vec![
            against(name, 0, &[1], anywhere(1.2)),
            against(name, 0, &[2], None),
        ],
    )
}

fn buffered_many(writes: &Writes) -> Contest<'_> {
    contest(
        "buffered, 16 writers",
        vec![
            ours::blocking(writes, 16, 16, Durability::Buffered),
            rocks::blocking(writes, 1, 16, Log::Written),
            rocks::blocking(writes, 16, 16, Log::Written),
        ],
        vec![
            against("buffered, 16 writers, 16 shards", 0, &[1], anywhere(3.0)),
            against(
                "buffered, 16 writers, 16 shards, beside 16 databases",
                0,
                &[2],
                anywhere(1.2),
            ),
        ],
    )
}

/// The same load over ever more shards.
fn spread(writes: &Writes, quick: bool) -> Contest<'_> {
    let counts: &[u64] = if quick {
        &[1, 16, 64]
    } else {
        &[1, 16, 256, 1000]
    };
    let open = |&shards: &u64| ours::many(writes, shards, 1, 256, Durability::Sync);
    let matches = counts.iter().enumerate().skip(1).map(|(place, shards)| {
        let workload = format!("sync, 256 in flight, {shards} shards beside 1");
        against(&workload, place, &[0], anywhere(0.8))
    });
    contest(
        "sync, 256 in flight, many shards",
        counts.iter().map(open).collect(),
        matches.collect(),
    )
}

/// Latencies when nothing is saturated.
fn even(writes: &Writes) -> Contest<'_> {
    let name = "sync, 1,000 writes a second, p99";
    Contest {
        unit: "us",
        better: Better::Less,
        ..contest(
            name,
            vec![ours::even(writes, 8, 1000), rocks::even(writes, 8, 1000)],
            vec![against(name, 0, &[1], goal(1.0, FAST))],
        )
    }
}

/// Long enough for flushes and compactions to keep pace or not.
pub(crate) fn sustained(writes: &Writes) -> Contest<'_> {
    let name = "sync, 256 in flight, sustained";
    contest(
        name,
        vec![
            ours::many(writes, 16, 1, 256, Durability::Sync),
            rocks::blocking(writes, 1, 256, Log::Synced),
        ],
        vec![
            against(name, 0, &[1], anywhere(2.0)),
            limit(
                &format!("{name}, longest stall"),
                0,
                Beside::Stall { most: 1.0 },
                anywhere(1.0),
            ),
        ],
    )
}

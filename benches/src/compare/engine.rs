//! The whole engine (log, apply, visible) beside whole engines.

use std::time::Duration;

use watershed::Durability;

use super::contest::{Beside, Contest, Match};
use super::load::Writes;
use super::peers::rocks::Log;
use super::peers::{fjall, ours, redb, rocks};
use super::words::{FAST, SLOW, against, anywhere, contest, goal, limit};
use crate::report::Mode;
use crate::stats::Better;

const BATCH: usize = 512;
/// What part of the smaller limit is aimed at.
const OF_LIMIT: f64 = 0.8;
/// Distinct keys of the sustained load: more than all memtables and caches hold.
pub(crate) const SUSTAINED_KEYS: u64 = 10_000_000;
/// Our own callers in a contest with limits: their places, one of them with 1 shard and one with 16.
struct Limited {
    in_flight: u64,
    one: (usize, &'static str),
    sixteen: (usize, &'static str),
}

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
        more(writes, quick),
        many(writes, quick),
    ];
    all.extend([64, 256, 1024].map(|count| slow(writes, count, quick)));
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
    let (one, sixteen) = (
        "sync, 64 in flight, 1 shard",
        "sync, 64 in flight, 16 shards",
    );
    let contenders = vec![
        ours::many(writes, 16, 1, 64, Durability::Sync),
        ours::many(writes, 1, 1, 64, Durability::Sync),
        ours::blocking(writes, 16, 64, Durability::Sync),
        rocks::blocking(writes, 1, 64, Log::Synced),
    ];
    let matches = vec![
        against(sixteen, 0, &[3], goal(4.0, FAST)),
        against(one, 1, &[3], goal(4.0, FAST)),
        against("sync, 64 blocking threads", 2, &[3], goal(3.0, FAST)),
    ];
    let mut all = contest("sync, 64 in flight", contenders, matches);
    if !quick {
        all.contenders.extend([
            fjall::blocking(writes, 64, true),
            redb::blocking(writes, 64),
        ]);
        all.matches
            .extend([4, 5].map(|peer| against(sixteen, 0, &[peer], None)));
    }
    let ours = Limited {
        in_flight: 64,
        one: (1, one),
        sixteen: (0, sixteen),
    };
    with_limits(all, &ours, writes, quick)
}

fn more(writes: &Writes, quick: bool) -> Contest<'_> {
    let (one, sixteen) = (
        "sync, 256 in flight, 1 shard",
        "sync, 256 in flight, 16 shards",
    );
    let syncs = |name: &str| format!("{name}, syncs");
    let most = Beside::Syncs { most: 10.0 };
    let contenders = vec![
        ours::many(writes, 16, 1, 256, Durability::Sync),
        ours::many(writes, 1, 1, 256, Durability::Sync),
        ours::blocking(writes, 16, 256, Durability::Sync),
        rocks::blocking(writes, 1, 256, Log::Synced),
    ];
    let matches = vec![
        against(sixteen, 0, &[3], goal(6.0, FAST)),
        against(one, 1, &[3], goal(6.0, FAST)),
        against("sync, 256 blocking threads", 2, &[3], goal(3.0, FAST)),
        limit(&syncs(sixteen), 0, most.clone(), anywhere(1.0)),
        limit(&syncs(one), 1, most, anywhere(1.0)),
    ];
    let ours = Limited {
        in_flight: 256,
        one: (1, one),
        sixteen: (0, sixteen),
    };
    let all = contest("sync, 256 in flight", contenders, matches);
    with_limits(all, &ours, writes, quick)
}

fn many(writes: &Writes, quick: bool) -> Contest<'_> {
    let (one, sixteen) = (
        "sync, 1024 in flight, 1 shard",
        "sync, 1024 in flight, 16 shards",
    );
    let beside = |workload: &str, whom: &str| format!("{workload}, beside {whom}");
    let mut threads = vec![2, 3];
    let mut contenders = vec![
        ours::many(writes, 1, 1, 1024, Durability::Sync),
        ours::many(writes, 16, 1, 1024, Durability::Sync),
        rocks::blocking(writes, 1, 256, Log::Synced),
        rocks::blocking(writes, 1, 1024, Log::Synced),
        rocks::batched(writes, 1, 1, BATCH, Log::Synced),
    ];
    if !quick {
        contenders.push(ours::many(writes, 16, 2, 1024, Durability::Sync));
        threads.extend([contenders.len(), contenders.len() + 1]);
        contenders.push(rocks::blocking(writes, 1, 64, Log::Synced));
        contenders.push(rocks::blocking(writes, 1, 512, Log::Synced));
    }
    let mut matches = vec![
        against(one, 0, &threads, goal(7.0, FAST)),
        against(sixteen, 1, &threads, goal(12.0, FAST)),
        against(&beside(one, "batches of 512"), 0, &[4], goal(1.0, FAST)),
        against(&beside(sixteen, "batches of 512"), 1, &[4], goal(1.7, FAST)),
    ];
    if !quick {
        let callers = format!("{sixteen}, 2 callers of ours");
        matches.push(against(&callers, 5, &threads, None));
    }
    let ours = Limited {
        in_flight: 1024,
        one: (0, one),
        sixteen: (1, sixteen),
    };
    let all = contest("sync, 1024 in flight", contenders, matches);
    with_limits(all, &ours, writes, quick)
}

/// Adds what no engine on this machine can pass: the device, and RocksDB's memtables filled with no log at all. In a
/// full run the best number of threads counts, so that the limit is not set too low.
fn with_limits<'a>(
    mut all: Contest<'a>,
    ours: &Limited,
    writes: &'a Writes,
    quick: bool,
) -> Contest<'a> {
    let threads: [&[u64]; 2] = if quick {
        [&[1], &[2]]
    } else {
        [&[1, 2], &[2, 4]]
    };
    let both = [(1, ours.one, threads[0]), (16, ours.sixteen, threads[1])];
    for (databases, (place, name), threads) in both {
        let fill = |count: &u64| rocks::batched(writes, databases, *count, BATCH, Log::Off);
        let first = all.contenders.len();
        all.contenders.extend(threads.iter().map(fill));
        let memtables: Vec<usize> = (first..all.contenders.len()).collect();
        all.matches
            .extend(distances(name, place, ours.in_flight, memtables));
    }
    all
}

fn distances(name: &str, ours: usize, in_flight: u64, memtables: Vec<usize>) -> [Match; 3] {
    let named = |what: &str| format!("{name}, {what}");
    let smaller = Beside::Limit {
        in_flight,
        memtables: memtables.clone(),
    };
    [
        limit(
            &named("of the device"),
            ours,
            Beside::Device { in_flight },
            None,
        ),
        limit(
            &named("of memtables without a log"),
            ours,
            Beside::Best(memtables),
            None,
        ),
        limit(
            &named("of the smaller limit"),
            ours,
            smaller,
            anywhere(OF_LIMIT),
        ),
    ]
}

fn slow(writes: &Writes, count: u64, quick: bool) -> Contest<'_> {
    let (name, ratio) = match count {
        64 => ("sync of 1 ms, 64 in flight, 16 shards", 2.0),
        256 => ("sync of 1 ms, 256 in flight, 16 shards", 3.0),
        _ => ("sync of 1 ms, 1024 in flight, 16 shards", 8.0),
    };
    let threads: &[u64] = match (count, quick) {
        (1024, true) => &[256, 1024],
        (1024, false) => &[256, 512, 1024],
        _ => &[count],
    };
    let mut contenders = vec![ours::many(writes, 16, 1, count, Durability::Sync)];
    let blocking = |count: &u64| rocks::blocking(writes, 1, *count, Log::Synced);
    contenders.extend(threads.iter().map(blocking));
    let theirs: Vec<usize> = (1..contenders.len()).collect();
    let device = Beside::Device { in_flight: count };
    let matches = vec![
        against(name, 0, &theirs, goal(ratio, SLOW)),
        limit(&format!("{name}, of the device"), 0, device, None),
    ];
    Contest {
        least_sync: Duration::from_millis(1),
        ..contest(name, contenders, matches)
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

/// Beside 16 databases in both forms: each writer its own, and keys over all of them.
fn buffered_many(writes: &Writes) -> Contest<'_> {
    let name = "buffered, 16 writers, 16 shards";
    let sixteen = format!("{name}, beside 16 databases");
    let own = format!("{name}, each its own, beside 16 databases");
    contest(
        "buffered, 16 writers",
        vec![
            ours::blocking(writes, 16, 16, Durability::Buffered),
            ours::own_shards(writes, 16, Durability::Buffered),
            rocks::blocking(writes, 1, 16, Log::Written),
            rocks::spread(writes, 16, 16, Log::Written),
            rocks::blocking(writes, 16, 16, Log::Written),
        ],
        vec![
            against(name, 0, &[2], anywhere(3.0)),
            against(&sixteen, 0, &[3], anywhere(1.2)),
            against(&own, 1, &[4], anywhere(1.2)),
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
    let stall = format!("{name}, longest stall");
    contest(
        name,
        vec![
            ours::many(writes, 16, 1, 256, Durability::Sync),
            rocks::blocking(writes, 1, 256, Log::Synced),
        ],
        vec![
            against(name, 0, &[1], anywhere(2.0)),
            limit(&stall, 0, Beside::Stall { most: 1.0 }, anywhere(1.0)),
            limit(&stall, 0, Beside::StallOf(1), None),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workloads(quick: bool) -> Vec<(String, Option<f64>)> {
        let writes = Writes::new(100);
        let all = contests(&writes, quick)
            .into_iter()
            .chain([sustained(&writes)]);
        let matches = all.flat_map(|contest| contest.matches);
        let goal = |one: &Match| one.goal.map(|goal| goal.ratio);
        matches
            .map(|one| (one.workload.clone(), goal(&one)))
            .collect()
    }

    #[test]
    fn every_goal_has_its_row_quick_or_not() {
        for (workload, ratio) in [
            ("sync, 1 writer", 1.3),
            ("sync, 64 in flight, 1 shard", 4.0),
            ("sync, 64 in flight, 16 shards", 4.0),
            ("sync, 256 in flight, 1 shard", 6.0),
            ("sync, 256 in flight, 16 shards", 6.0),
            ("sync, 64 blocking threads", 3.0),
            ("sync, 256 blocking threads", 3.0),
            ("sync, 1024 in flight, 1 shard", 7.0),
            ("sync, 1024 in flight, 16 shards", 12.0),
            ("sync, 1024 in flight, 1 shard, beside batches of 512", 1.0),
            (
                "sync, 1024 in flight, 16 shards, beside batches of 512",
                1.7,
            ),
            ("sync of 1 ms, 64 in flight, 16 shards", 2.0),
            ("sync of 1 ms, 256 in flight, 16 shards", 3.0),
            ("sync of 1 ms, 1024 in flight, 16 shards", 8.0),
            ("buffered, 1 writer", 1.2),
            ("buffered, 16 writers, 16 shards", 3.0),
            ("buffered, 16 writers, 16 shards, beside 16 databases", 1.2),
            (
                "buffered, 16 writers, 16 shards, each its own, beside 16 databases",
                1.2,
            ),
            ("sync, 256 in flight, 16 shards beside 1", 0.8),
            ("sync, 256 in flight, 16 shards, syncs", 1.0),
            ("sync, 1024 in flight, 16 shards, of the smaller limit", 0.8),
            ("sync, 1,000 writes a second, p99", 1.0),
            ("sync, 256 in flight, sustained", 2.0),
            ("sync, 256 in flight, sustained, longest stall", 1.0),
        ] {
            let wanted = (workload.to_owned(), Some(ratio));
            for quick in [true, false] {
                assert!(
                    workloads(quick).contains(&wanted),
                    "{wanted:?}, quick: {quick}"
                );
            }
        }
        for shards in [256, 1000] {
            let wanted = (
                format!("sync, 256 in flight, {shards} shards beside 1"),
                Some(0.8),
            );
            assert!(workloads(false).contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn who_is_compared_takes_part() {
        let writes = Writes::new(100);
        for quick in [true, false] {
            for contest in contests(&writes, quick) {
                let sides = contest.contenders.len();
                for one in &contest.matches {
                    let beside = match &one.beside {
                        Beside::Best(places)
                        | Beside::Limit {
                            memtables: places, ..
                        } => places.clone(),
                        Beside::StallOf(place) => vec![*place],
                        _ => vec![],
                    };
                    assert!(one.ours < sides, "{}", one.workload);
                    assert!(
                        beside.iter().all(|place| *place < sides),
                        "{}",
                        one.workload
                    );
                    // Only the same engine over ever more shards is compared with itself.
                    let peer = |place: &usize| contest.contenders[*place].peer;
                    assert_eq!(peer(&one.ours), ours::NAME, "{}", one.workload);
                    let itself = one.workload.contains("shards beside 1");
                    assert!(
                        beside.iter().all(|at| itself || peer(at) != ours::NAME),
                        "{}",
                        one.workload
                    );
                }
            }
        }
    }
}

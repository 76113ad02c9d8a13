//! This engine as a contender.

use std::future::IntoFuture;
use std::path::Path;

use watershed::{Durability, Engine, ShardId};

use crate::compare::contest::Contender;
use crate::compare::drive::{in_flight, stream, threads};
use crate::compare::error::CompareError;
use crate::compare::load::Writes;

pub(crate) const NAME: &str = "Watershed";

fn open(dir: &Path, shards: u64) -> Result<Engine, CompareError> {
    Ok(Engine::options().shards(shards).open(dir.join("engine"))?)
}

/// Few callers with many writes in flight.
pub(crate) fn many(
    writes: &Writes,
    shards: u64,
    callers: u64,
    count: u64,
    durability: Durability,
) -> Contender<'_> {
    let who = if callers == 1 {
        "one caller".into()
    } else {
        format!("{callers} callers")
    };
    Contender {
        peer: NAME,
        caller: format!("{who}, {count} in flight, {}", of_shards(shards)),
        in_flight: (durability == Durability::Sync).then_some(count),
        open: Box::new(move |dir| {
            let engine = open(dir, shards)?;
            Ok(Box::new(move |slice, time| {
                in_flight(callers, count, slice, time, writes, |_, key, value| {
                    let put = engine.put(key, value).durability(durability).into_future();
                    async move { put.await.map(drop).map_err(CompareError::from) }
                })
            }))
        }),
    }
}

/// Threads that wait for each write.
pub(crate) fn blocking(
    writes: &Writes,
    shards: u64,
    count: u64,
    durability: Durability,
) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("{}, {}", of_threads(count), of_shards(shards)),
        in_flight: (durability == Durability::Sync).then_some(count),
        open: Box::new(move |dir| {
            let engine = open(dir, shards)?;
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |_, key, value| {
                    let put = engine.put(key, value).durability(durability);
                    Ok(put.wait().map(drop)?)
                })
            }))
        }),
    }
}

/// Threads that wait for each write, and write a shard of their own.
pub(crate) fn own_shards(writes: &Writes, count: u64, durability: Durability) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("{}, each its own shard", of_threads(count)),
        in_flight: (durability == Durability::Sync).then_some(count),
        open: Box::new(move |dir| {
            let engine = open(dir, count)?;
            Ok(Box::new(move |slice, time| {
                threads(count, slice, time, writes, |caller, key, value| {
                    let put = engine.shard(ShardId(caller)).put(key, value);
                    Ok(put.durability(durability).wait().map(drop)?)
                })
            }))
        }),
    }
}

/// An even stream of synchronous writes.
pub(crate) fn even(writes: &Writes, callers: u64, per_second: u64) -> Contender<'_> {
    Contender {
        peer: NAME,
        caller: format!("open loop, {callers} blocking threads, 16 shards"),
        in_flight: Some(callers),
        open: Box::new(move |dir| {
            let engine = open(dir, 16)?;
            Ok(Box::new(move |slice, time| {
                stream(callers, per_second, slice, time, writes, |_, key, value| {
                    Ok(engine.put(key, value).wait().map(drop)?)
                })
            }))
        }),
    }
}

fn of_threads(count: u64) -> String {
    if count == 1 {
        "1 blocking thread".into()
    } else {
        format!("{count} blocking threads")
    }
}

fn of_shards(count: u64) -> String {
    if count == 1 {
        "1 shard".into()
    } else {
        format!("{count} shards")
    }
}

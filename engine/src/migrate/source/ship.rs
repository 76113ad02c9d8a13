//! Delta rounds: exactly the records that the target misses, read from the log and acknowledged by it as durable.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinSet;
use watershed_migration::messages::{Refused, RefusedKind, Request, Response};
use watershed_wal::{InstanceLog, Record, SeqRange};

use super::work::Work;
use crate::Error;
use crate::migrate::peer::Peer;
use crate::migrate::refusal::refused_by;

/// Records of one call of a delta round, and calls in flight.
const SHIP_BYTES: usize = 1 << 20;
const SHIP_RECORDS: usize = 8192;
const SHIP_WINDOW: usize = 4;
const SHIP_TIMEOUT: Duration = Duration::from_secs(30);

impl Work {
    /// A delta round: these records in order, in calls of many, each durable at the target when it returns. No call
    /// is begun once `max_bytes` are on their way: the driver asks for the rest by itself.
    pub(super) async fn ship(
        &self,
        ranges: Vec<SeqRange>,
        max_bytes: u64,
    ) -> Result<Response, Refused> {
        let peer = Peer::new(&self.node, self.target().await?);
        let Some(env) = self.envelope() else {
            return Err(Refused::new(
                RefusedKind::NotReady,
                "no migration was prepared",
            ));
        };
        let mut rest: VecDeque<SeqRange> = ranges.into();
        let mut calls = JoinSet::new();
        let (mut shipped, mut bytes) = (0, 0);
        while !rest.is_empty() && bytes < max_bytes {
            let log = self.hosted.log.clone();
            let (records, left) = self.blocking(move || gather(&log, rest)).await?;
            rest = left;
            shipped += records.len() as u64;
            bytes += records
                .iter()
                .map(|record| record.body().len() as u64)
                .sum::<u64>();
            while calls.len() >= SHIP_WINDOW {
                joined(&mut calls).await?;
            }
            if records.is_empty() {
                continue;
            }
            let request = Request::Records {
                env,
                from_instance: self.hosted.instance,
                delta: true,
                records: Record::encode_many(&records),
            };
            calls.spawn(deliver(peer.clone(), request));
        }
        while !calls.is_empty() {
            joined(&mut calls).await?;
        }
        Ok(Response::Shipped {
            records: shipped,
            bytes,
        })
    }
}

/// The next records of `ranges`, as many as one call takes, and the ranges that are left. Blocks.
fn gather(
    log: &InstanceLog,
    mut ranges: VecDeque<SeqRange>,
) -> Result<(Vec<Record>, VecDeque<SeqRange>), Error> {
    let (mut gathered, mut bytes) = (Vec::new(), 0);
    while let Some(range) = ranges.pop_front() {
        let records = log.read_batch(range, SHIP_BYTES - bytes)?;
        bytes += records.iter().map(Record::encoded_len).sum::<usize>();
        let left = records
            .last()
            .and_then(|last| SeqRange::after(last.seq(), range.last()));
        if let Some(left) = left {
            ranges.push_front(left);
        }
        gathered.extend(records);
        if bytes >= SHIP_BYTES || gathered.len() >= SHIP_RECORDS {
            break;
        }
    }
    Ok((gathered, ranges))
}

async fn deliver(peer: Peer, request: Request) -> Result<(), Refused> {
    match peer.call_within(SHIP_TIMEOUT, request).await {
        Ok(Response::RecordsAck { .. }) => Ok(()),
        Ok(Response::Refused(refused)) => Err(refused),
        Ok(other) => Err(Refused::new(
            RefusedKind::Failed,
            format!("the target answered records with {}", other.name()),
        )),
        Err(error) => Err(refused_by(&error)),
    }
}

async fn joined(calls: &mut JoinSet<Result<(), Refused>>) -> Result<(), Refused> {
    match calls.join_next().await {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(refused))) => Err(refused),
        Some(Err(_)) => Err(Refused::new(RefusedKind::NotReady, "the node is closing")),
    }
}

//! Live forwarding: each durable record of the owner goes to the target as it comes.
//!
//! It follows the log's tail of durable records (rule 2), so no client ever waits for it: what it can't keep up with
//! stays in the log, which a hold keeps. The window of calls in flight is bounded. A call that fails is not tried again:
//! its records are holes in the target's set, and a delta round ships them.
//!
//! Invariant: `settled` only grows, and each record after the start and at or below it was acknowledged or given up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use watershed_migration::messages::{Envelope, Request, Response};
use watershed_wal::{InstanceLog, LogError, Record, Seq};

use super::peer::Peer;
use crate::sync::lock;

/// Calls in flight at once.
const WINDOW: usize = 8;
/// Records of one call.
const CALL_BYTES: usize = 1 << 20;
/// A call without an answer for so long is given up.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a call that the target did not take, doubled up to the longest while that goes on.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_LONGEST: Duration = Duration::from_millis(250);

/// Forwards one shard's records to one target, until it is dropped.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    forwarded: AtomicU64,
    failed: AtomicU64,
    flight: Mutex<Flight>,
    settled: watch::Sender<Seq>,
}

#[derive(Debug)]
struct Flight {
    /// The last record taken from the tail.
    taken: Seq,
    /// The first records of the calls in flight.
    firsts: BTreeSet<Seq>,
}

/// What has become of the forwarded records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) forwarded: u64,
    pub(super) failed: u64,
}

impl Sender {
    /// Forwards the records after `from`. `env` is read for each call: it carries the newest attempt.
    pub(super) fn start(
        runtime: &tokio::runtime::Handle,
        log: InstanceLog,
        peer: Peer,
        env: Arc<Mutex<Envelope>>,
        from: Seq,
    ) -> Self {
        let shared = Arc::new(Shared {
            forwarded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            flight: Mutex::new(Flight {
                taken: from,
                firsts: BTreeSet::new(),
            }),
            settled: watch::Sender::new(from),
        });
        let task = runtime.spawn(forward(shared.clone(), log, peer, env, from));
        Self { shared, task }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            forwarded: self.shared.forwarded.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    /// A waiter that ends once each record up to `seq` was acknowledged or given up, or forwarding ended.
    pub(super) fn settled(&self, seq: Seq) -> impl Future<Output = ()> + Send + 'static {
        let mut settled = self.shared.settled.subscribe();
        async move {
            // An error says that forwarding ended: nothing is in flight any more.
            let _ = settled.wait_for(|settled| *settled >= seq).await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    shared: Arc<Shared>,
    log: InstanceLog,
    peer: Peer,
    env: Arc<Mutex<Envelope>>,
    from: Seq,
) {
    let mut tail = log.tail(from);
    let window = Arc::new(Semaphore::new(WINDOW));
    let failing = Arc::new(AtomicU64::new(0));
    // Aborts what is in flight when this task is.
    let mut calls = JoinSet::new();
    loop {
        let Ok(permit) = window.clone().acquire_owned().await else {
            return;
        };
        tokio::time::sleep(backoff(failing.load(Ordering::Relaxed))).await;
        let records = match tail.next(CALL_BYTES).await {
            Ok(records) => records,
            Err(LogError::Closed) => return,
            Err(error) => {
                tracing::warn!(shard = %log.shard(), %error, "forwarding stopped: delta rounds ship what follows");
                return;
            }
        };
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            continue;
        };
        let first = first.seq();
        shared.take(first, last.seq());
        while calls.try_join_next().is_some() {}
        let (shared, peer, failing) = (shared.clone(), peer.clone(), failing.clone());
        let request = Request::Records {
            env: *lock(&env),
            from_instance: log.id(),
            delta: false,
            records: Record::encode_many(&records),
        };
        let count = records.len() as u64;
        calls.spawn(async move {
            let outcome = peer.call_within(CALL_TIMEOUT, request).await;
            let taken = matches!(outcome, Ok(Response::RecordsAck { .. }));
            if taken {
                shared.forwarded.fetch_add(count, Ordering::Relaxed);
                failing.store(0, Ordering::Relaxed);
            } else {
                shared.failed.fetch_add(count, Ordering::Relaxed);
                let lost_on_the_way = matches!(&outcome, Err(error) if error.was_lost());
                if !lost_on_the_way {
                    failing.fetch_add(1, Ordering::Relaxed);
                }
            }
            shared.settle(first);
            drop(permit);
        });
    }
}

/// How long to wait after so many calls in a row that the target was not there for, or refused.
fn backoff(failing: u64) -> Duration {
    match failing {
        0 => Duration::ZERO,
        more => {
            let doubled = u32::try_from((more - 1).min(16)).map_or(u32::MAX, |by| 1 << by);
            BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_LONGEST)
        }
    }
}

impl Shared {
    fn take(&self, first: Seq, last: Seq) {
        let mut flight = lock(&self.flight);
        flight.taken = last;
        flight.firsts.insert(first);
    }

    fn settle(&self, first: Seq) {
        let settled = {
            let mut flight = lock(&self.flight);
            flight.firsts.remove(&first);
            match flight.firsts.first() {
                // Everything before the oldest call in flight.
                Some(oldest) => oldest.prev().unwrap_or(Seq::ZERO),
                None => flight.taken,
            }
        };
        self.settled.send_if_modified(|mark| {
            let grows = *mark < settled;
            *mark = (*mark).max(settled);
            grows
        });
    }
}

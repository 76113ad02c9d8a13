//! The node's background thread: it tells the log what the stores have persisted, flushes what pins the log, and has
//! stores that failed opened again.
//!
//! RocksDB flushes a store by itself when the shared write budget is used up, but only one that is being written. So one
//! cold shard could keep the whole log; the log names the shard whose flush would free its oldest segment.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Node;
use crate::Error;
use crate::sync::lock;

/// How often the log's fill is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the flushed marks are read from the stores, and failed ones healed.
const MARKS_EVERY: Duration = Duration::from_secs(1);
/// How long an opening waits for the log to take away what its stores have flushed: milliseconds, on a device that works.
const TRUNCATED_WITHIN: Duration = Duration::from_secs(5);

/// The background thread; stopped with the node.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    signal: Arc<(Mutex<bool>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread of `node`.
    pub(super) fn start(node: &Node) -> Result<(), Error> {
        let signal = node.keeper.signal.clone();
        let of = node.clone();
        let thread = std::thread::Builder::new()
            .name("ws-keep".into())
            .spawn(move || keep(&of, &signal))
            .map_err(|error| Error::io("start a thread for", &node.dir, error))?;
        *lock(&node.keeper.thread) = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        *lock(&self.signal.0) = true;
        self.signal.1.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

/// A start record's frame with the rest of a block, and its part of the heads.
const START_ROOM: u64 = 8 << 10;

fn keep(node: &Node, (stop, wake): &(Mutex<bool>, Condvar)) {
    let mut marked = Instant::now();
    loop {
        let stopping = lock(stop);
        let (stopping, _) = wake
            .wait_timeout_while(stopping, LOOK_EVERY, |stopping| !*stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if *stopping {
            return;
        }
        drop(stopping);
        if marked.elapsed() >= MARKS_EVERY {
            pass_marks_on(node);
            heal_failed(node);
            marked = Instant::now();
        }
        // Many cold shards may keep one segment: the log must not fill up while each of them waits for its turn.
        while !*lock(stop) && flush_what_pins(node) {}
    }
}

fn pass_marks_on(node: &Node) {
    for hosted in node.hosted_all() {
        let Ok(store) = hosted.store() else { continue };
        match store.flushed() {
            Ok(flushed) => hosted.log.set_flushed(flushed.seq),
            Err(error) => tracing::debug!(shard = %hosted.shard, %error, "no flushed mark"),
        }
    }
}

/// A store that failed and is not written would pin the log: nobody else would open it again.
fn heal_failed(node: &Node) {
    for hosted in node.hosted_all() {
        hosted.heal_later();
    }
}

/// Before the first write of an opening: a log that was full when the process died has no room for so many start records
/// until the stores, replayed just now, are flushed. Where that does not free any, the start records say so.
pub(super) async fn make_room(node: &Node, starts: usize) {
    let starts = u64::try_from(starts).unwrap_or(u64::MAX);
    let is_filling = || {
        let log = node.log.status();
        // They are queued at once, each at the most that it may take.
        let wanted = (log.limit / 4).saturating_add(starts.saturating_mul(START_ROOM));
        log.bytes - log.recycled_bytes > log.limit - wanted.min(log.limit / 2)
    };
    if !is_filling() {
        return;
    }
    let flushing = node.clone();
    let flushed = node.runtime.spawn_blocking(move || {
        for hosted in flushing.hosted_all() {
            let Ok(store) = hosted.store() else { continue };
            match store.flush() {
                Ok(flushed) => hosted.log.set_flushed(flushed),
                Err(error) => tracing::warn!(shard = %hosted.shard, %error, "a flush failed"),
            }
        }
    });
    // A panic has been printed where it happened.
    let _ = flushed.await;
    let until = Instant::now() + TRUNCATED_WITHIN;
    while is_filling() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Flushes one shard that pins the log; whether that went far enough, so that another may be next.
fn flush_what_pins(node: &Node) -> bool {
    let Some((instance, through)) = node.log.pinning() else {
        return false;
    };
    let Some(hosted) = node.hosted_instance(instance) else {
        return false;
    };
    let Ok(store) = hosted.store() else {
        return false;
    };
    if store.background_error().is_some() {
        // It would fail again, until it is healed.
        hosted.heal_later();
        return false;
    }
    tracing::debug!(shard = %hosted.shard, %through, "flushing: it pins the log's oldest segment");
    match store.flush() {
        Ok(flushed) => {
            hosted.log.set_flushed(flushed);
            // What is committed and not applied yet is flushed at a later look.
            flushed >= through
        }
        Err(error) => {
            tracing::warn!(shard = %hosted.shard, %error, "a flush failed: the store is healed, then flushed again");
            hosted.heal_later();
            false
        }
    }
}

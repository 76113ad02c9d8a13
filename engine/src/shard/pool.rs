//! The threads that apply shards: each takes a shard that has something to apply, and goes on until it has nothing left.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Hosted;
use crate::sync::lock;

/// The threads which apply shards.
#[derive(Debug, Clone)]
pub(crate) struct ApplyPool(Arc<PoolShared>);

#[derive(Debug)]
struct PoolShared {
    state: Mutex<PoolState>,
    work: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct PoolState {
    ready: VecDeque<Arc<Hosted>>,
    stopping: bool,
}

impl ApplyPool {
    /// A pool of `threads`, named for a profiler's sake.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let pool = Self(Arc::new(PoolShared {
            state: Mutex::default(),
            work: Condvar::new(),
            threads: Mutex::default(),
        }));
        for number in 0..threads {
            let shared = pool.0.clone();
            let thread = std::thread::Builder::new()
                .name(format!("ws-apply-{number}"))
                .spawn(move || shared.run())?;
            lock(&pool.0.threads).push(thread);
        }
        Ok(pool)
    }

    pub(super) fn push(&self, hosted: Arc<Hosted>) {
        lock(&self.0.state).ready.push_back(hosted);
        self.0.work.notify_one();
    }

    /// Applies what is ready, then joins the threads.
    pub(crate) fn stop(&self) {
        lock(&self.0.state).stopping = true;
        self.0.work.notify_all();
        for thread in std::mem::take(&mut *lock(&self.0.threads)) {
            // A panicked applier has printed its reason; joining is all that is left to do.
            let _ = thread.join();
        }
    }
}

impl PoolShared {
    fn run(&self) {
        loop {
            let hosted = {
                let mut state = lock(&self.state);
                loop {
                    if let Some(hosted) = state.ready.pop_front() {
                        break hosted;
                    }
                    if state.stopping {
                        return;
                    }
                    state = self
                        .work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            hosted.apply_queued();
        }
    }
}

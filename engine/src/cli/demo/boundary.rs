//! One insert, one update and one delete of the moving shard at the start of each phase.
//!
//! The migration tells its observer of a new phase before it goes on; here three writes are submitted in that call and
//! not waited for, because inside the pause they are acknowledged only after it. Each has a key of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::tally::Kind;
use super::writers::{Ended, Op, Sender, Wrote};
use crate::ShardId;
use crate::cli::failure::Failure;
use crate::migration::Phase;

/// Keys put beforehand for updates and deletes: two a phase, for more phases than ten attempts pass through.
const STOCK: u64 = 160;

/// The boundary writes of one shard.
pub(super) struct Boundary {
    shard: ShardId,
    sender: Sender,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<Phase>,
    /// The number in the next key's name.
    next: u64,
    /// Keys with a value, not used yet.
    stock: Vec<Bytes>,
    /// Keys that are there from the beginning.
    wrote: Wrote,
    submitted: Vec<JoinHandle<Ended>>,
}

impl Boundary {
    /// Puts the keys that are updated and deleted later.
    pub(super) async fn prepare(
        shard: ShardId,
        sender: Sender,
        runtime: Handle,
    ) -> Result<Self, Failure> {
        let mut state = State::default();
        let mut writes = JoinSet::new();
        for _ in 0..STOCK {
            let key = state.new_key(shard, &sender);
            state.stock.push(key.clone());
            writes.spawn(
                sender
                    .clone()
                    .send(put(key, Kind::Insert, "put beforehand")),
            );
        }
        while let Some(done) = writes.join_next().await {
            state.wrote.note(joined(done))?;
        }
        Ok(Self {
            shard,
            sender,
            runtime,
            state: Mutex::new(state),
        })
    }

    /// The migration is in this phase; the first time it says so, three writes are submitted before this returns.
    pub(super) fn enter(&self, phase: Phase) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.phase.replace(phase) == Some(phase) || phase.is_final() {
            return;
        }
        let mut ops = vec![put(
            state.new_key(self.shard, &self.sender),
            Kind::Insert,
            phase,
        )];
        if let Some(key) = state.stock.pop() {
            ops.push(put(key, Kind::Update, phase));
        }
        if let Some(key) = state.stock.pop() {
            ops.push(Op {
                key,
                kind: Kind::Delete,
                value: None,
            });
        }
        for op in ops {
            let submitted = self.submit(op);
            state.submitted.push(submitted);
        }
    }

    /// Polls the write once, which submits it, and leaves the rest to a task.
    fn submit(&self, op: Op) -> JoinHandle<Ended> {
        let _runtime = self.runtime.enter();
        let mut write = Box::pin(self.sender.clone().send(op));
        match pin!(&mut write).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => self.runtime.spawn(async { ended }),
            Poll::Pending => self.runtime.spawn(write),
        }
    }

    /// What became of all of them.
    pub(super) async fn finish(&self) -> Result<Wrote, Failure> {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let mut wrote = state.wrote;
        for write in state.submitted {
            wrote.note(joined(write.await))?;
        }
        Ok(wrote)
    }
}

impl State {
    /// A key which nobody used and which belongs to the shard.
    fn new_key(&mut self, shard: ShardId, sender: &Sender) -> Bytes {
        loop {
            let key = Bytes::from(format!("boundary/{shard}/{:06}", self.next));
            self.next += 1;
            if sender.data.shard_of(&key) == shard {
                return key;
            }
        }
    }
}

fn put(key: Bytes, kind: Kind, when: impl std::fmt::Display) -> Op {
    Op {
        key,
        kind,
        value: Some(format!(r#"{{"written":"{when}"}}"#).into()),
    }
}

/// A write's task is never cancelled, so what it did not give is a panic to be passed on.
fn joined(done: Result<Ended, tokio::task::JoinError>) -> Ended {
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

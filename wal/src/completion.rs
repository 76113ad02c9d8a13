//! How a writer learns that its write is committed: a [`Completion`] and the [`Completer`]s that resolve it.
//!
//! One allocation per write, no channel. A completion may wait for several completers (one per record of an
//! `append_at`): it resolves when all are done, with the first error if there was one. A completer that is
//! dropped completes with [`LogError::Closed`], so no writer waits for ever on something that went away.
//! Waking is split from completing, so that a group commit completes all, and only then wakes: the first woken
//! thread does not preempt the one that still has results to hand out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::LogError;
use crate::sync::{Mutex, Thread, current_thread, lock, park, park_timeout};

#[derive(Debug)]
enum Waiting {
    Nobody,
    Task(Waker),
    Thread(Thread),
}

impl Waiting {
    fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::Task(waker) => waker.wake(),
            Self::Thread(thread) => thread.unpark(),
        }
    }
}

#[derive(Debug)]
struct Slot {
    /// Completers still to come.
    remaining: usize,
    /// The first error.
    error: Option<LogError>,
    waiting: Waiting,
}

/// Resolves when a write is committed. Dropping it leaves the write as it is.
///
/// Without a sink on the instance it resolves once the record is durable (`Sync`) or written (`Buffered`; one
/// behind an unsynced `Sync` of the same instance waits for that). With a sink: once the sink completes its
/// [`Completer`].
#[derive(Debug)]
#[must_use = "a completion that nobody looks at hides the error of its write"]
pub struct Completion {
    slot: Arc<Mutex<Slot>>,
}

impl Completion {
    /// A completion that waits for `completers` many.
    pub(crate) fn new(completers: usize) -> (Self, Vec<Completer>) {
        let slot = Self::slot(completers);
        let all = (0..completers)
            .map(|_| Completer {
                slot: Some(Arc::clone(&slot)),
            })
            .collect();
        (Self { slot }, all)
    }

    /// A completion with its one completer.
    pub(crate) fn single() -> (Self, Completer) {
        let slot = Self::slot(1);
        let completer = Completer {
            slot: Some(Arc::clone(&slot)),
        };
        (Self { slot }, completer)
    }

    fn slot(completers: usize) -> Arc<Mutex<Slot>> {
        Arc::new(Mutex::new(Slot {
            remaining: completers,
            error: None,
            waiting: Waiting::Nobody,
        }))
    }

    /// Blocks until the write is committed.
    ///
    /// # Errors
    /// As the write ended.
    pub fn wait(self) -> Result<(), LogError> {
        loop {
            {
                let mut slot = lock(&self.slot);
                if let Some(result) = slot.result() {
                    return result;
                }
                slot.waiting = Waiting::Thread(current_thread());
            }
            // Woken without a reason, the loop looks again.
            park();
        }
    }

    /// Blocks until it has resolved, or the time is over, or for no reason.
    pub(crate) fn park(&self, timeout: std::time::Duration) {
        {
            let mut slot = lock(&self.slot);
            if slot.remaining == 0 {
                return;
            }
            slot.waiting = Waiting::Thread(current_thread());
        }
        park_timeout(timeout);
    }

    /// Whether it has resolved.
    #[must_use]
    pub fn is_done(&self) -> bool {
        lock(&self.slot).remaining == 0
    }
}

impl Slot {
    fn result(&self) -> Option<Result<(), LogError>> {
        (self.remaining == 0).then(|| self.error.clone().map_or(Ok(()), Err))
    }
}

impl Future for Completion {
    type Output = Result<(), LogError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.slot);
        if let Some(result) = slot.result() {
            return Poll::Ready(result);
        }
        match &mut slot.waiting {
            Waiting::Task(waker) => waker.clone_from(context.waker()),
            other => *other = Waiting::Task(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// Resolves (its part of) a [`Completion`].
#[derive(Debug)]
pub struct Completer {
    /// `None` once completed.
    slot: Option<Arc<Mutex<Slot>>>,
}

impl Completer {
    /// Completes, and wakes who waits.
    pub fn complete(mut self, result: Result<(), LogError>) {
        self.finish(result).wake();
    }

    /// Completes all, then wakes all: one batch.
    pub fn complete_all(all: impl IntoIterator<Item = (Self, Result<(), LogError>)>) {
        let woken: Vec<_> = all
            .into_iter()
            .map(|(mut completer, result)| completer.finish(result))
            .filter(|waiting| !matches!(waiting, Waiting::Nobody))
            .collect();
        woken.into_iter().for_each(Waiting::wake);
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot
            .as_ref()
            .is_none_or(|slot| Arc::strong_count(slot) == 1)
    }

    fn finish(&mut self, result: Result<(), LogError>) -> Waiting {
        let Some(slot) = self.slot.take() else {
            return Waiting::Nobody;
        };
        let mut slot = lock(&slot);
        slot.remaining -= 1;
        if let Err(error) = result {
            slot.error.get_or_insert(error);
        }
        if slot.remaining > 0 {
            return Waiting::Nobody;
        }
        std::mem::replace(&mut slot.waiting, Waiting::Nobody)
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.finish(Err(LogError::Closed)).wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_when_all_completers_did_with_the_first_error() {
        let (completion, mut completers) = Completion::new(3);
        completers.pop().unwrap().complete(Ok(()));
        assert!(!completion.is_done());
        completers
            .pop()
            .unwrap()
            .complete(Err(LogError::GateClosed));
        drop(completers);
        assert!(matches!(completion.wait(), Err(LogError::GateClosed)));
    }

    #[test]
    fn a_dropped_completer_ends_the_wait() {
        let (completion, completer) = Completion::single();
        let waiter = std::thread::spawn(|| completion.wait());
        drop(completer);
        assert!(matches!(waiter.join().unwrap(), Err(LogError::Closed)));
    }
}

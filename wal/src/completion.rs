//! How a writer learns that its write is committed: a [`Completion`] and the [`Completer`]s that resolve it.
//!
//! One allocation per write, no channel. A completion may wait for several completers (one per record of an
//! `append_at`): it resolves when all are done, with the first error if there was one. A completer that is
//! dropped completes with [`LogError::Closed`], so no writer waits for ever on something that went away.
//! Waking is split from completing, so that a group commit completes all, and only then wakes: the first woken
//! thread does not preempt the one that still has results to hand out.
//!
//! To wake a blocked thread is a call to the system that takes as long as several writes. So of the threads of one
//! batch only the first few are woken by who completed it; each, once awake, wakes the next few, on its own core
//! ([`Chain`]). That is left to blocked threads alone, as they are sure to go on: a future may be held and not polled.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::LogError;
use crate::sync::{Mutex, Thread, current_thread, lock, park, park_timeout};

/// How many each wakes.
const NEXT: usize = 2;
/// From so many blocked threads on they wake each other.
const CHAIN_FROM: usize = 4;

#[derive(Debug)]
enum Waiting {
    Nobody,
    Task(Waker),
    Thread(Thread),
    /// As `Task`, of a thread that does nothing but wait for it.
    Blocked(Waker),
}

impl Waiting {
    fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::Task(waker) | Self::Blocked(waker) => waker.wake(),
            Self::Thread(thread) => thread.unpark(),
        }
    }

    const fn is_blocked(&self) -> bool {
        matches!(self, Self::Thread(_) | Self::Blocked(_))
    }
}

/// Blocked threads of one batch that are still to be woken. Who leaves its wait wakes some of those who have not left
/// theirs, so as long as one is on its way all are.
#[derive(Debug, Default)]
struct Chain(Mutex<Vec<(Arc<Mutex<Slot>>, Waiting)>>);

impl Chain {
    fn wake_next(&self) {
        let mut woken = 0;
        while woken < NEXT {
            let Some((slot, waiting)) = lock(&self.0).pop() else {
                return;
            };
            // Who has left without being woken has done its part.
            if lock(&slot).chain.is_some() {
                waiting.wake();
                woken += 1;
            }
        }
    }
}

thread_local! {
    static BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// Says, while it lives, that this thread waits for the futures that it polls and does nothing else: each is polled
/// again as soon as it is woken, or dropped.
#[derive(Debug)]
pub struct BlockedThread {
    before: bool,
    /// It speaks of one thread.
    _here: std::marker::PhantomData<*const ()>,
}

impl BlockedThread {
    /// From now on, until it is dropped.
    #[must_use]
    pub fn enter() -> Self {
        Self {
            before: BLOCKED.replace(true),
            _here: std::marker::PhantomData,
        }
    }
}

impl Drop for BlockedThread {
    fn drop(&mut self) {
        BLOCKED.set(self.before);
    }
}

#[derive(Debug)]
struct Slot {
    /// Completers still to come.
    remaining: usize,
    /// The first error.
    error: Option<LogError>,
    waiting: Waiting,
    /// Of the batch that it was completed in, until its thread has left its wait.
    chain: Option<Arc<Chain>>,
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
            chain: None,
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

    /// Blocks until it has resolved, or the time is over, or for no reason. It may be kept after that: its thread does not
    /// wait any more, and nobody relies on it to wake others.
    pub(crate) fn park(&self, timeout: std::time::Duration) {
        {
            let mut slot = lock(&self.slot);
            if slot.remaining == 0 {
                return;
            }
            slot.waiting = Waiting::Thread(current_thread());
        }
        park_timeout(timeout);
        let chain = {
            let mut slot = lock(&self.slot);
            slot.waiting = Waiting::Nobody;
            slot.chain.take()
        };
        if let Some(chain) = chain {
            chain.wake_next();
        }
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

impl Drop for Completion {
    fn drop(&mut self) {
        let chain = lock(&self.slot).chain.take();
        if let Some(chain) = chain {
            chain.wake_next();
        }
    }
}

impl Future for Completion {
    type Output = Result<(), LogError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.slot);
        if let Some(result) = slot.result() {
            return Poll::Ready(result);
        }
        // Who polls may be another one than before.
        match (&mut slot.waiting, BLOCKED.get()) {
            (Waiting::Task(waker), false) | (Waiting::Blocked(waker), true) => {
                waker.clone_from(context.waker());
            }
            (other, true) => *other = Waiting::Blocked(context.waker().clone()),
            (other, false) => *other = Waiting::Task(context.waker().clone()),
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
        self.finish_alone(result);
    }

    /// Completes all, then wakes all: one batch.
    pub fn complete_all(all: impl IntoIterator<Item = (Self, Result<(), LogError>)>) {
        let chain = Arc::new(Chain::default());
        let mut woken = Vec::new();
        let mut blocked = Vec::new();
        for (mut completer, result) in all {
            match completer.finish(result, Some(&chain)) {
                Some((slot, waiting)) if waiting.is_blocked() => blocked.push((slot, waiting)),
                Some((_, Waiting::Nobody)) | None => {}
                Some((_, waiting)) => woken.push(waiting),
            }
        }
        if blocked.len() < CHAIN_FROM {
            woken.extend(blocked.into_iter().map(|(_, waiting)| waiting));
        } else {
            *lock(&chain.0) = blocked;
            chain.wake_next();
        }
        woken.into_iter().for_each(Waiting::wake);
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot
            .as_ref()
            .is_none_or(|slot| Arc::strong_count(slot) == 1)
    }

    /// Completes; gives who is to be woken. Should that be a blocked thread, it goes on with the chain when it leaves.
    fn finish(
        &mut self,
        result: Result<(), LogError>,
        chain: Option<&Arc<Chain>>,
    ) -> Option<(Arc<Mutex<Slot>>, Waiting)> {
        let shared = self.slot.take()?;
        let waiting = {
            let mut slot = lock(&shared);
            slot.remaining -= 1;
            if let Err(error) = result {
                slot.error.get_or_insert(error);
            }
            if slot.remaining > 0 {
                return None;
            }
            let waiting = std::mem::replace(&mut slot.waiting, Waiting::Nobody);
            if waiting.is_blocked() {
                slot.chain = chain.cloned();
            }
            waiting
        };
        Some((shared, waiting))
    }

    fn finish_alone(&mut self, result: Result<(), LogError>) {
        if let Some((_, waiting)) = self.finish(result, None) {
            waiting.wake();
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.finish_alone(Err(LogError::Closed));
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
    fn many_blocked_threads_wake_each_other_whoever_leaves_first() {
        for threads in [3, 4, 5, 64, 200] {
            let (completions, completers): (Vec<_>, Vec<_>) =
                (0..threads).map(|_| Completion::single()).unzip();
            std::thread::scope(|scope| {
                for (at, completion) in completions.into_iter().enumerate() {
                    scope.spawn(move || {
                        let _blocked = BlockedThread::enter();
                        match at % 3 {
                            0 => completion.wait(),
                            1 => poll_to_the_end(completion),
                            // Leaves when it sees the end, woken or not.
                            _ => {
                                while !completion.is_done() {
                                    completion.park(std::time::Duration::from_micros(50));
                                }
                                completion.wait()
                            }
                        }
                        .unwrap();
                    });
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
                Completer::complete_all(completers.into_iter().map(|one| (one, Ok(()))));
            });
        }
    }

    #[test]
    fn a_completion_that_is_kept_after_its_wait_keeps_nobody_waiting() {
        let many = || -> (Vec<_>, Vec<_>) { (0..6).map(|_| Completion::single()).unzip() };
        let (mut kept, kept_completers) = many();
        // Timed out, polled by another than at first, and still held: none of them waits.
        for completion in &kept[2..] {
            completion.park(std::time::Duration::ZERO);
        }
        for completion in &mut kept[..2] {
            let mut context = Context::from_waker(Waker::noop());
            {
                let _blocked = BlockedThread::enter();
                assert!(Pin::new(&mut *completion).poll(&mut context).is_pending());
            }
            assert!(Pin::new(completion).poll(&mut context).is_pending());
        }
        let (waiting, completers) = many();
        let waiters: Vec<_> = waiting
            .into_iter()
            .map(|completion| std::thread::spawn(|| completion.wait()))
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(5));
        // Taken from the end: the kept ones would be asked first to go on with the others.
        let all = completers.into_iter().chain(kept_completers);
        Completer::complete_all(all.map(|one| (one, Ok(()))));
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        drop(kept);
    }

    /// Polls on this thread, and parks in between.
    fn poll_to_the_end(completion: Completion) -> Result<(), LogError> {
        struct Unpark(Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(current_thread())));
        let mut completion = std::pin::pin!(completion);
        loop {
            match completion.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                Poll::Pending => park(),
            }
        }
    }

    #[test]
    fn a_dropped_completer_ends_the_wait() {
        let (completion, completer) = Completion::single();
        let waiter = std::thread::spawn(|| completion.wait());
        drop(completer);
        assert!(matches!(waiter.join().unwrap(), Err(LogError::Closed)));
    }
}

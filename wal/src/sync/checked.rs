//! The log's locks, threads and clock under the `shuttle` scheduler; see `tests/shuttle/`.
//!
//! Time is virtual: it moves when a check says so, and a wait with a timeout ends early only when a check
//! *fires* it. A fired timer wakes whoever waits, as the real one would; one that is fired before its waiter
//! sleeps does nothing, and can be fired again, as late as you like. Everything is per execution and lives on the one
//! thread of the system that runs all of its tasks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::{Arc, LockResult, PoisonError};
use std::time::Duration;

pub(crate) use shuttle::sync::{Mutex, MutexGuard};
pub(crate) use shuttle::thread::{
    Builder as ThreadBuilder, JoinHandle, Thread, ThreadId, current as current_thread, park,
};

pub use crate::log::Audit;

/// Whom a timer wakes.
#[derive(Clone)]
enum Waiter {
    Condvar(Arc<shuttle::sync::Condvar>),
    Thread(Thread),
}

#[derive(Default)]
struct Clock {
    now: Duration,
    next_id: u64,
    /// Waits with a timeout that are under way, by the order of their beginning.
    timers: BTreeMap<u64, (Duration, Waiter)>,
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Forgets the execution before: to be called first in each.
pub fn reset() {
    CLOCK.with(|clock| *clock.borrow_mut() = Clock::default());
}

/// Lets time pass, without firing anything.
pub fn advance(by: Duration) {
    CLOCK.with(|clock| clock.borrow_mut().now += by);
}

/// How many waits with a timeout are under way.
#[must_use]
pub fn timers() -> usize {
    CLOCK.with(|clock| clock.borrow().timers.len())
}

/// Fires the `nth` timer by deadline: time passes up to it, and who waits is woken. `false`: there are fewer.
#[must_use]
pub fn fire(nth: usize) -> bool {
    let waiter = CLOCK.with(|clock| {
        let mut clock = clock.borrow_mut();
        let mut timers: Vec<_> = clock.timers.iter().collect();
        timers.sort_by_key(|&(&id, &(deadline, _))| (deadline, id));
        let (_, (deadline, waiter)) = timers.get(nth)?;
        let (deadline, waiter) = (*deadline, waiter.clone());
        clock.now = clock.now.max(deadline);
        Some(waiter)
    });
    match waiter {
        Some(Waiter::Condvar(condvar)) => condvar.notify_all(),
        Some(Waiter::Thread(thread)) => thread.unpark(),
        None => return false,
    }
    true
}

/// A wait with a timeout, for as long as this lives.
struct Timer(u64);

impl Timer {
    fn start(timeout: Duration, waiter: Waiter) -> Self {
        CLOCK.with(|clock| {
            let mut clock = clock.borrow_mut();
            let id = clock.next_id;
            clock.next_id += 1;
            let deadline = clock.now.saturating_add(timeout);
            clock.timers.insert(id, (deadline, waiter));
            Self(id)
        })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        CLOCK.with(|clock| clock.borrow_mut().timers.remove(&self.0));
    }
}

/// An instant of the virtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(CLOCK.with(|clock| clock.borrow().now))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(Arc::new(shuttle::sync::Condvar::new()))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// As the standard library's; nobody here asks why it returned.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let _timer = Timer::start(timeout, Waiter::Condvar(Arc::clone(&self.0)));
        match self.0.wait(guard) {
            Ok(guard) => Ok((guard, ())),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), ()))),
        }
    }
}

pub(crate) fn park_timeout(timeout: Duration) {
    let _timer = Timer::start(timeout, Waiter::Thread(current_thread()));
    park();
}

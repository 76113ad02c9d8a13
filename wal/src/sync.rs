//! What the log waits with: locks, condition variables, threads and the clock, from one place, so that a build
//! with `--cfg watershed_shuttle` runs the same code under a scheduler that chooses every order. Counters that
//! nobody waits on, and reference counts, are the standard library's in both.
//!
//! Locking is without poisoning: a panic elsewhere must not turn every later call into a panic. The log's own
//! invariants do not rest on it; a panic while a frame is written poisons the *log*, not the lock.

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(not(watershed_shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{
        Builder as ThreadBuilder, JoinHandle, Thread, ThreadId, current as current_thread, park,
        park_timeout,
    },
    time::Instant,
};

#[cfg(watershed_shuttle)]
#[path = "sync/checked.rs"]
pub mod checked;
#[cfg(watershed_shuttle)]
pub(crate) use self::checked::{
    Condvar, Instant, JoinHandle, Mutex, MutexGuard, Thread, ThreadBuilder, ThreadId,
    current_thread, park, park_timeout,
};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait_for<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
) -> MutexGuard<'a, T> {
    condvar
        .wait_timeout(guard, timeout)
        .unwrap_or_else(PoisonError::into_inner)
        .0
}

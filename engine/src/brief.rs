//! Waiting on a thread for what comes within microseconds.
//!
//! Parking a thread and waking it costs more than a buffered write does. So this wait first gives the processor to others a
//! few times, which is where the write is being done when there are more writers than cores, and parks only then. A waker
//! that finds its thread not parked makes no call to the system. For what takes a sync, `pollster` is the better wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// How often the processor is given away before the thread parks.
const YIELDS: u32 = 32;

const WAITING: u8 = 0;
const PARKED: u8 = 1;
const WOKEN: u8 = 2;

struct Signal {
    state: AtomicU8,
    thread: Thread,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == PARKED {
            self.thread.unpark();
        }
    }
}

impl Signal {
    /// Returns once it was woken; what was woken before counts.
    fn wait(&self) {
        for _ in 0..YIELDS {
            if self.state.load(Ordering::Relaxed) == WOKEN {
                break;
            }
            thread::yield_now();
        }
        let parks =
            self.state
                .compare_exchange(WAITING, PARKED, Ordering::AcqRel, Ordering::Acquire);
        if parks.is_ok() {
            // A thread may return from parking for no reason.
            while self.state.load(Ordering::Acquire) != WOKEN {
                thread::park();
            }
        }
        // Not a mere store: a second wake that it replaces must have shown what it was for to the poll that follows.
        self.state.swap(WAITING, Ordering::AcqRel);
    }
}

/// What `future` gives, waited for on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    // Most are ready at once, and need no signal. Who is not is asked again below, with one: the last waker counts.
    let mut unheard = Context::from_waker(Waker::noop());
    if let Poll::Ready(result) = future.as_mut().poll(&mut unheard) {
        return result;
    }
    let signal = Arc::new(Signal {
        state: AtomicU8::new(WAITING),
        thread: thread::current(),
    });
    let waker = Waker::from(signal.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        signal.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn gives_what_is_ready_and_what_comes_at_once_or_late() {
        assert_eq!(block_on(async { 7 }), 7);
        for delay in [Duration::ZERO, Duration::from_millis(20)] {
            let (sender, receiver) = oneshot::channel();
            let other = thread::spawn(move || {
                thread::sleep(delay);
                sender.send(9).unwrap();
            });
            assert_eq!(block_on(receiver), Ok(9));
            other.join().unwrap();
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_each_time() {
        let mut left = 1000;
        let counts = std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        });
        block_on(counts);
    }

    #[test]
    fn no_wake_is_lost_between_two_threads() {
        let (there, mut from_here) = tokio::sync::mpsc::channel::<u32>(1);
        let (back, mut from_there) = tokio::sync::mpsc::channel::<u32>(1);
        let other = thread::spawn(move || {
            while let Some(number) = block_on(from_here.recv()) {
                block_on(back.send(number)).unwrap();
            }
        });
        for number in 0..20_000 {
            block_on(there.send(number)).unwrap();
            assert_eq!(block_on(from_there.recv()), Some(number));
        }
        drop(there);
        other.join().unwrap();
    }
}

//! The client's side of writes that happen once (rule 17): a session in each shard that it writes to, and a number for
//! each write, kept until nobody will send that write again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use watershed_migration::SessionId;
use watershed_migration::messages::SessionMark;
use watershed_wal::{InstanceId, ShardId};

use crate::sync::lock;

/// The sessions of one client.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<ShardId, Arc<Session>>>,
    /// One opening at a time: the others wait for what it gives.
    pub(super) opening: tokio::sync::Mutex<()>,
}

/// A session that its shard has opened.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    /// How far the numbers may go beyond what is settled.
    window: u64,
    numbers: Mutex<Numbers>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    /// Those that may still be sent.
    open: BTreeSet<u64>,
}

impl Numbers {
    /// All up to it are settled.
    fn low_water(&self) -> u64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }
}

/// A write's number. Dropped, the write is settled: it is not sent again.
#[derive(Debug)]
pub(super) struct Ticket {
    session: Arc<Session>,
    number: u64,
}

impl Sessions {
    pub(super) fn of(&self, shard: ShardId) -> Option<Arc<Session>> {
        lock(&self.open).get(&shard).cloned()
    }

    pub(super) fn opened(&self, shard: ShardId, id: SessionId, window: u32) -> Arc<Session> {
        let session = Arc::new(Session {
            id,
            window: u64::from(window.max(1)),
            numbers: Mutex::default(),
            settled: Notify::new(),
        });
        lock(&self.open).insert(shard, session.clone());
        session
    }

    /// Forgets a session that its shard does not know any more.
    pub(super) fn forget(&self, shard: ShardId, gone: SessionId) {
        let mut open = lock(&self.open);
        if open.get(&shard).is_some_and(|known| known.id == gone) {
            open.remove(&shard);
        }
    }
}

/// An id that no other client has.
pub(super) fn new_id() -> SessionId {
    SessionId(InstanceId::random().0)
}

impl Session {
    /// The next number, once there is room for it in the window.
    pub(super) async fn take(self: &Arc<Self>) -> Ticket {
        loop {
            let changed = self.settled.notified();
            {
                let mut numbers = lock(&self.numbers);
                if numbers.last - numbers.low_water() < self.window {
                    numbers.last += 1;
                    let number = numbers.last;
                    numbers.open.insert(number);
                    drop(numbers);
                    return Ticket {
                        session: self.clone(),
                        number,
                    };
                }
            }
            changed.await;
        }
    }
}

impl Ticket {
    /// What is sent with the write, each time.
    pub(super) fn mark(&self) -> SessionMark {
        SessionMark {
            session: self.session.id,
            number: self.number,
            low_water: lock(&self.session.numbers).low_water(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.session.numbers).open.remove(&self.number);
        self.session.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(window: u32) -> Arc<Session> {
        Sessions::default().opened(ShardId(0), new_id(), window)
    }

    #[test]
    fn the_low_water_mark_stays_below_every_write_that_may_be_sent_again() {
        let session = session(8);
        let take = || pollster::block_on(session.take());
        let (first, second, third) = (take(), take(), take());
        let low = |ticket: &Ticket| ticket.mark().low_water;
        assert_eq!((first.mark().number, third.mark().number), (1, 3));
        assert_eq!(low(&third), 0);
        drop(second);
        assert_eq!(low(&third), 0, "the first may be sent again");
        drop(first);
        assert_eq!(low(&third), 2);
        drop(third);
        assert_eq!(low(&take()), 3);
    }

    #[test]
    fn numbers_wait_for_room_in_the_window() {
        let session = session(2);
        let first = pollster::block_on(session.take());
        drop(pollster::block_on(session.take()));
        // Numbers count from what is settled: the second is, and the first is not.
        let waiting = std::thread::spawn({
            let session = session.clone();
            move || pollster::block_on(session.take()).mark().number
        });
        std::thread::yield_now();
        assert_eq!(lock(&session.numbers).last, 2);
        drop(first);
        assert_eq!(waiting.join().unwrap(), 3);
    }
}

//! The checks check: each kind of mistake, planted in a toy, is found. A scheduler that explores nothing, or a timer
//! that heals what it should not, fails here.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;
use watershed_wal::StorageFile;
use watershed_wal::mem::MemStorage;

use crate::disk::Disk;
use crate::sim::{Sim, Timers, check_some};
use watershed_wal::Storage;

/// Schedules for each toy, whatever the environment says.
const MANY: usize = 600;

fn finds(timers: Timers, toy: impl Fn(&Sim) + Send + Sync + 'static) -> String {
    let found = catch_unwind(AssertUnwindSafe(|| check_some(timers, MANY, toy)));
    let panic = found.expect_err("the mistake was not found");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default()
}

/// A consumer that looks, lets go of the lock, and sleeps: what comes between is lost.
fn lost_wake_up(_: &Sim) {
    let queue = Arc::new((Mutex::new(0), Condvar::new()));
    let producer = thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            *queue.0.lock().unwrap() += 1;
            queue.1.notify_one();
        }
    });
    let is_empty = *queue.0.lock().unwrap() == 0;
    if is_empty {
        let guard = queue.0.lock().unwrap();
        drop(queue.1.wait(guard).unwrap());
    }
    producer.join().unwrap();
}

#[test]
fn a_lost_wake_up_is_found() {
    let text = finds(Timers::Never, lost_wake_up);
    assert!(text.contains("stuck"), "{text}");
    let text = finds(Timers::AnyTime, lost_wake_up);
    assert!(text.contains("stuck"), "{text}");
}

/// The same with a parked thread that nobody wakes where it came too late to say that it waits.
fn lost_unpark(_: &Sim) {
    let waiting: Arc<Mutex<Option<thread::Thread>>> = Arc::default();
    let waker = thread::spawn({
        let waiting = Arc::clone(&waiting);
        move || {
            let sleeper = waiting.lock().unwrap().take();
            if let Some(sleeper) = sleeper {
                sleeper.unpark();
            }
        }
    });
    *waiting.lock().unwrap() = Some(thread::current());
    while waiting.lock().unwrap().is_some() {
        thread::park();
    }
    waker.join().unwrap();
}

#[test]
fn a_thread_that_nobody_unparks_is_found() {
    let text = finds(Timers::Never, lost_unpark);
    assert!(text.contains("stuck"), "{text}");
}

/// Says that a write is durable before it was synced.
fn told_too_early(_: &Sim) {
    let disk = Disk::default();
    let file: Arc<dyn StorageFile> = disk.create("toy", 8).unwrap();
    disk.sync_dir().unwrap();
    let told = Arc::new(Mutex::new(false));
    let writer = thread::spawn({
        let told = Arc::clone(&told);
        move || {
            file.write_at(0, b"written").unwrap();
            *told.lock().unwrap() = true;
            file.sync().unwrap();
        }
    });
    if *told.lock().unwrap() {
        let left: Arc<MemStorage> = disk.durable();
        assert!(
            left.contents("toy").unwrap().starts_with(b"written"),
            "acknowledged, and lost"
        );
    }
    writer.join().unwrap();
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    let text = finds(Timers::Never, told_too_early);
    assert!(text.contains("acknowledged, and lost"), "{text}");
}

#[test]
fn two_threads_that_write_one_file_are_found() {
    let text = finds(Timers::Never, |_| {
        let disk = Disk::default();
        let file = disk.create("toy", 8).unwrap();
        let other = Arc::clone(&file);
        let beside = thread::spawn(move || other.write_at(0, b"a").unwrap());
        file.write_at(4, b"b").unwrap();
        beside.join().unwrap();
    });
    assert!(text.contains("two threads write one file"), "{text}");
}

/// Three threads that note their order: all six come up, so schedules really differ.
#[test]
fn every_order_comes_up() {
    let orders = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&orders);
    check_some(Timers::Never, MANY, move |_| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let order = Arc::clone(&order);
                thread::spawn(move || order.lock().unwrap().push(number))
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        seen.lock().unwrap().insert(order.lock().unwrap().clone());
    });
    assert_eq!(orders.lock().unwrap().len(), 6);
}

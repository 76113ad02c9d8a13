//! A log on a [`Disk`] with one instance, and an account of what its writers were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};
use watershed_wal::mem::MemStorage;
use watershed_wal::{
    CommitSink, Committed, Completion, Durability, Epoch, Inline, InstanceId, InstanceLog, Log,
    LogError, LogOptions, LogView, Record, RecordKind, Seq, SeqRange, ShardId, Term,
};

use crate::disk::Disk;
use crate::sim::Sim;

pub(crate) const ID: InstanceId = InstanceId(7);
pub(crate) const TERM: Term = Term::new(Epoch(1), 1);

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        limit_bytes: 1 << 20,
        buffered_sync_every: Duration::from_millis(200),
        recent_bytes: 1 << 20,
        compress_from_bytes: usize::MAX,
        ..LogOptions::default()
    }
}

/// How a writer goes on once it has submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Commits its lead, if it gets one.
    Lead,
    DropLead,
    LeakLead,
    /// Has the log thread commit, and blocks.
    Block,
    /// Has the log thread commit, and polls.
    Await,
    /// Appends it, where it may, and else commits its lead.
    Direct,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) log: Log,
    pub(crate) shard: InstanceLog,
    told: Arc<Mutex<Told>>,
}

/// What the writers know.
#[derive(Clone, Default)]
struct Told {
    submitted: BTreeMap<Seq, Bytes>,
    acknowledged: BTreeMap<Seq, Durability>,
}

impl World {
    /// A log with a receiver's instance.
    pub(crate) fn receiver(sim: &Sim, options: LogOptions) -> Self {
        let disk = Disk::default();
        let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
        sim.watch(log.audit());
        let shard = log.host(ShardId(1), ID, Seq::ZERO, Vec::new()).unwrap();
        Self {
            disk,
            log,
            shard,
            told: Arc::default(),
        }
    }

    /// A log with an owner's instance: its start record has Seq 1.
    pub(crate) fn owner(sim: &Sim, options: LogOptions) -> Self {
        let world = Self::receiver(sim, options);
        let started = world.shard.start_term(TERM, Seq::ZERO).unwrap();
        assert_eq!(started.wait().unwrap(), Seq(1));
        world
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || run(&world))
    }

    /// Queues a write; gives what resolves when it is committed.
    pub(crate) fn submit(
        &self,
        body: &Bytes,
        durability: Durability,
        how: How,
    ) -> Result<Waiting, LogError> {
        let inline = match how {
            How::Block | How::Await => Inline::Never,
            _ => Inline::Allowed,
        };
        let submitted = match how {
            How::Direct => self.shard.append(RecordKind::Batch, body.clone())?.into(),
            _ => self
                .shard
                .submit(RecordKind::Batch, body.clone(), durability, inline)?,
        };
        let seq = submitted.seq;
        let before = lock(&self.told).submitted.insert(seq, body.clone());
        assert_eq!(before, None, "two writes got {seq:?}");
        match (how, submitted.lead) {
            (How::Lead | How::Direct, Some(lead)) => lead.commit(),
            (How::LeakLead, lead) => std::mem::forget(lead),
            (_, lead) => drop(lead),
        }
        let done = submitted.done;
        let body = body.clone();
        Ok(Waiting {
            seq,
            body,
            durability,
            how,
            done,
        })
    }

    /// Writes, waits, and checks at once what was promised.
    pub(crate) fn write(
        &self,
        body: impl Into<Bytes>,
        durability: Durability,
        how: How,
    ) -> Result<Seq, LogError> {
        let waiting = self.submit(&body.into(), durability, how)?;
        self.settle(waiting)
    }

    pub(crate) fn settle(&self, waiting: Waiting) -> Result<Seq, LogError> {
        let Waiting {
            seq,
            body,
            durability,
            how,
            done,
        } = waiting;
        match how {
            How::Await => block_on(done)?,
            _ => done.wait()?,
        }
        // What is durable or written now was so before: nothing takes it back.
        self.expect(seq, &body, durability);
        lock(&self.told).acknowledged.insert(seq, durability);
        Ok(seq)
    }

    pub(crate) fn expect(&self, seq: Seq, body: &Bytes, durability: Durability) {
        let (left, what) = match durability {
            Durability::Sync => (self.disk.durable(), "durable"),
            Durability::Buffered => (self.disk.live(), "written"),
        };
        // What was flushed may be gone.
        if seq <= self.shard.flushed() {
            return;
        }
        let found = find(&left, seq);
        assert_eq!(
            found.as_ref(),
            Some(body),
            "{seq:?} was acknowledged, and is not {what}"
        );
    }

    /// Closes the log, and reads it back: what was acknowledged is there, in order and once, and nothing that
    /// nobody submitted. `true`: the log failed, so what was buffered may be lost.
    pub(crate) fn finish(&self, failed: bool) {
        let closed = self.log.close();
        assert_eq!(closed.is_err(), failed, "closing gave {closed:?}");
        // A copy: its lock is held across no point where others may run.
        let told = lock(&self.told).clone();
        let flushed = self.shard.flushed();
        let (view, _) = LogView::open(self.disk.durable()).unwrap();
        let instance = view.instances().into_iter().find(|i| i.id == ID).unwrap();
        for (&seq, &durability) in told.acknowledged.range(flushed.next()..) {
            let lost = !instance.has.contains(seq) && (durability == Durability::Sync || !failed);
            assert!(!lost, "{seq:?} was acknowledged, and is lost");
        }
        let Some(range) =
            SeqRange::after(flushed.max(instance.flushed), instance.has.max().unwrap())
        else {
            return;
        };
        let mut last = range.first().0 - 1;
        for record in view.read(ID, range) {
            let record = record.unwrap();
            assert_eq!(record.seq().0, last + 1, "not in order, or not once");
            last = record.seq().0;
            if record.kind() == RecordKind::Batch {
                assert_eq!(Some(record.body()), told.submitted.get(&record.seq()));
            }
        }
    }
}

/// A write that is under way.
pub(crate) struct Waiting {
    pub(crate) seq: Seq,
    body: Bytes,
    durability: Durability,
    how: How,
    pub(crate) done: Completion,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of a record in what is left of a log.
pub(crate) fn find(left: &Arc<MemStorage>, seq: Seq) -> Option<Bytes> {
    let (view, _) = LogView::open(Arc::<MemStorage>::clone(left)).unwrap();
    let mut records = view.read(ID, SeqRange::single(seq));
    Some(records.next()?.ok()?.body().clone())
}

/// Takes the records of the one instance, and checks that they come as a sink is promised.
pub(crate) struct Taker {
    disk: Disk,
    /// The next that is announced, and the next that is committed.
    announced: AtomicUsize,
    next: AtomicUsize,
    is_taking: AtomicBool,
    has_panicked: AtomicBool,
    pub(crate) given_behind_panic: AtomicUsize,
    panics_at: Option<Seq>,
    pub(crate) failures: AtomicUsize,
}

impl Taker {
    /// Takes what the instance commits from now on; panics when it is given `panics_at`.
    pub(crate) fn set(world: &World, panics_at: Option<Seq>) -> Arc<Self> {
        let next = usize::try_from(world.shard.watermarks().assigned.next().0).unwrap();
        let taker = Arc::new(Self {
            disk: world.disk.clone(),
            announced: AtomicUsize::new(next),
            next: AtomicUsize::new(next),
            is_taking: AtomicBool::new(false),
            has_panicked: AtomicBool::new(false),
            given_behind_panic: AtomicUsize::new(0),
            panics_at,
            failures: AtomicUsize::new(0),
        });
        world
            .shard
            .set_sink(Some(Arc::clone(&taker) as Arc<dyn CommitSink>));
        taker
    }

    /// How many records it was given up to here, those before it was set counted.
    pub(crate) fn taken(&self) -> usize {
        self.next.load(Ordering::SeqCst) - 1
    }
}

impl CommitSink for Taker {
    fn appended(&self, records: &[Record], _inline: bool) {
        let left = self.disk.live();
        for record in records {
            let next = self.announced.fetch_add(1, Ordering::SeqCst);
            assert_eq!(
                record.seq(),
                Seq(next as u64),
                "announced not in order, or not once"
            );
            assert_eq!(
                find(&left, record.seq()).as_ref(),
                Some(record.body()),
                "announced before it was written"
            );
        }
    }

    fn committed(&self, batch: Vec<Committed>, _inline: bool) {
        if self.has_panicked.load(Ordering::SeqCst) {
            // A panic here would be caught as the first one was.
            self.given_behind_panic.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let others = self.is_taking.swap(true, Ordering::SeqCst);
        assert!(!others, "two threads deliver to one sink");
        let is_durable = batch.iter().any(|one| one.durability == Durability::Sync);
        let left = if is_durable {
            self.disk.durable()
        } else {
            self.disk.live()
        };
        for one in batch {
            let seq = one.record.seq();
            let next = self.next.fetch_add(1, Ordering::SeqCst);
            assert_eq!(seq, Seq(next as u64), "not in order, or not once");
            assert!(
                next < self.announced.load(Ordering::SeqCst),
                "{seq:?} was not announced"
            );
            assert_eq!(
                find(&left, seq).as_ref(),
                Some(one.record.body()),
                "{seq:?} came too early"
            );
            if self.panics_at == Some(seq) {
                self.has_panicked.store(true, Ordering::SeqCst);
                self.is_taking.store(false, Ordering::SeqCst);
                // Others commit meanwhile, and queue what they committed behind it.
                (0..100).for_each(|_| thread::yield_now());
                // Not `panic!`: its hook would take it for the check's own failure.
                std::panic::resume_unwind(Box::new("planned"));
            }
            one.done.complete(Ok(()));
        }
        self.is_taking.store(false, Ordering::SeqCst);
    }

    fn failed(&self, _error: &LogError) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn join_all<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

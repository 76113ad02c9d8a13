//! A disk in memory that the scheduler may stop anywhere: every call begins and ends apart, so that others run
//! while it is under way, and what is durable changes only where a sync ends. It fails where it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shuttle::sync::{Mutex, MutexGuard};
use watershed_wal::mem::MemStorage;
use watershed_wal::{Storage, StorageFile, checked};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Write,
    Sync,
    Remove,
}

#[derive(Debug, Default)]
struct Image {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Somebody writes, or syncs, it now: the log promises one thread at a time of each.
    writing: bool,
    syncing: bool,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<String, Arc<Mutex<Image>>>,
    durable: BTreeMap<String, Arc<Mutex<Image>>>,
    /// Calls of this kind still to succeed, before one fails like this. It fails once.
    fault: Option<(Op, u64, io::ErrorKind)>,
    /// Virtual time that a sync takes.
    sync_takes: Duration,
    capacity: Option<u64>,
    syncs: u64,
}

/// Without poisoning: a sink's planned panic unwinds beside others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// After `successes` more calls of this kind one fails.
    pub(crate) fn fail(&self, op: Op, successes: u64, kind: io::ErrorKind) {
        lock(&self.0).fault = Some((op, successes, kind));
    }

    pub(crate) fn syncs_take(&self, time: Duration) {
        lock(&self.0).sync_takes = time;
    }

    pub(crate) fn set_capacity(&self, capacity: Option<u64>) {
        lock(&self.0).capacity = capacity;
    }

    /// What a power loss now would leave at the least.
    pub(crate) fn durable(&self) -> Arc<MemStorage> {
        let copy = MemStorage::new();
        let state = lock(&self.0);
        for (name, image) in &state.durable {
            copy.put_file(name, lock(image).durable.clone());
        }
        Arc::new(copy)
    }

    /// What the death of the process now would leave.
    pub(crate) fn live(&self) -> Arc<MemStorage> {
        let copy = MemStorage::new();
        let state = lock(&self.0);
        for (name, image) in &state.live {
            copy.put_file(name, lock(image).live.clone());
        }
        Arc::new(copy)
    }

    fn enter(&self, op: Op) -> io::Result<Duration> {
        let mut state = lock(&self.0);
        state.syncs += u64::from(op == Op::Sync);
        if let Some((on, left, kind)) = &mut state.fault
            && *on == op
        {
            if *left == 0 {
                let error = io::Error::new(*kind, "a planned failure");
                state.fault = None;
                return Err(error);
            }
            *left -= 1;
        }
        Ok(state.sync_takes)
    }

    fn file(&self, image: Arc<Mutex<Image>>) -> Arc<dyn StorageFile> {
        let disk = self.clone();
        Arc::new(File { disk, image })
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name.to_owned())
}

impl Storage for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).live.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.enter(Op::Create)?;
        let zeros = vec![0; usize::try_from(len).unwrap()];
        let image = Arc::new(Mutex::new(Image {
            live: zeros.clone(),
            durable: zeros,
            writing: false,
            syncing: false,
        }));
        let mut state = lock(&self.0);
        if state.live.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let images = state.live.values();
        let used: usize = images.map(|image| lock(image).live.len()).sum();
        if state.capacity.is_some_and(|most| used as u64 + len > most) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        state.live.insert(name.to_owned(), Arc::clone(&image));
        drop(state);
        Ok(self.file(image))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let image = lock(&self.0).live.get(name).cloned();
        Ok(self.file(image.ok_or_else(|| not_found(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.0);
        let image = state.live.remove(from).ok_or_else(|| not_found(from))?;
        state.live.insert(to.to_owned(), image);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.enter(Op::Remove)?;
        let removed = lock(&self.0).live.remove(name);
        removed.map(drop).ok_or_else(|| not_found(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.durable = state.live.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

#[derive(Debug)]
struct File {
    disk: Disk,
    image: Arc<Mutex<Image>>,
}

impl File {
    /// The call is under way until its flag is taken back; it may fail only before it has done anything.
    fn begin(&self, op: Op, is_busy: fn(&mut Image) -> &mut bool) -> io::Result<Duration> {
        let before = std::mem::replace(is_busy(&mut lock(&self.image)), true);
        let what = if op == Op::Write { "write" } else { "sync" };
        assert!(!before, "two threads {what} one file at a time");
        let entered = self.disk.enter(op);
        if entered.is_err() {
            *is_busy(&mut lock(&self.image)) = false;
        }
        entered
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.image).live.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let image = lock(&self.image);
        let from = usize::try_from(offset).unwrap().min(image.live.len());
        let count = buf.len().min(image.live.len() - from);
        buf[..count].copy_from_slice(&image.live[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.begin(Op::Write, |image| &mut image.writing)?;
        let mut image = lock(&self.image);
        let from = usize::try_from(offset).unwrap();
        let end = from + data.len();
        let len = image.live.len().max(end);
        image.live.resize(len, 0);
        image.live[from..end].copy_from_slice(data);
        image.writing = false;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let takes = self.begin(Op::Sync, |image| &mut image.syncing)?;
        // What is written beside it may stay out.
        let covered = lock(&self.image).live.clone();
        checked::advance(takes);
        let mut image = lock(&self.image);
        image.durable = covered;
        image.syncing = false;
        Ok(())
    }
}

//! A storage in memory that crashes, fails and rots on demand: what the log's crash tests and fuzz targets run on.
//!
//! It keeps two images of every file and of the directory. The *live* one is what reads see; the *durable* one
//! is what a power loss leaves. [`MemStorage::crash`] ends the storage and gives a fresh one with what
//! survived, by a [`Survival`]:
//!
//! - a synced write always survives; an unsynced one sector by sector (512 bytes), each in any of the states it
//!   had since its last sync;
//! - a name made, changed or removed before the last `sync_dir` survives; of the later changes any subset does,
//!   so a removed file may be back and a renamed one may have its old name (never both, never neither);
//! - after a failed sync the kernel has marked the pages clean: a later sync that succeeds does not make those
//!   writes durable, unless they are written again.
//!
//! What fails when is an [`Injector`]: it can make calls fail, hang, or lie. It leaves out: sectors that are torn in
//! themselves, and rot of metadata.

mod every;
mod image;
mod inject;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub use self::every::EverySurvival;
pub use self::inject::{Fault, Injector, OpClass, ParseInjectorError, Rule, When};

use self::image::{FileImage, SplitMix};
use self::inject::{ActiveInjector, IoOp};
use crate::dir::check_name;
use crate::storage::{Storage, StorageFile};

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing: the least that was promised.
    None,
    /// Everything: as when only the process dies.
    All,
    /// Any subset, drawn from this seed.
    Seeded(u64),
}

/// The error of every call after a simulated power loss; see [`MemStorage::is_power_loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("simulated power loss")]
pub struct PowerLoss;

/// The storage. Clones share it.
#[derive(Clone, Default)]
pub struct MemStorage {
    state: Arc<Mutex<State>>,
    /// The injector was changed: who stalls goes on.
    resumed: Arc<Condvar>,
}

#[derive(Default)]
struct State {
    live: BTreeMap<String, SharedImage>,
    durable: BTreeMap<String, SharedImage>,
    /// Changes of `live` since the last `sync_dir`, in order.
    pending: Vec<DirChange>,
    injector: Option<ActiveInjector>,
    powered_off: bool,
    capacity: Option<u64>,
    io_count: u64,
    change_count: u64,
    fired: u64,
    /// Calls that hang.
    stalled: u64,
    /// Counts the injectors that were set.
    injectors: u64,
}

/// The state, and what the caller carries out.
type Entered<'a> = (MutexGuard<'a, State>, Option<Fault>);

/// Locked only while the state is, so that a crash sees one instant of everything.
type SharedImage = Arc<Mutex<FileImage>>;

#[derive(Clone)]
enum DirChange {
    Link {
        name: String,
        image: SharedImage,
        /// Which file lost this name by it.
        displaced: Option<SharedImage>,
    },
    Unlink {
        name: String,
        image: SharedImage,
    },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemStorage {
    /// An empty storage without faults or limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many calls there were so far (all but `len` and `free_bytes`, which no injector sees).
    #[must_use]
    pub fn io_count(&self) -> u64 {
        lock(&self.state).io_count
    }

    /// How many of them change something: create, write, sync, rename, remove, `sync_dir`.
    #[must_use]
    pub fn change_count(&self) -> u64 {
        lock(&self.state).change_count
    }

    /// How many faults the injectors have caused so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        lock(&self.state).fired
    }

    /// What fails from now on; its counters start at zero. Calls that stall go on.
    pub fn set_injector(&self, injector: Option<Injector>) {
        let mut state = lock(&self.state);
        state.injector = injector.map(ActiveInjector::new);
        state.injectors += 1;
        self.resumed.notify_all();
    }

    /// How many calls hang now, by a `stall` fault.
    #[must_use]
    pub fn stalled(&self) -> u64 {
        lock(&self.state).stalled
    }

    /// The bytes that files may take together; `None`, as at first, is no limit.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        lock(&self.state).capacity = capacity;
    }

    /// Whether the power is off: by a `crash` fault, or [`MemStorage::crash`].
    #[must_use]
    pub fn is_powered_off(&self) -> bool {
        lock(&self.state).powered_off
    }

    /// Whether an error is that of a call after the simulated power loss.
    #[must_use]
    pub fn is_power_loss(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<PowerLoss>())
    }

    /// Cuts the power, atomically: every later call on this storage fails, so nobody is promised anything more.
    /// Gives a fresh storage, without injector, holding what survived; the limit stays.
    #[must_use]
    pub fn crash(&self, survival: Survival) -> Self {
        let mut state = lock(&self.state);
        state.powered_off = true;
        self.resumed.notify_all();
        let mut random = match survival {
            Survival::Seeded(seed) => Some(SplitMix::new(seed)),
            Survival::None | Survival::All => None,
        };
        let names = match (&mut random, survival) {
            (Some(random), _) => {
                // Often all or none, as a journal would have it; else each for itself.
                let bias = random.pick_bias();
                state.surviving_names(|| random.chance(bias))
            }
            (None, Survival::All) => state.live.clone(),
            (None, _) => state.durable.clone(),
        };
        let mut survivor = State {
            capacity: state.capacity,
            ..State::default()
        };
        for (name, image) in names {
            let image = lock(&image);
            let left = match (&mut random, survival) {
                (Some(random), _) => image.surviving(random),
                (None, Survival::All) => image.live().to_vec(),
                (None, _) => image.durable(),
            };
            survivor.put(name, FileImage::synced(left));
        }
        Self {
            state: Arc::new(Mutex::new(survivor)),
            resumed: Arc::default(),
        }
    }

    /// Counts a call, decides its fate, and hangs where that is its fate.
    fn enter(&self, op: IoOp, names: &[&str]) -> io::Result<Entered<'_>> {
        let mut state = lock(&self.state);
        let fault = state.enter(op, names)?;
        if fault != Some(Fault::Stall) {
            return Ok((state, fault));
        }
        state.stalled += 1;
        let since = state.injectors;
        let mut state = self
            .resumed
            .wait_while(state, |state| {
                state.injectors == since && !state.powered_off
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.stalled -= 1;
        if state.powered_off {
            return Err(io::Error::other(PowerLoss));
        }
        Ok((state, None))
    }

    /// Flips bits of one byte on the medium: `xor` is applied to every image of it. No injector sees it.
    ///
    /// # Errors
    /// `NotFound` without such a file, `UnexpectedEof` beyond its end.
    pub fn corrupt(&self, name: &str, offset: u64, xor: u8) -> io::Result<()> {
        let state = lock(&self.state);
        let image = state.image(name)?;
        if !lock(&image).corrupt(offset, xor) {
            return Err(error(
                io::ErrorKind::UnexpectedEof,
                format!("{name} has no byte {offset}"),
            ));
        }
        Ok(())
    }

    /// The live contents of a file, past any injector; `None` without such a file.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let image = state.live.get(name)?;
        let contents = lock(image).live().to_vec();
        Some(contents)
    }

    /// The names on which the live and the durable directory differ: whether a `sync_dir` is missing.
    #[must_use]
    pub fn unsynced_names(&self) -> Vec<String> {
        let state = lock(&self.state);
        let names = state.live.keys().chain(state.durable.keys());
        let differs = |name: &&String| match (state.live.get(*name), state.durable.get(*name)) {
            (Some(live), Some(durable)) => !Arc::ptr_eq(live, durable),
            _ => true,
        };
        let differing: BTreeSet<_> = names.filter(differs).cloned().collect();
        differing.into_iter().collect()
    }

    /// Puts a file there, durable at once and past any injector: a prepared or damaged file.
    pub fn put_file(&self, name: &str, contents: Vec<u8>) {
        lock(&self.state).put(name.to_owned(), FileImage::synced(contents));
    }
}

impl fmt::Debug for MemStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("MemStorage")
            .field("files", &state.live.keys().collect::<Vec<_>>())
            .field("io_count", &state.io_count)
            .field("powered_off", &state.powered_off)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Counts a call and decides its fate; `Some` is a fault that the caller carries out.
    fn enter(&mut self, op: IoOp, names: &[&str]) -> io::Result<Option<Fault>> {
        if self.powered_off {
            return Err(io::Error::other(PowerLoss));
        }
        self.io_count += 1;
        self.change_count += u64::from(op.changes());
        let fault = self
            .injector
            .as_mut()
            .and_then(|injector| injector.decide(op, names));
        if let Some(fault) = fault {
            self.fired += 1;
            self.powered_off |= fault == Fault::Crash;
        }
        Ok(fault)
    }

    fn image(&self, name: &str) -> io::Result<SharedImage> {
        let image = self.live.get(name).cloned();
        image.ok_or_else(|| error(io::ErrorKind::NotFound, format!("there is no file {name}")))
    }

    fn put(&mut self, name: String, image: FileImage) {
        let image = Arc::new(Mutex::new(image));
        self.live.insert(name.clone(), Arc::clone(&image));
        self.durable.insert(name, image);
    }

    fn used(&self) -> u64 {
        self.live.values().map(|image| lock(image).len()).sum()
    }

    fn check_room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used().saturating_add(more) > capacity => Err(full()),
            _ => Ok(()),
        }
    }

    fn link(&mut self, name: &str, image: SharedImage) {
        self.live.retain(|_, other| !Arc::ptr_eq(other, &image));
        let displaced = self.live.insert(name.to_owned(), Arc::clone(&image));
        self.pending.push(DirChange::Link {
            name: name.to_owned(),
            image,
            displaced,
        });
    }

    /// The durable names with those of the pending changes that `survives` says, asked in their order.
    fn surviving_names(&self, mut survives: impl FnMut() -> bool) -> BTreeMap<String, SharedImage> {
        let mut names = self.durable.clone();
        for change in &self.pending {
            if !survives() {
                continue;
            }
            // A change takes a name only from the file it took it from: without this, a lost earlier change
            // could make a file vanish that no change removed.
            let (name, may_go) = match change {
                DirChange::Link {
                    name, displaced, ..
                } => (name, displaced.as_ref()),
                DirChange::Unlink { name, image } => (name, Some(image)),
            };
            let holder = names.get(name);
            if holder.is_some_and(|holder| !may_go.is_some_and(|image| Arc::ptr_eq(holder, image)))
            {
                continue;
            }
            names.remove(name);
            if let DirChange::Link { name, image, .. } = change {
                names.retain(|_, other| !Arc::ptr_eq(other, image));
                names.insert(name.clone(), Arc::clone(image));
            }
        }
        names
    }
}

impl Storage for MemStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let (state, fault) = self.enter(IoOp::List, &[])?;
        fail_on(fault)?;
        Ok(state.live.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let (mut state, fault) = self.enter(IoOp::Create, &[name])?;
        if fault.is_some_and(|fault| fault != Fault::Crash && !fault.is_silent()) {
            fail_on(fault)?;
        }
        if state.live.contains_key(name) {
            return Err(error(
                io::ErrorKind::AlreadyExists,
                format!("there is a file {name} already"),
            ));
        }
        state.check_room(len)?;
        let zeros = vec![0; usize::try_from(len).map_err(|_| full())?];
        let image = Arc::new(Mutex::new(FileImage::synced(zeros)));
        state.link(name, Arc::clone(&image));
        fail_on(fault)?;
        Ok(self.handle(name, image))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        check_name(name)?;
        let (state, fault) = self.enter(IoOp::Open, &[name])?;
        fail_on(fault)?;
        let image = state.image(name)?;
        if lock(&image).is_claimed {
            let message = format!("{name} is about to become another file");
            return Err(error(io::ErrorKind::ResourceBusy, message));
        }
        Ok(self.handle(name, image))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from).and_then(|()| check_name(to))?;
        let (mut state, fault) = self.enter(IoOp::Rename, &[from, to])?;
        if fault.is_some_and(|fault| fault != Fault::Crash && !fault.is_silent()) {
            fail_on(fault)?;
        }
        let image = state.image(from)?;
        if from != to {
            state.link(to, image);
        }
        fail_on(fault)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let (mut state, fault) = self.enter(IoOp::Remove, &[name])?;
        if fault.is_some_and(|fault| fault != Fault::Crash && !fault.is_silent()) {
            fail_on(fault)?;
        }
        let image = state.image(name)?;
        state.live.remove(name);
        state.pending.push(DirChange::Unlink {
            name: name.to_owned(),
            image,
        });
        fail_on(fault)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let (mut state, fault) = self.enter(IoOp::SyncDir, &[])?;
        fail_on(fault)?;
        if fault == Some(Fault::Lost) {
            return Ok(());
        }
        state.durable = state.live.clone();
        state.pending.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let state = lock(&self.state);
        let used = state.used();
        Ok(state.capacity.map(|capacity| capacity.saturating_sub(used)))
    }
}

impl MemStorage {
    fn handle(&self, name: &str, image: SharedImage) -> Arc<dyn StorageFile> {
        lock(&image).handles += 1;
        Arc::new(MemFile {
            storage: self.clone(),
            opened_as: name.to_owned(),
            image,
        })
    }
}

/// An open file. The injector knows it by the name it has now, or had when it was opened.
struct MemFile {
    storage: MemStorage,
    opened_as: String,
    image: SharedImage,
}

impl MemFile {
    fn enter(&self, op: IoOp) -> io::Result<Entered<'_>> {
        let state = lock(&self.storage.state);
        let now = state
            .live
            .iter()
            .find(|(_, image)| Arc::ptr_eq(image, &self.image))
            .map_or_else(|| self.opened_as.clone(), |(name, _)| name.clone());
        drop(state);
        self.storage.enter(op, &[&now])
    }
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFile")
            .field("opened_as", &self.opened_as)
            .finish_non_exhaustive()
    }
}

impl StorageFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        let state = lock(&self.storage.state);
        if state.powered_off {
            return Err(io::Error::other(PowerLoss));
        }
        let len = lock(&self.image).len();
        Ok(len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (_state, fault) = self.enter(IoOp::Read)?;
        fail_on(fault)?;
        Ok(lock(&self.image).read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (state, fault) = self.enter(IoOp::Write)?;
        let written = match fault {
            None | Some(Fault::Crash | Fault::Misdirect | Fault::Stall) => data,
            Some(Fault::Short) => &data[..data.len() / 2],
            Some(Fault::Eio | Fault::Enospc | Fault::Lost) => &[],
        };
        let offset = match fault {
            Some(Fault::Misdirect) => astray(offset, data.len() as u64, lock(&self.image).len()),
            _ => offset,
        };
        let end = offset.checked_add(data.len() as u64).ok_or_else(full)?;
        let grows_by = end.saturating_sub(lock(&self.image).len());
        if grows_by > 0 {
            state.check_room(grows_by)?;
        }
        lock(&self.image).write(offset, written)?;
        fail_on(fault)
    }

    fn sync(&self) -> io::Result<()> {
        let (_state, fault) = self.enter(IoOp::Sync)?;
        let mut image = lock(&self.image);
        match fault {
            None | Some(Fault::Misdirect | Fault::Stall) => image.sync(),
            Some(Fault::Lost) => {}
            // What the device got before the power went is the survival's to say.
            Some(Fault::Crash) => {}
            Some(_) => image.fail_sync(),
        }
        fail_on(fault)
    }

    fn claim(&self) -> io::Result<bool> {
        let state = lock(&self.storage.state);
        if state.powered_off {
            return Err(io::Error::other(PowerLoss));
        }
        let mut image = lock(&self.image);
        image.is_claimed |= image.handles == 1;
        Ok(image.is_claimed)
    }

    fn unclaim(&self) -> io::Result<()> {
        let _state = lock(&self.storage.state);
        lock(&self.image).is_claimed = false;
        Ok(())
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut image = lock(&self.image);
        image.handles -= 1;
        // The claim was this handle's, if there was one: it was the only one.
        image.is_claimed &= image.handles > 0;
    }
}

/// Where a misdirected write of `len` bytes goes: a block on, or where the file ends before that, a block back.
fn astray(offset: u64, len: u64, file_len: u64) -> u64 {
    const BLOCK: u64 = 4096;
    if offset.saturating_add(len).saturating_add(BLOCK) <= file_len {
        offset + BLOCK
    } else {
        offset.saturating_sub(BLOCK)
    }
}

/// The error of a fault.
fn fail_on(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None | Some(Fault::Lost | Fault::Misdirect | Fault::Stall) => Ok(()),
        Some(Fault::Crash) => Err(io::Error::other(PowerLoss)),
        Some(Fault::Eio) => Err(io::Error::other("injected I/O error")),
        Some(Fault::Enospc) => Err(full()),
        Some(Fault::Short) => Err(error(
            io::ErrorKind::WriteZero,
            "injected short transfer".to_owned(),
        )),
    }
}

fn full() -> io::Error {
    error(
        io::ErrorKind::StorageFull,
        "no room left on the storage".to_owned(),
    )
}

fn error(kind: io::ErrorKind, message: String) -> io::Error {
    io::Error::new(kind, message)
}

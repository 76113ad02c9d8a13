//! Files of removed segments, kept to be filled again.
//!
//! A fresh segment is filled with zeros before it is used, so that a log made of fresh ones writes everything twice. A
//! file that was filled once has its room already; only what stands in it must never count again. It goes these steps,
//! each durable before the next begins, so that a crash leaves one of the names below, with what belongs to it:
//!
//! 1. `<old>.seg`, in use, until the note that it may go is durable.
//! 2. `<old>.recycled`: waits. Opening the log removes it, as it counts for nothing.
//! 3. `<old>.recycled`, a *mark* in place of its head: it names the new segment and this opening's nonce.
//! 4. `<new>.seg`: a spare (R8). The segment's head takes the place of the mark, and says that the file is recycled.
//!
//! Nothing of an earlier life passes for the new one: each frame names its segment, and a segment's id is greater than
//! all before it; what a record's body makes look like a frame of the new segment lacks the nonce.
//!
//! A file that anybody else has open, here or in another process, is removed instead: who reads it may read on.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::core::Core;
use super::room::Spare;
use super::scan::{is_recycled_name, recycled_name, segment_name};
use super::state::{Segment, State};
use crate::format::frame::{BLOCK, HEADER, Header};
use crate::storage::{Storage, StorageFile};
use crate::sync::MutexGuard;

/// A file that waits; it is claimed.
#[derive(Debug)]
pub(crate) struct Recycled {
    name: String,
    file: Arc<dyn StorageFile>,
    pub(crate) len: u64,
}

impl Core {
    /// How many more files may wait. A flush frees all segments behind it at once, and they are used again one by one:
    /// so up to half of the limit, in what is left of it.
    pub(super) fn may_wait(&self, state: &State) -> u64 {
        let limit = self.options.limit_bytes;
        let of_half = (limit / 2).saturating_sub(state.recycled_bytes());
        let of_all = limit.saturating_sub(state.file_bytes());
        of_half.min(of_all) / u64::from(self.options.segment_bytes)
    }

    /// Takes the names of segments that are not needed any more; gives up to `most` of their files, to be filled again.
    pub(super) fn retire(&self, gone: BTreeMap<u64, Segment>, most: u64) -> Vec<Recycled> {
        let mut left = most;
        let mut kept = Vec::new();
        for (id, segment) in gone {
            let is_usual = segment.len == u64::from(self.options.segment_bytes);
            let recycled = (is_usual && left > 0).then(|| self.set_aside(id, segment));
            match recycled.flatten() {
                Some(recycled) => {
                    left -= 1;
                    kept.push(recycled);
                }
                None => self.remove_segment(id),
            }
        }
        if kept.is_empty() {
            return kept;
        }
        // Were a new mark durable and the old name back, the log would find a segment without its head.
        if let Err(error) = self.storage.sync_dir() {
            tracing::warn!(%error, "files of log segments can't be recycled");
            kept.drain(..)
                .for_each(|recycled| self.remove_recycled(&recycled));
        }
        kept
    }

    fn set_aside(&self, id: u64, mut segment: Segment) -> Option<Recycled> {
        // No reader of this process, and none of another, has it open; and none gets it from now on.
        let is_alone = Arc::get_mut(&mut segment.file).is_some() && segment.file.claim().ok()?;
        if !is_alone {
            return None;
        }
        let name = recycled_name(id);
        self.storage.rename(&segment_name(id), &name).ok()?;
        Some(Recycled {
            name,
            file: segment.file,
            len: segment.len,
        })
    }

    /// Makes a spare of a file that waits. `nonce`: of this opening. After an error the file is gone.
    pub(super) fn use_again(&self, recycled: Recycled, id: u64, nonce: u64) -> io::Result<Spare> {
        let done = self.give_name(&recycled, id, nonce);
        if done.is_err() {
            self.remove_recycled(&recycled);
            self.remove_segment(id);
        }
        done.map(|()| Spare {
            id,
            file: recycled.file,
            len: recycled.len,
            is_recycled: true,
        })
    }

    fn give_name(&self, recycled: &Recycled, id: u64, nonce: u64) -> io::Result<()> {
        let mut block = [0; BLOCK as usize];
        block[..HEADER].copy_from_slice(&Header::mark(id, nonce).encode().0);
        recycled.file.write_at(0, &block)?;
        recycled.file.sync()?;
        // Nobody opens it by the name that it still has; by the next one anybody may.
        recycled.file.unclaim()?;
        self.storage.rename(&recycled.name, &segment_name(id))?;
        self.storage.sync_dir()?;
        recycled.file.begin_puts();
        Ok(())
    }

    /// Removes a file that waits, for the room it takes.
    pub(super) fn give_up<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        recycled: Recycled,
    ) -> MutexGuard<'a, State> {
        drop(state);
        self.remove_recycled(&recycled);
        self.lock()
    }

    fn remove_recycled(&self, recycled: &Recycled) {
        match self.storage.remove(&recycled.name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = recycled.name, %error, "a recycled file could not be removed");
            }
            _ => {}
        }
    }
}

impl State {
    /// Bytes of files that wait to be filled again.
    pub(crate) fn recycled_bytes(&self) -> u64 {
        self.room.recycled.iter().map(|file| file.len).sum()
    }
}

/// Removes the files that an opening before this one kept. Gives the name of one that can't be removed.
pub(super) fn remove_leftover(storage: &dyn Storage) -> Result<(), (String, io::Error)> {
    let names = storage.list().map_err(|error| (".".to_owned(), error))?;
    for name in names.into_iter().filter(|name| is_recycled_name(name)) {
        match storage.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((name, error)),
            _ => {}
        }
    }
    Ok(())
}

//! Carrying a repair out: the damaged files aside, the fresh segment, the one rename that counts, the clearing up.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::RepairPlan;
use super::walk::{items, whole};
use crate::codec::len64;
use crate::error::OpenError;
use crate::format::frame::Position;
use crate::format::head::Head;
use crate::format::payload::{Item, PayloadWriter, Slot, Stored};
use crate::log::commit::{FrameKind, Writer};
use crate::log::core::Metrics;
use crate::log::keeper::is_full;
use crate::log::recover::{io_error, list_segments, recover};
use crate::log::recycle::remove_leftover;
use crate::log::room::Spare;
use crate::log::scan::{read_file, segment_name};
use crate::storage::{Storage, StorageFile};
use crate::words::InstanceId;

/// What the fresh segment is called until it counts.
const TEMPORARY: &str = "repair.tmp";
/// What says, among the files kept aside, why they are there.
const REPORT: &str = "repair.txt";

/// What a repair did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// The fresh segment.
    pub segment: u64,
    /// Records in it.
    pub records: u64,
    /// Segment files that were taken away, and are kept aside.
    pub removed: Vec<String>,
}

impl RepairPlan {
    /// Repairs the log: keeps the damaged files in `aside`, then makes the repaired log count, then takes away what
    /// it no longer needs. A crash at any point leaves the damaged log or the repaired one.
    ///
    /// `storage` must be as it was when the plan was made, and `aside` an empty directory on the same device.
    ///
    /// # Errors
    /// [`OpenError::Full`] where there is no room, before anything is changed; and what the device says. The log is
    /// the damaged one then, unless the error is of the clearing up, which the next opening repeats.
    pub fn apply(
        &self,
        storage: &Arc<dyn Storage>,
        aside: &dyn Storage,
    ) -> Result<RepairReport, OpenError> {
        // They hold nothing of the log, and their room may be what is missing.
        remove_leftover(&**storage).map_err(|(file, source)| OpenError::Io {
            op: "remove",
            file,
            source,
        })?;
        let needed = self.room_bytes();
        let free = storage
            .free_bytes()
            .map_err(failed("ask for the room of", "."))?;
        if free.is_some_and(|free| free < needed) {
            return Err(OpenError::Full { needed });
        }
        let ids = list_segments(&**storage)?;
        self.keep_aside(&**storage, aside)?;
        let records = self.write_segment(&**storage)?;
        self.check(storage)?;
        let name = segment_name(self.parts.id);
        // From here on the repaired log counts.
        storage
            .rename(TEMPORARY, &name)
            .and_then(|()| storage.sync_dir())
            .map_err(failed("rename", &name))?;
        let mut removed = Vec::new();
        for id in ids.into_iter().filter(|id| !self.parts.prefix.contains(id)) {
            let name = segment_name(id);
            storage.remove(&name).map_err(failed("remove", &name))?;
            removed.push(name);
        }
        storage.sync_dir().map_err(failed("sync", "."))?;
        Ok(RepairReport {
            segment: self.parts.id,
            records,
            removed,
        })
    }

    fn keep_aside(&self, storage: &dyn Storage, aside: &dyn Storage) -> Result<(), OpenError> {
        for kept in &self.kept_aside {
            let name = &kept.file;
            let bytes = storage
                .open(name)
                .and_then(|file| read_file(&*file))
                .map_err(failed("read", name))?;
            put(aside, name, &bytes).map_err(|error| self.full_or("keep", name, error))?;
        }
        put(aside, REPORT, self.to_string().as_bytes())
            .map_err(|error| self.full_or("write", REPORT, error))?;
        aside.sync_dir().map_err(failed("sync", "."))
    }

    /// Writes and syncs the fresh segment, under its temporary name; gives the records in it.
    fn write_segment(&self, storage: &dyn Storage) -> Result<u64, OpenError> {
        match storage.remove(TEMPORARY) {
            // What a repair left that was interrupted.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", TEMPORARY)(error));
            }
            _ => {}
        }
        let parts = &self.parts;
        let file = storage
            .create(TEMPORARY, self.segment_bytes)
            .map_err(|error| self.full_or("create", TEMPORARY, error))?;
        let synced = parts.stays.map_or(Position::default(), |stays| Position {
            segment: stays.segment,
            offset: stays.end,
        });
        let spare = Spare {
            id: parts.id,
            file: Arc::clone(&file),
            len: self.segment_bytes,
            is_recycled: false,
        };
        let mut writer = Writer {
            segment: parts.id,
            file,
            nonce: u64::try_from(InstanceId::random().0 >> 64).unwrap_or(parts.id),
            len: self.segment_bytes,
            end: 0,
            checksum: parts.stays.map_or(0, |stays| stays.checksum),
            synced,
            sealed: 0,
            dirty: false,
            is_recycled: false,
            buffer: Vec::new(),
        };
        let head = Head {
            file_len: self.segment_bytes,
            predecessor: parts.stays,
            first_segment: parts.prefix.first().copied().unwrap_or(parts.id),
            roster: parts.roster.clone(),
        };
        let failed = |reason: String| failed("write", TEMPORARY)(io::Error::other(reason));
        writer.start_segment(&spare, &head).map_err(failed)?;
        let records = self.copy_records(storage, &mut writer)?;
        let metrics = Metrics::default();
        writer
            .sync(&metrics)
            // Promises all before it, so that rot of it is told from a torn tail.
            .and_then(|()| {
                writer.write(FrameKind::Plain, 0, |out| {
                    drop(PayloadWriter::new(out, &[]))
                })
            })
            .and_then(|_| writer.sync(&metrics))
            .map_err(failed)?;
        Ok(records)
    }

    fn copy_records(&self, storage: &dyn Storage, writer: &mut Writer) -> Result<u64, OpenError> {
        let mut copied = 0;
        for (segment, offsets) in &self.parts.sources {
            let bytes = storage
                .open(&segment_name(*segment))
                .and_then(|file| read_file(&*file))
                .map_err(io_error("read", *segment))?;
            for &offset in offsets {
                copied += self
                    .copy_frame(&bytes, *segment, offset, writer)
                    .map_err(|reason| failed("write", TEMPORARY)(io::Error::other(reason)))?;
            }
        }
        Ok(copied)
    }

    /// Writes the records of a frame once more, as they are stored; its notes are in the head by now.
    fn copy_frame(
        &self,
        bytes: &[u8],
        segment: u64,
        offset: u64,
        writer: &mut Writer,
    ) -> Result<u64, String> {
        let changed = || format!("segment {segment:016x} changed while it was repaired");
        let frame = whole(bytes, segment, offset).ok_or_else(changed)?;
        let payload = &bytes[frame.payload];
        let items = items(payload, frame.header.records).map_err(|error| error.to_string())?;
        let mut slots: Vec<Slot> = Vec::new();
        let mut records = Vec::new();
        for item in items {
            let Item::Record(record) = item else { continue };
            if !self.parts.has.contains_key(&record.slot.instance) {
                continue;
            }
            let known = slots.iter().position(|slot| *slot == record.slot);
            let place = known.unwrap_or_else(|| {
                slots.push(record.slot);
                slots.len() - 1
            });
            records.push((place, record));
        }
        let count = u32::try_from(records.len()).map_err(|_| changed())?;
        writer.write(FrameKind::Plain, count, |out| {
            let mut copy = PayloadWriter::new(out, &slots);
            for (place, record) in &records {
                let body = bytes::Bytes::copy_from_slice(&payload[record.body.clone()]);
                let stored = match record.raw_len {
                    Some(raw_len) => Stored::Zstd {
                        raw_len,
                        bytes: body,
                    },
                    None => Stored::Raw(body),
                };
                copy.record(*place, record.kind, record.seq, &stored);
            }
        })?;
        Ok(u64::from(count))
    }

    fn full_or(&self, op: &'static str, file: &str, source: io::Error) -> OpenError {
        if is_full(&source) {
            return OpenError::Full {
                needed: self.room_bytes(),
            };
        }
        failed(op, file)(source)
    }

    /// That the log will be found as planned, before it counts.
    fn check(&self, storage: &Arc<dyn Storage>) -> Result<(), OpenError> {
        let repaired = Repaired {
            storage: Arc::clone(storage),
            name: segment_name(self.parts.id),
        };
        let found = recover(&repaired)?;
        let found = found.instances.into_iter();
        let has = found.map(|(id, instance)| (id, instance.has)).collect();
        if self.parts.has != has {
            let defect =
                io::Error::other("a defect: the repaired log would not hold what was planned");
            return Err(failed("check", TEMPORARY)(defect));
        }
        Ok(())
    }
}

fn failed(op: &'static str, file: &str) -> impl FnOnce(io::Error) -> OpenError {
    let file = file.to_owned();
    move |source| OpenError::Io { op, file, source }
}

fn put(aside: &dyn Storage, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = aside.create(name, len64(bytes.len()))?;
    file.write_at(0, bytes)?;
    file.sync()
}

/// The storage as it will be once the temporary file has its name. For reading only.
#[derive(Debug)]
struct Repaired {
    storage: Arc<dyn Storage>,
    name: String,
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Storage for Repaired {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.storage.list()?;
        names.push(self.name.clone());
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let name = if name == self.name { TEMPORARY } else { name };
        self.storage.open(name)
    }

    fn create(&self, _: &str, _: u64) -> io::Result<Arc<dyn StorageFile>> {
        Err(read_only())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.storage.free_bytes()
    }
}

//! The one place with `unsafe`: a segment file, mapped, so that a short append costs no call to the system.
//!
//! The mapping is shared with the page cache, so what was copied into it is the kernel's: it outlives the process, is
//! what a `read` of the file gives, and goes to the device with the next `fdatasync`, which reports what failed as ever.
//!
//! Why this is sound, and as safe as a write:
//! 1. Memory is only ever written here, inside the mapping (checked), by one thread at a time (the mutex). Nothing
//!    refers to it and nothing reads it, so no reference can see it change.
//! 2. A page fault must find its page, else the process gets SIGBUS where a write would have got an error. So a file is
//!    mapped only when it was just filled with written zeros and synced: it has its length and its blocks, and
//!    [`crate::DirStorage`] never shortens a file. File systems that write a block anew in another place may find no
//!    room for it, so only those that are known to overwrite in place are mapped ([`overwrites_in_place`]).
//! 3. What is left is a device that can't read back a page of zeros which it took a moment ago and the kernel has
//!    dropped since, and a person who shortens a segment of an open log: both end the process, and the log is found at
//!    its next opening as after any other death.
#![allow(unsafe_code)]

use std::fs::File;

use memmap2::MmapRaw;

use crate::sync::{Mutex, lock};

/// A file mapped for appending; without a mapping once [`Map::drop_it`] was called, or where there can be none.
#[derive(Debug)]
pub(crate) struct Map {
    mapped: Mutex<Option<MmapRaw>>,
    /// The file was filled by who opened it, and its system is fit.
    is_fit: bool,
}

impl Map {
    /// Of a file that has no mapping.
    pub(crate) const fn none() -> Self {
        Self {
            mapped: Mutex::new(None),
            is_fit: false,
        }
    }

    /// Maps a file that was filled with zeros and synced. Without a mapping where the file system is not known to be
    /// fit for it, or has none to give: then whoever appends writes.
    pub(crate) fn of_filled(file: &File) -> Self {
        let map = Self {
            mapped: Mutex::new(None),
            is_fit: overwrites_in_place(file),
        };
        map.map_again(file);
        map
    }

    /// Maps the same file once more, where it could be mapped when it was filled: its blocks are still there.
    pub(crate) fn map_again(&self, file: &File) {
        if self.is_fit {
            let mapped = MmapRaw::map_raw(file).ok();
            *lock(&self.mapped) = mapped;
        }
    }

    /// Copies `data` to `offset`; `false`, and nothing is done, where there is no mapping that holds it.
    pub(crate) fn put(&self, offset: u64, data: &[u8]) -> bool {
        let map = lock(&self.mapped);
        let Some(map) = &*map else {
            return false;
        };
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        if offset
            .checked_add(data.len())
            .is_none_or(|end| end > map.len())
        {
            return false;
        }
        // SAFETY: `offset + data.len()` lies within the mapping, so both pointers are valid for the length; `data` is a
        // reference and the mapping is never referred to, so they don't overlap; the mutex keeps other writers out.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), map.as_mut_ptr().add(offset), data.len());
        }
        true
    }

    /// Gives the mapping back.
    pub(crate) fn drop_it(&self) {
        let map = lock(&self.mapped).take();
        drop(map);
    }
}

/// Whether the file's system is one that writes a block where it is, so that a page that was written once can be again.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn overwrites_in_place(file: &File) -> bool {
    /// ext2, ext3 and ext4.
    const EXT: u64 = 0xef53;
    rustix::fs::fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(EXT))
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn overwrites_in_place(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn filled(len: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0; len], 0).unwrap();
        file.sync_all().unwrap();
        file
    }

    /// On a file system that is not asked whether it is fit.
    fn mapped(file: &File) -> Map {
        let map = Map {
            mapped: Mutex::new(None),
            is_fit: true,
        };
        map.map_again(file);
        map
    }

    #[test]
    fn what_is_put_is_in_the_file_and_what_does_not_fit_is_not() {
        let file = filled(8192);
        let map = mapped(&file);
        assert!(map.put(4090, b"over two pages"));
        assert!(map.put(8190, b"ab"));
        assert!(!map.put(8190, b"abc"));
        assert!(!map.put(u64::MAX, b"a"));
        let mut read = vec![0; 8192];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read[4090..4104], b"over two pages");
        assert_eq!(&read[8190..], b"ab");
        assert!(
            read[..4090]
                .iter()
                .chain(&read[4104..8190])
                .all(|&b| b == 0)
        );
    }

    #[test]
    fn without_a_mapping_nothing_is_put() {
        let file = filled(4096);
        assert!(!Map::none().put(0, b"a"));
        let map = mapped(&file);
        map.drop_it();
        assert!(!map.put(0, b"a"));
        map.map_again(&file);
        assert!(map.put(0, b"a"));
        let never_filled = Map::none();
        never_filled.map_again(&file);
        assert!(!never_filled.put(0, b"a"));
    }
}

//! One file on its way into a target: `<name>.part` until its checksum is right, then `<name>`.
//!
//! A part file outlives a crash; its good prefix is kept and only the rest is fetched. Whether the prefix was good is
//! known at the end, by the checksum of the whole: a file that was resumed and is wrong is fetched once more from the
//! start, one that was not is damage at its source.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use watershed_migration::messages::FileInfo;
use xxhash_rust::xxh3::Xxh3;

use super::durable;
use crate::Error;

/// A resumed file goes on at a multiple of this: a crash may have left the end of what was written unfinished.
const RESUME_ALIGN: u64 = 64 << 10;
/// What is written is synced each time so much has come, so that a crash costs no more than this.
const SYNC_EVERY_BYTES: u64 = 16 << 20;

/// An open part file; its calls block.
pub(super) struct Part {
    path: PathBuf,
    done: PathBuf,
    info: FileInfo,
    file: File,
    hasher: Box<Xxh3>,
    at: u64,
    synced: u64,
    resumed: bool,
}

/// What became of a file that has all its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// Checked, synced and under its name.
    Right,
    /// Its prefix was bad: fetch it from the start.
    Again,
    /// Wrong although every byte was fetched now.
    Wrong { found: u128 },
}

/// Whether the file is finished already.
pub(super) fn is_finished(dir: &Path, info: &FileInfo) -> bool {
    fs::metadata(dir.join(&info.name)).is_ok_and(|meta| meta.is_file() && meta.len() == info.len)
}

/// How many bytes of an unfinished file the disk holds already.
pub(super) fn held(dir: &Path, info: &FileInfo) -> u64 {
    fs::metadata(part_path(dir, info)).map_or(0, |meta| meta.len().min(info.len))
}

fn part_path(dir: &Path, info: &FileInfo) -> PathBuf {
    dir.join(format!("{}.part", info.name))
}

impl Part {
    /// Opens the part file of `info` in `dir`, keeping what is there of it.
    pub(super) fn open(dir: &Path, info: &FileInfo) -> Result<Self, Error> {
        let path = part_path(dir, info);
        let failed = |error| Error::io("open", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let keep = len.min(info.len) / RESUME_ALIGN * RESUME_ALIGN;
        let hasher = resume(&mut file, keep).map_err(|error| Error::io("read", &path, error))?;
        Ok(Self {
            done: dir.join(&info.name),
            info: info.clone(),
            path,
            file,
            hasher,
            at: keep,
            synced: keep,
            resumed: keep > 0,
        })
    }

    /// Where the next byte goes.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Appends a chunk.
    pub(super) fn write(&mut self, chunk: &Bytes) -> Result<(), Error> {
        let written = self.file.write_all(chunk);
        written.map_err(|error| Error::io("write", &self.path, error))?;
        self.hasher.update(chunk);
        self.at += chunk.len() as u64;
        if self.at - self.synced >= SYNC_EVERY_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(|error| Error::io("sync", &self.path, error))?;
        self.synced = self.at;
        Ok(())
    }

    /// Checks the whole file and gives it its name.
    pub(super) fn finish(mut self) -> Result<Finished, Error> {
        let found = self.hasher.digest128();
        if found != self.info.xxh3_128 || self.at != self.info.len {
            durable::remove_file(&self.path)?;
            return Ok(if self.resumed {
                Finished::Again
            } else {
                Finished::Wrong { found }
            });
        }
        self.sync()?;
        let renamed = fs::rename(&self.path, &self.done);
        renamed.map_err(|error| Error::io("rename", &self.path, error))?;
        self.done.parent().map_or(Ok(()), durable::sync_dir)?;
        Ok(Finished::Right)
    }
}

/// Cuts the file to its first `keep` bytes, hashes them, and stands at their end.
fn resume(file: &mut File, keep: u64) -> io::Result<Box<Xxh3>> {
    file.set_len(keep)?;
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Box::new(Xxh3::new());
    let mut left = keep;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact(&mut buffer[..want])?;
        hasher.update(&buffer[..want]);
        left -= want as u64;
    }
    Ok(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    const LEN: usize = 300_000;

    fn content() -> Vec<u8> {
        (0..LEN)
            .map(|i| u8::try_from(i * 31 % 251).unwrap())
            .collect()
    }

    fn info(content: &[u8]) -> FileInfo {
        FileInfo {
            name: "000007.sst".into(),
            len: content.len() as u64,
            xxh3_128: xxh3_128(content),
        }
    }

    fn fetch_rest(part: &mut Part, content: &[u8]) {
        let from = usize::try_from(part.at()).unwrap();
        for chunk in content[from..].chunks(50_000) {
            part.write(&Bytes::copy_from_slice(chunk)).unwrap();
        }
    }

    #[test]
    fn a_file_stopped_anywhere_goes_on_and_ends_right() {
        let content = content();
        for stop in [0, 1, 65_535, 65_536, 200_000, LEN] {
            let dir = tempfile::tempdir().unwrap();
            let mut part = Part::open(dir.path(), &info(&content)).unwrap();
            part.write(&Bytes::copy_from_slice(&content[..stop]))
                .unwrap();
            drop(part);
            let mut part = Part::open(dir.path(), &info(&content)).unwrap();
            assert_eq!(
                part.at(),
                (stop as u64) / RESUME_ALIGN * RESUME_ALIGN,
                "the good prefix is kept"
            );
            assert!(!is_finished(dir.path(), &info(&content)));
            fetch_rest(&mut part, &content);
            assert_eq!(part.finish().unwrap(), Finished::Right);
            assert!(is_finished(dir.path(), &info(&content)));
            assert_eq!(fs::read(dir.path().join("000007.sst")).unwrap(), content);
        }
    }

    #[test]
    fn a_bad_prefix_is_fetched_again_and_a_bad_source_is_not() {
        let content = content();
        let dir = tempfile::tempdir().unwrap();
        let mut bad = content.clone();
        bad[5] ^= 1;
        fs::write(dir.path().join("000007.sst.part"), &bad[..100_000]).unwrap();
        let mut part = Part::open(dir.path(), &info(&content)).unwrap();
        fetch_rest(&mut part, &content);
        assert_eq!(part.finish().unwrap(), Finished::Again);
        let mut part = Part::open(dir.path(), &info(&content)).unwrap();
        assert_eq!(part.at(), 0);
        fetch_rest(&mut part, &bad);
        assert_eq!(
            part.finish().unwrap(),
            Finished::Wrong {
                found: xxh3_128(&bad)
            }
        );
        assert!(!is_finished(dir.path(), &info(&content)));
    }
}

//! One file in memory: what reads see, and for each unsynced sector the states that a power loss may leave.

use std::collections::BTreeMap;
use std::io;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// A file.
///
/// Rules: (1) a sector without an entry in `dirty` is durable as it is in `live`; (2) an entry's states are in
/// the order they were written, the first durable, the last equal to `live`; a state shorter than a sector is
/// that of the file's end.
#[derive(Debug)]
pub(super) struct FileImage {
    live: Vec<u8>,
    durable_len: usize,
    dirty: BTreeMap<usize, DirtySector>,
    /// Open handles of it.
    pub(super) handles: usize,
    /// One of them wants it for other contents.
    pub(super) is_claimed: bool,
}

#[derive(Debug)]
struct DirtySector {
    states: Vec<Vec<u8>>,
    /// A sync failed since the last write: the kernel holds the page for clean.
    given_up: bool,
}

impl FileImage {
    /// A file that is durable as given.
    pub(super) fn synced(live: Vec<u8>) -> Self {
        Self {
            durable_len: live.len(),
            live,
            dirty: BTreeMap::new(),
            handles: 0,
            is_claimed: false,
        }
    }

    pub(super) fn live(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn len(&self) -> u64 {
        self.live.len() as u64
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let there = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.live.get(offset..))
            .unwrap_or(&[]);
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        len
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let start = usize::try_from(offset).map_err(|_| too_large())?;
        let end = start.checked_add(data.len()).ok_or_else(too_large)?;
        if data.is_empty() {
            return Ok(());
        }
        // A gap that the write leaves behind the old end needs no entries: it is zeros in every state.
        let sectors = start / SECTOR..end.div_ceil(SECTOR);
        for sector in sectors.clone() {
            if !self.dirty.contains_key(&sector) {
                let durable = self.sector(sector).to_vec();
                let states = vec![durable];
                let given_up = false;
                self.dirty.insert(sector, DirtySector { states, given_up });
            }
        }
        if end > self.live.len() {
            self.live.resize(end, 0);
        }
        self.live[start..end].copy_from_slice(data);
        for sector in sectors {
            let now = self.sector(sector).to_vec();
            let dirty = self.dirty.get_mut(&sector).expect("made above");
            dirty.given_up = false;
            dirty.states.push(now);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        self.dirty.retain(|_, sector| sector.given_up);
        self.durable_len = self.live.len();
    }

    pub(super) fn fail_sync(&mut self) {
        for sector in self.dirty.values_mut() {
            sector.given_up = true;
        }
    }

    /// Flips bits in every state of a byte; whether there is such a byte.
    pub(super) fn corrupt(&mut self, offset: u64, xor: u8) -> bool {
        let Some(offset) = usize::try_from(offset)
            .ok()
            .filter(|&o| o < self.live.len())
        else {
            return false;
        };
        self.live[offset] ^= xor;
        let states = self.dirty.get_mut(&(offset / SECTOR)).into_iter();
        for state in states.flat_map(|sector| &mut sector.states) {
            if let Some(byte) = state.get_mut(offset % SECTOR) {
                *byte ^= xor;
            }
        }
        true
    }

    /// What is left when nothing unsynced survives.
    pub(super) fn durable(&self) -> Vec<u8> {
        let mut left = self.live[..self.durable_len].to_vec();
        for (&sector, dirty) in &self.dirty {
            overlay(&mut left, sector, &dirty.states[0]);
        }
        left
    }

    /// What is left when each unsynced sector is in any of its states.
    pub(super) fn surviving(&self, random: &mut SplitMix) -> Vec<u8> {
        let bias = random.pick_bias();
        self.surviving_as(|states| {
            let newest = states - 1;
            if random.chance(bias) {
                newest
            } else {
                random.below(newest)
            }
        })
    }

    /// What is left when each unsynced sector is in the one of its states, so many, that `choose` names.
    pub(super) fn surviving_as(&self, mut choose: impl FnMut(usize) -> usize) -> Vec<u8> {
        let mut left = self.live[..self.durable_len].to_vec();
        for (&sector, dirty) in &self.dirty {
            let state = choose(dirty.states.len());
            overlay(&mut left, sector, &dirty.states[state]);
        }
        left
    }

    fn sector(&self, sector: usize) -> &[u8] {
        let end = self.live.len().min((sector + 1) * SECTOR);
        self.live.get(sector * SECTOR..end).unwrap_or(&[])
    }
}

/// Puts a sector's state into an image, growing it where the state reaches beyond its end; where the state is
/// shorter than the image has room for, the sector never had those bytes: zeros.
fn overlay(image: &mut Vec<u8>, sector: usize, state: &[u8]) {
    let start = sector * SECTOR;
    let end = start + state.len();
    if !state.is_empty() && image.len() < end {
        image.resize(end, 0);
    }
    let sector_end = image.len().min(start + SECTOR);
    if start < sector_end {
        image[start..sector_end].fill(0);
        image[start..end].copy_from_slice(state);
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and every seed is a good one.
#[derive(Debug)]
pub(super) struct SplitMix(u64);

impl SplitMix {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0. The bias of the remainder is of no matter here.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        usize::try_from(self.next() % n).expect("below a usize")
    }

    /// Chances, of 256, that make runs of one outcome about as likely as mixtures.
    pub(super) fn pick_bias(&mut self) -> u64 {
        [0, 24, 128, 232, 256][self.below(5)]
    }

    pub(super) fn chance(&mut self, of_256: u64) -> bool {
        self.next() % 256 < of_256
    }
}

//! Walking the frames of one segment's bytes, and looking for later evidence past a place where the walk stops.

use std::io;
use std::ops::Range;

use crate::format::frame::{HEADER, Header, MAGIC, Newer, NoHeader, Position, align_block, align8};
use crate::storage::StorageFile;

/// What segment files are named: their id in 16 hexadecimal digits.
pub(crate) fn segment_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

/// The id in a segment's file name; `Some(Err)` for a `.seg` file that is named otherwise.
pub(crate) fn segment_id(name: &str) -> Option<Result<u64, ()>> {
    let stem = name.strip_suffix(".seg")?;
    let id = u64::from_str_radix(stem, 16).ok();
    Some(
        id.filter(|&id| segment_name(id) == name && id > 0)
            .ok_or(()),
    )
}

/// What the file of a removed segment is named while it waits to be filled again.
pub(crate) fn recycled_name(id: u64) -> String {
    format!("{id:016x}.recycled")
}

pub(crate) fn is_recycled_name(name: &str) -> bool {
    let id = name
        .strip_suffix(".recycled")
        .and_then(|stem| u64::from_str_radix(stem, 16).ok());
    id.is_some_and(|id| recycled_name(id) == name)
}

/// Reads a whole file.
pub(crate) fn read_file(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    read_range(file, 0..len)
}

/// Reads a whole file into `bytes`, which has room from the one before.
pub(crate) fn read_file_into(file: &dyn StorageFile, bytes: &mut Vec<u8>) -> io::Result<()> {
    let len = file.len()?;
    read_range_into(file, 0..len, bytes)
}

/// Reads a range of a file, or less where the file ends.
pub(crate) fn read_range(file: &dyn StorageFile, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_range_into(file, range, &mut bytes)?;
    Ok(bytes)
}

/// Reads a range of a file, or less where the file ends, into `bytes`, which has room from the one before.
pub(crate) fn read_range_into(
    file: &dyn StorageFile,
    range: Range<u64>,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    let len = usize::try_from(range.end.saturating_sub(range.start))
        .map_err(|_| io::Error::other("a log segment larger than memory"))?;
    if bytes.is_empty() {
        // Zeros from the system cost nothing yet.
        *bytes = vec![0; len];
    }
    bytes.resize(len, 0);
    let mut done = 0;
    while done < len {
        let got = file.read_at(range.start + crate::codec::len64(done), &mut bytes[done..])?;
        if got == 0 {
            break;
        }
        done += got;
    }
    bytes.truncate(done);
    Ok(())
}

/// A whole frame: header and payload match their checksums.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) checksum: u32,
    /// In the bytes that were probed.
    pub(crate) payload: Range<usize>,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    Frame(Frame),
    /// The header is whole, the payload is not.
    BadPayload(Header),
    Absent,
    Newer(Newer),
}

impl Probe {
    /// Nothing, unless this opening wrote it. A recycled file has bytes of its earlier lives between frames and behind
    /// the last: a frame of those has another segment's id, and what in a record's body looks like a frame of this
    /// segment has not its nonce, which is random and never told to who writes records.
    fn of_opening(self, nonce: u64) -> Self {
        let found = match &self {
            Self::Frame(frame) => frame.header.nonce,
            Self::BadPayload(header) => header.nonce,
            Self::Newer(newer) => newer.nonce,
            Self::Absent => return self,
        };
        if found == nonce { self } else { Self::Absent }
    }
}

/// Looks for a frame at `at` of segment `segment`, whose bytes from offset `start` on are `bytes`.
pub(crate) fn probe(bytes: &[u8], start: u64, segment: u64, at: u64) -> Probe {
    let Some(index) = at.checked_sub(start).and_then(|i| usize::try_from(i).ok()) else {
        return Probe::Absent;
    };
    let Some(here) = bytes.get(index..) else {
        return Probe::Absent;
    };
    let (header, checksum) = match Header::decode(here) {
        Ok(found) => found,
        Err(NoHeader::Absent) => return Probe::Absent,
        // Whatever a file starts with decides what it is; further on it may be a recycled file's old bytes.
        Err(NoHeader::Newer(newer))
            if at == 0 || (newer.segment, newer.offset) == (segment, at) =>
        {
            return Probe::Newer(newer);
        }
        Err(NoHeader::Newer(_)) => return Probe::Absent,
    };
    if header.segment != segment || header.offset != at {
        return Probe::Absent;
    }
    let begin = index + HEADER;
    let payload = usize::try_from(header.payload_len)
        .ok()
        .and_then(|len| begin.checked_add(len))
        .map(|end| begin..end);
    let whole = payload.filter(|range| {
        bytes
            .get(range.clone())
            .is_some_and(|payload| crc32fast::hash(payload) == header.payload_crc)
    });
    match whole {
        Some(payload) => Probe::Frame(Frame {
            header,
            checksum,
            payload,
        }),
        None => Probe::BadPayload(header),
    }
}

/// Looks for the frame of an opening that goes on behind one that ends at `end`: directly after it, or at the next
/// block. The other arguments are as for [`probe`].
pub(crate) fn probe_after(bytes: &[u8], start: u64, segment: u64, nonce: u64, end: u64) -> Probe {
    let direct = align8(end);
    let block = align_block(direct);
    match probe(bytes, start, segment, direct).of_opening(nonce) {
        Probe::Absent if block != direct => probe(bytes, start, segment, block).of_opening(nonce),
        found => found,
    }
}

/// The nonce that all frames of a segment carry, where what its file starts with says so: its head's header, or the mark
/// of a recycled spare.
pub(crate) fn nonce_of(bytes: &[u8], segment: u64) -> Option<u64> {
    let (header, _) = Header::decode(bytes).ok()?;
    let is_start = (header.segment, header.offset) == (segment, 0);
    (is_start && (header.head || header.is_mark())).then_some(header.nonce)
}

/// Where a chain of frames stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) segment: u64,
    pub(crate) nonce: u64,
    /// The last frame's end and checksum.
    pub(crate) end: u64,
    pub(crate) checksum: u32,
}

impl Chain {
    /// The frame that goes on from here: directly after the last one, or at the next block.
    pub(crate) fn next(&self, bytes: &[u8]) -> Probe {
        let direct = align8(self.end);
        let block = align_block(direct);
        match self.accept(probe(bytes, 0, self.segment, direct)) {
            Probe::Absent if block != direct => self.accept(probe(bytes, 0, self.segment, block)),
            found => found,
        }
    }

    /// Only this opening's frames, and only the one after the last, go on.
    fn accept(&self, found: Probe) -> Probe {
        let found = found.of_opening(self.nonce);
        let header = match &found {
            Probe::Frame(frame) => &frame.header,
            Probe::BadPayload(header) => header,
            Probe::Absent | Probe::Newer(_) => return found,
        };
        if header.previous == self.checksum && !header.head {
            found
        } else {
            Probe::Absent
        }
    }

    pub(crate) fn advance(&mut self, frame: &Frame) {
        self.end = frame.header.end();
        self.checksum = frame.checksum;
    }
}

/// All but the zero blocks at the end, in which no header starts: a segment is made of zeros and filled once, so
/// that most of the last one is still empty.
fn without_zero_end(bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    let is_zero = |block: &&[u8]| **block == ZEROS[..block.len()];
    let blocks = bytes.rchunks(ZEROS.len()).take_while(is_zero);
    let zeros: usize = blocks.map(<[u8]>::len).sum();
    &bytes[..bytes.len() - zeros]
}

/// Every whole header of this segment at or after `from`, wherever it stands, in order.
pub(crate) fn headers_from(
    bytes: &[u8],
    segment: u64,
    nonce: Option<u64>,
    from: u64,
) -> impl Iterator<Item = Header> {
    let used = without_zero_end(bytes);
    let start = usize::try_from(align8(from))
        .unwrap_or(usize::MAX)
        .min(used.len());
    used[start..]
        .chunks(8)
        .enumerate()
        .filter(|(_, chunk)| chunk.starts_with(&MAGIC))
        .filter_map(move |(i, _)| {
            let at = start + i * 8;
            let (header, _) = Header::decode(&bytes[at..]).ok()?;
            let here = header.segment == segment && header.offset == crate::codec::len64(at);
            (here && nonce.is_none_or(|nonce| nonce == header.nonce)).then_some(header)
        })
}

/// The furthest place that a frame past `end` says was durable, if that is past `end`.
pub(crate) fn promised_past(
    bytes: &[u8],
    segment: u64,
    nonce: Option<u64>,
    end: u64,
) -> Option<Position> {
    let here = Position {
        segment,
        offset: end,
    };
    headers_from(bytes, segment, nonce, end)
        .map(|header| header.synced)
        .filter(|&synced| synced > here)
        .max()
}

//! The header of a frame, with a checksum of its own, and where frames lie in a segment.
//!
//! ```text
//!  0  magic "WSHF"            4  version u16        6  flags u16 (bit 0: head)
//!  8  segment u64            16  nonce u64         24  offset u64
//! 32  payload length u32     36  records u32       40  synced segment u64   48  synced offset u64
//! 56  previous checksum u32  60  payload CRC u32   64  zero u32             68  CRC32 of bytes 0..68
//! ```
//!
//! Numbers are little-endian. The CRC at 68 is the frame's *checksum*: it covers the payload's CRC, so a chain
//! of them covers everything.

use crate::codec::Reader;

/// The largest write that never straddles what was promised durable and what was not.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of a header.
pub(crate) const HEADER: usize = 72;
/// [`HEADER`] as an offset.
pub(crate) const HEADER_LEN: u64 = 72;
/// The version this program writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;
/// The first bytes of each frame.
pub(crate) const MAGIC: [u8; 4] = *b"WSHF";

const FLAG_HEAD: u16 = 1;

/// A place in the log. Segments only grow, so places are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) head: bool,
    pub(crate) segment: u64,
    pub(crate) nonce: u64,
    pub(crate) offset: u64,
    pub(crate) payload_len: u32,
    pub(crate) records: u32,
    /// How far the log was promised durable when this frame was written.
    pub(crate) synced: Position,
    /// The checksum of the frame before.
    pub(crate) previous: u32,
    pub(crate) payload_crc: u32,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    /// Zeros, other bytes, or a checksum that does not match.
    Absent,
    /// A whole header of a newer version.
    Newer(u16),
}

impl Header {
    /// The header's bytes, and the frame's checksum.
    pub(crate) fn encode(&self) -> ([u8; HEADER], u32) {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        let flags = if self.head { FLAG_HEAD } else { 0 };
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.segment.to_le_bytes());
        out[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        out[24..32].copy_from_slice(&self.offset.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload_len.to_le_bytes());
        out[36..40].copy_from_slice(&self.records.to_le_bytes());
        out[40..48].copy_from_slice(&self.synced.segment.to_le_bytes());
        out[48..56].copy_from_slice(&self.synced.offset.to_le_bytes());
        out[56..60].copy_from_slice(&self.previous.to_le_bytes());
        out[60..64].copy_from_slice(&self.payload_crc.to_le_bytes());
        let checksum = crc32fast::hash(&out[..HEADER - 4]);
        out[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        (out, checksum)
    }

    /// Reads a header at the start of `bytes`, and the frame's checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32), NoHeader> {
        let Some(bytes) = bytes.get(..HEADER).filter(|b| b.starts_with(&MAGIC)) else {
            return Err(NoHeader::Absent);
        };
        Self::decode_whole(bytes).unwrap_or(Err(NoHeader::Absent))
    }

    fn decode_whole(
        bytes: &[u8],
    ) -> Result<Result<(Self, u32), NoHeader>, crate::codec::FormatError> {
        const WHAT: &str = "a frame header";
        let mut reader = Reader::starting_at(bytes, MAGIC.len());
        let version = u16::from_le_bytes(reader.array(WHAT)?);
        let flags = u16::from_le_bytes(reader.array(WHAT)?);
        let header = Self {
            head: flags & FLAG_HEAD != 0,
            segment: reader.u64_le(WHAT)?,
            nonce: reader.u64_le(WHAT)?,
            offset: reader.u64_le(WHAT)?,
            payload_len: reader.u32_le(WHAT)?,
            records: reader.u32_le(WHAT)?,
            synced: Position {
                segment: reader.u64_le(WHAT)?,
                offset: reader.u64_le(WHAT)?,
            },
            previous: reader.u32_le(WHAT)?,
            payload_crc: reader.u32_le(WHAT)?,
        };
        reader.take(4, WHAT)?;
        let checksum = reader.u32_le(WHAT)?;
        if checksum != crc32fast::hash(&bytes[..HEADER - 4]) {
            return Ok(Err(NoHeader::Absent));
        }
        // The checksum's place and reach are the same in all versions, so a newer one is told from damage.
        if version > VERSION {
            return Ok(Err(NoHeader::Newer(version)));
        }
        if version == 0 || flags & !FLAG_HEAD != 0 {
            return Ok(Err(NoHeader::Absent));
        }
        Ok(Ok((header, checksum)))
    }

    /// Where the frame ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset
            .saturating_add(HEADER_LEN)
            .saturating_add(self.payload_len.into())
    }
}

/// The next multiple of 8 at or after `offset`.
pub(crate) const fn align8(offset: u64) -> u64 {
    offset.saturating_add(7) & !7
}

/// The next block boundary at or after `offset`.
pub(crate) const fn align_block(offset: u64) -> u64 {
    offset.saturating_add(BLOCK - 1) & !(BLOCK - 1)
}

/// Where the frame after one that ends at `end` starts, when this segment was promised durable to `synced`:
/// directly after it, unless its block holds promised bytes, which are never written again.
pub(crate) fn next_start(end: u64, synced: u64) -> u64 {
    let start = align8(end);
    if start & !(BLOCK - 1) < synced {
        align_block(start)
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            head: false,
            segment: 7,
            nonce: 0x1234_5678_9abc_def0,
            offset: 4096,
            payload_len: 99,
            records: 3,
            synced: Position {
                segment: 6,
                offset: 12_288,
            },
            previous: 0xdead_beef,
            payload_crc: 0x0bad_cafe,
        }
    }

    #[test]
    fn round_trips_and_each_flipped_bit_is_found() {
        let (bytes, checksum) = header().encode();
        assert_eq!(Header::decode(&bytes), Ok((header(), checksum)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), Err(NoHeader::Absent), "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..71]), Err(NoHeader::Absent));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let (mut bytes, _) = header().encode();
        bytes[4] = 2;
        let crc = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(NoHeader::Newer(2)));
    }

    #[test]
    fn promised_blocks_are_never_written_again() {
        assert_eq!(next_start(100, 0), 104);
        assert_eq!(next_start(100, 100), 4096);
        assert_eq!(next_start(4096, 4096), 4096);
        assert_eq!(next_start(5000, 4096), 5000);
        assert_eq!(next_start(5000, 4500), 8192);
        assert_eq!(next_start(8190, 8190), 8192);
    }
}

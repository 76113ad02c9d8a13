//! The header of a frame, with a checksum of its own, and where frames lie in a segment.
//!
//! ```text
//!  0  magic "WSHF"            4  version u16        6  flags u16 (bit 0: head, bit 1: recycled)
//!  8  segment u64            16  nonce u64         24  offset u64
//! 32  payload length u32     36  records u32       40  synced segment u64   48  synced offset u64
//! 56  previous checksum u32  60  payload CRC u32   64  zero u32             68  CRC32 of bytes 0..68
//! ```
//!
//! Numbers are little-endian. The CRC at 68 is the frame's *checksum*: it covers the payload's CRC, so a chain
//! of them covers everything.
//!
//! A head in a recycled file has both flags. A *mark* has only the second, and no payload: it makes a recycled file a
//! spare of a segment, and gives way to the head. Those two are version 2, all other frames version 1.

use crate::codec::Reader;

/// The largest write that never straddles what was promised durable and what was not.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of a header.
pub(crate) const HEADER: usize = 72;
/// [`HEADER`] as an offset.
pub(crate) const HEADER_LEN: u64 = 72;
/// The version this program writes, and the newest it reads.
pub(crate) const VERSION: u16 = 2;
/// The version of all frames but those that say that their file is recycled.
const PLAIN: u16 = 1;
/// The first bytes of each frame.
pub(crate) const MAGIC: [u8; 4] = *b"WSHF";

const FLAG_HEAD: u16 = 1;
const FLAG_RECYCLED: u16 = 2;

/// A place in the log. Segments only grow, so places are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) head: bool,
    /// Of a head, or a mark: the file was another segment's, whose bytes stand where nothing was written since.
    pub(crate) recycled: bool,
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
    Newer(Newer),
}

/// What is known of a header of any version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) version: u16,
    pub(crate) segment: u64,
    pub(crate) nonce: u64,
    pub(crate) offset: u64,
}

impl Header {
    /// The mark of a recycled file that is to be a segment. `nonce`: of the opening that will write it.
    pub(crate) fn mark(segment: u64, nonce: u64) -> Self {
        Self {
            head: false,
            recycled: true,
            segment,
            nonce,
            offset: 0,
            payload_len: 0,
            records: 0,
            synced: Position::default(),
            previous: 0,
            payload_crc: crc32fast::hash(&[]),
        }
    }

    pub(crate) const fn is_mark(&self) -> bool {
        self.recycled && !self.head
    }

    /// The header's bytes, and the frame's checksum.
    pub(crate) fn encode(&self) -> ([u8; HEADER], u32) {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&MAGIC);
        let version = if self.recycled { VERSION } else { PLAIN };
        out[4..6].copy_from_slice(&version.to_le_bytes());
        let head = if self.head { FLAG_HEAD } else { 0 };
        let flags = head | if self.recycled { FLAG_RECYCLED } else { 0 };
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
            recycled: flags & FLAG_RECYCLED != 0,
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
        // These places, and the checksum's reach, are the same in all versions, so a newer one is told from damage.
        if version > VERSION {
            return Ok(Err(NoHeader::Newer(Newer {
                version,
                segment: header.segment,
                nonce: header.nonce,
                offset: header.offset,
            })));
        }
        let is_known = match version {
            PLAIN => flags & !FLAG_HEAD == 0,
            VERSION => flags & !FLAG_HEAD == FLAG_RECYCLED,
            _ => false,
        };
        Ok(if is_known {
            Ok((header, checksum))
        } else {
            Err(NoHeader::Absent)
        })
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
            recycled: false,
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
        let recycled = Header {
            head: true,
            recycled: true,
            ..header()
        };
        for header in [header(), recycled, Header::mark(9, 0xfeed)] {
            let (bytes, checksum) = header.encode();
            assert_eq!(Header::decode(&bytes), Ok((header, checksum)));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&flipped), Err(NoHeader::Absent), "bit {bit}");
            }
            assert_eq!(Header::decode(&bytes[..71]), Err(NoHeader::Absent));
        }
    }

    #[test]
    fn a_flag_that_its_version_has_not_is_no_header() {
        for (version, flags) in [(0, 0), (1, 2), (1, 3), (2, 0), (2, 1), (2, 6), (1, 4)] {
            let (mut bytes, _) = header().encode();
            bytes[4] = version;
            bytes[6] = flags;
            let crc = crc32fast::hash(&bytes[..HEADER - 4]);
            bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(
                Header::decode(&bytes),
                Err(NoHeader::Absent),
                "{version} {flags}"
            );
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let (mut bytes, _) = header().encode();
        bytes[4] = 3;
        let crc = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        let newer = Newer {
            version: 3,
            segment: 7,
            nonce: 0x1234_5678_9abc_def0,
            offset: 4096,
        };
        assert_eq!(Header::decode(&bytes), Err(NoHeader::Newer(newer)));
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

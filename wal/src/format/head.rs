//! The head of a segment: its first frame, which makes the segments before it dispensable.
//!
//! ```text
//! head := block size varint | the file's length u64 | predecessor u8 (0 or 1)
//!         | [segment varint | end varint | checksum u32 | nonce u64]   where there is one
//!         | first segment still needed varint | instance count varint | instance *
//! instance := id u128 | shard varint | base varint | flushed varint | terms | holds | notes
//! ```

use bytes::{BufMut, Bytes};

use super::frame::BLOCK;
use super::notes::{
    HoldNote, put_bytes, put_hold, put_terms, take_bytes, take_hold, take_terms, take_text,
};
use crate::codec::{FormatError, Reader, len64, put_varint};
use crate::options::Notes;
use crate::words::{InstanceId, Seq, ShardId, TermStart};

/// The end of the segment before: where it is cut, and what the chain goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) segment: u64,
    pub(crate) end: u64,
    pub(crate) checksum: u32,
    pub(crate) nonce: u64,
}

/// All that is known of one hosted instance, but for its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RosterEntry {
    pub(crate) shard: ShardId,
    pub(crate) instance: InstanceId,
    pub(crate) base: Seq,
    pub(crate) flushed: Seq,
    pub(crate) terms: Vec<TermStart>,
    pub(crate) holds: Vec<HoldNote>,
    pub(crate) notes: Notes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The segment file was made with so many bytes: a shorter one was cut.
    pub(crate) file_len: u64,
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) first_segment: u64,
    pub(crate) roster: Vec<RosterEntry>,
}

impl Head {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, BLOCK);
        out.put_u64_le(self.file_len);
        out.put_u8(u8::from(self.predecessor.is_some()));
        if let Some(before) = &self.predecessor {
            put_varint(out, before.segment);
            put_varint(out, before.end);
            out.put_u32_le(before.checksum);
            out.put_u64_le(before.nonce);
        }
        put_varint(out, self.first_segment);
        put_varint(out, len64(self.roster.len()));
        for entry in &self.roster {
            out.put_u128_le(entry.instance.0);
            put_varint(out, entry.shard.0);
            put_varint(out, entry.base.0);
            put_varint(out, entry.flushed.0);
            put_terms(out, &entry.terms);
            put_varint(out, len64(entry.holds.len()));
            entry.holds.iter().for_each(|hold| put_hold(out, hold));
            put_varint(out, len64(entry.notes.len()));
            for (key, value) in &entry.notes {
                put_bytes(out, key.as_bytes());
                put_bytes(out, value);
            }
        }
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "a segment's head";
        let mut reader = Reader::new(payload);
        let block = reader.varint(WHAT)?;
        if block != BLOCK {
            return Err(FormatError::Invalid {
                what: "a segment's block size",
                offset: 0,
                value: block,
            });
        }
        let file_len = reader.u64_le(WHAT)?;
        let offset = reader.offset();
        let predecessor = match reader.u8(WHAT)? {
            0 => None,
            1 => Some(Predecessor {
                segment: reader.varint(WHAT)?,
                end: reader.varint(WHAT)?,
                checksum: reader.u32_le(WHAT)?,
                nonce: reader.u64_le(WHAT)?,
            }),
            other => {
                return Err(FormatError::Invalid {
                    what: "a segment's predecessor flag",
                    offset,
                    value: other.into(),
                });
            }
        };
        let first_segment = reader.varint(WHAT)?;
        let count = reader.varint_as::<usize>(WHAT)?;
        let mut roster = Vec::with_capacity(count.min(reader.remaining() / 16));
        for _ in 0..count {
            roster.push(take_entry(&mut reader)?);
        }
        reader.finish(WHAT)?;
        Ok(Self {
            file_len,
            predecessor,
            first_segment,
            roster,
        })
    }
}

fn take_entry(reader: &mut Reader<'_>) -> Result<RosterEntry, FormatError> {
    const WHAT: &str = "an instance of a segment's head";
    let instance = InstanceId(reader.u128_le(WHAT)?);
    let shard = ShardId(reader.varint(WHAT)?);
    let base = reader.varint_as(WHAT)?;
    let flushed = reader.varint_as(WHAT)?;
    let terms = take_terms(reader)?;
    let count = reader.varint_as::<usize>(WHAT)?;
    let mut holds = Vec::with_capacity(count.min(reader.remaining() / 5));
    for _ in 0..count {
        holds.push(take_hold(reader)?);
    }
    let mut notes = Notes::new();
    for _ in 0..reader.varint_as::<usize>(WHAT)? {
        let key = take_text(reader)?;
        notes.insert(key, Bytes::copy_from_slice(take_bytes(reader)?));
    }
    Ok(RosterEntry {
        shard,
        instance,
        base,
        flushed,
        terms,
        holds,
        notes,
    })
}

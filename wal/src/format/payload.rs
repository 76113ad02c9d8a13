//! The payload of a frame: a table of who wrote, then records and notes in the order they were submitted.
//!
//! ```text
//! payload := slot count varint | slot * | item *                      (as many items as the header says)
//! slot    := instance u128 | shard varint | epoch varint | opening varint
//! item    := kind u8 (1..63) | slot varint | Seq zigzag varint, from the slot's last one | flags u8
//!            | [raw length varint]  if flags bit 0: the body is zstd
//!            | length varint | body
//!          | note                                                     (kind u8 from 64 on)
//! ```

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use bytes::{BufMut, Bytes};
use zstd::bulk::{Compressor, Decompressor};

use super::notes::{FIRST_NOTE_KIND, LocalNote};
use crate::codec::{FormatError, MAX_VARINT, Reader, len64, put_varint};
use crate::options::MAX_BODY_BYTES;
use crate::record::{Record, RecordKind};
use crate::words::{Epoch, InstanceId, Seq, ShardId, Term};

const FLAG_ZSTD: u8 = 1;
/// What a slot takes at the most.
pub(crate) const MAX_SLOT: usize = 16 + 3 * MAX_VARINT;
/// What a record takes at the most beside its body.
pub(crate) const MAX_RECORD_HEAD: usize = 2 + 4 * MAX_VARINT;

/// Whose records: one per (instance, term) in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) instance: InstanceId,
    pub(crate) shard: ShardId,
    pub(crate) term: Term,
}

/// A body as it is stored: raw, or compressed with its raw length.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Raw(Bytes),
    Zstd { raw_len: usize, bytes: Bytes },
}

impl Stored {
    /// Compresses a body from `from_bytes` on, and keeps that only if it saves an eighth.
    pub(crate) fn new(body: &Bytes, from_bytes: usize) -> Self {
        let packed = (body.len() >= from_bytes)
            .then(|| compress(body).ok())
            .flatten();
        match packed {
            Some(packed) if packed.len() <= body.len() - body.len() / 8 => Self::Zstd {
                raw_len: body.len(),
                bytes: packed.into(),
            },
            _ => Self::Raw(body.clone()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Raw(bytes) | Self::Zstd { bytes, .. } => bytes.len(),
        }
    }
}

/// A thread's zstd contexts: making one takes longer than compressing or decompressing a body.
struct Contexts {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const {
        RefCell::new(Contexts { compressor: None, decompressor: None })
    };
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| match &mut contexts.compressor {
        Some(compressor) => compressor.compress(body),
        none => none.insert(Compressor::new(1)?).compress(body),
    })
}

fn decompress(stored: &[u8], raw_len: usize) -> io::Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| match &mut contexts.decompressor {
        Some(decompressor) => decompressor.decompress(stored, raw_len),
        none => none
            .insert(Decompressor::new()?)
            .decompress(stored, raw_len),
    })
}

/// Writes a payload; the slots must be known first.
#[derive(Debug)]
pub(crate) struct PayloadWriter<'a> {
    out: &'a mut Vec<u8>,
    last: Vec<u64>,
}

impl<'a> PayloadWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, slots: &[Slot]) -> Self {
        put_varint(out, len64(slots.len()));
        for slot in slots {
            out.put_u128_le(slot.instance.0);
            put_varint(out, slot.shard.0);
            put_varint(out, slot.term.epoch.0);
            put_varint(out, slot.term.opening);
        }
        Self {
            out,
            last: vec![0; slots.len()],
        }
    }

    pub(crate) fn record(&mut self, slot: usize, kind: RecordKind, seq: Seq, body: &Stored) {
        self.out.put_u8(kind.code());
        put_varint(self.out, len64(slot));
        put_varint(self.out, zigzag(seq.0.wrapping_sub(self.last[slot])));
        self.last[slot] = seq.0;
        let bytes = match body {
            Stored::Raw(bytes) => {
                self.out.put_u8(0);
                bytes
            }
            Stored::Zstd { raw_len, bytes } => {
                self.out.put_u8(FLAG_ZSTD);
                put_varint(self.out, len64(*raw_len));
                bytes
            }
        };
        put_varint(self.out, len64(bytes.len()));
        self.out.put_slice(bytes);
    }

    pub(crate) fn note(&mut self, note: &LocalNote) {
        note.encode(self.out);
    }
}

/// Folds a wrapping difference so that small steps in both directions are small numbers.
fn zigzag(difference: u64) -> u64 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// Where a record's body is in its payload.
#[derive(Clone, Debug)]
pub(crate) struct RecordItem {
    pub(crate) slot: Slot,
    /// Its place in the payload's table.
    pub(crate) slot_at: usize,
    pub(crate) kind: RecordKind,
    pub(crate) seq: Seq,
    /// The raw length, if the body is compressed.
    pub(crate) raw_len: Option<usize>,
    pub(crate) body: Range<usize>,
}

impl RecordItem {
    /// The record, from the payload that it was read from.
    pub(crate) fn record(&self, payload: &[u8]) -> Result<Record, FormatError> {
        Ok(Record::new(
            self.slot.term,
            self.seq,
            self.kind,
            self.unpack(payload)?,
        ))
    }

    /// The body, unless it is compressed or not within the payload.
    pub(crate) fn raw<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        match self.raw_len {
            None => payload.get(self.body.clone()),
            Some(_) => None,
        }
    }

    pub(crate) fn unpack(&self, payload: &[u8]) -> Result<Bytes, FormatError> {
        let invalid = FormatError::Invalid {
            what: "a compressed body",
            offset: self.body.start,
            value: len64(self.body.len()),
        };
        let stored = payload.get(self.body.clone()).ok_or(invalid)?;
        let Some(raw_len) = self.raw_len else {
            return Ok(Bytes::copy_from_slice(stored));
        };
        match decompress(stored, raw_len) {
            Ok(raw) if raw.len() == raw_len => Ok(raw.into()),
            _ => Err(invalid),
        }
    }
}

/// A record or a note.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Record(RecordItem),
    Note(LocalNote),
}

/// Reads a payload item by item.
#[derive(Debug)]
pub(crate) struct PayloadReader<'a> {
    reader: Reader<'a>,
    slots: Vec<Slot>,
    last: Vec<u64>,
    items: u32,
}

impl<'a> PayloadReader<'a> {
    /// `items` is the header's count.
    pub(crate) fn new(payload: &'a [u8], items: u32) -> Result<Self, FormatError> {
        const WHAT: &str = "a frame's slots";
        let mut reader = Reader::new(payload);
        let count = reader.varint_as::<usize>(WHAT)?;
        let mut slots = Vec::with_capacity(count.min(reader.remaining() / 19));
        for _ in 0..count {
            let instance = InstanceId(reader.u128_le(WHAT)?);
            let shard = ShardId(reader.varint(WHAT)?);
            let epoch: Epoch = reader.varint_as(WHAT)?;
            slots.push(Slot {
                instance,
                shard,
                term: Term::new(epoch, reader.varint(WHAT)?),
            });
        }
        Ok(Self {
            reader,
            last: vec![0; slots.len()],
            slots,
            items,
        })
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The next item; `None` after the last.
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, FormatError> {
        if self.items == 0 {
            self.reader.finish("a frame's payload")?;
            return Ok(None);
        }
        self.items -= 1;
        let offset = self.reader.offset();
        let code = self.reader.u8("an item's kind")?;
        if code >= FIRST_NOTE_KIND {
            return LocalNote::decode(code, &mut self.reader).map(|note| Some(Item::Note(note)));
        }
        let invalid = |what, value| FormatError::Invalid {
            what,
            offset,
            value,
        };
        let kind = RecordKind::from_code(code).ok_or(invalid("an item's kind", code.into()))?;
        let at = self.reader.varint_as::<usize>("a record's slot")?;
        let slot = *self
            .slots
            .get(at)
            .ok_or(invalid("a record's slot", len64(at)))?;
        let step = unzigzag(self.reader.varint("a record's Seq")?);
        let number = self.last[at].wrapping_add(step);
        self.last[at] = number;
        let seq = Seq::try_from(number)
            .ok()
            .filter(|&seq| seq != Seq::ZERO)
            .ok_or(invalid("a record's Seq", number))?;
        let raw_len = match self.reader.u8("a record's flags")? {
            0 => None,
            FLAG_ZSTD => Some(self.reader.varint_as::<usize>("a raw length")?),
            flags => return Err(invalid("a record's flags", flags.into())),
        };
        // Bounds what decompression may take from memory.
        if raw_len.is_some_and(|len| len > MAX_BODY_BYTES) {
            return Err(invalid("a raw length", u64::MAX));
        }
        let body = self.reader.span("a record's body")?;
        Ok(Some(Item::Record(RecordItem {
            slot,
            slot_at: at,
            kind,
            seq,
            raw_len,
            body,
        })))
    }
}

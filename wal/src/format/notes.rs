//! What a node notes for itself in its log: records of their own kinds, which take no Seq and never leave it.
//!
//! ```text
//! note := kind u8 (64..) | length varint | body
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes};

use crate::codec::{FormatError, Reader, len64, put_varint};
use crate::words::{Epoch, InstanceId, Seq, ShardId, Term, TermStart};

/// The first code of notes; records have the codes below.
pub(crate) const FIRST_NOTE_KIND: u8 = 64;
const HOST: u8 = 64;
const FORGET: u8 = 65;
const FLUSHED: u8 = 66;
const HOLD: u8 = 67;
const RELEASE_HOLD: u8 = 68;
const NOTE: u8 = 69;
const FIRST_SEGMENT: u8 = 70;

/// A hold as it is kept in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HoldNote {
    pub(crate) name: String,
    pub(crate) from: Seq,
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    /// How much of `time` was spent when this was written.
    pub(crate) spent: Duration,
}

/// A node-local note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LocalNote {
    Host {
        shard: ShardId,
        instance: InstanceId,
        base: Seq,
        terms: Vec<TermStart>,
    },
    Forget(InstanceId),
    Flushed(InstanceId, Seq),
    Hold(InstanceId, HoldNote),
    ReleaseHold(InstanceId, String),
    /// An empty value removes.
    Note(InstanceId, String, Bytes),
    /// Segments below are no longer needed.
    FirstSegment(u64),
}

impl LocalNote {
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Self::Host { .. } => HOST,
            Self::Forget(_) => FORGET,
            Self::Flushed(..) => FLUSHED,
            Self::Hold(..) => HOLD,
            Self::ReleaseHold(..) => RELEASE_HOLD,
            Self::Note(..) => NOTE,
            Self::FirstSegment(_) => FIRST_SEGMENT,
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Host { .. } => "host",
            Self::Forget(_) => "forget",
            Self::Flushed(..) => "flushed",
            Self::Hold(..) => "hold",
            Self::ReleaseHold(..) => "release-hold",
            Self::Note(..) => "note",
            Self::FirstSegment(_) => "first-segment",
        }
    }

    pub(crate) const fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Host { instance, .. } => Some(*instance),
            Self::Forget(id)
            | Self::Flushed(id, _)
            | Self::Hold(id, _)
            | Self::ReleaseHold(id, _)
            | Self::Note(id, ..) => Some(*id),
            Self::FirstSegment(_) => None,
        }
    }

    /// Appends kind, length and body.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Host {
                shard,
                instance,
                base,
                terms,
            } => {
                body.put_u128_le(instance.0);
                put_varint(&mut body, shard.0);
                put_varint(&mut body, base.0);
                put_terms(&mut body, terms);
            }
            Self::Forget(id) => body.put_u128_le(id.0),
            Self::Flushed(id, seq) => {
                body.put_u128_le(id.0);
                put_varint(&mut body, seq.0);
            }
            Self::Hold(id, hold) => {
                body.put_u128_le(id.0);
                put_hold(&mut body, hold);
            }
            Self::ReleaseHold(id, name) => {
                body.put_u128_le(id.0);
                put_bytes(&mut body, name.as_bytes());
            }
            Self::Note(id, key, value) => {
                body.put_u128_le(id.0);
                put_bytes(&mut body, key.as_bytes());
                put_bytes(&mut body, value);
            }
            Self::FirstSegment(segment) => put_varint(&mut body, *segment),
        }
        out.put_u8(self.kind());
        put_bytes(out, &body);
    }

    /// Reads a note whose kind was read already; `reader` stands at the length.
    pub(crate) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        const WHAT: &str = "a note";
        let offset = reader.offset();
        let len = reader.varint_as::<usize>(WHAT)?;
        let mut body = Reader::new(reader.take(len, WHAT)?);
        let note = match kind {
            HOST => {
                let instance = InstanceId(body.u128_le(WHAT)?);
                Self::Host {
                    instance,
                    shard: ShardId(body.varint(WHAT)?),
                    base: body.varint_as(WHAT)?,
                    terms: take_terms(&mut body)?,
                }
            }
            FORGET => Self::Forget(InstanceId(body.u128_le(WHAT)?)),
            FLUSHED => Self::Flushed(InstanceId(body.u128_le(WHAT)?), body.varint_as(WHAT)?),
            HOLD => Self::Hold(InstanceId(body.u128_le(WHAT)?), take_hold(&mut body)?),
            RELEASE_HOLD => {
                Self::ReleaseHold(InstanceId(body.u128_le(WHAT)?), take_text(&mut body)?)
            }
            NOTE => Self::Note(
                InstanceId(body.u128_le(WHAT)?),
                take_text(&mut body)?,
                Bytes::copy_from_slice(take_bytes(&mut body)?),
            ),
            FIRST_SEGMENT => Self::FirstSegment(body.varint(WHAT)?),
            other => {
                return Err(FormatError::Invalid {
                    what: "a note's kind",
                    offset,
                    value: other.into(),
                });
            }
        };
        body.finish(WHAT)?;
        Ok(note)
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, len64(bytes.len()));
    out.put_slice(bytes);
}

pub(super) fn take_bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], FormatError> {
    let len = reader.varint_as::<usize>("a note's bytes")?;
    reader.take(len, "a note's bytes")
}

pub(super) fn take_text(reader: &mut Reader<'_>) -> Result<String, FormatError> {
    let offset = reader.offset();
    let bytes = take_bytes(reader)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| FormatError::Invalid {
        what: "a note's text",
        offset,
        value: len64(bytes.len()),
    })
}

pub(super) fn put_terms(out: &mut Vec<u8>, terms: &[TermStart]) {
    put_varint(out, len64(terms.len()));
    for start in terms {
        put_varint(out, start.term.epoch.0);
        put_varint(out, start.term.opening);
        put_varint(out, start.first.0);
    }
}

pub(super) fn take_terms(reader: &mut Reader<'_>) -> Result<Vec<TermStart>, FormatError> {
    const WHAT: &str = "a term history";
    let count = reader.varint_as::<usize>(WHAT)?;
    let mut terms = Vec::with_capacity(count.min(reader.remaining() / 3));
    for _ in 0..count {
        let epoch: Epoch = reader.varint_as(WHAT)?;
        let opening = reader.varint(WHAT)?;
        terms.push(TermStart {
            term: Term::new(epoch, opening),
            first: reader.varint_as(WHAT)?,
        });
    }
    Ok(terms)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn put_hold(out: &mut Vec<u8>, hold: &HoldNote) {
    put_bytes(out, hold.name.as_bytes());
    put_varint(out, hold.from.0);
    put_varint(out, hold.bytes);
    put_varint(out, millis(hold.time));
    put_varint(out, millis(hold.spent));
}

pub(super) fn take_hold(reader: &mut Reader<'_>) -> Result<HoldNote, FormatError> {
    const WHAT: &str = "a hold";
    Ok(HoldNote {
        name: take_text(reader)?,
        from: reader.varint_as(WHAT)?,
        bytes: reader.varint(WHAT)?,
        time: Duration::from_millis(reader.varint(WHAT)?),
        spent: Duration::from_millis(reader.varint(WHAT)?),
    })
}

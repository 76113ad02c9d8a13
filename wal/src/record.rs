//! A record of the log, and how records travel between nodes.
//!
//! A [`Record`] is what one Seq of a shard holds: its term, kind, body and hash. It is immutable and cheap to
//! clone (the body is shared). How records lie in segment files is the log's business; here is only the
//! transport encoding, [`Record::encode_many`], and the body of [`RecordKind::Start`].
//!
//! ```text
//! message := version u8 (1) | count varint | record * count | crc32 u32 LE of all bytes before it
//! record  := kind u8 | epoch varint | opening varint | Seq varint | length varint | body
//! ```
//!
//! A decoder refuses the whole message at the first thing wrong: a peer that sends one bad byte is asked again,
//! its other bytes are not trusted. The hash does not travel; the receiver computes its own.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{FormatError, Reader, len64, put_varint, varint_len};
use crate::digest::record_hash;
use crate::seqset::SeqRange;
use crate::words::{Epoch, InstanceId, Seq, Term};

const MESSAGE_VERSION: u8 = 1;
const START_VERSION: u8 = 1;
const CRC: usize = 4;
/// Kind, four one-byte varints: what a record takes at the least.
const MIN_RECORD: usize = 5;

/// What a record's body is. The codes are part of the format; those from 64 on are the log's own notes, which
/// take no Seq and never leave their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[non_exhaustive]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// Operations on keys, as `BatchBuilder` encodes them.
    Batch,
    /// The start of a term, a [`StartBody`].
    Start,
    /// A point at which copies are compared.
    Mark,
    /// Up to which Seq tombstones may go.
    PurgeMark,
    /// Entries repaired by anti-entropy, applied where the stored version is older.
    Repair,
    /// Seqs given up at an activation, which marks may pass.
    SealedHoles,
}

impl RecordKind {
    /// Every kind, in the order of the codes.
    pub const ALL: [Self; 6] = [
        Self::Batch,
        Self::Start,
        Self::Mark,
        Self::PurgeMark,
        Self::Repair,
        Self::SealedHoles,
    ];

    /// The number that stands for it in files and messages.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Start => 2,
            Self::Mark => 3,
            Self::PurgeMark => 4,
            Self::Repair => 5,
            Self::SealedHoles => 6,
        }
    }

    /// The kind of a number, or `None`: damage, or a newer writer.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl std::fmt::Display for RecordKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Batch => "batch",
            Self::Start => "start",
            Self::Mark => "mark",
            Self::PurgeMark => "purge-mark",
            Self::Repair => "repair",
            Self::SealedHoles => "sealed-holes",
        })
    }
}

/// What one Seq of a shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    term: Term,
    seq: Seq,
    kind: RecordKind,
    body: Bytes,
    hash: u128,
}

impl Record {
    /// A record; computes its hash.
    #[must_use]
    pub fn new(term: Term, seq: Seq, kind: RecordKind, body: Bytes) -> Self {
        let hash = record_hash(kind, term, seq, &body);
        Self {
            term,
            seq,
            kind,
            body,
            hash,
        }
    }

    /// The term of the owner that wrote it.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Its number in the shard.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.seq
    }

    /// What the body is.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        self.kind
    }

    /// The body, shared with every clone.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// xxh3-128 over kind, term, Seq and body: the same on every node.
    #[must_use]
    pub const fn hash(&self) -> u128 {
        self.hash
    }

    /// The bytes it takes in [`Record::encode_many`], for keeping messages within a bound.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        1 + varint_len(self.term.epoch.0)
            + varint_len(self.term.opening)
            + varint_len(self.seq.0)
            + varint_len(len64(self.body.len()))
            + self.body.len()
    }

    /// The transport encoding of records, in the order given.
    #[must_use]
    pub fn encode_many(records: &[Self]) -> Bytes {
        let head = 1 + varint_len(len64(records.len()));
        let len = head + records.iter().map(Self::encoded_len).sum::<usize>() + CRC;
        let mut out = BytesMut::with_capacity(len);
        out.put_u8(MESSAGE_VERSION);
        put_varint(&mut out, len64(records.len()));
        for record in records {
            out.put_u8(record.kind.code());
            put_varint(&mut out, record.term.epoch.0);
            put_varint(&mut out, record.term.opening);
            put_varint(&mut out, record.seq.0);
            put_varint(&mut out, len64(record.body.len()));
            out.put_slice(&record.body);
        }
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        debug_assert_eq!(out.len(), len);
        out.freeze()
    }

    /// Reads what [`Record::encode_many`] made. Bodies are slices of `bytes`, not copies.
    ///
    /// # Errors
    /// When the bytes are damaged, cut, too long, or of a newer version.
    pub fn decode_many(bytes: &Bytes) -> Result<Vec<Self>, FormatError> {
        const WHAT: &str = "a message of records";
        let version = Reader::new(bytes).u8(WHAT)?;
        check_version(WHAT, version, MESSAGE_VERSION)?;
        let Some(end) = bytes.len().checked_sub(CRC).filter(|&end| end > 0) else {
            return Err(FormatError::Truncated {
                what: WHAT,
                offset: 0,
            });
        };
        let found = Reader::starting_at(bytes, end).u32_le(WHAT)?;
        let computed = crc32fast::hash(&bytes[..end]);
        if found != computed {
            return Err(FormatError::Checksum {
                what: WHAT,
                found,
                computed,
            });
        }
        let mut reader = Reader::starting_at(&bytes[..end], 1);
        let count = reader.varint_as::<usize>("the count of records")?;
        let mut records = Vec::with_capacity(count.min(reader.remaining() / MIN_RECORD));
        for _ in 0..count {
            records.push(Self::decode_one(bytes, &mut reader)?);
        }
        reader.finish(WHAT)?;
        Ok(records)
    }

    fn decode_one(bytes: &Bytes, reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let offset = reader.offset();
        let code = reader.u8("a record's kind")?;
        let kind = RecordKind::from_code(code).ok_or(FormatError::Invalid {
            what: "a record's kind",
            offset,
            value: u64::from(code),
        })?;
        let epoch: Epoch = reader.varint_as("a record's epoch")?;
        let opening = reader.varint("a record's opening")?;
        let offset = reader.offset();
        let seq: Seq = reader.varint_as("a record's Seq")?;
        if seq == Seq::ZERO {
            return Err(FormatError::Invalid {
                what: "a record's Seq",
                offset,
                value: 0,
            });
        }
        let body = reader.span("a record's body")?;
        Ok(Self::new(
            Term::new(epoch, opening),
            seq,
            kind,
            bytes.slice(body),
        ))
    }
}

/// Versions go up only: a higher one is a newer writer's, zero was never written.
pub(crate) fn check_version(
    what: &'static str,
    found: u8,
    supported: u8,
) -> Result<(), FormatError> {
    if found == 0 {
        return Err(FormatError::Invalid {
            what,
            offset: 0,
            value: 0,
        });
    }
    if found > supported {
        return Err(FormatError::Newer {
            what,
            found: found.into(),
            supported: supported.into(),
        });
    }
    Ok(())
}

/// The body of a [`RecordKind::Start`] record: who starts, and which Seqs of the term before are void.
///
/// `version u8 (1) | instance u128 LE | void u8 (0 or 1) | first varint, last varint if 1`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartBody {
    /// The owner's instance.
    pub instance: InstanceId,
    /// The Seqs that the start skipped: lost with a cut tail, never to be used again.
    pub void: Option<SeqRange>,
}

impl StartBody {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(18 + 2 * crate::codec::MAX_VARINT);
        out.put_u8(START_VERSION);
        out.put_u128_le(self.instance.0);
        out.put_u8(u8::from(self.void.is_some()));
        if let Some(void) = self.void {
            put_varint(&mut out, void.first().0);
            put_varint(&mut out, void.last().0);
        }
        out.freeze()
    }

    /// Reads what [`StartBody::encode`] made.
    ///
    /// # Errors
    /// When the bytes are damaged, cut, too long, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "a start record's body";
        let mut reader = Reader::new(bytes);
        check_version(WHAT, reader.u8(WHAT)?, START_VERSION)?;
        let instance = InstanceId(reader.u128_le("a start record's instance")?);
        let offset = reader.offset();
        let void = match reader.u8("a start record's void flag")? {
            0 => None,
            1 => {
                let offset = reader.offset();
                let first: Seq = reader.varint_as("the first void Seq")?;
                let last: Seq = reader.varint_as("the last void Seq")?;
                let range = SeqRange::new(first, last).ok_or(FormatError::Invalid {
                    what: "a start record's void range",
                    offset,
                    value: first.0,
                })?;
                Some(range)
            }
            flag => {
                return Err(FormatError::Invalid {
                    what: "a start record's void flag",
                    offset,
                    value: flag.into(),
                });
            }
        };
        reader.finish(WHAT)?;
        Ok(Self { instance, void })
    }
}

//! The encoding of operations: the body of a [`RecordKind::Batch`](crate::RecordKind::Batch) record.
//!
//! ```text
//! batch  := version u8 (1) | header flags u8 | [client] | operation *
//! client := id u128 LE | number varint | result length varint | result      if header flag 1 is set
//! operation := tag u8 | flags u8 | keyspace varint (u32) | a length varint | a | [b length varint | b]
//!     tag 1 put           a = key    b = value
//!     tag 2 delete        a = key    (no b)
//!     tag 3 range delete  a = from   b = to, not included
//!     tag 4 merge         a = key    b = operand
//! ```
//!
//! What stands here from the first version on though nothing writes it yet (operation flags, range deletes, merges,
//! the client section) is read and written by this module like the rest, so that old programs keep such records
//! whole. Keyspace 0 is the users'; who uses others is said in engine/STORE.md. An unknown tag or header flag is refused: whoever adds one raises the
//! version. A batch is not checksummed here; the record's frame is. Sizes of keys and values are the engine's
//! to limit. The order of operations is kept, and a later one wins.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{FormatError, MAX_VARINT, Reader, len64, put_varint, varint_len};
use crate::record::check_version;

const VERSION: u8 = 1;
const HEADER: usize = 2;
const HAS_CLIENT: u8 = 1;
const WHAT: &str = "a batch";

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const MERGE: u8 = 4;
/// Tag, flags and the keyspace's one byte.
const OP_HEAD: usize = 3;

/// One operation of a batch. The bytes are slices of the record's body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key's keyspace; 0 unless said otherwise.
        keyspace: u32,
        /// Reserved for the value's form; 0.
        flags: u8,
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key's keyspace; 0 unless said otherwise.
        keyspace: u32,
        /// Reserved; 0.
        flags: u8,
        /// The key.
        key: Bytes,
    },
    /// Removes each key in `from..to`.
    DeleteRange {
        /// The keys' keyspace; 0 unless said otherwise.
        keyspace: u32,
        /// Reserved; 0.
        flags: u8,
        /// The least key to go.
        from: Bytes,
        /// The least key above it to stay.
        to: Bytes,
    },
    /// Merges an operand into a key's value.
    Merge {
        /// The key's keyspace; 0 unless said otherwise.
        keyspace: u32,
        /// Reserved; 0.
        flags: u8,
        /// The key.
        key: Bytes,
        /// What is merged in.
        operand: Bytes,
    },
}

/// Whose write it is, so that one sent twice is applied once: it rides in the write's own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStamp {
    /// The client's session.
    pub id: u128,
    /// The write's number in that session.
    pub number: u64,
    /// What the client was told.
    pub result: Bytes,
}

/// Collects operations and makes the body of a batch record.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    out: BytesMut,
    ops: usize,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty batch with room for `bytes` of operations.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = BytesMut::with_capacity(HEADER + bytes);
        out.put_slice(&[VERSION, 0]);
        Self { out, ops: 0 }
    }

    /// An empty batch that carries its client's stamp.
    #[must_use]
    pub fn stamped(client: &ClientStamp) -> Self {
        let mut out = BytesMut::with_capacity(HEADER + 16 + 2 * MAX_VARINT + client.result.len());
        out.put_slice(&[VERSION, HAS_CLIENT]);
        out.put_u128_le(client.id);
        put_varint(&mut out, client.number);
        put_slice(&mut out, &client.result);
        Self { out, ops: 0 }
    }

    /// Sets a key of keyspace 0.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> &mut Self {
        self.op(PUT, 0, 0, key, Some(value))
    }

    /// Removes a key of keyspace 0.
    pub fn delete(&mut self, key: &[u8]) -> &mut Self {
        self.op(DELETE, 0, 0, key, None)
    }

    /// Adds any operation, as it was read from another batch.
    pub fn push(&mut self, op: &Op) -> &mut Self {
        match op {
            Op::Put {
                keyspace,
                flags,
                key,
                value,
            } => self.op(PUT, *flags, *keyspace, key, Some(value)),
            Op::Delete {
                keyspace,
                flags,
                key,
            } => self.op(DELETE, *flags, *keyspace, key, None),
            Op::DeleteRange {
                keyspace,
                flags,
                from,
                to,
            } => self.op(DELETE_RANGE, *flags, *keyspace, from, Some(to)),
            Op::Merge {
                keyspace,
                flags,
                key,
                operand,
            } => self.op(MERGE, *flags, *keyspace, key, Some(operand)),
        }
    }

    fn op(&mut self, tag: u8, flags: u8, keyspace: u32, a: &[u8], b: Option<&[u8]>) -> &mut Self {
        let len = OP_HEAD + a.len() + b.map_or(0, <[u8]>::len) + 3 * MAX_VARINT;
        self.out.reserve(len);
        put_op(&mut self.out, [tag, flags], keyspace, a, b);
        self.ops += 1;
        self
    }

    /// How many operations.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ops
    }

    /// Whether there is no operation.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// The size of the body so far, in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.out.len()
    }

    /// The body.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

/// The body of a batch of one put, in one allocation of the exact size.
#[must_use]
pub fn single_put(key: &[u8], value: &[u8]) -> Bytes {
    let len = HEADER + OP_HEAD + sized(key.len()) + sized(value.len());
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(&[VERSION, 0, PUT, 0, 0]);
    put_slice(&mut out, key);
    put_slice(&mut out, value);
    debug_assert_eq!(out.len(), len);
    Bytes::from(out)
}

/// The body of a batch of one delete, in one allocation of the exact size.
#[must_use]
pub fn single_delete(key: &[u8]) -> Bytes {
    let len = HEADER + OP_HEAD + sized(key.len());
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(&[VERSION, 0, DELETE, 0, 0]);
    put_slice(&mut out, key);
    debug_assert_eq!(out.len(), len);
    Bytes::from(out)
}

/// Adds a put to the end of a whole body. The keyspace need not be 0: this is how who keeps entries of its own in a
/// store writes them together with a batch that is encoded already.
pub fn append_put(body: &mut Vec<u8>, keyspace: u32, key: &[u8], value: &[u8]) {
    put_op(body, [PUT, 0], keyspace, key, Some(value));
}

/// How many bytes [`append_put`] adds.
#[must_use]
pub fn appended_put_len(keyspace: u32, key_len: usize, value_len: usize) -> usize {
    2 + varint_len(keyspace.into()) + sized(key_len) + sized(value_len)
}

fn put_op(out: &mut impl BufMut, head: [u8; 2], keyspace: u32, a: &[u8], b: Option<&[u8]>) {
    out.put_slice(&head);
    put_varint(out, keyspace.into());
    put_slice(out, a);
    if let Some(b) = b {
        put_slice(out, b);
    }
}

/// What a slice of so many bytes takes with its length before it.
fn sized(len: usize) -> usize {
    varint_len(len64(len)) + len
}

fn put_slice(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, len64(bytes.len()));
    out.put_slice(bytes);
}

/// Reads a batch's operations in order. The first error is the last item.
#[derive(Clone, Debug)]
pub struct BatchReader {
    body: Bytes,
    client: Option<ClientStamp>,
    /// Where the next operation starts; the end of the body after an error.
    at: usize,
}

impl BatchReader {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is damaged, cut, or of a newer version.
    pub fn new(body: Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(&body);
        check_version(WHAT, reader.u8(WHAT)?, VERSION)?;
        let offset = reader.offset();
        let flags = reader.u8("a batch's header flags")?;
        let client = match flags {
            0 => None,
            HAS_CLIENT => Some(ClientStamp {
                id: reader.u128_le("a batch's client id")?,
                number: reader.varint("a batch's client number")?,
                result: body.slice(reader.span("a batch's client result")?),
            }),
            _ => {
                return Err(FormatError::Invalid {
                    what: "a batch's header flags",
                    offset,
                    value: flags.into(),
                });
            }
        };
        let at = reader.offset();
        Ok(Self { body, client, at })
    }

    /// The client's stamp, where the batch has one.
    #[must_use]
    pub const fn client(&self) -> Option<&ClientStamp> {
        self.client.as_ref()
    }

    fn next_raw(&mut self) -> Option<Result<RawOp, FormatError>> {
        let mut reader = Reader::starting_at(&self.body, self.at);
        if reader.is_empty() {
            return None;
        }
        let op = RawOp::read(&mut reader);
        self.at = match op {
            Ok(_) => reader.offset(),
            Err(_) => self.body.len(),
        };
        Some(op)
    }
}

impl Iterator for BatchReader {
    type Item = Result<Op, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let raw = self.next_raw()?;
        Some(raw.map(|raw| raw.slice(&self.body)))
    }
}

/// An operation as places in the body.
struct RawOp {
    tag: u8,
    flags: u8,
    keyspace: u32,
    a: Range<usize>,
    /// Empty for a delete.
    b: Range<usize>,
}

impl RawOp {
    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let offset = reader.offset();
        let tag = reader.u8("an operation's tag")?;
        let (of_a, of_b) = match tag {
            PUT => ("a put's key", Some("a put's value")),
            DELETE => ("a delete's key", None),
            DELETE_RANGE => ("a range delete's start", Some("a range delete's end")),
            MERGE => ("a merge's key", Some("a merge's operand")),
            _ => {
                return Err(FormatError::Invalid {
                    what: "an operation's tag",
                    offset,
                    value: tag.into(),
                });
            }
        };
        let flags = reader.u8("an operation's flags")?;
        let keyspace = reader.varint_as("an operation's keyspace")?;
        let a = reader.span(of_a)?;
        let b = match of_b {
            Some(what) => reader.span(what)?,
            None => 0..0,
        };
        Ok(Self {
            tag,
            flags,
            keyspace,
            a,
            b,
        })
    }

    fn slice(self, body: &Bytes) -> Op {
        let Self {
            tag,
            flags,
            keyspace,
            a,
            b,
        } = self;
        let (a, b) = (body.slice(a), body.slice(b));
        match tag {
            PUT => Op::Put {
                keyspace,
                flags,
                key: a,
                value: b,
            },
            DELETE => Op::Delete {
                keyspace,
                flags,
                key: a,
            },
            DELETE_RANGE => Op::DeleteRange {
                keyspace,
                flags,
                from: a,
                to: b,
            },
            _ => {
                debug_assert_eq!(tag, MERGE);
                Op::Merge {
                    keyspace,
                    flags,
                    key: a,
                    operand: b,
                }
            }
        }
    }
}

/// Checks a whole body without applying it; gives the number of operations.
///
/// # Errors
/// At the first thing wrong, as [`BatchReader`] would meet it.
pub fn validate_batch(body: &Bytes) -> Result<usize, FormatError> {
    let mut reader = BatchReader::new(body.clone())?;
    let mut ops = 0;
    while let Some(op) = reader.next_raw() {
        op?;
        ops += 1;
    }
    Ok(ops)
}

//! The small change of every format in this crate: varints, a checked cursor, and what can be wrong.
//!
//! Varints are LEB128, least significant group first, at most ten bytes, and only the shortest form is
//! accepted: one value has one encoding, so re-encoding what was decoded gives the same bytes. Nothing here
//! allocates by a length it has not checked against the bytes that are there.

use thiserror::Error;

/// Why bytes are not what they should be. Never a reason to go on with the rest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end too early: a cut file or message.
    #[error("{what} at byte {offset}: the bytes end inside it; the file or message was cut")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A value no writer of this format makes: damage, or not ours.
    #[error(
        "{what} at byte {offset} is invalid ({value}); the file or message is damaged or not Watershed's"
    )]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// What stands there.
        value: u64,
    },
    /// Written by a newer version: nothing is wrong with the bytes, this program is too old for them.
    #[error(
        "{what} has format version {found}, this program reads up to {supported}: use a newer Watershed"
    )]
    Newer {
        /// What carries the version.
        what: &'static str,
        /// The version that it has.
        found: u64,
        /// The newest that can be read.
        supported: u64,
    },
    /// The checksum does not match: damage.
    #[error(
        "{what}: checksum {found:08x} stands there, the bytes give {computed:08x}; they are damaged"
    )]
    Checksum {
        /// What the checksum covers.
        what: &'static str,
        /// What stands there.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// Whole, and then more bytes than there should be.
    #[error(
        "{what} ends at byte {offset}, and {extra} more bytes follow; the file or message is damaged"
    )]
    TrailingBytes {
        /// What should have ended.
        what: &'static str,
        /// Where it ends.
        offset: usize,
        /// How many bytes follow.
        extra: usize,
    },
}

/// The longest varint of 64 bits.
pub(crate) const MAX_VARINT: usize = 10;

/// How many bytes [`put_varint`] writes.
pub(crate) const fn varint_len(value: u64) -> usize {
    // One byte for each started group of seven bits; zero takes one too.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut impl bytes::BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// A length as the formats carry it. Memory has no more than 2^64 bytes, so nothing narrows.
pub(crate) const fn len64(len: usize) -> u64 {
    len as u64
}

/// A checked cursor over bytes from a disk or a peer.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A reader that starts inside `bytes`; offsets in errors count from their start.
    pub(crate) const fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) const fn offset(&self) -> usize {
        self.at
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(len);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let slice = slice.ok_or(FormatError::Truncated {
            what,
            offset: self.at,
        })?;
        self.at += len;
        Ok(slice)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u32_le(&mut self, what: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64_le(&mut self, what: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u128_le(&mut self, what: &'static str) -> Result<u128, FormatError> {
        Ok(u128::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, FormatError> {
        let offset = self.at;
        let mut value = 0u64;
        for group in 0..MAX_VARINT {
            let byte = self
                .u8(what)
                .map_err(|_| FormatError::Truncated { what, offset })?;
            let bits = u64::from(byte & 0x7f);
            value |= bits << (7 * group);
            if byte & 0x80 != 0 {
                continue;
            }
            let longer_than_needed = group > 0 && bits == 0;
            let too_large = group == MAX_VARINT - 1 && bits > 1;
            if longer_than_needed || too_large {
                break;
            }
            return Ok(value);
        }
        Err(FormatError::Invalid {
            what,
            offset,
            value,
        })
    }

    /// A varint that must fit a smaller type.
    pub(crate) fn varint_as<T: TryFrom<u64>>(
        &mut self,
        what: &'static str,
    ) -> Result<T, FormatError> {
        let offset = self.at;
        let value = self.varint(what)?;
        T::try_from(value).map_err(|_| FormatError::Invalid {
            what,
            offset,
            value,
        })
    }

    /// A length varint and that many bytes, as a range of the input, for slicing a shared buffer.
    pub(crate) fn span(
        &mut self,
        what: &'static str,
    ) -> Result<std::ops::Range<usize>, FormatError> {
        let len = self.varint_as::<usize>(what)?;
        let start = self.at;
        self.take(len, what)?;
        Ok(start..self.at)
    }

    /// That nothing is left.
    pub(crate) fn finish(&self, what: &'static str) -> Result<(), FormatError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(FormatError::TrailingBytes {
            what,
            offset: self.at,
            extra: self.remaining(),
        })
    }
}

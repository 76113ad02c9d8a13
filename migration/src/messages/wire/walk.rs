//! The first look at a message, before anything is made of it: whether this node may read it, and whether each list
//! in it keeps its bound. It allocates nothing, so that a few bytes can't ask for much memory.
//!
//! Where lists are is in the table that build.rs makes of the protocol; whatever is not in it is stepped over.

use super::bounds::{self, Bound};
use super::fault::{Fault, Within};
use crate::messages::{MESSAGE_VERSION, WireError};

/// Where the lists are in a message: the fields that are lists, or hold messages that have some.
pub(in crate::messages) struct Shape(&'static [Field]);

struct Field {
    number: u32,
    name: &'static str,
    list: Option<(List, Bound)>,
    inside: Option<&'static Shape>,
}

/// How the elements of a list stand on the wire.
enum List {
    /// Each in a field of its own.
    Elements,
    /// Varints, many in one field.
    Packed,
}

mod shapes {
    use super::{Field, List, Shape, bounds};

    include!(concat!(env!("OUT_DIR"), "/shapes.rs"));
}

/// The bodies of a request.
pub(super) static REQUEST: &Shape = &shapes::REQUEST;
/// The bodies of a response.
pub(super) static RESPONSE: &Shape = &shapes::RESPONSE;

/// The fields of Request and Response that are no bodies, and the first number of a body.
const VERSION: u32 = 1;
const READABLE_FROM: u32 = 2;
const FIRST_BODY: u32 = 16;

/// Whether a message may be decoded; `what` is a request or a response, as `bodies` has them.
pub(super) fn look(what: &'static str, bodies: &Shape, bytes: &[u8]) -> Result<(), WireError> {
    let (mut version, mut readable_from) = (0, 0);
    let mut body = None;
    let mut fields = Fields(bytes);
    while let Some((number, held)) = fields
        .next()
        .map_err(|broken| Fault::from(broken).of_a(what))?
    {
        match (number, held) {
            (VERSION, Held::Number(n)) => version = n,
            (READABLE_FROM, Held::Number(n)) => readable_from = n,
            (FIRST_BODY.., _) if body.is_some() => {
                return Err(Fault::here("it has two bodies").of_a(what));
            }
            (FIRST_BODY.., held) => body = Some((number, held)),
            _ => {}
        }
    }
    let version = may_read(what, version, readable_from)?;
    let Some((number, held)) = body else {
        return Err(Fault::here("it has no body").of_a(what));
    };
    let Some(field) = bodies.0.iter().find(|field| field.number == number) else {
        return Err(WireError::Unknown {
            what,
            field: number,
            version,
        });
    };
    match (field.inside, held) {
        (Some(shape), Held::Bytes(bytes)) => check(shape, bytes)
            .within(field.name)
            .map_err(|fault| fault.of_a(what)),
        // What is no message is for the decoder to refuse.
        _ => Ok(()),
    }
}

/// The sender's version, where that and what it says of older readers let this node read on.
fn may_read(what: &'static str, version: u64, readable_from: u64) -> Result<u32, WireError> {
    let checked = |field: &str, number: u64| {
        let number = u32::try_from(number).ok().filter(|number| *number > 0);
        number.ok_or_else(|| {
            Err::<(), _>(Fault::here("missing, or no version"))
                .within(field)
                .unwrap_err()
                .of_a(what)
        })
    };
    let version = checked("version", version)?;
    let readable_from = checked("readable_from", readable_from)?;
    if readable_from > version {
        let why = format!("{readable_from} is beyond the sender's own version {version}");
        return Err(Fault::here(format!("readable_from: {why}")).of_a(what));
    }
    if readable_from > MESSAGE_VERSION {
        return Err(WireError::Version {
            found: version,
            readable_from,
        });
    }
    Ok(version)
}

/// Counts the elements of each list in a message, and in those it holds.
fn check(shape: &Shape, bytes: &[u8]) -> Result<(), Fault> {
    let mut counts = [0_usize; shapes::FIELDS_MAX];
    let mut fields = Fields(bytes);
    while let Some((number, held)) = fields.next()? {
        let known = shape.0.iter().zip(&mut counts);
        let Some((field, count)) = known.into_iter().find(|(field, _)| field.number == number)
        else {
            continue;
        };
        *count += match (&field.list, &held) {
            (Some((List::Packed, _)), Held::Bytes(packed)) => {
                // A varint ends with the byte that has no eighth bit.
                packed.iter().filter(|byte| **byte < 0x80).count()
            }
            _ => 1,
        };
        if let (Some(inside), Held::Bytes(bytes)) = (field.inside, held) {
            check(inside, bytes).within(field.name)?;
        }
    }
    for (field, count) in shape.0.iter().zip(counts) {
        match &field.list {
            Some((_, bound)) if count > bound.most * bound.numbers => {
                return Err(Fault::Bound {
                    list: bound.list,
                    found: count.div_ceil(bound.numbers),
                    most: bound.most,
                });
            }
            // A decoder would join them, and so their lists.
            None if count > 1 => return Err(Fault::here("given twice")).within(field.name),
            _ => {}
        }
    }
    Ok(())
}

/// What a field holds.
enum Held<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A number of four or eight bytes: no list or message is one.
    Fixed,
}

/// Bytes that are no fields, and why. Small, as it comes back from every step.
struct Broken(&'static str);

impl From<Broken> for Fault {
    fn from(Broken(why): Broken) -> Self {
        Self::here(why)
    }
}

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn next(&mut self) -> Result<Option<(u32, Held<'a>)>, Broken> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(Broken("a field has no valid number"))?;
        let held = match key & 7 {
            0 => Held::Number(self.varint()?),
            1 => self.take(8).map(|_| Held::Fixed)?,
            2 => {
                let len = self.varint()?;
                Held::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Held::Fixed)?,
            // Groups are of old versions of Protocol Buffers; nothing of ours has them.
            _ => return Err(Broken("a field is of a form that no message has")),
        };
        Ok(Some((number, held)))
    }

    #[inline]
    fn take(&mut self, len: u64) -> Result<&'a [u8], Broken> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len));
        let (taken, rest) = split.ok_or(Broken("it is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Broken> {
        // Most are of one byte.
        if let [byte @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Broken("it is cut"))?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // Of the tenth byte one bit is left.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Broken("a number of more than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use prost::encoding::varint::{decode_varint, encode_varint};

    use super::*;

    fn read(bytes: &[u8]) -> Option<(u64, usize)> {
        let mut fields = Fields(bytes);
        let number = fields.varint().ok()?;
        Some((number, bytes.len() - fields.0.len()))
    }

    /// What one of both refused or took for another number, the count and the decoded list would differ in.
    #[test]
    fn numbers_are_those_of_the_decoder() {
        let mut all: Vec<Vec<u8>> = vec![vec![], vec![0x80], vec![0x80, 0]];
        for bits in 0..64 {
            for number in [1_u64 << bits, (1 << bits) - 1, u64::MAX >> bits] {
                let mut bytes = vec![];
                encode_varint(number, &mut bytes);
                all.push(bytes);
            }
        }
        for last in [0, 1, 2, 0x7f, 0x80] {
            for len in 7..11 {
                all.push([&vec![0xff; len][..], &[last]].concat());
            }
        }
        for bytes in all {
            let mut rest = &bytes[..];
            let decoded = decode_varint(&mut rest).ok();
            let decoded = decoded.map(|number| (number, bytes.len() - rest.len()));
            assert_eq!(read(&bytes), decoded, "{bytes:?}");
        }
    }

    #[test]
    fn a_field_ends_where_its_form_says() {
        // A number, eight bytes, three bytes, four bytes, and a cut.
        let bytes = [
            8, 5, 17, 1, 2, 3, 4, 5, 6, 7, 8, 26, 3, 9, 9, 9, 37, 1, 2, 3, 4, 8,
        ];
        let mut fields = Fields(&bytes);
        let mut seen = vec![];
        while let Ok(Some((number, held))) = fields.next() {
            seen.push((
                number,
                match held {
                    Held::Number(n) => n,
                    Held::Bytes(bytes) => bytes.len() as u64,
                    Held::Fixed => 0,
                },
            ));
        }
        assert_eq!(seen, [(1, 5), (2, 0), (3, 3), (4, 0)]);
        assert!(matches!(Fields(&[8]).next(), Err(Broken("it is cut"))));
        for no_number in [&[0_u8, 0][..], &[0x80, 0x80, 0x80, 0x80, 0x10, 0]] {
            assert!(Fields(no_number).next().is_err());
        }
        assert!(Fields(&[11]).next().is_err(), "a group");
    }
}

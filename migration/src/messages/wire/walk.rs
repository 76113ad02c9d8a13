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
    while let Some((number, held)) = fields.next().map_err(|fault| fault.of_a(what))? {
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

/// The fields of a message, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Held<'a>)>, Fault> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or_else(|| Fault::here("a field has no valid number"))?;
        let held = match key & 7 {
            0 => Held::Number(self.varint()?),
            1 => self.take(8).map(|_| Held::Fixed)?,
            2 => {
                let len = self.varint()?;
                Held::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Held::Fixed)?,
            // Groups are of old versions of Protocol Buffers; nothing of ours has them.
            form => {
                return Err(Fault::here(format!(
                    "field {number} is of the unknown form {form}"
                )));
            }
        };
        Ok(Some((number, held)))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Fault> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len));
        let (taken, rest) = split.ok_or_else(|| Fault::here("it is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self
                .0
                .split_first()
                .ok_or_else(|| Fault::here("it is cut"))?;
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
        Err(Fault::here("a number of more than 64 bits"))
    }
}

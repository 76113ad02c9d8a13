//! Messages to bytes and back: the values of this crate in the types of the protocol.
//!
//! The way out can't fail. The way in looks at the whole message first (`walk`): at its version and at the length of
//! each list. Only then is it decoded, and each field checked; what is wrong is named by its field (`fault`).
//!
//! `values` has the values that fields hold, and `field` says how they stand there. `words`, `data` and `placement` are
//! the messages that others hold, `request` and `response` the bodies. Each is a list of the fields that both sides have
//! under one name; a field that either side has alone does not compile.

mod bounds;
mod data;
mod fault;
mod field;
mod placement;
mod request;
mod response;
mod values;
mod walk;
mod words;

use bytes::Bytes;
use prost::Message;

use super::{MAX_MESSAGE_BYTES, WireError};
use fault::Fault;
use field::Wire;
use walk::Shape;

/// The oldest version that reads what this one sends as it is meant. A message that an older one would misunderstand
/// says so by a greater number of its own; the others stay readable.
const READABLE_FROM: u32 = 1;

/// A request or a response.
pub(super) trait Whole: Wire<Proto: Message + Default> {
    /// Which of both, for errors.
    const WHAT: &'static str;
    /// The bodies it may have.
    const BODIES: &'static Shape;
}

pub(super) fn encode<T: Whole>(message: &T) -> Bytes {
    Bytes::from(message.to_proto().encode_to_vec())
}

/// Decodes a message; what it holds of bytes shares their memory.
pub(super) fn decode<T: Whole>(bytes: Bytes) -> Result<T, WireError> {
    look::<T>(&bytes)?;
    read(bytes)
}

/// Decodes a message that is borrowed; what it holds of bytes shares one copy of them.
pub(super) fn decode_slice<T: Whole>(bytes: &[u8]) -> Result<T, WireError> {
    // Before the copy is made.
    look::<T>(bytes)?;
    read(Bytes::copy_from_slice(bytes))
}

fn look<T: Whole>(bytes: &[u8]) -> Result<(), WireError> {
    match bytes.len() {
        0 => Err(WireError::Empty),
        len if len > MAX_MESSAGE_BYTES => Err(WireError::TooLong { len }),
        _ => walk::look(T::WHAT, T::BODIES, bytes),
    }
}

fn read<T: Whole>(bytes: Bytes) -> Result<T, WireError> {
    T::Proto::decode(bytes)
        .map_err(|error| Fault::here(error.to_string()))
        .and_then(T::from_proto)
        .map_err(|fault| fault.of_a(T::WHAT))
}

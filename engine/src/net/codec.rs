//! gRPC over messages that are encoded already: the bytes of a [`Link`](crate::Link) go as they are.

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The service of nodes, as `watershed/node/v1/node.proto` has it.
pub(super) const SERVICE: &str = "watershed.node.v1.Node";
/// Carries one message there and its answer back.
pub(super) const CALL: &str = "/watershed.node.v1.Node/Call";
/// Asks for nothing: that it is answered shows that both sides take each other.
pub(super) const GREET: &str = "/watershed.node.v1.Node/Greet";

/// Takes and gives the bytes of messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = from.remaining();
        Ok(Some(from.copy_to_bytes(len)))
    }
}

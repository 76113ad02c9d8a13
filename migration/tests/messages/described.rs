//! What node.proto says, read by something other than this crate: the tests hold the crate's bytes against it.

use std::sync::OnceLock;

use bytes::Bytes;
use protox::prost::Message as _;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _,
    Value,
};
use watershed_migration::messages::{Request, Response, WireError};

use crate::samples;

/// A request or a response.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sample {
    Request(Request),
    Response(Response),
}

impl Sample {
    pub(crate) fn all() -> Vec<Self> {
        let requests = samples::requests().into_iter().map(Self::Request);
        let responses = samples::responses().into_iter().map(Self::Response);
        requests.chain(responses).collect()
    }

    /// As the first word of a line of the kept file.
    pub(crate) fn side(&self) -> &'static str {
        match self {
            Self::Request(_) => "Request",
            Self::Response(_) => "Response",
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Request(request) => request.name(),
            Self::Response(response) => response.name(),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Request(request) => request.encode(),
            Self::Response(response) => response.encode(),
        }
    }

    /// Decodes other bytes as what this is: borrowed and shared, which never differ.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Self, WireError> {
        decode(self.side(), bytes)
    }

    pub(crate) fn parse(&self) -> DynamicMessage {
        parse(self.side(), &self.encode())
    }
}

pub(crate) fn decode(side: &str, bytes: &[u8]) -> Result<Sample, WireError> {
    let shared = Bytes::copy_from_slice(bytes);
    let (borrowed, shared) = match side {
        "Request" => (
            Request::decode(bytes).map(Sample::Request),
            Request::decode_bytes(shared).map(Sample::Request),
        ),
        _ => (
            Response::decode(bytes).map(Sample::Response),
            Response::decode_bytes(shared).map(Sample::Response),
        ),
    };
    assert_eq!(borrowed, shared);
    borrowed
}

/// The messages Request and Response of the protocol.
pub(crate) fn root(side: &str) -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
        let mut compiler = protox::Compiler::new([folder]).unwrap();
        compiler.open_file("watershed/node/v1/node.proto").unwrap();
        compiler.descriptor_pool()
    });
    let name = format!("watershed.node.v1.{side}");
    pool.get_message_by_name(&name).unwrap()
}

pub(crate) fn parse(side: &str, bytes: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(root(side), bytes).unwrap()
}

/// The body's field.
pub(crate) fn body(message: &DynamicMessage) -> FieldDescriptor {
    let oneof = message.descriptor().oneofs().next().unwrap();
    let set = oneof.fields().find(|field| message.has_field(field));
    set.expect("a body")
}

/// The messages directly in a field, however many.
pub(crate) fn messages(value: &Value) -> Vec<&DynamicMessage> {
    match value {
        Value::Message(message) => vec![message],
        Value::List(list) => list.iter().filter_map(Value::as_message).collect(),
        _ => vec![],
    }
}

/// Whether a field of bytes is an id, or a text a node's name: what must be there though it is no message.
pub(crate) fn is_name(field: &FieldDescriptor) -> bool {
    let names: &[&str] = match field.kind() {
        Kind::Bytes => &[
            "migration",
            "instance",
            "source_instance",
            "target_instance",
            "from_instance",
            "id",
            "session",
        ],
        Kind::String => &["target", "source", "owner", "driver", "node", "followers"],
        _ => &[],
    };
    names.contains(&field.name())
}

pub(crate) fn is_optional(field: &FieldDescriptor) -> bool {
    let proto = field.field_descriptor_proto();
    proto.proto3_optional.unwrap_or(false)
}

/// Calls `each` for the message and all those in it, the inner ones first, and puts what it gives in their place.
pub(crate) fn map(
    message: &DynamicMessage,
    each: &mut impl FnMut(DynamicMessage) -> DynamicMessage,
) -> DynamicMessage {
    let mut mapped = message.clone();
    for (_, value) in mapped.fields_mut() {
        match value {
            Value::Message(inner) => *inner = map(inner, each),
            Value::List(list) => {
                for element in list {
                    if let Value::Message(inner) = element {
                        *inner = map(inner, each);
                    }
                }
            }
            _ => {}
        }
    }
    each(mapped)
}

/// The message with bytes that are added to its encoding.
pub(crate) fn with_bytes(message: &DynamicMessage, more: &[u8]) -> DynamicMessage {
    let bytes = [&message.encode_to_vec()[..], more].concat();
    DynamicMessage::decode(message.descriptor(), &bytes[..]).unwrap()
}

/// A field of the length-delimited form.
pub(crate) fn field(number: u32, inside: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(number << 3 | 2));
    bytes.extend(varint(inside.len() as u64));
    bytes.extend(inside);
    bytes
}

pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

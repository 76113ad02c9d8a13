//! Messages and bytes that nobody thought of.

use bytes::Bytes;
use proptest::prelude::*;
use protox::prost::Message as _;
use protox::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use watershed_migration::messages::{Request, Response};

use crate::described::{Sample, body, is_name, is_optional};

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> usize {
        usize::try_from(self.next() % n).unwrap()
    }

    /// Of any length, and never so great that two of them are beyond a Seq.
    fn number(&mut self) -> u64 {
        let bits = self.next() % 62;
        self.next() & ((1 << bits) - 1)
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Gives the fields of a message other values that are allowed.
fn shake(message: &mut DynamicMessage, noise: &mut Noise) {
    for field in message.descriptor().fields() {
        let in_oneof = field.containing_oneof().is_some() && !is_optional(&field);
        let there = message.has_field(&field);
        if in_oneof && !there {
            continue;
        }
        if is_optional(&field) && noise.below(3) == 0 {
            message.clear_field(&field);
            continue;
        }
        if is_optional(&field) && !there && matches!(field.kind(), Kind::Message(_)) {
            continue;
        }
        let value = match message.get_field(&field).into_owned() {
            Value::List(list) => Value::List(shake_list(&field, list, noise)),
            value => other(&field, value, noise),
        };
        message.set_field(&field, value);
    }
    // A key without a value has none.
    if message.descriptor().name() == "Value" && !message.has_field_by_name("version") {
        message.clear_field_by_name("value");
    }
}

fn other(field: &FieldDescriptor, value: Value, noise: &mut Noise) -> Value {
    match value {
        Value::Bool(_) => Value::Bool(noise.below(2) == 0),
        Value::U32(_) => Value::U32(noise.next() as u32 >> noise.below(32)),
        Value::U64(_) => Value::U64(noise.number()),
        Value::EnumNumber(_) => {
            let Kind::Enum(kind) = field.kind() else {
                panic!("an enum");
            };
            let number = 1 + noise.below(kind.values().len() as u64 - 1);
            Value::EnumNumber(number as i32)
        }
        Value::Bytes(_) if is_name(field) => Value::Bytes(noise.bytes(16)),
        Value::Bytes(_) => {
            let len = noise.below(300);
            Value::Bytes(noise.bytes(len))
        }
        Value::String(_) if is_name(field) => Value::String(format!("node-{}", noise.next())),
        Value::String(_) => Value::String("\u{e9}x".repeat(noise.below(60))),
        Value::Message(mut inner) => {
            shake(&mut inner, noise);
            Value::Message(inner)
        }
        other => panic!("{}: {other:?}", field.full_name()),
    }
}

fn shake_list(field: &FieldDescriptor, mut list: Vec<Value>, noise: &mut Noise) -> Vec<Value> {
    if field.kind() == Kind::Uint64 {
        let pairs = noise.below(20);
        return (0..2 * pairs).map(|_| Value::U64(noise.number())).collect();
    }
    if field.name() == "phase_ms" {
        // Each phase once, in order.
        list.truncate(noise.below(11));
        return list;
    }
    if let Some(first) = list.first().cloned() {
        list.resize(noise.below(5), first);
    }
    list.into_iter()
        .map(|element| other(field, element, noise))
        .collect()
}

proptest! {
    /// Each field is written where it was read: whatever is in it.
    #[test]
    fn each_kind_of_message_with_any_values_survives(which: prop::sample::Index, seed: u64) {
        let all = Sample::all();
        let sample = which.get(&all);
        let mut parsed = sample.parse();
        let body = body(&parsed);
        let mut inside = parsed.get_field(&body).into_owned();
        shake(inside.as_message_mut().unwrap(), &mut Noise(seed));
        parsed.set_field(&body, inside);
        let bytes = parsed.encode_to_vec();
        let decoded = sample.decode(&bytes).unwrap();
        prop_assert_eq!(decoded.encode(), bytes);
    }

    #[test]
    fn a_changed_byte_never_panics_and_what_is_read_is_written_again(
        which: prop::sample::Index,
        at: prop::sample::Index,
        by in 1u8..,
    ) {
        let all = Sample::all();
        let sample = which.get(&all);
        let mut bytes = sample.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        if let Ok(read) = sample.decode(&bytes) {
            prop_assert_eq!(read.decode(&read.encode()), Ok(read.clone()));
        }
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 16u8..42, form in 0u8..3) {
        if form > 0 {
            // A body of random bytes, or random fields after the versions.
            let head = [0x08, 1, 0x10, 1];
            bytes = match form {
                1 => [&head[..], &crate::described::field(kind.into(), &bytes)].concat(),
                _ => [&head[..], &bytes].concat(),
            };
        }
        if let Ok(request) = Request::decode(&bytes) {
            // Whatever is read has a shard and a name, and is written again.
            let _ = (request.shard(), request.name());
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        if let Ok(response) = Response::decode(&bytes) {
            prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }
}

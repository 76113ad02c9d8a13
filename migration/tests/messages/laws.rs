//! What holds for every kind of message.

use std::collections::BTreeSet;

use bytes::Bytes;
use protox::prost::Message as _;
use protox::prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use watershed_migration::messages::{Request, WireError};

use crate::described::{Sample, body, is_name, is_optional, map, messages, root};

#[test]
fn each_message_survives_and_is_what_the_protocol_says() {
    for sample in Sample::all() {
        let bytes = sample.encode();
        assert_eq!(sample.decode(&bytes), Ok(sample.clone()));
        let parsed = sample.parse();
        assert_eq!(parsed.encode_to_vec(), bytes, "{}", sample.name());
        map(&parsed, &mut |message| {
            assert_eq!(message.unknown_fields().count(), 0, "{message:?}");
            message
        });
    }
}

/// A body, field, oneof's member or enum's number that the protocol has and no sample: add it to `samples.rs`.
#[test]
fn the_samples_have_everything_that_the_protocol_has() {
    let (mut all, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for side in ["Request", "Response"] {
        everything(&root(side), &mut all);
    }
    for sample in Sample::all() {
        let parsed = sample.parse();
        assert_eq!(
            body(&parsed).kind().as_message().unwrap().name(),
            if sample.name() == "Ok" {
                "Done"
            } else {
                sample.name()
            }
        );
        map(&parsed, &mut |message| {
            for (field, value) in message.fields() {
                seen.insert(field.full_name().to_owned());
                if let (Value::EnumNumber(n), Kind::Enum(kind)) = (value, field.kind()) {
                    seen.insert(format!("{} {n}", kind.name()));
                }
            }
            message
        });
    }
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "no sample has {missing:#?}");
}

fn everything(message: &MessageDescriptor, all: &mut BTreeSet<String>) {
    for field in message.fields() {
        if !all.insert(field.full_name().to_owned()) {
            continue;
        }
        match field.kind() {
            Kind::Message(inside) => everything(&inside, all),
            Kind::Enum(kind) => {
                let numbers = kind.values().map(|value| value.number());
                all.extend(
                    numbers
                        .filter(|n| *n != 0)
                        .map(|n| format!("{} {n}", kind.name())),
                );
            }
            _ => {}
        }
    }
}

#[test]
fn every_cut_is_refused_and_so_is_what_follows() {
    for sample in Sample::all() {
        let bytes = sample.encode();
        assert_eq!(sample.decode(&[]), Err(WireError::Empty));
        for end in 1..bytes.len() {
            let cut = sample.decode(&bytes[..end]);
            assert!(
                matches!(cut, Err(WireError::Damaged { .. })),
                "{end}: {cut:?}"
            );
        }
        for more in [&[0][..], &bytes] {
            let longer = sample.decode(&[&bytes, more].concat());
            assert!(
                matches!(longer, Err(WireError::Damaged { .. })),
                "{longer:?}"
            );
        }
    }
}

/// Leaves each field of each message out, one at a time, and looks at what the decoder says to it.
#[test]
fn what_must_be_there_is_missed_by_name_and_the_rest_is_not() {
    for sample in Sample::all() {
        for (path, without) in each_left_out(&sample.parse()) {
            let left = sample.decode(&without.encode_to_vec());
            match path.must {
                true => {
                    let Err(WireError::Damaged { reason, .. }) = &left else {
                        panic!("{path:?} was not missed: {left:?}");
                    };
                    let name = reason.split(": ").next().unwrap();
                    assert_eq!(name, path.name, "{reason}");
                    assert!(reason.contains("missing"), "{reason}");
                }
                false => {
                    let left = left.unwrap_or_else(|error| panic!("{path:?}: {error}"));
                    assert_ne!(left, sample, "{path:?}");
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Left {
    name: String,
    must: bool,
}

fn each_left_out(message: &DynamicMessage) -> Vec<(Left, DynamicMessage)> {
    let mut all = vec![];
    for (field, value) in message.fields() {
        let kind = field.kind();
        let in_oneof = field.containing_oneof().filter(|_| !is_optional(&field));
        let is_body = in_oneof
            .as_ref()
            .is_some_and(|oneof| oneof.name() == "body");
        let mut without = message.clone();
        without.clear_field(&field);
        let name = match &in_oneof {
            Some(oneof) => oneof.name(),
            None => field.name(),
        };
        let plain = !matches!(kind, Kind::Message(_) | Kind::Enum(_)) && !is_name(&field);
        let version = matches!(field.parent_message().name(), "Request" | "Response");
        let held = |name| {
            message
                .get_field_by_name(name)
                .is_some_and(|v| *v != Value::Bytes(Bytes::new()))
        };
        // A value has a version; without both it is the absence of one.
        let of_value = field.full_name().ends_with(".Value.version") && held("value");
        let must = of_value
            || in_oneof.is_some()
            || version
            || !(is_optional(&field) || field.is_list() || plain);
        if !is_body {
            let name = name.to_owned();
            all.push((Left { name, must }, without));
        }
        let is_list = field.is_list();
        for (i, inner) in messages(value).into_iter().enumerate() {
            for (left, changed) in each_left_out(inner) {
                let mut outer = message.clone();
                let mut value = value.clone();
                match &mut value {
                    Value::List(list) => list[i] = Value::Message(changed),
                    value => *value = Value::Message(changed),
                }
                outer.set_field(&field, value);
                let own = match &kind {
                    Kind::Message(body) if is_body => body.name().to_owned(),
                    _ if is_list => format!("{}[{i}]", field.name()),
                    _ => field.name().to_owned(),
                };
                // A oneof's member has no name of its own in errors.
                let own = match &in_oneof {
                    Some(oneof) if !is_body => oneof.name().to_owned(),
                    _ => own,
                };
                let name = format!("{own}.{}", left.name);
                let must = left.must;
                all.push((Left { name, must }, outer));
            }
        }
    }
    all
}

#[test]
fn a_message_without_its_body_is_refused() {
    for sample in Sample::all() {
        let mut parsed = sample.parse();
        let body = body(&parsed);
        parsed.clear_field(&body);
        let refused = sample.decode(&parsed.encode_to_vec()).unwrap_err();
        assert!(refused.to_string().contains("it has no body"), "{refused}");
    }
}

#[test]
fn wrong_values_are_refused_by_the_name_of_their_field() {
    let at = |sample: &Sample, path: &[&str], value: Value| {
        let parsed = sample.parse();
        let first = body(&parsed);
        let changed = set(parsed, &[&[first.name()], path].concat(), value);
        let error = sample.decode(&changed.encode_to_vec()).unwrap_err();
        let WireError::Damaged { reason, .. } = error else {
            panic!("{error}");
        };
        reason
    };
    let find = |name: &str| {
        let mut all = Sample::all().into_iter();
        all.find(|sample| sample.name() == name).unwrap()
    };
    let bytes = |len| Value::Bytes(vec![7; len].into());
    let records = find("Records");
    let wrong = [
        (
            at(&records, &["from_instance"], bytes(15)),
            "Records.from_instance: 15 bytes, an id has 16",
        ),
        (
            at(&records, &["env", "migration"], bytes(17)),
            "Records.env.migration: 17 bytes, an id has 16",
        ),
        (
            at(&find("Ship"), &["ranges"], Value::List(vec![Value::U64(1)])),
            "Ship.ranges: 1 numbers, ranges have two each",
        ),
        (
            at(&find("Write"), &["durability"], Value::EnumNumber(9)),
            "Write.durability: 9 is not known here",
        ),
        (
            at(&find("Refused"), &["kind"], Value::EnumNumber(-1)),
            "Refused.kind: -1 is not known here",
        ),
    ];
    for (reason, expected) in wrong {
        assert_eq!(reason, expected);
    }
    let most = Value::U64(u64::MAX);
    let reason = at(&find("Verify"), &["f"], most.clone());
    assert!(
        reason.starts_with("Verify.f: Seq 18446744073709551615"),
        "{reason}"
    );
    let reason = at(&find("BecomeOwner"), &["epoch"], most.clone());
    assert!(reason.starts_with("BecomeOwner.epoch: Epoch"), "{reason}");
    // A range that would end beyond the last Seq there can be.
    let beyond = Value::List(vec![Value::U64(5), most]);
    let reason = at(&find("Ship"), &["ranges"], beyond);
    assert!(reason.starts_with("Ship.ranges[0]: Seq"), "{reason}");
    let name = Value::String("no/name".into());
    let reason = at(&find("Release"), &["owner"], name);
    assert!(
        reason.starts_with("Release.owner: \"no/name\" is no node name"),
        "{reason}"
    );
}

fn set(mut message: DynamicMessage, path: &[&str], value: Value) -> DynamicMessage {
    let [first, rest @ ..] = path else {
        panic!("no path");
    };
    let value = match (rest, message.get_field_by_name(first).unwrap().as_message()) {
        ([], _) => value,
        (rest, Some(inner)) => Value::Message(set(inner.clone(), rest, value)),
        _ => panic!("{first} is no message"),
    };
    message.set_field_by_name(first, value);
    message
}

#[test]
fn records_are_shared_with_the_message_they_came_in() {
    let sent = Sample::all()
        .into_iter()
        .find(|sample| sample.name() == "Records");
    let message = sent.unwrap().encode();
    let Ok(Request::Records { records, .. }) = Request::decode_bytes(message.clone()) else {
        panic!("what was sent");
    };
    assert!(message.as_ptr_range().contains(&records.as_ptr()));
}

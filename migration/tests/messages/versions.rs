//! Messages of other versions, and the kept ones of this.

use protox::prost::Message as _;
use protox::prost_reflect::{ReflectMessage as _, Value};
use watershed_migration::messages::{MESSAGE_VERSION, WireError};

use crate::described::{Sample, field, map, with_bytes};

/// A field of each form, with numbers that no message has.
fn unknown_fields(first: u32) -> Vec<u8> {
    let key = |number: u32, form: u32| crate::described::varint(u64::from(number << 3 | form));
    [
        &key(first, 0)[..],
        &[0xff, 0xff, 0x03],
        &key(first + 1, 1),
        &[1, 2, 3, 4, 5, 6, 7, 8],
        &field(first + 2, b"a field of a later version"),
        &key(first + 3, 5),
        &[1, 2, 3, 4],
    ]
    .concat()
}

#[test]
fn unknown_fields_are_ignored_wherever_they_are() {
    for sample in Sample::all() {
        let newer = map(&sample.parse(), &mut |message| {
            let is_whole = matches!(message.descriptor().name(), "Request" | "Response");
            // From 16 on the numbers of a whole message are bodies.
            with_bytes(&message, &unknown_fields(if is_whole { 12 } else { 100 }))
        });
        let bytes = newer.encode_to_vec();
        assert!(bytes.len() > sample.encode().len() + 40);
        assert_eq!(
            sample.decode(&bytes),
            Ok(sample.clone()),
            "{}",
            sample.name()
        );
    }
}

fn with_versions(sample: &Sample, version: u32, readable_from: u32) -> Vec<u8> {
    let mut parsed = sample.parse();
    parsed.set_field_by_name("version", Value::U32(version));
    parsed.set_field_by_name("readable_from", Value::U32(readable_from));
    parsed.encode_to_vec()
}

#[test]
fn a_newer_version_is_read_where_it_says_that_it_can_be() {
    for sample in Sample::all() {
        let newer = with_versions(&sample, MESSAGE_VERSION + 1, MESSAGE_VERSION);
        assert_eq!(sample.decode(&newer), Ok(sample.clone()));
        let (found, readable_from) = (MESSAGE_VERSION + 2, MESSAGE_VERSION + 1);
        let newer = with_versions(&sample, found, readable_from);
        let refused = WireError::Version {
            found,
            readable_from,
        };
        assert_eq!(sample.decode(&newer), Err(refused));
    }
}

#[test]
fn a_version_that_is_refused_is_named_and_so_is_the_remedy() {
    let newer = with_versions(&Sample::all()[0], 3, 2);
    let text = Sample::all()[0].decode(&newer).unwrap_err().to_string();
    assert_eq!(
        text,
        "a message of version 3 that versions from 2 on can read, this node is of version 1: upgrade this node"
    );
}

/// What a newer version says in a way of its own is refused for its version, not for what can't be understood of it.
#[test]
fn the_version_is_looked_at_before_the_body() {
    for sample in Sample::all() {
        let newer = [&[0x08, 9, 0x10, 9][..], &field(16, &[0xff; 7])].concat();
        assert!(matches!(
            sample.decode(&newer),
            Err(WireError::Version { found: 9, .. })
        ));
        let newer = [&[0x08, 9, 0x10, 9][..], &field(5000, b"what is that?")].concat();
        assert!(matches!(
            sample.decode(&newer),
            Err(WireError::Version { found: 9, .. })
        ));
    }
}

#[test]
fn impossible_versions_are_damage() {
    let sample = &Sample::all()[0];
    for (version, readable_from, field) in [
        (0, 1, "version"),
        (1, 0, "readable_from"),
        (0, 0, "version"),
        (2, 3, "readable_from"),
    ] {
        let error = sample.decode(&with_versions(sample, version, readable_from));
        let Err(WireError::Damaged { reason, .. }) = error else {
            panic!("{error:?}");
        };
        assert!(reason.starts_with(&format!("{field}: ")), "{reason}");
    }
    // A version of more than 32 bits is not cut to one that is known.
    let bytes = [
        &[0x08, 0x81, 0x80, 0x80, 0x80, 0x10, 0x10, 1][..],
        &field(16, b""),
    ]
    .concat();
    let error = sample.decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("version: "), "{error}");
}

#[test]
fn an_unknown_body_is_no_damage_but_asks_for_a_newer_node() {
    for (side, what) in [("Request", "request"), ("Response", "response")] {
        for version in [1, 2] {
            let bytes = [&[0x08, version, 0x10, 1][..], &field(2000, b"")].concat();
            let unknown = WireError::Unknown {
                what,
                field: 2000,
                version: u32::from(version),
            };
            assert_eq!(crate::described::decode(side, &bytes), Err(unknown.clone()));
            let text = unknown.to_string();
            assert!(
                text.contains("does not know") && text.contains("upgrade this node"),
                "{text}"
            );
        }
    }
}

#[test]
fn two_bodies_are_refused() {
    for sample in Sample::all() {
        let bytes = [&sample.encode()[..], &field(2000, b"")].concat();
        let error = sample.decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("two bodies"), "{error}");
    }
}

//! The encoding of operations: round trips, damage, and what is fixed for ever.

use bytes::Bytes;
use proptest::prelude::*;
use watershed_wal::{
    BatchBuilder, BatchReader, ClientStamp, FormatError, Op, append_put, appended_put_len,
    single_delete, single_put, validate_batch,
};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 120..300),
    ]
    .prop_map(Bytes::from)
}

fn op() -> impl Strategy<Value = Op> {
    let keyspace = prop_oneof![3 => Just(0), 1 => any::<u32>()];
    (0..4u8, keyspace, any::<u8>(), bytes(), bytes()).prop_map(|(tag, keyspace, flags, a, b)| {
        match tag {
            0 => Op::Put {
                keyspace,
                flags,
                key: a,
                value: b,
            },
            1 => Op::Delete {
                keyspace,
                flags,
                key: a,
            },
            2 => Op::DeleteRange {
                keyspace,
                flags,
                from: a,
                to: b,
            },
            _ => Op::Merge {
                keyspace,
                flags,
                key: a,
                operand: b,
            },
        }
    })
}

fn stamp() -> impl Strategy<Value = ClientStamp> {
    (any::<u128>(), any::<u64>(), bytes()).prop_map(|(id, number, result)| ClientStamp {
        id,
        number,
        result,
    })
}

fn build(client: Option<&ClientStamp>, ops: &[Op]) -> Bytes {
    let mut builder = client.map_or_else(BatchBuilder::new, BatchBuilder::stamped);
    for op in ops {
        builder.push(op);
    }
    assert_eq!(
        (builder.len(), builder.is_empty()),
        (ops.len(), ops.is_empty())
    );
    let len = builder.byte_len();
    let body = builder.finish();
    assert_eq!(body.len(), len);
    body
}

fn read(body: &Bytes) -> Result<(Option<ClientStamp>, Vec<Op>), FormatError> {
    let reader = BatchReader::new(body.clone())?;
    let client = reader.client().cloned();
    Ok((client, reader.collect::<Result<_, _>>()?))
}

proptest! {
    #[test]
    fn batch_round_trips(client in prop::option::of(stamp()), ops in prop::collection::vec(op(), 0..20)) {
        let body = build(client.as_ref(), &ops);
        prop_assert_eq!(validate_batch(&body), Ok(ops.len()));
        prop_assert_eq!(read(&body).unwrap(), (client, ops));
    }

    #[test]
    fn batch_of_one_is_the_same_the_short_way(key in bytes(), value in bytes()) {
        let mut put = BatchBuilder::new();
        put.put(&key, &value);
        prop_assert_eq!(single_put(&key, &value), put.finish());
        let mut delete = BatchBuilder::new();
        delete.delete(&key);
        prop_assert_eq!(single_delete(&key), delete.finish());
    }

    #[test]
    fn batch_cut_anywhere_gives_a_prefix_or_an_error(client in prop::option::of(stamp()), ops in prop::collection::vec(op(), 1..6)) {
        let body = build(client.as_ref(), &ops);
        for len in 0..body.len() {
            let cut = body.slice(..len);
            match read(&cut) {
                Ok((_, read)) => {
                    prop_assert!(read.len() < ops.len());
                    prop_assert_eq!(&read[..], &ops[..read.len()]);
                    prop_assert_eq!(validate_batch(&cut), Ok(read.len()));
                }
                Err(error) => prop_assert_eq!(validate_batch(&cut), Err(error)),
            }
        }
    }

    #[test]
    fn batch_of_noise_never_panics(mut noise in prop::collection::vec(any::<u8>(), 0..100), headed in any::<bool>()) {
        if headed {
            noise.splice(..0, [1, 0]);
        }
        let body = Bytes::from(noise);
        match read(&body) {
            Ok((client, ops)) => {
                prop_assert_eq!(validate_batch(&body), Ok(ops.len()));
                prop_assert_eq!(build(client.as_ref(), &ops), body, "one value, one encoding");
            }
            Err(error) => prop_assert_eq!(validate_batch(&body), Err(error)),
        }
    }
}

/// Logs hold these bytes: a change here is a new format version.
#[test]
fn batch_bytes_are_fixed() {
    let mut builder = BatchBuilder::new();
    builder.put(b"k", b"value").delete(b"gone");
    let from_to =
        |from: &'static [u8], to: &'static [u8]| (Bytes::from_static(from), Bytes::from_static(to));
    let (from, to) = from_to(b"a", b"m");
    builder.push(&Op::DeleteRange {
        keyspace: 300,
        flags: 0,
        from,
        to,
    });
    let (key, operand) = from_to(b"n", b"+1");
    builder.push(&Op::Merge {
        keyspace: 0,
        flags: 0x80,
        key,
        operand,
    });
    assert_eq!(
        builder.finish(),
        &b"\x01\x00\x01\x00\x00\x01k\x05value\x02\x00\x00\x04gone\x03\x00\xac\x02\x01a\x01m\x04\x80\x00\x01n\x02+1"[..]
    );
    let stamp = ClientStamp {
        id: 1,
        number: 2,
        result: Bytes::from_static(b"ok"),
    };
    assert_eq!(
        BatchBuilder::stamped(&stamp).finish(),
        &b"\x01\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x02ok"[..]
    );
}

#[test]
fn batch_errors_name_what_and_where() {
    let error = |bytes: &'static [u8]| read(&Bytes::from_static(bytes)).unwrap_err();
    assert!(matches!(
        error(b""),
        FormatError::Truncated {
            what: "a batch",
            offset: 0
        }
    ));
    assert!(matches!(
        error(b"\x02\x00"),
        FormatError::Newer {
            found: 2,
            supported: 1,
            ..
        }
    ));
    assert!(matches!(
        error(b"\x00\x00"),
        FormatError::Invalid { offset: 0, .. }
    ));
    assert!(matches!(
        error(b"\x01\x02"),
        FormatError::Invalid {
            what: "a batch's header flags",
            offset: 1,
            value: 2
        }
    ));
    assert!(matches!(
        error(b"\x01\x00\x09\x00"),
        FormatError::Invalid {
            what: "an operation's tag",
            offset: 2,
            value: 9
        }
    ));
    assert!(matches!(
        error(b"\x01\x00\x01\x00\x00\x05key"),
        FormatError::Truncated {
            what: "a put's key",
            offset: 6
        }
    ));
    // Keyspace numbers have 32 bits.
    assert!(matches!(
        error(b"\x01\x00\x02\x00\xff\xff\xff\xff\x1f\x00"),
        FormatError::Invalid {
            what: "an operation's keyspace",
            offset: 4,
            value: 0x1_ffff_ffff
        }
    ));
}

#[test]
fn batch_reader_ends_at_its_first_error() {
    let mut body = single_put(b"k", b"v").to_vec();
    body.extend([9, 9, 9]);
    let mut reader = BatchReader::new(body.into()).unwrap();
    assert!(reader.next().unwrap().is_ok());
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}

#[test]
fn batch_slices_share_the_body() {
    let body = single_put(b"key", b"value");
    let range = body.as_ptr_range();
    let Some(Ok(Op::Put { key, value, .. })) = BatchReader::new(body.clone()).unwrap().next()
    else {
        panic!("one put");
    };
    assert!(range.contains(&key.as_ptr()) && range.contains(&value.as_ptr()));
}

#[test]
fn a_put_added_to_a_whole_body_is_its_last_operation() {
    for (key, value) in [(&b"k"[..], &b""[..]), (&[7; 200], &[8; 20_000])] {
        for keyspace in [0, 1, 300] {
            let mut pushed = BatchBuilder::new();
            pushed.put(b"first", b"1").delete(b"second");
            let mut body = pushed.clone().finish().to_vec();
            pushed.push(&Op::Put {
                keyspace,
                flags: 0,
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            });
            let before = body.len();
            append_put(&mut body, keyspace, key, value);
            assert_eq!(body, pushed.finish());
            let added = appended_put_len(keyspace, key.len(), value.len());
            assert_eq!(body.len() - before, added);
        }
    }
}

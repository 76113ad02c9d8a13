//! The transport encoding of records and the start record's body: round trips, damage, and what is fixed for ever.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use watershed_wal::{
    Epoch, FormatError, InstanceId, LogDigest, Record, RecordKind, Seq, SeqRange, StartBody, Term,
};

fn record() -> impl Strategy<Value = Record> {
    let number = || prop_oneof![1..300u64, 1..u64::MAX];
    let body = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 900..1200),
    ];
    (
        number(),
        any::<u64>(),
        number(),
        0..RecordKind::ALL.len(),
        body,
    )
        .prop_map(|(epoch, opening, seq, kind, body)| {
            let term = Term::new(Epoch(epoch), opening);
            Record::new(term, Seq(seq), RecordKind::ALL[kind], body.into())
        })
}

fn sample() -> Record {
    let term = Term::new(Epoch(3), 1);
    Record::new(
        term,
        Seq(300),
        RecordKind::Batch,
        Bytes::from_static(b"body"),
    )
}

/// A message with a right checksum around any payload.
fn sealed(version: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(version);
    out.put_slice(payload);
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out.freeze()
}

proptest! {
    #[test]
    fn record_messages_round_trip(records in prop::collection::vec(record(), 0..20)) {
        let bytes = Record::encode_many(&records);
        let read = Record::decode_many(&bytes).unwrap();
        prop_assert_eq!(&read, &records);
        for (a, b) in read.iter().zip(&records) {
            prop_assert_eq!(a.hash(), b.hash());
        }
        let bodies: usize = records.iter().map(Record::encoded_len).sum();
        prop_assert!(bytes.len() <= bodies + 1 + 10 + 4);
    }

    #[test]
    fn record_messages_with_a_changed_byte_are_refused(
        records in prop::collection::vec(record(), 1..5), at in any::<prop::sample::Index>(), xor in 1..=255u8,
    ) {
        let mut bytes = Record::encode_many(&records).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        prop_assert!(Record::decode_many(&bytes.into()).is_err());
    }

    #[test]
    fn record_messages_of_any_length_are_refused_when_cut(records in prop::collection::vec(record(), 0..4)) {
        let bytes = Record::encode_many(&records);
        for len in 0..bytes.len() {
            prop_assert!(Record::decode_many(&bytes.slice(..len)).is_err(), "cut to {}", len);
        }
    }

    #[test]
    fn record_payloads_of_noise_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        // The checksum is right, so what is tested is the decoder behind it.
        if let Ok(records) = Record::decode_many(&sealed(1, &payload)) {
            prop_assert_eq!(Record::encode_many(&records), sealed(1, &payload), "one value, one encoding");
        }
        if let Ok(start) = StartBody::decode(&payload) {
            prop_assert_eq!(start.encode(), payload);
        }
    }

    #[test]
    fn record_start_bodies_round_trip(id in any::<u128>(), first in any::<u32>(), more in prop::option::of(any::<u32>())) {
        let first = u64::from(first);
        let void = more.and_then(|more| SeqRange::new(Seq(first), Seq(first + u64::from(more))));
        let body = StartBody { instance: InstanceId(id), void };
        let bytes = body.encode();
        prop_assert_eq!(StartBody::decode(&bytes).unwrap(), body);
        for len in 0..bytes.len() {
            prop_assert!(StartBody::decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn record_digests_do_not_depend_on_the_order(records in prop::collection::vec(record(), 1..20), cut in any::<prop::sample::Index>()) {
        let of = |records: &[Record]| {
            let mut digest = LogDigest::default();
            records.iter().for_each(|record| digest.add(record.hash()));
            digest
        };
        let mut reversed = records.clone();
        reversed.reverse();
        let all = of(&records);
        prop_assert_eq!(of(&reversed), all);
        let (early, late) = records.split_at(cut.index(records.len()));
        prop_assert_eq!(all.minus(of(early)), of(late));
        prop_assert_eq!(of(early).plus(of(late)), all);
    }

    #[test]
    fn record_hashes_tell_each_part(record in record()) {
        let (term, seq, kind, body) = (record.term(), record.seq(), record.kind(), record.body().clone());
        let mut longer = body.to_vec();
        longer.push(0);
        let next_kind = RecordKind::ALL[usize::from(kind.code()) % RecordKind::ALL.len()];
        let others = [
            Record::new(Term::new(term.epoch, term.opening ^ 1), seq, kind, body.clone()),
            Record::new(Term::new(Epoch(term.epoch.0 ^ 1), term.opening), seq, kind, body.clone()),
            Record::new(term, Seq(seq.0 ^ 1), kind, body.clone()),
            Record::new(term, seq, next_kind, body),
            Record::new(term, seq, kind, longer.into()),
        ];
        for other in others {
            prop_assert_ne!(other.hash(), record.hash());
        }
    }
}

/// Stored digests and other nodes hold these numbers: a change here is a new format.
#[test]
fn record_hash_and_encoding_are_fixed() {
    let small = sample();
    assert_eq!(
        format!("{:032x}", small.hash()),
        "2cd2668ba384524d8830c17b88de8a3d"
    );
    let body = Bytes::from(vec![7; 5000]);
    let large = Record::new(Term::new(Epoch(3), 1), Seq(301), RecordKind::Mark, body);
    assert_eq!(
        format!("{:032x}", large.hash()),
        "44cb56bdc29284e62e1b51489ababc65"
    );
    let mut digest = LogDigest::default();
    digest.add(small.hash());
    digest.add(large.hash());
    assert_eq!(digest.to_string(), "2:719dbd496616d733b64c12c4239946a2");
    let bytes = Record::encode_many(&[small]);
    let (payload, crc) = bytes.split_at(bytes.len() - 4);
    assert_eq!(payload, b"\x01\x01\x01\x03\x01\xac\x02\x04body");
    assert_eq!(crc, crc32fast::hash(payload).to_le_bytes());
}

/// Around the size where the hash changes from one call to streaming, both must agree with themselves.
#[test]
fn record_hash_is_the_same_whatever_the_path() {
    use xxhash_rust::xxh3::xxh3_128;
    for len in [0, 1, 998, 999, 1000, 1001, 4096] {
        let body = vec![0x5a; len];
        let mut whole = vec![1];
        for number in [3u64, 1, 300] {
            whole.extend(number.to_le_bytes());
        }
        whole.extend(&body);
        let record = Record::new(
            Term::new(Epoch(3), 1),
            Seq(300),
            RecordKind::Batch,
            body.into(),
        );
        assert_eq!(record.hash(), xxh3_128(&whole), "body of {len} bytes");
    }
}

#[test]
fn record_kinds_keep_their_codes() {
    let codes: Vec<_> = RecordKind::ALL
        .iter()
        .map(|kind| (kind.to_string(), kind.code()))
        .collect();
    let codes: Vec<_> = codes
        .iter()
        .map(|(name, code)| (name.as_str(), *code))
        .collect();
    let fixed = [
        ("batch", 1),
        ("start", 2),
        ("mark", 3),
        ("purge-mark", 4),
        ("repair", 5),
        ("sealed-holes", 6),
    ];
    assert_eq!(codes, fixed);
    for kind in RecordKind::ALL {
        assert_eq!(RecordKind::from_code(kind.code()), Some(kind));
    }
    assert_eq!((7..=255).chain([0]).find_map(RecordKind::from_code), None);
}

#[test]
fn record_messages_name_what_is_wrong() {
    let good = Record::encode_many(&[sample()]);
    let mut newer = good.to_vec();
    newer[0] = 2;
    let error = Record::decode_many(&newer.into()).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::Newer {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("use a newer Watershed"),
        "{error}"
    );

    let zero_seq = sealed(1, b"\x01\x01\x03\x01\x00\x00");
    let error = Record::decode_many(&zero_seq).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::Invalid {
                what: "a record's Seq",
                offset: 5,
                ..
            }
        ),
        "{error}"
    );

    let unknown_kind = sealed(1, b"\x01\x09\x03\x01\x01\x00");
    let error = Record::decode_many(&unknown_kind).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::Invalid {
                value: 9,
                offset: 2,
                ..
            }
        ),
        "{error}"
    );

    // A count that would take all memory, were it believed.
    let boast = sealed(1, b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f");
    assert!(matches!(
        Record::decode_many(&boast),
        Err(FormatError::Truncated { .. })
    ));

    let long_zero = sealed(1, b"\x80\x00");
    assert!(matches!(
        Record::decode_many(&long_zero),
        Err(FormatError::Invalid { .. })
    ));

    let trailing = sealed(1, b"\x00\x00");
    assert!(matches!(
        Record::decode_many(&trailing),
        Err(FormatError::TrailingBytes { extra: 1, .. })
    ));
}

#[test]
fn record_instance_ids_read_as_they_print() {
    let id = InstanceId::random();
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(id.to_string().len(), 32);
    assert_ne!(id, InstanceId::random());
    for bad in [
        "",
        "1",
        &"g".repeat(32),
        &"A".repeat(32),
        &"0".repeat(33),
        &format!("+{}", "0".repeat(31)),
    ] {
        assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
    }
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{id}\""));
    assert_eq!(serde_json::from_str::<InstanceId>(&json).unwrap(), id);
    assert_eq!(
        serde_json::from_value::<InstanceId>(serde_json::json!(id)).unwrap(),
        id
    );
    let bytes = postcard::to_stdvec(&id).unwrap();
    assert_eq!(postcard::from_bytes::<InstanceId>(&bytes).unwrap(), id);
}

#[test]
#[should_panic(expected = "is not earlier than")]
fn record_digests_refuse_a_difference_that_would_lie() {
    let mut later = LogDigest::default();
    later.add(1);
    let _ = LogDigest::default().minus(later);
}

//! Messages survive the way there and back, and no bytes make a decoder panic.

use bytes::Bytes;
use proptest::prelude::*;
use watershed_migration::messages::{
    Condition, EntryVersion, Envelope, Expect, FileInfo, Manifest, RANGES_MAX, RefusedKind,
    Request, Response, WireError,
};
use watershed_migration::{Attempt, DriverTerm, MigrationConfig, MigrationId, PlacementRecord};
use watershed_wal::{
    Durability, Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term, TermStart,
};

fn env(n: u64) -> Envelope {
    Envelope {
        shard: ShardId(n),
        migration: MigrationId(u128::from(n) << 70),
        attempt: Attempt(3),
        driver_term: DriverTerm(n),
    }
}

fn range(first: u64, len: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(first + len)).unwrap()
}

fn requests() -> impl Strategy<Value = Request> {
    let n = 1u64..1 << 40;
    let data = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let ranges = prop::collection::vec((n.clone(), 0u64..99).prop_map(|(f, l)| range(f, l)), 0..20);
    prop_oneof![
        n.clone().prop_map(|n| Request::Prepare {
            env: env(n),
            target: "t".parse().unwrap(),
            config: MigrationConfig::default(),
        }),
        n.clone().prop_map(|n| Request::Checkpoint { env: env(n) }),
        (n.clone(), "[a-z]{1,12}").prop_map(|(n, name)| Request::Pull {
            env: env(n),
            manifest: Manifest {
                base: Seq(n),
                digest: LogDigest {
                    count: n,
                    sum: u128::from(n) << 64
                },
                files: vec![FileInfo {
                    name,
                    len: n,
                    xxh3_128: u128::MAX - u128::from(n)
                }],
                terms: vec![TermStart {
                    term: Term::new(Epoch(n), 1),
                    first: Seq(n)
                }],
            },
        }),
        (n.clone(), ranges).prop_map(|(n, ranges)| Request::Ship {
            env: env(n),
            ranges,
            max_bytes: n,
        }),
        (n.clone(), data.clone(), any::<bool>()).prop_map(|(n, records, delta)| Request::Records {
            env: env(n),
            from_instance: InstanceId(u128::from(n)),
            delta,
            records,
        }),
        (n, data).prop_map(|(n, body)| Request::Write {
            shard: ShardId(n),
            epoch: Epoch(n),
            body: body.clone(),
            durability: Durability::Sync,
            conditions: vec![Condition {
                key: body,
                expect: Expect::Version(EntryVersion::default())
            }],
            deadline_ms: n,
        }),
    ]
}

fn responses() -> impl Strategy<Value = Response> {
    let n = 1u64..1 << 40;
    prop_oneof![
        Just(Response::Ok),
        ".{0,40}".prop_map(|text| Response::refused(RefusedKind::Gap, text)),
        n.clone().prop_map(|n| Response::Activated {
            record: Box::new(PlacementRecord::create(
                ShardId(n),
                "s".parse().unwrap(),
                InstanceId(n.into())
            )),
        }),
        n.prop_map(|n| Response::MissingRanges {
            ranges: vec![range(n, 3)],
            more: true
        }),
    ]
}

proptest! {
    #[test]
    fn requests_round_trip_and_every_cut_is_refused(request in requests()) {
        let bytes = request.encode();
        prop_assert_eq!(Request::decode(&bytes), Ok(request.clone()));
        for end in 0..bytes.len() {
            prop_assert!(Request::decode(&bytes[..end]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(Request::decode(&longer).is_err());
    }

    #[test]
    fn responses_round_trip_and_every_cut_is_refused(response in responses()) {
        let bytes = response.encode();
        prop_assert_eq!(Response::decode(&bytes), Ok(response.clone()));
        for end in 0..bytes.len() {
            prop_assert!(Response::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), versioned: bool) {
        if let (true, Some(first)) = (versioned, bytes.first_mut()) {
            *first = 1;
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

    #[test]
    fn a_flipped_bit_never_panics(request in requests(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = request.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = Request::decode(&bytes);
    }
}

#[test]
fn bounds_and_versions_are_refused_by_name() {
    let ranges = (0..=RANGES_MAX as u64)
        .map(|n| range(1 + 3 * n, 0))
        .collect();
    let long = Request::Ship {
        env: env(1),
        ranges,
        max_bytes: 1,
    }
    .encode();
    assert!(matches!(
        Request::decode(&long),
        Err(WireError::Bound { list: "ranges", .. })
    ));
    assert_eq!(Request::decode(&[]), Err(WireError::Empty));
    assert_eq!(
        Request::decode(&[2, 0]),
        Err(WireError::Version { found: 2 })
    );
}

//! One message of each kind, each field with a value of its own: what `data/messages-v1.txt` holds in bytes.
//!
//! They are never changed. A field that came later gets here the value that its absence means.

use std::collections::BTreeMap;

use bytes::Bytes;
use watershed_migration::messages::{
    Condition, DataEntry, EntryVersion, Envelope, Expect, FileInfo, Manifest, PageEntry, Refused,
    RefusedKind, Request, Response, ScanBound, ScanRequest, SessionMark, SourceState, TargetState,
};
use watershed_migration::{
    Attempt, Certificate, DriverTerm, Frozen, MigrationConfig, MigrationId, MigrationRecord,
    NodeId, Party, Phase, PlacementRecord, Proof, Revision, SafetyPolicy, SessionId, SourceMarks,
    TargetMarks,
};
use watershed_wal::{
    Durability, Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term, TermStart,
};

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// An id whose 16 bytes all differ.
fn id(n: u128) -> u128 {
    (n << 120) | 0x0002_0304_0506_0708_090a_0b0c_0d0e_0f10
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).unwrap()
}

fn version(n: u64) -> EntryVersion {
    EntryVersion {
        term: Term::new(Epoch(n), n + 1),
        seq: Seq(n + 2),
    }
}

fn digest(n: u64) -> LogDigest {
    LogDigest {
        count: n,
        sum: id(u128::from(n)),
    }
}

fn env() -> Envelope {
    Envelope {
        shard: ShardId(3),
        migration: MigrationId(id(0xee)),
        attempt: Attempt(4),
        driver_term: DriverTerm(5),
    }
}

fn config() -> MigrationConfig {
    MigrationConfig {
        safety: SafetyPolicy {
            anti_entropy: false,
            delta_pass: true,
        },
        pause_max_ms: 51,
        attempts_max: 11,
        grace_ms: 3_600_001,
        catch_up_lag: 513,
        hold: true,
        rate_bytes_per_s: Some(1 << 20),
        adaptive_percent: None,
        hold_bytes: 1 << 31,
        hold_ms: 86_400_001,
    }
}

fn files() -> Vec<FileInfo> {
    let file = |name: &str, len, xxh3_128| FileInfo {
        name: name.to_owned(),
        len,
        xxh3_128,
    };
    vec![file("000012.sst", 70_000, id(0xf1)), file("CURRENT", 0, 7)]
}

fn terms() -> Vec<TermStart> {
    let start = |epoch, opening, first| TermStart {
        term: Term::new(Epoch(epoch), opening),
        first: Seq(first),
    };
    vec![start(1, 2, 1), start(2, 1, 99)]
}

fn manifest() -> Manifest {
    Manifest {
        base: Seq(100),
        digest: digest(98),
        files: files(),
        terms: terms(),
    }
}

fn source_marks() -> SourceMarks {
    SourceMarks {
        migration: MigrationId(id(0xee)),
        attempt: Attempt(4),
        instance: InstanceId(id(0xa1)),
        term: Term::new(Epoch(6), 7),
        base: Seq(100),
        f: Seq(203),
        durable: Seq(202),
        applied: Seq(201),
        digest_base: digest(98),
        digest: digest(200),
        revision: Revision(15),
    }
}

fn target_marks() -> TargetMarks {
    TargetMarks {
        migration: MigrationId(id(0xee)),
        attempt: Attempt(4),
        instance: InstanceId(id(0xa2)),
        source_instance: InstanceId(id(0xa1)),
        base: Seq(100),
        f: Seq(203),
        durable: Seq(199),
        applied: Seq(198),
        missing: vec![range(150, 160), range(170, 170)],
        digest_base: digest(98),
        digest: digest(190),
    }
}

fn certificate() -> Certificate {
    let party = |name, instance, epoch| Party {
        node: node(name),
        instance: InstanceId(id(instance)),
        epoch: Epoch(epoch),
        term: Term::new(Epoch(epoch), 2),
    };
    Certificate {
        version: 1,
        shard: ShardId(3),
        migration: MigrationId(id(0xee)),
        source: party("node-s", 0xa1, 6),
        target: party("node-t", 0xa2, 7),
        base: Seq(100),
        f: Seq(203),
        digest_base: digest(98),
        digest_source: digest(102),
        digest_target: digest(103),
        files: files(),
        missing: vec![range(1, 2)],
        holes_filled: 21,
        delta_records: 22,
        pause_us: Some(23_000),
        attempts: Attempt(4),
        phase_ms: Phase::ALL.into_iter().zip(31..).collect::<BTreeMap<_, _>>(),
        safety: SafetyPolicy {
            anti_entropy: true,
            delta_pass: false,
        },
        verdict: "complete".into(),
    }
}

/// A record with everything that one may hold, and one with as little as can be.
fn records() -> [PlacementRecord; 2] {
    let migration = MigrationRecord {
        id: MigrationId(id(0xee)),
        attempt: Attempt(4),
        driver: node("node-d"),
        driver_term: DriverTerm(5),
        phase: Phase::Cleanup,
        source: node("node-s"),
        source_instance: InstanceId(id(0xa1)),
        target: node("node-t"),
        target_instance: Some(InstanceId(id(0xa2))),
        config: config(),
        base: Some(Seq(100)),
        started_by: "an operator".into(),
        reason: Some("none".into()),
        proof: Some(Box::new(Proof {
            source: source_marks(),
            target: target_marks(),
        })),
        certificate: Some(Box::new(certificate())),
        cutover_asked: false,
        cleanup_asked: false,
        paused: false,
    };
    let full = PlacementRecord {
        shard: ShardId(3),
        epoch: Epoch(7),
        owner: node("node-t"),
        instance: InstanceId(id(0xa2)),
        followers: vec![node("node-f"), node("node-g")],
        migration: Some(migration),
        frozen: Some(Frozen {
            node: node("node-s"),
            instance: InstanceId(id(0xa1)),
            f: Seq(203),
            migration: MigrationId(id(0xee)),
            retiring: true,
            grace_over_ms: 12,
        }),
        revision: Revision(16),
    };
    let bare = PlacementRecord::create(ShardId(0), node("n"), InstanceId(0));
    [full, bare]
}

/// A record of which operators asked all that they may.
fn steered() -> PlacementRecord {
    let mut record = PlacementRecord::create(ShardId(0), node("n"), InstanceId(0));
    let [full, _] = records();
    record.migration = full.migration.map(|migration| MigrationRecord {
        proof: None,
        certificate: None,
        cutover_asked: true,
        cleanup_asked: true,
        paused: true,
        config: MigrationConfig {
            adaptive_percent: Some(95),
            ..config()
        },
        ..migration
    });
    record
}

/// Every kind of request.
pub(crate) fn requests() -> Vec<Request> {
    [to_the_source(), to_the_target(), data()].concat()
}

fn to_the_source() -> Vec<Request> {
    let env = env();
    vec![
        Request::Prepare {
            env,
            target: node("node-t"),
            config: config(),
        },
        Request::Checkpoint { env },
        Request::ReadFile {
            env,
            name: "000012.sst".into(),
            offset: 1 << 33,
            len: 1 << 20,
        },
        Request::StartForward {
            env,
            target_instance: InstanceId(id(0xa2)),
        },
        Request::SourceStatus { env },
        Request::Ship {
            env,
            ranges: vec![
                range(1, 1),
                range(300, 9_000),
                range(1 << 40, (1 << 40) + 7),
            ],
            max_bytes: 1 << 22,
        },
        Request::Quiesce {
            env,
            revision: Revision(15),
            pause_max_ms: 50,
        },
        Request::Drain { env },
        Request::Reopen { env },
        Request::Activate {
            env,
            source: Box::new(source_marks()),
            target: Box::new(target_marks()),
        },
        Request::Release {
            env,
            epoch: Epoch(7),
            owner: node("node-t"),
        },
        Request::Retire {
            env,
            instance: InstanceId(id(0xa1)),
        },
        Request::AbortSource { env },
    ]
}

fn to_the_target() -> Vec<Request> {
    let env = env();
    vec![
        Request::BeginTarget {
            env,
            source: node("node-s"),
            source_instance: InstanceId(id(0xa1)),
            epoch: Epoch(6),
            config: config(),
        },
        Request::Pull {
            env,
            manifest: manifest(),
        },
        Request::TargetStatus { env },
        Request::Records {
            env,
            from_instance: InstanceId(id(0xa1)),
            delta: true,
            records: bytes("records of the log"),
        },
        Request::Missing {
            env,
            through: Seq(203),
        },
        Request::Verify { env, f: Seq(203) },
        Request::BecomeOwner {
            env,
            epoch: Epoch(7),
        },
        Request::DiscardTarget { env },
        Request::ComparePage {
            env,
            after: Some(bytes("after")),
            limit: 100,
        },
        Request::ComparePage {
            env,
            after: None,
            limit: 101,
        },
    ]
}

fn data() -> Vec<Request> {
    let write = |durability, conditions, session| Request::Write {
        shard: ShardId(3),
        epoch: Epoch(6),
        body: bytes("a batch"),
        durability,
        conditions,
        deadline_ms: 5_000,
        session,
    };
    let session = SessionId(id(0x5e));
    let condition = |key, expect| Condition {
        key: bytes(key),
        expect,
    };
    let scan = |from, to, reverse| Request::Scan {
        shard: ShardId(3),
        scan: ScanRequest {
            from,
            to,
            reverse,
            limit: 1_000,
            max_bytes: 1 << 21,
        },
    };
    vec![
        write(
            Durability::Sync,
            vec![
                condition("k1", Expect::Absent),
                condition("k2", Expect::Version(version(8))),
            ],
            None,
        ),
        write(Durability::Buffered, vec![], None),
        Request::Get {
            shard: ShardId(3),
            keys: vec![bytes("k1"), bytes(""), bytes("k3")],
        },
        scan(ScanBound::Open, ScanBound::Included(bytes("to")), true),
        scan(ScanBound::Excluded(bytes("")), ScanBound::Open, false),
        write(
            Durability::Sync,
            vec![],
            Some(SessionMark {
                session,
                number: 95,
                low_water: 94,
            }),
        ),
        Request::OpenSession {
            shard: ShardId(3),
            session,
            deadline_ms: 96_000,
        },
        Request::Survey { shard: ShardId(3) },
    ]
}

/// Every kind of response.
pub(crate) fn responses() -> Vec<Response> {
    [refusals(), of_the_source(), of_the_target(), of_data()].concat()
}

fn refusals() -> Vec<Response> {
    let kinds = [
        RefusedKind::StaleEpoch,
        RefusedKind::StaleAttempt,
        RefusedKind::StaleDriver,
        RefusedKind::WrongInstance,
        RefusedKind::NotOwner,
        RefusedKind::NotReady,
        RefusedKind::NoRoom,
        RefusedKind::Gap,
        RefusedKind::Conflict,
        RefusedKind::Damaged,
        RefusedKind::Busy,
        RefusedKind::Unknown,
        RefusedKind::NotSafe,
        RefusedKind::Unsupported,
        RefusedKind::Failed,
    ];
    let refusal = |(kind, epoch)| {
        Response::Refused(Refused {
            kind,
            message: "why, and what to do".into(),
            owner: (epoch > 1).then(|| (node("node-t"), Epoch(epoch))),
        })
    };
    kinds.into_iter().zip(1..).map(refusal).collect()
}

fn of_the_source() -> Vec<Response> {
    let [full, bare] = records();
    vec![
        Response::Ok,
        Response::Prepared {
            source_instance: InstanceId(id(0xa1)),
            epoch: Epoch(6),
            assigned: Seq(210),
            applied: Seq(209),
            bytes_estimate: 1 << 30,
            terms: terms(),
        },
        Response::CheckpointMade(manifest()),
        Response::FileChunk {
            bytes: bytes("a piece of a file"),
            crc32: 0xdead_beef,
        },
        Response::SourceState(SourceState {
            forwarding: true,
            quiesced: false,
            assigned: Seq(213),
            durable: Seq(212),
            applied: Seq(211),
            forwarded: 41,
            forward_failed: 42,
        }),
        Response::SourceState(SourceState {
            forwarding: false,
            quiesced: true,
            assigned: Seq(1),
            durable: Seq(0),
            applied: Seq(1),
            forwarded: 0,
            forward_failed: 0,
        }),
        Response::Shipped {
            records: 43,
            bytes: 44_000,
        },
        Response::Quiesced { f: Seq(203) },
        Response::Drained(source_marks()),
        Response::Reopened,
        Response::Activated {
            record: Box::new(full),
        },
        Response::NotActivated {
            record: Box::new(bare),
        },
        Response::Released {
            parked: 45,
            pause_us: 46_000,
        },
        Response::Retired { bytes: 1 << 29 },
    ]
}

fn of_the_target() -> Vec<Response> {
    vec![
        Response::TargetBegun {
            instance: InstanceId(id(0xa2)),
            free_bytes: 1 << 38,
        },
        Response::TargetState(TargetState {
            copied_bytes: 51,
            total_bytes: 52,
            opened: true,
            base: Some(Seq(100)),
            has_max: Some(Seq(140)),
            durable: Seq(120),
            applied: Seq(119),
            files: files(),
            error: Some("the disk is full".into()),
        }),
        Response::TargetState(TargetState {
            copied_bytes: 0,
            total_bytes: 0,
            opened: false,
            base: Some(Seq(0)),
            has_max: None,
            durable: Seq(0),
            applied: Seq(0),
            files: vec![],
            error: None,
        }),
        Response::RecordsAck {
            durable_contiguous: Seq(121),
            stored: 53,
        },
        Response::MissingRanges {
            ranges: vec![range(122, 125), range(130, 130)],
            more: true,
        },
        Response::Verified(target_marks()),
        Response::Serving {
            term: Term::new(Epoch(7), 1),
            first_seq: Seq(204),
        },
        Response::Page {
            entries: vec![
                PageEntry {
                    key: bytes("k1"),
                    version: version(60),
                    tombstone: true,
                    hash: id(0xf2),
                },
                PageEntry {
                    key: bytes("k2"),
                    version: version(70),
                    tombstone: false,
                    hash: 1,
                },
            ],
            done: true,
        },
    ]
}

fn of_data() -> Vec<Response> {
    let refusal = |kind| Response::refused(kind, "why this write was not taken");
    vec![
        Response::Written {
            version: version(80),
        },
        Response::ConditionFailed {
            index: 2,
            found: Some(version(83)),
        },
        Response::ConditionFailed {
            index: 3,
            found: None,
        },
        Response::Values(vec![
            Some((bytes("v1"), version(86))),
            None,
            Some((bytes(""), EntryVersion::default())),
        ]),
        Response::Entries {
            entries: vec![DataEntry {
                key: bytes("k1"),
                value: bytes("v1"),
                version: version(89),
            }],
            done: true,
        },
        Response::Moved {
            owner: node("node-t"),
            epoch: Epoch(92),
        },
        Response::Surveyed {
            version: "1.2.3".into(),
            free_bytes: 93 << 30,
            owned_bytes: Some(94 << 20),
        },
        Response::NotActivated {
            record: Box::new(steered()),
        },
        Response::SessionOpened {
            version: version(97),
            in_flight_max: 98,
        },
        refusal(RefusedKind::OutcomeUnknown),
        refusal(RefusedKind::UnknownSession),
        refusal(RefusedKind::Settled),
        refusal(RefusedKind::SessionFull),
    ]
}

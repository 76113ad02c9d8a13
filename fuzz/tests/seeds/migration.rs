//! Seeds of the migration's targets.

use std::collections::BTreeMap;

use bytes::Bytes;
use watershed_migration::messages::{
    Condition, EntryVersion, Envelope, Expect, FileInfo, Manifest, RefusedKind, Request, Response,
    SessionMark, SourceState, TargetState,
};
use watershed_migration::{
    Attempt, CERTIFICATE_VERSION, Certificate, Claim, DriverTerm, MigrationConfig,
    MigrationCoordinator, MigrationId, MigrationRecord, NodeId, Party, Phase, PhaseChange,
    PlacementRecord, Revision, SafetyPolicy, SessionId, SourceMarks, TargetMarks,
};
use watershed_wal::{
    Durability, Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term, TermStart,
};

use super::Noise;

const S: InstanceId = InstanceId(5);
const T: InstanceId = InstanceId(7);

fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

fn envelope() -> Envelope {
    Envelope {
        shard: ShardId(1),
        migration: MigrationId(9),
        attempt: Attempt(1),
        driver_term: DriverTerm(1),
    }
}

fn digest(count: u64) -> LogDigest {
    LogDigest {
        count,
        sum: u128::from(count) << 90,
    }
}

fn manifest() -> Manifest {
    Manifest {
        base: Seq(10),
        digest: digest(10),
        files: vec![FileInfo {
            name: "1.sst".into(),
            len: 300,
            xxh3_128: 7,
        }],
        terms: vec![TermStart {
            term: Term::new(Epoch(1), 1),
            first: Seq(1),
        }],
    }
}

fn marks() -> (SourceMarks, TargetMarks) {
    let source = SourceMarks {
        migration: MigrationId(9),
        attempt: Attempt(1),
        instance: S,
        term: Term::new(Epoch(1), 1),
        base: Seq(10),
        f: Seq(20),
        durable: Seq(20),
        applied: Seq(20),
        digest_base: digest(10),
        digest: digest(20),
        revision: Revision(5),
    };
    let target = TargetMarks {
        migration: MigrationId(9),
        attempt: Attempt(1),
        instance: T,
        source_instance: S,
        base: Seq(10),
        f: Seq(20),
        durable: Seq(20),
        applied: Seq(20),
        missing: Vec::new(),
        digest_base: digest(10),
        digest: digest(20),
    };
    (source, target)
}

fn certificate() -> Certificate {
    let party = |name, instance, epoch| Party {
        node: node(name),
        instance,
        epoch: Epoch(epoch),
        term: Term::new(Epoch(epoch), 1),
    };
    Certificate {
        version: CERTIFICATE_VERSION,
        shard: ShardId(1),
        migration: MigrationId(9),
        source: party("s", S, 1),
        target: party("t", T, 2),
        base: Seq(10),
        f: Seq(20),
        digest_base: digest(10),
        digest_source: digest(10),
        digest_target: digest(10),
        files: manifest().files,
        missing: Vec::new(),
        holes_filled: 1,
        delta_records: 2,
        pause_us: None,
        attempts: Attempt(1),
        phase_ms: BTreeMap::from([(Phase::Activate, 1)]),
        safety: SafetyPolicy::default(),
        verdict: Certificate::VERDICT.into(),
    }
}

/// The record from its creation to dual-write, and aborted.
fn records() -> Vec<PlacementRecord> {
    let gate = MigrationCoordinator::new(MigrationConfig::default());
    let gate = gate.validate_safety().expect("the defaults are safe");
    let created = PlacementRecord::create(ShardId(1), node("s"), S);
    let m = MigrationRecord::new(
        MigrationId(9),
        &created,
        node("t"),
        node("d"),
        &gate,
        "seed",
    );
    let claim = Claim {
        migration: m.id,
        driver_term: m.driver_term,
    };
    let target_instance = T;
    let begun = created.begin_migration(m).expect("a first migration");
    let copying = begun.set_phase(claim, PhaseChange::BulkCopy { target_instance });
    let copying = copying.expect("after Plan");
    let dual = copying.set_phase(claim, PhaseChange::DualWrite { base: Seq(10) });
    let dual = dual.expect("after BulkCopy");
    let aborted = dual
        .abort(claim.migration, "seed")
        .expect("before Activate");
    vec![created, begun, copying, dual, aborted]
}

fn requests() -> Vec<Request> {
    let env = envelope();
    let ranges = SeqRange::new(Seq(11), Seq(300)).into_iter().collect();
    let (source, target) = marks();
    let config = MigrationConfig::default();
    vec![
        Request::Prepare {
            env,
            target: node("t"),
            config: config.clone(),
        },
        Request::ReadFile {
            env,
            name: "1.sst".into(),
            offset: 300,
            len: 1 << 20,
        },
        Request::Ship {
            env,
            ranges,
            max_bytes: 1 << 20,
        },
        Request::Quiesce {
            env,
            revision: Revision(5),
            pause_max_ms: 50,
        },
        Request::Drain { env },
        Request::Activate {
            env,
            source: Box::new(source),
            target: Box::new(target),
        },
        Request::Release {
            env,
            epoch: Epoch(2),
            owner: node("t"),
        },
        Request::BeginTarget {
            env,
            source: node("s"),
            source_instance: S,
            epoch: Epoch(1),
            config,
        },
        Request::Pull {
            env,
            manifest: manifest(),
        },
        Request::Records {
            env,
            from_instance: S,
            delta: true,
            records: Bytes::from_static(b"records"),
        },
        Request::ComparePage {
            env,
            after: Some(Bytes::from_static(b"key")),
            limit: 7,
        },
        Request::Write {
            shard: ShardId(1),
            epoch: Epoch(1),
            body: Bytes::from_static(&[1, 0]),
            durability: Durability::Sync,
            conditions: vec![Condition {
                key: Bytes::from_static(b"key"),
                expect: Expect::Version(EntryVersion::default()),
            }],
            deadline_ms: 100,
            session: Some(SessionMark {
                session: SessionId(5),
                number: 2,
                low_water: 1,
            }),
        },
        Request::OpenSession {
            shard: ShardId(1),
            session: SessionId(5),
            deadline_ms: 100,
        },
        Request::Get {
            shard: ShardId(1),
            keys: vec![Bytes::from_static(b"key")],
        },
    ]
}

fn responses() -> Vec<Response> {
    let (source, target) = marks();
    let mut responses = vec![
        Response::Ok,
        Response::refused(RefusedKind::Gap, "seed"),
        Response::CheckpointMade(manifest()),
        Response::SourceState(SourceState {
            forwarding: true,
            quiesced: false,
            assigned: Seq(20),
            durable: Seq(20),
            applied: Seq(19),
            forwarded: 3,
            forward_failed: 1,
        }),
        Response::Drained(source),
        Response::Verified(target),
        Response::TargetState(TargetState {
            copied_bytes: 100,
            total_bytes: 300,
            opened: true,
            base: Some(Seq(10)),
            has_max: None,
            durable: Seq(10),
            applied: Seq(10),
            files: manifest().files,
            error: Some("disk".into()),
        }),
        Response::Moved {
            owner: node("t"),
            epoch: Epoch(2),
        },
    ];
    let records = records().into_iter().map(Box::new);
    responses.extend(records.map(|record| Response::NotActivated { record }));
    responses
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let json = |kind: u8, value: Vec<u8>| [vec![kind], value].concat();
    // Nothing; nothing after the versions; a version that this one can't read.
    let mut inputs = vec![vec![], vec![0], vec![0, 8, 1, 16, 1], vec![1, 8, 2, 16, 2]];
    inputs.extend(requests().iter().map(|r| json(0, r.encode().to_vec())));
    inputs.extend(responses().iter().map(|r| json(1, r.encode().to_vec())));
    inputs.push(json(
        2,
        serde_json::to_vec(&certificate()).expect("plain data"),
    ));
    let records = records();
    let records = records
        .iter()
        .map(|record| json(3, serde_json::to_vec(record).expect("plain data")));
    inputs.extend(records);
    inputs
}

/// Scenes: the way of a whole migration, the ways out of it, and noise; then machines.
pub(super) fn events() -> Vec<Vec<u8>> {
    const ANSWER: &[u8] = &[6, 0, 1];
    const SOURCE_READS: &[u8] = &[10, 2];
    const TARGET_READS: &[u8] = &[10, 5];
    let dual_write = [
        &[1][..],
        // Begin; the target hosts a copy; bulk-copy, dual-write.
        &[11, 0, 0, 4, 0, 0, 0],
        TARGET_READS,
        ANSWER,
        ANSWER,
        &[11, 2, 0, 11, 5, 0, 12, 5],
    ]
    .concat();
    let drained = [
        &dual_write[..],
        // Another attempt, quiesce, drain.
        &[11, 8, 0, 0, 2, 0, 96],
        SOURCE_READS,
        ANSWER,
        ANSWER,
        &[0, 5, 0, 0],
        ANSWER,
    ]
    .concat();
    let noted = [
        &drained[..],
        // The rest is shipped; verify; activate.
        &[13, 7, 4, 4, 0, 0],
        ANSWER,
        &[0, 8, 0, 0],
    ]
    .concat();
    let given = [&noted[..], ANSWER, ANSWER, ANSWER].concat();
    let serving = [&given[..], TARGET_READS, ANSWER, ANSWER, &[4, 9, 0, 0]].concat();
    let whole = [
        &serving[..],
        // Cleanup, retire, delete, end.
        &[11, 15, 0, 11, 14, 0, 0, 12, 0, 0],
        SOURCE_READS,
        ANSWER,
        ANSWER,
        &[11, 14, 1],
    ]
    .concat();
    let crash_source: &[u8] = &[15, 0];
    let crash_target: &[u8] = &[15, 1];
    let abort: &[u8] = &[11, 12, 0];
    let mut inputs = vec![whole];
    for state in [&dual_write, &drained, &noted, &given, &serving] {
        inputs.push([state, crash_source, SOURCE_READS, ANSWER, ANSWER].concat());
        inputs.push([state, crash_target, TARGET_READS, ANSWER, ANSWER].concat());
        inputs.push([state, abort, SOURCE_READS, ANSWER, TARGET_READS, ANSWER].concat());
        // The pause is at its bound; another driver takes over.
        inputs.push([state, &[14, 240, 14, 243, 11, 11, 0, 0, 8, 0, 0][..]].concat());
    }
    for seed in 0..8 {
        inputs.push([&[1], &Noise(400 + seed).bytes(300)[..]].concat());
        inputs.push([&[0], &Noise(500 + seed).bytes(300)[..]].concat());
    }
    // The note is not made durable; the deletion is asked for before the placement decided it.
    let shipped: &[u8] = &[13, 7, 4, 4, 0, 0];
    let failing: &[u8] = &[14, 15, 0, 8, 0, 0];
    inputs.push([&drained, shipped, ANSWER, failing, ANSWER, ANSWER].concat());
    let undecided: &[u8] = &[11, 15, 0, 0, 12, 0, 0];
    inputs.push([&serving, undecided, SOURCE_READS, ANSWER, ANSWER].concat());
    inputs
}

/// Settings that lose nothing, some, or much; then choices.
pub(super) fn worlds() -> Vec<Vec<u8>> {
    let quiet: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 0, 5];
    let mut inputs = vec![quiet.to_vec()];
    for seed in 0..12u8 {
        let settings = [20 * seed, 60, 150, 2 * seed, 5 * seed, 6, seed, seed, seed];
        inputs.push([&settings[..], &Noise(600 + u64::from(seed)).bytes(200)].concat());
    }
    inputs
}

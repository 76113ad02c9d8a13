//! The rules of the design that live in this crate, each with tests named after it.
//!
//! Here: 2, 3, 5, 6, 7, 8, 14, 15, 16 and 19 (`rule_15` and `rule_19` are also in `reports.rs`). The log keeps 1, 4, 9 and
//! 13, the engine 18 and the parts of 2, 3 and 14 that need a disk.

mod driver;
mod evidence;
mod placement;
mod source;
#[path = "../stage/mod.rs"]
mod stage;
mod target;

use watershed_migration::messages::{Envelope, RefusedKind, Request, Response};
use watershed_migration::source::{
    CallId, Decision, DrainedMarks, Hosting, SourceAction, SourceEvent, SourceNote, SourceRole,
    SourceTimer,
};
use watershed_migration::target::{Elected, TargetAction, TargetEvent, TargetNote, TargetRole};
use watershed_migration::{
    Attempt, Claim, DriverTerm, Evidence, EvidenceError, HighestSeen, MigrationConfig,
    MigrationCoordinator, MigrationId, MigrationRecord, NodeId, Now, Phase, PhaseChange,
    PlacementError, PlacementRecord, SafeConfig, SourceMarks, TargetMarks,
};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term};

const S: InstanceId = InstanceId(5);
const T: InstanceId = InstanceId(7);
const ID: MigrationId = MigrationId(9);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn at(name: &str, instance: InstanceId) -> Hosting {
    Hosting {
        shard: ShardId(1),
        node: node(name),
        instance,
    }
}

fn gate() -> SafeConfig {
    MigrationCoordinator::new(MigrationConfig::default())
        .validate_safety()
        .unwrap()
}

fn claim() -> Claim {
    Claim {
        migration: ID,
        driver_term: DriverTerm(1),
    }
}

/// In dual-write, attempt 1.
fn ready() -> PlacementRecord {
    let new = PlacementRecord::create(ShardId(1), node("s"), S);
    let m = MigrationRecord::new(ID, &new, node("t"), node("d"), &gate(), "test");
    let begun = new.begin_migration(m).unwrap();
    let copying = begun
        .set_phase(claim(), PhaseChange::BulkCopy { target_instance: T })
        .unwrap();
    let dual = copying
        .set_phase(claim(), PhaseChange::DualWrite { base: Seq(10) })
        .unwrap();
    dual.raise_attempt(claim()).unwrap()
}

fn marks(record: &PlacementRecord) -> (SourceMarks, TargetMarks) {
    let digest_base = LogDigest {
        count: 10,
        sum: 100,
    };
    let digest = LogDigest {
        count: 20,
        sum: 300,
    };
    let attempt = record.migration.as_ref().unwrap().attempt;
    let (base, f) = (Seq(10), Seq(20));
    let source = SourceMarks {
        migration: ID,
        attempt,
        instance: S,
        term: Term::new(Epoch(1), 1),
        base,
        f,
        durable: f,
        applied: f,
        digest_base,
        digest,
        revision: record.revision,
    };
    let target = TargetMarks {
        migration: ID,
        attempt,
        instance: T,
        source_instance: S,
        base,
        f,
        durable: f,
        applied: f,
        missing: Vec::new(),
        digest_base,
        digest,
    };
    (source, target)
}

fn env() -> Envelope {
    Envelope {
        shard: ShardId(1),
        migration: ID,
        attempt: Attempt(1),
        driver_term: DriverTerm(1),
    }
}

fn ask(role: &mut SourceRole, now: u64, request: Request) -> Vec<SourceAction> {
    let request = Box::new(request);
    role.handle(
        Now(now),
        SourceEvent::Request {
            call: CallId(now),
            request,
        },
    )
}

fn refusal(actions: &[SourceAction]) -> Option<RefusedKind> {
    actions.iter().find_map(|action| match action {
        SourceAction::Reply {
            response: Response::Refused(refused),
            ..
        } => Some(refused.kind),
        _ => None,
    })
}

fn quiesce(record: &PlacementRecord) -> Request {
    Request::Quiesce {
        env: env(),
        revision: record.revision,
        pause_max_ms: 50,
    }
}

/// A source that is quiesced since 0 and drained, at F = 20.
fn drained(record: &PlacementRecord) -> SourceRole {
    let mut role = SourceRole::new(at("s", S), HighestSeen::default());
    assert_eq!(
        ask(&mut role, 0, quiesce(record)),
        vec![SourceAction::ReadPlacement]
    );
    let actions = role.handle(Now(0), SourceEvent::PlacementRead(Box::new(record.clone())));
    // The quiesce is looked up, then the record is read for it once more where the migration was unknown.
    let actions = if actions == vec![SourceAction::ReadPlacement] {
        role.handle(Now(0), SourceEvent::PlacementRead(Box::new(record.clone())))
    } else {
        actions
    };
    assert!(
        matches!(
            actions[..],
            [SourceAction::CloseGate {
                attempt: Attempt(1),
                ..
            }]
        ),
        "{actions:?}"
    );
    role.handle(
        Now(0),
        SourceEvent::GateClosed {
            attempt: Attempt(1),
            f: Some(Seq(20)),
        },
    );
    let actions = ask(&mut role, 1, Request::Drain { env: env() });
    assert_eq!(
        actions,
        vec![SourceAction::Drain {
            attempt: Attempt(1),
            f: Seq(20)
        }]
    );
    let (source, _) = marks(record);
    let marks = DrainedMarks {
        term: source.term,
        base: source.base,
        digest_base: source.digest_base,
        durable: source.durable,
        applied: source.applied,
        digest: source.digest,
    };
    role.handle(
        Now(1),
        SourceEvent::Drained {
            attempt: Attempt(1),
            marks: Ok(marks),
        },
    );
    assert_eq!(role.state_name(), "drained");
    role
}

fn activate(record: &PlacementRecord) -> Request {
    let (source, target) = marks(record);
    Request::Activate {
        env: env(),
        source: Box::new(source),
        target: Box::new(target),
    }
}

fn target() -> TargetRole {
    let note = TargetNote {
        migration: ID,
        shard: ShardId(1),
        instance: T,
        source: node("s"),
        source_instance: S,
        epoch: Epoch(1),
    };
    TargetRole::recover(at("t", T), HighestSeen::default(), note, 1).0
}

/// The record after activation, with the old copy's deletion decided.
fn retiring(record: &PlacementRecord) -> PlacementRecord {
    let (source, target) = marks(record);
    let mut retiring = record
        .activate(&Evidence::prove(&gate(), &source, &target).unwrap())
        .unwrap();
    // A certificate is not needed to read that the copy is retiring.
    retiring.migration.as_mut().unwrap().phase = Phase::Cleanup;
    retiring.begin_retire(claim()).unwrap()
}

fn deletes(actions: &[SourceAction]) -> usize {
    let delete = |action: &&SourceAction| matches!(action, SourceAction::Delete { .. });
    actions.iter().filter(delete).count()
}

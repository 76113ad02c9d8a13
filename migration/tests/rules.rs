//! The rules of the design that live in this crate, one test each, named after it.

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

#[test]
fn rule_05_evidence_is_of_this_attempt_and_the_swap_compares_all_of_it() {
    let record = ready();
    let (source, target) = marks(&record);
    let proof = Evidence::prove(&gate(), &source, &target).unwrap();
    let given = record.activate(&proof).unwrap();
    assert_eq!(
        (
            given.epoch,
            given.instance,
            given.frozen.as_ref().unwrap().f
        ),
        (Epoch(2), T, Seq(20))
    );
    given.validate().unwrap();

    let raised = record.raise_attempt(claim()).unwrap();
    let refused = raised.activate(&proof);
    assert!(
        matches!(
            refused,
            Err(PlacementError::Evidence {
                what: "attempt",
                ..
            })
        ),
        "{refused:?}"
    );
    let mut moved = record.clone();
    moved.revision.0 += 1;
    assert!(matches!(
        moved.activate(&proof),
        Err(PlacementError::Evidence {
            what: "revision",
            ..
        })
    ));
    let mut other = record;
    other.migration.as_mut().unwrap().target_instance = Some(InstanceId(8));
    assert!(matches!(
        other.activate(&proof),
        Err(PlacementError::Evidence {
            what: "target instance",
            ..
        })
    ));
}

#[test]
fn rule_05_marks_that_do_not_match_prove_nothing() {
    let record = ready();
    let broken: [fn(&mut SourceMarks, &mut TargetMarks); 9] = [
        |s, _| s.migration = MigrationId(1),
        |_, t| t.attempt = Attempt(2),
        |_, t| t.f = Seq(19),
        |_, t| t.base = Seq(9),
        |_, t| t.source_instance = T,
        |_, t| t.applied = Seq(19),
        |s, _| s.durable = Seq(19),
        |_, t| t.digest.sum += 1,
        |_, t| t.missing.extend(SeqRange::new(Seq(11), Seq(11))),
    ];
    for (n, breaks) in broken.iter().enumerate() {
        let (mut source, mut target) = marks(&record);
        breaks(&mut source, &mut target);
        assert!(
            Evidence::prove(&gate(), &source, &target).is_err(),
            "case {n}"
        );
    }
    let (mut source, target) = marks(&record);
    source.digest.count = 0;
    let impossible = Evidence::prove(&gate(), &source, &target);
    assert!(matches!(impossible, Err(EvidenceError::Impossible { .. })));
}

#[test]
fn rule_06_the_swap_leaves_only_after_its_note_is_durable() {
    let record = ready();
    let mut role = drained(&record);
    let actions = ask(&mut role, 2, activate(&record));
    assert!(
        matches!(actions[..], [SourceAction::PersistSent { .. }]),
        "{actions:?}"
    );
    // The pause's end no longer re-opens it, and neither does an unchanged record.
    assert_eq!(
        role.handle(Now(99), SourceEvent::Timer(SourceTimer::Reopen)),
        vec![]
    );
    let durable = SourceEvent::NotePersisted {
        attempt: Attempt(1),
        durable: true,
    };
    let actions = role.handle(Now(99), durable);
    assert!(
        matches!(actions[..], [SourceAction::Swap { .. }]),
        "{actions:?}"
    );
    role.handle(Now(99), SourceEvent::SwapUnknown);
    let actions = role.handle(
        Now(120),
        SourceEvent::PlacementRead(Box::new(record.clone())),
    );
    assert!(
        !actions.contains(&SourceAction::Open),
        "an unmoved record decides nothing: {actions:?}"
    );
    let aborted = record.abort(ID, "test").unwrap();
    let actions = role.handle(Now(121), SourceEvent::PlacementRead(Box::new(aborted)));
    assert!(actions.contains(&SourceAction::Open), "{actions:?}");
}

#[test]
fn rule_06_a_note_that_is_not_durable_neither_swaps_nor_opens() {
    let record = ready();
    let mut role = drained(&record);
    ask(&mut role, 2, activate(&record));
    let failed = SourceEvent::NotePersisted {
        attempt: Attempt(1),
        durable: false,
    };
    let mut actions = role.handle(Now(3), failed);
    actions.extend(role.handle(Now(30), SourceEvent::PlacementRead(Box::new(record))));
    let acts = |a: &SourceAction| matches!(a, SourceAction::Swap { .. } | SourceAction::Open);
    assert!(!actions.iter().any(acts), "{actions:?}");
}

#[test]
fn rule_06_before_the_note_it_reopens_alone_and_never_quiesces_that_attempt_again() {
    let record = ready();
    let mut role = drained(&record);
    let actions = role.handle(Now(40), SourceEvent::Timer(SourceTimer::Reopen));
    assert_eq!(actions, vec![SourceAction::Open]);
    assert_eq!(
        refusal(&ask(&mut role, 41, activate(&record))),
        Some(RefusedKind::StaleAttempt)
    );
    assert_eq!(
        refusal(&ask(&mut role, 42, quiesce(&record))),
        Some(RefusedKind::StaleAttempt)
    );
}

#[test]
fn rule_06_a_restart_with_a_note_serves_nothing_before_a_record_was_read() {
    let note = SourceNote::Quiesced {
        attempt: Attempt(1),
    };
    let (mut role, actions) = SourceRole::recover(at("s", S), HighestSeen::default(), Some(note));
    assert_eq!(actions, vec![SourceAction::ReadPlacement]);
    assert!(!role.is_open());
    let unread = role.handle(Now(1), SourceEvent::PlacementUnread);
    assert!(!unread.contains(&SourceAction::Open));
    let actions = role.handle(Now(2), SourceEvent::PlacementRead(Box::new(ready())));
    assert!(actions.contains(&SourceAction::Open) && role.is_open());
}

#[test]
fn rule_06_a_restart_with_a_sent_note_sends_the_same_swap_again() {
    let record = ready();
    let mut role = drained(&record);
    let actions = ask(&mut role, 2, activate(&record));
    let [SourceAction::PersistSent { note, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    let SourceNote::Sent { swap, .. } = note.clone() else {
        panic!("{note:?}")
    };
    assert!(matches!(
        swap.clone().decide(&record),
        Decision::Undecided(_)
    ));
    let (mut role, _) = SourceRole::recover(at("s", S), HighestSeen::default(), Some(note.clone()));
    let actions = role.handle(Now(3), SourceEvent::PlacementRead(Box::new(record)));
    assert!(
        matches!(&actions[..], [SourceAction::Swap { record, .. }] if **record == *swap.next())
    );
    let won = role.handle(Now(4), SourceEvent::Swapped(Box::new(swap.next().clone())));
    assert!(
        matches!(
            won[0],
            SourceAction::GiveAway {
                epoch: Epoch(2),
                ..
            }
        ),
        "{won:?}"
    );
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

#[test]
fn rule_07_the_target_serves_only_after_it_read_itself_as_owner_and_its_start_is_durable() {
    let record = ready();
    let (source, target_marks) = marks(&record);
    let given = record
        .activate(&Evidence::prove(&gate(), &source, &target_marks).unwrap())
        .unwrap();
    assert_eq!(Elected::by(&record, &at("t", T), ID), None);
    assert_eq!(Elected::by(&given, &at("t", InstanceId(8)), ID), None);
    let mut role = target();
    let request = Box::new(Request::BecomeOwner {
        env: env(),
        epoch: Epoch(2),
    });
    let actions = role.handle(TargetEvent::Request {
        call: CallId(1),
        request,
    });
    assert_eq!(actions, vec![TargetAction::ReadPlacement]);
    let actions = role.handle(TargetEvent::PlacementRead(Box::new(given)));
    assert_eq!(
        actions,
        vec![TargetAction::StartTerm {
            epoch: Epoch(2),
            f: Seq(20)
        }]
    );
    assert!(!role.is_owner());
    role.handle(TargetEvent::TermStarted(Ok((
        Term::new(Epoch(2), 1),
        Seq(21),
    ))));
    assert!(role.is_owner());
}

#[test]
fn rule_08_records_of_another_copy_or_epoch_are_refused() {
    let role = target();
    assert_eq!(role.admit_records(&env(), S, [Epoch(1)]), Ok(()));
    let kind = |from, epoch| role.admit_records(&env(), from, [epoch]).unwrap_err().kind;
    assert_eq!(kind(InstanceId(6), Epoch(1)), RefusedKind::WrongInstance);
    assert_eq!(kind(S, Epoch(0)), RefusedKind::StaleEpoch);
}

#[test]
fn rule_15_lower_terms_and_attempts_are_refused_and_only_aborted_deletes() {
    let record = ready();
    let mut role = drained(&record);
    let old = Envelope {
        attempt: Attempt(0),
        ..env()
    };
    assert_eq!(
        refusal(&ask(&mut role, 2, Request::Drain { env: old })),
        Some(RefusedKind::StaleAttempt)
    );
    let old = Envelope {
        driver_term: DriverTerm(0),
        ..env()
    };
    assert_eq!(
        refusal(&ask(&mut role, 3, Request::Drain { env: old })),
        Some(RefusedKind::StaleDriver)
    );

    let mut role = target();
    let discard = || TargetEvent::Request {
        call: CallId(1),
        request: Box::new(Request::DiscardTarget { env: env() }),
    };
    role.handle(discard());
    let actions = role.handle(TargetEvent::PlacementRead(Box::new(record.clone())));
    assert!(matches!(
        actions[..],
        [TargetAction::Reply {
            response: Response::Refused(_),
            ..
        }]
    ));
    role.handle(discard());
    let aborted = Box::new(record.abort(ID, "test").unwrap());
    let actions = role.handle(TargetEvent::PlacementRead(aborted));
    assert_eq!(actions, vec![TargetAction::Discard { instance: T }]);
}

#[test]
fn rule_16_a_record_that_goes_back_is_refused() {
    let record = ready();
    let mut seen = HighestSeen::default();
    assert_eq!(seen.observe(&record), Ok(true));
    assert_eq!(seen.observe(&record), Ok(false));
    let old = PlacementRecord::create(ShardId(1), node("s"), S);
    assert!(seen.observe(&old).is_err());
    let (mut role, _) = SourceRole::recover(at("s", S), seen, None);
    role.handle(Now(0), SourceEvent::PlacementRead(Box::new(old)));
    assert!(
        !role.is_open(),
        "a record from a backup revived an old owner"
    );
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

#[test]
fn rule_08_a_deletion_is_asked_for_once_whatever_comes_meanwhile() {
    let record = Box::new(retiring(&ready()));
    let retire = || Request::Retire {
        env: env(),
        instance: S,
    };
    let read = || SourceEvent::PlacementRead(record.clone());
    let (mut role, _) = SourceRole::recover(at("s", S), HighestSeen::default(), None);
    role.handle(Now(0), read());
    let mut actions = ask(&mut role, 1, retire());
    actions.extend(role.handle(Now(2), read()));
    assert_eq!(deletes(&actions), 1, "{actions:?}");
    // A watch shows the record again, the driver asks again, the read of its first call comes late.
    let mut actions = role.handle(Now(3), read());
    actions.extend(ask(&mut role, 4, retire()));
    actions.extend(role.handle(Now(5), read()));
    actions.extend(role.handle(Now(6), SourceEvent::PlacementUnread));
    assert_eq!(deletes(&actions), 0, "{actions:?}");
    assert!(role.gave_away());

    // One that failed is asked for again, by the next command alone.
    let failed = role.handle(Now(7), SourceEvent::Deleted(Err("disk".into())));
    assert_eq!(deletes(&failed), 0);
    assert_eq!(deletes(&role.handle(Now(8), read())), 0);
    let mut actions = ask(&mut role, 9, retire());
    actions.extend(role.handle(Now(10), read()));
    assert_eq!(deletes(&actions), 1, "{actions:?}");
    let actions = role.handle(Now(11), SourceEvent::Deleted(Ok(5)));
    let retired = |call, bytes| SourceAction::Reply {
        call: CallId(call),
        response: Response::Retired { bytes },
    };
    assert_eq!(actions, vec![retired(9, 5)]);
    assert_eq!(ask(&mut role, 12, retire()), vec![retired(12, 5)]);
}

#[test]
fn rule_06_a_driver_cannot_ask_for_a_longer_pause_than_the_placement_agreed() {
    let record = ready();
    let mut role = SourceRole::new(at("s", S), HighestSeen::default());
    let mut asked = quiesce(&record);
    if let Request::Quiesce { pause_max_ms, .. } = &mut asked {
        *pause_max_ms = u64::MAX;
    }
    ask(&mut role, 0, asked);
    let actions = role.handle(Now(0), SourceEvent::PlacementRead(Box::new(record)));
    assert!(matches!(actions[..], [SourceAction::CloseGate { .. }]));
    let closed = SourceEvent::GateClosed {
        attempt: Attempt(1),
        f: Some(Seq(20)),
    };
    let actions = role.handle(Now(1), closed);
    let timer = SourceAction::SetTimer {
        timer: SourceTimer::Reopen,
        at: Now(40),
    };
    assert!(actions.contains(&timer), "{actions:?}");
}

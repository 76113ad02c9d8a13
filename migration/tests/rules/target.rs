//! The target: rules 3, 7, 8, 15 and 16.

use super::*;

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

fn call(role: &mut TargetRole, request: Request) -> Vec<TargetAction> {
    role.handle(TargetEvent::Request {
        call: CallId(1),
        request: Box::new(request),
    })
}

fn refused(actions: &[TargetAction]) -> Option<RefusedKind> {
    actions.iter().find_map(|action| match action {
        TargetAction::Reply {
            response: Response::Refused(refused),
            ..
        } => Some(refused.kind),
        _ => None,
    })
}

#[test]
fn rule_03_records_of_another_lineage_do_not_count() {
    let mut role = target();
    let records = |from_instance| Request::Records {
        env: env(),
        from_instance,
        delta: true,
        records: bytes::Bytes::new(),
    };
    assert!(matches!(
        call(&mut role, records(S))[..],
        [TargetAction::Perform { .. }]
    ));
    let actions = call(&mut role, records(InstanceId(6)));
    assert_eq!(
        (actions.len(), refused(&actions)),
        (1, Some(RefusedKind::WrongInstance))
    );
    let epochs = [Epoch(1), Epoch(2)];
    let kind = role.admit_records(&env(), S, epochs).unwrap_err().kind;
    assert_eq!(kind, RefusedKind::StaleEpoch);
}

#[test]
fn rule_15_a_zombie_drivers_commands_are_refused_also_after_a_restart() {
    let zombie = Envelope {
        driver_term: DriverTerm(1),
        ..env()
    };
    let newer = Envelope {
        driver_term: DriverTerm(2),
        ..env()
    };
    let verify = |env| Request::Verify { env, f: Seq(20) };
    let mut role = target();
    call(&mut role, Request::TargetStatus { env: newer });
    assert_eq!(
        refused(&call(&mut role, verify(zombie))),
        Some(RefusedKind::StaleDriver)
    );
    // A restart forgets the command, but the record that it reads first holds the term, and the attempt.
    let mut role = target();
    let taken = ready().take_over(ID, node("d2")).unwrap();
    role.handle(TargetEvent::PlacementRead(Box::new(taken)));
    assert_eq!(
        refused(&call(&mut role, verify(zombie))),
        Some(RefusedKind::StaleDriver)
    );
    let earlier = Envelope {
        attempt: Attempt(0),
        ..newer
    };
    assert_eq!(
        refused(&call(&mut role, verify(earlier))),
        Some(RefusedKind::StaleAttempt)
    );
    assert_eq!(refused(&call(&mut role, verify(newer))), None);
}

#[test]
fn rule_16_a_record_that_goes_back_makes_no_owner() {
    let record = ready();
    let (source, marks) = marks(&record);
    let given = record
        .activate(&Evidence::prove(&gate(), &source, &marks).unwrap())
        .unwrap();
    let mut seen = HighestSeen::default();
    let mut later = given.clone();
    later.revision.0 += 5;
    seen.observe(&later).unwrap();
    let note = TargetNote {
        migration: ID,
        shard: ShardId(1),
        instance: T,
        source: node("s"),
        source_instance: S,
        epoch: Epoch(1),
    };
    let (mut role, _) = TargetRole::recover(at("t", T), seen, note, 1);
    let actions = role.handle(TargetEvent::PlacementRead(Box::new(given)));
    assert!(actions.is_empty() && !role.is_owner(), "{actions:?}");
}

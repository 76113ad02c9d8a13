//! Rule 5: evidence is of one attempt, and the swap compares all of it.

use super::*;

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
fn rule_05_marks_of_another_attempt_do_not_make_the_source_swap() {
    let record = ready();
    let (source, target) = marks(&record);
    let altered: [fn(&mut SourceMarks, &mut TargetMarks); 6] = [
        // The attempt before, whose marks were whole then.
        |s, t| (s.attempt, t.attempt) = (Attempt(0), Attempt(0)),
        |_, t| t.attempt = Attempt(0),
        |s, t| (s.migration, t.migration) = (MigrationId(8), MigrationId(8)),
        |s, t| (s.f, t.f) = (Seq(19), Seq(19)),
        |s, _| s.revision.0 -= 1,
        |_, t| t.instance = InstanceId(8),
    ];
    for (n, alter) in altered.iter().enumerate() {
        let mut role = drained(&record);
        let (mut source, mut target) = (source.clone(), target.clone());
        alter(&mut source, &mut target);
        let request = Request::Activate {
            env: env(),
            source: Box::new(source),
            target: Box::new(target),
        };
        let actions = ask(&mut role, 2, request);
        assert_eq!(
            refusal(&actions),
            Some(RefusedKind::Conflict),
            "case {n}: {actions:?}"
        );
        assert_eq!(
            actions.len(),
            1,
            "case {n}: nothing is noted, nothing swapped"
        );
        // It can still re-open, and so it does.
        let actions = role.handle(Now(40), SourceEvent::Timer(SourceTimer::Reopen));
        assert_eq!(actions, vec![SourceAction::Open], "case {n}");
    }
}

#[test]
fn rule_05_past_the_pauses_bound_even_whole_marks_do_not_make_it_swap() {
    let record = ready();
    let mut role = drained(&record);
    // The timer is late, the request is not.
    let actions = ask(&mut role, 40, activate(&record));
    assert!(actions.contains(&SourceAction::Open), "{actions:?}");
    assert_eq!(refusal(&actions), Some(RefusedKind::StaleAttempt));
}

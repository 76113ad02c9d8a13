//! The source: rules 6, 8 and 15.

use super::*;

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
    // All that comes of it: the first call is told that a later one took its place.
    assert_eq!(
        (actions.len(), refusal(&actions)),
        (1, Some(RefusedKind::Busy)),
        "{actions:?}"
    );
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

#[test]
fn rule_06_a_restart_with_a_quiesce_note_serves_nothing_until_a_record_was_read() {
    let note = || SourceNote::Quiesced {
        attempt: Attempt(1),
    };
    let recover = || SourceRole::recover(at("s", S), HighestSeen::default(), Some(note())).0;
    let mut role = recover();
    for ms in 0..50 {
        let event = match ms % 3 {
            0 => SourceEvent::PlacementUnread,
            1 => SourceEvent::Timer(SourceTimer::Decide),
            _ => SourceEvent::Timer(SourceTimer::Reopen),
        };
        let actions = role.handle(Now(ms), event);
        assert!(
            !actions.contains(&SourceAction::Open) && !role.is_open(),
            "{actions:?}"
        );
        let status = ask(&mut role, 100 + ms, quiesce(&ready()));
        assert!(
            !status.contains(&SourceAction::Open) && !role.is_open(),
            "{status:?}"
        );
    }
    // The record may say that the shard was given away meanwhile.
    let actions = role.handle(
        Now(200),
        SourceEvent::PlacementRead(Box::new(retiring(&ready()))),
    );
    assert!(
        role.gave_away() && !actions.contains(&SourceAction::Open),
        "{actions:?}"
    );
    // Or that it owns it; the attempt before the crash is spent all the same.
    let mut role = recover();
    let actions = role.handle(Now(1), SourceEvent::PlacementRead(Box::new(ready())));
    assert!(actions.contains(&SourceAction::Open));
    assert_eq!(
        refusal(&ask(&mut role, 2, quiesce(&ready()))),
        Some(RefusedKind::StaleAttempt)
    );
}

#[test]
fn rule_06_a_swap_without_a_reply_decides_nothing() {
    let record = ready();
    let mut role = drained(&record);
    ask(&mut role, 2, activate(&record));
    let durable = SourceEvent::NotePersisted {
        attempt: Attempt(1),
        durable: true,
    };
    role.handle(Now(3), durable);
    let decides = |action: &SourceAction| {
        matches!(
            action,
            SourceAction::Open | SourceAction::GiveAway { .. } | SourceAction::Reply { .. }
        )
    };
    for round in 1..20 {
        let now = Now(20 * round);
        let actions = role.handle(now, SourceEvent::SwapUnknown);
        assert!(!actions.iter().any(decides), "{actions:?}");
        let actions = role.handle(now, SourceEvent::Timer(SourceTimer::Decide));
        assert_eq!(actions, vec![SourceAction::ReadPlacement]);
        let read = match round % 2 {
            0 => SourceEvent::PlacementUnread,
            _ => SourceEvent::PlacementRead(Box::new(record.clone())),
        };
        let actions = role.handle(now, read);
        // The same swap again, against the same revision: harmless if the first one won.
        assert!(!actions.iter().any(decides), "{actions:?}");
    }
    let given = Box::new(retiring(&record));
    let actions = role.handle(Now(999), SourceEvent::PlacementRead(given));
    assert!(
        actions
            .iter()
            .any(|a| matches!(a, SourceAction::GiveAway { .. })),
        "{actions:?}"
    );
}

#[test]
fn rule_08_a_copy_is_not_deleted_before_a_record_decided_it_nor_under_another_name() {
    let record = ready();
    let (source, target) = marks(&record);
    let frozen = record
        .activate(&Evidence::prove(&gate(), &source, &target).unwrap())
        .unwrap();
    let (mut role, _) = SourceRole::recover(at("s", S), HighestSeen::default(), None);
    role.handle(Now(0), SourceEvent::PlacementRead(Box::new(frozen.clone())));
    let retire = |instance| Request::Retire {
        env: env(),
        instance,
    };
    ask(&mut role, 1, retire(S));
    let actions = role.handle(Now(2), SourceEvent::PlacementRead(Box::new(frozen)));
    assert_eq!(
        (refusal(&actions), deletes(&actions)),
        (Some(RefusedKind::NotReady), 0)
    );
    let actions = ask(&mut role, 3, retire(T));
    assert_eq!(
        (refusal(&actions), deletes(&actions)),
        (Some(RefusedKind::WrongInstance), 0)
    );
    // The owner's copy is never deleted by its role.
    let mut role = SourceRole::new(at("s", S), HighestSeen::default());
    let mut actions = ask(&mut role, 1, retire(S));
    actions.extend(role.handle(Now(2), SourceEvent::PlacementRead(Box::new(record))));
    assert_eq!(
        (refusal(&actions), deletes(&actions)),
        (Some(RefusedKind::NotReady), 0)
    );
}

#[test]
fn rule_15_an_abort_is_believed_only_from_the_record() {
    let record = ready();
    let mut role = drained(&record);
    let abort = || Request::AbortSource { env: env() };
    ask(&mut role, 2, abort());
    let actions = role.handle(Now(3), SourceEvent::PlacementRead(Box::new(record.clone())));
    assert_eq!(refusal(&actions), Some(RefusedKind::Conflict));
    assert!(!actions.contains(&SourceAction::StopForwarding));
    ask(&mut role, 4, abort());
    let aborted = Box::new(record.abort(ID, "asked").unwrap());
    let actions = role.handle(Now(5), SourceEvent::PlacementRead(aborted));
    // It serves on, and keeps nothing for the migration.
    assert!(role.is_open());
    for expected in [SourceAction::Open, SourceAction::StopForwarding] {
        assert!(actions.contains(&expected), "{actions:?}");
    }
}

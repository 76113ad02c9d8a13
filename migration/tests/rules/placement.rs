//! The placement record: rules 8, 15 and 16.

use super::*;

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

#[test]
fn rule_15_a_zombie_drivers_swaps_are_refused_by_the_record() {
    let record = ready();
    let taken = record.take_over(ID, node("d2")).unwrap();
    let stale = |result: Result<PlacementRecord, PlacementError>| {
        matches!(
            result,
            Err(PlacementError::StaleDriver {
                found: DriverTerm(2),
                ..
            })
        )
    };
    assert!(stale(taken.raise_attempt(claim())));
    assert!(stale(taken.begin_retire(claim())));
    assert!(stale(taken.finish_cleanup(claim())));
    assert!(stale(taken.note_grace(claim(), 1)));
    assert!(stale(
        taken.set_phase(claim(), PhaseChange::DualWrite { base: Seq(1) })
    ));
    // And what it made of the record before is of an older revision: the swap compares that.
    assert!(record.raise_attempt(claim()).unwrap().revision <= taken.revision);
}

#[test]
fn rule_15_an_abort_is_possible_before_activate_only() {
    let record = ready();
    let aborted = record.abort(ID, "asked").unwrap();
    assert_eq!(aborted.owner, record.owner);
    aborted.validate().unwrap();
    let wrong = |result: Result<PlacementRecord, PlacementError>| {
        matches!(result, Err(PlacementError::WrongPhase { .. }))
    };
    assert!(wrong(aborted.abort(ID, "again")));
    let (source, target) = marks(&record);
    let proof = Evidence::prove(&gate(), &source, &target).unwrap();
    assert!(
        wrong(aborted.activate(&proof)),
        "an aborted migration activates"
    );
    let given = record.activate(&proof).unwrap();
    assert!(wrong(given.abort(ID, "asked")));
    assert!(wrong(retiring(&record).abort(ID, "asked")));
}

#[test]
fn rule_19_the_grace_time_that_is_over_never_goes_back() {
    let record = retiring(&ready());
    let over = |record: &PlacementRecord| record.frozen.as_ref().unwrap().grace_over_ms;
    let noted = record.note_grace(claim(), 500).unwrap();
    assert_eq!(over(&noted), 500);
    assert_eq!(over(&noted.note_grace(claim(), 400).unwrap()), 500);
    // A record of before this was counted reads as none of it over.
    let mut old = serde_json::to_value(&noted).unwrap();
    old["frozen"]
        .as_object_mut()
        .unwrap()
        .remove("grace_over_ms");
    let old: PlacementRecord = serde_json::from_value(old).unwrap();
    assert_eq!(over(&old), 0);
}

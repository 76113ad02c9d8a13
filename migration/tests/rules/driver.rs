//! The driver: rules 2, 6 and 14.

use watershed_migration::machine::{Action, Event, Machine, Step};

use super::stage::{Stage, healthy};
use super::*;

fn config() -> MigrationConfig {
    MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    }
}

#[test]
fn rule_02_only_what_is_durable_at_the_source_is_asked_for() {
    let mut stage = Stage::new(&config());
    let mut through = Vec::new();
    stage.run(60_000, |_, p, r| match (r, healthy(p, r)) {
        (Request::SourceStatus { .. }, Response::SourceState(mut state)) => {
            (state.durable, state.applied, state.assigned) = (Seq(70), Seq(90), Seq(99));
            (0, Response::SourceState(state))
        }
        (Request::Missing { through: seq, .. }, answer) => {
            through.push(*seq);
            (0, answer)
        }
        (_, answer) => (0, answer),
    });
    // Before the pause up to what is durable, in it up to F, which the drain made durable.
    assert_eq!(through, [Seq(70), Seq(100)]);
}

#[test]
fn rule_06_a_swap_without_a_reply_decides_nothing_for_the_driver() {
    let placement = PlacementRecord::create(ShardId(1), node("s"), S);
    let m = MigrationRecord::new(ID, &placement, node("t"), node("d"), &gate(), "test");
    let mut machine = Machine::new(gate(), placement.clone(), m);
    let mut now = 0;
    let mut next = |machine: &mut Machine, event: Option<Event>| {
        match event {
            Some(event) => machine.handle(Now(now), event),
            None => machine.start(Now(now)),
        }
        let mut actions: Vec<_> = std::iter::from_fn(|| machine.next_action()).collect();
        actions.retain(|action| !matches!(action, Action::Progress(_)));
        let [action] = &actions[..] else {
            panic!("{actions:?}")
        };
        if let Action::SetTimer { at, .. } = action {
            now = at.0;
        }
        action.clone()
    };
    let Action::Swap { record, .. } = next(&mut machine, None) else {
        panic!("no swap")
    };
    for _ in 0..3 {
        let Action::SetTimer { timer, .. } = next(&mut machine, Some(Event::SwapUnknown)) else {
            panic!("it must wait")
        };
        assert_eq!(machine.step(), Step::Begin, "nothing is decided");
        let read = next(&mut machine, Some(Event::Timer(timer)));
        assert_eq!(read, Action::ReadPlacement);
        // Not there yet: the very same swap again.
        let unmoved = Box::new(placement.clone());
        let again = next(&mut machine, Some(Event::PlacementRead(unmoved)));
        assert!(matches!(&again, Action::Swap { record: same, .. } if *same == record));
    }
    next(&mut machine, Some(Event::SwapUnknown));
    let won = next(&mut machine, Some(Event::PlacementRead(record)));
    assert!(matches!(won, Action::Send { .. }) && machine.step() == Step::Prepare);
}

#[test]
fn rule_14_the_hold_is_asked_for_before_the_checkpoint_also_after_a_restart() {
    let mut stage = Stage::new(&config());
    let mut pulls = 0;
    stage.run_while(|_, p, r| {
        pulls += usize::from(r.name() == "Pull");
        (pulls == 0).then(|| (0, healthy(p, r)))
    });
    let mut next = Stage::resumed(stage.placement.clone(), &config());
    next.run(60_000, |_, p, r| (0, healthy(p, r)));
    for stage in [stage, next] {
        let order: Vec<_> = stage.asked.iter().map(|asked| asked.1).collect();
        let place = |name| order.iter().position(|asked| *asked == name).unwrap();
        assert!(place("Prepare") < place("Checkpoint"), "{order:?}");
    }
}

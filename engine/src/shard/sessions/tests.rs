//! The sessions against a model that forgets nothing, with what is in the store read back at any moment.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits {
    sessions: 3,
    in_flight: 4,
};

fn version(seq: u64) -> Version {
    Version {
        term: Term::new(Epoch(1), 1),
        seq: Seq(seq),
    }
}

fn mark(session: u128, number: u64, low_water: u64) -> SessionMark {
    SessionMark {
        session: SessionId(session),
        number,
        low_water,
    }
}

/// The sessions, and the entries that a store has of them.
struct Shard {
    limits: Limits,
    sessions: Sessions,
    store: BTreeMap<Bytes, (Version, Bytes)>,
    last: u64,
}

impl Shard {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: Sessions::load(limits, []).unwrap(),
            store: BTreeMap::new(),
            last: 0,
        }
    }

    fn put(&mut self, (key, value): Encoded) -> Version {
        self.last += 1;
        let version = version(self.last);
        self.store.insert(key.into(), (version, value.into()));
        version
    }

    fn open(&mut self, session: u128) -> bool {
        let Some(opening) = self.sessions.place_for(SessionId(session)) else {
            return false;
        };
        let version = self.put(opening.encode());
        self.sessions.opened(opening, version);
        true
    }

    fn write(&mut self, mark: SessionMark, outcome: Outcome) -> Look {
        let look = self.sessions.look(&mark);
        if let Look::New(place) = look {
            let version = self.put(place.encode(outcome));
            self.sessions.taken(place, version, outcome);
        }
        look
    }

    /// As after a crash, and on another node.
    fn read_back(&mut self) {
        self.sessions = Sessions::load(self.limits, self.entries()).unwrap();
    }

    fn entries(&self) -> Vec<InternalEntry> {
        let entry = |(key, (version, value)): (&Bytes, &(Version, Bytes))| InternalEntry {
            key: key.clone(),
            value: value.clone(),
            version: *version,
        };
        self.store.iter().map(entry).collect()
    }
}

/// A write as a client sends it.
fn written(shard: &mut Shard, session: u128, number: u64, low_water: u64) -> Look {
    shard.write(mark(session, number, low_water), Outcome::Written)
}

fn is_new(look: Look) -> bool {
    matches!(look, Look::New(_))
}

#[test]
fn a_number_is_taken_once_in_any_order_and_with_gaps() {
    let mut shard = Shard::new(LIMITS);
    assert_eq!(written(&mut shard, 7, 1, 0), Look::UnknownSession);
    assert!(shard.open(7));
    assert!(!shard.open(7), "an id is opened once");
    let mut taken = BTreeMap::new();
    for number in [5, 1, 900, 2, u64::MAX] {
        assert!(is_new(written(&mut shard, 7, number, 0)), "{number}");
        taken.insert(number, version(shard.last));
    }
    for _ in 0..2 {
        for (number, version) in &taken {
            let known = Look::Known(*version, Outcome::Written);
            assert_eq!(written(&mut shard, 7, *number, 0), known);
        }
        shard.read_back();
    }
    // One that is left out may come later still.
    assert!(is_new(written(&mut shard, 7, 3, 2)));
    let settled = Look::Settled { low_water: 2 };
    assert_eq!(written(&mut shard, 7, 1, 0), settled);
    shard.read_back();
    assert_eq!(written(&mut shard, 7, 2, 0), settled);
    // Nothing is above this number, and nothing below it is taken any more.
    let mark = mark(7, u64::MAX, u64::MAX);
    let settled = Look::Settled {
        low_water: u64::MAX,
    };
    assert_eq!(shard.write(mark, Outcome::Written), settled);
}

#[test]
fn the_low_water_mark_frees_entries_and_nothing_grows() {
    let mut shard = Shard::new(SMALL);
    assert!(shard.open(1));
    for number in 1..=4 {
        assert!(is_new(written(&mut shard, 1, number, 0)));
    }
    assert_eq!(written(&mut shard, 1, 5, 0), Look::Full);
    assert_eq!(shard.store.len(), 5);
    assert!(is_new(written(&mut shard, 1, 5, 1)));
    assert_eq!(written(&mut shard, 1, 6, 1), Look::Full);
    assert_eq!(written(&mut shard, 1, 1, 0), Look::Settled { low_water: 1 });
    for number in 6..10_000 {
        assert!(is_new(written(&mut shard, 1, number, number - 1)));
        if number.is_multiple_of(1_000) {
            shard.read_back();
        }
    }
    assert_eq!(
        shard.store.len(),
        5,
        "no entry but the session's and its slots"
    );
}

#[test]
fn the_session_used_last_stays_and_the_other_goes_whole() {
    let mut shard = Shard::new(SMALL);
    for session in 1..=3 {
        assert!(shard.open(session));
        assert!(is_new(written(&mut shard, session, 1, 0)));
    }
    assert!(is_new(written(&mut shard, 1, 2, 0)));
    assert!(shard.open(4));
    for _ in 0..2 {
        assert_eq!(written(&mut shard, 2, 1, 0), Look::UnknownSession);
        let first = shard.sessions.look(&mark(1, 1, 0));
        assert!(matches!(first, Look::Known(..)), "{first:?}");
        // The entries of 2 lie there still, and are none of 4's.
        let other = shard.sessions.look(&mark(4, 1, 0));
        assert!(is_new(other), "{other:?}");
        shard.read_back();
    }
    assert_eq!(shard.entries().len(), 3 + 4);
}

#[test]
fn what_a_failed_condition_found_is_read_back() {
    let mut shard = Shard::new(SMALL);
    assert!(shard.open(1));
    let failed = |number| Outcome::Failed {
        index: 3,
        found: (number > 1).then(|| version(9)),
    };
    for number in 1..=2 {
        let new = shard.write(mark(1, number, 0), failed(number));
        assert!(is_new(new));
    }
    shard.read_back();
    for number in 1..=2 {
        let known = Look::Known(version(1 + number), failed(number));
        assert_eq!(shard.sessions.look(&mark(1, number, 0)), known);
    }
}

#[test]
fn entries_are_as_long_as_the_room_that_is_taken_for_them() {
    let mut shard = Shard::new(SMALL);
    let lengths = |(key, value): Encoded| (key.len(), value.len());
    let opening = shard.sessions.place_for(SessionId(1)).unwrap();
    assert_eq!(lengths(opening.encode()), OPENING_LEN);
    assert!(shard.open(1));
    let Look::New(place) = shard.sessions.look(&mark(1, u64::MAX, 0)) else {
        panic!("it is new");
    };
    assert_eq!(lengths(place.encode(Outcome::Written)), WRITTEN_LEN);
}

#[test]
fn entries_that_are_none_are_refused_by_their_key() {
    let mut shard = Shard::new(SMALL);
    assert!(shard.open(1));
    assert!(is_new(written(&mut shard, 1, 1, 0)));
    let whole = shard.entries();
    for at in 0..whole.len() {
        let InternalEntry {
            key,
            value,
            version,
        } = whole[at].clone();
        let longer = |bytes: &Bytes| Bytes::from([&bytes[..], &[9]].concat());
        let bad = [
            (key.slice(..key.len() - 1), value.clone()),
            (longer(&key), value.clone()),
            (longer(&key).slice(1..), value.clone()),
            (key.clone(), value.slice(..value.len() - 1)),
            (key.clone(), longer(&value)),
        ];
        for (key, value) in bad {
            let mut entries = whole.clone();
            entries[at] = InternalEntry {
                key: key.clone(),
                value,
                version,
            };
            let error = Sessions::load(SMALL, entries).unwrap_err();
            assert!(error.contains("is none of a session"), "{key:?}: {error}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// Of which of the sessions ever opened, counted from the newest.
    Write {
        session: usize,
        number: u64,
        low_water: u64,
        fails: bool,
    },
    ReadBack,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..5usize, 0..10u64, 0..8u64, prop::bool::weighted(0.2));
    prop_oneof![
        1 => Just(Step::Open),
        8 => write.prop_map(|(session, number, low_water, fails)| Step::Write {
            session,
            number,
            low_water,
            fails,
        }),
        1 => Just(Step::ReadBack),
    ]
}

/// A session of the model: every write ever taken.
#[derive(Debug, Default)]
struct Ideal {
    last_used: u64,
    low_water: u64,
    /// As its last write noted it: what is left of a mark that came with no write after it.
    noted_low_water: u64,
    taken: BTreeMap<u64, (Version, Outcome)>,
}

impl Ideal {
    fn look(&mut self, number: u64, low_water: u64) -> Option<Look> {
        self.low_water = self.low_water.max(low_water);
        if number <= self.low_water {
            return Some(Look::Settled {
                low_water: self.low_water,
            });
        }
        if let Some((version, outcome)) = self.taken.get(&number) {
            return Some(Look::Known(*version, *outcome));
        }
        let unsettled = self.taken.range(self.low_water + 1..).count();
        (unsettled >= SMALL.in_flight.into()).then_some(Look::Full)
    }
}

proptest! {
    #[test]
    fn sessions_do_what_one_does_that_forgets_nothing(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut shard = Shard::new(SMALL);
        let mut ideal: BTreeMap<u128, Ideal> = BTreeMap::new();
        let mut opened = 0u128;
        let mut carried_out = BTreeSet::new();
        for step in steps {
            match step {
                Step::Open => {
                    opened += 1;
                    prop_assert!(shard.open(opened));
                    if ideal.len() == usize::from(SMALL.sessions) {
                        let oldest = ideal.iter().min_by_key(|(_, session)| session.last_used);
                        let oldest = *oldest.unwrap().0;
                        ideal.remove(&oldest);
                    }
                    ideal.insert(opened, Ideal { last_used: shard.last, ..Ideal::default() });
                }
                Step::Write { session, number, low_water, fails } => {
                    let session = opened.saturating_sub(session as u128);
                    let outcome = match fails {
                        true => Outcome::Failed { index: 0, found: None },
                        false => Outcome::Written,
                    };
                    let found = shard.write(mark(session, number, low_water), outcome);
                    let Some(ideal) = ideal.get_mut(&session) else {
                        prop_assert_eq!(found, Look::UnknownSession);
                        continue;
                    };
                    if let Some(expected) = ideal.look(number, low_water) {
                        prop_assert_eq!(found, expected);
                        continue;
                    }
                    prop_assert!(is_new(found), "{:?}", found);
                    prop_assert!(carried_out.insert((session, number)), "taken twice");
                    ideal.taken.insert(number, (version(shard.last), outcome));
                    ideal.last_used = shard.last;
                    ideal.noted_low_water = ideal.low_water;
                }
                Step::ReadBack => {
                    shard.read_back();
                    for session in ideal.values_mut() {
                        session.low_water = session.noted_low_water;
                    }
                }
            }
            let most = usize::from(SMALL.sessions) * (1 + usize::from(SMALL.in_flight));
            prop_assert!(shard.store.len() <= most);
        }
    }
}

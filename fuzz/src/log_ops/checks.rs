//! Holding a log against the model: what reads, tails and views give, and everything after an opening.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use watershed_wal::{
    InstanceLog, LogDigest, LogError, LogView, Record, Seq, SeqRange, Storage, verify,
};

use super::model::{Hosted, Instance};
use super::world::World;

/// Long enough that no machine is that slow; only a finding waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

fn all_after(base: Seq) -> SeqRange {
    SeqRange::after(base, Seq(1 << 40)).expect("far above any base")
}

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq(first), Seq(last)).expect("in order")
}

impl World {
    pub(super) fn check_read(&mut self, which: usize, from: u8, more: u8) {
        self.settle();
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let first = model.base.0 + 1 + u64::from(from);
        let wanted = range(first, first + u64::from(more));
        let voids = model.voids();
        let past_void = |seq: Seq| voids.contiguous_after(Seq(seq.0 - 1)).next();
        let mut next = past_void(wanted.first());
        let mut digest = LogDigest::default();
        for item in handle.read(wanted) {
            match item {
                Ok(record) => {
                    assert_eq!(
                        Some(&record),
                        model.there.get(&record.seq()),
                        "read {wanted}"
                    );
                    assert_eq!(
                        record.seq(),
                        next,
                        "read {wanted} is in order, without holes"
                    );
                    next = past_void(next.next());
                    digest.add(record.hash());
                }
                Err(LogError::Gap { missing, .. }) => {
                    let gone = missing.first() <= model.may_be_gone;
                    assert!(missing.contains(next), "gap {missing}, read to {next}");
                    assert!(
                        gone || !model.there.contains_key(&next),
                        "Seq {next} is here, gap {missing}"
                    );
                    return;
                }
                Err(error) => {
                    self.excuse("read", &error);
                    return;
                }
            }
        }
        assert!(next > wanted.last(), "read {wanted} ended early");
        match handle.digest(wanted) {
            Ok(read) => assert_eq!(read, digest),
            // The keeper may truncate between two readings.
            Err(LogError::Gap { missing, .. }) => {
                assert!(missing.first() <= model.may_be_gone, "gap {missing}");
            }
            Err(error) => self.excuse("digest", &error),
        }
    }

    /// Everything durable after a Seq comes, in order, and nothing that is not durable.
    pub(super) fn check_tail(&mut self, which: usize, from: u8) {
        self.settle();
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let durable = handle.watermarks().durable;
        let from = Seq(model.base.0 + u64::from(from))
            .max(model.may_be_gone)
            .min(durable);
        let (mut tail, mut at) = (handle.tail(from.next()), from);
        while at < durable {
            match tail.next_timeout(1 + usize::from(at.0.to_le_bytes()[0]) * 64, PATIENCE) {
                Ok(Some(records)) => {
                    for record in records {
                        assert!(record.seq() > at, "tail is in order");
                        at = record.seq();
                        model.promised(&record);
                    }
                }
                Ok(None) => panic!("the tail stays at {at}, durable is {durable}"),
                Err(error) => {
                    self.excuse("tail", &error);
                    return;
                }
            }
        }
    }

    /// What reads without the lock sees the same records.
    pub(super) fn check_view(&mut self) {
        self.settle();
        if self.failed || self.storage.is_powered_off() {
            return;
        }
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let before = self.storage.fired();
        let is_faulty = || self.storage.is_powered_off() || self.storage.fired() > before;
        let viewed = verify(Arc::clone(&storage)).and_then(|_| LogView::open(storage));
        let (view, _) = match viewed {
            Ok(viewed) => viewed,
            Err(_) if is_faulty() => return,
            Err(error) => panic!("a running log does not verify: {error}"),
        };
        for model in self
            .slots
            .iter()
            .flatten()
            .filter(|model| model.hosted == Hosted::Yes)
        {
            let seen = view
                .instances()
                .into_iter()
                .find(|seen| seen.id == model.id);
            let seen = seen.unwrap_or_else(|| panic!("{} is not in the view", model.id));
            assert_eq!((seen.shard, seen.base), (model.shard, model.base));
            for seq in model.sure.range(model.may_be_gone.next()..) {
                let read: Vec<_> = view.read(model.id, SeqRange::single(*seq)).collect();
                match &read[..] {
                    [Ok(record)] => assert_eq!(Some(record), model.there.get(seq)),
                    _ if is_faulty() => return,
                    other => panic!("{}: the view has {other:?} for Seq {seq}", model.id),
                }
            }
        }
    }

    /// One instance after an opening.
    pub(super) fn compare(&mut self, slot: usize) {
        let Some(model) = &mut self.slots[slot] else {
            return;
        };
        let log = self.log.as_ref().expect("opened");
        let Some(handle) = log.instance(model.id) else {
            assert_ne!(
                model.hosted,
                Hosted::Yes,
                "{}: the instance is lost",
                model.id
            );
            self.slots[slot] = None;
            return;
        };
        assert_ne!(
            model.hosted,
            Hosted::No,
            "{}: a forgotten instance is back",
            model.id
        );
        model.hosted = Hosted::Yes;
        assert_eq!((handle.shard(), handle.base()), (model.shard, model.base));
        model.adopt(read_all(&handle));
        compare_state(model, &handle);
        // What the log now calls durable has to survive the next crash.
        let has = handle.has();
        let watermarks = handle.watermarks();
        let durable = watermarks.durable;
        // What was flushed counts as had, where the log remembers that; of an owner the next Seq goes on from there.
        let last = model.last_there();
        assert!(watermarks.assigned >= last && watermarks.assigned <= last.max(model.flushed));
        model.assigned = watermarks.assigned;
        for (seq, record) in model.there.clone() {
            if has.contains(seq) || seq <= durable {
                model.promised(&record);
            }
        }
        assert!(
            durable >= model.contiguous(),
            "durable {durable} after opening"
        );
    }
}

/// Every record above the base, past the gaps.
fn read_all(handle: &InstanceLog) -> BTreeMap<Seq, Record> {
    let mut found = BTreeMap::new();
    let mut wanted = Some(all_after(handle.base()));
    while let Some(range) = wanted.take() {
        for item in handle.read(range) {
            match item {
                Ok(record) => {
                    let again = found.insert(record.seq(), record);
                    assert!(again.is_none(), "a Seq is read twice");
                }
                Err(LogError::Gap { missing, .. }) => {
                    wanted = SeqRange::after(missing.last(), range.last());
                }
                Err(error) => panic!("reading {range} after an opening: {error}"),
            }
        }
    }
    found
}

/// Terms, holds and notes after an opening.
fn compare_state(model: &mut Instance, handle: &InstanceLog) {
    let terms = handle.terms();
    let lost = model.terms.iter().find(|start| !terms.contains(start));
    assert_eq!(
        lost, None,
        "{}: a started term is lost, there are {terms:?}",
        model.id
    );
    let strange = terms
        .iter()
        .find(|start| !model.tried_terms.contains(start));
    assert_eq!(strange, None, "{}: a term nobody started", model.id);
    model.terms = terms;

    let holds: BTreeMap<_, _> = handle
        .holds()
        .into_iter()
        .map(|hold| (hold.name, hold.from))
        .collect();
    for (name, from) in &model.holds {
        assert_eq!(holds.get(name), Some(from), "{}: hold {name:?}", model.id);
    }
    for name in holds
        .keys()
        .filter(|name| !model.unsure_holds.contains(*name))
    {
        assert!(
            model.holds.contains_key(name),
            "{}: a hold {name:?} that nobody made",
            model.id
        );
    }
    model.holds = holds;
    model.unsure_holds.clear();

    for (key, may_be) in &mut model.notes {
        let value = handle.note(key).unwrap_or_default();
        assert!(
            may_be.contains(&value),
            "{}: note {key:?} is {value:?} of {may_be:?}",
            model.id
        );
        *may_be = vec![value];
    }
}

//! Carries operations out on a real log over `MemStorage`, and holds what they give against the model.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_wal::mem::{Injector, MemStorage, Survival};
use watershed_wal::{
    Completion, Durability, HoldBudget, Inline, InstanceLog, Log, LogError, LogOptions, Record,
    RecordKind, Seq, SeqRange, StartBody, Submitted, Term, TermStart,
};

use super::model::{Hosted, Instance};

/// Shards of the world, each with at most one hosting at a time.
const SLOTS: usize = 3;
/// How a log comes to be opened again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Restart {
    /// Closed, and opened on the same storage.
    Close,
    /// The power goes; what was not synced survives by the seed, or not at all.
    Crash { seed: Option<u64> },
}

/// A write whose completion nobody has looked at yet.
struct InFlight {
    slot: usize,
    record: Record,
    durability: Durability,
    done: Completion,
}

pub(super) struct World {
    pub(super) storage: MemStorage,
    options: LogOptions,
    /// `None` only inside `restart`.
    pub(super) log: Option<Log>,
    pub(super) slots: [Option<Instance>; SLOTS],
    in_flight: Vec<InFlight>,
    /// Hostings so far: each gets an id of its own.
    generation: u64,
    openings: u64,
    /// A call failed by a fault: nothing more is expected of this log until it is opened again.
    pub(super) failed: bool,
}

impl World {
    pub(super) fn new(header: u8) -> Self {
        let pick = |bit: u8| header & (1 << bit) != 0;
        let options = LogOptions {
            segment_bytes: 32 * 1024,
            limit_bytes: if pick(0) { 1 << 20 } else { 128 * 1024 },
            buffered_sync_every: Duration::from_millis(if pick(1) { 1 } else { 3_600_000 }),
            recent_bytes: if pick(2) { 2048 } else { 1 << 20 },
            compress_from_bytes: if pick(3) { 64 } else { usize::MAX },
            ..LogOptions::default()
        };
        let storage = MemStorage::new();
        let (log, _) =
            Log::open(Arc::new(storage.clone()), options.clone()).expect("an empty storage opens");
        Self {
            storage,
            options,
            log: Some(log),
            slots: [const { None }; SLOTS],
            in_flight: Vec::new(),
            generation: 0,
            openings: 1,
            failed: false,
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("open outside restart")
    }

    /// The handle and the model of a hosted instance, when the log is up.
    pub(super) fn hosted(&mut self, which: usize) -> Option<(InstanceLog, &mut Instance)> {
        if self.failed {
            return None;
        }
        let log = self.log().clone();
        let model = self.slots[which % SLOTS].as_mut()?;
        if model.hosted != Hosted::Yes {
            return None;
        }
        let handle = log.instance(model.id).expect("a hosted instance is there");
        Some((handle, model))
    }

    /// Takes an error that only a fault explains, or that says "no room".
    pub(super) fn excuse(&mut self, call: &str, error: &LogError) {
        match error {
            LogError::Full { .. } | LogError::Busy { .. } => {}
            LogError::Poisoned { .. } | LogError::Io { .. } | LogError::Closed => {
                assert!(
                    self.storage.fired() > 0,
                    "{call} failed without a fault: {error}"
                );
                self.failed = true;
            }
            _ => panic!("{call}: {error}"),
        }
    }

    pub(super) fn host(&mut self, which: usize, kind: u8) {
        let slot = which % SLOTS;
        if self.failed || self.slots[slot].is_some() {
            return;
        }
        self.generation += 1;
        let base = Seq(u64::from(kind >> 1) * 3);
        let mut model = Instance::new(slot, self.generation, kind.is_multiple_of(2), base);
        let hosted = self
            .log()
            .host(model.shard, model.id, base, model.terms.clone());
        model.hosted = match &hosted {
            Ok(handle) => {
                assert_eq!(
                    (handle.id(), handle.shard(), handle.base()),
                    (model.id, model.shard, base)
                );
                Hosted::Yes
            }
            Err(_) => Hosted::Maybe,
        };
        let unhosted = matches!(hosted, Err(LogError::Full { .. }));
        if unhosted {
            assert!(
                self.log().instance(model.id).is_none(),
                "refused, and hosted"
            );
        } else {
            self.slots[slot] = Some(model);
        }
        if let Err(error) = hosted {
            self.excuse("host", &error);
        }
    }

    /// Starts a term where none is current, as an owner does after each opening.
    fn ensure_term(&mut self, which: usize) -> Option<()> {
        self.openings += 1;
        let opening = self.openings;
        let (handle, model) = self.hosted(which)?;
        if !model.owner {
            return None;
        }
        if model.term.is_some() {
            return Some(());
        }
        let term = Term::new(watershed_wal::Epoch(1), opening);
        // The store may have applied what the log has lost.
        let at_least = if opening.is_multiple_of(2) {
            model.last_tried()
        } else {
            model.flushed
        };
        let end = model.assigned;
        let expected = end.max(at_least).next();
        let void = SeqRange::after(end, at_least);
        let body = StartBody {
            instance: model.id,
            void,
        }
        .encode();
        let record = Record::new(term, expected, RecordKind::Start, body);
        let started = handle.start_term(term, at_least);
        if let Ok(submitted) = &started {
            assert_eq!(
                (submitted.seq, submitted.term),
                (expected, term),
                "start_term({term}, {at_least})"
            );
        }
        let result = started.and_then(Submitted::wait);
        model.record_try(&record);
        let start = TermStart {
            term,
            first: expected,
        };
        model.tried_terms.push(start);
        match result {
            Ok(seq) => {
                assert_eq!(seq, expected);
                model.record_done(record, true);
                model.terms.push(start);
                assert_eq!(handle.terms(), model.terms);
                (model.term, model.gate_open, model.assigned) = (Some(term), true, expected);
                Some(())
            }
            Err(error) => {
                // What became of it shows at the next opening: until then nothing more is asked of the log.
                self.excuse("start_term", &error);
                self.failed = true;
                None
            }
        }
    }

    fn submit_one(
        &mut self,
        which: usize,
        len: usize,
        durability: Durability,
        inline: Inline,
    ) -> Option<Submitted> {
        self.ensure_term(which)?;
        let (handle, model) = self.hosted(which)?;
        let body = model.next_body(len);
        let (term, open) = (model.term?, model.gate_open);
        let result = if (durability, inline) == (Durability::Buffered, Inline::Allowed) {
            let appended = handle.append(RecordKind::Batch, body.clone());
            appended.map(Submitted::from)
        } else {
            handle.submit(RecordKind::Batch, body.clone(), durability, inline)
        };
        match result {
            Ok(submitted) => {
                assert!(open, "a write passed the closed gate");
                assert_eq!(submitted.term, term);
                assert_eq!(submitted.seq, model.assigned.next(), "Seqs are dense");
                model.assigned = submitted.seq;
                model.record_try(&Record::new(term, submitted.seq, RecordKind::Batch, body));
                Some(submitted)
            }
            Err(LogError::GateClosed) => {
                assert!(!open, "the open gate refused a write");
                None
            }
            Err(error) => {
                self.excuse("submit", &error);
                None
            }
        }
    }

    fn last_tried(&self, which: usize, seq: Seq) -> Record {
        let model = self.slots[which % SLOTS].as_ref().expect("submitted to");
        let tried = &model.tried[&seq];
        tried.last().expect("tried").clone()
    }

    pub(super) fn submit(&mut self, which: usize, len: usize, durability: Durability) {
        let Some(submitted) = self.submit_one(which, len, durability, Inline::Allowed) else {
            return;
        };
        let record = self.last_tried(which, submitted.seq);
        let result = submitted.wait();
        self.completed(which % SLOTS, record, durability, result.map(drop));
    }

    fn completed(
        &mut self,
        slot: usize,
        record: Record,
        durability: Durability,
        result: Result<(), LogError>,
    ) {
        match result {
            Ok(()) => {
                let model = self.slots[slot].as_mut().expect("in flight");
                model.record_done(record, durability == Durability::Sync);
            }
            Err(error) => {
                // Assigned and not acknowledged: its fate shows at the next opening.
                self.excuse("a write", &error);
                self.failed = true;
            }
        }
    }

    /// Several writes in flight at once: by the pattern's bits synced or not, committed here or left to the log.
    pub(super) fn submit_many(&mut self, which: usize, count: u8, pattern: u8, len: usize) {
        for i in 0..count {
            let bit = |n: u8| pattern.rotate_left(u32::from(i)) & (1 << n) != 0;
            let durability = if bit(0) {
                Durability::Sync
            } else {
                Durability::Buffered
            };
            let inline = if bit(1) {
                Inline::Allowed
            } else {
                Inline::Never
            };
            let which = if bit(2) { which } else { which + 1 };
            let Some(mut submitted) = self.submit_one(which, len, durability, inline) else {
                continue;
            };
            let record = self.last_tried(which, submitted.seq);
            let lead = submitted.lead.take();
            assert!(
                lead.is_none() || inline == Inline::Allowed,
                "a lead that was not asked for"
            );
            if let Some(lead) = lead
                && bit(3)
            {
                lead.commit();
            }
            let slot = which % SLOTS;
            self.in_flight.push(InFlight {
                slot,
                record,
                durability,
                done: submitted.done,
            });
        }
    }

    /// Waits for every write in flight.
    pub(super) fn settle(&mut self) {
        for write in std::mem::take(&mut self.in_flight) {
            self.completed(
                write.slot,
                write.record,
                write.durability,
                write.done.wait(),
            );
        }
    }

    pub(super) fn sync(&mut self) {
        self.settle();
        if self.failed {
            return;
        }
        match self.log().sync() {
            Ok(()) => {
                let hosted = self
                    .slots
                    .iter_mut()
                    .flatten()
                    .filter(|model| model.hosted == Hosted::Yes);
                hosted.for_each(Instance::all_there_is_durable);
            }
            Err(error) => self.excuse("sync", &error),
        }
    }

    pub(super) fn append_at(&mut self, which: usize, from: u8, count: u8, stride: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        if model.owner || count == 0 {
            return;
        }
        let first = model.base.0 + 1 + u64::from(from % 64);
        let stride = u64::from(stride);
        let seqs = (0..u64::from(count)).map(|i| Seq(first + (i * (stride % 7 + 1)) % 32));
        // By the stride's top bits forwards or backwards: the order is the network's.
        let mut records: Vec<_> = seqs.map(|seq| model.source_record(seq)).collect();
        if stride >= 128 {
            records.reverse();
        }
        records.iter().for_each(|record| model.record_try(record));
        let highest = records.iter().map(Record::seq).max().expect("at least one");
        let result = handle.append_at(records.clone());
        match result.and_then(|submitted| {
            assert_eq!(submitted.seq, highest);
            submitted.wait()
        }) {
            Ok(_) => {
                for record in records {
                    // What was flushed and is gone stays gone: a late copy of it changes nothing.
                    if record.seq() > model.may_be_gone {
                        model.record_done(record, true);
                    }
                }
                let has = handle.has();
                for seq in model.sure.iter().filter(|seq| **seq > model.may_be_gone) {
                    assert!(has.contains(*seq), "durable Seq {seq} is not in {has}");
                }
                assert!(handle.watermarks().durable >= model.contiguous());
            }
            Err(error) => {
                self.excuse("append_at", &error);
                self.failed = true;
            }
        }
    }

    pub(super) fn append_conflicting(&mut self, which: usize, pick: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let known: Vec<_> = model.there.range(model.may_be_gone.next()..).collect();
        if model.owner || known.is_empty() {
            return;
        }
        let (seq, record) = known[usize::from(pick) % known.len()];
        let other = Record::new(
            record.term(),
            *seq,
            record.kind(),
            Bytes::from_static(b"another"),
        );
        match handle.append_at(vec![other]).and_then(Submitted::wait) {
            Err(LogError::Conflict { seq: refused, .. }) => assert_eq!(refused, *seq),
            Err(error) => self.excuse("append_at", &error),
            Ok(_) => panic!("a second body for Seq {seq} was taken"),
        }
    }

    pub(super) fn set_flushed(&mut self, which: usize, by: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let last = if model.owner {
            model.last_there()
        } else {
            model.contiguous()
        };
        let seq = Seq(model.flushed.0 + u64::from(by))
            .min(last)
            .max(model.flushed);
        model.flushed = seq;
        model.note_truncatable();
        handle.set_flushed(seq);
    }

    pub(super) fn hold(&mut self, which: usize, name: u8, from: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let name = format!("hold-{}", name % 3);
        let from = Seq(model.base.0 + u64::from(from)).min(model.last_there());
        let budget = HoldBudget {
            bytes: 1 << 40,
            time: Duration::from_secs(1 << 30),
        };
        // Between the call and its return the old hold may be gone.
        model.holds.remove(&name);
        model.note_truncatable();
        let may_be_gone = model.may_be_gone;
        match handle.hold(&name, from, budget) {
            Ok(()) => {
                model.unsure_holds.remove(&name);
                model.holds.insert(name, from);
            }
            Err(LogError::Gap { .. }) => {
                assert!(
                    from < may_be_gone,
                    "a hold from {from} was refused, {may_be_gone} may be gone"
                );
                model.unsure_holds.insert(name);
            }
            Err(error) => {
                model.unsure_holds.insert(name);
                self.excuse("hold", &error);
            }
        }
    }

    pub(super) fn release_hold(&mut self, which: usize, name: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let name = format!("hold-{}", name % 3);
        model.holds.remove(&name);
        model.note_truncatable();
        match handle.release_hold(&name) {
            Ok(()) => {
                model.unsure_holds.remove(&name);
            }
            Err(error) => {
                model.unsure_holds.insert(name);
                self.excuse("release_hold", &error);
            }
        }
    }

    pub(super) fn forget(&mut self, which: usize) {
        self.settle();
        let Some((_, model)) = self.hosted(which) else {
            return;
        };
        let id = model.id;
        match self.log().forget(id) {
            Ok(()) => {
                assert!(self.log().instance(id).is_none());
                // Kept in the model, to see that it stays away.
                self.slot_mut(which).hosted = Hosted::No;
            }
            Err(error) => {
                self.slot_mut(which).hosted = Hosted::Maybe;
                self.excuse("forget", &error);
                self.failed = true;
            }
        }
    }

    fn slot_mut(&mut self, which: usize) -> &mut Instance {
        self.slots[which % SLOTS].as_mut().expect("hosted")
    }

    pub(super) fn put_note(&mut self, which: usize, key: u8, value: u8) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        let key = format!("note-{}", key % 3);
        // Empty takes the note away.
        let value = Bytes::from(vec![value; usize::from(value % 5)]);
        let may_be = model
            .notes
            .entry(key.clone())
            .or_insert_with(|| vec![Bytes::new()]);
        may_be.push(value.clone());
        match handle
            .put_note(&key, value.clone())
            .and_then(Submitted::wait)
        {
            Ok(_) => {
                *may_be = vec![value.clone()];
                assert_eq!(handle.note(&key).unwrap_or_default(), value);
            }
            Err(error) => self.excuse("put_note", &error),
        }
    }

    pub(super) fn gate(&mut self, which: usize, open: bool) {
        let Some((handle, model)) = self.hosted(which) else {
            return;
        };
        if model.term.is_none() {
            return;
        }
        let result = if open {
            handle.open_gate().map(|()| model.assigned)
        } else {
            handle.close_gate()
        };
        match result {
            Ok(assigned) => {
                assert_eq!(assigned, model.assigned, "F is the last Seq assigned");
                model.gate_open = open;
                assert_eq!(handle.gate_is_open(), open);
            }
            Err(error) => self.excuse("the gate", &error),
        }
    }

    /// Something will fail soon: by the kind a crash, an error, a full disk or a half-written frame.
    pub(super) fn arm(&mut self, kind: u8, nth: u8) {
        let nth = 1 + nth % 24;
        let text = match kind % 8 {
            0..=3 => format!("on(change)&nth({nth}):crash"),
            4 => format!("on(sync)&nth({nth}):eio"),
            5 => format!("on(write)&nth({nth}):eio"),
            6 => format!("on(write)&nth({nth}):short"),
            _ => format!("on(create)&nth({}):enospc", 1 + nth % 3),
        };
        self.inject(&text);
    }

    pub(super) fn inject(&mut self, text: &str) {
        if !self.failed {
            let injector: Injector = text.parse().expect("a well-formed injector");
            self.storage.set_injector(Some(injector));
        }
    }

    /// Closes or crashes, opens again, and compares everything.
    pub(super) fn restart(&mut self, how: Restart) {
        self.stop(how);
        self.open(how);
    }

    /// Closes or crashes. What is left is not open, has no fault armed, and room.
    fn stop(&mut self, how: Restart) {
        let log = self.log.take().expect("open outside restart");
        let crashed = match how {
            Restart::Close => {
                self.settle();
                let closed = log.close();
                if let Err(error) = closed {
                    self.excuse("close", &error);
                }
                self.storage.is_powered_off().then_some(Survival::Seeded(1))
            }
            Restart::Crash { seed: None } => Some(Survival::None),
            Restart::Crash { seed: Some(seed) } => Some(Survival::Seeded(seed)),
        };
        let next = crashed.map(|survival| self.storage.crash(survival));
        drop(log);
        // Whatever is acknowledged now was so before the power went.
        let in_flight = std::mem::take(&mut self.in_flight);
        for write in in_flight {
            if write.done.wait().is_ok() {
                let model = self.slots[write.slot].as_mut().expect("in flight");
                model.record_done(write.record, write.durability == Durability::Sync);
            }
        }
        match next {
            Some(next) => self.storage = next,
            None => self.storage.set_injector(None),
        }
        self.storage.set_capacity(None);
    }

    fn open(&mut self, how: Restart) {
        let opened = Log::open(Arc::new(self.storage.clone()), self.options.clone());
        let (log, _) = opened.unwrap_or_else(|error| panic!("opening after {how:?}: {error}"));
        for handle in log.instances() {
            let known = self
                .slots
                .iter()
                .flatten()
                .any(|model| model.id == handle.id());
            assert!(known, "{} is hosted, and nobody asked for it", handle.id());
        }
        self.log = Some(log);
        self.failed = false;
        for slot in 0..SLOTS {
            self.compare(slot);
        }
    }

    /// As [`World::restart`], but before it is opened for good, the log is opened and closed under a fault. What that
    /// gives is promised to nobody; what was promised before must be there all the same.
    pub(super) fn restart_under(&mut self, how: Restart, fault: &str, seed: u64) {
        self.stop(how);
        let before = self.storage.fired();
        let injector: Injector = fault.parse().expect("a well-formed injector");
        self.storage.set_injector(Some(injector));
        let opened = Log::open(Arc::new(self.storage.clone()), self.options.clone());
        let failed = match opened {
            Ok((log, _)) => log.close().err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            assert!(
                self.storage.fired() > before,
                "opening and closing failed without a fault: {error}"
            );
        }
        if self.storage.is_powered_off() {
            self.storage = self.storage.crash(Survival::Seeded(seed));
        }
        self.storage.set_injector(None);
        self.open(how);
    }

    /// A poisoned log stays so when the device is well again: nothing is written any more, reads go on.
    pub(super) fn check_poisoned(&mut self) {
        self.settle();
        if self.storage.is_powered_off() || self.log().status().poisoned.is_none() {
            return;
        }
        self.failed = true;
        self.storage.set_injector(None);
        let changes = self.storage.change_count();
        let poisoned = |result: Result<Seq, LogError>| {
            assert!(
                matches!(result, Err(LogError::Poisoned { .. })),
                "a poisoned log took a write: {result:?}"
            );
        };
        for model in self.slots.iter().flatten() {
            let Some(handle) = self.log().instance(model.id) else {
                continue;
            };
            if model.owner && model.term.is_some() && model.gate_open {
                let body = Bytes::from_static(b"late");
                let appended = handle.append(RecordKind::Batch, body);
                poisoned(appended.map(Submitted::from).and_then(Submitted::wait));
            }
            poisoned(
                handle
                    .put_note("late", Bytes::from_static(b"x"))
                    .and_then(Submitted::wait),
            );
            for seq in model.sure.range(model.may_be_gone.next()..) {
                let read: Vec<_> = handle.read(SeqRange::single(*seq)).collect();
                assert!(
                    matches!(&read[..], [Ok(record)] if Some(record) == model.there.get(seq)),
                    "the poisoned log gives {read:?} for the durable Seq {seq}"
                );
            }
        }
        poisoned(self.log().sync().map(|()| Seq::ZERO));
        assert_eq!(self.storage.change_count(), changes, "a poisoned log wrote");
    }

    /// From now on files may take so many bytes more; `None` is no limit.
    pub(super) fn limit_room(&mut self, more: Option<u64>) {
        let used: u64 = self.log().status().bytes;
        self.storage.set_capacity(more.map(|more| used + more));
    }
}

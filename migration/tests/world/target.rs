//! The target's node: its role, and a store of the records it got.

use std::collections::BTreeMap;

use watershed_migration::messages::{Envelope, Manifest, Request, Response, TargetState};
use watershed_migration::target::{
    TargetAction, TargetEvent, TargetNote, TargetRole, VerifiedMarks,
};
use watershed_migration::{HighestSeen, delta};
use watershed_wal::{Epoch, InstanceId, Record, Seq, SeqRange, SeqSet, ShardId, Term};

use super::clients::{digest, page, record};
use super::network::at;
use super::placement::Asker;
use super::{Ev, S, T, World};

pub(crate) struct Target {
    pub(crate) role: TargetRole,
    pub(crate) generation: u64,
    pub(crate) up: bool,
    pub(crate) note: Option<TargetNote>,
    pub(crate) seen: HighestSeen,
    pub(crate) records: BTreeMap<u64, Record>,
    pub(crate) manifest: Option<Manifest>,
    /// When the copy under way is there; a crash ends it.
    copied_at: Option<u64>,
    pub(crate) opened: bool,
    pub(crate) term: Option<(Term, Seq)>,
    pub(crate) discarded: bool,
}

impl Target {
    pub(super) fn new() -> Self {
        Self {
            role: TargetRole::new(at("t", T), HighestSeen::default()),
            generation: 0,
            up: true,
            note: None,
            seen: HighestSeen::default(),
            records: BTreeMap::new(),
            manifest: None,
            copied_at: None,
            opened: false,
            term: None,
            discarded: false,
        }
    }

    pub(super) fn crash(&mut self) {
        self.up = false;
        self.generation += 1;
        self.copied_at = None;
    }

    /// Whether it takes writes and answers reads.
    pub(crate) fn serves(&self) -> bool {
        self.up && self.role.is_owner()
    }

    pub(crate) fn base(&self) -> Seq {
        self.manifest.as_ref().map_or(Seq::ZERO, |m| m.base)
    }

    pub(crate) fn end(&self) -> Seq {
        let last = self.records.last_key_value().map(|(seq, _)| Seq(*seq));
        last.unwrap_or_default().max(self.base())
    }

    /// Whether it holds this record, by the checkpoint or by itself.
    pub(crate) fn has(&self, record: &Record) -> bool {
        let copied = self.opened && record.seq() <= self.base();
        copied || self.records.get(&record.seq().0) == Some(record)
    }

    fn set(&self) -> SeqSet {
        let singles = self.records.keys().map(|&s| SeqRange::single(Seq(s)));
        singles.collect()
    }
}

impl World {
    pub(super) fn restart_target(&mut self) {
        self.target.up = true;
        let seen = self.target.seen;
        match self.target.note.clone() {
            Some(note) if !self.target.discarded => {
                let (role, actions) = TargetRole::recover(at("t", T), seen, note, 1 << 30);
                self.target.role = role;
                self.target_actions(actions);
            }
            // Another hosting is another instance.
            Some(_) => self.target.role = TargetRole::new(at("t", InstanceId(0x77)), seen),
            None => self.target.role = TargetRole::new(at("t", T), seen),
        }
    }

    pub(super) fn store_at_target(&mut self, seqs: &[u64]) {
        let Some(m) = self.placement.migration.as_ref() else {
            return;
        };
        let env = Envelope {
            shard: ShardId(1),
            migration: m.id,
            attempt: m.attempt,
            driver_term: m.driver_term,
        };
        let admitted = self.target.role.admit_records(&env, S, [Epoch(1)]).is_ok();
        if !self.target.up || !admitted || self.target.manifest.is_none() {
            return;
        }
        for seq in seqs {
            let record = self.source.log[*seq as usize - 1].clone();
            let before = self.target.records.insert(*seq, record.clone());
            assert!(
                before.is_none_or(|before| before == record),
                "two bodies for {seq}"
            );
        }
    }

    pub(super) fn target_event(&mut self, event: TargetEvent) {
        let actions = self.target.role.handle(event);
        self.target.seen = self.target.role.seen();
        self.target_actions(actions);
    }

    fn target_later(&mut self, event: TargetEvent) {
        let generation = self.target.generation;
        self.soon(Ev::ToTarget(generation, event));
    }

    fn target_actions(&mut self, actions: Vec<TargetAction>) {
        for action in actions {
            self.target_action(action);
        }
    }

    fn target_action(&mut self, action: TargetAction) {
        let failed = self.chance(self.faults.fail);
        match action {
            TargetAction::Perform { call, request } => {
                let response = self.target_performs(*request);
                self.reply("t", call, &response);
            }
            TargetAction::Reply { call, response } => self.reply("t", call, &response),
            TargetAction::ReadPlacement => {
                let generation = self.target.generation;
                self.soon(Ev::Read(Asker::Target(generation)));
            }
            TargetAction::Begin(_) if failed => {
                self.target_later(TargetEvent::Begun(Err("disk".into())));
            }
            TargetAction::Begin(note) => {
                assert_eq!(note.instance, T);
                self.target.note = Some(note);
                self.target_later(TargetEvent::Begun(Ok(1 << 30)));
            }
            TargetAction::Verify { attempt, f } => {
                let marks = self.verified(f);
                let marks = if failed {
                    Err("disk".into())
                } else {
                    Ok(marks)
                };
                self.target_later(TargetEvent::Verified { attempt, f, marks });
            }
            TargetAction::StartTerm { .. } if failed => {
                self.target_later(TargetEvent::TermStarted(Err("disk".into())));
            }
            TargetAction::StartTerm { epoch, f } => {
                self.say(format!("t   start term in epoch {epoch} after {f}"));
                let opening = self.target.term.map_or(1, |(term, _)| term.opening + 1);
                let (term, first) = (Term::new(epoch, opening), self.target.end().next());
                self.target.records.insert(first.0, record(term, first.0));
                self.target.term = Some((term, first));
                self.target_later(TargetEvent::TermStarted(Ok((term, first))));
            }
            TargetAction::Discard { .. } if failed => {
                self.target_later(TargetEvent::Discarded(Err("disk".into())));
            }
            TargetAction::Discard { instance } => {
                self.say("t   discard".into());
                assert_eq!(instance, T);
                self.target.discarded = true;
                self.target_later(TargetEvent::Discarded(Ok(1)));
            }
        }
    }

    fn verified(&self, f: Seq) -> VerifiedMarks {
        let (base, has) = (self.target.base(), self.target.set());
        let manifest = self.target.manifest.clone().unwrap();
        let upto = has.contiguous_after(base).max(base);
        let range = self.target.records.range(base.0 + 1..=upto.0);
        VerifiedMarks {
            base,
            digest_base: manifest.digest,
            durable: upto,
            applied: upto,
            missing: delta::plan(base, f, &has),
            digest: manifest.digest.plus(digest(range.map(|(_, r)| r))),
        }
    }

    fn target_performs(&mut self, request: Request) -> Response {
        let (base, has) = (self.target.base(), self.target.set());
        match request {
            Request::Pull { manifest, .. } => {
                self.target.manifest.get_or_insert(manifest);
                let there = self.now + self.copy_ms;
                self.target.copied_at.get_or_insert(there);
                self.target.opened |= there == self.now;
                Response::Ok
            }
            Request::TargetStatus { .. } => {
                self.target.opened |= self.target.copied_at.is_some_and(|at| at <= self.now);
                let opened = self.target.opened;
                let manifest = self.target.manifest.as_ref();
                Response::TargetState(TargetState {
                    copied_bytes: if opened { 10 } else { 3 },
                    total_bytes: 10,
                    opened,
                    base: manifest.map(|m| m.base),
                    has_max: has.max(),
                    durable: has.contiguous_after(base),
                    applied: has.contiguous_after(base),
                    files: manifest.map_or_else(Vec::new, |m| m.files.clone()),
                    error: None,
                })
            }
            Request::Missing { through, .. } => Response::MissingRanges {
                ranges: delta::plan(base, through, &has),
                more: false,
            },
            Request::ComparePage { after, limit, .. } => {
                let mut all: BTreeMap<u64, Record> = self.target.records.clone();
                for record in self.source.log.iter().filter(|r| r.seq() <= base) {
                    all.insert(record.seq().0, record.clone());
                }
                page(all.values().collect(), after, limit.min(5) as usize)
            }
            other => panic!("the target was to perform {}", other.name()),
        }
    }
}

//! What is around the roles: a log with a gate, a copy, a placement, and answers under way.

use std::collections::BTreeMap;

use bytes::Bytes;
use watershed_migration::messages::{Request, Response};
use watershed_migration::source::{
    CallId, DrainedMarks, Hosting, SourceAction, SourceEvent, SourceNote, SourceRole, SourceTimer,
};
use watershed_migration::target::{
    TargetAction, TargetEvent, TargetNote, TargetRole, VerifiedMarks,
};
use watershed_migration::{
    Claim, HighestSeen, MigrationConfig, MigrationCoordinator, MigrationId, MigrationRecord,
    NodeId, Now, Phase, PhaseChange, PlacementRecord, Revision, SourceMarks, TargetMarks,
};
use watershed_wal::{
    Epoch, InstanceId, LogDigest, Record, RecordKind, Seq, SeqRange, ShardId, Term,
};

pub(super) fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

/// Options with a short pause, through the gate.
pub(super) fn config() -> watershed_migration::SafeConfig {
    let config = MigrationConfig {
        pause_max_ms: 500,
        ..MigrationConfig::default()
    };
    MigrationCoordinator::new(config)
        .validate_safety()
        .expect("the defaults are safe")
}

/// Something under way to a role of a generation, or to the placement.
#[derive(Clone, Debug)]
enum Answer {
    Source(u64, SourceEvent),
    Target(u64, TargetEvent),
    Swap(u64, Revision, Box<PlacementRecord>),
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) role: SourceRole,
    pub(super) at: Hosting,
    generation: u64,
    /// Writes are taken.
    gate: bool,
    note: Option<SourceNote>,
    seen: HighestSeen,
    deleted: bool,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) role: TargetRole,
    pub(super) at: Hosting,
    generation: u64,
    note: Option<TargetNote>,
    seen: HighestSeen,
    /// It has every record up to here.
    has: u64,
}

#[derive(Debug)]
pub(super) struct Scene {
    now: u64,
    calls: u64,
    migrations: u128,
    /// Every record that was in force, the last one now.
    records: Vec<PlacementRecord>,
    owners: BTreeMap<Epoch, InstanceId>,
    pub(super) source: Source,
    pub(super) target: Target,
    /// Writes that the source acknowledged.
    pub(super) assigned: u64,
    under_way: Vec<Answer>,
    /// What the roles reported.
    pub(super) drained: Vec<SourceMarks>,
    pub(super) verified: Vec<TargetMarks>,
    serving: bool,
}

fn digest(upto: u64) -> LogDigest {
    let mut digest = LogDigest::default();
    for seq in 1..=upto {
        let body = Bytes::copy_from_slice(&seq.to_le_bytes());
        digest.add(Record::new(Term::new(Epoch(1), 1), Seq(seq), RecordKind::Batch, body).hash());
    }
    digest
}

impl Scene {
    pub(super) fn new() -> Self {
        let at = |name: &str, instance| Hosting {
            shard: ShardId(1),
            node: node(name),
            instance: InstanceId(instance),
        };
        let (s, t) = (at("s", 5), at("t", 7));
        let record = PlacementRecord::create(s.shard, s.node.clone(), s.instance);
        Self {
            now: 0,
            calls: 0,
            migrations: 0,
            owners: BTreeMap::from([(record.epoch, record.instance)]),
            records: vec![record],
            source: Source {
                role: SourceRole::new(s.clone(), HighestSeen::default()),
                at: s,
                generation: 0,
                gate: true,
                note: None,
                seen: HighestSeen::default(),
                deleted: false,
            },
            target: Target {
                role: TargetRole::new(t.clone(), HighestSeen::default()),
                at: t,
                generation: 0,
                note: None,
                seen: HighestSeen::default(),
                has: 0,
            },
            assigned: 1,
            under_way: Vec::new(),
            drained: Vec::new(),
            verified: Vec::new(),
            serving: false,
        }
    }

    pub(super) fn truth(&self) -> &PlacementRecord {
        self.records.last().expect("from the start on")
    }

    fn next_call(&mut self) -> CallId {
        self.calls += 1;
        CallId(self.calls)
    }

    pub(super) fn write(&mut self, count: u8) {
        if self.source.gate {
            self.assigned += u64::from(count);
        }
    }

    /// The target gets so many of the records that it misses.
    pub(super) fn ship(&mut self, count: u8) {
        if self.target.role.state_name() == "receiving" {
            self.target.has = (self.target.has + u64::from(count)).min(self.assigned);
        }
    }

    pub(super) fn pass_time(&mut self, ms: u8) {
        self.now += u64::from(ms);
        let timer = [
            SourceTimer::Reopen,
            SourceTimer::Decide,
            SourceTimer::Release,
        ][usize::from(ms % 3)];
        self.source_event(SourceEvent::Timer(timer));
    }

    /// A record is read now, and arrives whenever its answer does.
    pub(super) fn read_placement(&mut self, whose: u8) {
        let record = Box::new(self.truth().clone());
        let (s, t) = (self.source.generation, self.target.generation);
        self.under_way.push(match whose % 8 {
            0 => Answer::Source(s, SourceEvent::PlacementUnread),
            1 => Answer::Target(t, TargetEvent::PlacementUnread),
            2..=4 => Answer::Source(s, SourceEvent::PlacementRead(record)),
            _ => Answer::Target(t, TargetEvent::PlacementRead(record)),
        });
    }

    /// One answer arrives; by the top bit it will once more.
    pub(super) fn answer(&mut self, which: u8, how: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let at = self.under_way.len() - 1 - usize::from(which) % self.under_way.len();
        let answer = self.under_way.remove(at);
        // Only what is read or asked for may come twice; an action is answered once.
        let repeats = matches!(
            &answer,
            Answer::Source(_, SourceEvent::PlacementRead(_))
                | Answer::Target(_, TargetEvent::PlacementRead(_))
                | Answer::Swap(..)
        );
        if repeats && how >= 0x80 {
            self.under_way.push(answer.clone());
        }
        match answer {
            Answer::Source(generation, event) if generation == self.source.generation => {
                self.source_event(event);
            }
            Answer::Target(generation, event) if generation == self.target.generation => {
                self.target_event(event);
            }
            Answer::Source(..) | Answer::Target(..) => {}
            Answer::Swap(generation, expected, record) => {
                let won = self.truth().revision == expected;
                if won {
                    self.given_away(&record);
                    self.commit(*record);
                }
                let now = Box::new(self.truth().clone());
                let event = match (how % 4, won) {
                    (0, _) => SourceEvent::SwapUnknown,
                    (_, true) => SourceEvent::Swapped(now),
                    (_, false) => SourceEvent::SwapConflict(now),
                };
                self.under_way.push(Answer::Source(generation, event));
            }
        }
    }

    /// Law 3.
    fn given_away(&self, next: &PlacementRecord) {
        let proof = next.migration.as_ref().and_then(|m| m.proof.as_ref());
        let proof = proof.expect("given away without evidence");
        assert_eq!(proof.source.f.0, self.assigned, "F is not the last write");
        assert_eq!(
            (next.instance, next.epoch),
            (self.target.at.instance, self.truth().epoch.next())
        );
        assert_eq!(
            self.target.has, self.assigned,
            "the target misses acknowledged writes"
        );
        assert!(!self.source.gate, "given away with an open gate");
    }

    fn commit(&mut self, next: PlacementRecord) {
        let before = self.truth();
        assert_eq!(Some(next.revision), before.revision.checked_next());
        next.validate().unwrap_or_else(|broken| {
            panic!("{broken}: {before:?} became {next:?}");
        });
        let owner = *self.owners.entry(next.epoch).or_insert(next.instance);
        assert_eq!(owner, next.instance, "two owners of epoch {}", next.epoch);
        self.records.push(next);
    }

    /// What a driver or an operator changes, each as its protocol lets it.
    pub(super) fn change_placement(&mut self, kind: u8, how: u8) {
        let record = self.truth().clone();
        let stale = u64::from(how == 0xff);
        let claim = record.migration.as_ref().map(|m| Claim {
            migration: m.id,
            driver_term: watershed_migration::DriverTerm(m.driver_term.0 - stale),
        });
        let receives = self.target.role.state_name() == "receiving";
        let next = match (kind % 16, claim) {
            (0 | 1, _) => {
                self.migrations += 1;
                let id = MigrationId(self.migrations);
                let target = self.target.at.node.clone();
                let m = MigrationRecord::new(id, &record, target, node("d"), &config(), "fuzz");
                record.begin_migration(m)
            }
            (2..=4, Some(claim)) => {
                let target_instance = self.target.at.instance;
                record.set_phase(claim, PhaseChange::BulkCopy { target_instance })
            }
            (5..=7, Some(claim)) if receives => {
                // The checkpoint was made now, and the target has opened it.
                let next = record.set_phase(claim, PhaseChange::DualWrite { base: Seq(1) });
                if next.is_ok() {
                    self.target.has = self.target.has.max(1);
                }
                next
            }
            (8..=10, Some(claim)) => record.raise_attempt(claim),
            (11, Some(claim)) => record.take_over(claim.migration, node("d2")),
            (12, Some(claim)) => {
                let aborted = record.abort(claim.migration, "fuzz");
                let phase = record.migration.as_ref().map(|m| m.phase);
                // Law 4.
                assert_eq!(
                    aborted.is_ok(),
                    phase.is_some_and(Phase::before_activate),
                    "abort in {phase:?}"
                );
                aborted
            }
            (13, Some(claim)) => record.note_grace(claim, how.into()),
            (14, Some(claim)) if how.is_multiple_of(2) => record.begin_retire(claim),
            (14, Some(claim)) if self.source.deleted => record.finish_cleanup(claim),
            (15, Some(claim)) if self.serving => {
                let certificate = Box::new(super::machine::certificate(&record));
                record.set_phase(claim, PhaseChange::Cleanup { certificate })
            }
            _ => return,
        };
        if let Ok(next) = next {
            assert!(stale == 0 || matches!(kind % 16, 0 | 1 | 11 | 12));
            assert_eq!((&next.owner, next.epoch), (&record.owner, record.epoch));
            self.commit(next);
        }
    }

    pub(super) fn crash(&mut self, who: u8) {
        if who.is_multiple_of(2) {
            self.source.generation += 1;
            self.source.gate = false;
            if self.source.deleted {
                return;
            }
            let (role, actions) = SourceRole::recover(
                self.source.at.clone(),
                self.source.seen,
                self.source.note.clone(),
            );
            self.source.role = role;
            self.source_actions(actions);
            return;
        }
        self.target.generation += 1;
        let at = self.target.at.clone();
        match self.target.note.clone() {
            Some(note) => {
                let (role, _) = TargetRole::recover(at, self.target.seen, note, 1);
                self.target.role = role;
            }
            None => self.new_target(),
        }
    }

    /// Another hosting is another instance.
    fn new_target(&mut self) {
        self.target.generation += 1;
        self.target.at.instance.0 += 1;
        self.target.has = 0;
        self.target.note = None;
        self.target.role = TargetRole::new(self.target.at.clone(), self.target.seen);
    }

    pub(super) fn tell_source(&mut self, request: Request) {
        if self.source.deleted && self.source.role.state_name() != "retired" {
            return;
        }
        let (call, request) = (self.next_call(), Box::new(request));
        self.source_event(SourceEvent::Request { call, request });
    }

    pub(super) fn tell_target(&mut self, request: Request) {
        let (call, request) = (self.next_call(), Box::new(request));
        self.target_event(TargetEvent::Request { call, request });
    }

    fn source_event(&mut self, event: SourceEvent) {
        let before = self.source.role.state_name();
        let asked = matches!(event, SourceEvent::Request { .. });
        let actions = self.source.role.handle(Now(self.now), event);
        self.source.seen = self.source.role.seen();
        // Law 6.
        if let [
            SourceAction::Reply {
                response: Response::Refused(refused),
                ..
            },
        ] = &actions[..]
            && asked
        {
            assert_eq!(before, self.source.role.state_name(), "{refused:?}");
        }
        self.source_actions(actions);
    }

    fn target_event(&mut self, event: TargetEvent) {
        let before = self.target.role.state_name();
        let asked = matches!(event, TargetEvent::Request { .. });
        let actions = self.target.role.handle(event);
        self.target.seen = self.target.role.seen();
        if let [
            TargetAction::Reply {
                response: Response::Refused(refused),
                ..
            },
        ] = &actions[..]
            && asked
        {
            assert_eq!(before, self.target.role.state_name(), "{refused:?}");
        }
        actions
            .into_iter()
            .for_each(|action| self.target_action(action));
    }

    fn source_actions(&mut self, actions: Vec<SourceAction>) {
        for action in actions {
            self.source_action(action);
        }
    }

    /// By the clock's last bits an action of the node's own fails.
    fn fails(&self) -> bool {
        self.now % 16 == 15
    }

    fn source_later(&mut self, event: SourceEvent) {
        let generation = self.source.generation;
        self.under_way.push(Answer::Source(generation, event));
    }

    fn source_action(&mut self, action: SourceAction) {
        let failed = self.fails();
        match action {
            SourceAction::CloseGate { attempt, .. } if failed => {
                self.source_later(SourceEvent::GateClosed { attempt, f: None });
            }
            SourceAction::CloseGate { attempt, note } => {
                self.source.gate = false;
                self.source.note = Some(note);
                let f = Some(Seq(self.assigned));
                self.source_later(SourceEvent::GateClosed { attempt, f });
            }
            SourceAction::Drain { attempt, f } => {
                let marks = DrainedMarks {
                    term: Term::new(self.truth().epoch, 1),
                    base: Seq(1),
                    digest_base: digest(1),
                    durable: f,
                    applied: f,
                    digest: digest(f.0),
                };
                let marks = if failed {
                    Err("disk".into())
                } else {
                    Ok(marks)
                };
                self.source_later(SourceEvent::Drained { attempt, marks });
            }
            SourceAction::PersistSent { attempt, note } => {
                // One that failed may be found all the same.
                if !failed || self.now % 32 == 31 {
                    self.source.note = Some(note);
                }
                let durable = !failed;
                self.source_later(SourceEvent::NotePersisted { attempt, durable });
            }
            SourceAction::Swap { expected, record } => {
                assert!(
                    matches!(self.source.note, Some(SourceNote::Sent { .. })),
                    "a swap left without its durable note"
                );
                let generation = self.source.generation;
                self.under_way
                    .push(Answer::Swap(generation, expected, record));
            }
            SourceAction::Open => self.source.gate = true,
            SourceAction::GiveAway { .. } => self.source.gate = false,
            SourceAction::Delete { instance } => {
                // Law 5.
                let frozen = self.truth().frozen.as_ref();
                assert!(
                    frozen.is_none_or(|f| f.retiring) && self.truth().instance != instance,
                    "{instance} was deleted, the placement has {:?}",
                    self.truth()
                );
                assert!(!self.source.deleted, "deleted twice");
                self.source.deleted = !failed;
                let result = if failed { Err("disk".into()) } else { Ok(1) };
                self.source_later(SourceEvent::Deleted(result));
            }
            SourceAction::Reply {
                response: Response::Drained(marks),
                ..
            } => self.drained.push(marks),
            _ => {}
        }
    }

    fn target_action(&mut self, action: TargetAction) {
        let failed = self.fails();
        let event = match action {
            TargetAction::Begin(_) if failed => TargetEvent::Begun(Err("disk".into())),
            TargetAction::Begin(note) => {
                self.target.note = Some(note);
                TargetEvent::Begun(Ok(1))
            }
            TargetAction::Verify { attempt, f } => {
                let (has, base) = (self.target.has.max(1), Seq(1));
                let missing = SeqRange::new(Seq(has + 1), f).into_iter().collect();
                let marks = Ok(VerifiedMarks {
                    base,
                    digest_base: digest(1),
                    durable: Seq(has),
                    applied: Seq(has),
                    missing,
                    digest: digest(has),
                });
                let marks = if failed { Err("disk".into()) } else { marks };
                TargetEvent::Verified { attempt, f, marks }
            }
            TargetAction::StartTerm { epoch, f } => {
                assert_eq!(f.0, self.assigned, "the term starts after F");
                if failed {
                    TargetEvent::TermStarted(Err("disk".into()))
                } else {
                    TargetEvent::TermStarted(Ok((Term::new(epoch, 1), f.next())))
                }
            }
            TargetAction::Discard { instance } => {
                assert_ne!(
                    self.truth().instance,
                    instance,
                    "the owner's copy is discarded"
                );
                if failed {
                    TargetEvent::Discarded(Err("disk".into()))
                } else {
                    return self.new_target();
                }
            }
            TargetAction::Reply { response, .. } => {
                match response {
                    Response::Verified(marks) => self.verified.push(marks),
                    Response::Serving { .. } => self.serving = true,
                    _ => {}
                }
                return;
            }
            _ => return,
        };
        let generation = self.target.generation;
        self.under_way.push(Answer::Target(generation, event));
    }

    /// Law 2.
    pub(super) fn check(&self) {
        let owner = self.truth().instance;
        if self.source.gate {
            assert_eq!(
                owner, self.source.at.instance,
                "the source takes writes and is not the owner"
            );
        }
        if self.target.role.is_owner() {
            assert_eq!(
                owner, self.target.at.instance,
                "the target serves and is not the owner"
            );
        }
        assert!(
            !(self.source.gate && self.target.role.is_owner()),
            "two copies take writes"
        );
        assert!(
            !self.source.role.gave_away() || !self.source.gate,
            "given away with an open gate"
        );
    }
}

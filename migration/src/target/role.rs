//! How the target's role handles each event. The states and their rules are described one level up.

use std::mem;

use watershed_wal::{Epoch, InstanceId, Seq, Term};

use super::{Elected, TargetAction, TargetEvent, TargetNote, VerifiedMarks};
use crate::evidence::TargetMarks;
use crate::messages::{Envelope, MARKS_MISSING_MAX, Refused, RefusedKind, Request, Response};
use crate::placement::{HighestSeen, PlacementRecord};
use crate::source::{CallId, Hosting};
use crate::words::{Attempt, DriverTerm, Phase};

#[derive(Debug)]
enum State {
    /// Nothing is hosted.
    Empty,
    /// The copy's directory is being made.
    Beginning,
    /// Files and records come in; `free_bytes` is as it was when it began.
    Receiving {
        free_bytes: u64,
    },
    /// The start record is being made durable.
    Elected,
    Owner {
        term: Term,
        first_seq: Seq,
    },
    Discarding,
    Discarded,
}

/// The target's role: see the [module](crate::target).
#[derive(Debug)]
pub struct TargetRole {
    at: Hosting,
    seen: HighestSeen,
    note: Option<TargetNote>,
    attempt: Attempt,
    driver_term: DriverTerm,
    state: State,
    /// The command being worked on.
    pending: Option<(CallId, Box<Request>)>,
    out: Vec<TargetAction>,
}

impl TargetRole {
    /// The role of a node that hosts nothing of the shard yet. The instance in `at` is a new random one, which
    /// the copy will have if it is begun.
    #[must_use]
    pub const fn new(at: Hosting, seen: HighestSeen) -> Self {
        Self {
            at,
            seen,
            note: None,
            attempt: Attempt(0),
            driver_term: DriverTerm(0),
            state: State::Empty,
            pending: None,
            out: Vec::new(),
        }
    }

    /// The role after a restart, of a copy whose note was found: reads the record first. Where that fails, the
    /// next command of a driver, or a watch, makes it read again.
    #[must_use]
    pub fn recover(
        at: Hosting,
        seen: HighestSeen,
        note: TargetNote,
        free_bytes: u64,
    ) -> (Self, Vec<TargetAction>) {
        let mut role = Self::new(at, seen);
        role.note = Some(note);
        role.state = State::Receiving { free_bytes };
        (role, vec![TargetAction::ReadPlacement])
    }

    /// Whether this copy may answer reads and take writes.
    #[must_use]
    pub const fn is_owner(&self) -> bool {
        matches!(self.state, State::Owner { .. })
    }

    /// The highest record seen, for the node to keep (rule 16).
    #[must_use]
    pub const fn seen(&self) -> HighestSeen {
        self.seen
    }

    /// The state's name, for status and transcripts.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "empty",
            State::Beginning => "beginning",
            State::Receiving { .. } => "receiving",
            State::Elected => "elected",
            State::Owner { .. } => "owner",
            State::Discarding => "discarding",
            State::Discarded => "discarded",
        }
    }

    /// Whether records of these epochs, from this copy, may be kept: the check of each `Records` request, which
    /// the caller makes before it appends.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn admit_records(
        &self,
        env: &Envelope,
        from: InstanceId,
        epochs: impl IntoIterator<Item = Epoch>,
    ) -> Result<(), Refused> {
        let refuse = |kind, what: &str| Err(self.refused(kind, what));
        let Some(note) = self.note.as_ref().filter(|n| n.migration == env.migration) else {
            return refuse(RefusedKind::Unknown, "no copy of that migration");
        };
        if !matches!(self.state, State::Receiving { .. }) {
            return refuse(RefusedKind::NotReady, "no records are taken in this state");
        }
        if from != note.source_instance {
            return refuse(
                RefusedKind::WrongInstance,
                "records of another copy than the source's",
            );
        }
        if epochs.into_iter().any(|epoch| epoch != note.epoch) {
            return refuse(
                RefusedKind::StaleEpoch,
                "records of another epoch than the source's",
            );
        }
        Ok(())
    }

    /// Takes an event, gives what to do.
    pub fn handle(&mut self, event: TargetEvent) -> Vec<TargetAction> {
        match event {
            TargetEvent::Request { call, request } => self.request(call, request),
            TargetEvent::PlacementRead(record) => self.placement(&record),
            TargetEvent::PlacementUnread => {
                if self.waits_for_record() {
                    self.fail_pending(
                        RefusedKind::Failed,
                        "the placement can't be read: try again",
                    );
                }
            }
            TargetEvent::Begun(result) => self.begun(result),
            TargetEvent::Verified { attempt, f, marks } => self.verified(attempt, f, marks),
            TargetEvent::TermStarted(result) => self.term_started(result),
            TargetEvent::Discarded(result) => self.discarded(result),
        }
        mem::take(&mut self.out)
    }

    fn request(&mut self, call: CallId, request: Box<Request>) {
        let Some(env) = request.envelope().copied() else {
            return self.refuse(call, RefusedKind::Unsupported, "no command of a migration");
        };
        if env.shard != self.at.shard {
            return self.refuse(call, RefusedKind::Unknown, "another shard");
        }
        let known = self.note.as_ref().map(|note| note.migration);
        match (known, &*request) {
            (None, Request::BeginTarget { .. } | Request::DiscardTarget { .. }) => {
                self.read_for(call, request);
            }
            (Some(id), _) if id == env.migration => {
                if let Err(refused) = self.obey(&env) {
                    return self.reply(call, Response::Refused(refused));
                }
                self.dispatch(call, request);
            }
            _ => self.refuse(call, RefusedKind::Unknown, "no copy of that migration"),
        }
    }

    fn obey(&mut self, env: &Envelope) -> Result<(), Refused> {
        if env.driver_term < self.driver_term {
            let message = format!("driver term {} took over", self.driver_term);
            return Err(Refused::new(RefusedKind::StaleDriver, message));
        }
        if env.attempt < self.attempt {
            let message = format!("attempt {} has begun", self.attempt);
            return Err(Refused::new(RefusedKind::StaleAttempt, message));
        }
        (self.attempt, self.driver_term) = (env.attempt, env.driver_term);
        Ok(())
    }

    fn dispatch(&mut self, call: CallId, request: Box<Request>) {
        match (&self.state, &*request) {
            (State::Beginning, Request::BeginTarget { .. }) => {
                self.take_up(call, request);
            }
            (State::Receiving { free_bytes }, Request::BeginTarget { .. }) => {
                let free_bytes = *free_bytes;
                self.reply(call, self.begun_reply(free_bytes));
            }
            // A copy that serves has been begun, too.
            (State::Elected | State::Owner { .. }, Request::BeginTarget { .. }) => {
                self.reply(call, self.begun_reply(0));
            }
            (
                State::Receiving { .. },
                Request::Records {
                    env, from_instance, ..
                },
            ) => match self.admit_records(env, *from_instance, []) {
                Ok(()) => self.perform(call, request),
                Err(refused) => self.reply(call, Response::Refused(refused)),
            },
            (State::Receiving { .. }, Request::Pull { .. } | Request::Missing { .. })
            | (
                State::Receiving { .. } | State::Elected | State::Owner { .. },
                Request::TargetStatus { .. },
            )
            | (State::Owner { .. }, Request::ComparePage { .. }) => self.perform(call, request),
            (State::Receiving { .. }, Request::Verify { env, f }) => {
                let (attempt, f) = (env.attempt, *f);
                if self.take_up(call, request) {
                    self.out.push(TargetAction::Verify { attempt, f });
                }
            }
            (State::Owner { term, first_seq }, Request::BecomeOwner { epoch, .. })
                if term.epoch == *epoch =>
            {
                let (term, first_seq) = (*term, *first_seq);
                self.reply(call, Response::Serving { term, first_seq });
            }
            (State::Elected, Request::BecomeOwner { .. }) => {
                self.take_up(call, request);
            }
            (
                State::Receiving { .. },
                Request::BecomeOwner { .. }
                | Request::DiscardTarget { .. }
                | Request::ComparePage { .. },
            ) => {
                self.read_for(call, request);
            }
            (State::Discarded, Request::DiscardTarget { .. }) => self.reply(call, Response::Ok),
            (State::Discarding, Request::DiscardTarget { .. }) => {
                self.take_up(call, request);
            }
            _ => self.refuse(call, RefusedKind::NotReady, "not in this state"),
        }
    }

    fn begun_reply(&self, free_bytes: u64) -> Response {
        Response::TargetBegun {
            instance: self.at.instance,
            free_bytes,
        }
    }

    fn placement(&mut self, record: &PlacementRecord) {
        if record.shard != self.at.shard {
            return self.fail_pending(
                RefusedKind::Conflict,
                "the placement gave another shard's record",
            );
        }
        if let Err(back) = self.seen.observe(record) {
            return self.fail_pending(RefusedKind::Conflict, &back.to_string());
        }
        if let Some(note) = &self.note {
            if let Some(m) = record.migration.as_ref().filter(|m| m.id == note.migration) {
                self.attempt = self.attempt.max(m.attempt);
                self.driver_term = self.driver_term.max(m.driver_term);
            }
            if matches!(self.state, State::Receiving { .. }) {
                if let Some(elected) = Elected::by(record, &self.at, note.migration) {
                    self.out.push(TargetAction::StartTerm {
                        epoch: elected.epoch(),
                        f: elected.f(),
                    });
                    self.state = State::Elected;
                } else if self.is_void(record) {
                    self.out.push(TargetAction::Discard {
                        instance: self.at.instance,
                    });
                    self.state = State::Discarding;
                }
            }
        }
        self.resume_pending(record);
    }

    /// Whether the record says that this copy will never be needed.
    fn is_void(&self, record: &PlacementRecord) -> bool {
        let Some(note) = &self.note else { return false };
        let ours = record.migration.as_ref().filter(|m| m.id == note.migration);
        let aborted = ours.is_some_and(|m| {
            m.phase == Phase::Aborted && m.target_instance.is_none_or(|i| i == self.at.instance)
        });
        // Another migration can only have begun once ours was over.
        let replaced = ours.is_none()
            && record.migration.is_some()
            && record.instance != self.at.instance
            && record
                .frozen
                .as_ref()
                .is_none_or(|f| f.instance != self.at.instance);
        aborted || replaced
    }

    fn waits_for_record(&self) -> bool {
        self.pending.as_ref().is_some_and(|(_, request)| {
            let early = matches!(self.state, State::Empty | State::Receiving { .. });
            early && !matches!(**request, Request::Verify { .. })
        })
    }

    fn resume_pending(&mut self, record: &PlacementRecord) {
        if !self.waits_for_record() {
            return;
        }
        let Some((call, request)) = self.pending.take() else {
            return;
        };
        match &*request {
            Request::BeginTarget { .. } => self.begin(call, request, record),
            Request::BecomeOwner { .. } => {
                self.refuse(
                    call,
                    RefusedKind::NotOwner,
                    "the placement does not name this copy the owner",
                );
            }
            Request::DiscardTarget { env } => {
                let live = record
                    .migration
                    .as_ref()
                    .is_some_and(|m| m.id == env.migration && m.phase != Phase::Aborted);
                if live || self.note.is_some() {
                    self.refuse(
                        call,
                        RefusedKind::Conflict,
                        "the placement does not say aborted",
                    );
                } else {
                    self.reply(call, Response::Ok);
                }
            }
            _ => self.refuse(call, RefusedKind::NotReady, "not in this state"),
        }
    }

    fn begin(&mut self, call: CallId, request: Box<Request>, record: &PlacementRecord) {
        let Request::BeginTarget {
            env,
            source,
            source_instance,
            epoch,
            ..
        } = &*request
        else {
            return;
        };
        let named = record.migration.as_ref().filter(|m| m.id == env.migration);
        let Some(m) = named.filter(|m| m.phase.before_activate() && m.target == self.at.node)
        else {
            return self.refuse(
                call,
                RefusedKind::Conflict,
                "the placement names no such migration to this node",
            );
        };
        if m.target_instance.is_some_and(|i| i != self.at.instance) {
            return self.refuse(
                call,
                RefusedKind::WrongInstance,
                "the copy that the placement names is lost",
            );
        }
        if m.driver_term > env.driver_term {
            return self.refuse(call, RefusedKind::StaleDriver, "another driver took over");
        }
        if record.epoch != *epoch || !record.is_owned_by(source, *source_instance) {
            return self.refuse(
                call,
                RefusedKind::StaleEpoch,
                "the placement names another owner",
            );
        }
        let note = TargetNote {
            migration: env.migration,
            shard: self.at.shard,
            instance: self.at.instance,
            source: source.clone(),
            source_instance: *source_instance,
            epoch: *epoch,
        };
        (self.attempt, self.driver_term) = (m.attempt, m.driver_term);
        self.note = Some(note.clone());
        self.state = State::Beginning;
        self.pending = Some((call, request));
        self.out.push(TargetAction::Begin(note));
    }

    fn begun(&mut self, result: Result<u64, String>) {
        if !matches!(self.state, State::Beginning) {
            return;
        }
        match result {
            Ok(free_bytes) => {
                self.state = State::Receiving { free_bytes };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, self.begun_reply(free_bytes));
                }
            }
            Err(error) => {
                self.state = State::Empty;
                self.note = None;
                self.fail_pending(RefusedKind::Failed, &error);
            }
        }
    }

    fn verified(&mut self, attempt: Attempt, f: Seq, marks: Result<VerifiedMarks, String>) {
        let waits = self.pending.as_ref().is_some_and(|(_, request)| {
            matches!(&**request, Request::Verify { env, f: asked } if env.attempt == attempt && *asked == f)
        });
        let (true, Some(note)) = (waits, &self.note) else {
            return;
        };
        match marks {
            Ok(mut m) => {
                m.missing.truncate(MARKS_MISSING_MAX);
                let marks = TargetMarks {
                    migration: note.migration,
                    attempt,
                    instance: self.at.instance,
                    source_instance: note.source_instance,
                    base: m.base,
                    f,
                    durable: m.durable,
                    applied: m.applied,
                    missing: m.missing,
                    digest_base: m.digest_base,
                    digest: m.digest,
                };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, Response::Verified(marks));
                }
            }
            Err(error) => self.fail_pending(RefusedKind::Failed, &error),
        }
    }

    fn term_started(&mut self, result: Result<(Term, Seq), String>) {
        match (mem::replace(&mut self.state, State::Discarded), result) {
            (State::Elected, Ok((term, first_seq))) => {
                self.state = State::Owner { term, first_seq };
                match self.pending.take() {
                    Some((call, request)) if matches!(*request, Request::BecomeOwner { .. }) => {
                        self.reply(call, Response::Serving { term, first_seq });
                    }
                    Some((call, _)) => {
                        self.refuse(call, RefusedKind::Busy, "it has just begun to serve")
                    }
                    None => {}
                }
            }
            (State::Elected, Err(error)) => {
                // Asked again, it reads the record again: nothing was promised yet.
                self.state = State::Receiving { free_bytes: 0 };
                self.fail_pending(RefusedKind::Failed, &error);
            }
            (state, _) => self.state = state,
        }
    }

    fn discarded(&mut self, result: Result<u64, String>) {
        if !matches!(self.state, State::Discarding) {
            return;
        }
        match result {
            Ok(_) => {
                self.state = State::Discarded;
                match self.pending.take() {
                    Some((call, request)) if matches!(*request, Request::DiscardTarget { .. }) => {
                        self.reply(call, Response::Ok);
                    }
                    Some((call, _)) => {
                        self.refuse(call, RefusedKind::Unknown, "the copy is deleted")
                    }
                    None => {}
                }
            }
            Err(error) => {
                self.state = State::Receiving { free_bytes: 0 };
                self.fail_pending(RefusedKind::Failed, &error);
            }
        }
    }

    fn read_for(&mut self, call: CallId, request: Box<Request>) {
        if self.take_up(call, request) {
            self.out.push(TargetAction::ReadPlacement);
        }
    }

    /// Makes it the command being worked on; a repetition takes the earlier call's place and needs no second
    /// action. False where nothing is to be done.
    fn take_up(&mut self, call: CallId, request: Box<Request>) -> bool {
        match &self.pending {
            None => {
                self.pending = Some((call, request));
                true
            }
            Some((_, working)) if *working == request => {
                self.fail_pending(
                    RefusedKind::Busy,
                    "a later call of the same command took its place",
                );
                self.pending = Some((call, request));
                false
            }
            Some(_) => {
                self.refuse(
                    call,
                    RefusedKind::Busy,
                    "another command is being worked on",
                );
                false
            }
        }
    }

    fn fail_pending(&mut self, kind: RefusedKind, message: &str) {
        if let Some((call, _)) = self.pending.take() {
            self.refuse(call, kind, message);
        }
    }

    fn perform(&mut self, call: CallId, request: Box<Request>) {
        self.out.push(TargetAction::Perform { call, request });
    }

    fn reply(&mut self, call: CallId, response: Response) {
        self.out.push(TargetAction::Reply { call, response });
    }

    fn refused(&self, kind: RefusedKind, what: &str) -> Refused {
        let Hosting { shard, node, .. } = &self.at;
        let state = self.state_name();
        Refused::new(
            kind,
            format!("target {node}, shard {shard}, {state}: {what}"),
        )
    }

    fn refuse(&mut self, call: CallId, kind: RefusedKind, what: &str) {
        let refused = self.refused(kind, what);
        self.reply(call, Response::Refused(refused));
    }
}

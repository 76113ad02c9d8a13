//! How the source's role handles each event. The states and their rules are described one level up.

use std::mem;

use super::states::{Decision, Drained, Quiesced, Sent, SourceNote};
use super::{CallId, DrainedMarks, Hosting, SourceAction, SourceEvent, SourceTimer};
use crate::evidence::SourceMarks;
use crate::messages::{Envelope, Refused, RefusedKind, Request, Response};
use crate::placement::{HighestSeen, PlacementRecord};
use crate::words::{Attempt, DriverTerm, MigrationId, Now, Phase};

/// How long to wait before a record is read again that decides a swap.
const DECIDE_MS: u64 = 20;

#[derive(Debug)]
pub(super) enum State {
    /// The owner; forwarding or not is the engine's to know.
    Serving,
    /// The gate is being closed.
    Closing {
        record: Box<PlacementRecord>,
        attempt: Attempt,
        deadline: Now,
    },
    Quiesced(Quiesced),
    Drained(Drained),
    /// The note is being made durable: the swap has not left.
    Noting(Attempt, Sent),
    /// The swap may have left.
    Swapping(Attempt, Sent),
    /// The note could not be made durable, but may be found after a restart: neither the swap nor opening is
    /// safe. A record that moved on, or the restart that a failed log needs anyway, decides.
    Stuck(Attempt, Sent),
    /// A note was found at the start and no record has been read yet.
    Restarted(Option<(Attempt, Sent)>),
    GaveAway(Box<PlacementRecord>),
    /// The copy is being deleted: asked for once, whatever records and commands come meanwhile.
    Retiring(Box<PlacementRecord>),
    Retired {
        bytes: u64,
    },
}

/// Whose commands are obeyed.
#[derive(Clone, Copy, Debug)]
struct Obeyed {
    migration: MigrationId,
    attempt: Attempt,
    driver_term: DriverTerm,
}

/// The source's role: see the [module](crate::source).
#[derive(Debug)]
pub struct SourceRole {
    pub(super) at: Hosting,
    seen: HighestSeen,
    obeyed: Option<Obeyed>,
    /// Attempts up to here were re-opened.
    pub(super) spent: Attempt,
    pub(super) state: State,
    /// The command being worked on.
    pub(super) pending: Option<(CallId, Box<Request>)>,
    pub(super) out: Vec<SourceAction>,
}

impl SourceRole {
    /// The role of a copy that serves, as the record its node read says. `seen` is what the node kept of it.
    #[must_use]
    pub const fn new(at: Hosting, seen: HighestSeen) -> Self {
        Self {
            at,
            seen,
            obeyed: None,
            spent: Attempt(0),
            state: State::Serving,
            pending: None,
            out: Vec::new(),
        }
    }

    /// The role after a restart, before any record was read: it serves nothing until one was.
    #[must_use]
    pub fn recover(
        at: Hosting,
        seen: HighestSeen,
        note: Option<SourceNote>,
    ) -> (Self, Vec<SourceAction>) {
        let mut role = Self::new(at, seen);
        role.spent = note.as_ref().map_or(Attempt(0), SourceNote::attempt);
        role.state = State::Restarted(match note {
            Some(SourceNote::Sent { attempt, swap }) => Some((attempt, swap)),
            _ => None,
        });
        (role, vec![SourceAction::ReadPlacement])
    }

    /// Whether this copy may answer reads and take writes.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Serving)
    }

    /// Whether the copy was given away: every request is for the new owner.
    #[must_use]
    pub const fn gave_away(&self) -> bool {
        matches!(
            self.state,
            State::GaveAway(_) | State::Retiring(_) | State::Retired { .. }
        )
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
            State::Serving => "serving",
            State::Closing { .. } => "closing",
            State::Quiesced(_) => "quiesced",
            State::Drained(_) => "drained",
            State::Noting(..) => "noting",
            State::Swapping(..) => "swapping",
            State::Stuck(..) => "stuck",
            State::Restarted(_) => "restarted",
            State::GaveAway(_) => "gave-away",
            State::Retiring(_) => "retiring",
            State::Retired { .. } => "retired",
        }
    }

    /// Takes an event, gives what to do.
    pub fn handle(&mut self, now: Now, event: SourceEvent) -> Vec<SourceAction> {
        match event {
            SourceEvent::Request { call, request } => self.request(now, call, request),
            SourceEvent::PlacementRead(record) => self.placement(now, &record),
            SourceEvent::PlacementUnread => self.unread(now),
            SourceEvent::GateClosed { attempt, f } => self.gate_closed(now, attempt, f),
            SourceEvent::Drained { attempt, marks } => self.drained(now, attempt, marks),
            SourceEvent::NotePersisted { attempt, durable } => self.noted(now, attempt, durable),
            SourceEvent::Swapped(record) | SourceEvent::SwapConflict(record) => {
                self.placement(now, &record);
            }
            SourceEvent::SwapUnknown => self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS)),
            SourceEvent::Deleted(result) => self.deleted(result),
            SourceEvent::Timer(timer) => self.fired(now, timer),
        }
        mem::take(&mut self.out)
    }

    fn request(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Some(env) = request.envelope().copied() else {
            return self.refuse(call, RefusedKind::Unsupported, "no command of a migration");
        };
        if env.shard != self.at.shard {
            return self.refuse(call, RefusedKind::Unknown, "another shard: ask its owner");
        }
        self.expire(now);
        match self.obeyed {
            Some(obeyed) if obeyed.migration == env.migration => {
                if let Err(refused) = self.obey(&env, obeyed) {
                    return self.reply(call, Response::Refused(refused));
                }
                self.dispatch(now, call, request);
            }
            // Only the placement says which migration this is.
            _ => self.read_for(call, request),
        }
    }

    fn obey(&mut self, env: &Envelope, obeyed: Obeyed) -> Result<(), Refused> {
        if env.driver_term < obeyed.driver_term {
            let message = format!("driver term {} took over", obeyed.driver_term);
            return Err(Refused::new(RefusedKind::StaleDriver, message));
        }
        if env.attempt < obeyed.attempt {
            let message = format!("attempt {} has begun", obeyed.attempt);
            return Err(Refused::new(RefusedKind::StaleAttempt, message));
        }
        self.obeyed = Some(Obeyed {
            attempt: env.attempt,
            driver_term: env.driver_term,
            ..obeyed
        });
        Ok(())
    }

    fn dispatch(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Some(&env) = request.envelope() else {
            return;
        };
        match *request {
            Request::SourceStatus { .. } => self.perform(call, request),
            Request::Prepare { .. } | Request::Checkpoint { .. } | Request::StartForward { .. } => {
                match self.state {
                    State::Serving => self.perform(call, request),
                    _ => self.not_ready(call),
                }
            }
            Request::ReadFile { .. } | Request::Ship { .. } => match self.state {
                State::Serving | State::Quiesced(_) | State::Drained(_) => {
                    self.perform(call, request);
                }
                _ => self.not_ready(call),
            },
            Request::ComparePage { .. } => match self.state {
                State::GaveAway(_) => self.perform(call, request),
                _ => self.not_ready(call),
            },
            Request::Quiesce { .. } => self.quiesce(call, env, request),
            Request::Drain { .. } => self.drain(call, env, request),
            Request::Reopen { .. } => self.reopen_asked(call, request),
            Request::Activate { .. } => self.activate(now, call, request),
            Request::Release { epoch, .. } => match &self.state {
                State::GaveAway(record) if record.epoch >= epoch => {
                    self.out.push(SourceAction::Release { call: Some(call) });
                }
                _ => self.not_ready(call),
            },
            Request::Retire { instance, .. } if instance != self.at.instance => {
                self.refuse(call, RefusedKind::WrongInstance, "another copy was named");
            }
            Request::Retire { .. } => match self.state {
                State::Retired { bytes } => self.reply(call, Response::Retired { bytes }),
                // The deletion under way answers the last call.
                State::Retiring(_) => {
                    self.take_up(call, request);
                }
                _ => self.read_for(call, request),
            },
            Request::AbortSource { .. } => self.read_for(call, request),
            _ => self.refuse(call, RefusedKind::Unsupported, "a command for the target"),
        }
    }

    fn quiesce(&mut self, call: CallId, env: Envelope, request: Box<Request>) {
        let open = match &self.state {
            State::Quiesced(q) => Some(q),
            State::Drained(d) => Some(d.quiesced()),
            _ => None,
        };
        if let Some(f) = open.filter(|q| q.attempt() == env.attempt).map(Quiesced::f) {
            return self.reply(call, Response::Quiesced { f });
        }
        if env.attempt <= self.spent {
            return self.refuse(
                call,
                RefusedKind::StaleAttempt,
                "it was re-opened: raise the attempt",
            );
        }
        self.read_for(call, request);
    }

    fn drain(&mut self, call: CallId, env: Envelope, request: Box<Request>) {
        match &self.state {
            State::Quiesced(q) if q.attempt() == env.attempt => {
                let (attempt, f) = (q.attempt(), q.f());
                if self.take_up(call, request) {
                    self.out.push(SourceAction::Drain { attempt, f });
                }
            }
            State::Drained(d) if d.quiesced().attempt() == env.attempt => {
                let marks = d.marks().clone();
                self.reply(call, Response::Drained(marks));
            }
            _ => self.spent_or_not_ready(call, env.attempt),
        }
    }

    fn reopen_asked(&mut self, call: CallId, request: Box<Request>) {
        match self.state {
            State::Serving => self.reply(call, Response::Reopened),
            State::Quiesced(_) | State::Drained(_) => {
                self.reopen("the driver asked to re-open");
                self.reply(call, Response::Reopened);
            }
            _ => self.read_for(call, request),
        }
    }

    fn activate(&mut self, now: Now, call: CallId, request: Box<Request>) {
        let Request::Activate {
            env,
            source,
            target,
        } = &*request
        else {
            return;
        };
        let env = *env;
        match mem::replace(&mut self.state, State::Serving) {
            State::Drained(drained) if drained.quiesced().attempt() == env.attempt => {
                match drained.send(now, source, target) {
                    Ok(sent) => {
                        let attempt = env.attempt;
                        let note = SourceNote::Sent {
                            attempt,
                            swap: sent.clone(),
                        };
                        self.state = State::Noting(attempt, sent);
                        self.supersede_pending();
                        self.pending = Some((call, request));
                        self.out.push(SourceAction::PersistSent { attempt, note });
                    }
                    Err(refused) => {
                        let (drained, refused) = *refused;
                        self.state = State::Drained(drained);
                        self.reply(call, Response::Refused(refused));
                    }
                }
            }
            state @ (State::Noting(attempt, _) | State::Swapping(attempt, _))
                if attempt == env.attempt =>
            {
                // The first call's reply may be lost: the outcome answers the last one.
                self.state = state;
                self.supersede_pending();
                self.pending = Some((call, request));
            }
            State::GaveAway(record) => {
                self.reply(
                    call,
                    Response::Activated {
                        record: record.clone(),
                    },
                );
                self.state = State::GaveAway(record);
            }
            state => {
                self.state = state;
                self.spent_or_not_ready(call, env.attempt);
            }
        }
    }

    fn placement(&mut self, now: Now, record: &PlacementRecord) {
        if record.shard != self.at.shard {
            return self.unread(now);
        }
        if let Err(back) = self.seen.observe(record) {
            self.fail_pending(RefusedKind::Conflict, &back.to_string());
            return self.wait_for_record(now);
        }
        self.learn(record);
        let ours = record.is_owned_by(&self.at.node, self.at.instance);
        match mem::replace(&mut self.state, State::Serving) {
            State::Restarted(Some((attempt, sent))) | State::Swapping(attempt, sent) => {
                self.decide(now, attempt, sent, record);
            }
            State::Stuck(attempt, sent) if record.revision <= sent.expected() => {
                self.state = State::Stuck(attempt, sent);
                self.wait_for_record(now);
            }
            State::Stuck(attempt, sent) => self.decide(now, attempt, sent, record),
            State::Restarted(None) if ours => self.out.push(SourceAction::Open),
            State::Serving if ours => {}
            State::Quiesced(q) if ours => {
                let moved = record.revision > q.revision();
                self.state = State::Quiesced(q);
                if moved {
                    self.reopen("the placement has moved on");
                }
            }
            State::Drained(d) if ours => {
                let moved = record.revision > d.quiesced().revision();
                self.state = State::Drained(d);
                if moved {
                    self.reopen("the placement has moved on");
                }
            }
            state @ (State::Closing { .. }
            | State::Noting(..)
            | State::Retiring(_)
            | State::Retired { .. }) => self.state = state,
            State::GaveAway(_) => self.state = State::GaveAway(Box::new(record.clone())),
            // Somebody else owns it: an operator promoted a follower, or this node slept through a move.
            State::Serving | State::Restarted(None) | State::Quiesced(_) | State::Drained(_) => {
                self.give_away(now, record);
            }
        }
        self.resume_pending(now, record);
    }

    fn decide(&mut self, now: Now, attempt: Attempt, sent: Sent, record: &PlacementRecord) {
        match sent.decide(record) {
            Decision::WonBy(record) => {
                self.give_away(now, &record);
                self.answer_activate(Response::Activated { record });
            }
            Decision::LostTo(record) => {
                // The swap is void for ever, so opening is safe again.
                self.spent = self.spent.max(attempt);
                if record.is_owned_by(&self.at.node, self.at.instance) {
                    self.out.push(SourceAction::Open);
                } else {
                    self.give_away(now, &record);
                }
                self.answer_activate(Response::NotActivated { record });
            }
            Decision::Undecided(sent) => {
                self.out.push(SourceAction::Swap {
                    expected: sent.expected(),
                    record: Box::new(sent.next().clone()),
                });
                self.state = State::Swapping(attempt, sent);
            }
        }
    }

    fn give_away(&mut self, now: Now, record: &PlacementRecord) {
        self.out.push(SourceAction::GiveAway {
            owner: record.owner.clone(),
            epoch: record.epoch,
        });
        let pause = record
            .migration
            .as_ref()
            .map_or(0, |m| m.config.pause_max_ms);
        self.timer(SourceTimer::Release, now.plus_ms(pause));
        self.state = State::GaveAway(Box::new(record.clone()));
    }

    fn answer_activate(&mut self, response: Response) {
        let activating = |(_, request): &mut (CallId, Box<Request>)| {
            matches!(**request, Request::Activate { .. })
        };
        if let Some((call, _)) = self.pending.take_if(activating) {
            self.reply(call, response);
        }
    }

    /// Whose commands count from here on, as the record says.
    fn learn(&mut self, record: &PlacementRecord) {
        let Some(m) = &record.migration else { return };
        if m.source_instance != self.at.instance || m.source != self.at.node {
            return;
        }
        self.obeyed = Some(match self.obeyed {
            Some(o) if o.migration == m.id => Obeyed {
                attempt: o.attempt.max(m.attempt),
                driver_term: o.driver_term.max(m.driver_term),
                ..o
            },
            _ => {
                // Attempts count from 0 in each migration.
                if self.obeyed.is_some() {
                    self.spent = Attempt(0);
                }
                Obeyed {
                    migration: m.id,
                    attempt: m.attempt,
                    driver_term: m.driver_term,
                }
            }
        });
    }

    /// A record was read: goes on with the command that asked for it.
    fn resume_pending(&mut self, now: Now, record: &PlacementRecord) {
        let waits_for_record = |request: &Request| {
            !matches!(request, Request::Drain { .. } | Request::Activate { .. })
                || self.obeyed.is_none()
        };
        if matches!(
            self.state,
            State::Closing { .. }
                | State::Noting(..)
                | State::Swapping(..)
                | State::Stuck(..)
                | State::Restarted(_)
                | State::Retiring(_)
        ) || !self
            .pending
            .as_ref()
            .is_some_and(|(_, r)| waits_for_record(r))
        {
            return;
        }
        let Some((call, request)) = self.pending.take() else {
            return;
        };
        let Some(env) = request.envelope().copied() else {
            return;
        };
        let named = record.migration.as_ref().filter(|m| m.id == env.migration);
        match (*request).clone() {
            Request::AbortSource { .. } => {
                if named.is_some_and(|m| m.phase != Phase::Aborted) {
                    return self.refuse(
                        call,
                        RefusedKind::Conflict,
                        "the placement does not say aborted",
                    );
                }
                self.out.push(SourceAction::StopForwarding);
                self.reply(call, Response::Ok);
            }
            _ if named.is_none() => {
                self.refuse(
                    call,
                    RefusedKind::Unknown,
                    "the placement knows no such migration",
                );
            }
            Request::Quiesce {
                revision,
                pause_max_ms,
                ..
            } => {
                let current = record.revision == revision
                    && named.is_some_and(|m| {
                        m.phase == Phase::DualWrite
                            && m.attempt == env.attempt
                            && m.driver_term == env.driver_term
                    });
                if !current || !matches!(self.state, State::Serving) {
                    return self.refuse(
                        call,
                        RefusedKind::NotReady,
                        "the placement allows no such quiesce now",
                    );
                }
                let attempt = env.attempt;
                // The placement's bound is the contract; a driver may only ask for less.
                let agreed = named.map_or(0, |m| m.config.pause_max_ms);
                self.state = State::Closing {
                    record: Box::new(record.clone()),
                    attempt,
                    deadline: now.plus_ms(pause_max_ms.min(agreed) / 5 * 4),
                };
                self.pending = Some((call, request));
                let note = SourceNote::Quiesced { attempt };
                self.out.push(SourceAction::CloseGate { attempt, note });
            }
            Request::Retire { .. } => self.retire(call, record, request),
            Request::Reopen { .. } if matches!(self.state, State::Serving) => {
                self.reply(call, Response::Reopened);
            }
            Request::Reopen { .. } => self.not_ready(call),
            _ => match self.obeyed {
                Some(obeyed) if obeyed.migration == env.migration => {
                    match self.obey(&env, obeyed) {
                        Ok(()) => self.dispatch(now, call, request),
                        Err(refused) => self.reply(call, Response::Refused(refused)),
                    }
                }
                _ => self.refuse(
                    call,
                    RefusedKind::NotOwner,
                    "this copy is not that migration's source",
                ),
            },
        }
    }

    fn retire(&mut self, call: CallId, record: &PlacementRecord, request: Box<Request>) {
        let allowed = record.frozen.as_ref().is_some_and(|f| {
            f.instance == self.at.instance && f.node == self.at.node && f.retiring
        });
        if !allowed || !matches!(self.state, State::GaveAway(_)) {
            return self.refuse(
                call,
                RefusedKind::NotReady,
                "the placement does not retire this copy",
            );
        }
        self.pending = Some((call, request));
        self.state = State::Retiring(Box::new(record.clone()));
        // A deleted copy has nobody left who could let its parked requests go.
        self.out.push(SourceAction::Release { call: None });
        self.out.push(SourceAction::Delete {
            instance: self.at.instance,
        });
    }

    fn deleted(&mut self, result: Result<u64, String>) {
        match (mem::replace(&mut self.state, State::Serving), result) {
            (State::Retiring(_), Ok(bytes)) => {
                self.state = State::Retired { bytes };
                if let Some((call, _)) = self.pending.take() {
                    self.reply(call, Response::Retired { bytes });
                }
            }
            (State::Retiring(record), Err(error)) => {
                self.state = State::GaveAway(record);
                self.fail_pending(RefusedKind::Failed, &error);
            }
            (state, _) => self.state = state,
        }
    }

    fn gate_closed(&mut self, now: Now, attempt: Attempt, f: Option<watershed_wal::Seq>) {
        match mem::replace(&mut self.state, State::Serving) {
            State::Closing {
                record,
                attempt: closing,
                deadline,
            } if closing == attempt => match f {
                Some(f) => {
                    self.state = State::Quiesced(Quiesced::new(*record, attempt, f, deadline));
                    self.timer(SourceTimer::Reopen, deadline);
                    if let Some((call, _)) = self.pending.take() {
                        self.reply(call, Response::Quiesced { f });
                    }
                    self.expire(now);
                }
                None => {
                    self.spent = self.spent.max(attempt);
                    self.fail_pending(
                        RefusedKind::Failed,
                        "the log's gate can't be closed: see its status",
                    );
                }
            },
            state => self.state = state,
        }
    }

    fn drained(&mut self, now: Now, attempt: Attempt, marks: Result<DrainedMarks, String>) {
        self.expire(now);
        match mem::replace(&mut self.state, State::Serving) {
            State::Quiesced(q) if q.attempt() == attempt => match marks {
                Ok(m) => {
                    let marks = SourceMarks {
                        migration: self.obeyed.map_or(MigrationId(0), |o| o.migration),
                        attempt,
                        instance: self.at.instance,
                        term: m.term,
                        base: m.base,
                        f: q.f(),
                        durable: m.durable,
                        applied: m.applied,
                        digest_base: m.digest_base,
                        digest: m.digest,
                        revision: q.revision(),
                    };
                    self.state = State::Drained(q.drained(marks.clone()));
                    if let Some((call, _)) = self.pending.take() {
                        self.reply(call, Response::Drained(marks));
                    }
                }
                Err(error) => {
                    self.state = State::Quiesced(q);
                    self.fail_pending(RefusedKind::Failed, &error);
                    self.reopen("the drain failed");
                }
            },
            state => self.state = state,
        }
    }

    fn noted(&mut self, now: Now, attempt: Attempt, durable: bool) {
        match mem::replace(&mut self.state, State::Serving) {
            State::Noting(noting, sent) if noting == attempt => {
                if durable {
                    self.out.push(SourceAction::Swap {
                        expected: sent.expected(),
                        record: Box::new(sent.next().clone()),
                    });
                    self.state = State::Swapping(attempt, sent);
                } else {
                    self.fail_pending(RefusedKind::Failed, "the log failed: see its status");
                    self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS));
                    self.state = State::Stuck(attempt, sent);
                }
            }
            state => self.state = state,
        }
    }

    fn fired(&mut self, now: Now, timer: SourceTimer) {
        match timer {
            SourceTimer::Reopen => self.expire(now),
            SourceTimer::Decide => {
                if matches!(
                    self.state,
                    State::Swapping(..) | State::Stuck(..) | State::Restarted(_)
                ) {
                    self.out.push(SourceAction::ReadPlacement);
                }
            }
            SourceTimer::Release => {
                if matches!(self.state, State::GaveAway(_)) {
                    self.out.push(SourceAction::Release { call: None });
                }
            }
        }
    }

    fn expire(&mut self, now: Now) {
        let over = match &self.state {
            State::Quiesced(q) => q.is_over(now),
            State::Drained(d) => d.quiesced().is_over(now),
            _ => false,
        };
        if over {
            self.reopen("the pause is at its bound");
        }
    }

    /// Only from where no "sent" note was begun.
    fn reopen(&mut self, why: &str) {
        let attempt = match &self.state {
            State::Quiesced(q) => q.attempt(),
            State::Drained(d) => d.quiesced().attempt(),
            _ => return,
        };
        self.spent = self.spent.max(attempt);
        self.state = State::Serving;
        self.out.push(SourceAction::Open);
        if matches!(&self.pending, Some((_, r)) if matches!(**r, Request::Drain { .. })) {
            self.fail_pending(RefusedKind::StaleAttempt, why);
        }
    }

    fn unread(&mut self, now: Now) {
        let decided = matches!(
            self.state,
            State::Noting(..) | State::Swapping(..) | State::Retiring(_)
        );
        if !decided {
            self.fail_pending(
                RefusedKind::Failed,
                "the placement can't be read: try again",
            );
        }
        self.wait_for_record(now);
    }

    fn wait_for_record(&mut self, now: Now) {
        if matches!(
            self.state,
            State::Swapping(..) | State::Stuck(..) | State::Restarted(_)
        ) {
            self.timer(SourceTimer::Decide, now.plus_ms(DECIDE_MS));
        }
    }
}

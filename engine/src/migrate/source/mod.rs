//! The source's side of a migration: an actor that does what the pure role of `watershed-migration` decides.
//!
//! One actor for each copy, one event at a time. What takes long runs beside it and comes back as an event, so a
//! status, a re-open or a newer command is never stuck behind a copy. What each action must keep is written at
//! [`SourceAction`]; `work.rs` carries out the requests that change no state, `restart.rs` decides at opening.

mod pause;
mod restart;
mod ship;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use watershed_migration::messages::{Request, Response};
use watershed_migration::source::{
    CallId, Hosting, SourceAction, SourceEvent, SourceNote, SourceRole, SourceTimer,
};
use watershed_migration::{HighestSeen, PlacementRecord, Revision};
use watershed_wal::{InstanceId, Submitted};

pub(crate) use restart::before_serving;

use super::actor::{Address, Beside, Input, Looked, Outcomes, look};
use super::calls::{Calls, Clock};
use crate::node::Node;
use crate::placement::PlacementError;
use crate::shard::{Hosted, Role};
use pause::Pause;
use work::Work;

/// The note of the log which says that a pause was begun, or a swap sent.
const NOTE: &str = "migration-source";

/// The way to a copy's actor.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) instance: InstanceId,
    address: Address<Happened>,
}

/// What happens to the actor, requests aside.
#[derive(Debug)]
enum Happened {
    Event(SourceEvent),
    /// A timer with its number: one that was set again since is void.
    Fired(SourceTimer, u64),
}

impl Outcomes<Happened> {
    fn happened(&self, event: SourceEvent) {
        self.send(Happened::Event(event));
    }
}

struct Actor {
    node: Node,
    hosted: Arc<Hosted>,
    role: SourceRole,
    calls: Calls,
    clock: Clock,
    work: Arc<Work>,
    pause: Pause,
    timers: HashMap<SourceTimer, u64>,
    last_timer: u64,
    outcomes: Outcomes<Happened>,
    inbox: mpsc::UnboundedReceiver<Input<Happened>>,
    beside: Beside,
    seen: Option<Revision>,
}

impl Source {
    /// Starts the actor of a hosted copy that owns its shard, or owned it.
    pub(super) fn start(node: &Node, hosted: Arc<Hosted>) -> Self {
        let instance = hosted.instance;
        let at = Hosting {
            shard: hosted.shard,
            node: node.id.clone(),
            instance,
        };
        let (role, first) = match hosted.role() {
            Role::Owner { .. } => (SourceRole::new(at, HighestSeen::default()), Vec::new()),
            // It was given away before: the record says to whom.
            _ => SourceRole::recover(at, HighestSeen::default(), None),
        };
        let node = node.clone();
        let address = Address::spawn(&node.runtime.clone(), move |outcomes, inbox| {
            let actor = Actor {
                work: Arc::new(Work::new(node.clone(), hosted.clone())),
                beside: Beside::new(&node.runtime),
                node,
                hosted,
                role,
                calls: Calls::default(),
                clock: Clock::start(),
                pause: Pause::default(),
                timers: HashMap::new(),
                last_timer: 0,
                outcomes,
                inbox,
                seen: None,
            };
            actor.run(first)
        });
        Self { instance, address }
    }

    pub(super) async fn call(&self, request: Request) -> Response {
        self.address.call(request).await
    }

    pub(super) fn stop(&self) {
        self.address.stop();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.address.is_stopped()
    }
}

impl Actor {
    async fn run(mut self, first: Vec<SourceAction>) {
        let mut watch = self.node.placement.watch();
        self.act_on(first);
        loop {
            tokio::select! {
                input = self.inbox.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                }
                changed = watch.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.read_placement(true);
                }
            }
        }
    }

    fn take(&mut self, input: Input<Happened>) {
        match input {
            Input::Call(request, reply) => {
                let call = self.calls.add(reply);
                if let Some(env) = request.envelope() {
                    self.work.note_envelope(env);
                }
                self.handle(SourceEvent::Request { call, request });
            }
            Input::Event(Happened::Fired(timer, number)) => {
                if self.timers.get(&timer) == Some(&number) {
                    self.timers.remove(&timer);
                    self.handle(SourceEvent::Timer(timer));
                }
            }
            Input::Event(Happened::Event(SourceEvent::PlacementRead(record))) => {
                self.seen = self.seen.max(Some(record.revision));
                self.node.saw(&record);
                self.end_forwarding_of_ended(&record);
                self.work.note_config(&record);
                self.handle(SourceEvent::PlacementRead(record));
            }
            Input::Event(Happened::Event(event)) => self.handle(event),
        }
    }

    fn handle(&mut self, event: SourceEvent) {
        let actions = self.role.handle(self.clock.now(), event);
        self.act_on(actions);
    }

    fn act_on(&mut self, actions: Vec<SourceAction>) {
        let mut actions = actions.into_iter().peekable();
        while let Some(action) = actions.next() {
            if action == SourceAction::StopForwarding {
                // The answer behind it says that nothing is left of the migration here.
                let answer = actions.next_if(|next| matches!(next, SourceAction::Reply { .. }));
                self.stop_forwarding(answer);
            } else {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: SourceAction) {
        match action {
            SourceAction::Perform { call, request } => self.perform(call, *request),
            SourceAction::Reply { call, response } => self.calls.answer(call, response),
            SourceAction::ReadPlacement => self.read_placement(false),
            SourceAction::CloseGate { attempt, note } => {
                let f = self.close_gate(&note);
                self.outcomes
                    .happened(SourceEvent::GateClosed { attempt, f });
            }
            SourceAction::Drain { attempt, f } => {
                self.hosted.close_reads();
                let (work, outcomes) = (self.work.clone(), self.outcomes.clone());
                let note = self.pause.take_note();
                self.beside.spawn(async move {
                    let marks = work.drain(f, note).await;
                    outcomes.happened(SourceEvent::Drained { attempt, marks });
                });
            }
            SourceAction::PersistSent { attempt, note } => self.persist(attempt, &note),
            SourceAction::Swap { expected, record } => self.swap(expected, record),
            SourceAction::Open => self.open(),
            SourceAction::GiveAway { owner, epoch } => {
                let parked = self.hosted.give_away(owner, epoch);
                self.pause.given_away(parked);
                self.work.forward_no_more();
            }
            SourceAction::Release { call } => self.release(call),
            SourceAction::StopForwarding => self.stop_forwarding(None),
            SourceAction::Delete { instance } => self.delete(instance),
            SourceAction::SetTimer { timer, at } => {
                self.last_timer += 1;
                let number = self.last_timer;
                self.timers.insert(timer, number);
                let (outcomes, at) = (self.outcomes.clone(), self.clock.instant(at));
                self.beside.spawn(async move {
                    tokio::time::sleep_until(at).await;
                    outcomes.send(Happened::Fired(timer, number));
                });
            }
        }
    }

    fn perform(&mut self, call: CallId, request: Request) {
        let Some(reply) = self.calls.take(call) else {
            return;
        };
        let work = self.work.clone();
        self.beside
            .perform(reply, async move { work.perform(request).await });
    }

    fn read_placement(&mut self, hint: bool) {
        let (node, shard) = (self.node.clone(), self.hosted.shard);
        let (outcomes, seen) = (self.outcomes.clone(), self.seen);
        self.beside.spawn(async move {
            match look(&node, shard, hint, seen).await {
                Some(Looked::Record(record)) => {
                    outcomes.happened(SourceEvent::PlacementRead(record));
                }
                Some(Looked::Unread) => outcomes.happened(SourceEvent::PlacementUnread),
                None => {}
            }
        });
    }

    /// Closes the gate, then submits the note; the drain's sync takes it along.
    fn close_gate(&mut self, note: &SourceNote) -> Option<watershed_wal::Seq> {
        let f = match self.hosted.close_gate() {
            Ok(f) => f,
            Err(error) => {
                tracing::warn!(shard = %self.hosted.shard, %error, "the gate can't be closed");
                return None;
            }
        };
        self.pause.begun(Instant::now());
        match encode(note).and_then(|bytes| self.hosted.log.put_note(NOTE, bytes).ok()) {
            Some(submitted) => {
                self.pause.set_note(submitted.done);
                Some(f)
            }
            None => {
                self.open();
                None
            }
        }
    }

    fn persist(&mut self, attempt: watershed_migration::Attempt, note: &SourceNote) {
        let submitted = encode(note).and_then(|bytes| self.hosted.log.put_note(NOTE, bytes).ok());
        let outcomes = self.outcomes.clone();
        self.beside.spawn(async move {
            let durable = match submitted {
                Some(Submitted { done, lead, .. }) => {
                    // Hands the commit to the log's thread: this one must not block.
                    drop(lead);
                    done.await.is_ok()
                }
                None => false,
            };
            outcomes.happened(SourceEvent::NotePersisted { attempt, durable });
        });
    }

    fn swap(&mut self, expected: Revision, record: Box<PlacementRecord>) {
        let (placement, outcomes) = (self.node.placement.clone(), self.outcomes.clone());
        self.beside
            .spawn(async move { outcomes.happened(swap(&*placement, expected, *record).await) });
    }

    fn open(&mut self) {
        if let Err(error) = self.hosted.reopen() {
            tracing::error!(shard = %self.hosted.shard, %error, "the shard can't be opened again");
        }
        if let Some(took) = self.pause.ended(Instant::now()) {
            self.node.migrations.counts().paused(took, true);
        }
        self.forget_note();
    }

    /// The note has said what it had to: the record decides from here.
    fn forget_note(&self) {
        if self.hosted.log.note(NOTE).is_some()
            && let Err(error) = self.hosted.log.put_note(NOTE, Bytes::new())
        {
            tracing::warn!(shard = %self.hosted.shard, %error, "a note of a pause stays: it is decided again at the next opening");
        }
    }

    fn release(&mut self, call: Option<CallId>) {
        let now = Instant::now();
        if let Some(took) = self.pause.over(now) {
            self.node.migrations.counts().paused(took, false);
        }
        let (parked, pause_us) = self.pause.released(now);
        if let Some(call) = call {
            self.calls
                .answer(call, Response::Released { parked, pause_us });
        }
        self.forget_note();
        self.stop_forwarding(None);
    }

    fn stop_forwarding(&mut self, then: Option<SourceAction>) {
        let answer = match then {
            Some(SourceAction::Reply { call, response }) => {
                self.calls.take(call).map(|reply| (reply, response))
            }
            _ => None,
        };
        let work = self.work.clone();
        self.beside.spawn(async move {
            work.stop_forwarding().await;
            if let Some((reply, response)) = answer {
                let _ = reply.send(response);
            }
        });
    }

    /// A migration that ended without this source being told, its driver being dead.
    fn end_forwarding_of_ended(&mut self, record: &PlacementRecord) {
        let ended = record.migration.as_ref().filter(|m| m.phase.is_final());
        if ended.is_some_and(|m| self.work.is_for(m.id)) {
            self.stop_forwarding(None);
        }
    }

    fn delete(&mut self, instance: InstanceId) {
        let (node, work, outcomes) = (self.node.clone(), self.work.clone(), self.outcomes.clone());
        self.beside.spawn(async move {
            work.stop_forwarding().await;
            let tasks = node.migrations.tasks().clone();
            let removed = tasks.blocking(move || node.remove(instance)).await;
            outcomes.happened(SourceEvent::Deleted(
                removed.map_err(|error| error.to_string()),
            ));
        });
    }
}

fn encode(note: &SourceNote) -> Option<Bytes> {
    serde_json::to_vec(note).ok().map(Bytes::from)
}

/// Sends a swap; what came of it, as far as its answer tells.
async fn swap(
    placement: &dyn crate::placement::Placement,
    expected: Revision,
    record: PlacementRecord,
) -> SourceEvent {
    let shard = record.shard;
    match placement.swap(Some(expected), record).await {
        Ok(record) => SourceEvent::Swapped(Box::new(record)),
        Err(PlacementError::Conflict {
            current: Some(record),
            ..
        }) => SourceEvent::SwapConflict(record),
        Err(error) => {
            tracing::warn!(%shard, %error, "a swap gave no outcome: the record is read again");
            SourceEvent::SwapUnknown
        }
    }
}

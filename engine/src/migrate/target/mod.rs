//! The target's side of a migration: an actor that does what the pure role of `watershed-migration` decides.
//!
//! One actor for each migration to this node. What it keeps is in `files.rs`, what it does for requests that change no
//! state of the role in `work.rs`. It watches the placement, so it serves as soon as the record names it, also when
//! the driver has died.

mod copy;
pub(super) mod files;
mod work;

use std::sync::Arc;

use tokio::sync::mpsc;
use watershed_migration::messages::Request;
use watershed_migration::source::{CallId, Hosting};
use watershed_migration::target::{TargetAction, TargetEvent, TargetNote, TargetRole};
use watershed_migration::{HighestSeen, PlacementRecord, Revision};
use watershed_wal::{InstanceId, ShardId};

use super::actor::{Address, Beside, Input, Looked, Outcomes, look};
use super::calls::Calls;
use super::room::spare_bytes;
use crate::Error;
use crate::node::Node;
use work::Work;

/// The way to a migration's target.
pub(super) type Target = Address<TargetEvent>;

struct Actor {
    node: Node,
    shard: ShardId,
    role: TargetRole,
    calls: Calls,
    work: Arc<Work>,
    outcomes: Outcomes<TargetEvent>,
    inbox: mpsc::UnboundedReceiver<Input<TargetEvent>>,
    beside: Beside,
    seen: Option<Revision>,
    /// The copy is gone, or the migration over and the copy an owner like any other: the actor ends.
    over: bool,
}

impl Target {
    /// The target of a migration that this node knows nothing of yet: the copy is begun if the placement says so.
    pub(super) fn start(node: &Node, shard: ShardId) -> Self {
        let instance = InstanceId::random();
        let role = TargetRole::new(hosting(node, shard, instance), HighestSeen::default());
        spawn(
            node,
            shard,
            role,
            Vec::new(),
            Work::new(node, shard, instance),
        )
    }

    /// The target whose note was found at opening.
    pub(super) fn resume(node: &Node, note: TargetNote) -> Self {
        let at = hosting(node, note.shard, note.instance);
        let work = Work::new(node, note.shard, note.instance);
        let shard = note.shard;
        work.resume(&note);
        let free_bytes = spare_bytes(&node.dir).unwrap_or(0);
        let (role, first) = TargetRole::recover(at, HighestSeen::default(), note, free_bytes);
        spawn(node, shard, role, first, work)
    }
}

fn spawn(
    node: &Node,
    shard: ShardId,
    role: TargetRole,
    first: Vec<TargetAction>,
    work: Work,
) -> Target {
    let node = node.clone();
    Address::spawn(&node.runtime.clone(), move |outcomes, inbox| {
        let actor = Actor {
            beside: Beside::new(&node.runtime),
            node,
            shard,
            role,
            calls: Calls::default(),
            work: Arc::new(work),
            outcomes,
            inbox,
            seen: None,
            over: false,
        };
        actor.run(first)
    })
}

fn hosting(node: &Node, shard: ShardId, instance: InstanceId) -> Hosting {
    Hosting {
        shard,
        node: node.id.clone(),
        instance,
    }
}

impl Actor {
    async fn run(mut self, first: Vec<TargetAction>) {
        let mut watch = self.node.placement.watch();
        self.act_on(first);
        while !self.over {
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

    fn take(&mut self, input: Input<TargetEvent>) {
        match input {
            Input::Call(request, reply) => {
                let call = self.calls.add(reply);
                self.handle(TargetEvent::Request { call, request });
            }
            Input::Event(TargetEvent::PlacementRead(record)) => {
                self.seen = self.seen.max(Some(record.revision));
                self.node.saw(&record);
                self.work.steer(&record);
                let over = self.is_over(&record);
                self.handle(TargetEvent::PlacementRead(record));
                if over {
                    self.end();
                }
            }
            Input::Event(event) => {
                let discarded = matches!(event, TargetEvent::Discarded(Ok(_)));
                self.handle(event);
                self.over |= discarded;
            }
        }
        // Nothing was begun: who asks again gets another actor.
        self.over |= self.role.state_name() == "empty" && self.calls.is_empty();
    }

    /// Whether this copy serves and its migration is through.
    fn is_over(&self, record: &PlacementRecord) -> bool {
        let migration = record
            .migration
            .as_ref()
            .filter(|m| Some(m.id) == self.work.migration());
        self.role.is_owner() && migration.is_none_or(|m| m.phase.is_final())
    }

    fn end(&mut self) {
        self.over = true;
        if let Some(migration) = self.work.migration()
            && let Err(error) = files::remove(&self.node.dir, migration)
        {
            tracing::warn!(shard = %self.shard, %error, "a note of an ended migration stays until the next opening");
        }
    }

    fn handle(&mut self, event: TargetEvent) {
        let actions = self.role.handle(event);
        self.act_on(actions);
    }

    fn act_on(&mut self, actions: Vec<TargetAction>) {
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: TargetAction) {
        let (work, outcomes) = (self.work.clone(), self.outcomes.clone());
        match action {
            TargetAction::Perform { call, request } => self.perform(call, *request),
            TargetAction::Reply { call, response } => self.calls.answer(call, response),
            TargetAction::ReadPlacement => self.read_placement(false),
            TargetAction::Begin(note) => {
                self.beside.spawn(async move { outcomes.send(TargetEvent::Begun(work.begin(note).await)) });
            }
            TargetAction::Verify { attempt, f } => self.beside.spawn(async move {
                let marks = work.verify(f).await.map_err(|refused| refused.message);
                outcomes.send(TargetEvent::Verified { attempt, f, marks });
            }),
            TargetAction::StartTerm { epoch, f } => self.beside.spawn(async move {
                let started = work.start_term(epoch, f).await.map_err(|error: Error| {
                    tracing::warn!(shard = %work.shard(), %error, "the shard's new owner could not start its term");
                    error.to_string()
                });
                outcomes.send(TargetEvent::TermStarted(started));
            }),
            TargetAction::Discard { instance } => self.beside.spawn(async move {
                outcomes.send(TargetEvent::Discarded(work.discard(instance).await));
            }),
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
        let (node, shard) = (self.node.clone(), self.shard);
        let (outcomes, seen) = (self.outcomes.clone(), self.seen);
        self.beside.spawn(async move {
            match look(&node, shard, hint, seen).await {
                Some(Looked::Record(record)) => outcomes.send(TargetEvent::PlacementRead(record)),
                Some(Looked::Unread) => outcomes.send(TargetEvent::PlacementUnread),
                None => {}
            }
        });
    }
}

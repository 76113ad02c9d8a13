//! What the source's and the target's actor have in common: an address, an inbox, and work that runs beside them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use watershed_migration::messages::{Refused, Request, Response};
use watershed_migration::{PlacementRecord, Revision};
use watershed_wal::ShardId;

use super::calls::ended;
use crate::Error;
use crate::migrate::refusal::refused;
use crate::node::Node;

/// What comes to an actor: a request of a driver or a source, or an event of its own work.
#[derive(Debug)]
pub(super) enum Input<E> {
    Call(Box<Request>, oneshot::Sender<Response>),
    Event(E),
}

/// The way to an actor.
#[derive(Debug)]
pub(super) struct Address<E> {
    inbox: mpsc::UnboundedSender<Input<E>>,
    task: Arc<AbortHandle>,
}

impl<E> Clone for Address<E> {
    fn clone(&self) -> Self {
        Self {
            inbox: self.inbox.clone(),
            task: self.task.clone(),
        }
    }
}

impl<E: Send + 'static> Address<E> {
    /// Spawns the actor that `make` gives for its inbox.
    pub(super) fn spawn<F>(
        runtime: &Handle,
        make: impl FnOnce(Outcomes<E>, mpsc::UnboundedReceiver<Input<E>>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, inbox) = mpsc::unbounded_channel();
        let task = runtime.spawn(make(Outcomes(sender.clone()), inbox));
        Self {
            inbox: sender,
            task: Arc::new(task.abort_handle()),
        }
    }

    pub(super) async fn call(&self, request: Request) -> Response {
        let (reply, answer) = oneshot::channel();
        let call = Input::Call(Box::new(request), reply);
        if self.inbox.send(call).is_err() {
            return ended();
        }
        answer.await.unwrap_or_else(|_| ended())
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.task.is_finished()
    }
}

/// Where what runs beside an actor sends its events.
#[derive(Debug)]
pub(super) struct Outcomes<E>(mpsc::UnboundedSender<Input<E>>);

impl<E> Clone for Outcomes<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Outcomes<E> {
    pub(super) fn send(&self, event: E) {
        // The actor has ended: nobody needs it.
        let _ = self.0.send(Input::Event(event));
    }
}

/// What runs beside an actor; aborted with it.
#[derive(Debug)]
pub(super) struct Beside {
    runtime: Handle,
    tasks: JoinSet<()>,
}

impl Beside {
    pub(super) fn new(runtime: &Handle) -> Self {
        Self {
            runtime: runtime.clone(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
        while self.tasks.try_join_next().is_some() {}
    }

    /// Carries out a request that changes no state of the actor's role, and answers it.
    pub(super) fn perform(
        &mut self,
        reply: oneshot::Sender<Response>,
        work: impl Future<Output = Result<Response, Refused>> + Send + 'static,
    ) {
        self.spawn(async move {
            let response = work.await.unwrap_or_else(Response::Refused);
            let _ = reply.send(response);
        });
    }
}

/// What a look at the placement showed.
#[derive(Debug)]
pub(super) enum Looked {
    Record(Box<PlacementRecord>),
    Unread,
}

/// Reads a shard's record. After a mere hint of the watch, one that is known already, or none, is nothing.
pub(super) async fn look(
    node: &Node,
    shard: ShardId,
    hint: bool,
    seen: Option<Revision>,
) -> Option<Looked> {
    match node.placement.read(shard).await {
        Ok(Some(record)) if hint && Some(record.revision) <= seen => None,
        Ok(Some(record)) => Some(Looked::Record(Box::new(record))),
        Ok(None) | Err(_) if hint => None,
        Ok(None) => Some(Looked::Unread),
        Err(error) => {
            tracing::warn!(%shard, %error, "the placement can't be read");
            Some(Looked::Unread)
        }
    }
}

/// Runs what blocks on a thread for it; an error is refused as such.
pub(super) async fn blocking<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Refused> {
    node.migrations
        .tasks()
        .blocking(work)
        .await
        .map_err(refused)
}

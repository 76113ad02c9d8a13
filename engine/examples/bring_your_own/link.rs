//! A link of one's own: calls between engines go over channels, to a thread for each engine that answers them.
//!
//! What [`Link`] asks of an implementation: a request reaches exactly the node that it is meant for; and an error tells
//! whether the request may have been carried out. [`LinkError::Unreachable`] and [`LinkError::UnknownNode`] promise that
//! it was not, so the engine sends it again; everything else is [`LinkError::Lost`], and decides nothing.
//!
//! The bytes are encoded messages, bounded by `MAX_MESSAGE_BYTES`: what carries them over a wire need not look inside.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use watershed::{BoxFuture, Link, LinkError, NodeId, Service};

/// Calls that a node has not taken yet; more wait at their callers.
const WAITING: usize = 256;

/// A call on its way.
struct Call {
    request: Bytes,
    answer: oneshot::Sender<Bytes>,
}

/// Who listens where: what a network would be.
#[derive(Clone, Default)]
pub(crate) struct Exchange(Arc<Mutex<HashMap<String, Line>>>);

#[derive(Clone)]
struct Line {
    node: NodeId,
    calls: mpsc::Sender<Call>,
}

/// A node's thread that answers calls, until this is dropped.
pub(crate) struct Listener {
    exchange: Exchange,
    address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The way of one engine to the others.
pub(crate) struct ChannelLink {
    exchange: Exchange,
    /// Where the nodes are, as they announced in the placement.
    known: Mutex<HashMap<NodeId, String>>,
}

impl Exchange {
    /// Answers calls to `node` at `address` with its engine's `service`.
    pub(crate) fn listen(
        &self,
        node: &NodeId,
        address: &str,
        service: &Arc<dyn Service>,
    ) -> std::io::Result<Listener> {
        let (calls, inbox) = mpsc::channel(WAITING);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let service = Arc::downgrade(service);
        let thread = thread::Builder::new()
            .name(format!("link-{node}"))
            .spawn(move || runtime.block_on(answer(inbox, service, stopped)))?;
        let line = Line {
            node: node.clone(),
            calls,
        };
        lock(&self.0).insert(address.to_owned(), line);
        Ok(Listener {
            exchange: self.clone(),
            address: address.to_owned(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn line(&self, address: &str) -> Option<Line> {
        lock(&self.0).get(address).cloned()
    }
}

/// Takes calls, and answers each in a task of its own: one that takes long holds up no other.
///
/// The service is not kept: an engine that was closed is answered for by nobody. Calls that are not answered when this
/// ends are lost, and their callers get to know.
async fn answer(
    mut inbox: mpsc::Receiver<Call>,
    service: Weak<dyn Service>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let call = tokio::select! {
            call = inbox.recv() => call,
            _ = &mut stopped => None,
        };
        let (Some(Call { request, answer }), Some(service)) = (call, service.upgrade()) else {
            return;
        };
        let serving = service.serve(request);
        tokio::spawn(async move {
            // Nobody waits for it any more: it was carried out all the same.
            let _ = answer.send(serving.await);
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.exchange.0).remove(&self.address);
        // The thread may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl ChannelLink {
    pub(crate) fn new(exchange: &Exchange) -> Self {
        Self {
            exchange: exchange.clone(),
            known: Mutex::default(),
        }
    }
}

impl Link for ChannelLink {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let (exchange, node) = (self.exchange.clone(), to.clone());
        let address = lock(&self.known).get(to).cloned();
        Box::pin(async move {
            let Some(address) = address else {
                return Err(LinkError::UnknownNode { node });
            };
            let unreachable = |node, what: &str| LinkError::Unreachable {
                node,
                reason: format!("{what} at {address}"),
            };
            let Some(line) = exchange.line(&address) else {
                return Err(unreachable(node, "nobody listens"));
            };
            if line.node != node {
                return Err(unreachable(node, "another node listens"));
            }
            let (answer, answered) = oneshot::channel();
            if line.calls.send(Call { request, answer }).await.is_err() {
                // The channel gave the call back: it did not leave.
                return Err(unreachable(node, "nobody listens any more"));
            }
            answered.await.map_err(|_| LinkError::Lost {
                node,
                reason: "it stopped while the call was with it".into(),
            })
        })
    }

    fn know(&self, node: &NodeId, address: &str) {
        lock(&self.known).insert(node.clone(), address.to_owned());
    }
}

impl fmt::Debug for ChannelLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelLink")
            .field("known", &lock(&self.known))
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The calls that a role has not answered yet, and the clock that roles and drivers are handed.

use std::collections::HashMap;
use std::time::Instant;

use tokio::sync::oneshot;
use watershed_migration::Now;
use watershed_migration::messages::{RefusedKind, Response};
use watershed_migration::source::CallId;

/// Unanswered calls of one role.
#[derive(Debug, Default)]
pub(super) struct Calls {
    last: u64,
    waiting: HashMap<CallId, oneshot::Sender<Response>>,
}

impl Calls {
    /// Numbers a call.
    pub(super) fn add(&mut self, reply: oneshot::Sender<Response>) -> CallId {
        self.last += 1;
        let call = CallId(self.last);
        self.waiting.insert(call, reply);
        call
    }

    /// Answers a call. One whose caller has gone is forgotten.
    pub(super) fn answer(&mut self, call: CallId, response: Response) {
        if let Some(reply) = self.waiting.remove(&call) {
            let _ = reply.send(response);
        }
    }

    /// Whether every call was answered.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a call over, to be answered by somebody else.
    pub(super) fn take(&mut self, call: CallId) -> Option<oneshot::Sender<Response>> {
        self.waiting.remove(&call)
    }
}

/// What a caller gets when its role ended before it answered.
pub(super) fn ended() -> Response {
    Response::refused(
        RefusedKind::NotReady,
        "the node is closing: ask again when it is back",
    )
}

/// A monotonic clock that counts from its making (rule 19).
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(&self) -> Now {
        Now(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment on the runtime's timer.
    pub(super) fn instant(&self, at: Now) -> tokio::time::Instant {
        let from = tokio::time::Instant::from_std(self.0);
        // A hundred years are as good as never.
        from.checked_add(std::time::Duration::from_millis(at.0))
            .unwrap_or_else(|| from + std::time::Duration::from_secs(1 << 31))
    }
}

//! A request for a shard that is owned elsewhere: the message that it becomes, what the answer means, and when it is sent
//! again.
//!
//! It is sent again only when nothing was carried out: a write whose reply was lost ends as an unknown outcome, a read is
//! simply asked again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_migration::messages::{self, Expect, RefusedKind, Request, Response};
use watershed_wal::{Epoch, ShardId};

use crate::Error;
use crate::error::Retry;
use crate::link::LinkError;
use crate::node::{from_wire, to_wire};
use crate::shard::{Condition, Expected, SessionUse, WriteRequest};
use crate::store::{Entry, Version};

/// How long an owner that does not answer is asked again, where the request has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long behind its deadline a write's reply is waited for: the owner itself says which writes it did not take.
pub(crate) const REPLY_PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Spaces the tries of one request.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self {
            until: deadline.unwrap_or_else(|| Instant::now() + PATIENCE),
            pause: FIRST_PAUSE,
        }
    }

    /// Waits before the next try; false when there is no time for one.
    pub(crate) async fn again(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// What a call over the link came to.
#[derive(Debug)]
pub(crate) enum Sent {
    Answer(Response),
    /// Nothing was carried out.
    Again(String),
    /// It may have been.
    Lost(String),
}

impl Sent {
    /// What a link gave for a request to `node`.
    pub(crate) fn of(node: &NodeId, called: Result<Bytes, LinkError>) -> Self {
        match called {
            Ok(bytes) => match Response::decode_bytes(bytes) {
                Ok(response) => Self::Answer(response),
                Err(error) => Self::Lost(format!("node {node} answered with {error}")),
            },
            Err(error @ (LinkError::UnknownNode { .. } | LinkError::Unreachable { .. })) => {
                Self::Again(error.to_string())
            }
            Err(error) => Self::Lost(error.to_string()),
        }
    }
}

/// What a call came to, unless `until` comes first: then it is not known.
pub(crate) async fn answered(
    until: Option<Instant>,
    sent: impl Future<Output = Result<Sent, Error>>,
) -> Result<Sent, Error> {
    match until {
        None => sent.await,
        Some(until) => match tokio::time::timeout_at(until, sent).await {
            Ok(sent) => sent,
            Err(_) => Ok(Sent::Lost("no answer by its deadline".into())),
        },
    }
}

pub(crate) fn write_message(shard: ShardId, epoch: Epoch, request: &WriteRequest) -> Request {
    let condition = |condition: &Condition| messages::Condition {
        key: condition.key.clone(),
        expect: match condition.expected {
            Expected::Absent => Expect::Absent,
            Expected::Version(version) => Expect::Version(to_wire(version)),
        },
    };
    let left = request.deadline.map_or(0, |deadline| {
        (deadline
            .saturating_duration_since(Instant::now())
            .as_millis())
        .max(1)
    });
    let deadline_ms = u64::try_from(left).unwrap_or(u64::MAX);
    let session = match request.session {
        None => None,
        Some(SessionUse::Write(mark)) => Some(mark),
        Some(SessionUse::Open(session)) => {
            return Request::OpenSession {
                shard,
                session,
                deadline_ms,
            };
        }
    };
    Request::Write {
        shard,
        epoch,
        body: request.body.clone(),
        durability: request.durability,
        conditions: request.conditions.iter().map(condition).collect(),
        deadline_ms,
        session,
    }
}

/// The reason to ask again, or the error.
pub(crate) fn again_or_error(
    shard: ShardId,
    node: &NodeId,
    response: Response,
) -> Result<String, Error> {
    let Response::Refused(refused) = response else {
        return Err(Error::OutcomeUnknown {
            shard,
            reason: format!("node {node} answered with {}", response.name()),
        });
    };
    match refused.kind {
        RefusedKind::NotReady
        | RefusedKind::Busy
        | RefusedKind::NotOwner
        | RefusedKind::StaleEpoch => Ok(refused.message),
        RefusedKind::OutcomeUnknown | RefusedKind::Unknown => Err(Error::OutcomeUnknown {
            shard,
            reason: refused.message,
        }),
        kind => Err(Error::Remote {
            node: node.clone(),
            message: refused.message,
            retry: match kind {
                RefusedKind::NoRoom | RefusedKind::SessionFull => Retry::Now,
                _ => Retry::Never,
            },
        }),
    }
}

pub(crate) fn out_of_patience(
    shard: ShardId,
    owner: NodeId,
    epoch: Epoch,
    deadline: Option<Instant>,
    last: &str,
) -> Error {
    tracing::debug!(%shard, %owner, last, "gave up sending");
    if deadline.is_some() {
        Error::DeadlineNotApplied { shard }
    } else {
        Error::Moved {
            shard,
            owner,
            epoch,
        }
    }
}

/// The entries of a page.
pub(crate) fn entries(entries: Vec<messages::DataEntry>) -> Vec<Entry> {
    let entry = |entry: messages::DataEntry| Entry {
        key: entry.key,
        value: entry.value,
        version: from_wire(entry.version),
    };
    entries.into_iter().map(entry).collect()
}

/// The values that were found, where they are as many as were asked for.
pub(crate) fn values(
    values: Vec<Option<(Bytes, messages::EntryVersion)>>,
) -> Vec<Option<(Bytes, Version)>> {
    let known = |(value, version)| (value, from_wire(version));
    values.into_iter().map(|value| value.map(known)).collect()
}

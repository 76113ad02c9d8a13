//! Requests from here for any shard: served here where it is owned here, else sent over the link to its owner.
//!
//! A request is sent again only when nothing was carried out: a write whose reply was lost ends as an unknown outcome,
//! a read is simply asked again.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_migration::messages::{self, Expect, RefusedKind, Request, Response, ScanRequest};
use watershed_wal::{Epoch, Inline, ShardId};

use super::local::Local;
use super::{Node, from_wire, to_wire};
use crate::Error;
use crate::error::Retry;
use crate::link::LinkError;
use crate::shard::{Condition, Expected, SessionUse, WriteRequest};
use crate::store::{Entry, Store, Version};

/// How long an owner that does not answer is asked again, where the request has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long behind its deadline a write's reply is waited for: the owner itself says which writes it did not take.
const REPLY_PATIENCE: Duration = Duration::from_secs(1);
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
    async fn again(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// What a call over the link came to.
enum Sent {
    Answer(Response),
    /// Nothing was carried out.
    Again(String),
    /// It may have been.
    Lost(String),
}

impl Node {
    /// Writes to a shard, wherever it is.
    pub(crate) async fn write(
        &self,
        shard: ShardId,
        request: &WriteRequest,
        inline: Inline,
    ) -> Result<Version, Error> {
        let mut patience = None;
        loop {
            let (owner, epoch) = match self.local_write(shard, request, inline).await? {
                Local::Done(version) => return Ok(version),
                Local::Elsewhere { owner, epoch } => (owner, epoch),
            };
            let message = write_message(shard, epoch, request);
            let until = request
                .deadline
                .and_then(|deadline| deadline.checked_add(REPLY_PATIENCE));
            let sent = self.send(shard, &owner, epoch, &message);
            let again = match answered(until, sent).await? {
                Sent::Answer(
                    Response::Written { version } | Response::SessionOpened { version, .. },
                ) => return Ok(from_wire(version)),
                Sent::Answer(Response::ConditionFailed { index, found }) => {
                    return Err(request.condition_failed(index, found.map(from_wire)));
                }
                Sent::Answer(Response::Moved { .. }) => "the shard is being moved".to_owned(),
                Sent::Answer(other) => again_or_error(shard, &owner, other)?,
                Sent::Again(reason) => reason,
                Sent::Lost(reason) => return Err(Error::OutcomeUnknown { shard, reason }),
            };
            let patience = patience.get_or_insert_with(|| Patience::until(request.deadline));
            if !patience.again().await {
                return Err(out_of_patience(
                    shard,
                    owner,
                    epoch,
                    request.deadline,
                    &again,
                ));
            }
        }
    }

    /// Reads keys of one shard, wherever it is.
    pub(crate) async fn get(
        &self,
        shard: ShardId,
        keys: Vec<Bytes>,
        deadline: Option<Instant>,
        on_this_thread: bool,
    ) -> Result<Vec<Option<(Bytes, Version)>>, Error> {
        let mut patience = None;
        loop {
            let wanted = keys.clone();
            let read = move |store: &Store| Ok(store.read(&wanted)?);
            let local = self
                .local_read(shard, deadline, on_this_thread, read)
                .await?;
            let (owner, epoch) = match local {
                Local::Done(values) => return Ok(values),
                Local::Elsewhere { owner, epoch } => (owner, epoch),
            };
            let message = Request::Get {
                shard,
                keys: keys.clone(),
            };
            let sent = self.send(shard, &owner, epoch, &message);
            let again = match answered(deadline, sent).await? {
                Sent::Answer(Response::Values(values)) if values.len() == keys.len() => {
                    let known = |(value, version)| (value, from_wire(version));
                    return Ok(values.into_iter().map(|value| value.map(known)).collect());
                }
                Sent::Answer(Response::Moved { .. }) => "the shard is being moved".to_owned(),
                Sent::Answer(other) => again_or_error(shard, &owner, other)?,
                Sent::Again(reason) | Sent::Lost(reason) => reason,
            };
            let patience = patience.get_or_insert_with(|| Patience::until(deadline));
            if !patience.again().await {
                return Err(out_of_patience(shard, owner, epoch, deadline, &again));
            }
        }
    }

    /// One page of a scan of a shard that is owned elsewhere.
    pub(crate) async fn remote_page(
        &self,
        shard: ShardId,
        scan: ScanRequest,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let mut patience = Patience::until(None);
        loop {
            let record = self
                .placement
                .read(shard)
                .await?
                .ok_or(Error::NoShard { shard })?;
            let message = Request::Scan {
                shard,
                scan: scan.clone(),
            };
            let again = match self
                .send(shard, &record.owner, record.epoch, &message)
                .await?
            {
                Sent::Answer(Response::Entries { entries, done }) => {
                    let entry = |entry: messages::DataEntry| Entry {
                        key: entry.key,
                        value: entry.value,
                        version: from_wire(entry.version),
                    };
                    return Ok((entries.into_iter().map(entry).collect(), done));
                }
                Sent::Answer(Response::Moved { .. }) => "the shard is being moved".to_owned(),
                Sent::Answer(other) => again_or_error(shard, &record.owner, other)?,
                Sent::Again(reason) | Sent::Lost(reason) => reason,
            };
            if !patience.again().await {
                return Err(out_of_patience(
                    shard,
                    record.owner,
                    record.epoch,
                    None,
                    &again,
                ));
            }
        }
    }

    async fn send(
        &self,
        shard: ShardId,
        owner: &NodeId,
        epoch: Epoch,
        message: &Request,
    ) -> Result<Sent, Error> {
        let Some(link) = &self.link else {
            return Err(Error::Moved {
                shard,
                owner: owner.clone(),
                epoch,
            });
        };
        // The owner is this node where the shard came here between two looks; the link reaches it too.
        match link.call(owner, message.encode()).await {
            Ok(bytes) => match Response::decode_bytes(bytes) {
                Ok(response) => Ok(Sent::Answer(response)),
                Err(error) => Ok(Sent::Lost(format!("node {owner} answered with {error}"))),
            },
            Err(error @ (LinkError::UnknownNode { .. } | LinkError::Unreachable { .. })) => {
                Ok(Sent::Again(error.to_string()))
            }
            Err(error) => Ok(Sent::Lost(error.to_string())),
        }
    }
}

/// What a call came to, unless `until` comes first: then it is not known.
async fn answered(
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

fn write_message(shard: ShardId, epoch: Epoch, request: &WriteRequest) -> Request {
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
fn again_or_error(shard: ShardId, node: &NodeId, response: Response) -> Result<String, Error> {
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

fn out_of_patience(
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

//! Requests from here for any shard: served here where it is owned here, else sent over the link to its owner.

use bytes::Bytes;
use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_migration::messages::{Request, Response, ScanRequest};
use watershed_wal::{Epoch, Inline, ShardId};

use super::local::Local;
use super::{Node, from_wire};
use crate::Error;
use crate::forward::{
    self, Patience, REPLY_PATIENCE, Sent, again_or_error, answered, out_of_patience, write_message,
};
use crate::shard::WriteRequest;
use crate::store::{Entry, Store, Version};

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
                    return Ok(forward::values(values));
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
                    return Ok((forward::entries(entries), done));
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
        Ok(Sent::of(owner, link.call(owner, message.encode()).await))
    }
}

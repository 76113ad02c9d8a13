//! Requests for shards that are owned here, or may be in a moment.

use std::time::Duration;

use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_wal::{Epoch, Inline, ShardId};

use super::Node;
use crate::Error;
use crate::shard::{Hosted, Role, Serving, WriteRequest, Written};
use crate::store::{Shown, Store, Version};

/// How long a request waits for a copy here to become the owner before the placement is read again: a target may also
/// be discarded.
const RECHECK_EVERY: Duration = Duration::from_millis(20);

/// What came of asking this node.
#[derive(Debug)]
pub(crate) enum Local<T> {
    Done(T),
    Elsewhere { owner: NodeId, epoch: Epoch },
}

impl Node {
    /// Writes to a shard, if it is owned here.
    pub(super) async fn local_write(
        &self,
        shard: ShardId,
        request: &WriteRequest,
        inline: Inline,
    ) -> Result<Local<Version>, Error> {
        let began = self.foreground.begin();
        loop {
            if let Some(hosted) = self.owner(shard) {
                match hosted.write(request, inline).await {
                    Ok(Written::Done(version)) => {
                        self.foreground.note(began);
                        return Ok(Local::Done(version));
                    }
                    Ok(Written::Elsewhere { owner, epoch }) => {
                        return Ok(Local::Elsewhere { owner, epoch });
                    }
                    // The copy was closed, not the node: somebody else owns the shard now.
                    Err(Error::Closed) if !self.is_closed() => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some((owner, epoch)) = self.elsewhere(shard, request.deadline).await? {
                return Ok(Local::Elsewhere { owner, epoch });
            }
        }
    }

    /// Reads from a shard's store, if it is owned here and answers reads (rule 7).
    ///
    /// `read` may show what is not committed yet: it is answered once that is.
    ///
    /// With `on_this_thread` the read runs where the caller is; else on the engine's threads for blocking work.
    pub(crate) async fn local_read<T, F>(
        &self,
        shard: ShardId,
        deadline: Option<Instant>,
        on_this_thread: bool,
        read: F,
    ) -> Result<Local<T>, Error>
    where
        T: Send + 'static,
        F: Fn(&Store) -> Result<Shown<T>, Error> + Clone + Send + 'static,
    {
        loop {
            if let Some(hosted) = self.owner(shard) {
                // Subscribed before asking, so that no change is missed.
                let mut changes = hosted.changes();
                let heals = hosted.heals();
                match hosted.serves_reads() {
                    Ok(Serving::Here) if !Hosted::is_healing(heals) => {
                        let found = self.read_store(&hosted, on_this_thread, read.clone()).await;
                        match found {
                            // Opened again meanwhile: it may have shown an older state.
                            _ if hosted.heals() != heals => continue,
                            Err(Error::NoInstance { .. }) if !self.is_closed() => continue,
                            Err(error) => return Err(error),
                            Ok(shown) => {
                                let committed = hosted.committed_read(shown);
                                match hosted.before_deadline(deadline, committed).await? {
                                    Err(Error::Closed) if !self.is_closed() => continue,
                                    other => return other.map(Local::Done),
                                }
                            }
                        }
                    }
                    Ok(Serving::Elsewhere { owner, epoch }) => {
                        return Ok(Local::Elsewhere { owner, epoch });
                    }
                    Ok(Serving::Here | Serving::Wait) => {
                        let _parked = hosted.park();
                        hosted
                            .before_deadline(deadline, changes.changed())
                            .await?
                            .ok();
                        continue;
                    }
                    Err(Error::Closed) if !self.is_closed() => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some((owner, epoch)) = self.elsewhere(shard, deadline).await? {
                return Ok(Local::Elsewhere { owner, epoch });
            }
        }
    }

    async fn read_store<T, F>(
        &self,
        hosted: &Hosted,
        on_this_thread: bool,
        read: F,
    ) -> Result<Shown<T>, Error>
    where
        T: Send + 'static,
        F: Fn(&Store) -> Result<Shown<T>, Error> + Send + 'static,
    {
        let store = hosted.store()?;
        if on_this_thread {
            return read(&store);
        }
        let task = self.runtime.spawn_blocking(move || read(&store));
        task.await.unwrap_or(Err(Error::Closed))
    }

    /// Who owns a shard that is not served here. `None`: this node, in a moment; it has waited a little.
    async fn elsewhere(
        &self,
        shard: ShardId,
        deadline: Option<Instant>,
    ) -> Result<Option<(NodeId, Epoch)>, Error> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let record = self
            .placement
            .read(shard)
            .await?
            .ok_or(Error::NoShard { shard })?;
        if record.owner != self.id {
            return Ok(Some((record.owner, record.epoch)));
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::DeadlineNotApplied { shard });
        }
        let hosted = self.hosted_instance(record.instance);
        if let Some(Role::Failed { reason }) = hosted.as_ref().map(|hosted| hosted.role()) {
            return Err(Error::ShardFailed { shard, reason });
        }
        let mut changes = match &hosted {
            Some(hosted) if !hosted.is_owner() => hosted.changes(),
            // It became the owner between two looks: ask again at once.
            Some(_) => return Ok(None),
            None => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Ok(None);
            }
        };
        let until = Instant::now() + RECHECK_EVERY;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        // Either way the caller looks again.
        let _ = tokio::time::timeout_at(until, changes.changed()).await;
        Ok(None)
    }
}

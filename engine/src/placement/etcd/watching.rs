//! Tells of each change under the prefix.
//!
//! The watch goes on where it ended when a connection is lost: etcd keeps its history. Where it can't (the history was
//! compacted meanwhile, or etcd was restored from a backup), it begins anew and tells that something may have changed.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, WatchOptions, WatchStream};

use super::Shared;
use super::pool::{Held, reason};
use super::shards::MAX_ANSWER_BYTES;
use crate::placement::PlacementError;

/// Until the watch is begun again after it has ended.
const AGAIN: Duration = Duration::from_millis(200);

/// A watch that was begun.
pub(super) struct Watched {
    stream: WatchStream,
    held: Held,
    /// The next of etcd's revisions that may bring something; none after a gap.
    next: Option<i64>,
    /// Changes before it may have been missed.
    gap: bool,
}

impl Shared {
    fn tell(&self, changes: usize) {
        let changes = changes as u64;
        self.changes
            .send_modify(|count| *count = count.wrapping_add(changes));
    }
}

/// Watches from revision `next` of etcd's on, or from now.
pub(super) async fn begin(shared: &Shared, next: Option<i64>) -> Result<Watched, PlacementError> {
    if let Some(next) = next {
        let (opened, held) = open(shared, Some(next)).await?;
        let (stream, now) = opened;
        // A revision to come: etcd is younger than it was, and would be silent until it has caught up.
        if now + 1 >= next {
            return Ok(Watched {
                stream,
                held,
                next: Some(next),
                gap: false,
            });
        }
    }
    let ((stream, now), held) = open(shared, None).await?;
    Ok(Watched {
        stream,
        held,
        next: Some(now + 1),
        gap: true,
    })
}

/// A stream that is up, with etcd's revision of when it began.
async fn open(
    shared: &Shared,
    from: Option<i64>,
) -> Result<((WatchStream, i64), Held), PlacementError> {
    let mut options = WatchOptions::new().with_prefix().with_progress_notify();
    if let Some(from) = from {
        options = options.with_start_revision(from);
    }
    let prefix = shared.keys.all();
    let open = |client: Client| {
        let (prefix, options) = (prefix.clone(), options.clone());
        async move {
            let client = client.watch_client();
            let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
            let mut stream = client.watch(prefix, Some(options)).await?;
            match stream.message().await? {
                Some(first) if first.created() && !first.canceled() => {
                    let now = first.header().map_or(0, |header| header.revision());
                    Ok((stream, now))
                }
                Some(refused) => Err(Error::WatchError(refused.cancel_reason().to_owned())),
                None => Err(Error::WatchError("it ended as it began".into())),
            }
        }
    };
    shared.pool.ask_and_hold(open).await
}

/// Watches for as long as it is let.
pub(super) async fn keep(shared: Arc<Shared>, mut watched: Watched) {
    loop {
        let why = watched.follow(&shared).await;
        tracing::debug!(why, "etcd is not watched for a moment");
        shared.pool.leave_held(&watched.held);
        let next = watched.next;
        // Before another is asked for: etcd counts them.
        drop(watched);
        watched = begin_again(&shared, next).await;
    }
}

async fn begin_again(shared: &Shared, next: Option<i64>) -> Watched {
    loop {
        match begin(shared, next).await {
            Ok(watched) => {
                if watched.gap {
                    shared.tell(1);
                }
                return watched;
            }
            Err(error) => tracing::debug!(%error, "etcd is not watched for a moment"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Watched {
    /// Tells of what comes until it ends, and gives why.
    async fn follow(&mut self, shared: &Shared) -> String {
        loop {
            let message = match self.stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return "the stream ended".into(),
                Err(error) => return reason(&error),
            };
            if message.canceled() {
                if message.compact_revision() > 0 {
                    self.next = None;
                }
                return message.cancel_reason().to_owned();
            }
            let events = message.events();
            let at = match events.last() {
                Some(_) => {
                    let revisions = events.iter().filter_map(|event| event.kv());
                    revisions.map(|key| key.mod_revision()).max()
                }
                // How far there was nothing.
                None => message.header().map(|header| header.revision()),
            };
            if let Some(at) = at {
                self.next = self.next.max(Some(at + 1));
            }
            if !events.is_empty() {
                shared.tell(events.len());
            }
        }
    }
}

//! An owner that was stopped within a pause: what it must know before it serves again (rule 6).

use bytes::Bytes;
use watershed_migration::source::{Hosting, SourceAction, SourceEvent, SourceNote, SourceRole};
use watershed_migration::{HighestSeen, PlacementRecord};
use watershed_wal::{InstanceLog, Submitted};

use super::{NOTE, swap};
use crate::Error;
use crate::migrate::calls::Clock;
use crate::node::Node;

/// Called at opening for each copy that `record`, read now, names as the owner: gives the record by which the copy is
/// to be hosted. A swap that may have been sent before the stop is decided first; that can mean sending it again.
///
/// # Errors
/// When the placement fails, or the note can't be read or removed.
pub(crate) async fn before_serving(
    node: &Node,
    log: &InstanceLog,
    record: PlacementRecord,
) -> Result<PlacementRecord, Error> {
    let Some(bytes) = log.note(NOTE) else {
        return Ok(record);
    };
    let shard = log.shard();
    let note: SourceNote = serde_json::from_slice(&bytes).map_err(|error| {
        Error::inconsistent(
            shard,
            format!("its note of a pause can't be read ({error}): use the version that wrote it"),
        )
    })?;
    let at = Hosting {
        shard,
        node: node.id.clone(),
        instance: log.id(),
    };
    let record = decide(node, at, note, record).await?;
    let Submitted { done, lead, .. } = log.put_note(NOTE, Bytes::new())?;
    drop(lead);
    done.await?;
    Ok(record)
}

async fn decide(
    node: &Node,
    at: Hosting,
    note: SourceNote,
    mut record: PlacementRecord,
) -> Result<PlacementRecord, Error> {
    let clock = Clock::start();
    let (mut role, mut actions) = SourceRole::recover(at, HighestSeen::default(), Some(note));
    loop {
        let mut event = None;
        for action in std::mem::take(&mut actions) {
            match action {
                // The role has decided: the copy serves, or is somebody else's.
                SourceAction::Open | SourceAction::GiveAway { .. } => return Ok(record),
                SourceAction::ReadPlacement => {
                    event = Some(SourceEvent::PlacementRead(Box::new(record.clone())))
                }
                SourceAction::Swap { expected, record } => {
                    event = Some(swap(&*node.placement, expected, *record).await);
                }
                SourceAction::SetTimer { timer, at } => {
                    tokio::time::sleep_until(clock.instant(at)).await;
                    let found = node.placement.read(record.shard).await?;
                    record = found.ok_or(Error::NoShard {
                        shard: record.shard,
                    })?;
                    event = Some(SourceEvent::Timer(timer));
                }
                _ => {}
            }
        }
        match &event {
            Some(SourceEvent::Swapped(found) | SourceEvent::SwapConflict(found)) => {
                record = (**found).clone()
            }
            Some(_) => {}
            None => {
                return Err(Error::inconsistent(
                    record.shard,
                    "a pause of before the stop can't be decided",
                ));
            }
        }
        if let Some(event) = event {
            actions = role.handle(clock.now(), event);
        }
    }
}

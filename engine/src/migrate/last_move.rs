//! A shard that is to move on while the old copy of its last move is kept: that grace time ends now.
//!
//! One frozen copy of a shard at a time is what keeps deletions and SeqSets simple (rule 8), and the one that would be
//! frozen next is newer. So the wish to move the shard again is the wish to end the last move's Cleanup: its copies are
//! compared, the old one is deleted, and only then the new move begins. Whose driver has gone is taken over.

use watershed_migration::{MigrationId, MigrationRecord, Phase, PlacementRecord};
use watershed_wal::ShardId;

use super::handle::Migration;
use super::resume::take_up_driver;
use crate::Error;
use crate::node::Node;
use crate::placement::PlacementError;

/// The last move of the shard, where all that is left of it is its Cleanup.
pub(super) fn in_cleanup(record: &PlacementRecord) -> Option<&MigrationRecord> {
    record
        .active_migration()
        .filter(|migration| migration.phase == Phase::Cleanup)
}

/// Returns once no Cleanup of the shard is under way.
///
/// # Errors
/// When the old copy differs from the owner's (it is kept then), the placement fails, or the node closes.
pub(super) async fn end_cleanup(node: &Node, shard: ShardId) -> Result<(), Error> {
    loop {
        let record = read(node, shard).await?;
        let Some(last) = in_cleanup(&record).cloned() else {
            return Ok(());
        };
        tracing::info!(%shard, migration = %last.id, "ending the grace time of the last move: the shard is to move again");
        let Some(driver) = driver_of(node, &record, &last).await? else {
            continue;
        };
        driver.cleanup();
        let ended = driver.finished_async().await;
        let now = read(node, shard).await?;
        let same =
            in_cleanup(&now).is_some_and(|m| (m.id, m.driver_term) == (last.id, last.driver_term));
        if same || matches!(ended, Err(Error::Closed)) {
            return ended;
        }
    }
}

/// The driver of the last move, on this node; `None` where the record has moved on.
async fn driver_of(
    node: &Node,
    record: &PlacementRecord,
    last: &MigrationRecord,
) -> Result<Option<Migration>, Error> {
    if last.driver == node.id
        && let Some(driver) = node.migrations.driving(last.id)
    {
        return Ok(Some(driver));
    }
    take_over(node, record, last.id).await
}

/// Makes this node the driver of a migration whose driver has gone; `None` where the record has moved on meanwhile.
///
/// # Errors
/// When the placement fails; it may have happened then.
pub(crate) async fn take_over(
    node: &Node,
    record: &PlacementRecord,
    migration: MigrationId,
) -> Result<Option<Migration>, Error> {
    let taken = record
        .take_over(migration, node.id.clone())
        .map_err(|error| Error::inconsistent(record.shard, error.to_string()))?;
    match node.placement.swap(Some(record.revision), taken).await {
        Ok(taken) => Ok(take_up_driver(node, taken)),
        Err(PlacementError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read(node: &Node, shard: ShardId) -> Result<PlacementRecord, Error> {
    let record = node.placement.read(shard).await?;
    record.ok_or(Error::NoShard { shard })
}

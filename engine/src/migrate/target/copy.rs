//! A copy's way from the source's files to a store that applies records.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use watershed_migration::PlacementRecord;
use watershed_migration::messages::{Envelope, Manifest};
use watershed_migration::target::TargetNote;

use super::files;
use crate::Error;
use crate::migrate::durable;
use crate::migrate::peer::Peer;
use crate::migrate::pull::{Pull, PullError};
use crate::migrate::room::Room;
use crate::migrate::throttle::Speed;
use crate::node::Node;
use crate::store::Store;

/// A look at the placement, beside its watch, so that a hint that got lost costs no more than this.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One copy.
pub(super) struct Copy {
    node: Node,
    note: TargetNote,
    manifest: Manifest,
    pull: Pull,
    speed: watch::Sender<Speed>,
}

impl Copy {
    /// A copy whose speed is told to `speed`; `copied` counts what is here.
    pub(super) fn new(
        node: &Node,
        env: Arc<Mutex<Envelope>>,
        note: TargetNote,
        manifest: Manifest,
        speed: watch::Sender<Speed>,
        copied: Arc<AtomicU64>,
    ) -> Self {
        Self {
            node: node.clone(),
            pull: Pull {
                dir: files::dir(&node.dir, note.migration),
                files: manifest.files.clone(),
                source: Peer::new(node, note.source.clone()),
                env,
                speed: speed.subscribe(),
                tasks: node.migrations.tasks().clone(),
                copied,
                room: Arc::new(Room::new(node.id.clone(), node.dir.clone())),
            },
            note,
            manifest,
            speed,
        }
    }

    pub(super) async fn run(self) -> Result<(), PullError> {
        let into = self.node.shard_dir(self.note.shard, self.note.instance);
        // There after a crash between the rename and now: it was proven before.
        let Self {
            node,
            note,
            manifest,
            pull,
            speed,
        } = self;
        let from = pull.dir.clone();
        if !into.is_dir() {
            tokio::select! {
                pulled = pull.run() => pulled?,
                () = keep_looking(&node, &note, &speed) => {}
            }
        }
        let tasks = node.migrations.tasks().clone();
        Ok(tasks
            .blocking(move || open(&node, &note, &manifest, &from, &into))
            .await?)
    }
}

/// What the record says of this migration goes for its copy.
pub(super) fn steer(speed: &watch::Sender<Speed>, note: &TargetNote, record: &PlacementRecord) {
    let ours = |m: &&watershed_migration::MigrationRecord| m.id == note.migration;
    if let Some(migration) = record.migration.as_ref().filter(ours) {
        let said = Speed {
            bytes_per_s: migration.config.rate_bytes_per_s,
            paused: migration.paused,
        };
        speed.send_if_modified(|speed| std::mem::replace(speed, said) != said);
    }
}

/// Never returns.
async fn keep_looking(node: &Node, note: &TargetNote, speed: &watch::Sender<Speed>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // What can't be read now stays as it was.
        if let Ok(Some(record)) = node.placement.read(note.shard).await {
            steer(speed, note, &record);
        }
    }
}

/// Proves the files, gives them their place and lets records be applied. Blocks.
fn open(
    node: &Node,
    note: &TargetNote,
    manifest: &Manifest,
    from: &Path,
    into: &Path,
) -> Result<(), Error> {
    if !into.is_dir() {
        let found = Store::verify_dir(&node.env, from, &manifest.files)?;
        if (found.seq, found.digest) != (manifest.base, manifest.digest) {
            let what = format!(
                "the checkpoint's files end at {}, it was announced to end at {}",
                found.seq, manifest.base
            );
            return Err(Error::inconsistent(note.shard, what));
        }
        durable::sync_dir(from)?;
        into.parent().map_or(Ok(()), durable::make_dir)?;
        std::fs::rename(from, into).map_err(|error| Error::io("rename to", into, error))?;
        into.parent().map_or(Ok(()), durable::sync_dir)?;
        from.parent().map_or(Ok(()), durable::sync_dir)?;
    }
    let hosted = node
        .hosted_instance(note.instance)
        .ok_or(Error::NoInstance {
            shard: note.shard,
            instance: note.instance,
        })?;
    if hosted.store().is_err() {
        hosted.attach_store(Store::open(&node.env, into)?);
    }
    Ok(())
}

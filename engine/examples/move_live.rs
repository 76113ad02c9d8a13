//! Moves a shard while four threads write to it, then reads every acknowledged write on the new owner.
//!
//! Shows an observer, the pause, the certificate, and the wait for the old copy's deletion.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use watershed::migration::machine::Progress;
use watershed::migration::{Certificate, MigrationConfig};
use watershed::{Engine, Error, LocalCluster, ShardId, Version};

const MOVED: ShardId = ShardId(0);

type Acknowledged = HashMap<String, (String, Version)>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::open(dir.path())?;
    let open = |node: &str| {
        Engine::options()
            .node(node)
            .shards(4)
            .cluster(&cluster)
            .open(dir.path().join(node))
    };
    let (source, target) = (open("source")?, open("target")?);

    let stop = AtomicBool::new(false);
    let (certificate, acknowledged) = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn({
                    let (engine, stop) = (&source, &stop);
                    move || write(engine, writer, stop)
                })
            })
            .collect();
        let moved = move_it(&source);
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Acknowledged::new();
        for writer in writers {
            acknowledged.extend(writer.join().expect("a writer does not panic")?);
        }
        Ok::<_, Error>((moved?, acknowledged))
    })?;

    certificate.check()?;
    for (key, (value, version)) in &acknowledged {
        let found = target.shard(MOVED).get_versioned(key.as_str()).wait()?;
        let (found_value, found_version) = found.ok_or_else(|| format!("{key} is lost"))?;
        assert_eq!(
            (&found_value[..], found_version),
            (value.as_bytes(), *version),
            "{key}"
        );
    }
    println!(
        "{} acknowledged writes are on the new owner, values and versions",
        acknowledged.len()
    );
    println!("{}", serde_json::to_string_pretty(&certificate)?);
    Ok(())
}

/// Inserts until it is told to stop; a write waits through the pause and then goes to the new owner by itself.
fn write(engine: &Engine, writer: u32, stop: &AtomicBool) -> Result<Acknowledged, Error> {
    let mut acknowledged = Acknowledged::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (
            format!("{writer}/{number:06}"),
            format!("written by {writer} as number {number}"),
        );
        let version = engine
            .shard(MOVED)
            .put(key.as_str(), value.as_str())
            .wait()?;
        acknowledged.insert(key, (value, version));
    }
    Ok(acknowledged)
}

fn move_it(source: &Engine) -> Result<Certificate, Error> {
    // A second instead of an hour, so that the old copy's deletion can be watched.
    let config = MigrationConfig {
        grace_ms: 1_000,
        ..MigrationConfig::default()
    };
    let shown = Mutex::new(None);
    let show = move |progress: &Progress| {
        // Called at each change of phase before the migration goes on, and with each progress.
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.replace(progress.phase) != Some(progress.phase) {
            println!("{}", progress.phase);
        }
    };
    let migration = source
        .migrate(MOVED)
        .to("target")
        .config(config)
        .observer(Arc::new(show))
        .start()?;
    let certificate = migration.wait()?;
    println!("pause: {} µs", certificate.pause_us.unwrap_or_default());
    migration.finished()?;
    println!("the old copy was compared and deleted");
    Ok(certificate)
}

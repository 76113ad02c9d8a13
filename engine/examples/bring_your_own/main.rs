//! The engine on a placement and a link that are not its own: three engines, a map of owners in a file of this program's
//! ([`placement`]), and calls over channels ([`link`]).
//!
//! Three writers put, overwrite and delete while shards move from node to node. At the end every acknowledged write is
//! read back, with its version, through each engine, and no other key is there; then all of it again after everything
//! was closed and opened. Needs no feature.

mod link;
mod placement;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use link::{ChannelLink, Exchange, Listener};
use placement::TablePlacement;
use watershed::migration::{Certificate, MigrationConfig};
use watershed::{Engine, Error, NodeInfo, Placement, ScanOptions, ShardId, Version};

const SHARDS: u64 = 6;
const NODES: [&str; 3] = ["a", "b", "c"];
/// Which shard goes where, and which node drives it: source, target, or neither of them.
const MOVES: [(u64, &str, &str); 6] = [
    (0, "b", "a"),
    (1, "b", "b"),
    (2, "c", "b"),
    (3, "c", "c"),
    (0, "c", "a"),
    (2, "a", "c"),
];
/// The owners in the end, by shard.
const OWNERS: [&str; 6] = ["c", "b", "a", "c", "a", "a"];
/// So many more writes are acknowledged before the next move begins.
const BETWEEN: u64 = 200;

/// What must be there: a key's last value and version, or that it was deleted.
type Acknowledged = BTreeMap<String, Option<(String, Version)>>;
type Failure = Box<dyn std::error::Error>;

/// An engine and the thread that answers the others for it.
struct Node {
    engine: Engine,
    listener: Listener,
}

fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let nodes = open(dir.path())?;
    let count = Count::default();
    let stop = AtomicBool::new(false);
    let (moved, acknowledged) = thread::scope(|scope| {
        let writers: Vec<_> = (0..)
            .zip(&nodes)
            .map(|(number, node)| {
                let (count, stop) = (&count, &stop);
                scope.spawn(move || {
                    let written = write(&node.engine, number, count, stop);
                    if written.is_err() {
                        count.end();
                    }
                    written
                })
            })
            .collect();
        let moved = move_all(&nodes, &count);
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Acknowledged::new();
        for writer in writers {
            acknowledged.extend(writer.join().expect("a writer does not panic")?);
        }
        Ok::<_, Error>((moved, acknowledged))
    })?;
    for certificate in &moved? {
        certificate.check()?;
    }
    check(&nodes, &acknowledged)?;
    println!(
        "{} shards moved, {} writes acknowledged, {} keys as they were written",
        MOVES.len(),
        count.now(),
        acknowledged.len()
    );

    close(nodes)?;
    let nodes = open(dir.path())?;
    check(&nodes, &acknowledged)?;
    println!("all of it again after closing and opening");
    close(nodes)
}

/// Opens the placement and the engines, and tells them of each other.
fn open(dir: &Path) -> Result<Vec<Node>, Failure> {
    let placement: Arc<dyn Placement> = Arc::new(TablePlacement::open(dir.join("owners.json"))?);
    let exchange = Exchange::default();
    let mut nodes = Vec::new();
    for name in NODES {
        let engine = Engine::options()
            .node(name)
            .shards(SHARDS)
            .placement(placement.clone())
            .link(Arc::new(ChannelLink::new(&exchange)))
            .open(dir.join(name))?;
        let address = format!("{name}.channels:1");
        let listener = exchange.listen(engine.node_id(), &address, &engine.service()?)?;
        // From here on the others find it, by the placement.
        engine.join(NodeInfo { address, weight: 1 })?;
        nodes.push(Node { engine, listener });
    }
    Ok(nodes)
}

fn close(nodes: Vec<Node>) -> Result<(), Failure> {
    for Node { engine, listener } in nodes {
        engine.close()?;
        drop(listener);
    }
    Ok(())
}

/// Puts, overwrites and deletes keys of its own until it is told to stop. A write whose shard is being moved waits, and
/// goes to where the shard is then.
fn write(
    engine: &Engine,
    writer: u32,
    count: &Count,
    stop: &AtomicBool,
) -> Result<Acknowledged, Error> {
    let mut acknowledged = Acknowledged::new();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Each key is met again some time later, and then overwritten or deleted.
        let key = format!("{writer}/{}", number * 7919 % 97);
        if number % 5 == 4 {
            engine.delete(&key).wait()?;
            acknowledged.insert(key, None);
        } else {
            let value = format!("{writer} wrote {number}");
            let version = engine.put(&key, &value).wait()?;
            acknowledged.insert(key, Some((value, version)));
        }
        count.add();
    }
    Ok(acknowledged)
}

/// Moves one shard after the other, each while writes go on.
fn move_all(nodes: &[Node], count: &Count) -> Result<Vec<Certificate>, Error> {
    // An old copy is compared and deleted at once, not after an hour.
    let config = MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    };
    let mut certificates = Vec::new();
    for (shard, to, driver) in MOVES {
        count.wait_for_more(BETWEEN);
        let driver = nodes
            .iter()
            .find(|node| node.engine.node_id().as_str() == driver)
            .expect("each driver is one of the nodes");
        let migration = driver
            .engine
            .migrate(ShardId(shard))
            .to(to)
            .config(config.clone())
            .start()?;
        let certificate = migration.wait()?;
        migration.finished()?;
        println!(
            "shard {shard}: {} to {}, {} writes since the copy was made, a pause of {} µs",
            certificate.source.node,
            certificate.target.node,
            certificate.f.0 - certificate.base.0,
            certificate.pause_us.unwrap_or_default()
        );
        certificates.push(certificate);
    }
    count.wait_for_more(BETWEEN);
    Ok(certificates)
}

/// Every acknowledged write is there, through whichever engine it is asked for, and nothing else is.
fn check(nodes: &[Node], acknowledged: &Acknowledged) -> Result<(), Failure> {
    let expected: BTreeMap<&str, &(String, Version)> = acknowledged
        .iter()
        .filter_map(|(key, written)| Some((key.as_str(), written.as_ref()?)))
        .collect();
    assert!(!expected.is_empty() && expected.len() < acknowledged.len());
    for Node { engine, .. } in nodes {
        for (key, written) in acknowledged {
            let found = engine.get_versioned(key).wait()?;
            let found = found
                .as_ref()
                .map(|(value, version)| (&value[..], *version));
            let written = written.as_ref();
            let written = written.map(|(value, version)| (value.as_bytes(), *version));
            assert_eq!(found, written, "{key}, asked at {}", engine.node_id());
        }
        let mut scanned = 0;
        for entry in engine.scan(ScanOptions::all()) {
            let entry = entry?;
            let key = std::str::from_utf8(&entry.key)?;
            assert!(expected.contains_key(key), "{key} was not written");
            scanned += 1;
        }
        assert_eq!(scanned, expected.len());
        let owned = (0..).map(ShardId).zip(OWNERS);
        let owned = owned.filter(|(_, owner)| *owner == engine.node_id().as_str());
        let owned: Vec<ShardId> = owned.map(|(shard, _)| shard).collect();
        assert_eq!(engine.shards(), owned, "owned by {}", engine.node_id());
    }
    Ok(())
}

/// Counts acknowledged writes, so that each move meets some.
#[derive(Default)]
struct Count {
    writes: AtomicU64,
    ended: Mutex<bool>,
    another: Condvar,
}

impl Count {
    fn now(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
        // Whoever waits looked before the count, and sleeps, or will see it.
        drop(self.ended.lock());
        self.another.notify_all();
    }

    /// Nobody need wait any more.
    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.another.notify_all();
    }

    fn wait_for_more(&self, writes: u64) {
        let until = self.now() + writes;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .another
            .wait_while(ended, |ended| !*ended && self.now() < until);
        drop(waited);
    }
}

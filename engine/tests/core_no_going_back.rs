//! Rule 16: a placement restored from a backup revives no old owner, and no newer copy is deleted by its word.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use support::{World, node, quick, wait_until};
use watershed::{
    BoxFuture, ClusterInfo, Engine, Epoch, Error, FilePlacement, LocalCluster, Placement,
    PlacementError, Retry, ShardId,
};
use watershed_migration::{PlacementRecord, Revision};

const SHARD: ShardId = ShardId(1);

/// A cluster's directory whose engines are opened and closed while its placement is set back.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn cluster(&self) -> LocalCluster {
        LocalCluster::open(self.0.path()).unwrap()
    }

    fn open(&self, cluster: &LocalCluster, name: &str) -> Result<Engine, Error> {
        let options = Engine::options().node(name).shards(4).cluster(cluster);
        options.open(self.path(name))
    }

    fn journal(&self) -> Vec<u8> {
        fs::read(self.path("placement/journal")).unwrap()
    }

    fn set_journal(&self, bytes: &[u8]) {
        fs::write(self.path("placement/journal"), bytes).unwrap();
    }

    /// Moves the shard from a to b under a few writes. Gives the placement of before, with every node closed again.
    fn moved(&self) -> Vec<u8> {
        let cluster = self.cluster();
        let a = self.open(&cluster, "a").unwrap();
        a.shard(SHARD).put("before", "1").wait().unwrap();
        let backup = self.journal();
        let b = self.open(&cluster, "b").unwrap();
        let moving = a.migrate(SHARD).to("b").config(quick()).start().unwrap();
        moving.wait().unwrap();
        b.shard(SHARD).put("after", "2").wait().unwrap();
        b.close().unwrap();
        a.close().unwrap();
        backup
    }

    fn check_all_there(&self) {
        let cluster = self.cluster();
        let b = self.open(&cluster, "b").unwrap();
        let a = self.open(&cluster, "a").unwrap();
        for engine in [&a, &b] {
            let shard = engine.shard(SHARD);
            let found = shard.multi_get(["before", "after"]).wait().unwrap();
            let values: Vec<_> = found.into_iter().map(|found| found.unwrap().0).collect();
            assert_eq!(values, ["1", "2"]);
        }
    }
}

fn went_back(error: &Error) -> (ShardId, Option<Epoch>, Epoch) {
    match error {
        Error::Placement(PlacementError::WentBack { shard, found, seen }) => {
            let text = error.to_string();
            assert!(text.contains("went back in time; restore"), "{text}");
            assert!(text.contains(&format!("shard {shard}")), "{text}");
            (*shard, found.map(|found| found.epoch), seen.epoch)
        }
        other => panic!("not a placement that went back: {other}"),
    }
}

/// The files of the stores and the log, with their bytes.
fn data(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.join("shards")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "sst") {
                files.insert(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn rule_16_no_going_back() {
    let place = Place::new();
    let backup = place.moved();
    let newest = place.journal();
    let before = (data(&place.path("a")), data(&place.path("b")));
    assert!(!before.1.is_empty());

    place.set_journal(&backup);
    for name in ["a", "b", "a"] {
        let cluster = place.cluster();
        let error = place.open(&cluster, name).unwrap_err();
        assert_eq!(
            went_back(&error),
            (SHARD, Some(Epoch(1)), Epoch(2)),
            "{name}"
        );
    }
    let after = (data(&place.path("a")), data(&place.path("b")));
    assert!(before == after, "a refused opening changed data");

    place.set_journal(&newest);
    place.check_all_there();
}

#[test]
fn rule_16_a_lost_placement_deletes_nothing() {
    let place = Place::new();
    place.moved();
    let newest = place.journal();
    fs::remove_dir_all(place.path("placement")).unwrap();
    for name in ["a", "b"] {
        let cluster = place.cluster();
        let error = place.open(&cluster, name).unwrap_err();
        assert_eq!(went_back(&error).1, None);
    }
    place.set_journal(&newest);
    place.check_all_there();
}

#[test]
fn rule_16_read_only_refuses_too() {
    let place = Place::new();
    let backup = place.moved();
    let newest = place.journal();
    place.set_journal(&backup);
    let error = Engine::options()
        .open_read_only(place.path("a"))
        .unwrap_err();
    went_back(&error);
    place.set_journal(&newest);
    let b = Engine::options().open_read_only(place.path("b")).unwrap();
    assert_eq!(b.status().unwrap().shards.len(), 1);
}

#[test]
fn rule_16_a_shard_dropped_and_made_again_is_no_going_back() {
    let place = Place::new();
    place.moved();
    let cluster = place.cluster();
    let b = place.open(&cluster, "b").unwrap();
    let a = place.open(&cluster, "a").unwrap();
    let old = b.shard(SHARD).put("key", "old").wait().unwrap();
    let before_drop = place.journal();
    wait_until("the old copy is deleted", || {
        b.drop_shard(SHARD).map_err(|error| error.retry()) != Err(Retry::Now)
    });
    assert!(matches!(
        a.shard(SHARD).get("key").wait(),
        Err(Error::NoShard { .. })
    ));
    // The node that makes it never saw its last epoch; its placement remembers.
    let again = a.create_shard(SHARD).unwrap();
    let new = again.put("key", "new").wait().unwrap();
    assert!(old < new, "{old} {new}: versions of a shard grow for ever");
    let stale = again.put("key", "stale").if_version("key", old).wait();
    assert!(matches!(stale, Err(Error::ConditionFailed { .. })));
    assert_eq!(b.shard(SHARD).get("key").wait().unwrap().unwrap(), "new");
    b.close().unwrap();
    a.close().unwrap();
    drop((a, b, cluster));
    let newest = place.journal();

    place.set_journal(&before_drop);
    for name in ["a", "b"] {
        let cluster = place.cluster();
        went_back(&place.open(&cluster, name).unwrap_err());
    }
    place.set_journal(&newest);
    let cluster = place.cluster();
    let a = place.open(&cluster, "a").unwrap();
    assert_eq!(a.shard(SHARD).get("key").wait().unwrap().unwrap(), "new");
}

/// A placement that is set back while a node runs.
#[derive(Debug)]
struct SetBack {
    now: FilePlacement,
    old: std::sync::Mutex<Option<PlacementRecord>>,
}

impl Placement for SetBack {
    fn cluster(&self) -> BoxFuture<'_, Result<Option<ClusterInfo>, PlacementError>> {
        self.now.cluster()
    }

    fn create_cluster(
        &self,
        info: ClusterInfo,
    ) -> BoxFuture<'_, Result<ClusterInfo, PlacementError>> {
        self.now.create_cluster(info)
    }

    fn read(
        &self,
        shard: ShardId,
    ) -> BoxFuture<'_, Result<Option<PlacementRecord>, PlacementError>> {
        match &*self.old.lock().unwrap() {
            Some(old) if old.shard == shard => {
                let old = old.clone();
                Box::pin(async { Ok(Some(old)) })
            }
            _ => self.now.read(shard),
        }
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PlacementRecord>, PlacementError>> {
        self.now.list()
    }

    fn swap(
        &self,
        expected: Option<Revision>,
        record: PlacementRecord,
    ) -> BoxFuture<'_, Result<PlacementRecord, PlacementError>> {
        self.now.swap(expected, record)
    }

    fn remove(
        &self,
        shard: ShardId,
        expected: Revision,
    ) -> BoxFuture<'_, Result<(), PlacementError>> {
        self.now.remove(shard, expected)
    }

    fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.now.watch()
    }
}

#[test]
fn rule_16_a_placement_set_back_under_a_running_node_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let now = FilePlacement::open(dir.path().join("placement")).unwrap();
    let placement = Arc::new(SetBack {
        now,
        old: Default::default(),
    });
    let options = Engine::options()
        .node("a")
        .shards(2)
        .placement(placement.clone());
    let engine = options.open(dir.path().join("a")).unwrap();
    let first = pollster::block_on(placement.read(SHARD)).unwrap().unwrap();
    // Somebody gives the shard away by hand: what is seen of that is what counts later.
    let given = PlacementRecord {
        owner: node("z"),
        epoch: Epoch(7),
        revision: Revision(9),
        ..first.clone()
    };
    pollster::block_on(placement.swap(Some(first.revision), given)).unwrap();
    engine.scan(watershed::ScanOptions::all()).count();
    *placement.old.lock().unwrap() = Some(first);
    let error = engine.drop_shard(SHARD).unwrap_err();
    assert_eq!(went_back(&error), (SHARD, Some(Epoch(1)), Epoch(7)));
    // Another shard is not concerned.
    engine.shard(ShardId(0)).put("k", "v").wait().unwrap();
}

#[test]
fn rule_16_a_damaged_memory_is_refused_by_name() {
    let world = World::new(4);
    let engine = world.open("a");
    engine.put("k", "v").wait().unwrap();
    engine.close().unwrap();
    let path = world.path("a").join("seen");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    fs::write(&path, &damaged).unwrap();
    let options = Engine::options().node("a").cluster(&world.cluster);
    let error = options.clone().open(world.path("a")).unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("seen") && shown.contains("line"), "{shown}");
    // A torn end was never counted on.
    fs::write(&path, [&whole[..], b"0123"].concat()).unwrap();
    let engine = options.open(world.path("a")).unwrap();
    assert_eq!(engine.get("k").wait().unwrap().unwrap(), "v");
}

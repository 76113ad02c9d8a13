//! Real processes, killed with SIGKILL at random moments and in each phase of migrations: every acknowledged `Sync`
//! write is there afterwards with its version, and each shard has exactly one owner.
//!
//! A killed process is this same test binary, started again as a [`child`]. It writes to a journal what it is about to
//! do and what was acknowledged; a file's written bytes outlive the process. A failure prints the seed of the run:
//! `WATERSHED_KILL_SEED=<seed> cargo test --release --workspace --test killed` repeats its choices, though not the
//! machine's timing. `WATERSHED_KILLS` sets how many kills each test does.

mod child;
mod journal;
mod process;
mod tail;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use journal::Model;
use process::{Process, Random};
use watershed::migration::{NodeId, Phase, PlacementRecord};
use watershed::{Engine, LocalCluster, ShardId};

/// Kills of each test: enough moments, and short enough for every run of the tests.
const KILLS: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);

fn kills() -> u64 {
    let wanted = std::env::var("WATERSHED_KILLS").ok();
    wanted.map_or(KILLS, |count| {
        count.parse().expect("WATERSHED_KILLS is a number")
    })
}

/// Not a test of its own: what the other tests start, and kill. Does nothing where it was not told what to do.
#[test]
fn child() {
    child::run_if_told();
}

#[test]
fn every_acknowledged_write_survives_kills_while_loading_and_writing() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded("load");
    let mut model = Model::default();
    let (mut kill, kills) = (0, kills());
    while kill < kills {
        // One to three lives before anybody looks: a crash may come before the last one was recovered from.
        for _ in 0..=random.below(3) {
            let mut process = Process::start("load", dir.path(), kill, &mut random);
            if random.below(2) == 0 {
                process.wait_for(|line| line == "open", PATIENCE);
                random.nap(300_000);
            } else {
                random.nap(150_000);
            }
            model.add(process.kill());
            kill += 1;
        }
        let engine = child::open_alone(dir.path());
        model.check(&engine);
        engine.close().unwrap();
    }
    assert!(
        model.acknowledged() > kills,
        "the processes wrote: {} acknowledged",
        model.acknowledged()
    );
}

#[test]
fn each_shard_has_one_owner_and_every_write_after_kills_within_migrations() {
    let phases = [
        Phase::Plan,
        Phase::BulkCopy,
        Phase::DualWrite,
        Phase::StopDualWrite,
        Phase::Drain,
        Phase::DeltaPass,
        Phase::Activate,
        Phase::Cleanup,
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded("move");
    let mut model = Model::default();
    let (mut kill, kills) = (0, kills());
    while kill < kills {
        let mut killed_in = Vec::new();
        for _ in 0..=random.below(2) {
            let mut process = Process::start("move", dir.path(), kill, &mut random);
            let phase = phases[usize::try_from(kill).unwrap() % phases.len()];
            let line = format!("phase {phase}");
            process.wait_for(|found| found == line, Duration::from_secs(20));
            random.nap(4_000);
            model.add(process.kill());
            killed_in.push(phase);
            kill += 1;
        }
        let world = World::open(dir.path());
        world.check_owners();
        world.settle();
        world.check_copies();
        model.check(&world.engines[0]);
        model.check(&world.engines[1]);
        world.close();
    }
}

/// Rules 1, 3 and 8: what a shard left behind on a node, in its log and its directory, is never taken for its own when
/// it comes back.
#[test]
fn a_shard_goes_away_and_back_ten_times_with_kills_between_and_old_copies_in_cleanup() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded("there-and-back");
    let mut model = Model::default();
    let (moves, mut kill, mut in_cleanup) = (20, 0, 0);
    loop {
        let mut process = Process::start("there-and-back", dir.path(), kill, &mut random);
        // One or two moves in a life, then a kill at any moment of what follows.
        for _ in 0..=random.below(2) {
            process.wait_for(|line| line == "moved", PATIENCE);
        }
        random.nap(30_000);
        model.add(process.kill());
        kill += 1;
        let world = World::open(dir.path());
        world.check_owners();
        let record = world.record(ShardId(0));
        in_cleanup += u64::from(record.frozen.is_some());
        let epoch = record.epoch.0;
        model.check(&world.engines[usize::try_from(kill % 2).unwrap()]);
        world.check_copies();
        world.close();
        if epoch > moves {
            break;
        }
        assert!(kill < 10 * moves, "{kill} lives, and only epoch {epoch}");
    }
    assert!(in_cleanup > 0, "old copies were there after kills");
}

/// What was acknowledged and is in no store's files is all in the log: puts, deletes and batches of many shards. Kills
/// while it is replayed change nothing, whatever the stores have flushed by then.
#[test]
fn a_long_tail_of_many_shards_is_replayed_whole_also_after_kills_within_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded("tail");
    let mut process = Process::start("tail-mixed", dir.path(), 0, &mut random);
    process.wait_for(|line| line == "written", PATIENCE);
    process.kill();
    for life in 1..6 {
        let process = Process::start("replay-mixed", dir.path(), life, &mut random);
        random.nap(400_000);
        process.kill();
    }
    let engine = tail::MIXED.open(dir.path(), 4 << 20);
    tail::MIXED.check(&engine);
    engine.close().unwrap();
    let engine = tail::MIXED.open(dir.path(), 4 << 20);
    tail::MIXED.check(&engine);
}

/// The bodies of the tail are some 300 MiB.
#[test]
fn opening_does_not_hold_the_log_in_memory() {
    const LIMIT_MIB: u64 = 240;
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded("memory");
    let mut process = Process::start("tail-large", dir.path(), 0, &mut random);
    process.wait_for(|line| line == "written", PATIENCE);
    process.kill();
    let peak = std::cell::Cell::new(None);
    let mut process = Process::start("replay-large", dir.path(), 1, &mut random);
    process.wait_for(
        |line| {
            peak.set(line.strip_prefix("peak ").map(|mib| mib.parse().unwrap()));
            peak.get().is_some()
        },
        PATIENCE,
    );
    process.kill();
    let peak: u64 = peak.get().expect("the engine was opened");
    assert!(peak < LIMIT_MIB, "opening took {peak} MiB");
    let engine = tail::LARGE.open(dir.path(), 4 << 20);
    tail::LARGE.check(&engine);
}

/// Both engines of the moving tests, opened by this process.
struct World {
    dir: PathBuf,
    cluster: LocalCluster,
    engines: [Engine; 2],
}

impl World {
    fn open(dir: &Path) -> Self {
        let (cluster, engines) = child::open_pair(dir);
        Self {
            dir: dir.to_path_buf(),
            cluster,
            engines,
        }
    }

    fn record(&self, shard: ShardId) -> PlacementRecord {
        let record = pollster::block_on(self.cluster.placement().read(shard));
        let record = record.unwrap().unwrap();
        record.validate().unwrap();
        record
    }

    fn records(&self) -> Vec<PlacementRecord> {
        pollster::block_on(self.cluster.placement().list()).unwrap()
    }

    /// Exactly one engine owns each shard, the one that the placement names. A move that goes on may change it between
    /// two looks, so what counts is a look between two equal records.
    fn check_owners(&self) {
        for shard in self.records().iter().map(|record| record.shard) {
            let end = Instant::now() + PATIENCE;
            loop {
                let before = self.record(shard);
                let owners: Vec<&NodeId> = self
                    .engines
                    .iter()
                    .filter(|engine| engine.shards().contains(&shard))
                    .map(Engine::node_id)
                    .collect();
                let after = self.record(shard);
                assert!(
                    owners.len() <= 1 || before.epoch != after.epoch,
                    "{shard}: {owners:?}"
                );
                // Given away, and the new owner's start record is on its way.
                if owners == [&after.owner] {
                    break;
                }
                assert!(
                    Instant::now() < end,
                    "{shard}: {owners:?} own it, the placement says {after:?}"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Waits until the migrations that were cut off have gone on to their end, or were aborted.
    fn settle(&self) {
        let end = Instant::now() + PATIENCE;
        while let Some(busy) = self
            .records()
            .iter()
            .find(|record| record.active_migration().is_some())
        {
            assert!(Instant::now() < end, "a migration does not end: {busy:?}");
            for migration in self.engines.iter().flat_map(Engine::migrations) {
                migration.cleanup();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// No copy is on any disk but the owner's, the frozen one's, and those of a migration under way.
    fn check_copies(&self) {
        let end = Instant::now() + PATIENCE;
        for shard in self.records().iter().map(|record| record.shard) {
            loop {
                let record = self.record(shard);
                let mut expected = vec![record.instance];
                expected.extend(record.frozen.as_ref().map(|frozen| frozen.instance));
                expected.extend(record.active_migration().and_then(|m| m.target_instance));
                let places = ["a", "b"].map(|node| self.dir.join(node));
                let found: Vec<String> = places
                    .iter()
                    .flat_map(|place| child::copies(place, shard))
                    .collect();
                let known =
                    |name: &String| expected.iter().any(|i| *name == format!("{shard}-{i}"));
                if found.iter().all(known) {
                    break;
                }
                // What is being deleted may be half gone.
                assert!(
                    Instant::now() < end,
                    "{found:?} are there, of {expected:?}: {record:?}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn close(&self) {
        for engine in &self.engines {
            engine.close().unwrap();
        }
    }
}

//! Two engines in one process, and a shard that moves from one to the other. README.md shows the same program.

use watershed::migration::Phase;
use watershed::{Batch, Engine, LocalCluster, ScanOptions, ShardId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let cluster = LocalCluster::open(dir.path())?;
    let a = Engine::options()
        .node("a")
        .cluster(&cluster)
        .open(dir.path().join("a"))?;
    let b = Engine::options()
        .node("b")
        .cluster(&cluster)
        .open(dir.path().join("b"))?;
    let places = a.shard(ShardId(3));
    println!(
        "put: version {}",
        places.put("AD/Vila", "42.5, 1.6").wait()?
    );
    let mut batch = Batch::new();
    batch
        .put("FR/Paris", "48.9, 2.4")
        .put("FR/Nice", "43.7, 7.3")
        .delete("AD/Vila");
    places.write(batch).wait()?;
    for entry in places.snapshot()?.scan(ScanOptions::all().prefix("FR/")) {
        println!("in a snapshot: {:?}", entry?.key);
    }
    let mut migration = a.migrate(ShardId(3)).to("b").start()?;
    let mut phases = Vec::new();
    while let Some(now) = migration
        .next_progress()
        .filter(|now| now.phase < Phase::Cleanup)
    {
        phases.push(now.phase);
    }
    phases.dedup();
    println!("phases seen: {phases:?}");
    println!("{}", migration.wait()?.verdict);
    println!(
        "read on b: {:?}",
        b.shard(ShardId(3)).get("FR/Paris").wait()?
    );
    Ok(())
}

//! Two engines in one process, and a shard that moves from one to the other. The same program is in README.md.

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

    let version = a.put("tea", "sencha").wait()?;
    println!("tea is written, version {version}");
    let cities = a.shard(ShardId(3));
    let mut batch = Batch::new();
    batch
        .put("AD/Vila", "42.5, 1.6")
        .put("FR/Paris", "48.9, 2.4")
        .delete("AD/Nowhere");
    cities.write(batch).wait()?;
    for entry in cities.snapshot()?.scan(ScanOptions::all().prefix("AD/")) {
        println!("in a snapshot: {:?}", entry?.key);
    }
    let mut migration = a.migrate(ShardId(3)).to("b").start()?;
    while let Some(progress) = migration
        .next_progress()
        .filter(|now| now.phase < Phase::Cleanup)
    {
        println!(
            "{}: {} of {} bytes",
            progress.phase, progress.copied_bytes, progress.total_bytes
        );
    }
    println!("{}", migration.wait()?.verdict);
    println!(
        "b has FR/Paris: {:?}",
        b.shard(ShardId(3)).get("FR/Paris").wait()?
    );
    Ok(())
}

//! `watershed bench`: this engine alone on this machine. Rates and times, no comparison and no verdict.
//!
//! Sync and buffered writes with 1 and with 256 requests in flight, point reads, a scan of everything, and one
//! migration without other load. All on one disk, in a directory that is removed afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::args::BenchArgs;
use super::failure::Failure;
use super::latency::Latencies;
use super::load::runtime;
use super::output::{Answer, Output, bytes, micros, thousands};
use super::progress::Watch;
use super::random::Random;
use crate::migration::{MigrationConfig, Phase};
use crate::{Durability, Engine, Error, LocalCluster, ScanOptions, ShardId};

const VALUE_BYTES: usize = 128;
/// Keys that writes choose from.
const KEYS: u64 = 200_000;
const MANY: u32 = 256;

pub(super) fn run(args: &BenchArgs, output: &Output) -> Result<Answer, Failure> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let failed = |error: std::io::Error| Failure::file("make a directory in", &parent, &error);
    let root = tempfile::Builder::new()
        .prefix("watershed-bench-")
        .tempdir_in(&parent)
        .map_err(failed)?;
    let bench = Bench {
        seconds: Duration::from_secs(if args.quick { 1 } else { 10 }),
        watch: Watch::new(output),
        runtime: runtime()?,
    };
    let results = bench.run(root.path())?;
    Ok(Answer::new(text(&results), document(&results, args.quick)))
}

struct Bench {
    seconds: Duration,
    watch: Watch,
    runtime: Runtime,
}

/// Requests, as many as went through in the time.
struct Requests {
    name: &'static str,
    in_flight: u32,
    count: u64,
    time: Duration,
    latencies: Latencies,
}

impl Requests {
    fn per_s(&self) -> f64 {
        (self.count as f64 / self.time.as_secs_f64()).round()
    }
}

struct Results {
    requests: Vec<Requests>,
    scanned: u64,
    scanned_bytes: u64,
    scan_time: Duration,
    moved: Moved,
}

struct Moved {
    copied_bytes: u64,
    copy_ms: u64,
    time: Duration,
    pause_us: Option<u64>,
}

impl Bench {
    fn run(&self, root: &Path) -> Result<Results, Failure> {
        let cluster = LocalCluster::open(root)?;
        let open = |name: &str| {
            Engine::options()
                .node(name)
                .cluster(&cluster)
                .open(root.join(name))
        };
        let (a, b) = (open("a")?, open("b")?);
        let results = self.measure(&a);
        let closed = a.close().and(b.close());
        let results = results?;
        closed?;
        Ok(results)
    }

    fn measure(&self, engine: &Engine) -> Result<Results, Failure> {
        let mut requests = Vec::new();
        for (name, durability, in_flight) in [
            ("sync_1", Durability::Sync, 1),
            ("sync_256", Durability::Sync, MANY),
            ("buffered_1", Durability::Buffered, 1),
            ("buffered_256", Durability::Buffered, MANY),
        ] {
            self.watch
                .say(&format!("{name}: {} s", self.seconds.as_secs()));
            requests.push(match in_flight {
                1 => self.lone_writes(engine, name, durability)?,
                _ => self
                    .runtime
                    .block_on(self.many_writes(engine, name, durability, in_flight))?,
            });
        }
        self.watch.say("reads, a scan, a migration");
        requests.push(self.reads(engine)?);
        let started = Instant::now();
        let (mut scanned, mut scanned_bytes) = (0, 0);
        for entry in engine.scan(ScanOptions::all()) {
            let entry = entry?;
            scanned += 1;
            scanned_bytes += u64::try_from(entry.key.len() + entry.value.len()).unwrap_or(u64::MAX);
        }
        let scan_time = started.elapsed();
        let moved = migrate(engine, "b")?;
        Ok(Results {
            requests,
            scanned,
            scanned_bytes,
            scan_time,
            moved,
        })
    }

    /// Writes of random keys by a thread that waits for each.
    fn lone_writes(
        &self,
        engine: &Engine,
        name: &'static str,
        durability: Durability,
    ) -> Result<Requests, Failure> {
        let started = Instant::now();
        let mut random = Random::new(1);
        let (mut latencies, mut count) = (Latencies::default(), 0);
        while started.elapsed() < self.seconds {
            let submitted = Instant::now();
            engine
                .put(key(&mut random), value(&mut random))
                .durability(durability)
                .wait()?;
            latencies.add(submitted.elapsed());
            count += 1;
        }
        Ok(Requests {
            name,
            in_flight: 1,
            count,
            time: started.elapsed(),
            latencies,
        })
    }

    /// Writes of random keys by tasks.
    async fn many_writes(
        &self,
        engine: &Engine,
        name: &'static str,
        durability: Durability,
        in_flight: u32,
    ) -> Result<Requests, Failure> {
        let (started, seconds) = (Instant::now(), self.seconds);
        let (mut latencies, mut count) = (Latencies::default(), 0);
        let mut tasks = JoinSet::new();
        for task in 0..in_flight {
            let engine = engine.clone();
            tasks.spawn(async move {
                let mut random = Random::new(u64::from(task));
                let (mut latencies, mut count) = (Latencies::default(), 0);
                while started.elapsed() < seconds {
                    let submitted = Instant::now();
                    engine
                        .put(key(&mut random), value(&mut random))
                        .durability(durability)
                        .await?;
                    latencies.add(submitted.elapsed());
                    count += 1;
                }
                Ok::<_, Error>((latencies, count))
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (theirs, written) =
                done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            latencies.merge(&theirs);
            count += written;
        }
        Ok(Requests {
            name,
            in_flight,
            count,
            time: started.elapsed(),
            latencies,
        })
    }

    fn reads(&self, engine: &Engine) -> Result<Requests, Failure> {
        let started = Instant::now();
        let mut random = Random::new(7);
        let (mut latencies, mut count) = (Latencies::default(), 0);
        while started.elapsed() < self.seconds {
            let asked = Instant::now();
            engine.get(key(&mut random)).wait()?;
            latencies.add(asked.elapsed());
            count += 1;
        }
        Ok(Requests {
            name: "reads",
            in_flight: 1,
            count,
            time: started.elapsed(),
            latencies,
        })
    }
}

fn migrate(source: &Engine, target: &str) -> Result<Moved, Failure> {
    let config = MigrationConfig {
        grace_ms: 0,
        ..MigrationConfig::default()
    };
    let started = Instant::now();
    let migration = source
        .migrate(ShardId(0))
        .to(target)
        .config(config)
        .start()?;
    let certificate = migration.wait()?;
    let time = started.elapsed();
    migration.finished()?;
    Ok(Moved {
        copied_bytes: certificate.files.iter().map(|file| file.len).sum(),
        copy_ms: certificate
            .phase_ms
            .get(&Phase::BulkCopy)
            .copied()
            .unwrap_or(0),
        time,
        pause_us: certificate.pause_us,
    })
}

fn key(random: &mut Random) -> Bytes {
    format!("key/{:08}", random.below(KEYS)).into()
}

/// Bytes that compress about as well as text does.
fn value(random: &mut Random) -> Bytes {
    let mut text = String::with_capacity(VALUE_BYTES + 16);
    while text.len() < VALUE_BYTES {
        text.push_str(&random.next().to_string());
    }
    text.truncate(VALUE_BYTES);
    text.into()
}

fn document(results: &Results, quick: bool) -> Value {
    let seconds = results.scan_time.as_secs_f64();
    let moved = &results.moved;
    let mut document = json!({
        "quick": quick,
        "value_bytes": VALUE_BYTES,
        "scan": {
            "entries": results.scanned,
            "per_s": (results.scanned as f64 / seconds).round(),
            "mb_s": (results.scanned_bytes as f64 / 1e6 / seconds).round(),
        },
        "migration": {
            "copied_bytes": moved.copied_bytes,
            "bulk_copy_ms": moved.copy_ms,
            "seconds": moved.time.as_secs_f64(),
            "pause_ms": moved.pause_us.map(|us| us as f64 / 1e3),
        },
    });
    for requests in &results.requests {
        document[requests.name] = json!({
            "in_flight": requests.in_flight,
            "count": requests.count,
            "per_s": requests.per_s(),
            "p50_us": requests.latencies.percentile(50),
            "p99_us": requests.latencies.percentile(99),
        });
    }
    document
}

fn text(results: &Results) -> String {
    let mut lines = vec![format!(
        "{:<14} {:>12} {:>12} {:>12}",
        "", "a second", "p50", "p99"
    )];
    for requests in &results.requests {
        let (p50, p99) = (
            requests.latencies.percentile(50),
            requests.latencies.percentile(99),
        );
        // A rate is a whole number that fits.
        let rate = thousands(requests.per_s() as u64);
        lines.push(format!(
            "{:<14} {rate:>12} {:>12} {:>12}",
            requests.name,
            micros(p50),
            micros(p99)
        ));
    }
    let rate = thousands((results.scanned as f64 / results.scan_time.as_secs_f64()) as u64);
    lines.push(format!("{:<14} {rate:>12}", "scan"));
    let moved = &results.moved;
    lines.push(format!(
        "\none shard moved in {:.2} s: {} copied, pause {}",
        moved.time.as_secs_f64(),
        bytes(moved.copied_bytes),
        moved.pause_us.map_or_else(|| "?".into(), micros),
    ));
    lines.join("\n")
}

//! What one write costs: in the log alone, and through the engine.
//!
//! One in flight, so that nothing is hidden by group commit: `watershed bench` measures many. The disk of the system's
//! temporary directory counts.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use watershed::Engine;
use watershed_wal::{
    BatchBuilder, DirStorage, Durability, Epoch, Inline, InstanceId, InstanceLog, Log, LogOptions,
    RecordKind, Seq, ShardId, Term,
};

const VALUE: [u8; 128] = [b'v'; 128];

/// A log in `dir` with one shard whose term has started.
fn log(dir: &tempfile::TempDir) -> (Log, InstanceLog) {
    let storage = Arc::new(DirStorage::new(dir.path()).expect("a directory for the log"));
    // Large enough that no bench fills it: nothing here flushes.
    let options = LogOptions {
        limit_bytes: 1 << 36,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(storage, options).expect("a new log");
    let instance = log
        .host(ShardId(0), InstanceId(1), Seq::ZERO, Vec::new())
        .expect("a hosted instance");
    let term = Term {
        epoch: Epoch(1),
        opening: 1,
    };
    instance
        .start_term(term, Seq::ZERO)
        .and_then(|started| started.wait())
        .expect("a term");
    (log, instance)
}

fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    group.throughput(Throughput::Elements(1));
    for (name, durability) in [
        ("buffered", Durability::Buffered),
        ("sync", Durability::Sync),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (log, instance) = log(&dir);
        let mut batch = BatchBuilder::new();
        batch.put(b"key/00000001", &VALUE);
        let body = batch.finish();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                instance
                    .submit(RecordKind::Batch, body.clone(), durability, Inline::Allowed)
                    .and_then(|submitted| submitted.wait())
                    .expect("an append")
            });
        });
        log.close().expect("a closed log");
    }
    group.finish();
}

fn engine_put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine_put");
    group.throughput(Throughput::Elements(1));
    for (name, durability) in [
        ("buffered", Durability::Buffered),
        ("sync", Durability::Sync),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = Engine::open(dir.path().join("engine")).expect("an engine");
        let mut number = 0u64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                number = (number + 7919) % 100_000;
                let key = format!("key/{number:08}");
                engine
                    .put(key, VALUE.as_slice())
                    .durability(durability)
                    .wait()
                    .expect("a put")
            });
        });
        engine.close().expect("a closed engine");
    }
    group.finish();
}

criterion_group!(benches, log_append, engine_put);
criterion_main!(benches);

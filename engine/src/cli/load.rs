//! `watershed load`: documents become keys, many writes in flight.
//!
//! Two writes of one key are never in flight together, so the later line wins. A bad line ends the load: what came
//! before it is written and acknowledged first, and stays.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_128;

use super::args::LoadArgs;
use super::documents::{Document, Documents};
use super::failure::Failure;
use super::output::{Answer, Output, bytes, thousands};
use super::place::Data;
use super::progress::{Watch, Work};
use crate::{Durability, Error, Version};

/// Writes in flight: enough that one sync commits many.
const IN_FLIGHT: usize = 1024;
/// Documents that are looked up together, to count which are updates.
const LOOK_UP: usize = 256;

/// What a load did.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) documents: u64,
    /// Documents whose key was there before: in the engine, or on an earlier line.
    pub(super) updates: u64,
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

pub(super) fn run(args: &LoadArgs, output: &Output) -> Result<Answer, Failure> {
    // The input first: a file that is not there must not leave an empty engine behind.
    let documents = Documents::open(&args.file, &args.key)?;
    let place = args.place.place()?;
    let data = place.open()?;
    let watch = Watch::new(output);
    let runtime = runtime()?;
    let work = watch.work("loading");
    let loaded = runtime.block_on(load(
        &*data,
        documents,
        args.durability.into(),
        &work,
        |_, _| {},
    ));
    drop(work);
    // Closed in either case: the lines before a bad one stay.
    let closed = data.end();
    let loaded = loaded?;
    closed?;
    let seconds = loaded.time.as_secs_f64();
    let text = format!(
        "{} documents loaded into {} in {seconds:.1} s ({} of them updates, {})",
        thousands(loaded.documents),
        place.shown(),
        thousands(loaded.updates),
        bytes(loaded.bytes),
    );
    let document = json!({
        "documents": loaded.documents,
        "inserts": loaded.documents - loaded.updates,
        "updates": loaded.updates,
        "bytes": loaded.bytes,
        "seconds": seconds,
    });
    Ok(Answer::new(text, document))
}

/// The threads that the command line's own tasks run on.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .thread_name("watershed-cli")
        .build()
        .map_err(|error| {
            Failure::new(
                super::failure::Kind::Io,
                format!("starting threads: {error}"),
            )
        })
}

/// Writes all documents; `acknowledged` is told of each with the version it got.
pub(super) async fn load(
    data: &dyn Data,
    documents: impl Iterator<Item = Result<Document, Failure>>,
    durability: Durability,
    work: &Work,
    acknowledged: impl FnMut(Document, Version),
) -> Result<Loaded, Failure> {
    let started = Instant::now();
    let mut load = Load {
        data,
        durability,
        acknowledged,
        loaded: Loaded::default(),
        seen: HashSet::new(),
        busy: HashSet::new(),
        writes: JoinSet::new(),
    };
    let mut end = load.read(documents, work).await;
    // Also after a bad line: what was read before it is loaded.
    while !load.writes.is_empty() {
        let drained = load.one_done().await;
        end = end.and(drained);
    }
    end?;
    load.loaded.time = started.elapsed();
    Ok(load.loaded)
}

struct Load<'a, F> {
    data: &'a dyn Data,
    durability: Durability,
    acknowledged: F,
    loaded: Loaded,
    /// Hashes of the keys of earlier lines.
    seen: HashSet<u128>,
    /// Keys with a write in flight.
    busy: HashSet<Bytes>,
    writes: JoinSet<(Document, Result<Version, Error>)>,
}

impl<F: FnMut(Document, Version)> Load<'_, F> {
    async fn read(
        &mut self,
        documents: impl Iterator<Item = Result<Document, Failure>>,
        work: &Work,
    ) -> Result<(), Failure> {
        let mut chunk = Vec::with_capacity(LOOK_UP);
        let mut bad = Ok(());
        for document in documents {
            match document {
                Ok(document) => chunk.push(document),
                Err(failure) => {
                    bad = Err(failure);
                    break;
                }
            }
            if chunk.len() == LOOK_UP {
                self.write_all(std::mem::take(&mut chunk)).await?;
                let loaded = &self.loaded;
                work.now(|| {
                    format!(
                        "{} documents, {}",
                        thousands(loaded.documents),
                        bytes(loaded.bytes)
                    )
                });
            }
        }
        self.write_all(chunk).await?;
        bad
    }

    async fn write_all(&mut self, documents: Vec<Document>) -> Result<(), Failure> {
        let keys: Vec<Bytes> = documents
            .iter()
            .map(|document| document.key.clone())
            .collect();
        let found = self.data.multi_get(&keys).await?;
        for (document, found) in documents.into_iter().zip(found) {
            let repeated = !self.seen.insert(xxh3_128(&document.key));
            if repeated || found.is_some() {
                self.loaded.updates += 1;
            }
            while self.writes.len() >= IN_FLIGHT || self.busy.contains(&document.key) {
                self.one_done().await?;
            }
            self.busy.insert(document.key.clone());
            let write = self
                .data
                .put(&document.key, &document.value)
                .durability(self.durability);
            self.writes.spawn(async move { (document, write.await) });
        }
        Ok(())
    }

    /// Waits for one of the writes in flight.
    async fn one_done(&mut self) -> Result<(), Failure> {
        let Some(done) = self.writes.join_next().await else {
            return Ok(());
        };
        let (document, result) =
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.busy.remove(&document.key);
        let version = result?;
        self.loaded.documents += 1;
        self.loaded.bytes += u64::try_from(document.value.len()).unwrap_or(u64::MAX);
        (self.acknowledged)(document, version);
        Ok(())
    }
}

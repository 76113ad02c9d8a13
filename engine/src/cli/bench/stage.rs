//! An open engine, a second one where a shard is to move, and the keys that are read.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Pace;
use super::cells::Cell;
use super::drive::{self, Measured};
use crate::cli::failure::Failure;
use crate::cli::load::runtime;
use crate::cli::random::Random;
use crate::{Durability, Engine, Error, LocalCluster};

/// Writes in flight while a stage is filled.
const FILLERS: u64 = 256;
/// Values are cut out of as much text, or twice their own length.
const TEXT_BYTES: usize = 1 << 20;

/// Where some cells run.
pub(super) struct Stage {
    pub(super) engine: Engine,
    /// A shard moves to it and back.
    pub(super) other: Option<Engine>,
    pub(super) keys: u64,
    /// Numbers as text, which compresses about as well as text does.
    pub(super) text: Bytes,
    pub(super) runtime: Runtime,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Opens a stage for cells like this one, in a directory of its own, filled where something `reads`.
    pub(super) fn open(root: &Path, cell: &Cell, keys: u64, reads: bool) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::file("make a directory in", root, &error);
        let dir = tempfile::tempdir_in(root).map_err(failed)?;
        let cluster = LocalCluster::open(dir.path())?;
        let open = |name: &str| {
            let options = Engine::options().node(name).cluster(&cluster);
            options.shards(cell.shards).open(dir.path().join(name))
        };
        let engine = open("a")?;
        let other = cell.migrate.then(|| open("b")).transpose()?;
        let stage = Self {
            engine,
            other,
            keys,
            text: text(TEXT_BYTES.max(2 * cell.value_bytes as usize)),
            runtime: runtime()?,
            dir,
        };
        if reads {
            stage.fill(cell.value_bytes as usize)?;
        }
        Ok(stage)
    }

    pub(super) fn run(&self, cell: &Cell, pace: Pace) -> Result<Measured, Failure> {
        drive::run(self, cell, pace)
    }

    /// Writes every key, and flushes: reads then meet SSTs.
    fn fill(&self, value_bytes: usize) -> Result<(), Failure> {
        let (keys, text) = (self.keys, Arc::new(self.text.clone()));
        self.runtime.block_on(async {
            let mut fillers = JoinSet::new();
            for first in 0..FILLERS.min(keys) {
                let (engine, text) = (self.engine.clone(), Arc::clone(&text));
                fillers.spawn(async move {
                    let mut random = Random::new(first);
                    let mut number = first;
                    while number < keys {
                        let value = value(&text, value_bytes, &mut random);
                        let put = engine.put(key(number), value);
                        put.durability(Durability::Buffered).await?;
                        number += FILLERS;
                    }
                    Ok::<_, Error>(())
                });
            }
            while let Some(done) = fillers.join_next().await {
                done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(self.engine.flush()?)
    }

    /// Closes the engines and removes what they wrote.
    pub(super) fn close(self) -> Result<(), Failure> {
        let closed = self.engine.close();
        let other = self.other.map_or(Ok(()), |other| other.close());
        closed.and(other)?;
        let path = self.dir.path().to_owned();
        self.dir
            .close()
            .map_err(|error| Failure::file("remove", &path, &error))
    }
}

/// The key of a number that is there.
pub(super) fn key(number: u64) -> String {
    format!("key/{number:08}")
}

/// The key of a number that is not there, between two that are.
pub(super) fn absent_key(number: u64) -> String {
    format!("key/{number:08}/absent")
}

/// Some of the text.
pub(super) fn value<'a>(text: &'a [u8], bytes: usize, random: &mut Random) -> &'a [u8] {
    let places = u64::try_from(text.len() - bytes).unwrap_or(u64::MAX);
    let at = usize::try_from(random.below(places.max(1))).unwrap_or(0);
    &text[at..at + bytes]
}

fn text(bytes: usize) -> Bytes {
    let mut random = Random::new(1);
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        text.push_str(&random.next().to_string());
    }
    text.truncate(bytes);
    text.into()
}

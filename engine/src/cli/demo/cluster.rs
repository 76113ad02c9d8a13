//! The demo's nodes: engines of one process, each with a directory of its own, around one placement.

use std::path::{Path, PathBuf};

use crate::cli::failure::{Failure, Kind};
use crate::migration::MigrationConfig;
use crate::{Engine, LocalCluster, ShardId};

/// Chooses which forwarded records are lost.
const FAILURE_SEED: u64 = 0x5eed;

/// The nodes, in the order they were started.
pub(super) struct Cluster {
    root: PathBuf,
    names: Vec<String>,
    engines: Vec<Engine>,
}

/// A shard that goes from one node to another, by their places in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) shard: ShardId,
    pub(super) source: usize,
    pub(super) target: usize,
}

impl Cluster {
    /// Starts `nodes` nodes in `root`; forwarded records are lost with probability `fail_forward`.
    pub(super) fn open(
        root: &Path,
        nodes: u32,
        shards: u32,
        fail_forward: f64,
    ) -> Result<Self, Failure> {
        let mut cluster = LocalCluster::open(root)?;
        if fail_forward > 0.0 {
            cluster = cluster.forward_failures(fail_forward, FAILURE_SEED);
        }
        let names: Vec<String> = (0..nodes).map(name).collect();
        let engines = names
            .iter()
            .map(|name| {
                Engine::options()
                    .node(name)
                    .shards(shards.into())
                    .cluster(&cluster)
                    .open(root.join(name))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            root: root.to_owned(),
            names,
            engines,
        })
    }

    pub(super) fn engines(&self) -> &[Engine] {
        &self.engines
    }

    pub(super) fn engine(&self, node: usize) -> &Engine {
        &self.engines[node]
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(super) fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// Closes all nodes; the first error counts, all are closed.
    pub(super) fn close(self) -> Result<(), Failure> {
        let closed: Vec<_> = self.engines.iter().map(Engine::close).collect();
        closed
            .into_iter()
            .collect::<Result<(), _>>()
            .map_err(Failure::from)
    }

    /// Gives each of the first `nodes` nodes its share of the still empty shards.
    pub(super) async fn spread(&self, nodes: usize) -> Result<(), Failure> {
        for (index, shard) in self.engine(0).shards().into_iter().enumerate() {
            let target = index % nodes;
            if target > 0 {
                let config = MigrationConfig {
                    grace_ms: 0,
                    ..MigrationConfig::default()
                };
                let migration = self
                    .engine(0)
                    .migrate(shard)
                    .to(self.name(target))
                    .config(config)
                    .start()?;
                migration.finished_async().await?;
            }
        }
        Ok(())
    }

    /// The moves that give the last node its equal share, taken from the others in turn. From one node: exactly half.
    pub(super) fn plan(&self) -> Vec<Move> {
        let target = self.engines.len() - 1;
        let hosted = self.engines[..target].iter().map(Engine::shards).collect();
        share(hosted, target)
    }

    /// How many directories of `shard` a node still has.
    pub(super) fn copies(&self, node: usize, shard: ShardId) -> Result<usize, Failure> {
        copies(&self.root.join(self.name(node)), shard)
    }
}

/// How many directories of `shard` the engine in `dir` has.
pub(super) fn copies(dir: &Path, shard: ShardId) -> Result<usize, Failure> {
    let dir = dir.join("shards");
    let prefix = format!("{shard}-");
    let listed = std::fs::read_dir(&dir).map_err(|error| Failure::file("read", &dir, &error))?;
    let mut copies = 0;
    for entry in listed {
        let entry = entry.map_err(|error| Failure::file("read", &dir, &error))?;
        copies += usize::from(entry.file_name().to_string_lossy().starts_with(&prefix));
    }
    Ok(copies)
}

/// A directory for the demo: a new or an empty one.
pub(super) fn fresh_dir(dir: &Path) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::file("use", dir, error);
    if dir.exists() {
        let mut listed = std::fs::read_dir(dir).map_err(|error| failed(&error))?;
        if listed.next().is_some() {
            let message = format!(
                "{} is not empty: the demo needs a new or an empty directory",
                dir.display()
            );
            return Err(Failure::new(Kind::BadDirectory, message));
        }
    }
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))
}

pub(super) fn name(index: u32) -> String {
    let letter = u8::try_from(index)
        .ok()
        .and_then(|index| b'a'.checked_add(index));
    letter.map_or_else(
        || format!("node-{index}"),
        |letter| char::from(letter).to_string(),
    )
}

pub(super) fn share(mut hosted: Vec<Vec<ShardId>>, target: usize) -> Vec<Move> {
    let shards: usize = hosted.iter().map(Vec::len).sum();
    let wanted = (shards / (hosted.len() + 1)).max(1).min(shards);
    let mut moves = Vec::new();
    while moves.len() < wanted {
        for (source, shards) in hosted.iter_mut().enumerate() {
            if let (true, Some(shard)) = (moves.len() < wanted, shards.pop()) {
                moves.push(Move {
                    shard,
                    source,
                    target,
                });
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(ids: std::ops::Range<u64>) -> Vec<ShardId> {
        ids.map(ShardId).collect()
    }

    #[test]
    fn one_node_gives_exactly_half() {
        let moves = share(vec![shards(0..16)], 1);
        assert_eq!(moves.len(), 8);
        assert!(
            moves
                .iter()
                .all(|moved| moved.source == 0 && moved.target == 1)
        );
        assert_eq!(share(vec![shards(0..2)], 1).len(), 1);
    }

    #[test]
    fn several_nodes_give_in_turn_and_no_shard_moves_twice() {
        let moves = share(vec![shards(0..6), shards(6..11), shards(11..16)], 3);
        assert_eq!(moves.len(), 4);
        let sources: Vec<_> = moves.iter().map(|moved| moved.source).collect();
        assert_eq!(sources, [0, 1, 2, 0]);
        let distinct: std::collections::HashSet<_> =
            moves.iter().map(|moved| moved.shard).collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(share(vec![Vec::new(), shards(0..1)], 2).len(), 1);
    }
}

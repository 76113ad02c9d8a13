//! The check: every key that was ever written is read through the public API of its owner, and a scan of everything
//! finds no key that nobody wrote.

use std::collections::HashMap;

use bytes::Bytes;

use super::cluster::{Cluster, Move};
use super::oracle::{Finding, Oracle};
use crate::cli::failure::Failure;
use crate::cli::output::thousands;
use crate::cli::place::Data;
use crate::cli::progress::Work;
use crate::{ScanOptions, ShardId};

/// Keys read together.
const PAGE: usize = 512;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) keys: u64,
    pub(super) lost: u64,
    pub(super) resurrected: u64,
    pub(super) wrong_value: u64,
    /// Keys that were read and had a value, as they must.
    pub(super) present: u64,
    /// Keys that the scan of everything found, and whose entry was right.
    pub(super) scanned: u64,
    /// Moved shards that their target does not serve, and copies that their source still has.
    pub(super) misplaced: u64,
}

impl Checked {
    /// Whether every key was as it must be, and the scan saw the same keys.
    pub(super) fn all_right(&self) -> bool {
        self.lost + self.resurrected + self.wrong_value + self.misplaced == 0
            && self.present == self.scanned
    }

    fn count(&mut self, finding: Finding) {
        match finding {
            Finding::Right => {}
            Finding::Lost => self.lost += 1,
            Finding::Resurrected => self.resurrected += 1,
            Finding::WrongValue => self.wrong_value += 1,
        }
    }
}

/// Checks a cluster that was closed and opened again.
pub(super) fn check(
    cluster: &Cluster,
    moves: &[Move],
    oracle: &Oracle,
    work: &Work,
) -> Result<Checked, Failure> {
    let mut checked = Checked::default();
    let owners = owners(cluster);
    for step in moves {
        let served = owners.get(&step.shard) == Some(&step.target);
        let left = cluster.copies(step.source, step.shard)?;
        checked.misplaced += u64::from(!served) + u64::try_from(left).unwrap_or(u64::MAX);
    }
    // A shard that nobody hosts is read through any node, whose error then says so.
    let owner =
        |shard: ShardId| -> &dyn Data { cluster.engine(owners.get(&shard).copied().unwrap_or(0)) };
    contents(cluster.engine(0), owner, oracle, &mut checked, work)?;
    Ok(checked)
}

/// Reads every key from `owner` of its shard, and scans everything through `any`.
pub(super) fn contents<'a>(
    any: &dyn Data,
    owner: impl Fn(ShardId) -> &'a dyn Data,
    oracle: &Oracle,
    checked: &mut Checked,
    work: &Work,
) -> Result<(), Failure> {
    let mut pages: HashMap<ShardId, Vec<Bytes>> = HashMap::new();
    for key in oracle.keys() {
        let shard = any.shard_of(key);
        let page = pages.entry(shard).or_default();
        page.push(key.clone());
        if page.len() == PAGE {
            let page = std::mem::take(page);
            read(owner(shard), page, oracle, checked)?;
            work.now(|| format!("{} keys read", thousands(checked.keys)));
        }
    }
    for (shard, page) in pages {
        read(owner(shard), page, oracle, checked)?;
    }
    scan(any, oracle, checked, work)
}

/// Which node hosts each shard.
fn owners(cluster: &Cluster) -> HashMap<ShardId, usize> {
    let hosted = |(node, engine): (usize, &crate::Engine)| {
        engine
            .shards()
            .into_iter()
            .map(move |shard| (shard, node))
            .collect::<Vec<_>>()
    };
    cluster
        .engines()
        .iter()
        .enumerate()
        .flat_map(hosted)
        .collect()
}

fn read(
    owner: &dyn Data,
    keys: Vec<Bytes>,
    oracle: &Oracle,
    checked: &mut Checked,
) -> Result<(), Failure> {
    let found = owner.multi_get(&keys).wait()?;
    for (key, found) in keys.iter().zip(found) {
        let found = found
            .as_ref()
            .map(|(value, version)| (&value[..], *version));
        checked.keys += 1;
        let finding = oracle.judge(key, found);
        checked.present += u64::from(finding == Finding::Right && found.is_some());
        checked.count(finding);
    }
    Ok(())
}

/// Every entry of every shard. What is wrong with a known key was counted when it was read; here unknown keys are.
fn scan(
    any: &dyn Data,
    oracle: &Oracle,
    checked: &mut Checked,
    work: &Work,
) -> Result<(), Failure> {
    let known: std::collections::HashSet<&Bytes> = oracle.keys().collect();
    for entry in any.scan(ScanOptions::all()) {
        let entry = entry?;
        let finding = oracle.judge(&entry.key, Some((&entry.value, entry.version)));
        if finding == Finding::Right {
            checked.scanned += 1;
        } else if !known.contains(&entry.key) {
            checked.count(finding);
        }
        if checked.scanned.is_multiple_of(1 << 14) {
            work.now(|| format!("{} keys scanned", thousands(checked.scanned)));
        }
    }
    Ok(())
}

//! What is done when a migration enters a phase: boundary writes, counting, and the kill that was asked for.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::node::Started;
use super::{DRIVER, PLACEMENT};
use crate::cli::demo::boundary::Boundary;
use crate::cli::demo::report::Killed;
use crate::cli::demo::tally::Tally;
use crate::migration::machine::Progress;
use crate::migration::{MigrationId, Phase};
use crate::sync::lock;
use crate::{NodeId, ShardId};

/// How long a killed process stays away; a driver long enough that another takes its migration over.
const AWAY: Duration = Duration::from_millis(500);
const DRIVER_AWAY: Duration = Duration::from_secs(8);

/// Which process is killed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Kill {
    who: Who,
    at: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Source,
    Target,
    Driver,
    Placement,
}

/// The phases in which one may be killed, by the names of the command line.
const PHASES: [(&str, Phase); 7] = [
    ("bulk-copy", Phase::BulkCopy),
    ("dual-write", Phase::DualWrite),
    ("quiesce", Phase::StopDualWrite),
    ("drain", Phase::Drain),
    ("delta-pass", Phase::DeltaPass),
    ("activate", Phase::Activate),
    ("cleanup", Phase::Cleanup),
];
const WHO: [(&str, Who); 4] = [
    ("source", Who::Source),
    ("target", Who::Target),
    ("driver", Who::Driver),
    ("placement", Who::Placement),
];

fn named<T: Copy>(list: &[(&str, T)], name: &str, what: &str) -> Result<T, String> {
    let found = list.iter().find(|(known, _)| *known == name);
    found.map(|(_, one)| *one).ok_or_else(|| {
        let known: Vec<_> = list.iter().map(|(known, _)| *known).collect();
        format!("{name:?} is no {what}: use one of {}", known.join(", "))
    })
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (who, phase) = text
            .split_once('@')
            .ok_or_else(|| format!("{text:?} is not of the form WHO@PHASE, as source@drain"))?;
        Ok(Self {
            who: named(&WHO, who, "process to be killed")?,
            at: named(&PHASES, phase, "phase to be killed in")?,
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = WHO.iter().find(|(_, who)| who == self);
        f.write_str(name.map_or("?", |(name, _)| name))
    }
}

/// What the processes' migrations are watched with.
pub(super) struct Stage {
    kill: Option<Kill>,
    tally: Arc<Tally>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<NodeId, Weak<Started>>,
    boundaries: HashMap<ShardId, Arc<Boundary>>,
    last: HashMap<MigrationId, Progress>,
    kills: Vec<Killed>,
    /// What went wrong beside the migrations.
    troubles: Vec<String>,
}

impl Stage {
    pub(super) fn new(kill: Option<Kill>, tally: Arc<Tally>) -> Self {
        Self {
            kill,
            tally,
            state: Mutex::default(),
        }
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    pub(super) fn knows(&self, node: &Arc<Started>) {
        let nodes = &mut lock(&self.state).nodes;
        nodes.insert(node.name().clone(), Arc::downgrade(node));
    }

    /// From now on this shard's migrations are of the demo's moves.
    pub(super) fn watch(&self, shard: ShardId, boundary: Arc<Boundary>) {
        lock(&self.state).boundaries.insert(shard, boundary);
    }

    /// A driver says that its migration enters a phase, and waits until this returns.
    pub(super) fn enter(&self, driver: &NodeId, progress: &Progress) {
        let boundary = {
            let mut state = lock(&self.state);
            state.last.insert(progress.migration, progress.clone());
            state.boundaries.get(&progress.shard).cloned()
        };
        let Some(boundary) = boundary else { return };
        self.tally.enter(progress.shard, progress.phase);
        boundary.enter(progress.phase);
        self.kill_if_due(driver, progress);
    }

    fn kill_if_due(&self, driver: &NodeId, progress: &Progress) {
        let Some(kill) = self.kill.filter(|kill| kill.at == progress.phase) else {
            return;
        };
        let name = match kill.who {
            Who::Source => progress.source.as_str(),
            Who::Target => progress.target.as_str(),
            Who::Driver => DRIVER,
            Who::Placement => PLACEMENT,
        };
        let node = {
            let mut state = lock(&self.state);
            // A migration that another took over is driven by another.
            if !state.kills.is_empty() || driver.as_str() != DRIVER {
                return;
            }
            let found = state.nodes.iter().find(|(known, _)| known.as_str() == name);
            let Some(node) = found.and_then(|(_, node)| node.upgrade()) else {
                return;
            };
            let phase = PHASES.iter().find(|(_, phase)| *phase == kill.at);
            state.kills.push(Killed {
                who: kill.who.to_string(),
                phase: phase.map_or_else(String::new, |(name, _)| (*name).to_owned()),
            });
            node
        };
        node.kill();
        node.start_again(match kill.who {
            Who::Driver => DRIVER_AWAY,
            _ => AWAY,
        });
    }

    /// How far a migration was when its driver last said so.
    pub(super) fn last(&self, migration: MigrationId) -> Option<Progress> {
        lock(&self.state).last.get(&migration).cloned()
    }

    pub(super) fn kills(&self) -> Vec<Killed> {
        lock(&self.state).kills.clone()
    }

    pub(super) fn note(&self, trouble: &str) {
        lock(&self.state).troubles.push(trouble.to_owned());
    }

    /// What may explain a failure.
    pub(super) fn diary(&self) -> String {
        let state = lock(&self.state);
        let kills = state
            .kills
            .iter()
            .map(|k| format!("killed the {} in phase {}", k.who, k.phase));
        let all: Vec<String> = kills.chain(state.troubles.iter().cloned()).collect();
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_names_a_process_and_a_phase() {
        let kill: Kill = "driver@delta-pass".parse().unwrap();
        assert_eq!((kill.who, kill.at), (Who::Driver, Phase::DeltaPass));
        for (bad, says) in [
            ("driver", "WHO@PHASE"),
            ("me@drain", "source, target, driver, placement"),
            ("source@plan", "bulk-copy"),
        ] {
            let refused = bad.parse::<Kill>().unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}

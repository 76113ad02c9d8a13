//! Who of the members is alive, by the monotonic clock of the process that hosts the placement.
//!
//! Nothing of it is durable, so a member's renewal costs no sync. An opening gives every member a fresh time of life: the
//! host's own restart declares nobody dead. A member's end is a change, made by [`Lives::expire`] only, so that whoever
//! reads the members and whoever is told of changes see the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use watershed_migration::NodeId;

use super::LONGEST_LIFE;
use super::map::Joined;

/// What a member gets after an opening whose time of life is not known: it said last that it was about to stop.
const UNKNOWN: Duration = Duration::from_secs(10);
#[derive(Debug)]
struct Life {
    alive_for: Duration,
    until: Instant,
    alive: bool,
}

/// How long each member counts as alive.
#[derive(Debug)]
pub(super) struct Lives(BTreeMap<NodeId, Life>);

impl Lives {
    /// All of these are alive from `now` on, as if each had just announced itself as it did last.
    pub(super) fn from_now<'a>(members: impl Iterator<Item = &'a Joined>, now: Instant) -> Self {
        let mut lives = Self(BTreeMap::new());
        for member in members {
            let alive_for = match member.alive_for_ms {
                0 => UNKNOWN,
                ms => Duration::from_millis(ms),
            };
            lives.set(&member.node, alive_for, now);
        }
        lives
    }

    /// Whether a member is alive. One without an entry is just joining.
    pub(super) fn is_alive(&self, node: &NodeId) -> bool {
        self.0.get(node).is_none_or(|life| life.alive)
    }

    /// Renews the life of a member that is alive and asks for as much time as before; else changes nothing and gives
    /// false, for then somebody must be told, or wait for another moment.
    pub(super) fn renew(&mut self, node: &NodeId, alive_for: Duration, now: Instant) -> bool {
        match self.0.get_mut(node) {
            Some(life) if life.alive && life.alive_for == alive_for => {
                life.until = now + alive_for.min(LONGEST_LIFE);
                true
            }
            _ => false,
        }
    }

    /// Takes what a member announces; gives whether that changes who is alive.
    pub(super) fn set(&mut self, node: &NodeId, alive_for: Duration, now: Instant) -> bool {
        let life = Life {
            alive_for,
            until: now + alive_for.min(LONGEST_LIFE),
            alive: !alive_for.is_zero(),
        };
        let alive = life.alive;
        let before = self.0.insert(node.clone(), life);
        before.is_none_or(|before| before.alive != alive)
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// Ends the lives that are over, and names them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<NodeId> {
        let mut ended = Vec::new();
        for (node, life) in &mut self.0 {
            if life.alive && life.until <= now {
                life.alive = false;
                ended.push(node.clone());
            }
        }
        ended
    }

    /// When the next life ends, unless it is renewed.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let alive = self.0.values().filter(|life| life.alive);
        alive.map(|life| life.until).min()
    }
}

//! Who was refused: each reason of each peer is said in one line, and again only after a while, with how often it was met.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// After this long a refusal is said again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The most peers and reasons remembered; beyond it the oldest are forgotten, and may be said again.
const MOST: usize = 1024;

/// Why a peer was refused, in classes that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefusalClass {
    /// No TLS handshake came about: its certificate is not of this cluster's authority, or has expired, or it speaks
    /// no TLS.
    Handshake,
    /// It did not finish the handshake in time.
    Slow,
    /// Its certificate names nobody of a cluster.
    Identity,
    /// Its role does not permit what it asked for.
    Role,
}

impl RefusalClass {
    /// Each class.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Slow, Self::Identity, Self::Role];

    /// Its name, as in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Slow => "slow",
            Self::Identity => "identity",
            Self::Role => "role",
        }
    }
}

/// The refusals of one server.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    said: Mutex<HashMap<(IpAddr, String), Met>>,
    counts: [AtomicU64; RefusalClass::ALL.len()],
}

#[derive(Debug)]
struct Met {
    said: Instant,
    /// Since then.
    unsaid: u64,
}

impl Refusals {
    /// How many of each class there were.
    pub(super) fn counts(&self) -> [(RefusalClass, u64); RefusalClass::ALL.len()] {
        RefusalClass::ALL.map(|class| (class, self.counts[class as usize].load(Ordering::Relaxed)))
    }

    /// Notes that a peer was refused, and says so where it was not said lately.
    pub(super) fn note(&self, peer: IpAddr, class: RefusalClass, reason: &str) {
        self.counts[class as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(unsaid) = self.due(peer, reason, Instant::now()) {
            tracing::warn!(%peer, reason, unsaid, "refused");
        }
    }

    /// How many like it were not said, if this one is to be.
    fn due(&self, peer: IpAddr, reason: &str, now: Instant) -> Option<u64> {
        let mut met = lock(&self.said);
        let key = (peer, reason.to_owned());
        if let Some(met) = met.get_mut(&key) {
            if now.duration_since(met.said) < AGAIN_AFTER {
                met.unsaid += 1;
                return None;
            }
            met.said = now;
            return Some(std::mem::take(&mut met.unsaid));
        }
        if met.len() >= MOST {
            let oldest = met.iter().min_by_key(|(_, met)| met.said);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                met.remove(&oldest);
            }
        }
        let said = Met {
            said: now,
            unsaid: 0,
        };
        met.insert(key, said);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_and_later_again_with_its_number() {
        let refusals = Refusals::default();
        let (a, b): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let start = Instant::now();
        assert_eq!(refusals.due(a, "expired", start), Some(0));
        assert_eq!(refusals.due(a, "expired", start), None);
        assert_eq!(refusals.due(a, "expired", start + AGAIN_AFTER / 2), None);
        assert_eq!(refusals.due(a, "another", start), Some(0));
        assert_eq!(refusals.due(b, "expired", start), Some(0));
        assert_eq!(refusals.due(a, "expired", start + AGAIN_AFTER), Some(2));
        assert_eq!(refusals.due(a, "expired", start + AGAIN_AFTER), None);
    }

    #[test]
    fn a_flood_of_peers_takes_a_bounded_room() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for n in 0..3000_u32 {
            let peer = IpAddr::from(n.to_be_bytes());
            let now = start + Duration::from_millis(n.into());
            assert_eq!(refusals.due(peer, "no certificate", now), Some(0));
        }
        assert_eq!(lock(&refusals.said).len(), MOST);
    }
}

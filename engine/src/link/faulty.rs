//! A link that loses forwarded records on purpose, to show that the delta pass finds every hole.
//!
//! Only live forwarding is hit: delta rounds and all other requests pass, so that a migration can end also when every
//! forwarded record is lost. What is lost follows from the seed and the order of the calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use watershed_migration::NodeId;
use watershed_migration::messages::Request;
use watershed_wal::Record;

use super::{BoxFuture, Link, LinkError};

/// A [`Link`] that loses each forwarded record with a given probability.
pub struct FaultyLink {
    inner: Arc<dyn Link>,
    probability: f64,
    seed: u64,
    /// Numbers the records met, so that concurrent calls never draw twice the same.
    met: AtomicU64,
    lost: AtomicU64,
}

impl FaultyLink {
    /// Loses each record forwarded over `inner` with `probability` (0 to 1, beyond is cut to it).
    #[must_use]
    pub fn new(inner: Arc<dyn Link>, probability: f64, seed: u64) -> Self {
        Self {
            inner,
            probability: probability.clamp(0.0, 1.0),
            seed,
            met: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// How many records were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn loses_next(&self) -> bool {
        let number = self.met.fetch_add(1, Ordering::Relaxed);
        // 53 bits make a uniform number of [0, 1).
        let draw = mix(self.seed ^ mix(number)) >> 11;
        (draw as f64) / ((1_u64 << 53) as f64) < self.probability
    }

    /// What is left of a request: `None` where all of it is lost.
    fn thin(&self, request: Bytes) -> Option<Bytes> {
        let Ok(Request::Records {
            env,
            from_instance,
            delta: false,
            records,
        }) = Request::decode(&request)
        else {
            return Some(request);
        };
        // What can't be decoded is for the receiver to refuse.
        let Ok(all) = Record::decode_many(&records) else {
            return Some(request);
        };
        let sent = all.len();
        let kept: Vec<Record> = all.into_iter().filter(|_| !self.loses_next()).collect();
        if kept.len() == sent {
            return Some(request);
        }
        self.lost
            .fetch_add((sent - kept.len()) as u64, Ordering::Relaxed);
        if kept.is_empty() {
            return None;
        }
        let request = Request::Records {
            env,
            from_instance,
            delta: false,
            records: Record::encode_many(&kept),
        };
        Some(request.encode())
    }
}

/// The finisher of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Link for FaultyLink {
    fn call(&self, to: &NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        match self.thin(request) {
            Some(request) => self.inner.call(to, request),
            None => {
                let node = to.clone();
                let reason = "lost on purpose".to_owned();
                Box::pin(async move { Err(LinkError::Lost { node, reason }) })
            }
        }
    }

    fn know(&self, node: &NodeId, address: &str) {
        self.inner.know(node, address);
    }
}

impl fmt::Debug for FaultyLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyLink")
            .field("inner", &self.inner)
            .field("probability", &self.probability)
            .field("seed", &self.seed)
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

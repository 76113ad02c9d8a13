//! Engines of one process that share a placement and reach each other.

use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::link::{FaultyLink, Link, LocalLink};
use crate::placement::{FilePlacement, Placement};

/// Several engines in one process: a placement in a file, and a link that carries encoded messages between them.
///
/// Keep it as long as its engines are used. The first engine opened on it makes all shards and owns them; those opened
/// later own none until shards are moved to them.
#[derive(Debug, Clone)]
pub struct LocalCluster {
    placement: Arc<dyn Placement>,
    local: LocalLink,
    link: Arc<dyn Link>,
}

impl LocalCluster {
    /// Opens the cluster whose placement is in `dir/placement`, making it where there is none.
    ///
    /// # Errors
    /// When the placement is open elsewhere, damaged or of a newer format.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let local = LocalLink::new();
        let placement = FilePlacement::open(dir.as_ref().join("placement"))?;
        Ok(Self {
            placement: Arc::new(placement),
            link: Arc::new(local.clone()),
            local,
        })
    }

    /// Puts a link of yours around the way between the engines, as a test that delays or loses messages does.
    #[must_use]
    pub fn with_link(mut self, wrap: impl FnOnce(Arc<dyn Link>) -> Arc<dyn Link>) -> Self {
        self.link = wrap(self.link);
        self
    }

    /// Loses each forwarded record with this probability, by a generator with this seed. What is lost so is found
    /// missing and shipped by the delta rounds.
    #[must_use]
    pub fn forward_failures(self, probability: f64, seed: u64) -> Self {
        self.with_link(|link| Arc::new(FaultyLink::new(link, probability, seed)))
    }

    /// The map of owners.
    #[must_use]
    pub fn placement(&self) -> Arc<dyn Placement> {
        self.placement.clone()
    }

    pub(crate) fn link(&self) -> Arc<dyn Link> {
        self.link.clone()
    }

    pub(crate) fn local(&self) -> LocalLink {
        self.local.clone()
    }
}

//! Waiting for the durable mark, and following durable records live.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core::Core;
use super::state::InstanceIndex;
use crate::completion::Completion;
use crate::error::LogError;
use crate::record::Record;
use crate::seqset::SeqRange;
use crate::sync::Instant;
use crate::words::Seq;

/// Resolves with the durable mark once it is past a Seq; see [`crate::InstanceLog::durable_past`].
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct DurablePast {
    core: Arc<Core>,
    instance: InstanceIndex,
    seq: Seq,
    waiting: Option<Completion>,
}

impl DurablePast {
    pub(super) const fn new(core: Arc<Core>, instance: InstanceIndex, seq: Seq) -> Self {
        Self {
            core,
            instance,
            seq,
            waiting: None,
        }
    }

    /// The mark, if it is past; else somebody will complete what this leaves in `waiting`.
    fn check(&mut self) -> Result<Option<Seq>, LogError> {
        let mut state = self.core.lock();
        if state.closing {
            return Err(LogError::Closed);
        }
        let poison = state.check_writable();
        let instance = state.instance_mut(self.instance)?;
        if instance.durable_mark > self.seq {
            return Ok(Some(instance.durable_mark));
        }
        // It will never move again.
        poison?;
        if self.waiting.as_ref().is_none_or(Completion::is_done) {
            // Who waited and went away would otherwise pile up on a quiet shard.
            instance.waiting.retain(|(_, done)| !done.is_abandoned());
            let (completion, done) = Completion::single();
            instance.waiting.push((self.seq, done));
            self.waiting = Some(completion);
        }
        Ok(None)
    }

    /// Blocks until the mark is past, or the time is over: `None`.
    ///
    /// # Errors
    /// When the log is poisoned or closed, or the instance forgotten.
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Option<Seq>, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(mark) = self.check()? {
                return Ok(Some(mark));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if let Some(waiting) = &self.waiting {
                waiting.park(left);
            }
        }
    }
}

impl Future for DurablePast {
    type Output = Result<Seq, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.check() {
                Ok(Some(mark)) => return Poll::Ready(Ok(mark)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let Some(waiting) = &mut self.waiting else {
                continue;
            };
            if Pin::new(waiting).poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Follows an instance's durable records; see [`crate::InstanceLog::tail`].
#[derive(Debug)]
pub struct Tail {
    core: Arc<Core>,
    instance: InstanceIndex,
    /// The next Seq to give.
    from: Seq,
}

impl Tail {
    pub(super) const fn new(core: Arc<Core>, instance: InstanceIndex, from: Seq) -> Self {
        Self {
            core,
            instance,
            from,
        }
    }

    fn durable(&self) -> DurablePast {
        let before = Seq(self.from.0.saturating_sub(1));
        DurablePast::new(Arc::clone(&self.core), self.instance, before)
    }

    /// What is durable up to `mark`; none if all of that is void.
    fn take(&mut self, mark: Seq, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let Some(range) = SeqRange::new(self.from, mark) else {
            return Ok(Vec::new());
        };
        let (records, next) = self.core.read_some(self.instance, range, max_bytes)?;
        self.from = next.unwrap_or_else(|| mark.next());
        Ok(records)
    }

    /// The next durable records, at least one, without a gap.
    ///
    /// # Errors
    /// [`LogError::Gap`] when they were truncated; otherwise when the log is poisoned or closed, or the instance
    /// forgotten.
    pub async fn next(&mut self, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        loop {
            let mark = self.durable().await?;
            let records = self.take(mark, max_bytes)?;
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// As [`Tail::next`], blocking: `None` when none came in time.
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn next_timeout(
        &mut self,
        max_bytes: usize,
        timeout: Duration,
    ) -> Result<Option<Vec<Record>>, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(mark) = self.durable().wait_timeout(left)? else {
                return Ok(None);
            };
            let records = self.take(mark, max_bytes)?;
            if !records.is_empty() {
                return Ok(Some(records));
            }
        }
    }
}

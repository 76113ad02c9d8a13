//! What runs on threads for blocking work, counted, so that closing waits for it.

use tokio::sync::watch;

use crate::Error;

/// Counts work that can't be aborted.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(watch::Sender<usize>);

struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Runs what blocks (files, RocksDB, the log's reads) on a thread for it. Once begun it runs to its end, also when
    /// the future is dropped.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.0.send_modify(|count| *count += 1);
        let running = Running(self.0.clone());
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(running);
            result
        });
        // A task that did not run belongs to a runtime that is shutting down.
        task.await.unwrap_or(Err(Error::Closed))
    }

    /// Waits until nothing runs.
    pub(super) async fn idle(&self) {
        // Only an ended count could fail, and this handle keeps it.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

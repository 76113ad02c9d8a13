//! Being told to stop: the first SIGTERM or SIGINT asks for it, the second ends the process at once. At once is as safe as a
//! crash, which loses nothing that was acknowledged.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the process was told to stop.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From now on both signals are heard; called on the runtime that hears them.
    pub(super) fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if tell.send_replace(true) {
                    tracing::warn!(signal = name, "a second signal: ending at once");
                    std::process::exit(1);
                }
                tracing::info!(signal = name, "stopping; a second signal ends at once");
            }
        });
        Ok(Self(told))
    }

    pub(super) fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the process is told to stop.
    pub(super) async fn told(&mut self) {
        // The task that tells lives as long as the runtime.
        let _ = self.0.wait_for(|told| *told).await;
    }

    /// What `work` gives, unless the process is told to stop first: then `None`, and `work` is dropped.
    pub(super) async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.told() => None,
            done = work => Some(done),
        }
    }
}

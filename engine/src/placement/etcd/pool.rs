//! Connections to etcd: one at a time, to the endpoint that answered last.
//!
//! An endpoint that does not answer is left for the next one. What changes nothing is asked there at once; what may have
//! changed something is not sent twice, since the second answer would hide that the first had won.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::sync::OnceCell;
use tonic::Code;

use super::EtcdOptions;
use crate::net::join_causes;
use crate::placement::PlacementError;
use crate::sync::lock;

/// Which endpoint is used, and the way to it.
pub(super) struct Pool {
    options: EtcdOptions,
    current: Mutex<Arc<Seat>>,
}

/// One connection to one endpoint.
struct Seat {
    index: usize,
    client: OnceCell<Client>,
}

/// Why a request has no answer, or none that was hoped for.
struct Failed {
    reason: String,
    /// It is this endpoint's fault, perhaps.
    elsewhere: bool,
}

/// Work that goes on behind an answer, such as a watch: [`Held::leave`] when it ends early.
pub(super) struct Held(Arc<Seat>);

impl Pool {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let current = Mutex::new(Seat::at(0));
        Self { options, current }
    }

    pub(super) fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// Asks what may be asked twice; of each endpoint, until one answers.
    pub(super) async fn ask<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, PlacementError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.ask_and_hold(ask).await.map(|(answer, _)| answer)
    }

    pub(super) async fn ask_and_hold<T, F>(
        &self,
        ask: impl Fn(Client) -> F,
    ) -> Result<(T, Held), PlacementError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let end = Instant::now() + self.options.timeout;
        let endpoints = self.options.endpoints.len();
        let each = self.options.timeout / u32::try_from(endpoints).unwrap_or(u32::MAX);
        let mut reasons: Vec<String> = Vec::new();
        // Once more than there are endpoints: the first connection may have ended unnoticed.
        for _ in 0..=endpoints {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let seat = lock(&self.current).clone();
            match self.attempt(&seat, left.min(each), &ask).await {
                Ok(answer) => return Ok((answer, Held(seat))),
                Err(failed) => {
                    if !reasons.contains(&failed.reason) {
                        reasons.push(failed.reason);
                    }
                    if !failed.elsewhere {
                        break;
                    }
                }
            }
        }
        let reason = reasons.join("; ");
        Err(PlacementError::Unreachable { reason })
    }

    /// Sends what may change something, once.
    pub(super) async fn send<T, F>(
        &self,
        send: impl FnOnce(Client) -> F,
    ) -> Result<T, PlacementError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let seat = lock(&self.current).clone();
        let sent = self.attempt(&seat, self.options.timeout, send).await;
        sent.map_err(|failed| PlacementError::Unreachable {
            reason: failed.reason,
        })
    }

    async fn attempt<T, F>(
        &self,
        seat: &Arc<Seat>,
        within: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let asking = async {
            let client = seat.client.get_or_try_init(|| self.connect(seat)).await?;
            ask(client.clone()).await.map_err(Failed::of)
        };
        let asked = tokio::time::timeout(within, asking).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(Failed {
                reason: format!("no answer within {within:?}"),
                elsewhere: true,
            })
        });
        answer.map_err(|failed| {
            if failed.elsewhere {
                self.leave(seat);
            }
            let endpoint = &self.options.endpoints[seat.index];
            Failed {
                reason: format!("{endpoint}: {}", failed.reason),
                ..failed
            }
        })
    }

    /// A connection comes about with its first request, but for a user, who is looked at before.
    async fn connect(&self, seat: &Seat) -> Result<Client, Failed> {
        let options = self.options.for_connection();
        let options = options.map_err(|error| Failed {
            reason: error.to_string(),
            elsewhere: false,
        })?;
        let endpoint = &self.options.endpoints[seat.index];
        let client = Client::connect([endpoint], Some(options)).await;
        client.map_err(Failed::of)
    }

    /// Uses the next endpoint from now on, or a new connection where there is one only.
    fn leave(&self, seat: &Arc<Seat>) {
        let mut current = lock(&self.current);
        if Arc::ptr_eq(&current, seat) {
            *current = Seat::at((seat.index + 1) % self.options.endpoints.len());
        }
    }

    pub(super) fn leave_held(&self, held: &Held) {
        self.leave(&held.0);
    }
}

impl Seat {
    fn at(index: usize) -> Arc<Self> {
        Arc::new(Self {
            index,
            client: OnceCell::new(),
        })
    }
}

impl Failed {
    fn of(error: etcd_client::Error) -> Self {
        let elsewhere = match &error {
            etcd_client::Error::GRpcStatus(status) => !matches!(
                status.code(),
                // The cluster has said it, and another member would say the same.
                Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
                    | Code::NotFound
                    | Code::ResourceExhausted
                    | Code::Unimplemented
            ),
            _ => true,
        };
        Self {
            reason: reason(&error),
            elsewhere,
        }
    }
}

/// What an error says, down to its cause.
pub(super) fn reason(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            join_causes(status.message().to_owned(), status.source())
        }
        etcd_client::Error::TransportError(error) => join_causes(error.to_string(), error.source()),
        other => other.to_string(),
    }
}

//! `/healthz` and `/metrics`, by HTTP without TLS.
//!
//! Whoever asks slowly, or never reads the answer, costs one of few places for some seconds and nothing else: a connection
//! is for one request and ends when its time is over. Numbers are collected by one thread at a time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::health::Health;
use super::metrics;

/// The most connections at once; more wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long one may take, from its beginning to the end of the answer.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Until accepting is tried again, where the process has no more files for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The port; dropped, it closes.
#[derive(Debug)]
pub(super) struct Http {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Watched {
    health: Arc<Health>,
    /// Held while numbers are collected.
    collecting: Arc<tokio::sync::Mutex<()>>,
}

impl Http {
    /// Listens, and answers on the runtime that this is called in.
    pub(super) async fn start(address: SocketAddr, health: Arc<Health>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let few = Few {
            listener,
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        };
        let watched = Watched {
            health,
            collecting: Arc::default(),
        };
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(scrape))
            .layer(axum::middleware::map_response(last_of_its_connection))
            .with_state(watched);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(few, router).await {
                tracing::error!(%error, "/metrics and /healthz ended");
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn healthz(State(watched): State<Watched>) -> Response {
    // The log's lock may be held for a moment.
    let verdict = tokio::task::spawn_blocking(move || watched.health.verdict()).await;
    let Ok(verdict) = verdict else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let status = match verdict.serving {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, axum::Json(verdict)).into_response()
}

async fn scrape(State(watched): State<Watched>) -> Response {
    let turn = Arc::clone(&watched.collecting).lock_owned().await;
    let page = tokio::task::spawn_blocking(move || {
        // Also where nobody waits for it any more.
        let _turn = turn;
        metrics::page(&watched.health)
    });
    match page.await {
        Ok(page) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn last_of_its_connection(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// Accepts few connections at once.
struct Few {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Few {
    type Io = Brief;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Brief, SocketAddr) {
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let end = Box::pin(tokio::time::sleep(CONNECTION_TIME));
                    let brief = Brief {
                        stream,
                        end,
                        _permit: permit,
                    };
                    return (brief, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for /metrics or /healthz could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over.
struct Brief {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Brief {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Brief {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Brief {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

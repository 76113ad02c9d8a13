//! What other nodes ask: data requests are answered here, those of a migration in migrate/.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_migration::messages::{
    Condition as WireCondition, DataEntry, EntryVersion, Expect, RefusedKind, Request, Response,
    ScanBound, ScanRequest,
};
use watershed_wal::{Inline, LogError, ShardId};

use super::local::Local;
use super::{Node, from_wire, to_wire};
use crate::Error;
use crate::batch::check_encoded;
use crate::link::{BoxFuture, Service};
use crate::migrate;
use crate::shard::{Condition, Expected, LIMITS, SessionUse, WriteRequest};
use crate::store::{ScanOptions, Shown, Store};

impl Service for Node {
    fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        self.answer(request)
    }
}

impl Node {
    /// Carries out an encoded request. It goes on when the caller stops waiting.
    pub(crate) fn answer(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        match Request::decode_bytes(request) {
            Ok(request) => self.answer_request(request),
            Err(error) => {
                let refused = Response::refused(RefusedKind::Unsupported, error.to_string());
                Box::pin(async move { refused.encode() })
            }
        }
    }

    /// Carries out a request. It goes on when the caller stops waiting.
    pub(crate) fn answer_request(&self, request: Request) -> BoxFuture<'static, Bytes> {
        let node = self.clone();
        let task = self.runtime.spawn(async move {
            let response = node.dispatch(request).await;
            if matches!(&response, Response::Refused(refused) if refused.kind == RefusedKind::StaleEpoch) {
                node.stale_epochs.fetch_add(1, Ordering::Relaxed);
            }
            response.encode()
        });
        // It may have been at anything.
        let closing =
            || Response::refused(RefusedKind::OutcomeUnknown, "the node is closing").encode();
        Box::pin(async move { task.await.unwrap_or_else(|_| closing()) })
    }

    async fn dispatch(&self, request: Request) -> Response {
        match request {
            Request::Write {
                shard,
                body,
                durability,
                conditions,
                deadline_ms,
                session,
                ..
            } => {
                // A stranger's bytes: checked whole before anything is assigned.
                if let Err(error) = check_encoded(&body) {
                    return Response::refused(RefusedKind::Unsupported, error.to_string());
                }
                let request = WriteRequest {
                    body,
                    conditions: conditions.into_iter().map(condition).collect(),
                    durability,
                    deadline: deadline(deadline_ms),
                    session: session.map(SessionUse::Write),
                };
                let written = |version| Response::Written { version };
                self.serve_write(shard, request, written).await
            }
            Request::OpenSession {
                shard,
                session,
                deadline_ms,
            } => {
                let request = WriteRequest::opening(session, deadline(deadline_ms));
                let opened = |version| Response::SessionOpened {
                    version,
                    in_flight_max: LIMITS.in_flight.into(),
                };
                self.serve_write(shard, request, opened).await
            }
            Request::Get { shard, keys } => self.serve_get(shard, keys).await,
            Request::Scan { shard, scan } => self.serve_scan(shard, scan).await,
            Request::Survey { shard } => migrate::answer_survey(self, shard).await,
            other => migrate::serve(self, other).await,
        }
    }

    async fn serve_write(
        &self,
        shard: ShardId,
        request: WriteRequest,
        done: impl FnOnce(EntryVersion) -> Response,
    ) -> Response {
        match self.local_write(shard, &request, Inline::Never).await {
            Ok(Local::Done(version)) => done(to_wire(version)),
            Ok(Local::Elsewhere { owner, epoch }) => Response::Moved { owner, epoch },
            Err(Error::ConditionFailed { key, found }) => {
                let at = request
                    .conditions
                    .iter()
                    .position(|condition| condition.key == key);
                Response::ConditionFailed {
                    index: at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX),
                    found: found.map(to_wire),
                }
            }
            Err(error) => refuse(&error),
        }
    }

    async fn serve_get(&self, shard: ShardId, keys: Vec<Bytes>) -> Response {
        let read = move |store: &Store| Ok(store.read(&keys)?);
        match self.local_read(shard, None, false, read).await {
            Ok(Local::Done(values)) => {
                let wire = |(value, version)| (value, to_wire(version));
                Response::Values(values.into_iter().map(|value| value.map(wire)).collect())
            }
            Ok(Local::Elsewhere { owner, epoch }) => Response::Moved { owner, epoch },
            Err(error) => refuse(&error),
        }
    }

    async fn serve_scan(&self, shard: ShardId, scan: ScanRequest) -> Response {
        let read = move |store: &Store| {
            let options = scan_options(&scan);
            let most = usize::try_from(scan.limit).unwrap_or(usize::MAX);
            let bytes = usize::try_from(scan.max_bytes).unwrap_or(usize::MAX);
            let snapshot = store.snapshot()?;
            Ok(Shown {
                value: snapshot.page(&options.range(), None, most.max(1), bytes)?,
                seq: snapshot.applied().seq,
            })
        };
        match self.local_read(shard, None, false, read).await {
            Ok(Local::Done(page)) => Response::Entries {
                done: page.cursor.is_none(),
                entries: page
                    .entries
                    .into_iter()
                    .map(|entry| DataEntry {
                        key: entry.key,
                        value: entry.value,
                        version: to_wire(entry.version),
                    })
                    .collect(),
            },
            Ok(Local::Elsewhere { owner, epoch }) => Response::Moved { owner, epoch },
            Err(error) => refuse(&error),
        }
    }
}

/// Until when a request may be taken that leaves so many milliseconds; 0 is for ever.
fn deadline(within_ms: u64) -> Option<Instant> {
    let within = (within_ms > 0).then_some(Duration::from_millis(within_ms));
    within.and_then(|within| Instant::now().checked_add(within))
}

fn condition(condition: WireCondition) -> Condition {
    Condition {
        key: condition.key,
        expected: match condition.expect {
            Expect::Absent => Expected::Absent,
            Expect::Version(version) => Expected::Version(from_wire(version)),
        },
    }
}

/// The range of a page, as the store takes it.
fn scan_options(scan: &ScanRequest) -> ScanOptions {
    let bound = |bound: &ScanBound| match bound {
        ScanBound::Open => Bound::Unbounded,
        ScanBound::Included(key) => Bound::Included(key.clone()),
        ScanBound::Excluded(key) => Bound::Excluded(key.clone()),
    };
    let options = ScanOptions::between(bound(&scan.from), bound(&scan.to));
    if scan.reverse {
        options.reverse()
    } else {
        options
    }
}

/// Says an error to who asked. Of a write only an unknown outcome may have been carried out.
fn refuse(error: &Error) -> Response {
    let kind = match error {
        Error::Closed => RefusedKind::NotReady,
        Error::DeadlineNotApplied { .. } | Error::Log(LogError::Busy { .. }) => RefusedKind::Busy,
        Error::OutcomeUnknown { .. } => RefusedKind::OutcomeUnknown,
        Error::UnknownSession { .. } => RefusedKind::UnknownSession,
        Error::SessionExists { .. } => RefusedKind::Conflict,
        Error::Settled { .. } => RefusedKind::Settled,
        Error::SessionFull { .. } => RefusedKind::SessionFull,
        Error::NoShard { .. } => RefusedKind::NotOwner,
        Error::Log(LogError::Full { .. }) => RefusedKind::NoRoom,
        Error::Store(store) if store.is_no_room() => RefusedKind::NoRoom,
        _ => RefusedKind::Failed,
    };
    Response::refused(kind, error.to_string())
}

//! The HTTP side: `GET`, `PUT` and `DELETE` of `/kv/{key}`, where shards are, and moving one.
//!
//! A version is the `ETag`. `If-Match: "VERSION"` writes only over that version, `If-None-Match: *` only where there is no
//! value; the engine decides both in the moment in which it gives the write its number. Conditional writes can be sent
//! again without harm, also after an unknown outcome.
//!
//! Who asks for a key of another node gets its answer from this one, for the engine asks the owner over its own link.
//! That is what most services want: clients and load balancers know nothing of shards, and a cutover is only latency.
//! It costs a hop. With `--redirect` the service sends clients to the owner instead (307), for clients that can reach
//! every node and follow redirects, and where values are large.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use watershed::{Engine, Error, MAX_VALUE_BYTES, NodeId, Placement, ShardId, Version, Write};

use crate::answers::{Asked, Problem, etag};

/// How long a request may take, in milliseconds, as its client says.
const DEADLINE: &str = "x-deadline-ms";
/// What applies where it does not say.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_DEADLINE_MS: u64 = 60_000;
/// How long behind its deadline a write's outcome is waited for: the engine itself ends what it did not take.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(2);

/// What the routes answer from.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) placement: Arc<dyn Placement>,
    /// Where the nodes' HTTP services are.
    pub(crate) sites: BTreeMap<NodeId, String>,
    pub(crate) redirect: bool,
}

pub(crate) fn routes(app: App) -> Router {
    Router::new()
        .route("/kv/{key}", get(read).put(put).delete(delete))
        .route("/shards", get(shards))
        // For operators: in earnest on a port of its own, or with `watershed shard migrate`.
        .route("/shards/{shard}/owner/{node}", post(move_shard))
        .layer(DefaultBodyLimit::max(MAX_VALUE_BYTES))
        .with_state(Arc::new(app))
}

async fn read(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let within = deadline(&headers)?;
    app.or_redirect(&key, &uri).await?;
    let found = app.engine.get_versioned(&key).deadline(within);
    let found = found
        .await
        .map_err(|error| app.explain(&error, Asked::Read, &uri))?;
    let Some((value, version)) = found else {
        let message = format!("there is no key {key:?}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-key", message));
    };
    let tag = etag(version);
    let known = text(&headers, &IF_NONE_MATCH)?;
    if known.is_some_and(|known| known == "*" || known.trim_start_matches("W/") == tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(([(ETAG, tag)], value).into_response())
}

async fn put(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    value: Bytes,
) -> Result<Response, Problem> {
    let write = app.engine.put(&key, &value);
    let version = app.write(&key, &headers, &uri, write).await?;
    let status = match headers.contains_key(IF_NONE_MATCH) {
        true => StatusCode::CREATED,
        false => StatusCode::NO_CONTENT,
    };
    Ok((status, [(ETAG, etag(version))]).into_response())
}

async fn delete(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    let write = app.engine.delete(&key);
    app.write(&key, &headers, &uri, write).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn shards(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "node": app.engine.node_id(), "owns": app.engine.shards() }))
}

/// Moves a shard, and answers with the certificate once its new owner serves. It goes on when the client leaves.
async fn move_shard(
    State(app): State<Arc<App>>,
    Path((shard, node)): Path<(u64, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    let explain = |error: Error| app.explain(&error, Asked::Write, &uri);
    let migration = app.engine.migrate(ShardId(shard)).to(node);
    let migration = migration.start_async().await.map_err(explain)?;
    let certificate = migration.served().await.map_err(explain)?;
    Ok(Json(certificate).into_response())
}

impl App {
    async fn write(
        &self,
        key: &str,
        headers: &HeaderMap,
        uri: &Uri,
        write: Write,
    ) -> Result<Version, Problem> {
        let within = deadline(headers)?;
        let write = match condition(headers)? {
            Condition::None => write,
            Condition::Absent => write.if_absent(key),
            Condition::Version(version) => write.if_version(key, version),
        };
        self.or_redirect(key, uri).await?;
        // Dropped, by the client's leaving or by this time-out, it never happens or commits whole.
        let written = write.deadline(within).into_future();
        let written = tokio::time::timeout(within + OUTCOME_PATIENCE, written).await;
        let written = written.unwrap_or_else(|_| {
            Err(Error::OutcomeUnknown {
                shard: self.engine.shard_of(key),
                reason: "no outcome by its deadline".into(),
            })
        });
        written.map_err(|error| self.explain(&error, Asked::Write, uri))
    }

    /// Sends the client to the owner, where that is wanted, the key is another node's, and its address is known.
    async fn or_redirect(&self, key: &str, uri: &Uri) -> Result<(), Problem> {
        let shard = self.engine.shard_of(key);
        if !self.redirect || self.engine.shards().contains(&shard) {
            return Ok(());
        }
        // Only a hint, as every answer about a place is: an owner that has moved on answers all the same. Without a
        // placement the engine does what it can.
        let Ok(Some(record)) = self.placement.read(shard).await else {
            return Ok(());
        };
        match self.location(&record.owner, uri) {
            Some(location) if record.owner != *self.engine.node_id() => {
                Err(Problem::moved(location))
            }
            // This node has just become the owner: the engine waits until it serves.
            _ => Ok(()),
        }
    }

    /// What to say to an error; a client may reach an owner that this node can't.
    fn explain(&self, error: &Error, asked: Asked, uri: &Uri) -> Problem {
        match error {
            Error::Moved { owner, .. } => self.location(owner, uri).map(Problem::moved),
            _ => None,
        }
        .unwrap_or_else(|| Problem::of(error, asked))
    }

    fn location(&self, owner: &NodeId, uri: &Uri) -> Option<String> {
        let site = self.sites.get(owner)?;
        Some(format!("http://{site}{uri}"))
    }
}

/// What a write depends on.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    None,
    Absent,
    Version(Version),
}

fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    match (text(headers, &IF_MATCH)?, text(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::None),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(tag), None) => {
            let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = version.and_then(|version| version.parse().ok());
            version.map(Condition::Version).ok_or_else(|| {
                Problem::bad_request(format!(
                    "If-Match: {tag} is not the ETag of a read: give one, quotes included"
                ))
            })
        }
        _ => Err(Problem::bad_request(
            "a write takes If-Match with one ETag, or If-None-Match: *",
        )),
    }
}

fn deadline(headers: &HeaderMap) -> Result<Duration, Problem> {
    let name = HeaderName::from_static(DEADLINE);
    let Some(given) = text(headers, &name)? else {
        return Ok(DEFAULT_DEADLINE);
    };
    match given.parse() {
        Ok(ms @ 1..=LONGEST_DEADLINE_MS) => Ok(Duration::from_millis(ms)),
        _ => Err(Problem::bad_request(format!(
            "{DEADLINE}: {given} is no number of milliseconds from 1 to {LONGEST_DEADLINE_MS}"
        ))),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name).iter();
    let (first, second) = (all.next(), all.next());
    if second.is_some() {
        return Err(Problem::bad_request(format!("{name} is given twice")));
    }
    let value = first.map(|value| value.to_str()).transpose();
    value.map_err(|_| Problem::bad_request(format!("{name} is not text")))
}

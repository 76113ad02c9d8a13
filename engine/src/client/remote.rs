//! Requests of a client: each goes to the owner as last heard, and again where that was not the owner, or was not there.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::{Handle, Runtime};
use tokio::time::Instant;
use watershed_migration::NodeId;
use watershed_migration::messages::{RefusedKind, Request, Response, ScanRequest};
use watershed_wal::{Epoch, ShardId};

use super::map::Map;
use super::sessions::{Session, Sessions, Ticket, new_id};
use crate::Error;
use crate::engine::apart;
use crate::forward::{
    self, Patience, REPLY_PATIENCE, Sent, again_or_error, answered, out_of_patience, write_message,
};
use crate::net::client_proto::MapRequest;
use crate::net::{CLIENT_CALL, CLIENT_MAP, NetLink, Security};
use crate::node::from_wire;
use crate::shard::{SessionUse, WriteRequest};
use crate::store::{Entry, Version};
use crate::sync;

/// Threads for connections and timers.
const RUNTIME_THREADS: usize = 2;
/// How long a try of a write waits for its answer before the write is sent again.
const TRY_FOR: Duration = Duration::from_secs(3);
/// How long one node may take to say who owns what.
const MAP_WITHIN: Duration = Duration::from_secs(3);

/// A handle on a cluster; clones are the same one.
#[derive(Clone)]
pub(crate) struct Remote(Arc<Inner>);

struct Inner {
    link: NetLink,
    seeds: Vec<String>,
    runtime: Handle,
    map: RwLock<Arc<Map>>,
    /// Counts the maps heard. One at a time asks; who waited for that asks only if none came.
    heard: tokio::sync::Mutex<u64>,
    sessions: Sessions,
    requests: AtomicU64,
    alive: RwLock<bool>,
}

impl Remote {
    /// Connects, on a runtime of its own, which the caller must end apart from any other.
    pub(crate) fn start(seeds: Vec<String>, security: Security) -> Result<(Self, Runtime), Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("ws-client")
            .enable_all()
            .build()
            .map_err(|error| Error::io("start threads for", ".", error))?;
        match apart(|| runtime.block_on(Self::connect(seeds, security))) {
            Ok(remote) => Ok((remote, runtime)),
            Err(error) => {
                apart(|| drop(runtime));
                Err(error)
            }
        }
    }

    async fn connect(seeds: Vec<String>, security: Security) -> Result<Self, Error> {
        if seeds.is_empty() {
            let what = "a client needs the address of a node of its cluster, as HOST:PORT".into();
            return Err(Error::Options { what });
        }
        let remote = Self(Arc::new(Inner {
            link: NetLink::of_client(security)?,
            seeds,
            runtime: Handle::current(),
            map: RwLock::default(),
            heard: tokio::sync::Mutex::new(0),
            sessions: Sessions::default(),
            requests: AtomicU64::new(0),
            alive: RwLock::new(true),
        }));
        remote.hear(&remote.map()).await?;
        Ok(remote)
    }

    fn map(&self) -> Arc<Map> {
        sync::read(&self.0.map).clone()
    }

    pub(crate) fn shards(&self) -> u64 {
        self.map().shards.max(1)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub(crate) fn requests(&self) -> &AtomicU64 {
        &self.0.requests
    }

    pub(crate) fn alive(&self) -> &RwLock<bool> {
        &self.0.alive
    }

    /// The connections.
    pub(crate) fn link(&self) -> &NetLink {
        &self.0.link
    }

    /// The nodes that are known.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.map().nodes.keys().cloned().collect()
    }

    /// Ends its requests: before the runtime ends.
    pub(crate) fn retire(&self) {
        *sync::write(&self.0.alive) = false;
    }

    pub(crate) async fn all_shards(&self) -> Result<Vec<ShardId>, Error> {
        // Shards may have been made or dropped.
        self.hear(&self.map()).await?;
        Ok(self.map().all_shards())
    }

    /// Asks who owns what now, unless that was heard since `before` was.
    async fn hear(&self, before: &Arc<Map>) -> Result<(), Error> {
        let mut heard = self.0.heard.lock().await;
        if !Arc::ptr_eq(before, &self.map()) && before.shards > 0 {
            return Ok(());
        }
        let mut reasons = Vec::new();
        let nodes = before.nodes.keys().map(|node| Place::Node(node.clone()));
        let seeds = self.0.seeds.iter().map(|seed| Place::Address(seed.clone()));
        // Not always the same one first: it may be the one that is in trouble.
        let mut places: Vec<Place> = nodes.collect();
        let turn = usize::try_from(*heard).unwrap_or(0) % places.len().max(1);
        places.rotate_left(turn);
        places.extend(seeds);
        *heard = heard.wrapping_add(1);
        for place in places {
            match self.ask_map(&place).await {
                Ok(map) => {
                    self.take(map);
                    return Ok(());
                }
                Err(reason) => reasons.push(format!("{place}: {reason}")),
            }
        }
        Err(Error::Unreachable {
            reason: reasons.join("; "),
        })
    }

    async fn ask_map(&self, place: &Place) -> Result<Map, String> {
        let link = &self.0.link;
        let question = MapRequest {}.encode_to_vec().into();
        let asked = async {
            match place {
                Place::Node(node) => link
                    .ask(node, CLIENT_MAP, question)
                    .await
                    .map_err(|error| error.to_string()),
                Place::Address(address) => link.ask_at(address, CLIENT_MAP, question).await,
            }
        };
        let answer = tokio::time::timeout(MAP_WITHIN, asked).await;
        let answer = answer.map_err(|_| format!("no answer within {MAP_WITHIN:?}"))??;
        Map::decode(&answer)
    }

    fn take(&self, heard: Map) {
        for (node, address) in &heard.nodes {
            self.0.link.know(node.clone(), address.as_str());
        }
        let mut map = sync::write(&self.0.map);
        let mut next = Map::clone(&map);
        next.replace(heard);
        *map = Arc::new(next);
    }

    fn learn(&self, shard: ShardId, owner: NodeId, epoch: Epoch) -> bool {
        let mut map = sync::write(&self.0.map);
        let mut next = Map::clone(&map);
        let news = next.learn(shard, owner, epoch);
        if news {
            *map = Arc::new(next);
        }
        news
    }

    /// The owner as last heard.
    async fn owner(&self, shard: ShardId) -> Result<(NodeId, Epoch), Error> {
        for _ in 0..2 {
            let map = self.map();
            if let Some(owner) = map.owner(shard) {
                return Ok(owner.clone());
            }
            self.hear(&map).await?;
        }
        Err(Error::NoShard { shard })
    }

    async fn send(&self, owner: &NodeId, message: &Request) -> Sent {
        let called = self.0.link.ask(owner, CLIENT_CALL, message.encode());
        Sent::of(owner, called.await)
    }

    /// After an answer that was none: finds out whom to ask next, and waits where it is the same one.
    async fn again(&self, turn: Turn, patience: &mut Patience) -> bool {
        match turn {
            // The old owner names the new one: asked at once.
            Turn::Moved(shard, owner, epoch) if self.learn(shard, owner.clone(), epoch) => {
                if self.map().nodes.contains_key(&owner) {
                    return true;
                }
                self.hear_quietly().await;
            }
            Turn::Moved(..) => {}
            Turn::Ask => self.hear_quietly().await,
            Turn::Wait => {}
        }
        patience.again().await
    }

    async fn hear_quietly(&self) {
        if let Err(error) = self.hear(&self.map()).await {
            tracing::debug!(%error, "who owns what can't be asked now");
        }
    }

    /// Writes to a shard, wherever it is. What got no answer is sent again: it is carried out once (rule 17).
    pub(crate) async fn write(
        &self,
        shard: ShardId,
        request: &WriteRequest,
    ) -> Result<Version, Error> {
        let mut patience = Patience::until(request.deadline);
        loop {
            let session = self.session(shard, &mut patience, request.deadline).await?;
            let ticket = session.take().await;
            match self
                .write_once(shard, request, &ticket, &mut patience)
                .await?
            {
                Some(version) => return Ok(version),
                // Its shard has forgotten the session, and took nothing of this write.
                None => self.0.sessions.forget(shard, ticket.mark().session),
            }
        }
    }

    /// One write of a session; `None` where the session is not known any more, and no try of the write can have been
    /// taken.
    async fn write_once(
        &self,
        shard: ShardId,
        request: &WriteRequest,
        ticket: &Ticket,
        patience: &mut Patience,
    ) -> Result<Option<Version>, Error> {
        let mut request = request.clone();
        let mut lost = None;
        loop {
            let (owner, epoch) = known_lost(shard, &lost, self.owner(shard).await)?;
            request.session = Some(SessionUse::Write(ticket.mark()));
            let message = write_message(shard, epoch, &request);
            let (turn, reason) = match self.try_once(&owner, &message, request.deadline).await {
                Sent::Answer(Response::Written { version }) => {
                    return Ok(Some(from_wire(version)));
                }
                Sent::Answer(Response::ConditionFailed { index, found }) => {
                    return Err(request.condition_failed(index, found.map(from_wire)));
                }
                Sent::Answer(Response::Refused(refused))
                    if refused.kind == RefusedKind::UnknownSession && lost.is_none() =>
                {
                    return Ok(None);
                }
                Sent::Answer(Response::Refused(refused))
                    if matches!(
                        refused.kind,
                        RefusedKind::OutcomeUnknown
                            | RefusedKind::Unknown
                            | RefusedKind::SessionFull
                    ) =>
                {
                    if refused.kind != RefusedKind::SessionFull {
                        lost.get_or_insert_with(|| refused.message.clone());
                    }
                    (Turn::Wait, refused.message)
                }
                Sent::Answer(other) => known_lost(shard, &lost, turn(shard, &owner, other))?,
                Sent::Again(reason) => (Turn::Ask, reason),
                Sent::Lost(reason) => {
                    lost.get_or_insert_with(|| reason.clone());
                    (Turn::Ask, reason)
                }
            };
            if !self.again(turn, patience).await {
                let error = out_of_patience(shard, owner, epoch, request.deadline, &reason);
                return known_lost(shard, &lost, Err(error));
            }
        }
    }

    /// One try of a write, which is given up before its connection is: sending it again does no harm.
    async fn try_once(&self, owner: &NodeId, message: &Request, deadline: Option<Instant>) -> Sent {
        let within = Instant::now() + TRY_FOR;
        let last = deadline.and_then(|deadline| deadline.checked_add(REPLY_PATIENCE));
        let until = last.map_or(within, |last| last.min(within));
        match tokio::time::timeout_at(until, self.send(owner, message)).await {
            Ok(sent) => sent,
            Err(_) => Sent::Lost(format!("node {owner} gave no answer in time")),
        }
    }

    /// The client's session in a shard, opened where there is none.
    async fn session(
        &self,
        shard: ShardId,
        patience: &mut Patience,
        deadline: Option<Instant>,
    ) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.0.sessions.of(shard) {
            return Ok(session);
        }
        let _alone = self.0.sessions.opening.lock().await;
        loop {
            if let Some(session) = self.0.sessions.of(shard) {
                return Ok(session);
            }
            let (owner, epoch) = self.owner(shard).await?;
            // A new one each time: an opening without an answer leaves a session that nobody uses.
            let id = new_id();
            let message = write_message(shard, epoch, &WriteRequest::opening(id, deadline));
            let (turn, reason) = match self.try_once(&owner, &message, deadline).await {
                Sent::Answer(Response::SessionOpened { in_flight_max, .. }) => {
                    return Ok(self.0.sessions.opened(shard, id, in_flight_max));
                }
                Sent::Answer(Response::Refused(refused))
                    if matches!(
                        refused.kind,
                        RefusedKind::OutcomeUnknown | RefusedKind::Unknown
                    ) =>
                {
                    (Turn::Wait, refused.message)
                }
                Sent::Answer(other) => turn(shard, &owner, other)?,
                Sent::Again(reason) | Sent::Lost(reason) => (Turn::Ask, reason),
            };
            if !self.again(turn, patience).await {
                return Err(out_of_patience(shard, owner, epoch, deadline, &reason));
            }
        }
    }

    /// Reads keys of one shard, wherever it is.
    pub(crate) async fn get(
        &self,
        shard: ShardId,
        keys: Vec<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Option<(Bytes, Version)>>, Error> {
        let wanted = keys.len();
        let message = Request::Get { shard, keys };
        self.ask(shard, &message, deadline, |response| match response {
            Response::Values(values) if values.len() == wanted => Ok(forward::values(values)),
            other => Err(Box::new(other)),
        })
        .await
    }

    /// One page of a scan.
    pub(crate) async fn page(
        &self,
        shard: ShardId,
        scan: ScanRequest,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let message = Request::Scan { shard, scan };
        self.ask(shard, &message, None, |response| match response {
            Response::Entries { entries, done } => Ok((forward::entries(entries), done)),
            other => Err(Box::new(other)),
        })
        .await
    }

    /// A question that may be asked as often as it takes. `read` takes the answer, or gives it back.
    async fn ask<T>(
        &self,
        shard: ShardId,
        message: &Request,
        deadline: Option<Instant>,
        read: impl Fn(Response) -> Result<T, Box<Response>>,
    ) -> Result<T, Error> {
        let mut patience = Patience::until(deadline);
        loop {
            let (owner, epoch) = self.owner(shard).await?;
            let sent = async { Ok(self.send(&owner, message).await) };
            let (turn, reason) = match answered(deadline, sent).await? {
                Sent::Answer(response) => match read(response) {
                    Ok(answer) => return Ok(answer),
                    Err(other) => turn(shard, &owner, *other)?,
                },
                Sent::Again(reason) | Sent::Lost(reason) => (Turn::Ask, reason),
            };
            if !self.again(turn, &mut patience).await {
                return Err(out_of_patience(shard, owner, epoch, deadline, &reason));
            }
        }
    }
}

/// Whom to ask for the map.
enum Place {
    Node(NodeId),
    Address(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Address(address) => f.write_str(address),
        }
    }
}

/// An error that says that a write did not happen is wrong where an earlier try of it may have been taken.
fn known_lost<T>(
    shard: ShardId,
    lost: &Option<String>,
    result: Result<T, Error>,
) -> Result<T, Error> {
    result.map_err(|error| match lost {
        None => error,
        Some(reason) => Error::OutcomeUnknown {
            shard,
            reason: format!("{reason}; then: {error}"),
        },
    })
}

/// What comes before the next try.
enum Turn {
    Moved(ShardId, NodeId, Epoch),
    /// Who owns what is to be asked.
    Ask,
    /// The owner is right, and not ready.
    Wait,
}

/// What an answer that is none means for the next try, and why there is one; or the error.
fn turn(shard: ShardId, owner: &NodeId, answer: Response) -> Result<(Turn, String), Error> {
    match answer {
        Response::Moved { owner, epoch } => {
            let reason = format!("the shard moved to node {owner}");
            Ok((Turn::Moved(shard, owner, epoch), reason))
        }
        Response::Refused(refused) if refused.kind == RefusedKind::NotOwner => {
            Ok((Turn::Ask, refused.message))
        }
        other => {
            let reason = again_or_error(shard, owner, other)?;
            Ok((Turn::Wait, reason))
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("seeds", &self.0.seeds)
            .field("requests", &self.0.requests.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

//! Two services in one process, as they would be in two: clients write to both while shards move to and fro, and every
//! acknowledged write is read back from both, also after both were stopped and started again.
//!
//! Each client changes keys of its own and names the version that it changes, so a write that is lost, repeated or comes
//! back is a condition that fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use watershed::net::Security;
use watershed::{Error, ShardId};

use crate::Failure;
use crate::answers::{Asked, Problem};
use crate::client::{Answer, Ask, Client};
use crate::service::{Service, Settings};

const CLIENTS: usize = 4;
const KEYS: usize = 40;
/// The shards that go from a to b, one after the other; the first of them goes back.
const MOVED: [u64; 4] = [0, 1, 2, 3];
/// So many more writes are acknowledged before the next move begins.
const BETWEEN: u64 = 100;
/// For the answer that a deadline is to bring about.
const SHORT: (&str, &str) = ("x-deadline-ms", "200");

/// A key's last value and its ETag, or that it was deleted.
type Written = BTreeMap<String, Option<(Vec<u8>, String)>>;

/// The two services, and where their clients find them.
struct Pair {
    a: Service,
    b: Service,
    sites: [String; 2],
}

pub(crate) async fn run() -> Result<(), Failure> {
    unknown_outcomes_are_told_apart();
    let dir = tempfile::tempdir()?;
    let pair = Pair::start(dir.path()).await?;
    let mut written = load(&pair).await?;
    pair.check(&written).await?;
    pair.conditions_are_kept().await?;

    let sites = pair.sites.clone();
    let (key, value) = pair.closes_gracefully().await?;
    written.insert(key, Some(value));
    let pair = Pair::start(dir.path()).await?;
    assert_ne!(pair.sites, sites);
    pair.check(&written).await?;
    println!("and all of it again after both were stopped and started");
    pair.b.close().await?;
    pair.a.close().await
}

impl Pair {
    /// `a` serves the map of owners and asks owners itself, `b` sends clients to them.
    async fn start(dir: &Path) -> Result<Self, Failure> {
        let local = ("127.0.0.1", 0);
        let (at_a, at_b) = (
            TcpListener::bind(local).await?,
            TcpListener::bind(local).await?,
        );
        let sites = [&at_a, &at_b].map(TcpListener::local_addr);
        let [site_a, site_b] = sites.map(|site| site.map(|site| site.to_string()));
        let sites = [site_a?, site_b?];
        let settings = |node: &str, redirect| -> Result<Settings, Failure> {
            let names = ["a", "b"].into_iter().zip(&sites);
            let names = names.map(|(name, site)| Ok((name.parse()?, site.clone())));
            Ok(Settings {
                node: node.parse()?,
                dir: dir.join(node),
                peer: ([127, 0, 0, 1], 0).into(),
                placement: None,
                security: Security::Insecure,
                sites: names.collect::<Result<_, Failure>>()?,
                redirect,
            })
        };
        let a = Service::start(settings("a", false)?, at_a).await?;
        let mut to_b = settings("b", true)?;
        to_b.placement = Some(("a".parse()?, a.peer_address().to_string()));
        let b = Service::start(to_b, at_b).await?;
        Ok(Self { a, b, sites })
    }

    /// Every acknowledged write is there, whichever service is asked: one asks the owner, the other names it.
    async fn check(&self, written: &Written) -> Result<(), Failure> {
        let mut client = Client::default();
        let mut redirected = 0;
        for (key, expected) in written {
            for site in &self.sites {
                let ask = Ask {
                    method: "GET",
                    path: &path(key),
                    headers: &[],
                };
                let (answer, hops) = follow(&mut client, site, ask, b"").await?;
                redirected += hops;
                match expected {
                    None => assert_eq!(answer.status, 404, "{key} was deleted: {answer:?}"),
                    Some((value, tag)) => {
                        assert_eq!(answer.status, 200, "{key}: {answer:?}");
                        assert_eq!(
                            (&answer.body, &answer.headers["etag"]),
                            (value, tag),
                            "{key}"
                        );
                    }
                }
            }
        }
        assert!(redirected > 0, "b sends clients to a");
        let there = written.values().flatten().count();
        assert!(there > 0 && there < written.len());
        println!(
            "{there} keys are as they were written, the other {} are deleted",
            written.len() - there
        );
        Ok(())
    }

    /// A key that `b` owns, which no client writes.
    fn key_of_b(&self) -> String {
        let owned = self.b.engine.shards();
        let mut keys = (0..).map(|number| format!("of-b-{number}"));
        keys.find(|key| owned.contains(&self.b.engine.shard_of(key)))
            .expect("b owns shards, and keys are spread over all of them")
    }

    /// What conditions and bad headers are answered with.
    async fn conditions_are_kept(&self) -> Result<(), Failure> {
        let mut client = Client::default();
        let path = path(&self.key_of_b());
        let mut send = async |method, headers: &[(&str, &str)], body: &'static [u8]| {
            let ask = Ask {
                method,
                path: &path,
                headers,
            };
            client.send(&self.sites[0], ask, body).await
        };
        let first = send("PUT", &[("if-none-match", "*")], b"1").await?;
        let tag = first.headers["etag"].clone();
        let again = send("PUT", &[("if-none-match", "*")], b"2").await?;
        assert_eq!((first.status, again.status), (201, 412));
        assert_eq!(again.headers["etag"], tag, "the version that is there");
        let second = send("PUT", &[("if-match", &tag)], b"3").await?;
        let late = send("PUT", &[("if-match", &tag)], b"4").await?;
        assert_eq!((second.status, late.status), (204, 412));
        let known = second.headers["etag"].clone();
        let same = send("GET", &[("if-none-match", &known)], b"").await?;
        let other = send("GET", &[("if-none-match", &tag)], b"").await?;
        assert_eq!((same.status, other.status), (304, 200));
        assert_eq!(other.body, b"3");
        for wrong in [
            ("x-deadline-ms", "soon"),
            ("if-match", "1.1.1"),
            ("if-none-match", "\"1.1.1\""),
        ] {
            let answer = send("PUT", &[wrong], b"5").await?;
            assert_eq!(answer.status, 400, "{wrong:?}: {answer:?}");
        }
        let gone = send("DELETE", &[("if-match", &known)], b"").await?;
        let after = send("GET", &[], b"").await?;
        assert_eq!((gone.status, after.status), (204, 404));
        Ok(())
    }

    /// Stops `b` while it has a request: that one is finished. Its keys are then not to be had, which `a` says in time.
    /// Gives what was written.
    async fn closes_gracefully(self) -> Result<(String, (Vec<u8>, String)), Failure> {
        let key = self.key_of_b();
        let path = path(&key);
        let mut client = Client::default();
        let (site_a, site_b) = (&self.sites[0], &self.sites[1]);
        let value = b"written while the service stopped";
        let put = Ask {
            method: "PUT",
            path: &path,
            headers: &[("expect", "100-continue")],
        };
        let connection = client.begin(site_b, put, value.len()).await?;
        // Said when the request is being carried out and its body is waited for.
        let mut goes_on = String::new();
        connection.read_line(&mut goes_on).await?;
        assert!(goes_on.contains("100 Continue"), "{goes_on}");
        connection.read_line(&mut goes_on).await?;
        self.b.begin_to_stop();
        connection.write_all(value).await?;
        let finished = client.finish(site_b).await?;
        assert_eq!(finished.status, 204, "{finished:?}");
        self.b.close().await?;

        for (method, body) in [
            ("GET", &b""[..]),
            ("PUT", b"never applied"),
            ("DELETE", b""),
        ] {
            let ask = Ask {
                method,
                path: &path,
                headers: &[SHORT],
            };
            let answer = client.send(site_a, ask, body).await?;
            assert_eq!(
                answer.status, 503,
                "{method} of a key of a stopped node: {answer:?}"
            );
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        }
        self.a.close().await?;
        println!("b finished its last request, then a said 503 for b's keys");
        Ok((key, (value.to_vec(), finished.headers["etag"].clone())))
    }
}

/// Writes through both services while shards move; gives what was acknowledged.
async fn load(pair: &Pair) -> Result<Written, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let count = watch::Sender::new(0_u64);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let site = pair.sites[number % 2].clone();
        clients.spawn(write(site, number, count.clone(), stop.clone()));
    }
    tokio::select! {
        moved = moves(&pair.sites, count.subscribe()) => moved?,
        ended = clients.join_next() => {
            return Err(format!("a client ended early: {ended:?}").into());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = Written::new();
    while let Some(ended) = clients.join_next().await {
        written.extend(ended??);
    }
    for shard in &MOVED[1..] {
        assert!(pair.b.engine.shards().contains(&ShardId(*shard)));
    }
    assert!(pair.a.engine.shards().contains(&ShardId(MOVED[0])));
    println!(
        "{} writes acknowledged while {} shards moved",
        *count.borrow(),
        MOVED.len() + 1
    );
    Ok(written)
}

async fn moves(sites: &[String; 2], mut count: watch::Receiver<u64>) -> Result<(), Failure> {
    let mut client = Client::default();
    let back = (MOVED[0], "a", &sites[1]);
    let there = MOVED.iter().map(|shard| (*shard, "b", &sites[0]));
    for (shard, to, at) in there.chain([back]) {
        let until = *count.borrow() + BETWEEN;
        count.wait_for(|count| *count >= until).await?;
        let ask = Ask {
            method: "POST",
            path: &format!("/shards/{shard}/owner/{to}"),
            headers: &[],
        };
        let answer = client.send(at, ask, b"").await?;
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    let until = *count.borrow() + BETWEEN;
    count.wait_for(|count| *count >= until).await?;
    Ok(())
}

/// One client: makes, changes and deletes its keys, each time only if they are as it left them.
async fn write(
    site: String,
    number: usize,
    count: watch::Sender<u64>,
    stop: Arc<AtomicBool>,
) -> Result<Written, Failure> {
    let mut client = Client::default();
    let mut written = Written::new();
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{number}-{}", round % KEYS);
        let value = format!("{number} wrote {round}").into_bytes();
        let before = written.get(&key).cloned().flatten();
        let condition = match &before {
            Some((_, tag)) => ("if-match", tag.as_str()),
            None => ("if-none-match", "*"),
        };
        let deletes = before.is_some() && round % 3 == 0;
        let method = if deletes { "DELETE" } else { "PUT" };
        let body = if deletes { &[] } else { &value[..] };
        let ask = Ask {
            method,
            path: &path(&key),
            headers: &[condition],
        };
        let answer = settle(&mut client, &site, ask, body).await?;
        let now = match deletes {
            true => None,
            false => Some((value, answer.headers["etag"].clone())),
        };
        written.insert(key, now);
        count.send_modify(|count| *count += 1);
    }
    Ok(written)
}

/// Sends a conditional write until it is known to have happened.
async fn settle(
    client: &mut Client,
    site: &str,
    ask: Ask<'_>,
    body: &[u8],
) -> Result<Answer, Failure> {
    let mut unknown = false;
    loop {
        let (answer, _) = follow(client, site, ask, body).await?;
        match answer.status {
            201 | 204 => return Ok(answer),
            503 => tokio::time::sleep(Duration::from_millis(20)).await,
            // It may have happened, and the same condition can't hold twice: sent again it does no harm.
            504 => unknown = true,
            // That it does not hold any more, with nobody else writing, means that it has happened.
            412 if unknown => {
                let read = Ask {
                    method: "GET",
                    headers: &[],
                    ..ask
                };
                let (found, _) = follow(client, site, read, b"").await?;
                let there = found.status == 200 && found.body == body;
                let gone = found.status == 404 && ask.method == "DELETE";
                assert!(there || gone, "{ask:?} is lost: {found:?}");
                return Ok(found);
            }
            _ => return Err(format!("{ask:?} got {answer:?}").into()),
        }
    }
}

/// Sends a request, and after it where it is sent on to; with how often that was.
async fn follow(
    client: &mut Client,
    site: &str,
    ask: Ask<'_>,
    body: &[u8],
) -> Result<(Answer, usize), Failure> {
    let mut site = site.to_owned();
    let mut hops = 0;
    loop {
        let answer = client.send(&site, ask, body).await?;
        if answer.status != 307 {
            return Ok((answer, hops));
        }
        let location = &answer.headers["location"];
        let there = location
            .strip_prefix("http://")
            .and_then(|there| there.strip_suffix(ask.path));
        site = there
            .ok_or_else(|| format!("sent on to {location}"))?
            .to_owned();
        hops += 1;
    }
}

fn path(key: &str) -> String {
    format!("/kv/{key}")
}

/// A write that may have happened must not be answered like one that did not; of a read nothing can have happened.
fn unknown_outcomes_are_told_apart() {
    let status = |error: &Error, asked| Problem::of(error, asked).into_response().status();
    let unknown = Error::OutcomeUnknown {
        shard: ShardId(1),
        reason: "the log failed".into(),
    };
    let late = Error::DeadlineNotApplied { shard: ShardId(1) };
    for unknown in [&unknown, &Error::Closed] {
        assert_eq!(status(unknown, Asked::Write), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(
            status(unknown, Asked::Read),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    for asked in [Asked::Write, Asked::Read] {
        assert_eq!(status(&late, asked), StatusCode::SERVICE_UNAVAILABLE);
    }
}

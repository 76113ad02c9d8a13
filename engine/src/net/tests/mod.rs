//! The link and the server over real sockets: who is let in, what a failed call says, and shards that move over them.

mod clients;
mod placement;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use watershed_migration::NodeId;
use watershed_migration::messages::MAX_MESSAGE_BYTES;

use super::certs::{self, Wish};
use super::tls::Tls;
use super::*;
use crate::{BoxFuture, Engine, FilePlacement, Link, LinkError, Service, ShardId};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

const NOT_OURS: &str = "not of this cluster's authority";
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An authority's directory.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path(), 10).unwrap();
        Self(dir)
    }

    fn issue(&self, role: Role, name: &str, days: u32) -> TlsFiles {
        let wish = Wish {
            identity: Identity {
                role,
                name: node(name),
            },
            days,
        };
        let into = tempfile::tempdir_in(self.0.path()).unwrap().keep();
        let issued = certs::issue(self.0.path(), &into, &wish).unwrap();
        TlsFiles {
            authority: self.pem(),
            certificate: issued.certificate,
            key: issued.key,
        }
    }

    fn node(&self, name: &str) -> Security {
        Security::Mutual(self.issue(Role::Node, name, 1))
    }

    fn pem(&self) -> PathBuf {
        self.0.path().join(certs::CA_CERTIFICATE)
    }
}

/// Answers with the request behind its own name, and counts.
struct Echo {
    name: &'static str,
    served: AtomicU64,
}

impl Echo {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            served: AtomicU64::new(0),
        })
    }
}

impl Service for Echo {
    fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
        self.served.fetch_add(1, Ordering::SeqCst);
        let answer = [self.name.as_bytes(), &request].concat();
        Box::pin(async move {
            if answer.ends_with(b"never") {
                std::future::pending::<()>().await;
            }
            answer.into()
        })
    }
}

async fn serve(security: Security, service: Arc<dyn Service>) -> NetServer {
    start(LOOPBACK, security, service).await.unwrap()
}

async fn start(
    address: SocketAddr,
    security: Security,
    service: Arc<dyn Service>,
) -> Result<NetServer, NetError> {
    NetServer::start(address, security, NetServices::new(service)).await
}

fn link(own: &str, security: Security, peers: &[(&str, SocketAddr)]) -> NetLink {
    let link = NetLink::new(&node(own), security).unwrap();
    for (name, address) in peers {
        link.know(node(name), address.to_string());
    }
    link
}

async fn ask(link: &NetLink, to: &str, what: impl Into<Bytes>) -> Result<Bytes, LinkError> {
    link.call(&node(to), what.into()).await
}

/// The reason why nothing was carried out.
async fn refused(link: &NetLink, to: &str) -> String {
    match ask(link, to, "x").await {
        Err(LinkError::Unreachable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Asks until the answer is what it should become; between tries a connection's failure is remembered a moment.
async fn until<T, F: Future<Output = T>>(
    mut ask: impl FnMut() -> F,
    good: impl Fn(&T) -> bool,
) -> T {
    loop {
        let answer = ask().await;
        if good(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_node_reaches_the_nodes_it_knows_and_no_other() {
    let authority = Authority::new();
    runtime().block_on(async {
        let echo = Echo::new("b");
        let server = serve(authority.node("b"), echo.clone()).await;
        let link = link("a", authority.node("a"), &[("b", server.address())]);
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
        let big = Bytes::from(vec![7; 5 << 20]);
        let answer = ask(&link, "b", big.clone()).await.unwrap();
        assert!(answer.len() == big.len() + 1 && answer[1..] == big);
        let unknown = ask(&link, "c", "x").await.unwrap_err();
        assert_eq!(unknown, LinkError::UnknownNode { node: node("c") });
        assert_eq!(echo.served.load(Ordering::SeqCst), 2);
        link.forget(&node("b"));
        assert!(matches!(
            ask(&link, "b", "x").await,
            Err(LinkError::UnknownNode { .. })
        ));
        server.stop().await;
    });
}

#[test]
fn many_calls_share_a_connection_and_need_no_runtime_of_their_own() {
    let authority = Authority::new();
    let runtime = runtime();
    let (server, link) = runtime.block_on(async {
        let server = serve(authority.node("b"), Echo::new("b")).await;
        let link = link("a", authority.node("a"), &[("b", server.address())]);
        (server, link)
    });
    std::thread::scope(|scope| {
        for caller in 0..16 {
            let link = &link;
            scope.spawn(move || {
                for n in 0..20 {
                    let text = format!("{caller}/{n}");
                    let answer = pollster::block_on(ask(link, "b", text.clone())).unwrap();
                    assert_eq!(answer, format!("b{text}"));
                }
            });
        }
    });
    runtime.block_on(server.stop());
}

#[test]
fn a_stranger_is_refused_by_a_reason_and_served_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    runtime().block_on(async {
        let echo = Echo::new("b");
        let server = serve(authority.node("b"), echo.clone()).await;
        let peers = [("b", server.address())];
        // Another authority's, on either side.
        let stranger = link("a", other.node("a"), &peers);
        let reason = refused(&stranger, "b").await;
        assert!(reason.contains(NOT_OURS), "{reason}");
        let mut half = other.issue(Role::Node, "a", 1);
        half.authority = authority.pem();
        let reason = refused(&link("a", Security::Mutual(half), &peers), "b").await;
        assert!(
            reason.contains("UnknownCA") || reason.contains("DecryptError"),
            "{reason}"
        );
        // A client or admin asks what only nodes may.
        for role in [Role::Client, Role::Admin] {
            let files = authority.issue(role, "a", 1);
            let made = NetLink::new(&node("a"), Security::Mutual(files.clone()));
            assert!(matches!(made, Err(NetError::NotThisNode { .. })));
            let reason = knock(&files, server.address()).await;
            assert!(reason.contains("asks for what only nodes may"), "{reason}");
        }
        // The node that answers is not the one that is meant.
        let wrong = link("a", authority.node("a"), &[("c", server.address())]);
        let reason = refused(&wrong, "c").await;
        assert!(
            reason.contains("this is watershed://node/b, and not watershed://node/c"),
            "{reason}"
        );
        // An expired one: it was good until the second in which it was made.
        let expired = authority.issue(Role::Node, "a", 0);
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let reason = refused(&link("a", Security::Mutual(expired), &peers), "b").await;
        assert!(reason.contains("CertificateExpired"), "{reason}");
        let plain = link("a", Security::Insecure, &peers);
        refused(&plain, "b").await;
        assert_eq!(echo.served.load(Ordering::SeqCst), 0);
        let good = link("a", authority.node("a"), &peers);
        assert_eq!(ask(&good, "b", "x").await.unwrap(), "bx");
    });
}

/// Calls with a certificate that no [`NetLink`] takes for a node's; gives what was said.
async fn knock(files: &TlsFiles, address: SocketAddr) -> String {
    let link = NetLink::showing(Some(Tls::load(files.clone()).unwrap()), codec::GREET).unwrap();
    link.know(node("b"), address.to_string());
    refused(&link, "b").await
}

#[test]
fn a_server_that_shows_no_certificate_of_the_cluster_is_not_talked_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    runtime().block_on(async {
        let mut files = other.issue(Role::Node, "b", 1);
        // It would take anybody of the cluster.
        files.authority = authority.pem();
        let echo = Echo::new("b");
        let server = serve(Security::Mutual(files), echo.clone()).await;
        let link_to = link("a", authority.node("a"), &[("b", server.address())]);
        let reason = refused(&link_to, "b").await;
        assert!(reason.contains(NOT_OURS), "{reason}");
        let client = authority.issue(Role::Client, "b", 1);
        let passing_for = serve(Security::Mutual(client), echo.clone()).await;
        let link_to = link("a", authority.node("a"), &[("b", passing_for.address())]);
        let reason = refused(&link_to, "b").await;
        assert!(reason.contains("this is watershed://client/b"), "{reason}");
        assert_eq!(echo.served.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn without_certificates_everything_stays_on_this_machine() {
    runtime().block_on(async {
        let open: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let refused = start(open, Security::Insecure, Echo::new("b")).await;
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("0.0.0.0:0 is not on the loopback interface"),
            "{text}"
        );
        let server = serve(Security::Insecure, Echo::new("b")).await;
        let link = link("a", Security::Insecure, &[("b", server.address())]);
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
        let taken = start(server.address(), Security::Insecure, Echo::new("c")).await;
        assert!(matches!(taken, Err(NetError::Listen { .. })));
    });
    let outside = NetLink::new(&node("a"), Security::Insecure);
    assert!(matches!(outside, Err(NetError::NoRuntime)));
}

#[test]
fn a_call_says_whether_it_may_have_been_carried_out() {
    let authority = Authority::new();
    runtime().block_on(async {
        let echo = Echo::new("b");
        let server = serve(authority.node("b"), echo.clone()).await;
        let address = server.address();
        let link = link("a", authority.node("a"), &[("b", address)]);
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
        let waiting = tokio::spawn({
            let link = link.clone();
            async move { ask(&link, "b", "never").await }
        });
        until(
            || async { echo.served.load(Ordering::SeqCst) },
            |&served| served == 2,
        )
        .await;
        // A caller that gives up does no harm to the others.
        let given_up = tokio::time::timeout(Duration::from_millis(20), ask(&link, "b", "never"));
        assert!(given_up.await.is_err());
        assert_eq!(ask(&link, "b", "y").await.unwrap(), "by");
        drop(server);
        let lost = waiting.await.unwrap().unwrap_err();
        assert!(matches!(lost, LinkError::Lost { .. }), "{lost:?}");
        let nobody = until(
            || ask(&link, "b", "x"),
            |answer| matches!(answer, Err(LinkError::Unreachable { .. })),
        );
        nobody.await.unwrap_err();
        // It comes back at the same place.
        let again = until(
            || start(address, authority.node("b"), Echo::new("B")),
            Result::is_ok,
        );
        let _again = again.await.unwrap();
        let answer = until(|| ask(&link, "b", "x"), Result::is_ok).await;
        assert_eq!(answer.unwrap(), "Bx");
    });
}

#[test]
fn a_server_that_stops_lets_its_calls_end() {
    struct Slow(Arc<tokio::sync::Notify>);
    impl Service for Slow {
        fn serve(&self, request: Bytes) -> BoxFuture<'static, Bytes> {
            let go_on = Arc::clone(&self.0);
            Box::pin(async move {
                go_on.notify_one();
                go_on.notified().await;
                request
            })
        }
    }
    runtime().block_on(async {
        let pace = Arc::new(tokio::sync::Notify::new());
        let server = serve(Security::Insecure, Arc::new(Slow(pace.clone()))).await;
        let link = link("a", Security::Insecure, &[("b", server.address())]);
        let call = tokio::spawn(async move { ask(&link, "b", "x").await });
        pace.notified().await;
        let stopping = tokio::spawn(server.stop());
        pace.notify_one();
        assert_eq!(call.await.unwrap().unwrap(), "x");
        stopping.await.unwrap();
    });
}

#[test]
fn changed_certificates_are_used_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str, from: &TlsFiles| {
        let to = TlsFiles {
            authority: dir.path().join(format!("{name}-ca.pem")),
            certificate: dir.path().join(format!("{name}.pem")),
            key: dir.path().join(format!("{name}.key")),
        };
        for (from, to) in [
            (&from.authority, &to.authority),
            (&from.certificate, &to.certificate),
            (&from.key, &to.key),
        ] {
            // As an operator's tools do it: whole, by a new name.
            let beside = to.with_extension("new");
            std::fs::copy(from, &beside).unwrap();
            std::fs::rename(&beside, to).unwrap();
        }
        to
    };
    runtime().block_on(async {
        let files = place("b", &old.issue(Role::Node, "b", 1));
        let server = serve(Security::Mutual(files), Echo::new("b")).await;
        let address = server.address();
        let files = place("a", &old.issue(Role::Node, "a", 1));
        let link_a = link("a", Security::Mutual(files.clone()), &[("b", address)]);
        assert_eq!(ask(&link_a, "b", "x").await.unwrap(), "bx");
        // What can't be used changes nothing.
        std::fs::write(&files.certificate, "not a certificate").unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let fresh = || {
            link_a.forget(&node("b"));
            link_a.know(node("b"), address.to_string());
            ask(&link_a, "b", "x")
        };
        assert_eq!(fresh().await.unwrap(), "bx");
        // Both get those of another authority: connections made from then on need them.
        place("b", &new.issue(Role::Node, "b", 1));
        place("a", &new.issue(Role::Node, "a", 1));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        until(fresh, Result::is_ok).await.unwrap();
        let late = link("a", old.node("a"), &[("b", address)]);
        let reason = until(|| refused(&late, "b"), |reason| reason.contains(NOT_OURS)).await;
        assert!(!reason.is_empty());
    });
}

#[test]
fn files_that_are_no_use_are_named() {
    let authority = Authority::new();
    let good = authority.issue(Role::Node, "a", 1);
    let runtime = runtime();
    let _inside = runtime.enter();
    let made = |files: TlsFiles| {
        let made = NetLink::new(&node("a"), Security::Mutual(files));
        made.unwrap_err().to_string()
    };
    let missing = TlsFiles {
        key: "nowhere.key".into(),
        ..good.clone()
    };
    assert!(made(missing).starts_with("nowhere.key: "));
    let swapped = TlsFiles {
        certificate: good.key.clone(),
        ..good.clone()
    };
    assert!(made(swapped).contains("node-a.key: it holds no certificate"));
    let keyless = TlsFiles {
        key: good.certificate.clone(),
        ..good.clone()
    };
    assert!(made(keyless).contains("node-a.pem: it holds no key"));
    let other = authority.issue(Role::Node, "b", 1);
    let mixed = TlsFiles {
        key: other.key.clone(),
        ..good.clone()
    };
    assert!(made(mixed).contains("node-b.key: not the certificate's"));
    assert!(made(other).contains("watershed://node/b is not the certificate of node a"));
    let nobody = TlsFiles {
        certificate: good.authority.clone(),
        ..good
    };
    assert!(made(nobody).contains("ca.pem: the certificate has 0 names"));
}

#[test]
fn random_cut_and_oversized_bytes_do_no_harm() {
    let authority = Authority::new();
    runtime().block_on(async {
        let secure = serve(authority.node("b"), Echo::new("b")).await;
        let open = serve(Security::Insecure, Echo::new("b")).await;
        let (to_secure, to_open) = (secure.address(), open.address());
        let noise = tokio::task::spawn_blocking(move || {
            let mut state = 1_u64;
            for round in 0..200_usize {
                let address = if round % 2 == 0 { to_secure } else { to_open };
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                let len = round * 7 % 900;
                let bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                        state.to_le_bytes()[7]
                    })
                    .collect();
                // Each other round begins as HTTP/2 does. The server may close at any byte.
                if round % 4 >= 2 {
                    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                }
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 64]);
            }
        });
        noise.await.unwrap();
        let link = link("a", Security::Insecure, &[("b", to_open)]);
        let huge = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
        let refused = ask(&link, "b", huge).await.unwrap_err();
        assert!(matches!(refused, LinkError::Lost { .. }), "{refused:?}");
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
        let link = self::link("a", authority.node("a"), &[("b", to_secure)]);
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
    });
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
        let mute = link(
            "a",
            Security::Insecure,
            &[("b", listener.local_addr().unwrap())],
        );
        let reason = refused(&mute, "b").await;
        assert!(reason.contains("did not answer within"), "{reason}");
        // And a server gives up a client that begins no handshake.
        let authority = Authority::new();
        let server = serve(authority.node("b"), Echo::new("b")).await;
        let mut stream = tokio::net::TcpStream::connect(server.address())
            .await
            .unwrap();
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 8]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        let _ = stream.shutdown().await;
    });
}

/// A way to `to` that stays open and carries nothing any more, once it is told to.
async fn cut_off(to: SocketAddr) -> (SocketAddr, Arc<tokio::sync::Notify>) {
    let listener = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let (address, cut) = (
        listener.local_addr().unwrap(),
        Arc::new(tokio::sync::Notify::new()),
    );
    let told = Arc::clone(&cut);
    tokio::spawn(async move {
        let (mut here, _) = listener.accept().await.unwrap();
        let mut there = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            ended = tokio::io::copy_bidirectional(&mut here, &mut there) => panic!("{ended:?}"),
            () = told.notified() => {}
        }
        // Both ends are kept, as they are where a cable is pulled.
        std::future::pending::<()>().await;
    });
    (address, cut)
}

#[test]
fn a_connection_that_carries_nothing_any_more_ends_its_calls() {
    let authority = Authority::new();
    runtime().block_on(async {
        let echo = Echo::new("b");
        let server = serve(authority.node("b"), echo.clone()).await;
        let (address, cut) = cut_off(server.address()).await;
        let link = link("a", authority.node("a"), &[("b", address)]);
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
        let waiting = ask(&link, "b", "never");
        let cutting = async {
            until(
                || async { echo.served.load(Ordering::SeqCst) },
                |&served| served == 2,
            )
            .await;
            cut.notify_one();
        };
        let (lost, ()) = tokio::join!(waiting, cutting);
        assert!(matches!(lost, Err(LinkError::Lost { .. })), "{lost:?}");
        link.know(node("b"), server.address().to_string());
        assert_eq!(ask(&link, "b", "x").await.unwrap(), "bx");
    });
}

/// Two engines with a placement in common, each behind a server of its own.
#[test]
fn shards_move_over_the_network_while_they_are_written() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let placement = Arc::new(FilePlacement::open(dir.path().join("placement")).unwrap());
    let open = |name: &str| {
        let files = authority.node(name);
        let link = runtime.block_on(async { NetLink::new(&node(name), files.clone()).unwrap() });
        let options = Engine::options().node(name).shards(4);
        let options = options
            .placement(placement.clone())
            .link(Arc::new(link.clone()));
        let engine = options.open(dir.path().join(name)).unwrap();
        let service = engine.service().unwrap();
        let server = runtime.block_on(serve(files, service));
        (engine, link, server)
    };
    let (a, link_a, server_a) = open("a");
    let (b, link_b, server_b) = open("b");
    for link in [&link_a, &link_b] {
        link.know(node("a"), server_a.address().to_string());
        link.know(node("b"), server_b.address().to_string());
    }
    let value = |n: u64| vec![u8::try_from(n % 251).unwrap(); 300];
    for n in 0..3000_u64 {
        a.put(n.to_be_bytes(), value(n)).wait().unwrap();
    }
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 3000_u64;
            while !stop.load(Ordering::Relaxed) {
                // Through either node: what it does not own it asks the other one for.
                let engine = if n.is_multiple_of(2) { &a } else { &b };
                engine.put(n.to_be_bytes(), value(n)).wait().unwrap();
                n += 1;
            }
            n
        });
        for shard in [0, 2] {
            let migration = a.migrate(ShardId(shard)).to("b").start().unwrap();
            migration.wait().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert_eq!(b.shards(), [ShardId(0), ShardId(2)]);
    assert_eq!(a.shards(), [ShardId(1), ShardId(3)]);
    for n in 0..written {
        for engine in [&a, &b] {
            let found = engine.get(n.to_be_bytes()).wait().unwrap();
            assert_eq!(found.as_deref(), Some(&value(n)[..]), "{n} of {written}");
        }
    }
    a.close().unwrap();
    b.close().unwrap();
    runtime.block_on(async {
        server_a.stop().await;
        server_b.stop().await;
    });
}

//! A key-value service of one's own over HTTP, with the engine embedded in it.
//!
//! ```text
//! cargo run --release --workspace --example axum_kv                       tests itself: two nodes, a shard moved under load
//! cargo run --release --workspace --example axum_kv -- --dir kv --http 127.0.0.1:8080          one node
//!
//! axum_kv --node a --dir a --http 127.0.0.1:8080 --peer 127.0.0.1:7400 --site b=127.0.0.1:8081
//! axum_kv --node b --dir b --http 127.0.0.1:8081 --peer 127.0.0.1:7401 --site a=127.0.0.1:8080 --placement a=127.0.0.1:7400
//!
//! curl -i -X PUT 127.0.0.1:8080/kv/Paris -d 48.9,2.4                       204, and the version as its ETag
//! curl -i -X PUT 127.0.0.1:8080/kv/Paris -d 48.8,2.3 -H 'If-Match: "1.1.2"'        only over that version, else 412
//! curl -i 127.0.0.1:8081/kv/Paris -H 'X-Deadline-Ms: 500'                  any node answers, in time or with 503
//! curl -X POST 127.0.0.1:8080/shards/3/owner/b                             moves a shard, while it is written
//! ```
//!
//! Nodes reach each other over gRPC: without certificates on the loopback interface only, with `--certs DIR` (made by
//! `watershed certs`) anywhere. SIGTERM or ctrl-c ends it: requests are finished, then the engine closes.
//!
//! [`routes`] has the requests, [`answers`] what is said to each error, [`service`] the start and the end of a node.

mod answers;
mod client;
mod routes;
mod self_test;
mod service;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use service::{Service, Settings};
use tokio::net::TcpListener;
use watershed::NodeId;
use watershed::net::{Security, TlsFiles};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: axum_kv [--self-test]
       axum_kv --http ADDRESS [--dir DIR] [--node NAME] [--peer ADDRESS] [--placement NODE=ADDRESS]
               [--site NODE=ADDRESS].. [--certs DIR] [--redirect]";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arguments = match Arguments::read(&args) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let level = match arguments {
        Arguments::SelfTest => tracing::Level::WARN,
        Arguments::Serve { .. } => tracing::Level::INFO,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level);
    lines.with_writer(std::io::stderr).init();
    let ran = match arguments {
        Arguments::SelfTest => self_test::run().await,
        Arguments::Serve { http, settings } => serve(http, *settings).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axum_kv: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until it is told to stop.
async fn serve(http: SocketAddr, settings: Settings) -> Result<(), Failure> {
    let listener = TcpListener::bind(http).await?;
    let http = listener.local_addr()?;
    let node = settings.node.clone();
    let service = Service::start(settings, listener).await?;
    let peer = service.peer_address();
    println!("node {node} serves http://{http}, and other nodes at {peer}");
    told_to_stop().await?;
    println!("finishing what was taken");
    service.close().await
}

async fn told_to_stop() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            pressed = tokio::signal::ctrl_c() => Ok(pressed?),
        }
    }
    #[cfg(not(unix))]
    Ok(tokio::signal::ctrl_c().await?)
}

/// What it was asked to do.
enum Arguments {
    SelfTest,
    Serve {
        http: SocketAddr,
        settings: Box<Settings>,
    },
}

impl Arguments {
    fn read(args: &[String]) -> Result<Self, String> {
        let mut http = None;
        let mut certs: Option<PathBuf> = None;
        let mut settings = Settings {
            node: "a".parse().map_err(|error| format!("{error}"))?,
            dir: "axum-kv-data".into(),
            peer: SocketAddr::from(([127, 0, 0, 1], 0)),
            placement: None,
            security: Security::Insecure,
            sites: BTreeMap::new(),
            redirect: false,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--self-test" => return Ok(Self::SelfTest),
                "--redirect" => settings.redirect = true,
                "--http" => http = Some(parse(flag, value()?)?),
                "--dir" => settings.dir = value()?.into(),
                "--node" => settings.node = parse(flag, value()?)?,
                "--peer" => settings.peer = parse(flag, value()?)?,
                "--placement" => settings.placement = Some(place(flag, value()?)?),
                "--site" => settings.sites.extend([place(flag, value()?)?]),
                "--certs" => certs = Some(value()?.into()),
                other => return Err(format!("{other} is not known")),
            }
        }
        if let Some(dir) = certs {
            settings.security = mutual(&dir, &settings.node);
        }
        match http {
            Some(http) => Ok(Self::Serve {
                http,
                settings: Box::new(settings),
            }),
            None => Ok(Self::SelfTest),
        }
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    flag: &str,
    value: &str,
) -> Result<T, String> {
    value
        .parse()
        .map_err(|error| format!("{flag} {value}: {error}"))
}

/// A node and where it is, as NODE=ADDRESS.
fn place(flag: &str, value: &str) -> Result<(NodeId, String), String> {
    let (node, address) = value
        .split_once('=')
        .ok_or(format!("{flag} {value}: write NODE=ADDRESS"))?;
    Ok((parse(flag, node)?, address.to_owned()))
}

/// The files that `watershed certs` makes.
fn mutual(dir: &Path, node: &NodeId) -> Security {
    Security::Mutual(TlsFiles {
        authority: dir.join("ca.pem"),
        certificate: dir.join(format!("node-{node}.pem")),
        key: dir.join(format!("node-{node}.key")),
    })
}

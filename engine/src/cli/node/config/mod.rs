//! What a node is started with: a file, flags that are laid over it, or flags alone. All of it is checked before anything
//! is begun, and every mistake is told at once, with its line.
//!
//! ```text
//! file.rs       the keys, their types and bounds        reader.rs     tables, and what is unknown in them
//! settle.rs     how the keys go together                mistakes.rs   what is wrong, and where
//! address.rs    HOST:PORT                               owners.rs     ... where the map of owners is
//! ```
//!
//! `docs/node.toml` has every key with its default.

mod address;
mod file;
mod mistakes;
mod owners;
mod reader;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::NodeArgs;
use crate::cli::args::DEFAULT_DIR;
use crate::cli::failure::Failure;
use crate::migration::MigrationConfig;
use crate::net::{NetLink, Security};
use crate::{Engine, EngineOptions, NodeId};
use address::HostPort;
use file::File;
use mistakes::{At, Mistakes};
use reader::Given;

/// Where a node listens that is started by flags alone.
const TRIAL_LISTEN: &str = "127.0.0.1:7400";
/// Its name: that of an engine opened by the other commands, so that it may go on with their directory.
const TRIAL_NAME: &str = "local";

/// A configuration that was checked whole.
#[derive(Debug)]
pub(super) struct NodeConfig {
    pub(super) name: NodeId,
    pub(super) dir: PathBuf,
    pub(super) listen: SocketAddr,
    /// Where others reach this node; `None`: at the port that it gets.
    pub(super) advertise: Option<String>,
    pub(super) weight: u32,
    pub(super) shards: Option<u64>,
    pub(super) security: Security,
    pub(super) placement: PlacementChoice,
    /// Where nodes are that are known beforehand, this one perhaps too.
    pub(super) nodes: BTreeMap<NodeId, String>,
    pub(super) http: Option<SocketAddr>,
    pub(super) log: LogSettings,
    pub(super) engine: EngineSettings,
    pub(super) migration: MigrationConfig,
    pub(super) migrations_at_once: Option<u64>,
}

/// Where the map of owners is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PlacementChoice {
    /// In the node's own directory; it serves it to the others.
    Own,
    /// In another directory of this machine; this node serves it to the others.
    Hosted(PathBuf),
    /// With another node.
    Remote(NodeId),
    /// In an etcd cluster.
    Etcd {
        /// Its members, as URLs.
        endpoints: Vec<String>,
        /// Below which its keys are.
        prefix: String,
    },
}

/// How log lines look, and which there are.
#[derive(Debug)]
pub(super) struct LogSettings {
    pub(super) json: bool,
    pub(super) level: String,
}

/// What is not as the engine has it by itself.
#[derive(Debug)]
pub(super) struct EngineSettings {
    pub(super) log_limit_bytes: Option<u64>,
    pub(super) segment_bytes: Option<u32>,
    pub(super) buffered_sync: Option<Duration>,
    pub(super) block_cache_bytes: Option<usize>,
    pub(super) write_buffer_bytes: Option<usize>,
    pub(super) background_bytes_per_s: Option<u64>,
}

impl NodeConfig {
    /// Reads the file that the flags name, lays the other flags over it, and checks the whole.
    pub(super) fn load(args: &NodeArgs) -> Result<Self, Failure> {
        let mut mistakes = Mistakes::of(args.config.clone());
        let file = match &args.config {
            None => Some(trial()),
            Some(path) => {
                let text = std::fs::read(path);
                let text = text.map_err(|error| Failure::file("read", path, &error))?;
                let text = String::from_utf8(text).map_err(|error| not_utf8(path, &error))?;
                let base = path.parent().unwrap_or(Path::new(""));
                file::read(&text, base, &mut mistakes)
            }
        };
        let config = file.and_then(|mut file| {
            lay_over(&mut file, args, &mut mistakes);
            let tls_at = file.tls.as_ref().map(|tls| tls.at);
            let config = settle::settle(file, &mut mistakes)?;
            if let Some(at) = tls_at {
                certificates(&config, at, &mut mistakes);
            }
            Some(config)
        });
        mistakes.into_result()?;
        // What keeps it from being made was noted.
        config.ok_or_else(|| Failure::usage("the configuration is not complete"))
    }

    /// How the engine is opened, but for its placement and link.
    pub(super) fn engine_options(&self) -> EngineOptions {
        let mut options = Engine::options()
            .node(self.name.as_str())
            .migration_defaults(self.migration.clone());
        if let Some(shards) = self.shards {
            options = options.shards(shards);
        }
        if let Some(count) = self.migrations_at_once {
            options = options.migrations_at_once(usize::try_from(count).unwrap_or(usize::MAX));
        }
        let engine = &self.engine;
        if let Some(bytes) = engine.log_limit_bytes {
            options = options.log_limit_bytes(bytes);
        }
        if let Some(bytes) = engine.segment_bytes {
            options = options.segment_bytes(bytes);
        }
        if let Some(time) = engine.buffered_sync {
            options = options.buffered_sync_every(time);
        }
        if let Some(bytes) = engine.block_cache_bytes {
            options = options.block_cache_bytes(bytes);
        }
        if let Some(bytes) = engine.write_buffer_bytes {
            options = options.write_buffer_bytes(bytes);
        }
        if let Some(bytes) = engine.background_bytes_per_s {
            options = options.background_bytes_per_second(bytes);
        }
        options
    }
}

/// A node by itself, to try things out.
fn trial() -> File {
    let at = At::Flag("--name");
    File {
        name: TRIAL_NAME.parse().ok().map(|value| Given { value, at }),
        dir: Some(Given {
            value: DEFAULT_DIR.into(),
            at: At::Flag("--dir"),
        }),
        listen: HostPort::parse(TRIAL_LISTEN).ok().map(|value| Given {
            value,
            at: At::Flag("--listen"),
        }),
        ..File::default()
    }
}

fn lay_over(file: &mut File, args: &NodeArgs, mistakes: &mut Mistakes) {
    let mut address = |flag: &'static str, text: &Option<String>| {
        let at = At::Flag(flag);
        match HostPort::parse(text.as_ref()?) {
            Ok(value) => Some(Given { value, at }),
            Err(what) => {
                mistakes.add(at, what);
                None
            }
        }
    };
    let listen = address("--listen", &args.listen);
    let advertise = address("--advertise", &args.advertise);
    let http = address("--http", &args.http);
    let given = |value: &Option<PathBuf>, flag| {
        let value = value.clone()?;
        let at = At::Flag(flag);
        Some(Given { value, at })
    };
    file.dir = given(&args.dir, "--dir").or(file.dir.take());
    file.listen = listen.or(file.listen.take());
    file.advertise = advertise.or(file.advertise.take());
    if let Some(name) = args.name.clone() {
        let at = At::Flag("--name");
        file.name = Some(Given { value: name, at });
    }
    if args.insecure {
        let at = At::Flag("--insecure");
        file.insecure = Some(Given { value: true, at });
    }
    if let Some(listen) = http {
        let before = file.http.take();
        file.http = Some(file::Http {
            at: listen.at,
            listen: Some(listen),
            beyond_loopback: before.is_some_and(|http| http.beyond_loopback),
        });
    }
    file.log.json |= args.log_json;
}

/// Whether the certificates are of use, and this node's.
fn certificates(config: &NodeConfig, at: At, mistakes: &mut Mistakes) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        // Starting will say why.
        return;
    };
    let _inside = runtime.enter();
    if let Err(error) = NetLink::new(&config.name, config.security.clone()) {
        mistakes.add(at, format_args!("[tls]: {error}"));
    }
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Failure {
    let valid = error.utf8_error().valid_up_to();
    let before = error.as_bytes().iter().take(valid);
    let breaks = before.filter(|byte| **byte == b'\n').count();
    let line = u64::try_from(breaks).unwrap_or(u64::MAX) + 1;
    Failure::line(path, line, "not UTF-8: save the file in that encoding")
}

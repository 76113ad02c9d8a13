//! `watershed node`: a process with an engine, its server for other nodes, and a port for whoever watches it.
//!
//! ```text
//! config/        what it is started with: a file, flags, and every mistake in them
//! run.rs         the assembly: what is started after what, and stopped before what
//! placement.rs   where the map of owners is            signals.rs    being told to stop
//! http.rs        /healthz and /metrics                 health.rs     whether it serves
//! metrics.rs     the numbers of a node, as OpenMetrics   stepped.rs     for the demo: phase by phase
//! ```

mod config;
mod health;
mod http;
mod metrics;
mod openmetrics;
mod placement;
mod run;
mod signals;
mod stepped;

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::failure::Failure;
use super::output::{Answer, Output};
use crate::NodeId;
use crate::net::Security;
use config::{NodeConfig, PlacementChoice};

/// Run a node: an engine, its server for other nodes, /metrics and /healthz.
///
/// Without a file it is one by itself, to try things out. Flags win over what the file says; in the file paths are
/// relative to it.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct NodeArgs {
    /// What it is started with; `docs/node.toml` of the source explains every key.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Only check the configuration, and tell every mistake in it.
    #[arg(long)]
    pub(super) check: bool,
    /// The node's name in its cluster.
    #[arg(long)]
    pub(super) name: Option<NodeId>,
    /// The engine's directory.
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
    /// Where it listens for other nodes; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) listen: Option<String>,
    /// Where others reach it, if not where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<String>,
    /// Without certificates: on the loopback interface only.
    #[arg(long)]
    pub(super) insecure: bool,
    /// Where /metrics and /healthz are.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) http: Option<String>,
    /// Log lines are JSON.
    #[arg(long)]
    pub(super) log_json: bool,
    /// Tell each phase of a migration that it drives on standard output, and go on when a line comes on standard input.
    #[arg(long, hide = true)]
    pub(super) stepped: bool,
    /// Lose each forwarded record with this probability.
    #[arg(long, hide = true, default_value_t = 0.0)]
    pub(super) fail_forward: f64,
}

pub(super) fn run(args: &NodeArgs, output: &Output) -> Result<Answer, Failure> {
    let config = NodeConfig::load(args)?;
    if args.check {
        return Ok(checked(&config));
    }
    let trial = Trial {
        stepped: args.stepped,
        fail_forward: args.fail_forward,
    };
    run::run(config, trial, output)
}

/// What the demo has a node do beside its work.
#[derive(Debug, Clone, Copy)]
struct Trial {
    stepped: bool,
    fail_forward: f64,
}

/// What a configuration that has no mistakes comes to.
fn checked(config: &NodeConfig) -> Answer {
    let placement = match &config.placement {
        PlacementChoice::Own => "served by this node, from its own directory".to_owned(),
        PlacementChoice::Hosted(dir) => format!("served by this node, from {}", dir.display()),
        PlacementChoice::Remote(host) => format!("served by node {host}"),
        PlacementChoice::Etcd { endpoints, prefix } => {
            format!("in etcd at {}, below {prefix}", endpoints.join(", "))
        }
    };
    let advertise = config
        .advertise
        .clone()
        .unwrap_or_else(|| config.listen.to_string());
    let secure = matches!(config.security, Security::Mutual(_));
    let text = format!(
        "no mistakes: node {} in {}, listening on {}, reached at {advertise}, {}; the map of owners is {placement}",
        config.name,
        config.dir.display(),
        config.listen,
        if secure {
            "with certificates"
        } else {
            "without certificates"
        },
    );
    let document = json!({
        "ok": true,
        "name": config.name,
        "dir": config.dir,
        "listen": config.listen,
        "advertise": advertise,
        "weight": config.weight,
        "http": config.http,
        "tls": secure,
        "placement": placement,
    });
    Answer::new(text, document)
}

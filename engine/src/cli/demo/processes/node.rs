//! One process of the demo.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde::Deserialize;

use super::stage::Stage;
use super::{READY_WITHIN, failed};
use crate::NodeId;
use crate::cli::failure::{Failure, Kind};
use crate::migration::machine::Progress;
use crate::net::{Identity, certs};
use crate::sync::lock;

/// What all processes have in common.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) root: PathBuf,
    pub(super) shards: u32,
    pub(super) fail_forward: f64,
}

/// A process that was started, and may have been killed since.
pub(super) struct Started {
    name: NodeId,
    setup: Setup,
    /// Where the keeper of the map is; `None` for that one itself.
    placement: Option<(NodeId, String)>,
    address: Mutex<String>,
    child: Mutex<Kept>,
    stage: Arc<Stage>,
}

/// The process of now.
#[derive(Default)]
struct Kept {
    child: Option<Child>,
    /// The demo is over: none is started any more.
    over: bool,
}

/// What a process says on its standard output.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Said {
    Ready { listen: String },
    Phase(Box<Progress>),
    Error { message: String },
}

impl Started {
    pub(super) fn new(
        setup: &Setup,
        name: &str,
        placement: Option<&Self>,
        stage: Arc<Stage>,
    ) -> Result<Arc<Self>, Failure> {
        let name: NodeId = name.parse().map_err(failed)?;
        let certs = setup.root.join("certs");
        let wish = certs::Wish {
            identity: Identity::node(name.clone()),
            days: 2,
        };
        certs::issue(&certs, &certs, &wish).map_err(failed)?;
        let started = Arc::new(Self {
            name,
            setup: setup.clone(),
            placement: placement.map(|host| (host.name.clone(), host.address())),
            // A free port the first time, and the same from then on.
            address: Mutex::new("127.0.0.1:0".into()),
            child: Mutex::default(),
            stage,
        });
        started.start()?;
        Ok(started)
    }

    pub(super) fn name(&self) -> &NodeId {
        &self.name
    }

    pub(super) fn address(&self) -> String {
        lock(&self.address).clone()
    }

    /// Its engine's directory.
    pub(super) fn data(&self) -> PathBuf {
        self.setup.root.join(self.name.as_str())
    }

    /// Starts the process, and waits until it serves.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), Failure> {
        let config = self.write_config()?;
        let log = self.setup.root.join(format!("{}.log", self.name));
        let opened = File::options().create(true).append(true).open(&log);
        let opened = opened.map_err(|error| Failure::file("open", &log, &error))?;
        let program = std::env::current_exe().map_err(failed)?;
        let fail_forward = self.setup.fail_forward.to_string();
        let mut kept = lock(&self.child);
        if kept.over {
            return Ok(());
        }
        let mut child = Command::new(program)
            .args([
                "--json",
                "node",
                "--stepped",
                "--fail-forward",
                &fail_forward,
            ])
            .arg("--config")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(opened)
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        kept.child = Some(child);
        drop(kept);
        let (ready, told) = mpsc::channel();
        if let (Some(stdin), Some(stdout)) = (stdin, stdout) {
            let (name, stage) = (self.name.clone(), self.stage.clone());
            std::thread::Builder::new()
                .name("ws-demo-node".into())
                .spawn(move || listen(&name, &stage, BufReader::new(stdout), stdin, &ready))
                .map_err(failed)?;
        }
        match told.recv_timeout(READY_WITHIN) {
            Ok(Ok(address)) => {
                *lock(&self.address) = address;
                Ok(())
            }
            Ok(Err(message)) => Err(self.did_not_start(&message)),
            Err(_) => Err(self.did_not_start("it ended, or said nothing")),
        }
    }

    fn did_not_start(&self, why: &str) -> Failure {
        let message = format!("node {} did not start: {why}", self.name);
        Failure::new(Kind::Engine, message)
    }

    fn write_config(&self) -> Result<PathBuf, Failure> {
        let name = &self.name;
        let mut text = format!(
            "name = \"{name}\"\ndir = \"{name}\"\nlisten = \"{}\"\nshards = {}\n\n[tls]\nauthority = \"certs/ca.pem\"\ncertificate = \"certs/node-{name}.pem\"\nkey = \"certs/node-{name}.key\"\n\n[placement]\n",
            self.address(),
            self.setup.shards,
        );
        match &self.placement {
            None => text.push_str("dir = \"map\"\n"),
            Some((host, at)) => {
                text.push_str(&format!(
                    "host = \"{host}\"\n\n[nodes]\n{host} = \"{at}\"\n"
                ));
            }
        }
        let path = self.setup.root.join(format!("{name}.toml"));
        let written = fs::write(&path, text);
        written.map_err(|error| Failure::file("write", &path, &error))?;
        Ok(path)
    }

    /// Kills the process with SIGKILL.
    pub(super) fn kill(&self) {
        if let Some(mut child) = lock(&self.child).child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills it, and starts it no more.
    pub(super) fn end(&self) {
        lock(&self.child).over = true;
        self.kill();
    }

    /// Starts it again after a while, from a thread of its own.
    pub(super) fn start_again(self: &Arc<Self>, after: Duration) {
        let node = self.clone();
        let waiting = std::thread::Builder::new().name("ws-demo-restart".into());
        let started = waiting.spawn(move || {
            std::thread::sleep(after);
            if let Err(failure) = node.start() {
                node.stage.note(failure.message());
            }
        });
        if let Err(error) = started {
            self.stage.note(&error.to_string());
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

/// Hears what the process says until it ends.
fn listen(
    name: &NodeId,
    stage: &Stage,
    said: impl BufRead,
    mut answers: ChildStdin,
    ready: &mpsc::Sender<Result<String, String>>,
) {
    for line in said.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Said::Ready { listen }) => {
                // Nobody waits where it took too long.
                let _ = ready.send(Ok(listen));
            }
            Ok(Said::Phase(progress)) => {
                stage.enter(name, &progress);
                // It may have been killed just now.
                let _ = answers.write_all(b"\n");
            }
            Ok(Said::Error { message }) => {
                let _ = ready.send(Err(message));
            }
            Err(_) => {}
        }
    }
}

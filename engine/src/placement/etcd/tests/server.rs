//! A real etcd on loopback, in a directory of its own, that ends with the test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use crate::placement::contract::{Site, wait};

/// How etcd is secured.
#[derive(Clone)]
pub(super) struct Certificates {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

pub(super) struct Etcd {
    dir: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<Certificates>,
    /// `None` while it is down.
    child: Option<Child>,
}

impl Etcd {
    pub(super) fn start() -> Self {
        Self::start_with(None)
    }

    pub(super) fn start_with(tls: Option<Certificates>) -> Self {
        // Another process may take a port that was free; then etcd ends, and others are looked for.
        for _ in 0..20 {
            let (client_port, peer_port) = (free_port(), free_port());
            let mut etcd = Self {
                dir: tempfile::tempdir().unwrap(),
                client_port,
                peer_port,
                tls: tls.clone(),
                child: None,
            };
            if etcd.try_up().is_ok() {
                return etcd;
            }
        }
        panic!("etcd did not start, with 20 different pairs of ports");
    }

    /// Starts it again, where it was and with what it had.
    pub(super) fn up(&mut self) {
        self.try_up().expect("etcd started before");
    }

    fn try_up(&mut self) -> Result<(), ExitStatus> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peers = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        if cfg!(target_arch = "aarch64") {
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command
            .args(["--name", "test", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("test={peers}")]);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(&tls.authority);
            command.arg("--cert-file").arg(&tls.certificate);
            command.arg("--key-file").arg(&tls.key);
        }
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = spawned.unwrap_or_else(|error| {
            panic!("these tests need an etcd server on the PATH ({error}): run them by `make test`, which sees to it")
        });
        let child = self.child.insert(child);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return Err(status);
            }
            if self.tls.is_some() || is_healthy(self.client_port) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As a crash does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Forgets everything, as if another etcd had taken its place.
    pub(super) fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    /// Makes it hang; when this returns, each of its threads has stopped.
    pub(super) fn pause(&self) {
        self.signal("STOP");
        let id = self.child.as_ref().expect("it is up").id();
        let has_stopped = |thread: std::fs::DirEntry| {
            let told = std::fs::read_to_string(thread.path().join("stat"));
            // Behind the name, which is in parentheses. A thread that has ended meanwhile has stopped, too.
            told.map_or(true, |told| {
                told.rsplit_once(") ")
                    .is_some_and(|(_, state)| state.starts_with('T'))
            })
        };
        loop {
            let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
            if threads.map(Result::unwrap).all(has_stopped) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it is up").id();
        let line = format!("kill -{signal} {id}");
        let sent = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(sent.success(), "{line}");
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    pub(super) fn options(&self) -> EtcdOptions {
        EtcdOptions::new([self.endpoint()])
    }

    pub(super) fn connect(&self) -> EtcdPlacement {
        wait(EtcdPlacement::connect(self.options())).unwrap()
    }

    /// One that soon gives up waiting.
    pub(super) fn impatient(&self) -> EtcdPlacement {
        let options = self.options().timeout(Duration::from_secs(1));
        wait(EtcdPlacement::connect(options)).unwrap()
    }

    /// A client of etcd's own, for what only an operator does.
    pub(super) fn operate<T>(&self, work: impl AsyncFnOnce(&mut etcd_client::Client) -> T) -> T {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connected = etcd_client::Client::connect([self.endpoint()], None).await;
            work(&mut connected.unwrap()).await
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Of a process that has ended by itself nothing is left to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Site for Etcd {
    fn placement(&self) -> Arc<dyn Placement> {
        Arc::new(self.connect())
    }
}

pub(super) fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

fn is_healthy(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}

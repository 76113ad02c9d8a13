//! A node in a process of its own: started, watched, told to stop, killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// A running node. Dropped, it is killed.
pub(crate) struct Node {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: Arc<Mutex<String>>,
    listening: Option<JoinHandle<()>>,
}

/// How a node ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) status: Option<i32>,
    /// What it printed after its ready line, if that was waited for.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Node {
    /// Starts the command, which must be one of `node`.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let listening = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        });
        Self {
            child,
            stdout,
            said,
            listening: Some(listening),
        }
    }

    /// The document on its ready line, which it prints with `--json`.
    pub(crate) fn ready(&mut self) -> Value {
        let line = self.ready_line();
        let document: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        assert_eq!(document.as_object().unwrap().len(), 1, "{document}");
        document["ready"].clone()
    }

    /// Its first line, once it serves.
    pub(crate) fn ready_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "it did not serve: {}", self.said());
        line
    }

    /// What it has said so far on standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    pub(crate) fn wait_until_said(&self, text: &str) {
        while !self.said().contains(text) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let status = self.child.wait().unwrap().code();
        self.listening.take().unwrap().join().unwrap();
        Ended {
            status,
            stdout,
            stderr: self.said(),
        }
    }

    /// Stops it as a service manager does; it must end in good order.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        let ended = self.end();
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (Some(0), ""),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("stopped"), "{ended:?}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.end().status, None);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and the body of an answer.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// An address that nobody else listens on, by a number within this process: the loopback network has room for one host
/// for each process there can be, and the port is none that the system gives out by itself.
pub(crate) fn address(number: u16) -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    // 0.0 and 255.255 at the end mean something else.
    let c = if (a, b, c) == (255, 255, 255) { 1 } else { c };
    format!("127.{a}.{b}.{c}:{}", 20_000 + number)
}

//! Runs the real command and looks at what it printed.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The built command.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_watershed");

/// The command with these words; standard input is empty.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(words)
        .stdin(Stdio::null())
        .env_remove("RUST_LOG");
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The one JSON document on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }

    /// The error's kind and message, of a command that failed with `--json`.
    pub(crate) fn error(&self) -> (String, String) {
        let document = self.json();
        let error = &document["error"];
        for field in ["kind", "message", "file", "line"] {
            assert!(error.get(field).is_some(), "no {field} in {document}");
        }
        (
            error["kind"].as_str().unwrap().to_owned(),
            error["message"].as_str().unwrap().to_owned(),
        )
    }
}

pub(crate) fn run(command: &mut Command) -> Ended {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ended {
        status: status.code().unwrap_or_else(|| panic!("killed: {status}")),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// A directory with an engine in `data` and room for input files.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A file with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs `name --dir DATA words...`.
    pub(crate) fn run(&self, name: &str, words: &[&str]) -> Ended {
        run(command([name, "--dir"]).arg(self.data()).args(words))
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, name: &str, words: &[&str]) -> Ended {
        run(command([name, "--json", "--dir"])
            .arg(self.data())
            .args(words))
    }

    /// Puts a key, which makes the engine where there was none.
    pub(crate) fn put(&self, key: &str, value: &str) {
        let ended = self.run("put", &[key, value]);
        assert_eq!(ended.status, 0, "{ended:?}");
    }

    /// Loads a file with `--json`.
    pub(crate) fn load(&self, file: &Path) -> Ended {
        self.json("load", &[file.to_str().unwrap()])
    }

    /// All keys of the engine.
    pub(crate) fn keys(&self) -> Vec<String> {
        let document = self.json("scan", &[]).json();
        let entries = document["entries"].as_array().unwrap();
        assert_eq!(document["count"], entries.len());
        entries
            .iter()
            .map(|entry| entry["key"].as_str().unwrap().to_owned())
            .collect()
    }
}

//! Why a command failed: a kind for programs, one sentence for people, and the file and line where there is one.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Error;

/// A failed command. As JSON it is the `error` of `{"error": {kind, message, file, line}}`.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    kind: Kind,
    message: String,
    file: Option<PathBuf>,
    line: Option<u64>,
}

/// The causes that a program may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Flags or arguments are wrong.
    Usage,
    /// A document is not what it should be.
    BadInput,
    /// The key is not there.
    KeyNotFound,
    /// A file or directory is not there.
    NotFound,
    /// This account may not use a file or directory.
    PermissionDenied,
    /// Another engine uses the directory.
    Locked,
    /// A newer version wrote the directory.
    NewerFormat,
    /// It is not an engine's directory, or not empty where it must be.
    BadDirectory,
    /// What was promised durable is damaged.
    Damaged,
    /// The safety gate refused.
    Refused,
    /// The disk or the log is full.
    NoRoom,
    /// Any other failed file operation.
    Io,
    /// The engine failed otherwise.
    Engine,
    /// Whoever read standard output has gone.
    BrokenPipe,
}

impl Failure {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            file: None,
            line: None,
        }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A bad line of an input file; lines count from 1.
    pub(super) fn line(file: &Path, line: u64, what: impl std::fmt::Display) -> Self {
        Self {
            kind: Kind::BadInput,
            message: what.to_string(),
            file: Some(file.to_owned()),
            line: Some(line),
        }
    }

    pub(super) fn stdout(error: &io::Error) -> Self {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe {
            Kind::BrokenPipe
        } else {
            Kind::Io
        };
        Self::new(kind, format!("writing to standard output: {error}"))
    }

    /// A failed operation on a file, which `op` names: "open", "read".
    pub(super) fn file(op: &str, file: &Path, error: &io::Error) -> Self {
        let shown = file.display();
        let (kind, message) = match error.kind() {
            io::ErrorKind::NotFound => (Kind::NotFound, format!("there is no {shown}")),
            io::ErrorKind::PermissionDenied => (
                Kind::PermissionDenied,
                format!(
                    "no permission to {op} {shown}: use an account that may, or change its mode"
                ),
            ),
            io::ErrorKind::StorageFull => (Kind::NoRoom, format!("no room left to {op} {shown}")),
            _ => (Kind::Io, format!("{op} {shown}: {error}")),
        };
        Self {
            kind,
            message,
            file: Some(file.to_owned()),
            line: None,
        }
    }

    /// A file that is not what it should be.
    pub(super) fn about(kind: Kind, file: &Path, what: impl std::fmt::Display) -> Self {
        Self {
            kind,
            message: format!("{}: {what}", file.display()),
            file: Some(file.to_owned()),
            line: None,
        }
    }

    /// An error about a file that says itself which one.
    pub(super) fn at(kind: Kind, file: &Path, error: &impl std::fmt::Display) -> Self {
        Self {
            kind,
            message: error.to_string(),
            file: Some(file.to_owned()),
            line: None,
        }
    }

    pub(super) fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        self.kind == Kind::BrokenPipe
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// One sentence, led by file and line where there is a line: `cities.ndjson:17: not JSON: ...`.
    pub(super) fn sentence(&self) -> String {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{}:{line}: {}", file.display(), self.message),
            _ => self.message.clone(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use watershed_wal::{LogError, OpenError};
        let message = error.to_string();
        let (kind, file) = match &error {
            Error::Io { op, path, source } => return Self::file(op, path, source),
            Error::Locked { dir } => (Kind::Locked, Some(dir.clone())),
            Error::NewerFormat { dir, .. } => (Kind::NewerFormat, Some(dir.clone())),
            Error::NotADataDirectory { dir, .. } => (Kind::BadDirectory, Some(dir.clone())),
            Error::Refused(_) => (Kind::Refused, None),
            Error::Log(LogError::Full { .. }) => (Kind::NoRoom, None),
            Error::Store(error) if error.is_no_room() => (Kind::NoRoom, None),
            Error::Log(LogError::Damaged(_)) => (Kind::Damaged, None),
            Error::LogOpen { dir, source } => match &**source {
                OpenError::Damaged(_) | OpenError::MissingSegment { .. } => {
                    (Kind::Damaged, Some(dir.clone()))
                }
                OpenError::NewerFormat { .. } => (Kind::NewerFormat, Some(dir.clone())),
                OpenError::Foreign { .. } => (Kind::BadDirectory, Some(dir.clone())),
                OpenError::Full { .. } => (Kind::NoRoom, Some(dir.clone())),
                _ => (Kind::Engine, Some(dir.clone())),
            },
            _ => (Kind::Engine, None),
        };
        Self {
            kind,
            message,
            file,
            line: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named_before_what_is_wrong_with_it() {
        let failure = Failure::line(Path::new("a/b.ndjson"), 17, "not JSON");
        assert_eq!(failure.sentence(), "a/b.ndjson:17: not JSON");
        let json = serde_json::to_value(&failure).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"kind": "bad-input", "message": "not JSON", "file": "a/b.ndjson", "line": 17})
        );
    }

    #[test]
    fn a_missing_file_is_one_plain_sentence() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(
            Failure::file("open", Path::new("x"), &error).sentence(),
            "there is no x"
        );
    }
}

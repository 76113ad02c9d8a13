//! The one result of a command: a JSON document or text for a person, and the exit status.

use std::io::{self, IsTerminal, Seek, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::failure::Failure;

const FAILED: u8 = 1;
pub(super) const WRONG_USAGE: u8 = 2;

/// What a command answers.
pub(super) struct Answer {
    text: String,
    document: Value,
    done: bool,
    /// The command has printed everything itself.
    printed: bool,
}

impl Answer {
    /// `document` with `--json`, otherwise `text` (without its last line end).
    pub(super) fn new(text: impl Into<String>, document: Value) -> Self {
        Self {
            text: text.into(),
            document,
            done: true,
            printed: false,
        }
    }

    /// An answer which the command has written to standard output already, because it may be too long to collect.
    pub(super) fn printed() -> Self {
        Self {
            text: String::new(),
            document: Value::Null,
            done: true,
            printed: true,
        }
    }

    /// Exit status 1 although there is an answer.
    pub(super) fn failed(mut self) -> Self {
        self.done = false;
        self
    }
}

/// Where the result and the progress of a command go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Whether progress may be drawn with bars.
    pub(super) fn bars(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// A line for whoever watches; never on standard output.
    pub(super) fn say(&self, line: &str) {
        // Nobody watching is no reason to fail.
        let _ = writeln!(io::stderr(), "{line}");
    }

    pub(super) fn answer(&self, answer: &Answer) -> ExitCode {
        let status = if answer.done {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        };
        if answer.printed {
            return status;
        }
        let text = if self.json {
            document(&answer.document)
        } else {
            answer.text.clone()
        };
        match print(&text) {
            Ok(()) => status,
            Err(failure) => self.failure(&failure),
        }
    }

    pub(super) fn failure(&self, failure: &Failure) -> ExitCode {
        if failure.is_broken_pipe() {
            // The reader of standard output has seen enough, as `head` does.
            return ExitCode::SUCCESS;
        }
        if self.json {
            // Whether or not this can be printed, the status says that it failed.
            let _ = print(&document(&json!({ "error": failure })));
        } else {
            self.say(&format!("error: {}", failure.sentence()));
        }
        ExitCode::from(if failure.is_usage() {
            WRONG_USAGE
        } else {
            FAILED
        })
    }
}

fn document(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| {
        // Our documents have string keys and no failing serializer.
        unreachable!("a result that is not JSON: {error}")
    })
}

/// Writes `text` and a line end to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| {
            if text.is_empty() {
                Ok(())
            } else {
                stdout.write_all(b"\n")
            }
        })
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::stdout(&error))
}

/// A JSON document of a long list: kept in a temporary file beyond some megabytes, and printed only when it is whole,
/// so that a failure half-way still prints one document.
pub(super) struct JsonList {
    spool: tempfile::SpooledTempFile,
    count: u64,
}

impl JsonList {
    /// What is kept in memory.
    const MEMORY_BYTES: usize = 16 << 20;

    /// A document with the list under `name`.
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        let mut spool = tempfile::SpooledTempFile::new(Self::MEMORY_BYTES);
        write!(spool, "{{{}: [", Value::from(name)).map_err(|error| Self::failed(&error))?;
        Ok(Self { spool, count: 0 })
    }

    pub(super) fn push(&mut self, element: &Value) -> Result<(), Failure> {
        let separator = if self.count == 0 { "" } else { "," };
        self.count += 1;
        write!(self.spool, "{separator}\n  {element}").map_err(|error| Self::failed(&error))
    }

    /// Prints the document, with the number of elements as `count` at its end.
    pub(super) fn print(mut self) -> Result<(), Failure> {
        let end = if self.count == 0 { "]" } else { "\n]" };
        writeln!(self.spool, "{end}, \"count\": {}}}", self.count)
            .map_err(|error| Self::failed(&error))?;
        self.spool.rewind().map_err(|error| Self::failed(&error))?;
        let mut stdout = io::stdout().lock();
        io::copy(&mut self.spool, &mut stdout)
            .and_then(|_| stdout.flush())
            .map_err(|error| Failure::stdout(&error))
    }

    fn failed(error: &io::Error) -> Failure {
        Failure::file("write", &std::env::temp_dir(), error)
    }
}

/// Bytes as JSON: a string where they are UTF-8, else `{"hex": "..."}`, so that nothing is lost.
pub(super) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => {
            json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
        }
    }
}

/// A count with its thousands set apart: `171,075`.
pub(super) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A size in the unit that suits it: `4.7 MB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1000.0;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Microseconds in the unit that suits them: `840 µs`, `12.4 ms`, `3.1 s`.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (171_075, "171,075"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(thousands(count), text);
        }
    }

    #[test]
    fn units_suit_the_size() {
        assert_eq!(
            (bytes(999), bytes(4_700_000)),
            ("999 B".into(), "4.7 MB".into())
        );
        assert_eq!(
            (micros(840), micros(12_400)),
            ("840 µs".into(), "12.4 ms".into())
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_kept_as_hex() {
        assert_eq!(json_bytes(b"abc"), json!("abc"));
        assert_eq!(json_bytes(&[0xff, 0x00]), json!({ "hex": "ff00" }));
    }
}

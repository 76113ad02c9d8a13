//! Reads newline-delimited JSON: one object a line, plain or compressed with Zstandard (told by the first bytes).
//!
//! A document's key is one of its fields, its value the bytes of its line. A line that is not a document ends the
//! reading with the file and line; the documents before it were given out. Lines of nothing but white space are passed
//! over. Memory is bounded by the longest line allowed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::failure::{Failure, Kind};
use crate::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const READ_BYTES: usize = 256 << 10;
/// From here on a floating-point number no longer tells neighbouring whole numbers apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    /// Its line, from 1.
    pub(super) line: u64,
    pub(super) key: Bytes,
    /// The bytes of its line.
    pub(super) value: Bytes,
}

/// The documents of a file, in order.
pub(super) struct Documents {
    file: PathBuf,
    key_field: String,
    lines: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    /// After a bad line nothing more is read.
    ended: bool,
}

impl Documents {
    pub(super) fn open(file: &Path, key_field: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::file("read", file, &error);
        let handle = File::open(file).map_err(failed)?;
        let meta = handle.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(Failure::new(
                Kind::BadInput,
                format!("{} is a directory: name a file", file.display()),
            ));
        }
        let mut plain = BufReader::with_capacity(READ_BYTES, handle);
        let compressed = plain.fill_buf().map_err(failed)?.starts_with(&ZSTD_MAGIC);
        let lines: Box<dyn BufRead + Send> = if compressed {
            let decoder = zstd::stream::read::Decoder::with_buffer(plain).map_err(failed)?;
            Box::new(BufReader::with_capacity(READ_BYTES, decoder))
        } else {
            Box::new(plain)
        };
        Ok(Self::new(file, key_field, lines))
    }

    fn new(file: &Path, key_field: &str, lines: Box<dyn BufRead + Send>) -> Self {
        Self {
            file: file.to_owned(),
            key_field: key_field.to_owned(),
            lines,
            line: 0,
            buffer: Vec::new(),
            ended: false,
        }
    }

    /// The next line's bytes without its end, in `buffer`; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, Failure> {
        // One more than the longest document and its line end: what fills that is too long.
        let most = MAX_VALUE_BYTES + 2;
        self.buffer.clear();
        self.line += 1;
        let read = self
            .lines
            .by_ref()
            .take(u64::try_from(most).unwrap_or(u64::MAX))
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| self.bad(format!("it can't be read on: {error}")))?;
        if read == 0 {
            return Ok(false);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            if self.buffer.last() == Some(&b'\r') {
                self.buffer.pop();
            }
        }
        if self.buffer.len() > MAX_VALUE_BYTES {
            return Err(self.bad(format!(
                "a document has at most {MAX_VALUE_BYTES} bytes, and this line is longer"
            )));
        }
        Ok(true)
    }

    fn document(&self) -> Result<Document, Failure> {
        let text = std::str::from_utf8(&self.buffer).map_err(|error| {
            self.bad(format!(
                "not UTF-8 from byte {} of the line on",
                error.valid_up_to() + 1
            ))
        })?;
        let object: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => {
                return Err(self.bad(format!(
                    "a document is a JSON object, and this is {}",
                    name(&other)
                )));
            }
            Err(error) => {
                let text = error.to_string();
                // serde_json counts lines in the text it was given, which is always its first.
                let what = text.split(" at line 1 column ").next().unwrap_or(&text);
                return Err(self.bad(format!("not JSON: {what} at column {}", error.column())));
            }
        };
        let field = &self.key_field;
        let key = match object.get(field) {
            None => return Err(self.bad(format!("the key field {field:?} is missing"))),
            Some(Value::String(key)) => key.clone(),
            Some(Value::Number(key)) => {
                number(key).map_err(|what| self.bad(format!("the key field {field:?} {what}")))?
            }
            Some(other) => {
                let name = name(other);
                return Err(self.bad(format!(
                    "the key field {field:?} is {name}: it must be a string or a number"
                )));
            }
        };
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let len = key.len();
            return Err(self.bad(format!(
                "the key field {field:?} has {len} bytes: keys have 1 to {MAX_KEY_BYTES}"
            )));
        }
        Ok(Document {
            line: self.line,
            key: key.into(),
            value: Bytes::copy_from_slice(&self.buffer),
        })
    }

    fn bad(&self, what: String) -> Failure {
        Failure::line(&self.file, self.line, what)
    }
}

impl Iterator for Documents {
    type Item = Result<Document, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let document = match self.read_line() {
                Err(failure) => Err(failure),
                Ok(false) => break,
                Ok(true) if self.buffer.trim_ascii().is_empty() => continue,
                Ok(true) => self.document(),
            };
            self.ended = document.is_err();
            return Some(document);
        }
        None
    }
}

/// A number as a key: two different numbers must not become one key.
fn number(number: &Number) -> Result<String, &'static str> {
    match number.as_f64() {
        _ if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        Some(float) if float.abs() < EXACT => Ok(number.to_string()),
        _ => Err("is a number too large to be exact: write it as a string"),
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl Into<Vec<u8>>) -> Vec<Result<(u64, String), String>> {
        let lines = Box::new(io::Cursor::new(text.into()));
        let mut documents = Documents::new(Path::new("f"), "id", lines);
        let mut all = Vec::new();
        for document in documents.by_ref() {
            match document {
                Ok(document) => all.push(Ok((
                    document.line,
                    String::from_utf8(document.key.to_vec()).unwrap(),
                ))),
                Err(failure) => {
                    all.push(Err(failure.sentence()));
                    break;
                }
            }
        }
        all
    }

    #[test]
    fn keys_are_strings_or_numbers() {
        let found = read("{\"id\":\"a\"}\r\n\n{\"id\":7}\n{\"id\":-1.5}");
        assert_eq!(
            found,
            [
                Ok((1, "a".into())),
                Ok((3, "7".into())),
                Ok((4, "-1.5".into()))
            ]
        );
        assert_eq!(read(""), []);
        assert_eq!(read(" \n\r\n"), []);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (bad, what) in [
            (
                "{\"id\":",
                "f:2: not JSON: EOF while parsing a value at column 6",
            ),
            (
                "{\"id\":\"x\"} y",
                "f:2: not JSON: trailing characters at column 12",
            ),
            (
                "[1]",
                "f:2: a document is a JSON object, and this is an array",
            ),
            ("{}", "f:2: the key field \"id\" is missing"),
            (
                "{\"id\":null}",
                "f:2: the key field \"id\" is null: it must be a string or a number",
            ),
            (
                "{\"id\":\"\"}",
                "f:2: the key field \"id\" has 0 bytes: keys have 1 to 65536",
            ),
            (
                "{\"id\":123456789012345678901234567890}",
                "f:2: the key field \"id\" is a number too large to be exact: write it as a string",
            ),
        ] {
            let found = read(format!(
                "{{\"id\":\"good\"}}\n{bad}\n{{\"id\":\"never\"}}\n"
            ));
            assert_eq!(found, [Ok((1, "good".into())), Err(what.into())]);
        }
        let found = read(b"{\"id\":\"\xff\"}".to_vec());
        assert_eq!(
            found,
            [Err("f:1: not UTF-8 from byte 8 of the line on".into())]
        );
    }

    #[test]
    fn a_line_without_an_end_costs_bounded_memory() {
        let found = read(vec![b'{'; MAX_VALUE_BYTES + 100]);
        assert!(
            matches!(&found[..], [Err(what)] if what.contains("at most 16777216 bytes")),
            "{found:?}"
        );
    }

    #[test]
    fn compressed_and_plain_files_read_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"id\":\"a\",\"x\":1}\n{\"id\":\"b\"}\n";
        let (plain, packed) = (dir.path().join("plain"), dir.path().join("packed"));
        std::fs::write(&plain, text).unwrap();
        std::fs::write(&packed, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
        let all = |path: &Path| {
            Documents::open(path, "id")
                .unwrap()
                .map(Result::unwrap)
                .collect::<Vec<_>>()
        };
        assert_eq!(all(&plain), all(&packed));
        assert_eq!(all(&plain)[0].value, "{\"id\":\"a\",\"x\":1}");

        let cut = zstd::encode_all(text.repeat(1000).as_bytes(), 3).unwrap();
        std::fs::write(&packed, &cut[..cut.len() / 2]).unwrap();
        let end = Documents::open(&packed, "id").unwrap().last().unwrap();
        assert!(end.unwrap_err().sentence().contains("can't be read on"));
    }
}

//! What a child was about to write and what was acknowledged, line by line in a file for each writer; and the model that
//! the journals of all lives give.
//!
//! ```text
//! B <key> <value, or - for a delete>     written before the write is submitted
//! A <key> <version>                      written after it was acknowledged
//! ```
//!
//! A key belongs to one writer and has one write under way, so of one life only the last `B` without its `A` may be
//! there or not.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use watershed::{Engine, Version};

const DELETED: &str = "-";

/// A writer's journal. Each line is one `write`: it is whole, or it is not there.
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn create(dir: &Path, writer: u64) -> Self {
        Self(File::create(dir.join(writer.to_string())).unwrap())
    }

    pub(crate) fn begin(&mut self, key: &str, value: Option<&str>) {
        self.line(&format!("B {key} {}\n", value.unwrap_or(DELETED)));
    }

    pub(crate) fn acknowledged(&mut self, key: &str, version: Version) {
        self.line(&format!("A {key} {version}\n"));
    }

    fn line(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).unwrap();
    }
}

#[derive(Debug, Default)]
struct Known {
    /// The last acknowledged write, or what was found of an unsure one.
    settled: Option<(Option<String>, Option<Version>)>,
    /// Begun since, without an acknowledgement; of more than one life where nobody looked in between.
    unsure: Vec<Option<String>>,
}

/// What must be there.
#[derive(Debug, Default)]
pub(crate) struct Model {
    keys: HashMap<String, Known>,
    acknowledged: u64,
}

impl Model {
    /// Adds what one life wrote.
    pub(crate) fn add(&mut self, journals: PathBuf) {
        for entry in std::fs::read_dir(&journals).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for line in text.split_inclusive('\n') {
                // The kill may have come within the last line: nothing was promised by it.
                if let Some(line) = line.strip_suffix('\n') {
                    self.line(line);
                }
            }
        }
        std::fs::remove_dir_all(journals).unwrap();
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (kind, key, what) = (words.next(), words.next(), words.next());
        let (Some(kind), Some(key), Some(what)) = (kind, key, what) else {
            panic!("not a line of a journal: {line:?}");
        };
        let known = self.keys.entry(key.to_owned()).or_default();
        if kind == "B" {
            known
                .unsure
                .push((what != DELETED).then(|| what.to_owned()));
        } else {
            let value = known.unsure.pop().expect("begun before acknowledged");
            // Those of earlier lives came before it.
            known.unsure.clear();
            let version: Version = what.parse().unwrap();
            if let Some((_, Some(before))) = &known.settled {
                assert!(*before < version, "{key}: {version} after {before}");
            }
            known.settled = Some((value, Some(version)));
            self.acknowledged += 1;
        }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Each acknowledged write is there, or one that was begun after it; from now on what was found must stay.
    pub(crate) fn check(&mut self, engine: &Engine) {
        for (key, known) in &mut self.keys {
            let found = engine.get_versioned(key).wait().unwrap();
            let found =
                found.map(|(value, version)| (String::from_utf8(value.to_vec()).unwrap(), version));
            let settled = match (&known.settled, &found) {
                (Some((Some(value), at)), Some((found, version))) => {
                    value == found && at.is_none_or(|at| at == *version)
                }
                (Some((None, _)) | None, None) => true,
                _ => false,
            };
            if settled {
                known.unsure.clear();
                continue;
            }
            let value = found.as_ref().map(|(value, _)| value.clone());
            assert!(
                known.unsure.contains(&value),
                "{key} holds {found:?}; known of it: {known:?}"
            );
            known.unsure.clear();
            known.settled = Some((value, found.map(|(_, version)| version)));
        }
    }
}

//! What is wrong with a configuration: everything that was found, each with its place, told as one failure.

use std::fmt::{self, Write};
use std::path::PathBuf;

use crate::cli::failure::Failure;

/// Where a value was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// On this line of the file, from 1.
    Line(u64),
    /// As this flag.
    Flag(&'static str),
}

/// Something that must be changed before the node can start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mistake {
    at: At,
    what: String,
}

/// All that was found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    file: Option<PathBuf>,
    found: Vec<Mistake>,
    /// Keys that were given and are of no use, each with its table: they are not missing.
    wrong: Vec<(&'static str, &'static str)>,
}

impl Mistakes {
    /// Of this file, or of flags alone.
    pub(super) fn of(file: Option<PathBuf>) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// Notes a mistake: what is wrong, and what to do.
    pub(super) fn add(&mut self, at: At, what: impl fmt::Display) {
        self.found.push(Mistake {
            at,
            what: what.to_string(),
        });
    }

    /// Where to point at when something is missing as a whole: the file's first line, or the flag that would give it.
    pub(super) fn missing(&self, flag: &'static str) -> At {
        match self.file {
            Some(_) => At::Line(1),
            None => At::Flag(flag),
        }
    }

    /// Notes a mistake in the value of a key.
    pub(super) fn add_of(
        &mut self,
        (table, key): (&'static str, &'static str),
        at: At,
        what: impl fmt::Display,
    ) {
        self.wrong.push((table, key));
        self.add(at, what);
    }

    /// Whether a key is there, with a value of no use.
    pub(super) fn has_wrong(&self, table: &str, key: &str) -> bool {
        self.wrong.contains(&(table, key))
    }

    /// A failure where anything was found: in the order of lines, flags last. File and line of the failure are those of
    /// the first mistake; the others carry theirs in the text.
    pub(super) fn into_result(mut self) -> Result<(), Failure> {
        self.found.sort();
        self.found.dedup();
        let Some((first, others)) = self.found.split_first() else {
            return Ok(());
        };
        let mut text = match first.at {
            At::Line(_) => first.what.clone(),
            At::Flag(flag) => format!("{flag}: {}", first.what),
        };
        for mistake in others {
            // Writing to a string can't fail.
            let _ = match (mistake.at, &self.file) {
                (At::Line(line), Some(file)) => {
                    write!(text, "\n{}:{line}: {}", file.display(), mistake.what)
                }
                (At::Line(line), None) => write!(text, "\nline {line}: {}", mistake.what),
                (At::Flag(flag), _) => write!(text, "\n{flag}: {}", mistake.what),
            };
        }
        Err(match (first.at, &self.file) {
            (At::Line(line), Some(file)) => Failure::line(file, line, text),
            _ => Failure::usage(text),
        })
    }
}

/// The one of `known` that was probably meant.
pub(super) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let most = if found.chars().count() < 4 { 1 } else { 2 };
    let distances = known.iter().map(|known| (distance(found, known), *known));
    let (_, known) = distances.filter(|(far, _)| *far <= most).min()?;
    Some(known)
}

/// How many characters must be changed, added, taken away, or swapped with their neighbour
/// (Damerau and Levenshtein; the form that edits no part twice).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_told_where_it_is_near() {
        let known = ["listen", "advertise", "weight", "dir"];
        for (found, meant) in [
            ("listne", Some("listen")),
            ("Listen", Some("listen")),
            ("listens", Some("listen")),
            ("advertize", Some("advertise")),
            ("dri", Some("dir")),
            ("di", Some("dir")),
            ("d", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, &known), meant, "{found}");
        }
    }

    #[test]
    fn mistakes_are_told_in_the_order_of_their_lines() {
        let mut mistakes = Mistakes::of(Some("a.toml".into()));
        mistakes.add(At::Flag("--listen"), "no port");
        mistakes.add(At::Line(12), "too large");
        mistakes.add(At::Line(3), "not a string");
        mistakes.add(At::Line(3), "not a string");
        let failure = mistakes.into_result().unwrap_err();
        assert_eq!(
            failure.sentence(),
            "a.toml:3: not a string\na.toml:12: too large\n--listen: no port"
        );
    }
}

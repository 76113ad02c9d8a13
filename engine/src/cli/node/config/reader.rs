//! Reads tables of TOML key by key: each value's type and bounds are checked, and what nobody asked for is an unknown key.
//!
//! By hand and not by serde's derive, which stops at the first mistake and does not know lines.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{At, Mistakes, nearest};

/// A value and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) at: At,
}

impl<T> Given<T> {
    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Given<U> {
        Given {
            value: map(self.value),
            at: self.at,
        }
    }
}

/// A document that was parsed: what its places in bytes are as lines.
pub(super) struct Lines<'t>(&'t str);

impl<'t> Lines<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self(text)
    }

    pub(super) fn at(&self, offset: usize) -> At {
        let before = self.0.as_bytes().iter().take(offset);
        let breaks = before.filter(|byte| **byte == b'\n').count();
        At::Line(u64::try_from(breaks).unwrap_or(u64::MAX) + 1)
    }
}

/// One table on its way to be read.
pub(super) struct Reader<'d, 't> {
    table: &'d DeTable<'t>,
    lines: &'d Lines<'t>,
    /// As in the file: `tls`; empty for the document.
    name: &'static str,
    /// Where it begins.
    at: At,
    known: Vec<&'static str>,
}

impl<'d, 't> Reader<'d, 't> {
    pub(super) fn document(table: &'d DeTable<'t>, lines: &'d Lines<'t>) -> Self {
        Self {
            table,
            lines,
            name: "",
            at: At::Line(1),
            known: Vec::new(),
        }
    }

    pub(super) fn at(&self) -> At {
        self.at
    }

    /// The table's or key's name as people write it.
    fn path(&self, key: &str) -> String {
        match self.name {
            "" => format!("`{key}`"),
            table => format!("`{key}` of [{table}]"),
        }
    }

    fn find(&mut self, key: &'static str) -> Option<(&'d Spanned<DeValue<'t>>, At)> {
        self.known.push(key);
        // Found by its text: the keys of the map have spans.
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value, self.lines.at(name.span().start)))
    }

    /// Reads a key's value with `read`, which says what it should have been.
    fn read<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<Given<T>> {
        let (value, at) = self.find(key)?;
        match read(value.get_ref()) {
            Ok(value) => Some(Given { value, at }),
            Err(wanted) => {
                let what = format!("{} {wanted}", self.path(key));
                mistakes.add_of((self.name, key), at, what);
                None
            }
        }
    }

    pub(super) fn string(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Given<String>> {
        self.read(key, mistakes, |value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| must_be("a string in quotes", value))
        })
    }

    /// A string that is something more.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Given<T>> {
        let text = self.string(key, mistakes)?;
        self.convert(key, text, mistakes, |text| parse(&text))
    }

    fn convert<A, T>(
        &self,
        key: &'static str,
        given: Given<A>,
        mistakes: &mut Mistakes,
        convert: impl FnOnce(A) -> Result<T, String>,
    ) -> Option<Given<T>> {
        let at = given.at;
        match convert(given.value) {
            Ok(value) => Some(Given { value, at }),
            Err(what) => {
                let what = format!("{}: {what}", self.path(key));
                mistakes.add_of((self.name, key), at, what);
                None
            }
        }
    }

    pub(super) fn bool(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Given<bool>> {
        self.read(key, mistakes, |value| {
            let read = value.as_bool();
            read.ok_or_else(|| must_be("true or false", value))
        })
    }

    /// A whole number within these bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<Given<u64>> {
        self.read(key, mistakes, |value| {
            let number = whole(value).ok_or_else(|| must_be("a whole number", value))?;
            within(number, &bounds, |number| number.to_string())
        })
    }

    /// A number of bytes within these bounds: a whole number, or a string such as `"256 MiB"`.
    pub(super) fn bytes(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<Given<u64>> {
        self.read(key, mistakes, |value| {
            let number = match value.as_str() {
                Some(text) => size(text),
                None => whole(value),
            };
            let number = number.ok_or_else(|| {
                must_be("a number of bytes, or a string such as \"256 MiB\"", value)
            })?;
            within(number, &bounds, shown_size)
        })
    }

    pub(super) fn strings(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Given<Vec<String>>> {
        self.read(key, mistakes, |value| {
            let all = value.as_array().map(|array| {
                let texts = array.iter().map(|one| one.get_ref().as_str());
                texts.map(|text| text.map(str::to_owned)).collect()
            });
            let all: Option<Vec<String>> = all.flatten();
            all.ok_or_else(|| must_be("a list of strings", value))
        })
    }

    /// A table within this one.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes,
    ) -> Option<Reader<'d, 't>> {
        let (value, at) = self.find(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Self {
                table,
                lines: self.lines,
                name: key,
                at,
                known: Vec::new(),
            }),
            None => {
                let what = must_be("a table", value.get_ref());
                mistakes.add_of(("", key), at, format_args!("`{key}` {what}: write [{key}]"));
                None
            }
        }
    }

    /// All entries of a table whose keys are the user's own, as strings.
    pub(super) fn entries(self, mistakes: &mut Mistakes) -> Vec<(Given<String>, String)> {
        let mut entries = Vec::new();
        for (name, value) in self.table {
            let at = self.lines.at(name.span().start);
            let value = value.get_ref();
            match value.as_str() {
                Some(text) => {
                    let name = name.get_ref().to_string();
                    entries.push((Given { value: name, at }, text.to_owned()));
                }
                None => mistakes.add(
                    at,
                    format_args!(
                        "{} {}",
                        self.path(name.get_ref()),
                        must_be("a string in quotes", value)
                    ),
                ),
            }
        }
        entries
    }

    /// Refuses each key that was not asked for.
    pub(super) fn end(self, mistakes: &mut Mistakes) {
        for (name, value) in self.table {
            let name_text: &str = name.get_ref();
            if self.known.contains(&name_text) {
                continue;
            }
            let sort = match value.get_ref().is_table() {
                true => "table",
                false => "key",
            };
            let place = match self.name {
                "" => String::new(),
                table => format!(" in [{table}]"),
            };
            let advice: String = match nearest(name_text, &self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    let known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
                    format!("known are {}", known.join(", "))
                }
            };
            mistakes.add(
                self.lines.at(name.span().start),
                format_args!("there is no {sort} `{name_text}`{place}: {advice}"),
            );
        }
    }
}

fn must_be(wanted: &str, found: &DeValue<'_>) -> String {
    format!("must be {wanted}, and is {}", Found(found))
}

/// A value, short enough for a line.
struct Found<'v, 't>(&'v DeValue<'t>);

impl fmt::Display for Found<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DeValue::String(text) => {
                let short: String = text.chars().take(40).collect();
                write!(f, "{short:?}")
            }
            DeValue::Integer(number) => write!(f, "{number}"),
            DeValue::Boolean(value) => write!(f, "{value}"),
            other => write!(f, "a {}", other.type_str()),
        }
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn within(
    number: u64,
    bounds: &RangeInclusive<u64>,
    shown: impl Fn(u64) -> String,
) -> Result<u64, String> {
    if bounds.contains(&number) {
        return Ok(number);
    }
    let (found, least) = (shown(number), shown(*bounds.start()));
    if *bounds.end() == u64::MAX {
        return Err(format!("is {found}: use {least} or more"));
    }
    let most = shown(*bounds.end());
    Err(format!("is {found}: use {least} to {most}"))
}

const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn size(text: &str) -> Option<u64> {
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    // `parse` alone would take a plus sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn shown_size(bytes: u64) -> String {
    let whole = UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match whole {
        Some((unit, factor)) => format!("{} {unit}", bytes / factor),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1 GiB", Some(1 << 30)),
            ("256MiB", Some(256 << 20)),
            ("7 B", Some(7)),
            ("16777215 TiB", Some(16_777_215 << 40)),
            ("16777216 TiB", None),
            ("1 GB", None),
            ("GiB", None),
            ("-1 MiB", None),
            ("+1 MiB", None),
            ("1.5 MiB", None),
            ("1", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
        for (bytes, text) in [(1 << 30, "1 GiB"), (1500, "1500 B"), (0, "0 B")] {
            assert_eq!(shown_size(bytes), text);
        }
    }
}

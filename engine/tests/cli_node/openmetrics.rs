//! Reads a page of OpenMetrics strictly: every line must be one of the format, and the families must be whole.

use std::collections::{BTreeMap, BTreeSet};

/// A family of numbers.
#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    help: bool,
    unit: Option<String>,
}

/// The numbers of a page, by name and labels.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<(String, BTreeMap<String, String>), f64>);

impl Metrics {
    /// Panics at the first line that is wrong.
    pub(crate) fn parse(page: &str) -> Self {
        let body = page.strip_suffix("# EOF\n").expect("it ends with EOF");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut values = BTreeMap::new();
        let mut current = String::new();
        for line in body.lines() {
            if let Some(told) = line.strip_prefix("# ") {
                let (what, rest) = told.split_once(' ').expect(line);
                let (name, text) = rest.split_once(' ').expect(line);
                assert!(name.starts_with("watershed_"), "{line}");
                if name != current {
                    assert!(
                        !families.contains_key(name),
                        "a family in two places: {line}"
                    );
                    current = name.to_owned();
                }
                let family = families.entry(current.clone()).or_default();
                match what {
                    "HELP" => family.help = !text.is_empty(),
                    "TYPE" => family.kind = Some(text.to_owned()),
                    "UNIT" => {
                        assert!(name.ends_with(&format!("_{text}")), "{line}");
                        family.unit = Some(text.to_owned());
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let family = &families[&current];
            let suffix = name.strip_prefix(&current).expect(line);
            let suffixes: &[&str] = match family.kind.as_deref().expect(line) {
                "gauge" => &[""],
                "counter" => &["_total"],
                "histogram" => &["_sum", "_count", "_bucket"],
                "info" => &["_info"],
                other => panic!("a {other}: {line}"),
            };
            assert!(family.help && suffixes.contains(&suffix), "{line}");
            assert!(
                values.insert((name, labels), value).is_none(),
                "twice: {line}"
            );
        }
        let metrics = Self(values);
        for (name, family) in &families {
            if family.kind.as_deref() == Some("histogram") {
                metrics.check_histogram(name);
            }
        }
        metrics
    }

    fn check_histogram(&self, name: &str) {
        let of_buckets = format!("{name}_bucket");
        let buckets = self.all(&of_buckets);
        let mut counts: Vec<(f64, f64)> = buckets
            .map(|(labels, count)| (labels["le"].replace("+Inf", "inf").parse().unwrap(), count))
            .collect();
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(counts.is_sorted_by(|a, b| a.1 <= b.1), "{name}: {counts:?}");
        let last = counts.last().unwrap();
        assert_eq!(
            *last,
            (f64::INFINITY, self.one(&format!("{name}_count"))),
            "{name}"
        );
    }

    /// All of one name, with their labels.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        let found = self.0.iter().filter(move |((found, _), _)| found == name);
        found.map(|((_, labels), value)| (labels, *value))
    }

    /// The one that has this name.
    pub(crate) fn one(&self, name: &str) -> f64 {
        let mut found = self.all(name);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(found.next().is_none(), "several {name}");
        value
    }

    /// The shards whose copy here has this role.
    pub(crate) fn shards(&self, role: &str) -> BTreeSet<u64> {
        self.all("watershed_shard_epoch")
            .filter(|(labels, _)| labels["role"] == role)
            .map(|(labels, _)| labels["shard"].parse().unwrap())
            .collect()
    }
}

/// A line `name{label="value",...} number`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}').expect(line)),
    };
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    assert!(is_name(name), "{line}");
    let mut read = BTreeMap::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, quoted) = label.split_once('=').expect(line);
        let text = quoted
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        // Nothing here needs escapes.
        let text = text.filter(|text| !text.contains(['"', '\\'])).expect(line);
        assert!(
            is_name(key) && read.insert(key.into(), text.into()).is_none(),
            "{line}"
        );
    }
    (name.to_owned(), read, value.parse().expect(line))
}

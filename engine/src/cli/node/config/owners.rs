//! Where the map of owners is: one of the ways, and what each needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::PlacementChoice;
use super::address::HostPort;
use super::file;
use super::mistakes::{At, Mistakes};
use super::reader::Given;
use super::settle::must_not_be_a_file;
use crate::NodeId;

/// Below which etcd keeps the cluster's keys, unless said otherwise.
const DEFAULT_PREFIX: &str = "/watershed/";

/// Checks `[placement]`; `None` where a mistake leaves no way.
pub(super) fn placement(
    given: Option<file::Placement>,
    dir: &Option<Given<PathBuf>>,
    name: &Option<Given<NodeId>>,
    nodes: &BTreeMap<NodeId, Given<HostPort>>,
    mistakes: &mut Mistakes,
) -> Option<PlacementChoice> {
    const WAYS: &str = "give one of `dir` (this node serves the map of owners), `host` (another node does) and `etcd`";
    let Some(given) = given else {
        // A node by itself that flags alone describe.
        if matches!(mistakes.missing(""), At::Flag(_)) {
            return Some(PlacementChoice::Own);
        }
        if !mistakes.has_wrong("", "placement") {
            mistakes.add(At::Line(1), format_args!("[placement] is missing: {WAYS}"));
        }
        return None;
    };
    if let (Some(prefix), None) = (&given.prefix, &given.etcd) {
        mistakes.add(
            prefix.at,
            "`prefix` of [placement] is for etcd only: leave it out",
        );
    }
    match (given.dir, given.host, given.etcd) {
        (Some(map), None, None) => {
            must_not_be_a_file(&map, mistakes);
            let own = dir.as_ref().map(|dir| dir.value.join("placement"));
            if own.is_some_and(|own| same_place(&own, &map.value)) {
                return Some(PlacementChoice::Own);
            }
            if dir
                .as_ref()
                .is_some_and(|dir| same_place(&dir.value, &map.value))
            {
                mistakes.add(
                    map.at,
                    "`dir` of [placement] is the node's own `dir`: choose another directory, such as its subdirectory `placement`",
                );
            }
            Some(PlacementChoice::Hosted(map.value))
        }
        (None, Some(host), None) => {
            remote(&host, name.as_ref(), nodes, mistakes);
            Some(PlacementChoice::Remote(host.value))
        }
        (None, None, Some(etcd)) => etcd_choice(etcd, given.prefix, mistakes),
        (None, None, None) => {
            let ways = ["dir", "host", "etcd"];
            if !ways.iter().any(|key| mistakes.has_wrong("placement", key)) {
                mistakes.add(given.at, format_args!("[placement] says nothing: {WAYS}"));
            }
            None
        }
        _ => {
            mistakes.add(given.at, format_args!("[placement] has several: {WAYS}"));
            None
        }
    }
}

fn remote(
    host: &Given<NodeId>,
    name: Option<&Given<NodeId>>,
    nodes: &BTreeMap<NodeId, Given<HostPort>>,
    mistakes: &mut Mistakes,
) {
    let node = &host.value;
    if name.is_some_and(|name| name.value == *node) {
        mistakes.add(
            host.at,
            format_args!(
                "`host` of [placement] is this node, {node}: to serve the map of owners itself it needs `dir` in place of `host`"
            ),
        );
    } else if !nodes.contains_key(node) {
        mistakes.add(
            host.at,
            format_args!(
                "`host` of [placement]: where node {node} is, is not known: add it to [nodes], as {node} = \"HOST:PORT\""
            ),
        );
    }
}

fn etcd_choice(
    etcd: Given<Vec<String>>,
    prefix: Option<Given<String>>,
    mistakes: &mut Mistakes,
) -> Option<PlacementChoice> {
    if etcd.value.is_empty() {
        mistakes.add(
            etcd.at,
            "`etcd` of [placement] names no member: use a list such as [\"http://127.0.0.1:2379\"]",
        );
    }
    for url in &etcd.value {
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"));
        let address = rest.map(|rest| HostPort::parse(rest.strip_suffix('/').unwrap_or(rest)));
        if !matches!(address, Some(Ok(_))) {
            mistakes.add(
                etcd.at,
                format_args!(
                    "`etcd` of [placement]: {url:?} is not of the form http://HOST:PORT or https://HOST:PORT"
                ),
            );
        }
    }
    let prefix = prefix.unwrap_or(Given {
        value: DEFAULT_PREFIX.into(),
        at: etcd.at,
    });
    if !prefix.value.starts_with('/') || !prefix.value.ends_with('/') {
        mistakes.add(
            prefix.at,
            format_args!(
                "`prefix` of [placement] is {:?}: it must begin and end with a slash, as {DEFAULT_PREFIX:?} does",
                prefix.value
            ),
        );
    }
    if cfg!(not(feature = "etcd")) {
        mistakes.add(
            etcd.at,
            "this build has no etcd support: build with `--features cli,etcd`, or use `dir` or `host`",
        );
    }
    Some(PlacementChoice::Etcd {
        endpoints: etcd.value,
        prefix: prefix.value,
    })
}

/// Whether both paths mean one place, also where it is not there yet.
fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        // What exists of it may be reached by other names.
        let known = path
            .ancestors()
            .find_map(|known| Some((known, known.canonicalize().ok()?)));
        let (known, canonical) = known?;
        Some(canonical.join(path.strip_prefix(known).ok()?))
    };
    place(a).is_some_and(|a| place(b) == Some(a))
}

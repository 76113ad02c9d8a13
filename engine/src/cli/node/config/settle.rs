//! How the keys go together: what is missing, what contradicts something else, what would be open to strangers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::HostPort;
use super::file::{self, File};
use super::mistakes::{At, Mistakes};
use super::owners::placement;
use super::reader::Given;
use super::{EngineSettings, LogSettings, NodeConfig};
use crate::NodeId;
use crate::net::{Security, TlsFiles};

/// The level of log lines, unless said otherwise.
const DEFAULT_LEVEL: &str = "info";

/// Checks the whole; `None` where a mistake leaves nothing to start with.
pub(super) fn settle(file: File, mistakes: &mut Mistakes) -> Option<NodeConfig> {
    let name = required(file.name, "name", "--name", mistakes);
    let dir = required(file.dir, "dir", "--dir", mistakes);
    if let Some(dir) = &dir {
        must_not_be_a_file(dir, mistakes);
    }
    let listen = required(file.listen, "listen", "--listen", mistakes);
    let security = security(file.insecure, file.tls, mistakes);
    let nodes = nodes(file.nodes, mistakes);
    let own = name.as_ref().and_then(|name| nodes.get(&name.value));
    let advertise = advertise(file.advertise, own, listen.as_ref(), mistakes);
    if let (Some(name), Some(advertise)) = (&name, &advertise) {
        addresses_differ(&name.value, advertise, &nodes, mistakes);
    }
    let insecure = matches!(security, Some(Security::Insecure));
    let listen = listen.and_then(|listen| resolve(&listen, mistakes).map(|to| (listen.at, to)));
    if insecure && let Some((at, address)) = listen {
        must_be_loopback(at, address, mistakes);
    }
    if insecure {
        for node in nodes
            .values()
            .filter(|node| is_beyond_loopback(&node.value))
        {
            mistakes.add(
                node.at,
                format_args!(
                    "{} is not on the loopback interface, and `insecure` nodes reach no other: give [tls]",
                    node.value
                ),
            );
        }
    }
    let placement = placement(file.placement, &dir, &name, &nodes, mistakes);
    let http = http(file.http, listen.map(|(_, address)| address), mistakes);
    let engine = engine(&file.engine, mistakes);
    Some(NodeConfig {
        name: name?.value,
        dir: dir?.value,
        listen: listen?.1,
        advertise: advertise.map(|advertise| advertise.value.to_string()),
        weight: u32::try_from(file.weight.map_or(1, |weight| weight.value)).unwrap_or(u32::MAX),
        shards: file.shards.map(|shards| shards.value),
        security: security?,
        placement: placement?,
        nodes: nodes
            .into_iter()
            .map(|(name, address)| (name, address.value.to_string()))
            .collect(),
        http,
        log: LogSettings {
            json: file.log.json,
            level: file.log.level.unwrap_or_else(|| DEFAULT_LEVEL.into()),
        },
        engine,
        migration: file.migration,
        migrations_at_once: file.migrations_at_once,
    })
}

fn required<T>(
    given: Option<Given<T>>,
    key: &str,
    flag: &'static str,
    mistakes: &mut Mistakes,
) -> Option<Given<T>> {
    if given.is_none() && !mistakes.has_wrong("", key) {
        let at = mistakes.missing(flag);
        mistakes.add(at, format_args!("`{key}` is missing: give it, or {flag}"));
    }
    given
}

pub(super) fn must_not_be_a_file(dir: &Given<PathBuf>, mistakes: &mut Mistakes) {
    if dir.value.exists() && !dir.value.is_dir() {
        mistakes.add(
            dir.at,
            format_args!(
                "{} is a file: name a directory, which is made where there is none",
                dir.value.display()
            ),
        );
    }
}

fn security(
    insecure: Option<Given<bool>>,
    tls: Option<file::Tls>,
    mistakes: &mut Mistakes,
) -> Option<Security> {
    let insecure = insecure.filter(|insecure| insecure.value);
    let tls = match (insecure, tls) {
        (Some(insecure), Some(_)) => {
            mistakes.add(
                insecure.at,
                "`insecure` and [tls] contradict each other: keep one of them",
            );
            return None;
        }
        (Some(_), None) => return Some(Security::Insecure),
        (None, None) if mistakes.has_wrong("", "tls") || mistakes.has_wrong("", "insecure") => {
            return None;
        }
        (None, None) => {
            let at = mistakes.missing("--insecure");
            mistakes.add(
                at,
                "how nodes know each other is missing: give [tls] (`watershed certs` makes the files), or `insecure = true` on the loopback interface",
            );
            return None;
        }
        (None, Some(tls)) => tls,
    };
    let mut file = |key: &str, path: Option<Given<PathBuf>>| {
        let Some(path) = path else {
            if !mistakes.has_wrong("tls", key) {
                mistakes.add(tls.at, format_args!("`{key}` of [tls] is missing"));
            }
            return None;
        };
        must_be_a_file(key, &path, mistakes).then_some(path.value)
    };
    let (authority, certificate, key) = (
        file("authority", tls.authority),
        file("certificate", tls.certificate),
        file("key", tls.key),
    );
    Some(Security::Mutual(TlsFiles {
        authority: authority?,
        certificate: certificate?,
        key: key?,
    }))
}

fn must_be_a_file(key: &str, path: &Given<PathBuf>, mistakes: &mut Mistakes) -> bool {
    let shown = path.value.display();
    let what = match std::fs::metadata(&path.value) {
        Ok(found) if found.is_file() => return true,
        Ok(_) => format!("{shown} is no file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no {shown}: make it with `watershed certs`, or correct the path")
        }
        Err(error) => format!("{shown} can't be looked at: {error}"),
    };
    mistakes.add(path.at, format_args!("`{key}` of [tls]: {what}"));
    false
}

fn nodes(
    given: Vec<(Given<NodeId>, HostPort)>,
    mistakes: &mut Mistakes,
) -> BTreeMap<NodeId, Given<HostPort>> {
    let mut nodes: BTreeMap<NodeId, Given<HostPort>> = BTreeMap::new();
    for (name, address) in given {
        if address.port == 0 {
            mistakes.add(
                name.at,
                format_args!("[nodes]: {address} has port 0: give the port that others reach"),
            );
            continue;
        }
        let same = nodes.iter().find(|(_, known)| known.value == address);
        if let Some((other, _)) = same {
            mistakes.add(
                name.at,
                format_args!(
                    "nodes {other} and {} have one address, {address}: give each its own",
                    name.value
                ),
            );
        }
        let at = name.at;
        nodes.insert(name.value, Given { value: address, at });
    }
    nodes
}

/// Where others reach this node: as said, else as [nodes] has it, else where it listens. `None`: there, with a port that
/// is known once it listens.
fn advertise(
    said: Option<Given<HostPort>>,
    own: Option<&Given<HostPort>>,
    listen: Option<&Given<HostPort>>,
    mistakes: &mut Mistakes,
) -> Option<Given<HostPort>> {
    if let (Some(said), Some(own)) = (&said, own)
        && said.value != own.value
    {
        mistakes.add(
            own.at,
            format_args!(
                "[nodes]: this node is at {} here, and `advertise` is {}: make them one",
                own.value, said.value
            ),
        );
    }
    if let Some(said) = said {
        if said.value.port == 0 {
            mistakes.add(
                said.at,
                "`advertise` has port 0: give the port that others reach",
            );
        }
        return Some(said);
    }
    if let Some(own) = own {
        return Some(own.clone());
    }
    let listen = listen?;
    if listen.value.ip().is_some_and(|ip| ip.is_unspecified()) {
        mistakes.add(
            listen.at,
            format_args!(
                "`listen` is {}, which is every address of this machine and none that others reach: say with `advertise` which one they use",
                listen.value
            ),
        );
    }
    (listen.value.port != 0).then(|| listen.clone())
}

fn addresses_differ(
    name: &NodeId,
    advertise: &Given<HostPort>,
    nodes: &BTreeMap<NodeId, Given<HostPort>>,
    mistakes: &mut Mistakes,
) {
    let same = nodes
        .iter()
        .find(|(other, address)| *other != name && address.value == advertise.value);
    // The table has this node, too: it was said there.
    if let Some((other, address)) = same
        && !nodes.contains_key(name)
    {
        mistakes.add(
            address.at,
            format_args!(
                "nodes {other} and {name} (this one) have one address, {}: give each its own",
                advertise.value
            ),
        );
    }
}

fn resolve(listen: &Given<HostPort>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let resolved = listen.value.resolve();
    resolved
        .map_err(|what| mistakes.add(listen.at, format_args!("`listen`: {what}")))
        .ok()
}

fn is_beyond_loopback(address: &HostPort) -> bool {
    address.ip().is_some_and(|ip| !ip.is_loopback())
}

fn must_be_loopback(at: At, address: SocketAddr, mistakes: &mut Mistakes) {
    if !address.ip().is_loopback() {
        mistakes.add(
            at,
            format_args!(
                "{address} is not on the loopback interface, and without certificates anybody there could read and write everything: give [tls], or listen on an address such as 127.0.0.1:7400"
            ),
        );
    }
}

fn http(
    given: Option<file::Http>,
    nodes: Option<SocketAddr>,
    mistakes: &mut Mistakes,
) -> Option<SocketAddr> {
    let given = given?;
    let Some(listen) = given.listen else {
        if !mistakes.has_wrong("http", "listen") {
            mistakes.add(
                given.at,
                "`listen` of [http] is missing: give it, or leave [http] out",
            );
        }
        return None;
    };
    let address = resolve(&listen, mistakes)?;
    if !given.beyond_loopback && !address.ip().is_loopback() {
        mistakes.add(
            listen.at,
            format_args!(
                "`listen` of [http]: {address} is not on the loopback interface, and what is told there is open to whoever connects: use an address such as 127.0.0.1:7480, or say `beyond_loopback = true` in [http]"
            ),
        );
    }
    if address.port() != 0 && nodes == Some(address) {
        mistakes.add(
            listen.at,
            format_args!(
                "`listen` of [http]: {address} is where other nodes connect: choose another port"
            ),
        );
    }
    Some(address)
}

fn engine(given: &file::Engine, mistakes: &mut Mistakes) -> EngineSettings {
    const SEGMENT_BYTES: u64 = 16 << 20;
    const LIMIT_BYTES: u64 = 1 << 30;
    let (segment, limit) = (&given.segment_bytes, &given.log_limit_bytes);
    let segment_bytes = segment.as_ref().map_or(SEGMENT_BYTES, |it| it.value);
    let limit_bytes = limit.as_ref().map_or(LIMIT_BYTES, |it| it.value);
    if limit_bytes < 3 * segment_bytes
        && let Some(at) = limit.as_ref().or(segment.as_ref()).map(|it| it.at)
    {
        mistakes.add(
            at,
            format_args!(
                "`log_limit_bytes` of [engine] is {limit_bytes}, less than three segments of {segment_bytes} bytes: raise it, or lower `segment_bytes`"
            ),
        );
    }
    EngineSettings {
        log_limit_bytes: limit.as_ref().map(|it| it.value),
        segment_bytes: segment
            .as_ref()
            .map(|it| u32::try_from(it.value).unwrap_or(u32::MAX)),
        buffered_sync: given.buffered_sync_ms.map(Duration::from_millis),
        block_cache_bytes: given.block_cache_bytes.map(memory),
        write_buffer_bytes: given.write_buffer_bytes.map(memory),
        background_bytes_per_s: given.background_bytes_per_s,
    }
}

fn memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

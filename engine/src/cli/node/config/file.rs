//! The file as it is written: each key's type and bounds. How the keys go together is looked at in `settle.rs`, when the
//! flags have been laid over them.

use std::path::{Path, PathBuf};

use toml::de::DeTable;
use tracing_subscriber::EnvFilter;

use super::address::HostPort;
use super::mistakes::{At, Mistakes};
use super::reader::{Given, Lines, Reader};
use crate::NodeId;
use crate::migration::MigrationConfig;

/// What a file says; nothing that is missing is filled in.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) name: Option<Given<NodeId>>,
    pub(super) dir: Option<Given<PathBuf>>,
    pub(super) listen: Option<Given<HostPort>>,
    pub(super) advertise: Option<Given<HostPort>>,
    pub(super) weight: Option<Given<u64>>,
    pub(super) shards: Option<Given<u64>>,
    pub(super) insecure: Option<Given<bool>>,
    pub(super) tls: Option<Tls>,
    pub(super) placement: Option<Placement>,
    pub(super) nodes: Vec<(Given<NodeId>, HostPort)>,
    pub(super) http: Option<Http>,
    pub(super) log: Log,
    pub(super) engine: Engine,
    pub(super) migration: MigrationConfig,
    pub(super) migrations_at_once: Option<u64>,
}

/// `[tls]`
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) at: At,
    pub(super) authority: Option<Given<PathBuf>>,
    pub(super) certificate: Option<Given<PathBuf>>,
    pub(super) key: Option<Given<PathBuf>>,
}

/// `[placement]`
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) at: At,
    pub(super) dir: Option<Given<PathBuf>>,
    pub(super) host: Option<Given<NodeId>>,
    pub(super) etcd: Option<Given<Vec<String>>>,
    pub(super) prefix: Option<Given<String>>,
}

/// `[http]`
#[derive(Debug)]
pub(super) struct Http {
    pub(super) at: At,
    pub(super) listen: Option<Given<HostPort>>,
    pub(super) beyond_loopback: bool,
}

/// `[log]`
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) json: bool,
    pub(super) level: Option<String>,
}

/// `[engine]`
#[derive(Debug, Default)]
pub(super) struct Engine {
    pub(super) log_limit_bytes: Option<Given<u64>>,
    pub(super) segment_bytes: Option<Given<u64>>,
    pub(super) buffered_sync_ms: Option<u64>,
    pub(super) block_cache_bytes: Option<u64>,
    pub(super) write_buffer_bytes: Option<u64>,
    pub(super) background_bytes_per_s: Option<u64>,
}

/// The most shards that an engine is made for.
const SHARDS_MAX: u64 = 1000;
/// Memory and files beyond this are a slip of the hand.
const SIZE_MAX: u64 = 1 << 50;
const YEAR_MS: u64 = 366 * 24 * 3_600_000;

/// Reads the text of a file whose paths are relative to `base`; `None` where it is not TOML.
pub(super) fn read(text: &str, base: &Path, mistakes: &mut Mistakes) -> Option<File> {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = lines.at(error.span().map_or(0, |span| span.start));
        let what = error.message().trim().replace('\n', ", ");
        mistakes.add(at, format_args!("not TOML: {what}"));
    }
    if !errors.is_empty() {
        // What was recovered is a guess: its mistakes would confuse.
        return None;
    }
    let root = Reader::document(document.get_ref(), &lines);
    Some(Section { base, mistakes }.document(root))
}

/// What reading any table needs.
struct Section<'a> {
    base: &'a Path,
    mistakes: &'a mut Mistakes,
}

impl Section<'_> {
    fn document(&mut self, mut root: Reader<'_, '_>) -> File {
        let mut file = File {
            name: root.parsed("name", self.mistakes, node_name),
            dir: self.path(&mut root, "dir"),
            listen: root.parsed("listen", self.mistakes, HostPort::parse),
            advertise: root.parsed("advertise", self.mistakes, HostPort::parse),
            weight: root.number("weight", 1..=1_000_000, self.mistakes),
            shards: root.number("shards", 1..=SHARDS_MAX, self.mistakes),
            insecure: root.bool("insecure", self.mistakes),
            ..File::default()
        };
        let mistakes = &mut *self.mistakes;
        let tables = [
            "tls",
            "placement",
            "nodes",
            "http",
            "log",
            "engine",
            "migration",
        ];
        for name in tables {
            let Some(table) = root.table(name, mistakes) else {
                continue;
            };
            let mut section = Section {
                base: self.base,
                mistakes,
            };
            match name {
                "tls" => file.tls = Some(section.tls(table)),
                "placement" => file.placement = Some(section.placement(table)),
                "nodes" => file.nodes = section.nodes(table),
                "http" => file.http = Some(section.http(table)),
                "log" => file.log = section.log(table),
                "engine" => file.engine = section.engine(table),
                _ => (file.migration, file.migrations_at_once) = section.migration(table),
            }
        }
        root.end(mistakes);
        file
    }

    fn path(&mut self, table: &mut Reader<'_, '_>, key: &'static str) -> Option<Given<PathBuf>> {
        let base = self.base;
        table.parsed(key, self.mistakes, |text| match text {
            "" => Err("it is empty: name a path".into()),
            text => Ok(base.join(text)),
        })
    }

    fn tls(&mut self, mut table: Reader<'_, '_>) -> Tls {
        let tls = Tls {
            at: table.at(),
            authority: self.path(&mut table, "authority"),
            certificate: self.path(&mut table, "certificate"),
            key: self.path(&mut table, "key"),
        };
        table.end(self.mistakes);
        tls
    }

    fn placement(&mut self, mut table: Reader<'_, '_>) -> Placement {
        let placement = Placement {
            at: table.at(),
            dir: self.path(&mut table, "dir"),
            host: table.parsed("host", self.mistakes, node_name),
            etcd: table.strings("etcd", self.mistakes),
            prefix: table.string("prefix", self.mistakes),
        };
        table.end(self.mistakes);
        placement
    }

    fn nodes(&mut self, table: Reader<'_, '_>) -> Vec<(Given<NodeId>, HostPort)> {
        let mut nodes = Vec::new();
        for (name, address) in table.entries(self.mistakes) {
            let at = name.at;
            match (node_name(&name.value), HostPort::parse(&address)) {
                (Ok(node), Ok(address)) => nodes.push((name.map(|_| node), address)),
                (node, address) => {
                    for what in [node.err(), address.err()].into_iter().flatten() {
                        self.mistakes.add(at, format_args!("[nodes]: {what}"));
                    }
                }
            }
        }
        nodes
    }

    fn http(&mut self, mut table: Reader<'_, '_>) -> Http {
        let beyond = table.bool("beyond_loopback", self.mistakes);
        let http = Http {
            at: table.at(),
            listen: table.parsed("listen", self.mistakes, HostPort::parse),
            beyond_loopback: beyond.is_some_and(|beyond| beyond.value),
        };
        table.end(self.mistakes);
        http
    }

    fn log(&mut self, mut table: Reader<'_, '_>) -> Log {
        let json = table.parsed("format", self.mistakes, |text| match text {
            "human" => Ok(false),
            "json" => Ok(true),
            other => Err(format!("{other:?} is no format: use \"human\" or \"json\"")),
        });
        let level = table.parsed("level", self.mistakes, log_level);
        table.end(self.mistakes);
        Log {
            json: json.is_some_and(|json| json.value),
            level: level.map(|level| level.value),
        }
    }

    fn engine(&mut self, mut table: Reader<'_, '_>) -> Engine {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let mistakes = &mut *self.mistakes;
        let segments = 32 * KIB..=u64::from(u32::MAX);
        let value = |given: Option<Given<u64>>| given.map(|given| given.value);
        let engine = Engine {
            log_limit_bytes: table.bytes("log_limit_bytes", MIB..=SIZE_MAX, mistakes),
            segment_bytes: table.bytes("segment_bytes", segments, mistakes),
            buffered_sync_ms: value(table.number("buffered_sync_ms", 1..=60_000, mistakes)),
            block_cache_bytes: value(table.bytes("block_cache_bytes", MIB..=SIZE_MAX, mistakes)),
            write_buffer_bytes: value(table.bytes("write_buffer_bytes", MIB..=SIZE_MAX, mistakes)),
            background_bytes_per_s: value(table.bytes(
                "background_bytes_per_s",
                64 * KIB..=SIZE_MAX,
                mistakes,
            )),
        };
        table.end(mistakes);
        engine
    }

    /// The bounds are those of [`MigrationConfig::validate`], but for times that nobody waits for.
    fn migration(&mut self, mut table: Reader<'_, '_>) -> (MigrationConfig, Option<u64>) {
        let mistakes = &mut *self.mistakes;
        let mut config = MigrationConfig::default();
        let value = |given: Option<Given<u64>>, default| given.map_or(default, |given| given.value);
        let given = table.bytes("rate_bytes_per_s", 1024..=u64::MAX, mistakes);
        config.rate_bytes_per_s = given.map(|given| given.value);
        let given = table.number("pause_max_ms", 5..=60_000, mistakes);
        config.pause_max_ms = value(given, config.pause_max_ms);
        let attempts = table.number("attempts_max", 1..=10_000, mistakes);
        let attempts = value(attempts, config.attempts_max.into());
        config.attempts_max = u32::try_from(attempts).unwrap_or(u32::MAX);
        let given = table.number("grace_ms", 0..=YEAR_MS, mistakes);
        config.grace_ms = value(given, config.grace_ms);
        let given = table.number("catch_up_lag", 1..=1 << 32, mistakes);
        config.catch_up_lag = value(given, config.catch_up_lag);
        let given = table.bytes("hold_bytes", 1 << 16..=u64::MAX, mistakes);
        config.hold_bytes = value(given, config.hold_bytes);
        let given = table.number("hold_ms", 1000..=YEAR_MS, mistakes);
        config.hold_ms = value(given, config.hold_ms);
        let at_once = table.number("at_once", 1..=1000, mistakes);
        table.end(mistakes);
        (config, at_once.map(|at_once| at_once.value))
    }
}

fn node_name(text: &str) -> Result<NodeId, String> {
    text.parse()
        .map_err(|error: crate::migration::InvalidNodeId| error.to_string())
}

/// A level such as `info`, or levels of parts of the program as in `warn,watershed=debug`.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let wrong = |why: String| {
        format!(
            "{text:?} is no level ({why}): use error, warn, info, debug or trace, or levels of parts as in \"warn,watershed=debug\""
        )
    };
    // The filter takes any word as a target's name.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        if !levels.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(wrong(format!("{level:?} is unknown")));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

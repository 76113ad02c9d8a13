//! `put`, `get`, `delete` and `scan` on the engine of a directory.
//!
//! Reads open it read-only, so they work beside an engine that is running; writes need its lock.

use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;

use super::args::{DeleteArgs, DurabilityArg, GetArgs, PutArgs, ScanArgs};
use super::failure::{Failure, Kind};
use super::output::{Answer, JsonList, Output, json_bytes};
use crate::{Engine, Entry, Error, ReadOnly, ScanOptions};

pub(super) fn put(args: &PutArgs) -> Result<Answer, Failure> {
    let mut value = args.value.clone().into_bytes();
    if args.value == "-" {
        value.clear();
        io::stdin()
            .lock()
            .read_to_end(&mut value)
            .map_err(|error| Failure::new(Kind::Io, format!("reading standard input: {error}")))?;
    }
    write(&args.dir.dir, &args.key, args.durability, |engine| {
        engine.put(&args.key, value)
    })
}

pub(super) fn delete(args: &DeleteArgs) -> Result<Answer, Failure> {
    must_exist(&args.dir.dir)?;
    write(&args.dir.dir, &args.key, args.durability, |engine| {
        engine.delete(&args.key)
    })
}

/// One write to the engine in `dir`; its answer is the version.
fn write(
    dir: &Path,
    key: &str,
    durability: DurabilityArg,
    what: impl FnOnce(&Engine) -> crate::Write,
) -> Result<Answer, Failure> {
    let engine = Engine::open(dir)?;
    let version = what(&engine).durability(durability.into()).wait()?;
    engine.close()?;
    Ok(Answer::new(
        format!("version {version}"),
        json!({ "key": key, "version": version.to_string() }),
    ))
}

pub(super) fn get(args: &GetArgs) -> Result<Answer, Failure> {
    let engine = read_only(&args.dir.dir)?;
    let Some((value, version)) = engine.get_versioned(args.key.as_bytes())? else {
        return Err(Failure::new(
            Kind::KeyNotFound,
            format!("there is no key {:?}", args.key),
        ));
    };
    let document =
        json!({ "key": args.key, "version": version.to_string(), "value": json_bytes(&value) });
    match String::from_utf8(value.to_vec()) {
        Ok(text) => Ok(Answer::new(text, document)),
        Err(binary) => Ok(Answer::new(
            json_bytes(binary.as_bytes()).to_string(),
            document,
        )),
    }
}

pub(super) fn scan(args: &ScanArgs, output: &Output) -> Result<Answer, Failure> {
    let engine = read_only(&args.dir.dir)?;
    let mut options = ScanOptions::all();
    if let Some(prefix) = &args.prefix {
        options = options.prefix(prefix.clone());
    }
    if let Some(from) = &args.from {
        options = options.from(from.clone());
    }
    if let Some(to) = &args.to {
        options = options.to(to.clone());
    }
    if args.reverse {
        options = options.reverse();
    }
    if let Some(limit) = args.limit {
        options = options.limit(limit);
    }
    let entries = engine.scan(options)?;
    if output.json() {
        scan_json(entries)
    } else {
        scan_text(entries)
    }
}

fn scan_json(entries: impl Iterator<Item = Result<Entry, Error>>) -> Result<Answer, Failure> {
    let mut list = JsonList::new("entries")?;
    for entry in entries {
        let Entry {
            key,
            value,
            version,
        } = entry?;
        list.push(&json!({
            "key": json_bytes(&key),
            "version": version.to_string(),
            "value": json_bytes(&value),
        }))?;
    }
    list.print()?;
    Ok(Answer::printed())
}

/// Writes entries as they come: a scan may be longer than memory.
fn scan_text(entries: impl Iterator<Item = Result<Entry, Error>>) -> Result<Answer, Failure> {
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for entry in entries {
        let entry = entry?;
        [&entry.key[..], b"\t", &entry.value[..], b"\n"]
            .iter()
            .try_for_each(|part| out.write_all(part))
            .map_err(|error| Failure::stdout(&error))?;
    }
    out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(Answer::printed())
}

/// Opens the engine of `dir` without its lock.
pub(super) fn read_only(dir: &Path) -> Result<ReadOnly, Failure> {
    must_exist(dir)?;
    Ok(Engine::options().open_read_only(dir)?)
}

/// Reading makes no directory, and a mistyped one is not an empty engine.
fn must_exist(dir: &Path) -> Result<(), Failure> {
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(
            Kind::BadDirectory,
            format!("{} is not a directory", dir.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            Kind::NotFound,
            format!(
                "there is no engine in {}: name its directory with --dir, or load or put something first",
                dir.display()
            ),
        )),
        Err(error) => Err(Failure::file("read", dir, &error)),
    }
}

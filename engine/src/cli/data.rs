//! `put`, `get`, `delete` and `scan` on the engine of a directory, or on a cluster.
//!
//! Reads open a directory read-only, so they work beside an engine that is running; writes need its lock.

use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;

use super::args::{DeleteArgs, DurabilityArg, GetArgs, PutArgs, ScanArgs};
use super::failure::{Failure, Kind};
use super::output::{Answer, JsonList, Output, json_bytes};
use super::place::{Data, Place};
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
    write(&args.place.place()?, &args.key, args.durability, |data| {
        data.put(args.key.as_bytes(), &value)
    })
}

pub(super) fn delete(args: &DeleteArgs) -> Result<Answer, Failure> {
    let place = args.place.place()?;
    if let Place::Dir(dir) = &place {
        must_exist(dir)?;
    }
    write(&place, &args.key, args.durability, |data| {
        data.delete(args.key.as_bytes())
    })
}

/// One write; its answer is the version.
fn write(
    place: &Place,
    key: &str,
    durability: DurabilityArg,
    what: impl FnOnce(&dyn Data) -> crate::Write,
) -> Result<Answer, Failure> {
    let data = place.open()?;
    let version = what(&*data).durability(durability.into()).wait()?;
    data.end()?;
    Ok(Answer::new(
        format!("version {version}"),
        json!({ "key": key, "version": version.to_string() }),
    ))
}

pub(super) fn get(args: &GetArgs) -> Result<Answer, Failure> {
    let key = args.key.as_bytes();
    let found = match args.place.place()? {
        Place::Dir(dir) => read_only(&dir)?.get_versioned(key)?,
        cluster @ Place::Cluster(..) => cluster.open()?.get_versioned(key).wait()?,
    };
    let Some((value, version)) = found else {
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
    match args.place.place()? {
        Place::Dir(dir) => show(read_only(&dir)?.scan(options)?, output),
        cluster @ Place::Cluster(..) => {
            let data = cluster.open()?;
            show(data.scan(options), output)
        }
    }
}

fn show(
    entries: impl Iterator<Item = Result<Entry, Error>>,
    output: &Output,
) -> Result<Answer, Failure> {
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

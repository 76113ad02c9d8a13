//! `wal verify` and `wal dump`: look into the log of an engine's directory without its lock, changing nothing.
//! `wal repair`: gives up what damage made unreadable, with the lock, and only prints what `LogRepair` decides.
//!
//! The first two work on a closed and on a running engine; what a running one is just writing shows as a torn tail. The words for
//! damage are the ones with which the engine would refuse to open.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use watershed_wal::{DirStorage, DumpLine, LogEnd, LogView, OpenError, Storage};

use super::failure::{Failure, Kind};
use super::output::{Answer, JsonList, Output, bytes, thousands};
use crate::{Error, LogRepair};

pub(super) fn verify(dir: &Path) -> Result<Answer, Failure> {
    let report = watershed_wal::verify(storage(dir)?).map_err(|error| failed(dir, error))?;
    let end = match report.tail {
        LogEnd::Clean => "a clean end".to_owned(),
        LogEnd::Torn {
            segment,
            offset,
            bytes_cut,
        } => format!(
            "a torn tail: segment {segment:016x} ends at offset {offset}, and {bytes_cut} bytes after it were never promised"
        ),
    };
    let text = format!(
        "{} records in {} frames of {} segments ({}); {end}",
        thousands(report.records),
        thousands(report.frames),
        report.segments,
        bytes(report.bytes),
    );
    Ok(Answer::new(text, json!(report)))
}

pub(super) fn dump(dir: &Path, output: &Output) -> Result<Answer, Failure> {
    let (view, _) = LogView::open(storage(dir)?).map_err(|error| failed(dir, error))?;
    if output.json() {
        dump_json(view.dump())
    } else {
        dump_text(view.dump())
    }
}

pub(super) fn repair(dir: &Path, dry_run: bool, output: &Output) -> Result<Answer, Failure> {
    storage(dir)?;
    let repair = LogRepair::plan(dir)?;
    let plan = repair.found().cloned();
    let document = |kept: Option<&Path>, report: Value| {
        json!({
            "repaired": !report.is_null(),
            "dry_run": dry_run,
            "plan": plan,
            "report": report,
            "kept_in": kept,
        })
    };
    let Some(plan) = &plan else {
        let text = "nothing to repair: the log opens as it is";
        return Ok(Answer::new(text, document(None, Value::Null)));
    };
    if dry_run {
        let text = format!("{plan}\nnothing was changed: run it without --dry-run to give this up");
        return Ok(Answer::new(text, document(None, Value::Null)));
    }
    if !output.json() {
        output.say(&plan.to_string());
    }
    let Some((report, kept)) = repair.apply()? else {
        return Ok(Answer::new(
            "nothing to repair",
            document(None, Value::Null),
        ));
    };
    let text = format!(
        "repaired: {} records behind the damage are in segment {:016x}, and the damaged segments are kept in {}; delete that directory when nobody needs them",
        thousands(report.records),
        report.segment,
        kept.display()
    );
    Ok(Answer::new(text, document(Some(&kept), json!(report))))
}

fn dump_json(lines: impl Iterator<Item = DumpLine>) -> Result<Answer, Failure> {
    let mut list = JsonList::new("records")?;
    for line in lines {
        list.push(&json!(line))?;
    }
    list.print()?;
    Ok(Answer::printed())
}

fn dump_text(lines: impl Iterator<Item = DumpLine>) -> Result<Answer, Failure> {
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    for line in lines {
        let line = columns(&json!(line));
        writeln!(out, "{line}").map_err(|error| Failure::stdout(&error))?;
    }
    out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(Answer::printed())
}

/// One line, `name=value` for each field that has a value.
fn columns(line: &Value) -> String {
    let Value::Object(fields) = line else {
        return line.to_string();
    };
    let shown =
        fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            });
    shown.collect::<Vec<_>>().join(" ")
}

fn storage(dir: &Path) -> Result<Arc<dyn Storage>, Failure> {
    let wal = dir.join("wal");
    match std::fs::read_dir(&wal) {
        Ok(_) => {
            let storage =
                DirStorage::read_only(&wal).map_err(|error| Failure::file("read", &wal, &error))?;
            Ok(Arc::new(storage))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!(
                "there is no log in {}: name an engine's directory",
                dir.display()
            );
            Err(Failure::new(Kind::NotFound, message))
        }
        Err(error) => Err(Failure::file("read", &wal, &error)),
    }
}

fn failed(dir: &Path, error: OpenError) -> Failure {
    Error::LogOpen {
        dir: dir.join("wal"),
        source: Arc::new(error),
    }
    .into()
}

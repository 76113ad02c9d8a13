//! A log's contents as text: what stands beside a kept log.

use std::fmt::Write;

use watershed_wal::{LogEnd, LogView, VerifyReport};

/// Every instance with all that is known of it, then every frame, record and note, as `wal dump` has them.
pub(crate) fn listing(view: &LogView, report: &VerifyReport) -> String {
    let mut text = String::new();
    write_listing(view, report, &mut text).expect("writing to a string");
    text
}

fn write_listing(
    view: &LogView,
    report: &VerifyReport,
    text: &mut String,
) -> Result<(), std::fmt::Error> {
    let (segments, frames, records) = (report.segments, report.frames, report.records);
    write!(
        text,
        "{segments} segments, {frames} frames, {records} records, {} bytes, ",
        report.bytes
    )?;
    match report.tail {
        LogEnd::Clean => writeln!(text, "a clean end")?,
        LogEnd::Torn {
            segment,
            offset,
            bytes_cut,
        } => {
            writeln!(
                text,
                "{bytes_cut} bytes cut from {offset} of segment {segment}"
            )?;
        }
    }
    for instance in view.instances() {
        let (id, has) = (instance.id, &instance.has);
        writeln!(text, "\ninstance {id} of shard {}", instance.shard)?;
        let (base, flushed) = (instance.base, instance.flushed);
        writeln!(text, "base {base}, flushed {flushed}, has {has}")?;
        for start in &instance.terms {
            writeln!(text, "term {} from {}", start.term, start.first)?;
        }
        for hold in &instance.holds {
            writeln!(
                text,
                "hold {:?} from {}, budget {} bytes, {} s",
                hold.name,
                hold.from,
                hold.budget.bytes,
                hold.budget.time.as_secs()
            )?;
        }
        for (key, value) in &instance.notes {
            writeln!(text, "note {key:?} = {value:?}")?;
        }
        for range in has.intervals() {
            for record in view.read(id, range) {
                match record {
                    Ok(record) => writeln!(
                        text,
                        "record {} {} {}, {} bytes, hash {:032x}",
                        record.seq(),
                        record.term(),
                        record.kind(),
                        record.body().len(),
                        record.hash()
                    )?,
                    Err(error) => writeln!(text, "{error}")?,
                }
            }
        }
    }
    writeln!(text)?;
    for line in view.dump() {
        write!(
            text,
            "{:016x} {:>6} {:>6} {}",
            line.segment, line.offset, line.len, line.kind
        )?;
        // What else a line says is for people, in words that may change.
        if let Some(instance) = line.instance {
            write!(text, " {instance}")?;
        }
        if let (Some(term), Some(seq)) = (line.term, line.seq) {
            write!(text, " {term} {seq}")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

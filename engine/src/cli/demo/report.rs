//! What the demo says at its end, as one JSON document and as a page for a person.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::check::Checked;
use super::movers::Outcome;
use super::tally::ByKind;
use crate::cli::args::{DemoArgs, DurabilityArg};
use crate::cli::failure::Failure;
use crate::cli::latency::{Latencies, percentile};
use crate::cli::load::Loaded;
use crate::cli::output::{Answer, bytes, micros, thousands};
use crate::migration::Phase;

/// Everything that is reported. Empty where the demo was refused before it began.
#[derive(Default)]
pub(super) struct Report {
    pub(super) loaded: Loaded,
    pub(super) nodes: Vec<String>,
    pub(super) outcome: Outcome,
    pub(super) writes_acknowledged: u64,
    pub(super) writes_under_moves: u64,
    pub(super) writes_by_phase: BTreeMap<String, ByKind>,
    pub(super) resent: u64,
    pub(super) unknown_outcomes: u64,
    pub(super) out_of_order: u64,
    pub(super) latencies: [Latencies; 3],
    pub(super) reads: u64,
    pub(super) stale_reads: u64,
    pub(super) checked: Checked,
    pub(super) kills: Vec<Killed>,
    pub(super) warning: Option<&'static str>,
}

/// A process that was killed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Killed {
    /// What it was to the migration.
    pub(super) who: String,
    /// Where that was.
    pub(super) phase: String,
}

impl Report {
    fn digest_match(&self) -> bool {
        !self.outcome.moved.is_empty()
            && self
                .outcome
                .moved
                .iter()
                .all(|moved| moved.certificate.check().is_ok())
    }

    fn passed(&self) -> bool {
        self.checked.all_right()
            && self.stale_reads == 0
            && self.out_of_order == 0
            && self.digest_match()
    }

    /// The pauses in microseconds.
    fn pauses(&self) -> Vec<u64> {
        self.outcome
            .moved
            .iter()
            .filter_map(|moved| moved.certificate.pause_us)
            .collect()
    }

    fn sum(&self, of: impl Fn(&super::movers::Moved) -> u64) -> u64 {
        self.outcome.moved.iter().map(of).sum()
    }

    fn bulk_copy_mb_s(&self) -> f64 {
        let copied = self.sum(|moved| moved.progress.copied_bytes);
        // A copy faster than the clock's step took at most that step.
        let ms = self
            .sum(|moved| {
                moved
                    .certificate
                    .phase_ms
                    .get(&Phase::BulkCopy)
                    .copied()
                    .unwrap_or(0)
            })
            .max(1);
        rounded(copied as f64 / 1e3 / ms as f64)
    }

    /// The answer, with exit status 1 where anything was wrong.
    pub(super) fn answer(&self, args: &DemoArgs) -> Answer {
        let answer = Answer::new(
            self.text(args),
            self.json(args, if self.passed() { "pass" } else { "fail" }),
        );
        if self.passed() {
            answer
        } else {
            answer.failed()
        }
    }

    /// The answer where the safety gate refused, before any shard was touched.
    pub(super) fn refused(args: &DemoArgs, refusal: &Failure) -> Answer {
        let mut document = Self::default().json(args, "refused");
        document["reason"] = json!(refusal.message());
        document["error"] = json!(refusal);
        let text = format!(
            "REFUSED, and no shard was touched.\n\n{}",
            refusal.message()
        );
        Answer::new(text, document).failed()
    }

    fn json(&self, args: &DemoArgs, verdict: &str) -> Value {
        let pauses = self.pauses();
        let ms = |us: u64| rounded(us as f64 / 1e3);
        let latency =
            |times: &Latencies| json!({ "p50": times.percentile(50), "p99": times.percentile(99) });
        let [before, during, after] = &self.latencies;
        json!({
            "documents": self.loaded.documents,
            "documents_repeated": self.loaded.updates,
            "load_seconds": rounded(self.loaded.time.as_secs_f64()),
            "nodes": self.nodes,
            "shards": args.shards,
            "writers": args.writers,
            "durability": match args.durability { DurabilityArg::Sync => "sync", DurabilityArg::Buffered => "buffered" },
            "writes_acknowledged": self.writes_acknowledged,
            "writes_under_moves": self.writes_under_moves,
            "writes_by_phase": self.writes_by_phase,
            "writes_sent_again": self.resent,
            "unknown_outcomes": self.unknown_outcomes,
            "versions_out_of_order": self.out_of_order,
            "reads_back": self.reads,
            "stale_reads": self.stale_reads,
            "keys_checked": self.checked.keys,
            "keys_present": self.checked.present,
            "keys_scanned": self.checked.scanned,
            "misplaced_copies": self.checked.misplaced,
            "lost": self.checked.lost,
            "resurrected": self.checked.resurrected,
            "wrong_value": self.checked.wrong_value,
            "migrations": self.outcome.moved.len(),
            "moves": self.moves(),
            "moves_seconds": rounded(self.outcome.time.as_secs_f64()),
            "holes_filled": self.sum(|moved| moved.certificate.holes_filled),
            "delta_records": self.sum(|moved| moved.certificate.delta_records),
            "pause_ms": {
                "p50": ms(percentile(&pauses, 50)),
                "p99": ms(percentile(&pauses, 99)),
                "max": ms(percentile(&pauses, 100)),
            },
            "write_latency_us": { "before": latency(before), "during": latency(during), "after": latency(after) },
            "bulk_copy_mb_s": self.bulk_copy_mb_s(),
            "kills": self.kills,
            "digest_match": self.digest_match(),
            // No anti-entropy pass runs in a migration with its delta pass; Cleanup's comparison is not one.
            "anti_entropy": { "passes": 0, "differences": 0, "repaired": 0 },
            "warning": self.warning,
            "verdict": verdict,
        })
    }

    fn moves(&self) -> Vec<Value> {
        let one = |moved: &super::movers::Moved| {
            let certificate = &moved.certificate;
            json!({
                "shard": moved.step.shard,
                "source": certificate.source.node,
                "target": certificate.target.node,
                "copied_bytes": moved.progress.copied_bytes,
                "attempts": certificate.attempts,
                "holes_filled": certificate.holes_filled,
                "delta_records": certificate.delta_records,
                "pause_ms": certificate.pause_us.map(|us| rounded(us as f64 / 1e3)),
                "base": certificate.base,
                "f": certificate.f,
            })
        };
        self.outcome.moved.iter().map(one).collect()
    }

    fn text(&self, args: &DemoArgs) -> String {
        let mut page = String::new();
        // Writing to a string can't fail.
        let _ = self.what_moved(args, &mut page);
        let _ = self.what_was_checked(args.processes, &mut page);
        page
    }

    fn what_moved(&self, args: &DemoArgs, page: &mut String) -> std::fmt::Result {
        let loaded = &self.loaded;
        let target = self.nodes.last().map_or("", String::as_str);
        let (documents, seconds) = (thousands(loaded.documents), loaded.time.as_secs_f64());
        writeln!(
            page,
            "\nLoaded    {documents} documents into {} shards in {seconds:.1} s",
            args.shards
        )?;
        writeln!(
            page,
            "Moved     {} shards to the new node {target} in {:.1} s, while {} writers had {} writes acknowledged\n",
            self.outcome.moved.len(),
            self.outcome.time.as_secs_f64(),
            args.writers,
            thousands(self.writes_under_moves),
        )?;
        writeln!(
            page,
            "          shard   from   to     copied   delta records   attempts      pause"
        )?;
        for moved in &self.outcome.moved {
            let certificate = &moved.certificate;
            writeln!(
                page,
                "          {:>5}   {:>4}   {:>2}   {:>8}   {:>13}   {:>8}   {:>8}",
                moved.step.shard.to_string(),
                certificate.source.node.to_string(),
                certificate.target.node.to_string(),
                bytes(moved.progress.copied_bytes),
                thousands(certificate.delta_records),
                certificate.attempts.to_string(),
                certificate.pause_us.map_or_else(|| "?".into(), micros),
            )?;
        }
        let pauses = self.pauses();
        let [p50, p99, max] = [50, 99, 100].map(|percent| micros(percentile(&pauses, percent)));
        writeln!(
            page,
            "\nPause     p50 {p50}, p99 {p99}, max {max}: writes of that shard waited so long; none failed"
        )?;
        let [before, during, after] = self.latencies.each_ref().map(|times| {
            format!(
                "{} / {}",
                micros(times.percentile(50)),
                micros(times.percentile(99))
            )
        });
        writeln!(
            page,
            "Writes    {} acknowledged; p50 / p99 before the moves {before},",
            thousands(self.writes_acknowledged)
        )?;
        writeln!(page, "          during {during}, after {after}")?;
        for killed in &self.kills {
            writeln!(
                page,
                "Killed    the {} in phase {}, and started it again",
                killed.who, killed.phase
            )?;
        }
        Ok(())
    }

    fn what_was_checked(&self, processes: bool, page: &mut String) -> std::fmt::Result {
        let Checked {
            keys,
            lost,
            resurrected,
            wrong_value,
            present,
            scanned,
            misplaced,
        } = &self.checked;
        writeln!(
            page,
            "\nChecked   with the old copies deleted and every node {} again",
            if processes {
                "killed and started"
            } else {
                "closed and opened"
            },
        )?;
        let mut line = |what: String, wrong: u64| {
            let verdict = if wrong == 0 {
                "ok".to_owned()
            } else {
                format!("{} WRONG", thousands(wrong))
            };
            writeln!(page, "          {what:<72} {verdict}")
        };
        line(
            format!(
                "{} keys read on their owners: no acknowledged write lost",
                thousands(*keys)
            ),
            *lost,
        )?;
        line(
            "no deleted key came back, none appeared".into(),
            *resurrected,
        )?;
        line(
            "every value and every version is the acknowledged one".into(),
            *wrong_value + self.out_of_order,
        )?;
        line(
            format!("a scan finds the same {} keys", thousands(*scanned)),
            present.abs_diff(*scanned),
        )?;
        line(
            format!(
                "{} reads by the writers saw their own last write",
                thousands(self.reads)
            ),
            self.stale_reads,
        )?;
        let moved = self.outcome.moved.len();
        line(
            format!("{moved} moved shards are on their new node only"),
            *misplaced,
        )?;
        line(
            "log digests of source and target agree".into(),
            u64::from(!self.digest_match()),
        )?;
        if self.unknown_outcomes > 0 {
            let unknown = thousands(self.unknown_outcomes);
            writeln!(
                page,
                "          {unknown} writes ended without an outcome: either one was accepted"
            )?;
        }
        if self.passed() {
            write!(page, "\nPASS      nothing acknowledged was lost")
        } else {
            write!(page, "\nFAIL      see the lines marked WRONG")
        }
    }
}

/// Three decimals are what the measurements can carry.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Command};
    use crate::cli::failure::Kind;
    use clap::Parser;

    fn args() -> DemoArgs {
        match Args::parse_from(["watershed", "demo"]).command {
            Command::Demo(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_has_every_key_a_reason_and_an_error() {
        let refusal = Failure::new(Kind::Refused, "because");
        let mut document = Report::default().json(&args(), "refused");
        for key in [
            "documents",
            "lost",
            "pause_ms",
            "write_latency_us",
            "kills",
            "digest_match",
            "anti_entropy",
        ] {
            assert!(document.get(key).is_some(), "{key}");
        }
        document["reason"] = json!(refusal.message());
        assert_eq!(
            (&document["verdict"], &document["reason"]),
            (&json!("refused"), &json!("because"))
        );
    }

    #[test]
    fn one_wrong_key_fails_the_demo() {
        let mut report = Report::default();
        assert!(
            report.checked.all_right() && !report.passed(),
            "nothing moved is no pass"
        );
        report.checked.present = 1;
        assert!(!report.checked.all_right(), "the scan missed a key");
        report.checked.scanned = 1;
        report.checked.misplaced = 1;
        assert!(!report.checked.all_right());
    }
}

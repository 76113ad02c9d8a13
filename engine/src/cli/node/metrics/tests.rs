//! What docs/ has for whoever watches nodes names what there is: metrics that a node tells, sections of the runbook.

use std::collections::BTreeSet;

use super::*;
use crate::migration::{Attempt, MigrationId, Phase};
use crate::{Engine, ShardId};

const ALERTS: &str = include_str!("../../../../../docs/alerts.yml");
const DASHBOARD: &str = include_str!("../../../../../docs/grafana.json");
const RUNBOOK: &str = include_str!("../../../../../docs/operations.md");

/// A page on which nothing is left out: a shard, a hold, a migration and a comparison are there.
fn whole_page() -> String {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::options().shards(1).open(dir.path()).unwrap();
    let node = engine.node().unwrap();
    let log = node.hosted_all()[0].log.clone();
    let budget = watershed_wal::HoldBudget {
        bytes: 1 << 30,
        time: Duration::from_secs(60),
    };
    log.hold("watched", log.base(), budget).unwrap();
    let mut status = engine.status().unwrap();
    status.migration_counts.last_clean_comparison = Some(Duration::ZERO);
    let moving = Progress {
        migration: MigrationId(1),
        shard: ShardId(0),
        source: "a".parse().unwrap(),
        target: "b".parse().unwrap(),
        phase: Phase::BulkCopy,
        attempt: Attempt(0),
        copied_bytes: 1,
        total_bytes: 2,
        lag: 0,
        holes_filled: 0,
        delta_records: 0,
        pause_us: None,
        re_opens: 0,
        phase_ms: std::collections::BTreeMap::new(),
        paused: false,
        cutover: false,
        rate_bytes_per_s: None,
        pause_max_ms: 50,
        trouble: None,
    };
    engine.close().unwrap();
    text(Look {
        serving: true,
        placement_answers: true,
        engine: Some(EngineLook {
            status,
            moves: vec![moving],
            refused: RefusalClass::ALL.map(|class| (class, 0)).into(),
            now: SystemTime::now(),
        }),
    })
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !in_name(c))
        .filter(|word| word.starts_with("watershed_"))
        .collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let page = whole_page();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for (file, text) in [("alerts.yml", ALERTS), ("grafana.json", DASHBOARD)] {
        let named = named(text);
        assert!(named.len() > 10, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&there).collect();
        assert!(missing.is_empty(), "{file} names {missing:?}, of {there:?}");
    }
}

#[test]
fn each_alert_has_its_section_in_the_runbook() {
    let headings = RUNBOOK.lines().filter(|line| line.starts_with("##"));
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    let wanted = ALERTS.lines().filter_map(|line| {
        let link = line.trim().strip_prefix("runbook: ")?;
        Some(link.strip_prefix("operations.md#").expect(link))
    });
    let wanted: Vec<&str> = wanted.collect();
    assert_eq!(wanted.len(), ALERTS.matches("- alert: ").count());
    for wanted in wanted {
        assert!(anchors.contains(wanted), "{wanted} is none of {anchors:?}");
    }
}

/// As renderers of Markdown make it of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

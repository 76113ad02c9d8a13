//! The recovery table of FORMAT.md and the tests named after its labels: each has the other.

use std::collections::BTreeSet;

/// The labels of the table: the first cell of each row, `R1` and so on.
fn labels() -> BTreeSet<String> {
    let format = include_str!("../FORMAT.md");
    let (_, recovery) = format.split_once("\n## Recovery\n").expect("a section");
    let section = recovery.split("\n## ").next().unwrap_or(recovery);
    let cells = section.lines().filter_map(|line| line.strip_prefix("| R"));
    cells
        .filter_map(|row| row.split_once(" |"))
        .map(|(number, _)| {
            assert!(number.parse::<u32>().is_ok(), "R{number} is no label");
            format!("r{number}")
        })
        .collect()
}

/// The labels that tests begin with: `fn r3_...` under `#[test]`.
fn tested() -> BTreeSet<String> {
    let source = include_str!("log_damage.rs");
    let tests = source.split("#[test]\n").skip(1);
    tests
        .filter_map(|test| test.strip_prefix("fn ")?.split_once('_'))
        .map(|(label, _)| label.to_owned())
        .filter(|label| label[1..].parse::<u32>().is_ok() && label.starts_with('r'))
        .collect()
}

#[test]
fn each_label_of_the_recovery_table_has_its_test_and_each_such_test_its_label() {
    let labels = labels();
    assert!(labels.len() >= 9, "the table was not found: {labels:?}");
    assert_eq!(labels, tested());
}

#[test]
fn the_code_that_decides_names_each_label() {
    let source = include_str!("../src/log/recover.rs");
    for label in labels() {
        let comment = label.to_uppercase();
        assert!(source.contains(&comment), "no {comment} in recover.rs");
    }
}

//! Every committed input of every target; `seeds` generates the first of them.
//!
//! A fuzzer's finding becomes a file here, and stays. `BLESS=1 cargo test -p watershed-fuzz` writes the generated
//! inputs anew after a change to the generator.

mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

use watershed_fuzz::TARGETS;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

fn files(target: &str) -> Vec<PathBuf> {
    let folder = folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn run_corpus(name: &str) {
    let (_, run) = TARGETS
        .iter()
        .find(|(target, _)| *target == name)
        .expect("a target");
    for file in files(name) {
        // Printed for the file that fails: the harness shows it with the panic.
        println!("{}", file.display());
        run(&fs::read(&file).expect("a readable file"));
    }
}

#[test]
fn corpus_of_decode_batch() {
    run_corpus("decode_batch");
}

#[test]
fn corpus_of_decode_message() {
    run_corpus("decode_message");
}

#[test]
fn corpus_of_decode_record() {
    run_corpus("decode_record");
}

#[test]
fn corpus_of_decode_segment() {
    run_corpus("decode_segment");
}

#[test]
fn corpus_of_log_faults() {
    run_corpus("log_faults");
}

#[test]
fn corpus_of_log_ops() {
    run_corpus("log_ops");
}

#[test]
fn corpus_of_migration_events() {
    run_corpus("migration_events");
}

#[test]
fn corpus_of_migration_world() {
    run_corpus("migration_world");
}

/// A folder without a target is never run: it is a typing error.
#[test]
fn corpus_folders_are_those_of_the_targets() {
    let corpus = folder("");
    let mut folders: Vec<_> = fs::read_dir(&corpus)
        .expect("the corpus")
        .map(|entry| {
            entry
                .expect("a readable folder")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|(name, _)| name));
}

#[test]
fn corpus_holds_what_the_generator_makes() {
    let bless = std::env::var_os("BLESS").is_some();
    for (target, inputs) in seeds::generate() {
        for (i, input) in inputs.iter().enumerate() {
            let file = folder(target).join(format!("seed-{i:02}"));
            if bless {
                fs::create_dir_all(folder(target)).expect("a writable corpus");
                fs::write(&file, input).expect("a writable corpus");
            }
            let committed = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(
                &committed,
                input,
                "{} is not what the generator makes",
                file.display()
            );
        }
    }
}

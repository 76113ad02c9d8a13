//! The messages of version 1 as they were encoded when it was made, and are read for ever.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use watershed_migration::messages::MESSAGE_VERSION;

use crate::described::Sample;

fn file() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/messages-v1.txt"
    ))
}

/// One line for each sample: what it is, its name, and its bytes.
fn lines() -> String {
    let mut lines = String::new();
    for sample in Sample::all() {
        write!(lines, "{} {} ", sample.side(), sample.name()).unwrap();
        for byte in sample.encode() {
            write!(lines, "{byte:02x}").unwrap();
        }
        lines.push('\n');
    }
    lines
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().map(|c| c.to_digit(16).unwrap()).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

/// What version 1 sent is read as it was meant, and is what this program sends while it is of version 1: a difference
/// is another version, and needs another number.
///
/// `BLESS=1` writes the file: only to add what was added to the protocol, never after version 1 is released.
#[test]
fn messages_of_version_1_are_read_and_sent_as_they_were() {
    if env::var_os("BLESS").is_some() {
        fs::write(file(), lines()).unwrap();
    }
    let kept = fs::read_to_string(file()).unwrap();
    let mut kept_lines = kept.lines();
    for sample in Sample::all() {
        let line: Vec<_> = kept_lines.next().unwrap().split(' ').collect();
        assert_eq!(line[..2], [sample.side(), sample.name()]);
        assert_eq!(sample.decode(&bytes(line[2])), Ok(sample));
    }
    assert_eq!(kept_lines.next(), None);
    assert_eq!(
        MESSAGE_VERSION, 1,
        "keep the messages of the new version, too"
    );
    assert_eq!(lines(), kept);
}

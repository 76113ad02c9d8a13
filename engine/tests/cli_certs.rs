//! `certs init` and `certs issue`: what is made, whom it is for, and what is refused without leaving anything behind.

mod cli_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cli_support::{Ended, Place, command, run};

fn certs(place: &Place, words: &[&str]) -> Ended {
    let dir = place.path("certs");
    let mut command = command(["certs", words[0], "--json", "--dir"]);
    run(command.arg(dir).args(&words[1..]))
}

fn files(place: &Place) -> Vec<String> {
    let Ok(entries) = fs::read_dir(place.path("certs")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn an_authority_and_a_certificate_of_each_role_are_made() {
    let place = Place::new();
    let made = certs(&place, &["init"]);
    assert_eq!(made.status, 0, "{made:?}");
    for role in ["node", "client", "admin"] {
        let issued = certs(&place, &["issue", "--role", role, "--name", "a-1"]);
        assert_eq!(issued.status, 0, "{issued:?}");
        let document = issued.json();
        assert_eq!(document["identity"], format!("watershed://{role}/a-1"));
        let key = place.path(&format!("certs/{role}-a-1.key"));
        assert_eq!(document["key"], key.to_str().unwrap());
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let certificate = fs::read_to_string(place.path(&format!("certs/{role}-a-1.pem"))).unwrap();
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    }
    let mode = fs::metadata(place.path("certs/ca.key")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let plain = command(["certs", "issue", "--role", "node", "--name", "b", "--dir"])
        .arg(place.path("certs"))
        .arg("--out")
        .arg(place.path("certs/for-b"))
        .output()
        .unwrap();
    assert!(plain.status.success());
    let said = String::from_utf8(plain.stdout).unwrap();
    assert!(said.contains("for watershed://node/b"), "{said}");
    assert!(place.path("certs/for-b/node-b.key").exists());
}

#[test]
fn nothing_that_exists_is_written_over() {
    let place = Place::new();
    assert_eq!(certs(&place, &["init"]).status, 0);
    let issue = ["issue", "--role", "node", "--name", "a"];
    assert_eq!(certs(&place, &issue).status, 0);
    let before: Vec<_> = files(&place)
        .iter()
        .map(|name| fs::read(place.path(&format!("certs/{name}"))).unwrap())
        .collect();
    for words in [&["init"][..], &issue] {
        let refused = certs(&place, words);
        assert_eq!(refused.status, 1);
        let (kind, message) = refused.error();
        assert_eq!(kind, "bad-directory");
        assert!(message.contains("exists: choose another"), "{message}");
    }
    // The certificate alone: its key is not left behind.
    fs::remove_file(place.path("certs/node-a.key")).unwrap();
    let (_, message) = certs(&place, &issue).error();
    assert!(message.contains("node-a.pem exists"), "{message}");
    assert!(!place.path("certs/node-a.key").exists());
    fs::write(place.path("certs/node-a.key"), &before[2]).unwrap();
    let after: Vec<_> = files(&place)
        .iter()
        .map(|name| fs::read(place.path(&format!("certs/{name}"))).unwrap())
        .collect();
    assert!(before.len() == 4 && before == after);
}

#[test]
fn without_an_authority_or_with_wrong_words_nothing_is_made() {
    let place = Place::new();
    let issue = ["issue", "--role", "node", "--name", "a"];
    let (kind, message) = certs(&place, &issue).error();
    assert_eq!(kind, "bad-input");
    assert!(
        message.contains("ca.key: it is not there; make an authority"),
        "{message}"
    );
    assert_eq!(certs(&place, &["init"]).status, 0);
    for (words, says) in [
        (&["issue", "--role", "root", "--name", "a"][..], "root"),
        (
            &["issue", "--role", "node", "--name", "a b"],
            "no node name",
        ),
        (&["issue", "--role", "node"], "--name"),
        (
            &["issue", "--role", "node", "--name", "a", "--days", "0"],
            "--days",
        ),
        (
            &[
                "issue",
                "--role",
                "node",
                "--name",
                "a",
                "--days",
                "4294967295",
            ],
            "after the year 9999",
        ),
    ] {
        let refused = certs(&place, words);
        assert_eq!(refused.status, 2, "{refused:?}");
        let (_, message) = refused.error();
        assert!(message.contains(says), "{message}");
    }
    fs::write(place.path("certs/ca.key"), "no key").unwrap();
    let (kind, message) = certs(&place, &issue).error();
    assert_eq!(kind, "bad-input");
    assert!(message.contains("ca.key"), "{message}");
    assert_eq!(files(&place), ["ca.key", "ca.pem"]);
}

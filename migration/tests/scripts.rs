//! Scripts with transcripts: each file of `tests/scripts` names what goes wrong, then, below a line of dashes, what
//! everybody does. Regenerate with `WATERSHED_REGEN=1` and review the diff.
//!
//! Commands: `end <phase>`; `crash source|target|driver at <phase> [<nth time it is shown>]`; `abort at <phase>`; `takeover at <phase>`;
//! `slow <attempts> <ms>` (the target's verification); `copy <ms>` (how long the copy takes); `lose-forwards`; `lose-swap-replies`.

mod properties;
mod world;

use std::path::Path;

use watershed_migration::{MigrationConfig, Phase};
use world::{Faults, Who, World};

const LINE: &str = "----";

type Setup = Box<dyn Fn(&mut World)>;

fn play(commands: &str) -> (String, Phase, Phase) {
    let mut faults = Faults::none();
    let mut world_setup: Vec<Setup> = Vec::new();
    let mut end = Phase::Done;
    for line in commands
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["end", phase] => end = phase.parse().unwrap(),
            ["crash", who, "at", phase, ref times @ ..] => {
                let who = match who {
                    "source" => Who::Source,
                    "target" => Who::Target,
                    "driver" => Who::Driver,
                    other => panic!("nobody is called {other}"),
                };
                let phase: Phase = phase.parse().unwrap();
                let times = times.first().map_or(1, |times| times.parse().unwrap());
                world_setup.push(Box::new(move |w| w.crash_at = Some((who, phase, times))));
            }
            ["abort", "at", phase] => {
                let phase: Phase = phase.parse().unwrap();
                world_setup.push(Box::new(move |w| w.abort_at = Some(phase)));
            }
            ["takeover", "at", phase] => {
                let phase: Phase = phase.parse().unwrap();
                world_setup.push(Box::new(move |w| w.takeover_at = Some(phase)));
            }
            ["copy", ms] => {
                let ms = ms.parse().unwrap();
                world_setup.push(Box::new(move |w| w.copy_ms = ms));
            }
            ["slow", attempts, ms] => {
                let (attempts, ms) = (attempts.parse().unwrap(), ms.parse().unwrap());
                world_setup.push(Box::new(move |w| {
                    (w.slow_attempts, w.slow_ms) = (attempts, ms)
                }));
            }
            ["lose-forwards"] => (faults.lose_forward, faults.until) = (1000, 10_000),
            ["lose-swap-replies"] => (faults.lose_swap_reply, faults.until) = (1000, 10_000),
            _ => panic!("no command: {line}"),
        }
    }
    let config = MigrationConfig {
        grace_ms: 5,
        catch_up_lag: 4,
        ..MigrationConfig::default()
    };
    let mut world = World::new(1, faults, config).loud();
    world_setup.iter().for_each(|set| set(&mut world));
    let properties: Vec<_> = properties::ALL.iter().collect();
    properties::run(&mut world, &properties).unwrap();
    let reached = world.placement.migration.as_ref().unwrap().phase;
    (world.trace.join("\n") + "\n", reached, end)
}

#[test]
fn every_script_plays_as_reviewed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut played = 0;
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (commands, expected) = text.split_once(LINE).unwrap_or((&text, ""));
        let (transcript, reached, end) = play(commands);
        assert_eq!(reached, end, "{}", file.display());
        if std::env::var_os("WATERSHED_REGEN").is_some() {
            std::fs::write(
                &file,
                format!("{}\n{LINE}\n{transcript}", commands.trim_end()),
            )
            .unwrap();
        } else {
            assert_eq!(
                expected.trim_start_matches('\n'),
                transcript,
                "{}",
                file.display()
            );
        }
        played += 1;
    }
    assert!(played > 20, "only {played} scripts were found");
}

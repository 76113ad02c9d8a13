//! A child process: started, listened to, and killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a child says starts with this; what else is printed, also before it in the line, is the test harness's.
pub(crate) const MARK: &str = "@";

/// A running child.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    journal: PathBuf,
}

impl Process {
    /// Starts life number `number` with the engines in `dir`.
    pub(crate) fn start(role: &str, dir: &Path, number: u64, random: &mut Random) -> Self {
        let journal = dir.join(format!("journal-{number}"));
        std::fs::create_dir(&journal).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("WATERSHED_KILLED", role)
            .env("WATERSHED_KILLED_DIR", dir)
            .env("WATERSHED_KILLED_JOURNAL", &journal)
            .env("WATERSHED_KILLED_SEED", random.next().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once(MARK) {
                    let _ = said.send(line.to_owned());
                }
            }
        });
        Self {
            child,
            lines,
            journal,
        }
    }

    /// Waits until the child says a line; gives up quietly after `patience`, since a kill at any moment is welcome.
    pub(crate) fn wait_for(&mut self, wanted: impl Fn(&str) -> bool, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().unwrap();
                    panic!("the child ended by itself: {status}; see what it printed above");
                }
            }
        }
    }

    /// Kills it with SIGKILL; gives the folder with its journals. It must not have ended by itself.
    pub(crate) fn kill(mut self) -> PathBuf {
        let before = self.child.try_wait().unwrap();
        assert!(before.is_none(), "the child ended by itself: {before:?}");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.journal
    }
}

/// xorshift64, printed so that a run's choices can be made again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(test: &str) -> Self {
        let seed = match std::env::var("WATERSHED_KILL_SEED") {
            Ok(seed) => seed.parse().expect("WATERSHED_KILL_SEED is a number"),
            Err(_) => u64::from(std::process::id()) << 20 | 1,
        };
        println!("{test}: WATERSHED_KILL_SEED={seed}");
        Self::new(seed)
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// Sleeps up to so many microseconds.
    pub(crate) fn nap(&mut self, most_us: u64) {
        std::thread::sleep(Duration::from_micros(self.below(most_us)));
    }
}

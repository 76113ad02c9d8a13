//! For the demo: each phase of a migration that this node drives is told on standard output, and the driver goes on when a
//! line comes back on standard input. So whoever started the node can do something at just that point, killing it included.

use std::collections::HashMap;
use std::io::stdin;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::cli::output::print;
use crate::migration::machine::Progress;
use crate::migration::{MigrationId, Phase};
use crate::sync::lock;

pub(super) type Observer = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Tells, and waits for the answer: one phase at a time, whichever migration it is of.
pub(super) fn observer() -> Observer {
    let told: Mutex<(HashMap<MigrationId, Phase>, Receiver<()>)> =
        Mutex::new((HashMap::new(), answers()));
    Arc::new(move |progress| {
        let mut told = lock(&told);
        let (phases, answers) = &mut *told;
        let before = phases.insert(progress.migration, progress.phase);
        let line = json!({ "phase": progress }).to_string();
        if before != Some(progress.phase) && print(&line).is_ok() {
            // Without one the process is ending.
            let _ = answers.recv();
        }
    })
}

/// The lines that come on standard input. At its end whoever started this process has gone, and nobody else knows of it:
/// it ends, too, as by a crash.
fn answers() -> Receiver<()> {
    let (answered, answers) = mpsc::channel();
    let reading = std::thread::Builder::new().name("ws-stepped".into());
    let reads = move || {
        for _ in stdin().lines().map_while(Result::ok) {
            // Nobody waits where a line came without having been asked for.
            let _ = answered.send(());
        }
        std::process::exit(1);
    };
    if let Err(error) = reading.spawn(reads) {
        tracing::error!(%error, "a migration can't be stepped through");
    }
    answers
}

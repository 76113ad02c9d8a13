//! For the demo: each phase of a migration that this node drives is told on standard output, and the driver goes on when a
//! line comes back on standard input. So whoever started the node can do something at just that point, killing it included.

use std::collections::HashMap;
use std::io::{BufRead, stdin};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::cli::output::print;
use crate::migration::machine::Progress;
use crate::migration::{MigrationId, Phase};
use crate::sync::lock;

pub(super) fn observer() -> Arc<dyn Fn(&Progress) + Send + Sync> {
    let told: Mutex<HashMap<MigrationId, Phase>> = Mutex::default();
    Arc::new(move |progress| {
        // Held until the answer comes: one phase at a time is told.
        let mut told = lock(&told);
        let before = told.insert(progress.migration, progress.phase);
        if before == Some(progress.phase) {
            return;
        }
        let line = json!({ "phase": progress }).to_string();
        if print(&line).is_ok() {
            // At its end nobody steps any more, and the migration goes on.
            let _ = stdin().lock().read_line(&mut String::new());
        }
    })
}

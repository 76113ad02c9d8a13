//! Progress for whoever watches: bars on a terminal, now and then a plain line elsewhere. Always on standard error.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

/// How often a plain line is written for work that goes on.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one command; clones show on the same terminal.
#[derive(Clone)]
pub(super) struct Watch {
    output: Output,
    bars: Option<MultiProgress>,
}

impl Watch {
    pub(super) fn new(output: &Output) -> Self {
        let bars = output
            .bars()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self {
            output: *output,
            bars,
        }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.bars {
            // The bars must make room first. A closed terminal is no reason to fail.
            Some(bars) => drop(bars.println(line)),
            None => self.output.say(line),
        }
    }

    /// Work that is watched from now until it is dropped.
    pub(super) fn work(&self, name: &str) -> Work {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style("{prefix:<18} {msg}"));
            bar.set_prefix(name.to_owned());
            bar
        });
        Work {
            watch: self.clone(),
            name: name.to_owned(),
            bar,
            last: Mutex::new(Instant::now()),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of ours; the plain style is as good as any if one did not parse.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One piece of work that is watched.
pub(super) struct Work {
    watch: Watch,
    name: String,
    bar: Option<ProgressBar>,
    last: Mutex<Instant>,
}

impl Work {
    /// What it does now; for work whose end is not known.
    pub(super) fn now(&self, words: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => bar.set_message(words()),
            None => self.line(words),
        }
    }

    /// How much of `total` is done.
    pub(super) fn at(&self, done: u64, total: u64, words: impl FnOnce() -> String) {
        let Some(bar) = &self.bar else {
            return self.line(words);
        };
        if bar.length() == Some(0) && total > 0 {
            bar.set_style(style("{prefix:<18} [{bar:24}] {percent:>3}%  {msg}"));
        }
        bar.set_length(total);
        bar.set_position(done.min(total));
        bar.set_message(words());
    }

    fn line(&self, words: impl FnOnce() -> String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            self.watch.say(&format!("{}: {}", self.name, words()));
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! The driver's engine: events become signals, signals become steps.

use std::collections::{BTreeMap, VecDeque};

use watershed_wal::{Seq, SeqRange, Term};

use super::catch_up::CatchUp;
use super::reserve::Reserve;
use super::steps::{Signal, Step};
use super::{Action, Event, Outcome, Progress, Timer};
use crate::compare::Comparison;
use crate::evidence::{SourceMarks, TargetMarks};
use crate::gate::SafeConfig;
use crate::messages::{FileInfo, Manifest};
use crate::placement::{MigrationRecord, PlacementRecord};
use crate::source::CallId;
use crate::wishes::Asked;
use crate::words::{DriverTerm, MigrationId, NodeId, Now, Phase};

/// What was learned on the way; everything that a new driver must know is in the record instead.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) manifest: Option<Manifest>,
    pub(super) files: Vec<FileInfo>,
    pub(super) ranges: Vec<SeqRange>,
    pub(super) durable: Seq,
    pub(super) f: Seq,
    pub(super) source_marks: Option<SourceMarks>,
    pub(super) target_marks: Option<TargetMarks>,
    pub(super) serving: Option<(Term, Seq)>,
    pub(super) comparison: Option<Comparison>,
    /// The copies were compared, and agree.
    pub(super) compared: bool,
    pub(super) pause_ends: Now,
    pub(super) bytes_estimate: u64,
    pub(super) target_instance: Option<watershed_wal::InstanceId>,
    pub(super) copy: Copy,
    /// How often in a row the source said that it does not forward.
    pub(super) forwards_lost: u32,
    pub(super) catch_up: CatchUp,
    /// How often the rounds stalled with more to ship than fits into one.
    pub(super) stalls: u32,
    pub(super) pause: Pause,
    pub(super) reserve: Reserve,
    /// How much of the grace time will be over when its timer fires.
    pub(super) grace_then: u64,
}

/// How the copy of the checkpoint goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copy {
    pub(super) began: Option<Now>,
    /// The bytes last seen, and since when they have not grown.
    pub(super) last: Option<(u64, Now)>,
}

/// The pause under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// The gate was asked to close, and nobody said yet that it is open again.
    pub(super) open: bool,
    /// What is being done, and since when.
    pub(super) doing: Option<(&'static str, Now)>,
    /// What the target missed last, where that is known.
    pub(super) lag: Option<u64>,
    /// The last thing that went wrong in it.
    pub(super) trouble: Option<String>,
    /// Why the last one was given up.
    pub(super) spoiled: Option<String>,
}

/// The driver of one migration: see the [module](super).
#[derive(Debug)]
pub struct Machine {
    pub(super) config: SafeConfig,
    pub(super) id: MigrationId,
    pub(super) me: NodeId,
    /// The term that this driver has won.
    pub(super) term: Option<DriverTerm>,
    /// The record as last read.
    pub(super) record: PlacementRecord,
    /// The migration to begin, until it is in the record.
    pub(super) begin: Option<Box<MigrationRecord>>,
    pub(super) step: Step,
    pub(super) facts: Facts,
    pub(super) progress: Progress,
    /// The record being swapped in.
    pub(super) swapping: Option<Box<PlacementRecord>>,
    /// Waits for this timer.
    pub(super) waiting: Option<(Timer, Now)>,
    pub(super) call: Option<CallId>,
    pub(super) calls: u64,
    pub(super) abort: Option<String>,
    /// What operators asked for and no swap has taken along yet.
    pub(super) asked: Asked,
    /// What the swap under way is to note.
    pub(super) noting: Asked,
    pub(super) failures: u32,
    /// How often it lost its way since the record last changed; no step's success makes up for it.
    pub(super) strays: u32,
    phase_began: Option<Now>,
    started: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) out: VecDeque<Action>,
}

impl Machine {
    /// A new migration, to be begun on this record. Nothing happens before [`Machine::start`].
    #[must_use]
    pub fn new(
        config: SafeConfig,
        placement: PlacementRecord,
        mut migration: MigrationRecord,
    ) -> Self {
        // What runs is what passed the gate, whatever the record was made with.
        migration.config = config.config().clone();
        let me = migration.driver.clone();
        let progress = progress_of(&placement, &migration);
        let id = migration.id;
        Self::at(
            config,
            placement,
            id,
            me,
            Some(Box::new(migration)),
            Step::Begin,
            progress,
        )
    }

    /// A migration to go on with, by the driver on `me`; `None` where the record holds none.
    #[must_use]
    pub fn resume(config: SafeConfig, placement: PlacementRecord, me: NodeId) -> Option<Self> {
        let migration = placement.migration.clone()?;
        let progress = progress_of(&placement, &migration);
        let step = if migration.phase.is_final() {
            Step::Reread
        } else {
            Step::TakeOver
        };
        Some(Self::at(
            config,
            placement,
            migration.id,
            me,
            None,
            step,
            progress,
        ))
    }

    fn at(
        config: SafeConfig,
        record: PlacementRecord,
        id: MigrationId,
        me: NodeId,
        begin: Option<Box<MigrationRecord>>,
        step: Step,
        progress: Progress,
    ) -> Self {
        Self {
            config,
            id,
            me,
            term: None,
            record,
            begin,
            step,
            facts: Facts::default(),
            progress,
            swapping: None,
            waiting: None,
            call: None,
            calls: 0,
            abort: None,
            asked: Asked::default(),
            noting: Asked::default(),
            failures: 0,
            strays: 0,
            phase_began: None,
            started: false,
            outcome: None,
            out: VecDeque::new(),
        }
    }

    /// Sets out. Does nothing the second time.
    pub fn start(&mut self, now: Now) {
        if !self.started {
            self.started = true;
            self.enter(now, self.step);
        }
    }

    /// What it is at.
    #[must_use]
    pub const fn step(&self) -> Step {
        self.step
    }

    /// How far it is.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The next thing to do, in order; `None` until the next event.
    pub fn next_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// Takes an event.
    pub fn handle(&mut self, now: Now, event: Event) {
        if self.step == Step::Over {
            return;
        }
        match event {
            Event::Replied { call, response } if self.call == Some(call) => {
                self.call = None;
                let signal = self.answer(now, *response);
                self.signal(now, signal);
            }
            Event::Failed { call, error } if self.call == Some(call) => {
                self.call = None;
                self.trouble(format!("{} got {error}", self.step.what()));
                let signal = match self.step {
                    Step::Activate => Signal::Lost,
                    _ => Signal::Again,
                };
                self.signal(now, signal);
            }
            Event::Replied { .. } | Event::Failed { .. } => {}
            Event::Swapped(record) | Event::PlacementRead(record) | Event::SwapConflict(record) => {
                self.read(now, *record);
            }
            Event::SwapUnknown | Event::PlacementUnread => {
                self.facts.reserve.swap_ended();
                self.trouble("the placement did not answer".into());
                self.failures = self.failures.saturating_add(1);
                self.wait_to_retry(now);
            }
            Event::Timer(timer) => self.fired(now, timer),
            Event::Operator(wish) => self.wish(now, wish),
        }
    }

    /// Follows the table.
    pub(super) fn signal(&mut self, now: Now, signal: Signal) {
        let signal = self.budgeted(now, signal);
        match signal {
            Signal::Again => return self.wait_to_retry(now),
            Signal::Wait => return self.wait_to_poll(now),
            Signal::Done if self.step != Step::Reopen && self.step != Step::Reread => {
                self.failures = 0
            }
            _ => {}
        }
        let Some(next) = self.step.after(signal) else {
            // A signal that the table does not know is our own bug; the placement sorts it out.
            debug_assert!(false, "{:?} gave {signal:?}", self.step);
            return self.wait_to_retry(now);
        };
        if self.step.in_pause() && matches!(next, Step::Reopen | Step::Reread) {
            self.note_spoiled(now);
        }
        if next == Step::Abort {
            let why = match signal {
                Signal::Forgotten => Some("the target lost its copy".to_owned()),
                _ => self.progress.trouble.clone(),
            };
            let what = self.step.what();
            self.abort
                .get_or_insert_with(|| why.unwrap_or_else(|| format!("{what} can't succeed")));
        }
        if next == Step::Reread && self.strays > 1 {
            // The record is what it was the last time: no hurry to find that out again.
            self.step = next;
            self.show(now);
            return self.wait_to_retry(now);
        }
        self.enter(now, next);
    }

    pub(super) fn swap(&mut self, now: Now, record: PlacementRecord) {
        self.facts.reserve.swap_began(now);
        self.swapping = Some(Box::new(record.clone()));
        self.out.push_back(Action::Swap {
            expected: self.record.revision,
            record: Box::new(record),
        });
    }

    /// Begins a step: shows it, and does what it is.
    pub(super) fn enter(&mut self, now: Now, step: Step) {
        self.waiting = None;
        let step = self.diverted(step);
        if step == Step::Reopen && std::mem::take(&mut self.facts.pause.open) {
            self.progress.re_opens = self.progress.re_opens.saturating_add(1);
            self.facts.catch_up = CatchUp::starting(self.next_pause(now));
        }
        if step.in_pause()
            && self
                .facts
                .pause
                .doing
                .is_none_or(|(what, _)| what != step.what())
        {
            self.facts.pause.doing = Some((step.what(), now));
        }
        self.step = step;
        self.show(now);
        self.ask(now);
    }

    fn show(&mut self, now: Now) {
        // Another migration's phase is not this one's: it began first, or has followed.
        let own = |m: &&MigrationRecord| m.id == self.id;
        let recorded = self.record.migration.as_ref().filter(own).map(|m| m.phase);
        let phase = match self.outcome {
            Some(_) => self.progress.phase,
            None if self.step == Step::Over => recorded.unwrap_or(Phase::Done),
            None if self.step.shows_no_phase() => self.progress.phase,
            // A driver that resumed goes through early steps again, but nothing goes back.
            None => match recorded {
                Some(reached) if reached.before_activate() => self.step.phase().max(reached),
                _ => self.step.phase(),
            },
        };
        let before = self.progress.phase;
        if let Some(began) = self.phase_began {
            let spent = self.progress.phase_ms.entry(before).or_default();
            *spent = spent.saturating_add(now.since_ms(began));
        }
        let changed = self.phase_began.is_none() || phase != before;
        self.phase_began = Some(now);
        self.progress.phase = phase;
        if let Some(m) = self.record.migration.as_ref().filter(|m| m.id == self.id) {
            self.progress.attempt = m.attempt;
        }
        if changed {
            self.tell();
        }
    }

    pub(super) fn tell(&mut self) {
        self.out
            .push_back(Action::Progress(Box::new(self.progress.clone())));
    }

    pub(super) fn trouble(&mut self, what: String) {
        let what = Some(what).filter(|what| !what.trim().is_empty());
        let what = what.unwrap_or_else(|| format!("{} failed without a reason", self.step.what()));
        if self.step.in_pause() {
            self.facts.pause.trouble = Some(what.clone());
        }
        self.progress.trouble = Some(what);
    }

    pub(super) fn last_trouble(&self) -> String {
        let last = self.progress.trouble.clone();
        last.unwrap_or_else(|| "it gave no reason".into())
    }

    /// Says which step of the pause did not fit, and how long it took.
    fn note_spoiled(&mut self, now: Now) {
        let pause = &self.facts.pause;
        let (what, since) = pause.doing.unwrap_or((self.step.what(), now));
        let mut why = format!(
            "{what} took {} ms of the pause's {} ms",
            now.since_ms(since),
            self.config.config().pause_max_ms
        );
        if let Some(lag) = pause.lag.filter(|lag| *lag > 0) {
            why = format!("{why}, with {lag} records still missing at the target");
        }
        if let Some(trouble) = &pause.trouble {
            why = format!("{why}: {trouble}");
        }
        self.facts.pause.spoiled = Some(why.clone());
        self.progress.trouble = Some(why);
    }
}

fn progress_of(placement: &PlacementRecord, migration: &MigrationRecord) -> Progress {
    Progress {
        migration: migration.id,
        shard: placement.shard,
        source: migration.source.clone(),
        target: migration.target.clone(),
        phase: migration.phase,
        attempt: migration.attempt,
        copied_bytes: 0,
        total_bytes: 0,
        lag: 0,
        holes_filled: 0,
        delta_records: 0,
        pause_us: None,
        re_opens: 0,
        phase_ms: BTreeMap::new(),
        paused: migration.paused,
        cutover: migration.cutover_asked,
        rate_bytes_per_s: migration.config.rate_bytes_per_s,
        pause_max_ms: migration.config.pause_max_ms,
        trouble: None,
    }
}

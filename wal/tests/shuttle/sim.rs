//! Running a scenario under every order that a scheduler comes up with.
//!
//! Time stands still but for task 1, the *timer*. How it may fire the log's timeouts is the [`Timers`] of a
//! check: never, so that a lost wake-up can't be healed by one; only when nobody can run and the log says that
//! this is by design; or at any moment. When nobody can run and no timer may fire, somebody waits for nothing,
//! and the check fails.
//!
//! The environment says how much: `WATERSHED_SHUTTLE_ITERATIONS` schedules for each check (half of them random,
//! half by PCT of depths 2 to 4), `WATERSHED_SHUTTLE_SEED` a number to begin from. A failure prints its schedule:
//! `WATERSHED_SHUTTLE_REPLAY=<schedule>`, with its `WATERSHED_SHUTTLE_TIMERS` and the name of the test, runs it again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, Runner, thread};
use watershed_wal::checked::{self, Audit};

/// When timeouts fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timers {
    /// Never.
    Never,
    /// When nothing else can happen, and the log waits by design.
    WhenIdle,
    /// As `WhenIdle`, when a lead may have been leaked.
    WhenIdleAfterALeak,
    /// Whenever the scheduler likes, and when nothing else can happen.
    AnyTime,
}

/// Timeouts that fire early in one execution; later ones only fire when nothing else can happen.
const EARLY: usize = 24;
/// More of them than any scenario needs: it goes round in circles.
const MOST: usize = 400;
/// The timer is the first that a scenario spawns.
const TIMER: usize = 1;

/// One execution, as its threads see it.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Shared>);

struct Shared {
    timers: Timers,
    done: AtomicBool,
    audit: std::sync::Mutex<Option<Audit>>,
}

impl Sim {
    fn new(timers: Timers) -> Self {
        Self(Arc::new(Shared {
            timers,
            done: AtomicBool::new(false),
            audit: std::sync::Mutex::default(),
        }))
    }

    /// The log that is asked whether it waits by design.
    pub(crate) fn watch(&self, audit: Audit) {
        *self.0.audit.lock().unwrap() = Some(audit);
    }

    fn run_timer(&self) {
        let mut fired = 0;
        loop {
            thread::yield_now();
            if self.0.done.load(Ordering::Relaxed) {
                return;
            }
            let pending = checked::timers();
            let is_early = self.0.timers == Timers::AnyTime && fired < EARLY;
            if !(is_early && pending > 0) {
                self.stand_still(pending);
            }
            fired += 1;
            assert!(fired < MOST, "timeouts fire and nothing comes of it");
            let nth = if is_early && pending > 0 {
                thread_rng().gen_range(0..pending)
            } else {
                0
            };
            assert!(
                checked::fire(nth),
                "stuck: nobody can go on, and nobody waits for a time"
            );
        }
    }

    /// Nobody can run: that is by design, or this fails.
    fn stand_still(&self, pending: usize) {
        let audit = self.0.audit.lock().unwrap().clone();
        let leaked = matches!(self.0.timers, Timers::WhenIdleAfterALeak | Timers::AnyTime);
        let idle = audit.map_or(Ok(()), |audit| audit.idle(leaked));
        if let Err(why) = idle {
            panic!("stuck: {why}");
        }
        assert!(
            self.0.timers != Timers::Never,
            "stuck: nobody can go on, unless one of {pending} timeouts fires"
        );
    }
}

/// Gives the timer its turn where the check's [`Timers`] allow it, and leaves the rest to another scheduler.
struct WithTimer<S> {
    inner: S,
    timers: Timers,
    fired: usize,
    executions: Arc<AtomicUsize>,
}

impl<S: Scheduler> Scheduler for WithTimer<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.fired = 0;
        let schedule = self.inner.new_execution()?;
        self.executions.fetch_add(1, Ordering::Relaxed);
        Some(schedule)
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let is_timer = |task: &&Task| usize::from(task.id()) == TIMER;
        // A parked thread may wake for no reason, which is no way to go on.
        let can_run = |task: &&&Task| !is_timer(task) && task.runnable();
        if !runnable.iter().any(|task| can_run(&task)) {
            return Some(TaskId::from(TIMER));
        }
        let is_early =
            self.timers == Timers::AnyTime && self.fired < EARLY && checked::timers() > 0;
        let others: Vec<&Task>;
        let choice: &[&Task] = if is_early {
            runnable
        } else {
            others = runnable
                .iter()
                .copied()
                .filter(|task| !is_timer(task))
                .collect();
            &others
        };
        let chosen = self.inner.next_task(choice, current, is_yielding)?;
        self.fired += usize::from(usize::from(chosen) == TIMER);
        Some(chosen)
    }

    fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={value}: not a number")))
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 512 << 10;
    config.silence_warnings = true;
    config.max_steps = shuttle::MaxSteps::FailAfter(100_000);
    config
}

/// Runs `scenario` under many schedules.
pub(crate) fn check(timers: Timers, scenario: impl Fn(&Sim) + Send + Sync + 'static) {
    let iterations = number("WATERSHED_SHUTTLE_ITERATIONS").unwrap_or(200);
    check_some(timers, usize::try_from(iterations).unwrap(), scenario);
}

/// As [`check`], so many schedules.
pub(crate) fn check_some(
    timers: Timers,
    iterations: usize,
    scenario: impl Fn(&Sim) + Send + Sync + 'static,
) {
    let only = std::env::var("WATERSHED_SHUTTLE_TIMERS").unwrap_or_default();
    if !only.is_empty() && only != format!("{timers:?}") {
        return;
    }
    let scenario = Arc::new(scenario);
    let executions = Arc::new(AtomicUsize::new(0));
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let scenario = Arc::clone(&scenario);
        let scheduler = WithTimer {
            inner: scheduler,
            timers,
            fired: 0,
            executions: Arc::clone(&executions),
        };
        Runner::new(scheduler, config()).run(move || execute(timers, &*scenario));
    };
    let replay = std::env::var("WATERSHED_SHUTTLE_REPLAY").unwrap_or_default();
    if !replay.is_empty() {
        let scenario = Arc::clone(&scenario);
        let scheduler = ReplayScheduler::new_from_encoded(&replay);
        Runner::new(scheduler, config()).run(move || execute(timers, &*scenario));
        return;
    }
    let seed = number("WATERSHED_SHUTTLE_SEED").unwrap_or(1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        run(Box::new(RandomScheduler::new_from_seed(
            seed,
            iterations.div_ceil(2),
        )));
        for depth in 2..=4 {
            let some = iterations.div_ceil(6);
            run(Box::new(PctScheduler::new_from_seed(seed, depth, some)));
        }
    }));
    let executions = executions.load(Ordering::Relaxed);
    if let Err(panic) = result {
        eprintln!("failed in schedule {executions} of {timers:?}, from seed {seed}");
        eprintln!(
            "again: make shuttle SHUTTLE_TEST=<this test> SHUTTLE_TIMERS={timers:?} \
             SHUTTLE_REPLAY=\"<the schedule above>\""
        );
        resume_unwind(panic);
    }
    eprintln!("{executions} schedules, timers {timers:?}");
}

fn execute(timers: Timers, scenario: &(impl Fn(&Sim) + ?Sized)) {
    checked::reset();
    let sim = Sim::new(timers);
    let timer = thread::spawn({
        let sim = sim.clone();
        move || sim.run_timer()
    });
    scenario(&sim);
    sim.0.done.store(true, Ordering::Relaxed);
    timer.join().unwrap();
}

//! A small world under a seeded scheduler: one shard, its source, its target, drivers, clients and the placement,
//! with messages lost, doubled and late, disks that fail, swaps that win after their reply was given up, and crashes
//! of everybody.
//!
//! The nodes' roles and the drivers' machines are the product; everything that carries their actions out is here. A
//! [`Bug`] makes the world carry one thing out wrongly, to show that a property notices. What must hold is in
//! `tests/properties`, one file each, and is looked at after every step.

#![allow(dead_code)]

mod clients;
mod drivers;
mod network;
mod placement;
mod source;
mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use watershed_migration::machine::{Event, Machine, Operator, Outcome, Peer};
use watershed_migration::source::{CallId, SourceEvent};
use watershed_migration::target::TargetEvent;
use watershed_migration::{
    Certificate, MigrationConfig, MigrationCoordinator, MigrationId, MigrationRecord, Now, Phase,
    PlacementRecord, Revision,
};
use watershed_wal::{InstanceId, Record, Seq, ShardId};

use network::node;
use placement::Asker;
use source::Source;
use target::Target;

pub(crate) const S: InstanceId = InstanceId(0x5);
pub(crate) const T: InstanceId = InstanceId(0x7);

/// What may go wrong, in thousandths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose: u64,
    pub(crate) double: u64,
    pub(crate) lose_swap_reply: u64,
    pub(crate) lose_forward: u64,
    pub(crate) crash: u64,
    /// A node's own action fails: its disk, its log, its gate.
    pub(crate) fail: u64,
    pub(crate) delay_max: u64,
    /// After this moment nothing goes wrong any more.
    pub(crate) until: u64,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self {
            delay_max: 1,
            ..Self::default()
        }
    }
}

/// One thing that the world carries out wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    GateStaysOpen,
    ReadsStayOpen,
    OpensWithoutRecord,
    DeletesWhenStopped,
    SwapsWithoutComparing,
    ShowsActivateEarly,
    CertifiesLess,
    NeverAnswers,
    ForgetsWishes,
    ReadsNoPause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Source,
    Target,
    Driver,
}

/// A phase that a driver showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) driver: usize,
    /// What it showed before.
    pub(crate) before: Option<Phase>,
    pub(crate) phase: Phase,
    /// What the placement last said of the driver's migration; another may have followed it since.
    pub(crate) recorded: Option<Phase>,
    /// It was shown as paused, now and before.
    pub(crate) still_paused: bool,
    pub(crate) paused: bool,
}

/// A read that was answered: how far it saw, and the newest acknowledged write at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) by_source: bool,
    pub(crate) seen: Seq,
    pub(crate) newest: Seq,
}

/// A swap that won in this step: the record before it, and who made it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) before: PlacementRecord,
    pub(crate) by_source: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Ev {
    Start(usize),
    ToSource(u64, SourceEvent),
    ToTarget(u64, TargetEvent),
    ToDriver(usize, Event),
    Arrive {
        driver: usize,
        call: CallId,
        to: Peer,
        bytes: bytes::Bytes,
    },
    Forward(u64),
    Swap {
        asker: Asker,
        expected: Revision,
        record: Box<PlacementRecord>,
        give_up: bool,
    },
    GaveUp(Asker),
    Read(Asker),
    Clients,
    Wish(Operator),
    Crash(Who),
    Restart(Who),
}

pub(crate) struct World {
    pub(crate) now: u64,
    order: u64,
    /// Choices that come before those of the seed.
    chosen: VecDeque<u8>,
    rng: u64,
    pub(crate) faults: Faults,
    pub(crate) bug: Option<Bug>,
    queue: BTreeMap<(u64, u64), Ev>,
    pub(crate) placement: PlacementRecord,
    config: MigrationConfig,
    pub(crate) source: Source,
    pub(crate) target: Target,
    pub(crate) drivers: Vec<Option<Machine>>,
    /// Which migration each of them drives.
    drives: Vec<MigrationId>,
    /// The last phase that the placement said of each.
    recorded: BTreeMap<MigrationId, Phase>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) trace: Vec<String>,
    calls: BTreeMap<CallId, (usize, CallId)>,
    next_call: u64,
    /// Every write that a client was told of.
    pub(crate) acknowledged: BTreeMap<u64, Record>,
    pub(crate) reports: Vec<Report>,
    /// The reads of this step.
    pub(crate) reads: Vec<Read>,
    pub(crate) change: Option<Change>,
    pub(crate) certified: Option<Box<Certificate>>,
    /// In this step.
    pub(crate) just_certified: bool,
    /// Whom to crash when a driver shows a phase for so many times.
    pub(crate) crash_at: Option<(Who, Phase, u32)>,
    pub(crate) abort_at: Option<Phase>,
    pub(crate) wish_at: Option<(Phase, Operator)>,
    /// Migrations whose cutover a driver showed as kept: nobody says it again.
    pub(crate) cutover_kept: BTreeSet<MigrationId>,
    pub(crate) takeover_at: Option<Phase>,
    pub(crate) slow_ms: u64,
    pub(crate) slow_attempts: u32,
    /// How long the copy of the checkpoint takes.
    pub(crate) copy_ms: u64,
    /// Until when clients write and read.
    pub(crate) clients_until: u64,
    loud: bool,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults, config: MigrationConfig) -> Self {
        let placement = PlacementRecord::create(ShardId(1), node("s"), S);
        let gate = MigrationCoordinator::new(config.clone())
            .validate_safety()
            .unwrap();
        let (id, t, d) = (MigrationId(9), node("t"), node("d0"));
        let migration = MigrationRecord::new(id, &placement, t, d, &gate, "test");
        let machine = Machine::new(gate, placement.clone(), migration);
        let source = Source::new();
        let acknowledged = source.log.iter().map(|r| (r.seq().0, r.clone())).collect();
        let mut world = Self {
            now: 0,
            order: 0,
            chosen: VecDeque::new(),
            rng: seed,
            faults,
            bug: None,
            queue: BTreeMap::new(),
            placement,
            config,
            source,
            target: Target::new(),
            drivers: vec![Some(machine)],
            drives: vec![id],
            recorded: BTreeMap::new(),
            outcomes: Vec::new(),
            trace: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            acknowledged,
            reports: Vec::new(),
            reads: Vec::new(),
            change: None,
            certified: None,
            just_certified: false,
            crash_at: None,
            abort_at: None,
            wish_at: None,
            cutover_kept: BTreeSet::new(),
            takeover_at: None,
            slow_ms: 0,
            slow_attempts: 0,
            copy_ms: 0,
            clients_until: 3_000,
            loud: false,
        };
        world.after(0, Ev::Start(0));
        world.after(1, Ev::Clients);
        world
    }

    /// Keeps a transcript.
    pub(crate) fn loud(mut self) -> Self {
        self.loud = true;
        self
    }

    /// Makes these choices before those of the seed: a fuzzer's.
    pub(crate) fn choosing(mut self, chosen: &[u8]) -> Self {
        self.chosen = chosen.iter().copied().collect();
        self
    }

    pub(crate) fn random(&mut self) -> u64 {
        if let Some(byte) = self.chosen.pop_front() {
            // Spread, so that a byte tells apart what is drawn modulo a thousand as well as modulo six.
            return u64::from(byte) * 3_941;
        }
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        let dice = self.random() % 1000;
        self.now < self.faults.until && dice < per_mille
    }

    fn after(&mut self, ms: u64, ev: Ev) {
        self.order += 1;
        self.queue.insert((self.now + ms, self.order), ev);
    }

    fn delay(&mut self) -> u64 {
        let max = if self.now < self.faults.until {
            self.faults.delay_max
        } else {
            1
        };
        1 + self.random() % max
    }

    fn soon(&mut self, ev: Ev) {
        let ms = self.delay();
        self.after(ms, ev);
    }

    fn say(&mut self, line: String) {
        if !self.loud {
            return;
        }
        // One line stands for all pages: how many there are says nothing about the protocol.
        const PAGES: &str = "      (the copies are compared)";
        let page = line.ends_with(" ComparePage") || line.ends_with(" <- Page");
        if !page {
            self.trace.push(line);
        } else if self.trace.last().is_none_or(|last| last != PAGES) {
            self.trace.push(PAGES.into());
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        let ended = self
            .placement
            .migration
            .as_ref()
            .is_some_and(|m| m.phase.is_final());
        ended && self.drivers.iter().all(Option::is_none)
    }

    /// Runs to the end, with a look after each step.
    pub(crate) fn run(
        &mut self,
        mut look: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        for _ in 0..200_000 {
            if self.is_over() {
                return Ok(());
            }
            let Some(((now, _), ev)) = self.queue.pop_first() else {
                break;
            };
            self.now = now;
            self.reads.clear();
            self.change = None;
            self.just_certified = false;
            self.step(ev);
            look(self)?;
        }
        let steps: Vec<_> = self.drivers.iter().flatten().map(Machine::step).collect();
        Err(format!(
            "no end at {}: source {}, target {}, drivers {steps:?}, placement {:?}",
            self.now,
            self.source.role.state_name(),
            self.target.role.state_name(),
            self.placement
        ))
    }

    /// An operator's word to whoever drives at that moment.
    pub(crate) fn wish(&mut self, ms: u64, wish: Operator) {
        self.after(ms, Ev::Wish(wish));
    }

    fn step(&mut self, ev: Ev) {
        match ev {
            Ev::Start(d) => {
                let now = Now(self.now);
                if let Some(machine) = &mut self.drivers[d] {
                    machine.start(now);
                }
                self.drain_driver(d);
            }
            Ev::ToDriver(d, event) => self.driver_event(d, event),
            Ev::ToSource(generation, event)
                if self.source.up && generation == self.source.generation =>
            {
                self.source_event(event);
            }
            Ev::ToTarget(generation, event)
                if self.target.up && generation == self.target.generation =>
            {
                self.target_event(event);
            }
            Ev::ToSource(..) | Ev::ToTarget(..) => {}
            Ev::Arrive {
                driver,
                call,
                to,
                bytes,
            } => self.arrive(driver, call, to, &bytes),
            Ev::Forward(seq) => self.store_at_target(&[seq]),
            Ev::Swap {
                asker,
                expected,
                record,
                give_up,
            } => self.swap(asker, expected, *record, give_up),
            Ev::GaveUp(asker) => self.tell(asker, None, false),
            Ev::Read(asker) => {
                let record = self.placement.clone();
                self.tell_read(asker, record);
            }
            Ev::Clients => self.clients(),
            Ev::Wish(wish) => {
                for d in 0..self.drivers.len() {
                    let kept = self.cutover_kept.contains(&self.drives[d]);
                    if kept && wish == Operator::Cutover {
                        continue;
                    }
                    self.driver_event(d, Event::Operator(wish.clone()));
                }
            }
            Ev::Crash(who) => self.crash(who),
            Ev::Restart(who) => self.restart(who),
        }
        if self.chance(self.faults.crash) {
            match self.random() % 6 {
                0 | 1 => self.crash(Who::Source),
                2 | 3 => self.crash(Who::Target),
                4 => self.crash(Who::Driver),
                // Somebody takes over from a driver that lives on.
                _ => self.after(30, Ev::Restart(Who::Driver)),
            }
        }
    }

    fn crash(&mut self, who: Who) {
        self.say(format!("      crash {who:?}"));
        match who {
            Who::Source if self.source.up => self.source.crash(),
            Who::Target if self.target.up => self.target.crash(),
            Who::Driver if self.drivers.last().is_some_and(Option::is_some) => {
                *self.drivers.last_mut().unwrap() = None;
            }
            _ => return,
        }
        self.after(30, Ev::Restart(who));
    }

    fn restart(&mut self, who: Who) {
        match who {
            Who::Source => self.restart_source(),
            Who::Target => self.restart_target(),
            Who::Driver => self.take_over(),
        }
    }

    pub(crate) fn phases_seen(&self) -> BTreeSet<String> {
        self.trace
            .iter()
            .filter_map(|l| l.split("== ").nth(1))
            .map(str::to_owned)
            .collect()
    }
}

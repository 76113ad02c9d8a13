//! One driver on a stage: peers that answer as a test tells them, a placement that takes every swap, and a clock
//! that only timers and slow answers move. Everything is counted.

#![allow(dead_code)]

use std::collections::BTreeMap;

use watershed_migration::machine::{Action, Event, Machine, Operator, Outcome, Timer};
use watershed_migration::messages::{
    FileInfo, Manifest, RefusedKind, Request, Response, SourceState, TargetState,
};
use watershed_migration::source::CallId;
use watershed_migration::{
    Attempt, Evidence, MigrationConfig, MigrationCoordinator, MigrationId, MigrationRecord, NodeId,
    Now, Phase, PlacementRecord, SafeConfig, SourceMarks, TargetMarks,
};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term};

pub(crate) const S: InstanceId = InstanceId(5);
pub(crate) const T: InstanceId = InstanceId(7);
pub(crate) const ID: MigrationId = MigrationId(9);
const F: Seq = Seq(100);

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(crate) fn gate(config: &MigrationConfig) -> SafeConfig {
    MigrationCoordinator::new(config.clone())
        .validate_safety()
        .unwrap()
}

/// An answer, and after how many milliseconds it comes.
pub(crate) type Answer = (u64, Response);

pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) now: u64,
    pub(crate) placement: PlacementRecord,
    timers: BTreeMap<Timer, u64>,
    /// When, and what was asked.
    pub(crate) asked: Vec<(u64, &'static str)>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) outcome: Option<Outcome>,
    /// The last request and its call.
    pub(crate) last: Option<Request>,
    call: CallId,
}

impl Stage {
    pub(crate) fn new(config: &MigrationConfig) -> Self {
        let placement = PlacementRecord::create(ShardId(1), node("s"), S);
        let gate = gate(config);
        let m = MigrationRecord::new(ID, &placement, node("t"), node("d"), &gate, "test");
        let machine = Machine::new(gate, placement.clone(), m);
        Self::with(machine, placement)
    }

    /// Another driver, after the one before is gone.
    pub(crate) fn resumed(placement: PlacementRecord, config: &MigrationConfig) -> Self {
        let machine = Machine::resume(gate(config), placement.clone(), node("d2")).unwrap();
        Self::with(machine, placement)
    }

    fn with(machine: Machine, placement: PlacementRecord) -> Self {
        Self {
            machine,
            now: 0,
            placement,
            timers: BTreeMap::new(),
            asked: Vec::new(),
            phases: Vec::new(),
            outcome: None,
            last: None,
            call: CallId(0),
        }
    }

    /// Runs until the driver is done, or `until` milliseconds are over.
    pub(crate) fn run(
        &mut self,
        until: u64,
        mut peers: impl FnMut(u64, &PlacementRecord, &Request) -> Answer,
    ) {
        self.play(until, &mut |now, p, r| Some(peers(now, p, r)));
    }

    /// Runs until a request gets no answer: its call stays open.
    pub(crate) fn run_while(
        &mut self,
        mut peers: impl FnMut(u64, &PlacementRecord, &Request) -> Option<Answer>,
    ) {
        self.play(600_000, &mut peers);
    }

    /// Answers the call that stayed open.
    pub(crate) fn answer_last(&mut self, response: Response) {
        let (call, response) = (self.call, Box::new(response));
        self.machine
            .handle(Now(self.now), Event::Replied { call, response });
    }

    fn play(
        &mut self,
        until: u64,
        peers: &mut dyn FnMut(u64, &PlacementRecord, &Request) -> Option<Answer>,
    ) {
        self.machine.start(Now(self.now));
        loop {
            while let Some(action) = self.machine.next_action() {
                if !self.act(action, peers) {
                    return;
                }
                assert!(
                    self.asked.len() < 4000 || self.asked[self.asked.len() - 1000].0 < self.now,
                    "a busy loop: 1000 requests in no time, the last {:?}",
                    self.asked.last()
                );
            }
            if self.outcome.is_some() {
                return;
            }
            let Some((timer, at)) = self.timers.iter().min_by_key(|(_, at)| **at) else {
                panic!("it waits for nothing at {:?}", self.machine.step())
            };
            let (timer, at) = (*timer, *at);
            if at > until {
                self.now = self.now.max(until);
                return;
            }
            self.timers.remove(&timer);
            self.now = self.now.max(at);
            self.machine.handle(Now(self.now), Event::Timer(timer));
        }
    }

    pub(crate) fn operator(&mut self, wish: Operator) {
        self.machine.handle(Now(self.now), Event::Operator(wish));
    }

    fn act(
        &mut self,
        action: Action,
        peers: &mut dyn FnMut(u64, &PlacementRecord, &Request) -> Option<Answer>,
    ) -> bool {
        match action {
            Action::Send { call, request, .. } => {
                self.asked.push((self.now, request.name()));
                self.call = call;
                let answer = peers(self.now, &self.placement, &request);
                self.last = Some(*request);
                let Some((after, response)) = answer else {
                    return false;
                };
                self.now += after;
                if let Response::Activated { record } = &response {
                    self.placement = (**record).clone();
                }
                let response = Box::new(response);
                let event = Event::Replied { call, response };
                self.machine.handle(Now(self.now), event);
            }
            Action::Swap { expected, record } => {
                record.validate().unwrap();
                let event = if self.placement.revision == expected {
                    self.placement = *record.clone();
                    Event::Swapped(record)
                } else {
                    Event::SwapConflict(Box::new(self.placement.clone()))
                };
                self.machine.handle(Now(self.now), event);
            }
            Action::ReadPlacement => {
                let record = Box::new(self.placement.clone());
                let event = Event::PlacementRead(record);
                self.machine.handle(Now(self.now), event);
            }
            Action::SetTimer { timer, at } => {
                self.timers.insert(timer, at.0);
            }
            Action::Progress(progress) => self.phases.push(progress.phase),
            Action::Certified(certificate) => certificate.check().unwrap(),
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
        true
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.asked
            .iter()
            .filter(|(_, asked)| *asked == name)
            .count()
    }

    /// Why it was aborted.
    pub(crate) fn reason(&self) -> &str {
        match &self.outcome {
            Some(Outcome::Aborted { reason }) => reason,
            other => panic!("not aborted: {other:?}"),
        }
    }
}

pub(crate) fn ranges(ranges: &[(u64, u64)]) -> Response {
    let ranges = ranges
        .iter()
        .map(|&(a, b)| SeqRange::new(Seq(a), Seq(b)).unwrap());
    Response::MissingRanges {
        ranges: ranges.collect(),
        more: false,
    }
}

pub(crate) fn status(forwarding: bool, durable: u64) -> Response {
    Response::SourceState(SourceState {
        forwarding,
        quiesced: false,
        assigned: Seq(durable),
        durable: Seq(durable),
        applied: Seq(durable),
        forwarded: 0,
        forward_failed: 0,
    })
}

pub(crate) fn copying(copied_bytes: u64, opened: bool) -> Response {
    Response::TargetState(TargetState {
        copied_bytes,
        total_bytes: 1000,
        opened,
        base: Some(Seq(10)),
        has_max: None,
        durable: Seq(10),
        applied: Seq(10),
        files: Vec::new(),
        error: None,
    })
}

pub(crate) fn marks(attempt: Attempt, placement: &PlacementRecord) -> (SourceMarks, TargetMarks) {
    let (base, digest_base) = (Seq(10), LogDigest { count: 10, sum: 1 });
    let digest = LogDigest { count: 100, sum: 3 };
    let source = SourceMarks {
        migration: ID,
        attempt,
        instance: S,
        term: Term::new(Epoch(1), 1),
        base,
        f: F,
        durable: F,
        applied: F,
        digest_base,
        digest,
        revision: placement.revision,
    };
    let target = TargetMarks {
        migration: ID,
        attempt,
        instance: T,
        source_instance: S,
        base,
        f: F,
        durable: F,
        applied: F,
        missing: Vec::new(),
        digest_base,
        digest,
    };
    (source, target)
}

/// Peers on which everything works at once. `placement` is the record as the source reads it.
pub(crate) fn healthy(placement: &PlacementRecord, request: &Request) -> Response {
    let attempt = request.envelope().unwrap().attempt;
    let (source, target) = marks(attempt, placement);
    match request {
        Request::Prepare { .. } => Response::Prepared {
            source_instance: S,
            epoch: Epoch(1),
            assigned: F,
            applied: F,
            bytes_estimate: 1,
            terms: Vec::new(),
        },
        Request::BeginTarget { .. } => Response::TargetBegun {
            instance: T,
            free_bytes: 1 << 30,
        },
        Request::Checkpoint { .. } => Response::CheckpointMade(Manifest {
            base: Seq(10),
            digest: LogDigest { count: 10, sum: 1 },
            files: vec![FileInfo {
                name: "1.sst".into(),
                len: 1000,
                xxh3_128: 1,
            }],
            terms: Vec::new(),
        }),
        Request::Pull { .. }
        | Request::StartForward { .. }
        | Request::AbortSource { .. }
        | Request::DiscardTarget { .. } => Response::Ok,
        Request::TargetStatus { .. } => copying(1000, true),
        Request::SourceStatus { .. } => status(true, 100),
        Request::Missing { .. } => ranges(&[]),
        Request::Ship { ranges, .. } => Response::Shipped {
            records: ranges.iter().map(|range| range.len()).sum(),
            bytes: 1,
        },
        Request::Quiesce { .. } => Response::Quiesced { f: F },
        Request::Drain { .. } => Response::Drained(source),
        Request::Verify { .. } => Response::Verified(target),
        Request::Activate { source, target, .. } => {
            let m = placement.migration.as_ref().unwrap();
            let proof = Evidence::prove(&m.safe_config().unwrap(), source, target).unwrap();
            let record = Box::new(placement.activate(&proof).unwrap());
            Response::Activated { record }
        }
        Request::Reopen { .. } => Response::Reopened,
        Request::BecomeOwner { epoch, .. } => Response::Serving {
            term: Term::new(*epoch, 1),
            first_seq: F.next(),
        },
        Request::Release { .. } => Response::Released {
            parked: 0,
            pause_us: 0,
        },
        Request::ComparePage { .. } => Response::Page {
            entries: Vec::new(),
            done: true,
        },
        Request::Retire { .. } => Response::Retired { bytes: 1 },
        other => Response::refused(RefusedKind::Unsupported, other.name()),
    }
}

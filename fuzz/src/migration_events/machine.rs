//! The driver's machine against nodes that answer anything: in time, late, wrongly, or not at all.

use std::collections::BTreeMap;

use watershed_migration::machine::{Action, CallError, Event, Machine, Operator, Peer, Timer};
use watershed_migration::messages::{
    FileInfo, Manifest, RefusedKind, Request, Response, SourceState, TargetState,
};
use watershed_migration::source::{CallId, Quiesced};
use watershed_migration::{
    CERTIFICATE_VERSION, Certificate, Limits, MigrationId, MigrationRecord, Now, Party, Phase,
    PlacementRecord, SafetyPolicy, SourceMarks, TargetMarks,
};
use watershed_wal::{Epoch, InstanceId, LogDigest, Seq, SeqRange, ShardId, Term};

use super::scene::{config, node};
use crate::input::Input;

const S: InstanceId = InstanceId(5);
const T: InstanceId = InstanceId(7);
const MAX_EVENTS: usize = 600;

/// What a machine is driven through.
struct Drive {
    machine: Machine,
    now: u64,
    truth: PlacementRecord,
    /// The command that waits for its answer, and earlier ones.
    asked: Vec<(CallId, Request)>,
    swap: Option<(watershed_migration::Revision, PlacementRecord)>,
    shown: Option<Phase>,
    ended: bool,
}

/// Runs the rest of an input.
pub(super) fn run(input: &mut Input<'_>) {
    let truth = PlacementRecord::create(ShardId(1), node("s"), S);
    let gate = config();
    let m = MigrationRecord::new(MigrationId(9), &truth, node("t"), node("d"), &gate, "fuzz");
    let mut drive = Drive {
        machine: Machine::new(gate, truth.clone(), m),
        now: 0,
        truth,
        asked: Vec::new(),
        swap: None,
        shown: None,
        ended: false,
    };
    drive.machine.start(Now(0));
    drive.drain();
    for _ in 0..MAX_EVENTS {
        let (Some(what), Some(how)) = (input.byte(), input.byte()) else {
            break;
        };
        drive.event(what, how);
        drive.drain();
    }
}

impl Drive {
    fn event(&mut self, what: u8, how: u8) {
        self.now += u64::from(how % 8);
        let event = match what % 16 {
            0..=7 => {
                let back = usize::from(what / 16) % 4;
                let Some(at) = self.asked.len().checked_sub(1 + back.min(1) * back) else {
                    return;
                };
                let (call, request) = self.asked[at].clone();
                let response = Box::new(self.respond(&request, how));
                Event::Replied { call, response }
            }
            8 => {
                let Some((call, _)) = self.asked.last() else {
                    return;
                };
                let error = if how.is_multiple_of(2) {
                    CallError::Unreachable
                } else {
                    CallError::Garbled
                };
                Event::Failed { call: *call, error }
            }
            9..=11 => match self.swap_outcome(how) {
                Some(event) => event,
                None => Event::PlacementRead(Box::new(self.truth.clone())),
            },
            12 if how < 64 => Event::PlacementUnread,
            12 => Event::PlacementRead(Box::new(self.truth.clone())),
            13 | 14 => {
                self.now += u64::from(how) * 8;
                Event::Timer([Timer::Backoff, Timer::Poll, Timer::Grace][usize::from(how % 3)])
            }
            _ => match how {
                0..16 => Event::Operator(Operator::Abort {
                    reason: "fuzz".into(),
                }),
                16..64 => Event::Operator(Operator::Cutover),
                64..128 => Event::Operator(Operator::Cleanup),
                128..160 => {
                    // Another driver takes over.
                    let other = self.truth.take_over(MigrationId(9), node("d2"));
                    self.truth = other.unwrap_or_else(|_| self.truth.clone());
                    return;
                }
                160..192 => Event::Operator(Operator::Pause),
                192..224 => Event::Operator(Operator::Resume),
                _ => Event::Operator(Operator::SetLimits(Limits {
                    rate_bytes_per_s: how.is_multiple_of(2).then_some(None),
                    pause_max_ms: Some(u64::from(how % 16)),
                })),
            },
        };
        self.machine.handle(Now(self.now), event);
    }

    /// The swap under way arrives, and its answer comes or doesn't.
    fn swap_outcome(&mut self, how: u8) -> Option<Event> {
        let (expected, record) = self.swap.take()?;
        let won = self.truth.revision == expected;
        if won && how >= 16 {
            self.truth = record;
        }
        let now = Box::new(self.truth.clone());
        Some(match how {
            0..32 => Event::SwapUnknown,
            _ if won => Event::Swapped(now),
            _ => Event::SwapConflict(now),
        })
    }

    fn drain(&mut self) {
        while let Some(action) = self.machine.next_action() {
            assert!(!self.ended, "after its end: {action:?}");
            match action {
                Action::Send {
                    call, request, to, ..
                } => {
                    let for_target = matches!(
                        *request,
                        Request::BeginTarget { .. }
                            | Request::Pull { .. }
                            | Request::Verify { .. }
                            | Request::BecomeOwner { .. }
                    );
                    assert!(!for_target || to == Peer::Target, "{request:?} to {to}");
                    self.asked.push((call, *request));
                }
                Action::Swap { expected, record } => {
                    assert_eq!(Some(record.revision), expected.checked_next());
                    record
                        .validate()
                        .unwrap_or_else(|broken| panic!("{broken}: {record:?}"));
                    if expected == self.truth.revision {
                        assert_eq!(
                            (&record.owner, record.epoch, record.instance),
                            (&self.truth.owner, self.truth.epoch, self.truth.instance),
                            "a driver gave the shard away"
                        );
                        self.stands_still(&record);
                    }
                    self.swap = Some((expected, *record));
                }
                Action::Progress(progress) => self.show(progress.phase),
                Action::Certified(certificate) => {
                    certificate.check().expect("a certificate is consistent");
                }
                Action::Finish(_) => self.ended = true,
                Action::ReadPlacement | Action::SetTimer { .. } => {}
            }
        }
    }

    /// No step is taken of a paused migration, but for its abort and what follows the activation.
    fn stands_still(&self, next: &PlacementRecord) {
        let (Some(before), Some(after)) = (&self.truth.migration, &next.migration) else {
            return;
        };
        let may =
            !before.paused || before.phase == Phase::Activate || after.phase == Phase::Aborted;
        let stood = (before.phase, before.attempt) == (after.phase, after.attempt);
        assert!(may || stood, "{before:?} became {after:?}");
        assert!(!before.cutover_asked || after.cutover_asked, "forgotten");
    }

    /// What can't be taken back is shown only once the placement says it.
    fn show(&mut self, phase: Phase) {
        let recorded = self.truth.migration.as_ref().map(|m| m.phase);
        match phase {
            Phase::Aborted => assert_eq!(recorded, Some(Phase::Aborted)),
            Phase::Activate | Phase::Cleanup | Phase::Done => {
                assert!(recorded.is_some_and(|r| r >= phase && r != Phase::Aborted));
                assert_ne!(self.shown, Some(Phase::Aborted));
            }
            _ => {}
        }
        self.shown = Some(phase);
    }

    /// Mostly the answer that fits; by the byte one that is empty, wrong or refused.
    fn respond(&mut self, request: &Request, how: u8) -> Response {
        const KINDS: [RefusedKind; 12] = [
            RefusedKind::StaleEpoch,
            RefusedKind::StaleAttempt,
            RefusedKind::StaleDriver,
            RefusedKind::WrongInstance,
            RefusedKind::NotOwner,
            RefusedKind::NotReady,
            RefusedKind::NoRoom,
            RefusedKind::Conflict,
            RefusedKind::Busy,
            RefusedKind::Unknown,
            RefusedKind::NotSafe,
            RefusedKind::Failed,
        ];
        match how {
            0..40 => Response::refused(KINDS[usize::from(how) % KINDS.len()], "fuzz"),
            40..48 => Response::Ok,
            48..56 => Response::Retired { bytes: 1 },
            _ => self.fitting(request, how),
        }
    }

    fn fitting(&mut self, request: &Request, how: u8) -> Response {
        let number = u64::from(how % 64);
        match request {
            Request::Prepare { .. } => Response::Prepared {
                source_instance: S,
                epoch: Epoch(1 + u64::from(how == 255)),
                assigned: Seq(20),
                applied: Seq(20),
                bytes_estimate: number,
                terms: Vec::new(),
            },
            Request::Checkpoint { .. } => Response::CheckpointMade(manifest()),
            Request::SourceStatus { .. } => Response::SourceState(SourceState {
                forwarding: !how.is_multiple_of(8),
                quiesced: how.is_multiple_of(5),
                assigned: Seq(20),
                durable: Seq(20),
                applied: Seq(20),
                forwarded: 0,
                forward_failed: number,
            }),
            Request::Ship { .. } => Response::Shipped {
                records: number,
                bytes: number,
            },
            Request::Quiesce { .. } => Response::Quiesced { f: Seq(20) },
            Request::Drain { .. } => Response::Drained(self.source_marks()),
            Request::Reopen { .. } => Response::Reopened,
            Request::Activate { source, target, .. } => self.activate(source, target, how),
            Request::Release { .. } => Response::Released {
                parked: number,
                pause_us: number,
            },
            Request::Retire { .. } => Response::Retired { bytes: number },
            Request::BeginTarget { .. } => Response::TargetBegun {
                instance: T,
                free_bytes: number << 20,
            },
            Request::TargetStatus { .. } => Response::TargetState(TargetState {
                copied_bytes: number,
                total_bytes: 64,
                opened: how >= 128,
                base: (how >= 64).then_some(Seq(10)),
                has_max: Some(Seq(number)),
                durable: Seq(number),
                applied: Seq(number),
                files: manifest().files,
                error: (how == 254).then(|| "disk".to_owned()),
            }),
            Request::Missing { through, .. } => Response::MissingRanges {
                ranges: SeqRange::new(Seq(11 + number / 4), *through)
                    .into_iter()
                    .collect(),
                more: how == 250,
            },
            Request::Verify { .. } => Response::Verified(self.target_marks(how)),
            Request::BecomeOwner { epoch, .. } => Response::Serving {
                term: Term::new(*epoch, 1),
                first_seq: Seq(21),
            },
            Request::ComparePage { .. } => Response::Page {
                entries: Vec::new(),
                done: how >= 64,
            },
            _ => Response::Ok,
        }
    }

    /// As the source does it: the marks prove, or it refuses.
    fn activate(&mut self, source: &SourceMarks, target: &TargetMarks, how: u8) -> Response {
        let record = Box::new(self.truth.clone());
        if how < 72 {
            return Response::NotActivated { record };
        }
        let quiesced = Quiesced::new(self.truth.clone(), source.attempt, source.f, Now(u64::MAX));
        match quiesced
            .drained(source.clone())
            .send(Now(self.now), source, target)
        {
            Ok(sent) => {
                self.truth = sent.next().clone();
                let record = Box::new(self.truth.clone());
                Response::Activated { record }
            }
            Err(refused) => Response::Refused(refused.1),
        }
    }

    fn source_marks(&self) -> SourceMarks {
        let m = self.truth.migration.as_ref();
        SourceMarks {
            migration: MigrationId(9),
            attempt: m.map_or_else(Default::default, |m| m.attempt),
            instance: S,
            term: Term::new(self.truth.epoch, 1),
            base: Seq(10),
            f: Seq(20),
            durable: Seq(20),
            applied: Seq(20),
            digest_base: LogDigest { count: 10, sum: 1 },
            digest: LogDigest { count: 20, sum: 2 },
            revision: self.truth.revision,
        }
    }

    fn target_marks(&self, how: u8) -> TargetMarks {
        let source = self.source_marks();
        let at = Seq(if how < 80 { 15 } else { 20 });
        TargetMarks {
            migration: source.migration,
            attempt: source.attempt,
            instance: T,
            source_instance: S,
            base: source.base,
            f: source.f,
            durable: at,
            applied: at,
            missing: SeqRange::new(at.next(), source.f).into_iter().collect(),
            digest_base: source.digest_base,
            digest: LogDigest {
                count: 20,
                sum: if how == 251 { 3 } else { 2 },
            },
        }
    }
}

fn manifest() -> Manifest {
    Manifest {
        base: Seq(10),
        digest: LogDigest { count: 10, sum: 1 },
        files: vec![FileInfo {
            name: "1.sst".into(),
            len: 64,
            xxh3_128: 7,
        }],
        terms: Vec::new(),
    }
}

/// A certificate of the activation that a record tells of.
pub(super) fn certificate(record: &PlacementRecord) -> Certificate {
    let digest = LogDigest { count: 10, sum: 1 };
    let party = |name: &str, instance, epoch| Party {
        node: node(name),
        instance,
        epoch: Epoch(epoch),
        term: Term::new(Epoch(epoch), 1),
    };
    Certificate {
        version: CERTIFICATE_VERSION,
        shard: record.shard,
        migration: record.migration.as_ref().map_or(MigrationId(9), |m| m.id),
        source: party("s", S, 1),
        target: party("t", T, 2),
        base: Seq(10),
        f: Seq(20),
        digest_base: digest,
        digest_source: digest,
        digest_target: digest,
        files: manifest().files,
        missing: Vec::new(),
        holes_filled: 0,
        delta_records: 0,
        pause_us: None,
        attempts: watershed_migration::Attempt(1),
        phase_ms: BTreeMap::from([(Phase::Activate, 1)]),
        safety: SafetyPolicy::default(),
        verdict: Certificate::VERDICT.into(),
    }
}

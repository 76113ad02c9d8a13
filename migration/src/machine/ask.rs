//! What each step does when it is entered: the command, swap, read or wait.

use watershed_wal::{Epoch, Seq, SeqRange};

use super::run::{Machine, Pause};
use super::steps::{Signal, Step};
use super::{Action, Outcome, Peer, Timer};
use crate::certificate::{CERTIFICATE_VERSION, Certificate, Party};
use crate::compare::{Comparison, Side};
use crate::delta::{self, RoundBounds};
use crate::messages::{Envelope, RANGES_MAX, Request};
use crate::placement::{MigrationRecord, PlacementRecord};
use crate::source::CallId;
use crate::transitions::{NO_REASON, PhaseChange, PlacementError};
use crate::wishes::Asked;
use crate::words::{Now, Phase};

/// How many records one delta round ships at most.
pub(super) const ROUND_RECORDS: u64 = 1 << 16;
/// How many bytes of bodies one delta round ships at most, but for the record that passes the bound.
pub(super) const ROUND_BYTES: u64 = 16 << 20;
/// How many entries a page of the comparison has.
const PAGE_ENTRIES: u32 = 2_048;
/// How much of the grace time may pass before the record learns of it: what a restart counts twice at most.
const GRACE_PART_MS: u64 = 5 * 60_000;
/// How often a paused migration looks whether its record says otherwise.
const PAUSED_LOOK_MS: u64 = 5_000;

impl Machine {
    pub(super) fn ask(&mut self, now: Now) {
        match self.step {
            Step::Begin
            | Step::TakeOver
            | Step::EnterBulkCopy
            | Step::EnterDualWrite
            | Step::RaiseAttempt
            | Step::EnterCleanup
            | Step::NoteGrace
            | Step::BeginRetire
            | Step::FinishCleanup
            | Step::NoteWishes
            | Step::Abort => self.ask_swap(now),
            Step::Reread => self.out.push_back(Action::ReadPlacement),
            Step::Grace => self.ask_grace(now),
            Step::Paused => self.wait(Timer::Poll, now.plus_ms(PAUSED_LOOK_MS)),
            Step::CompareSource | Step::CompareTarget => self.ask_page(now),
            Step::Over => self.finish(),
            _ => self.ask_peer(now),
        }
    }

    fn ask_swap(&mut self, now: Now) {
        if self.step == Step::RaiseAttempt && self.attempts_are_over() {
            return self.signal(now, Signal::Hopeless);
        }
        let claim = self.claim();
        let record = &self.record;
        let next = match self.step {
            Step::Begin => match self.begin.as_deref() {
                Some(begin) => record.begin_migration(begin.clone()),
                None => return self.signal(now, Signal::Done),
            },
            Step::TakeOver => record.take_over(self.id, self.me.clone()),
            Step::EnterBulkCopy => match self.migration_phase() {
                Some(Phase::BulkCopy) => return self.signal(now, Signal::Done),
                Some(Phase::DualWrite) => return self.signal(now, Signal::More),
                _ => match self.facts.target_instance {
                    Some(target_instance) => {
                        record.set_phase(claim, PhaseChange::BulkCopy { target_instance })
                    }
                    None => return self.enter(now, Step::BeginTarget),
                },
            },
            Step::EnterDualWrite => match &self.facts.manifest {
                Some(manifest) => {
                    let base = manifest.base;
                    record.set_phase(claim, PhaseChange::DualWrite { base })
                }
                None => return self.enter(now, Step::Checkpoint),
            },
            Step::RaiseAttempt => record.raise_attempt(claim),
            Step::EnterCleanup => match self.certificate() {
                Some(certificate) => {
                    let certificate = Box::new(certificate);
                    record.set_phase(claim, PhaseChange::Cleanup { certificate })
                }
                None => return self.enter(now, Step::BecomeOwner),
            },
            Step::NoteGrace => record.note_grace(claim, self.facts.grace_then),
            Step::BeginRetire => record.begin_retire(claim),
            Step::FinishCleanup => record.finish_cleanup(claim),
            Step::NoteWishes => {
                self.noting = std::mem::take(&mut self.asked);
                record.note_wishes(self.id, self.noting)
            }
            _ => record.abort(self.id, self.abort.clone().unwrap_or_default()),
        };
        match next {
            Ok(next) => self.swap(now, next),
            Err(error) => self.swap_impossible(now, &error),
        }
    }

    /// Whether no quiesce is left to try; says why, then.
    fn attempts_are_over(&mut self) -> bool {
        let attempt = self.record.migration.as_ref().map_or(0, |m| m.attempt.0);
        let config = self.config.config();
        if attempt < config.attempts_max {
            return false;
        }
        let pause = config.pause_max_ms;
        let last = self.facts.pause.spoiled.clone();
        let last = last.unwrap_or_else(|| "an earlier driver saw it, and kept no reason".into());
        self.trouble(format!(
            "gave up after {attempt} attempts, none fitted into the pause of {pause} ms; the last: {last}"
        ));
        true
    }

    /// The record doesn't allow it: it says where the migration really is.
    fn swap_impossible(&mut self, now: Now, error: &PlacementError) {
        self.trouble(error.to_string());
        if self.step == Step::Begin {
            self.outcome = Some(Outcome::NotBegun {
                reason: error.to_string(),
            });
            return self.signal(now, Signal::Hopeless);
        }
        // A wish that the record can't take is void: it must not be tried for ever.
        self.noting = Asked::default();
        self.signal(now, Signal::Lost);
    }

    fn ask_grace(&mut self, now: Now) {
        let over = self.record.frozen.as_ref().map_or(0, |f| f.grace_over_ms);
        let left = self.config.config().grace_ms.saturating_sub(over);
        let ended = self.own().is_some_and(|m| m.cleanup_asked);
        if ended || left == 0 {
            return self.signal(now, Signal::Done);
        }
        let part = left.min(GRACE_PART_MS);
        self.facts.grace_then = over.saturating_add(part);
        self.wait(Timer::Grace, now.plus_ms(part));
    }

    pub(super) fn grace_passed(&self) -> Signal {
        if self.facts.grace_then < self.config.config().grace_ms {
            return Signal::More;
        }
        Signal::Done
    }

    fn ask_page(&mut self, now: Now) {
        if self.facts.compared {
            return self.signal(now, Signal::Done);
        }
        let f = self.frozen_f();
        let comparison = self
            .facts
            .comparison
            .get_or_insert_with(|| Comparison::new(f));
        let Some((side, after)) = comparison.wants() else {
            return self.compared(now);
        };
        let (to, step) = match side {
            Side::Source => (Peer::Source, Step::CompareSource),
            Side::Target => (Peer::Target, Step::CompareTarget),
        };
        self.step = step;
        let env = self.envelope();
        self.send(
            to,
            Request::ComparePage {
                env,
                after,
                limit: PAGE_ENTRIES,
            },
        );
    }

    fn compared(&mut self, now: Now) {
        let Some(comparison) = self.facts.comparison.take() else {
            return;
        };
        if comparison.found() == 0 {
            self.facts.compared = true;
            return self.signal(now, Signal::Done);
        }
        self.outcome = Some(Outcome::CopiesDiffer {
            found: comparison.found(),
            differences: comparison.differences().to_vec(),
        });
        self.signal(now, Signal::Hopeless);
    }

    fn finish(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            let migration = self.record.migration.as_ref();
            match migration.filter(|m| m.phase == Phase::Aborted) {
                Some(m) => Outcome::Aborted {
                    reason: m.reason.clone().unwrap_or_else(|| NO_REASON.into()),
                },
                None => Outcome::Done,
            }
        });
        self.out.push_back(Action::Finish(outcome));
    }

    fn ask_peer(&mut self, now: Now) {
        let env = self.envelope();
        let Some(m) = self.record.migration.clone() else {
            return self.signal(now, Signal::Lost);
        };
        match self.request(env, &m) {
            Some((to, request)) => {
                if self.step == Step::Quiesce {
                    let pause = self.config.config().pause_max_ms;
                    self.facts.pause_ends = now.plus_ms(pause);
                    let spoiled = self.facts.pause.spoiled.take();
                    self.facts.pause = Pause {
                        open: true,
                        doing: self.facts.pause.doing,
                        spoiled,
                        ..Pause::default()
                    };
                }
                self.send(to, request);
            }
            // A fact that only an earlier step gives: a driver that resumed must ask for it again.
            None => self.signal(now, Signal::Lost),
        }
    }

    fn request(&self, env: Envelope, m: &MigrationRecord) -> Option<(Peer, Request)> {
        match self.step {
            Step::Prepare
            | Step::BeginTarget
            | Step::Checkpoint
            | Step::Pull
            | Step::ForwardCopy
            | Step::Copying
            | Step::Forward => self.copy_request(env, m),
            Step::Status
            | Step::Missing
            | Step::Ship
            | Step::Quiesce
            | Step::Drain
            | Step::LastMissing
            | Step::LastShip
            | Step::Verify
            | Step::Activate
            | Step::Reopen => self.delta_request(env),
            _ => self.late_request(env, m),
        }
    }

    /// Up to the dual-write phase.
    fn copy_request(&self, env: Envelope, m: &MigrationRecord) -> Option<(Peer, Request)> {
        let config = self.config.config().clone();
        Some(match self.step {
            Step::Prepare => {
                let target = m.target.clone();
                (
                    Peer::Source,
                    Request::Prepare {
                        env,
                        target,
                        config,
                    },
                )
            }
            Step::BeginTarget => (
                Peer::Target,
                Request::BeginTarget {
                    env,
                    source: m.source.clone(),
                    source_instance: m.source_instance,
                    epoch: self.record.epoch,
                    config,
                },
            ),
            Step::Checkpoint => (Peer::Source, Request::Checkpoint { env }),
            Step::Pull => {
                let manifest = self.facts.manifest.clone()?;
                (Peer::Target, Request::Pull { env, manifest })
            }
            Step::ForwardCopy | Step::Forward => {
                let target_instance = m.target_instance?;
                (
                    Peer::Source,
                    Request::StartForward {
                        env,
                        target_instance,
                    },
                )
            }
            Step::Copying => (Peer::Target, Request::TargetStatus { env }),
            _ => return None,
        })
    }

    /// The dual-write phase's rounds, and the pause.
    fn delta_request(&self, env: Envelope) -> Option<(Peer, Request)> {
        let facts = &self.facts;
        Some(match self.step {
            Step::Status => (Peer::Source, Request::SourceStatus { env }),
            Step::Missing => {
                let through = facts.durable;
                (Peer::Target, Request::Missing { env, through })
            }
            Step::LastMissing => {
                let through = facts.f;
                (Peer::Target, Request::Missing { env, through })
            }
            Step::Ship | Step::LastShip => (
                Peer::Source,
                Request::Ship {
                    env,
                    ranges: self.round(),
                    max_bytes: ROUND_BYTES,
                },
            ),
            Step::Quiesce => (
                Peer::Source,
                Request::Quiesce {
                    env,
                    revision: self.record.revision,
                    pause_max_ms: facts
                        .reserve
                        .bound_ms(self.config.config().pause_max_ms, env.attempt.0),
                },
            ),
            Step::Drain => (Peer::Source, Request::Drain { env }),
            Step::Verify => (Peer::Target, Request::Verify { env, f: facts.f }),
            Step::Activate => (
                Peer::Source,
                Request::Activate {
                    env,
                    source: Box::new(facts.source_marks.clone()?),
                    target: Box::new(facts.target_marks.clone()?),
                },
            ),
            Step::Reopen => (Peer::Source, Request::Reopen { env }),
            _ => return None,
        })
    }

    /// From the activation, or the abort, on.
    fn late_request(&self, env: Envelope, m: &MigrationRecord) -> Option<(Peer, Request)> {
        let epoch = self.record.epoch;
        Some(match self.step {
            Step::BecomeOwner => (Peer::Target, Request::BecomeOwner { env, epoch }),
            Step::Release => {
                let owner = self.record.owner.clone();
                (Peer::Source, Request::Release { env, epoch, owner })
            }
            Step::Files => (Peer::Target, Request::TargetStatus { env }),
            Step::Retire => {
                let instance = m.source_instance;
                (Peer::Source, Request::Retire { env, instance })
            }
            Step::AbortSource => (Peer::Source, Request::AbortSource { env }),
            Step::DiscardTarget => (Peer::Target, Request::DiscardTarget { env }),
            _ => return None,
        })
    }

    /// The head of what the target misses, as one round ships it.
    pub(super) fn round(&self) -> Vec<SeqRange> {
        let bounds = RoundBounds {
            records: ROUND_RECORDS,
            ranges: RANGES_MAX,
        };
        delta::round(&self.facts.ranges, bounds)
    }

    fn send(&mut self, to: Peer, request: Request) {
        self.calls += 1;
        let call = CallId(self.calls);
        self.call = Some(call);
        let node = match to {
            Peer::Source => self.progress.source.clone(),
            Peer::Target => self.progress.target.clone(),
        };
        self.out.push_back(Action::Send {
            call,
            to,
            node,
            request: Box::new(request),
        });
    }

    fn envelope(&self) -> Envelope {
        let m = self.record.migration.as_ref();
        Envelope {
            shard: self.record.shard,
            migration: self.id,
            attempt: m.map(|m| m.attempt).unwrap_or_default(),
            driver_term: m.map(|m| m.driver_term).unwrap_or_default(),
        }
    }

    fn migration_phase(&self) -> Option<Phase> {
        self.record.migration.as_ref().map(|m| m.phase)
    }

    fn frozen_f(&self) -> Seq {
        self.record.frozen.as_ref().map_or(Seq::ZERO, |f| f.f)
    }

    /// Out of the record's proof, so that any driver can make it.
    fn certificate(&self) -> Option<Certificate> {
        let record: &PlacementRecord = &self.record;
        let m = record.migration.as_ref()?;
        let proof = m.proof.as_deref()?;
        let (source, target) = (&proof.source, &proof.target);
        let (term, _) = self.facts.serving?;
        Some(Certificate {
            version: CERTIFICATE_VERSION,
            shard: record.shard,
            migration: m.id,
            source: Party {
                node: m.source.clone(),
                instance: m.source_instance,
                epoch: Epoch(record.epoch.0.checked_sub(1)?),
                term: source.term,
            },
            target: Party {
                node: m.target.clone(),
                instance: record.instance,
                epoch: record.epoch,
                term,
            },
            base: source.base,
            f: source.f,
            digest_base: source.digest_base,
            digest_source: source.digest.minus(source.digest_base),
            digest_target: target.digest.minus(target.digest_base),
            files: self.facts.files.clone(),
            missing: target.missing.clone(),
            holes_filled: self.progress.holes_filled,
            delta_records: self.progress.delta_records,
            pause_us: self.progress.pause_us,
            attempts: source.attempt,
            phase_ms: self.progress.phase_ms.clone(),
            safety: m.config.safety,
            verdict: Certificate::VERDICT.to_owned(),
        })
    }
}

//! The drivers: starting, taking over, and carrying out what a machine decides.

use watershed_migration::machine::{Action, Event, Machine, Operator, Outcome};
use watershed_migration::{MigrationCoordinator, MigrationId, MigrationRecord, Now, Phase};

use super::network::node;
use super::placement::Asker;
use super::{Bug, Ev, Report, Who, World};

impl World {
    pub(crate) fn take_over(&mut self) {
        let gate = MigrationCoordinator::new(self.config.clone())
            .validate_safety()
            .unwrap();
        let d = self.drivers.len();
        let name = node(&format!("d{d}"));
        let begun = self.placement.migration.as_ref().map(|m| m.id);
        match Machine::resume(gate.clone(), self.placement.clone(), name.clone()) {
            Some(machine) => {
                self.drivers.push(Some(machine));
                self.drives.extend(begun);
            }
            None => {
                let id = MigrationId(1000 + d as u128);
                self.drives.push(id);
                let migration =
                    MigrationRecord::new(id, &self.placement, node("t"), name, &gate, "again");
                self.drivers
                    .push(Some(Machine::new(gate, self.placement.clone(), migration)));
            }
        }
        self.after(0, Ev::Start(d));
    }

    pub(super) fn driver_event(&mut self, d: usize, event: Event) {
        let now = Now(self.now);
        if let Some(machine) = &mut self.drivers[d] {
            machine.handle(now, event);
        }
        self.drain_driver(d);
    }

    pub(super) fn drain_driver(&mut self, d: usize) {
        while let Some(action) = self.drivers[d].as_mut().and_then(Machine::next_action) {
            self.driver_action(d, action);
        }
    }

    fn driver_action(&mut self, d: usize, action: Action) {
        match action {
            Action::Send {
                call, to, request, ..
            } => {
                if self.bug == Some(Bug::ShowsActivateEarly) && request.name() == "Activate" {
                    self.phase(d, Phase::Activate, false);
                }
                self.send(d, call, to, &request);
            }
            Action::Swap { expected, record } => {
                let m = record.migration.as_ref().unwrap();
                self.say(format!(
                    "d{d}  swap r{} {} attempt {}",
                    record.revision, m.phase, m.attempt
                ));
                self.send_swap(Asker::Driver(d), expected, record);
            }
            Action::ReadPlacement => {
                self.say(format!("d{d}  read placement"));
                self.soon(Ev::Read(Asker::Driver(d)));
            }
            Action::SetTimer { timer, at } => {
                let ms = at.since_ms(Now(self.now));
                self.after(ms, Ev::ToDriver(d, Event::Timer(timer)));
            }
            Action::Progress(progress) => {
                if progress.cutover {
                    self.cutover_kept.insert(progress.migration);
                }
                self.phase(d, progress.phase, progress.paused);
            }
            Action::Certified(mut certificate) => {
                if self.bug == Some(Bug::CertifiesLess) {
                    certificate.f.0 -= 1;
                }
                self.say(format!(
                    "d{d}  certified F={} {}",
                    certificate.f, certificate.verdict
                ));
                self.certified = Some(certificate);
                self.just_certified = true;
            }
            Action::Finish(outcome) => {
                assert!(
                    !matches!(outcome, Outcome::CopiesDiffer { .. }),
                    "{outcome:?}"
                );
                self.say(format!("d{d}  finish {outcome:?}"));
                self.outcomes.push(outcome);
                self.drivers[d] = None;
                // A dead driver's swap that arrives late leaves a migration that nobody drives: an operator finds it.
                let orphan = self.placement.active_migration().is_some();
                if orphan && self.drivers.iter().all(Option::is_none) {
                    self.after(30, Ev::Restart(Who::Driver));
                }
            }
        }
    }

    fn phase(&mut self, d: usize, phase: Phase, paused: bool) {
        self.say(format!("d{d}  == {phase}"));
        let before = self.reports.iter().rev().find(|r| r.driver == d);
        self.reports.push(Report {
            driver: d,
            before: before.map(|report| report.phase),
            still_paused: paused && before.is_some_and(|report| report.paused),
            paused,
            phase,
            recorded: self.recorded.get(&self.drives[d]).copied(),
        });
        if let Some((who, at, times)) = &mut self.crash_at
            && *at == phase
        {
            let who = *who;
            *times -= 1;
            if *times == 0 {
                self.crash_at = None;
                self.after(0, Ev::Crash(who));
            }
        }
        if self.abort_at == Some(phase) {
            self.abort_at = None;
            let reason = "asked".to_owned();
            self.after(
                0,
                Ev::ToDriver(d, Event::Operator(Operator::Abort { reason })),
            );
        }
        if let Some((_, wish)) = self.wish_at.take_if(|(at, _)| *at == phase) {
            self.after(0, Ev::ToDriver(d, Event::Operator(wish)));
        }
        if self.takeover_at == Some(phase) {
            self.takeover_at = None;
            self.after(1, Ev::Restart(Who::Driver));
        }
    }
}

//! The placement: swaps that win, lose, arrive after their asker has given up, or get lost; and reads.

use watershed_migration::machine::Event;
use watershed_migration::source::SourceEvent;
use watershed_migration::target::TargetEvent;
use watershed_migration::{PlacementRecord, Revision};

use super::{Bug, Change, Ev, World};

/// Who asked the placement, and is told.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    Source(u64),
    Target(u64),
    Driver(usize),
}

impl World {
    pub(super) fn send_swap(
        &mut self,
        asker: Asker,
        expected: Revision,
        record: Box<PlacementRecord>,
    ) {
        let lost = self.chance(self.faults.lose_swap_reply);
        if lost {
            self.after(20, Ev::GaveUp(asker.clone()));
            if self.chance(300) {
                return;
            }
            // It may well arrive after the asker has given up.
            let late = self.random() % 60;
            self.after(
                late,
                Ev::Swap {
                    asker,
                    expected,
                    record,
                    give_up: true,
                },
            );
        } else {
            self.soon(Ev::Swap {
                asker,
                expected,
                record,
                give_up: false,
            });
        }
    }

    pub(super) fn swap(
        &mut self,
        asker: Asker,
        expected: Revision,
        record: PlacementRecord,
        silent: bool,
    ) {
        let won =
            self.placement.revision == expected || self.bug == Some(Bug::SwapsWithoutComparing);
        if won {
            if let Some(migration) = &record.migration {
                self.recorded.insert(migration.id, migration.phase);
            }
            let mut record = record;
            self.forget_wishes(&mut record);
            let before = std::mem::replace(&mut self.placement, record);
            let by_source = matches!(asker, Asker::Source(_));
            self.change = Some(Change { before, by_source });
        }
        if !silent {
            self.tell(asker, Some(self.placement.clone()), won);
        }
    }

    /// Planted: whoever takes over starts with a clean slate.
    fn forget_wishes(&self, next: &mut PlacementRecord) {
        let driver = |record: &PlacementRecord| record.migration.as_ref().map(|m| m.driver_term);
        let taken_over = driver(next) != driver(&self.placement);
        if let (Some(Bug::ForgetsWishes), true, Some(m)) =
            (self.bug, taken_over, next.migration.as_mut())
        {
            m.cutover_asked = false;
        }
    }

    pub(super) fn tell(&mut self, asker: Asker, record: Option<PlacementRecord>, won: bool) {
        let record = record.map(Box::new);
        match asker {
            Asker::Source(generation) => {
                let event = match (record, won) {
                    (None, _) => SourceEvent::SwapUnknown,
                    (Some(record), true) => SourceEvent::Swapped(record),
                    (Some(record), false) => SourceEvent::SwapConflict(record),
                };
                self.soon(Ev::ToSource(generation, event));
            }
            Asker::Target(_) => {}
            Asker::Driver(d) => {
                let event = match (record, won) {
                    (None, _) => Event::SwapUnknown,
                    (Some(record), true) => Event::Swapped(record),
                    (Some(record), false) => Event::SwapConflict(record),
                };
                self.soon(Ev::ToDriver(d, event));
            }
        }
    }

    pub(super) fn tell_read(&mut self, asker: Asker, mut record: PlacementRecord) {
        if let (Some(Bug::ReadsNoPause), Some(m)) = (self.bug, record.migration.as_mut()) {
            m.paused = false;
        }
        let lost = self.chance(self.faults.lose);
        let record = Box::new(record);
        match asker {
            Asker::Source(g) if lost => self.soon(Ev::ToSource(g, SourceEvent::PlacementUnread)),
            Asker::Source(g) => self.soon(Ev::ToSource(g, SourceEvent::PlacementRead(record))),
            Asker::Target(g) if lost => self.soon(Ev::ToTarget(g, TargetEvent::PlacementUnread)),
            Asker::Target(g) => self.soon(Ev::ToTarget(g, TargetEvent::PlacementRead(record))),
            Asker::Driver(d) if lost => self.soon(Ev::ToDriver(d, Event::PlacementUnread)),
            Asker::Driver(d) => self.soon(Ev::ToDriver(d, Event::PlacementRead(record))),
        }
    }
}

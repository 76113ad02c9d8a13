//! The source's node: its role, and a log in which everything is durable at once.

use watershed_migration::messages::{
    FileInfo, Manifest, RefusedKind, Request, Response, SourceState,
};
use watershed_migration::source::{
    DrainedMarks, SourceAction, SourceEvent, SourceNote, SourceRole,
};
use watershed_migration::{HighestSeen, Now};
use watershed_wal::{Epoch, LogDigest, Record, Seq, Term};

use super::clients::{digest, page, record};
use super::network::at;
use super::placement::Asker;
use super::{Bug, Ev, S, T, Who, World};

pub(crate) struct Source {
    pub(crate) role: SourceRole,
    pub(crate) generation: u64,
    pub(crate) up: bool,
    /// Writes are taken.
    pub(crate) gate: bool,
    /// Reads are answered.
    pub(crate) reads: bool,
    pub(crate) forwarding: bool,
    pub(crate) opening: u64,
    pub(crate) note: Option<SourceNote>,
    pub(crate) seen: HighestSeen,
    pub(crate) log: Vec<Record>,
    pub(crate) base: Option<(Seq, LogDigest)>,
    pub(crate) deleted: bool,
    deleting: bool,
}

impl Source {
    pub(super) fn new() -> Self {
        let term = Term::new(Epoch(1), 1);
        Self {
            role: SourceRole::new(at("s", S), HighestSeen::default()),
            generation: 0,
            up: true,
            gate: true,
            reads: true,
            forwarding: false,
            opening: 1,
            note: None,
            seen: HighestSeen::default(),
            log: (1..=20).map(|seq| record(term, seq)).collect(),
            base: None,
            deleted: false,
            deleting: false,
        }
    }

    pub(super) fn crash(&mut self) {
        self.up = false;
        self.generation += 1;
        (self.gate, self.reads, self.forwarding) = (false, false, false);
        self.deleting = false;
    }

    fn end(&self) -> Seq {
        Seq(self.log.len() as u64)
    }
}

impl World {
    pub(super) fn restart_source(&mut self) {
        let source = &mut self.source;
        let (role, actions) = SourceRole::recover(at("s", S), source.seen, source.note.clone());
        source.role = role;
        source.up = true;
        source.opening += 1;
        if self.bug == Some(Bug::OpensWithoutRecord) {
            (source.gate, source.reads) = (true, true);
        }
        self.source_actions(actions);
    }

    pub(super) fn source_event(&mut self, event: SourceEvent) {
        let actions = self.source.role.handle(Now(self.now), event);
        self.source.seen = self.source.role.seen();
        self.source_actions(actions);
    }

    fn source_later(&mut self, event: SourceEvent) {
        let generation = self.source.generation;
        self.soon(Ev::ToSource(generation, event));
    }

    fn source_actions(&mut self, actions: Vec<SourceAction>) {
        for action in actions {
            self.source_action(action);
        }
    }

    fn source_action(&mut self, action: SourceAction) {
        let generation = self.source.generation;
        match action {
            SourceAction::Perform { call, request } => {
                let response = self.source_performs(*request);
                self.reply("s", call, &response);
            }
            SourceAction::Reply { call, response } => self.reply("s", call, &response),
            SourceAction::ReadPlacement => self.soon(Ev::Read(Asker::Source(generation))),
            SourceAction::Swap { expected, record } => {
                self.say(format!("s   swap r{} to {}", record.revision, record.owner));
                assert!(
                    matches!(self.source.note, Some(SourceNote::Sent { .. })),
                    "sent without a note"
                );
                self.send_swap(Asker::Source(generation), expected, record);
            }
            SourceAction::Open => self.open_source(),
            SourceAction::GiveAway { owner, epoch } => {
                self.say(format!("s   give away to {owner} in epoch {epoch}"));
                self.source.gate = false;
                self.source.reads &= self.bug == Some(Bug::ReadsStayOpen);
            }
            SourceAction::Release { call: None } => {}
            SourceAction::Release { call: Some(call) } => {
                let (parked, pause_us) = (1, 1);
                self.reply("s", call, &Response::Released { parked, pause_us });
            }
            SourceAction::StopForwarding => {
                self.source.forwarding = false;
                self.source.deleted |= self.bug == Some(Bug::DeletesWhenStopped);
            }
            SourceAction::Delete { instance } => {
                self.say("s   delete".into());
                assert_eq!(instance, S);
                assert!(!self.source.deleting, "a deletion was asked for twice");
                if self.chance(self.faults.fail) {
                    return self.source_later(SourceEvent::Deleted(Err("disk".into())));
                }
                self.source.deleting = true;
                self.source.deleted = true;
                self.source_later(SourceEvent::Deleted(Ok(1)));
            }
            SourceAction::SetTimer { timer, at } => {
                let ms = at.since_ms(Now(self.now));
                self.after(ms, Ev::ToSource(generation, SourceEvent::Timer(timer)));
            }
            pause => self.pause_action(pause),
        }
    }

    fn pause_action(&mut self, action: SourceAction) {
        match action {
            SourceAction::CloseGate { attempt, note } => {
                self.say("s   close gate".into());
                let f = Some(self.source.end());
                if self.chance(self.faults.fail) {
                    return self.source_later(SourceEvent::GateClosed { attempt, f: None });
                }
                self.source.gate = self.bug == Some(Bug::GateStaysOpen);
                self.source.note = Some(note);
                self.source_later(SourceEvent::GateClosed { attempt, f });
            }
            SourceAction::Drain { attempt, f } => {
                self.source.reads = self.bug == Some(Bug::ReadsStayOpen);
                let (base, digest_base) = self.source.base.unwrap();
                let upto = &self.source.log[..f.0 as usize];
                let marks = Ok(DrainedMarks {
                    term: upto.last().unwrap().term(),
                    base,
                    digest_base,
                    durable: f,
                    applied: f,
                    digest: digest(upto),
                });
                let failed = self.chance(self.faults.fail);
                let marks = if failed { Err("disk".into()) } else { marks };
                self.source_later(SourceEvent::Drained { attempt, marks });
            }
            SourceAction::PersistSent { attempt, note } => {
                let durable = !self.chance(self.faults.fail);
                // A note that failed may be found all the same; the log that failed needs a restart.
                if durable || self.chance(500) {
                    self.source.note = Some(note);
                }
                if !durable {
                    self.after(40, Ev::Crash(Who::Source));
                }
                self.source_later(SourceEvent::NotePersisted { attempt, durable });
            }
            other => panic!("not of the pause: {other:?}"),
        }
    }

    fn open_source(&mut self) {
        self.say("s   open".into());
        let term = Term::new(Epoch(1), self.source.opening);
        if self.source.log.last().unwrap().term() < term {
            let seq = self.source.end().next().0;
            self.source.log.push(record(term, seq));
        }
        (self.source.gate, self.source.reads) = (true, true);
    }

    fn source_performs(&mut self, request: Request) -> Response {
        let end = self.source.end();
        match request {
            Request::Prepare { .. } => Response::Prepared {
                source_instance: S,
                epoch: Epoch(1),
                assigned: end,
                applied: end,
                bytes_estimate: 1,
                terms: Vec::new(),
            },
            Request::Checkpoint { .. } => {
                let made = (end, digest(&self.source.log));
                let (base, digest) = *self.source.base.get_or_insert(made);
                let files = vec![FileInfo {
                    name: "1.sst".into(),
                    len: 10,
                    xxh3_128: 7,
                }];
                Response::CheckpointMade(Manifest {
                    base,
                    digest,
                    files,
                    terms: Vec::new(),
                })
            }
            Request::StartForward {
                target_instance, ..
            } => {
                assert_eq!(target_instance, T);
                self.source.forwarding = true;
                Response::Ok
            }
            Request::SourceStatus { .. } => Response::SourceState(SourceState {
                forwarding: self.source.forwarding,
                quiesced: !self.source.gate,
                assigned: end,
                durable: end,
                applied: end,
                forwarded: 0,
                forward_failed: 0,
            }),
            Request::Ship { ranges, .. } => {
                if !self.target.up || self.chance(self.faults.lose) {
                    return Response::refused(RefusedKind::Failed, "the target is not reachable");
                }
                let seqs: Vec<u64> = ranges.iter().flat_map(|r| r.iter()).map(|s| s.0).collect();
                self.store_at_target(&seqs);
                Response::Shipped {
                    records: seqs.len() as u64,
                    bytes: 0,
                }
            }
            Request::ComparePage { after, limit, .. } => page(
                self.source.log.iter().collect(),
                after,
                limit.min(7) as usize,
            ),
            other => panic!("the source was to perform {}", other.name()),
        }
    }
}

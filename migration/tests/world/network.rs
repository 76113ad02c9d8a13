//! Calls between drivers and nodes, as bytes: lost, doubled, late, and given up by their caller.

use watershed_migration::NodeId;
use watershed_migration::machine::{CallError, Event, Peer};
use watershed_migration::messages::{Request, Response};
use watershed_migration::source::{CallId, Hosting, SourceEvent};
use watershed_migration::target::TargetEvent;
use watershed_wal::{InstanceId, ShardId};

use super::{Bug, Ev, World};

/// A caller gives a call up after so many milliseconds.
const CALL_MS: u64 = 60;

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(super) fn at(name: &str, instance: InstanceId) -> Hosting {
    Hosting {
        shard: ShardId(1),
        node: node(name),
        instance,
    }
}

impl World {
    pub(super) fn send(&mut self, d: usize, call: CallId, to: Peer, request: &Request) {
        self.say(format!("d{d}  -> {to:?} {}", request.name()));
        let error = CallError::Unreachable;
        self.after(CALL_MS, Ev::ToDriver(d, Event::Failed { call, error }));
        let bytes = request.encode();
        for _ in 0..1 + u64::from(self.chance(self.faults.double)) {
            if !self.chance(self.faults.lose) {
                let bytes = bytes.clone();
                self.soon(Ev::Arrive {
                    driver: d,
                    call,
                    to,
                    bytes,
                });
            }
        }
    }

    pub(super) fn arrive(&mut self, driver: usize, call: CallId, to: Peer, bytes: &[u8]) {
        let request = Box::new(Request::decode(bytes).unwrap());
        self.next_call += 1;
        let local = CallId(self.next_call);
        self.calls.insert(local, (driver, call));
        match to {
            Peer::Source if self.source.up => {
                self.source_event(SourceEvent::Request {
                    call: local,
                    request,
                });
            }
            Peer::Target if self.target.up => {
                let slow = self.slow_attempts > 0 && matches!(*request, Request::Verify { .. });
                let event = TargetEvent::Request {
                    call: local,
                    request,
                };
                if slow {
                    self.slow_attempts -= 1;
                    let generation = self.target.generation;
                    self.after(self.slow_ms, Ev::ToTarget(generation, event));
                } else {
                    self.target_event(event);
                }
            }
            _ => {}
        }
    }

    pub(super) fn reply(&mut self, from: &str, call: CallId, response: &Response) {
        let Some((driver, call)) = self.calls.remove(&call) else {
            return;
        };
        let response = Response::decode(&response.encode()).unwrap();
        match &response {
            Response::Refused(r) => {
                self.say(format!("{from}   <- refused {:?}: {}", r.kind, r.message))
            }
            other => self.say(format!("{from}   <- {}", other.name())),
        }
        let mute = self.bug == Some(Bug::NeverAnswers);
        if !mute && !self.chance(self.faults.lose) {
            let response = Box::new(response);
            self.soon(Ev::ToDriver(driver, Event::Replied { call, response }));
        }
    }
}

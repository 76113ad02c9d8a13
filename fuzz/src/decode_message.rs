//! Bytes as what nodes and operators hand each other: requests, responses, certificates and placement records.
//!
//! Laws: no bytes make a decoder panic, nor a role that is given what they decode to; what decodes is, encoded and
//! decoded again, the same; and a change of a decoded placement record either is refused or gives one that can be
//! stored and read back, at the next revision.
//!
//! The first byte chooses what the rest is read as.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use watershed_migration::messages::{Request, Response};
use watershed_migration::source::{CallId, Hosting, SourceEvent, SourceRole};
use watershed_migration::target::{TargetEvent, TargetRole};
use watershed_migration::{
    Certificate, Claim, HighestSeen, NodeId, Now, PhaseChange, PlacementRecord,
};
use watershed_wal::{InstanceId, Seq, ShardId};

/// Runs one input.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => request(bytes),
        1 => response(bytes),
        2 => {
            if let Ok(certificate) = Certificate::from_json(bytes) {
                json_round_trip(&certificate);
                certificate.check().expect("what was read is consistent");
            }
        }
        _ => {
            if let Ok(record) = serde_json::from_slice::<PlacementRecord>(bytes) {
                json_round_trip(&record);
                placement(&record);
            }
        }
    }
}

fn request(bytes: &[u8]) {
    let Ok(request) = Request::decode(bytes) else {
        return;
    };
    assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
    assert_eq!(
        request
            .envelope()
            .map_or(request.shard(), |envelope| envelope.shard),
        request.shard()
    );
    // Whatever it asks for, whoever it reaches answers or starts something.
    let (call, request) = (CallId(1), Box::new(request));
    let event = SourceEvent::Request {
        call,
        request: request.clone(),
    };
    let mut source = SourceRole::new(hosting(request.shard()), HighestSeen::default());
    assert_ne!(source.handle(Now(0), event), [], "no answer: {request:?}");
    let mut target = TargetRole::new(hosting(request.shard()), HighestSeen::default());
    let event = TargetEvent::Request {
        call,
        request: request.clone(),
    };
    assert_ne!(target.handle(event), [], "no answer: {request:?}");
}

fn response(bytes: &[u8]) {
    let Ok(response) = Response::decode(bytes) else {
        return;
    };
    assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(&response));
    if let Response::Activated { record } | Response::NotActivated { record } = &response {
        placement(record);
    }
}

fn json_round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_vec(value).expect("plain data");
    let again: T = serde_json::from_slice(&json).expect("what we wrote");
    assert_eq!(&again, value, "{}", String::from_utf8_lossy(&json));
}

fn hosting(shard: ShardId) -> Hosting {
    Hosting {
        shard,
        node: node("here"),
        instance: InstanceId(1),
    }
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node's name")
}

/// A record as a stranger may have written it: given to the roles, and changed in each way there is.
fn placement(record: &PlacementRecord) {
    let owner = Hosting {
        shard: record.shard,
        node: record.owner.clone(),
        instance: record.instance,
    };
    for at in [owner, hosting(record.shard)] {
        let (mut source, _) = SourceRole::recover(at.clone(), HighestSeen::default(), None);
        source.handle(
            Now(u64::MAX),
            SourceEvent::PlacementRead(Box::new(record.clone())),
        );
        let mut target = TargetRole::new(at, HighestSeen::default());
        target.handle(TargetEvent::PlacementRead(Box::new(record.clone())));
    }
    let valid = record.validate().is_ok();
    let Some(migration) = &record.migration else {
        return;
    };
    let claim = Claim {
        migration: migration.id,
        driver_term: migration.driver_term,
    };
    let changes = [
        record.raise_attempt(claim),
        record.take_over(migration.id, node("other")),
        record.abort(migration.id, "fuzzed"),
        record.note_grace(claim, u64::MAX),
        record.begin_retire(claim),
        record.finish_cleanup(claim),
        record.set_phase(
            claim,
            PhaseChange::BulkCopy {
                target_instance: InstanceId(2),
            },
        ),
        record.set_phase(claim, PhaseChange::DualWrite { base: Seq(3) }),
    ];
    for next in changes.into_iter().flatten() {
        assert_eq!(Some(next.revision), record.revision.checked_next());
        assert_eq!(
            (&next.owner, next.epoch),
            (&record.owner, record.epoch),
            "only activation gives away"
        );
        json_round_trip(&next);
        if valid {
            next.validate()
                .unwrap_or_else(|broken| panic!("{broken}: {record:?} became {next:?}"));
        }
    }
}

//! The map of owners over the network: one node serves it, the others ask that node.
//!
//! For a cluster without etcd. While the node that serves it is down nothing can change its owner: migrations wait before
//! Activate, and shards that have an owner are read and written as before.

mod client;
mod members;
mod server;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from proto/"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/watershed.placement.v1.rs"));
}

pub use client::RemotePlacement;
pub(super) use server::Served;

use proto::{Record, placement_client, placement_server};
use watershed_migration::PlacementRecord;

fn to_wire(record: &PlacementRecord) -> Record {
    let json = serde_json::to_vec(record)
        .expect("a record serialises into memory: its maps have string keys");
    Record { json }
}

/// The record, checked as a journal's is.
fn from_wire(record: &Record) -> Result<PlacementRecord, String> {
    let read: PlacementRecord = serde_json::from_slice(&record.json)
        .map_err(|error| format!("a placement record that can't be read ({error})"))?;
    match read.validate() {
        Ok(()) => Ok(read),
        Err(error) => Err(format!("a placement record that is not sound ({error})")),
    }
}

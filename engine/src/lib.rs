//! An embeddable storage engine: a write-ahead log gives every write a sequence number, RocksDB keeps the data, and any
//! shard can move to another node while it is being written, with a proof that no acknowledged write was lost.
//!
//! Start with [`Engine::open`]. Put several engines on one [`LocalCluster`] and [`Engine::migrate`] moves shards
//! between them. What each part promises is in ARCHITECTURE.md.
#![forbid(unsafe_code)]

// Tests include a file of an example, which knows this crate by its name.
#[cfg(test)]
extern crate self as watershed;

#[cfg(feature = "net")]
mod admin;
mod backend;
mod batch;
mod brief;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "net")]
mod client;
mod cluster;
mod datadir;
mod engine;
mod error;
mod forward;
mod link;
mod migrate;
#[cfg(feature = "net")]
pub mod net;
mod node;
mod options;
mod placement;
mod readonly;
mod repair;
mod request;
mod scan;
mod shard;
mod shard_of;
mod status;
mod store;
mod sync;

#[cfg(feature = "net")]
pub use admin::{
    Admin, AdminError, ClusterStatus, CopyView, MoveStatus, NodeStatus, Outcome, ShardMap, Wish,
};
pub use batch::{Batch, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
#[cfg(feature = "net")]
pub use client::Client;
pub use cluster::LocalCluster;
pub use engine::{Engine, Shard};
pub use error::{Error, Retry};
pub use link::{BoxFuture, FaultyLink, Link, LinkError, LocalLink, Service};
pub use migrate::{Migrate, Migration, MigrationCounts, MigrationPlan};
pub use options::{DEFAULT_SHARDS, EngineOptions};
pub use placement::{ClusterInfo, FilePlacement, Member, NodeInfo, Placement, PlacementError};
#[cfg(feature = "etcd")]
pub use placement::{EtcdOptions, EtcdPlacement, EtcdTls};
pub use readonly::ReadOnly;
pub use repair::LogRepair;
pub use request::{Read, Write};
pub use scan::{Scan, Snapshot};
pub use status::{EngineStatus, ShardRole, ShardStatus};
pub use store::{Entry, ParseVersionError, ScanOptions, StoreError, Version};
pub use watershed_migration as migration;
pub use watershed_migration::NodeId;
pub use watershed_wal::repair as log_repair;
pub use watershed_wal::{
    Durability, Epoch, HoldInfo, InstanceId, LogStatus, Seq, ShardId, Term, TimeBucket, Times,
};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

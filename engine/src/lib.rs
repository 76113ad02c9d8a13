//! An embeddable, write-ahead-logged storage engine whose shards move between nodes while they are written.
#![forbid(unsafe_code)]

// Nothing in the crate uses the store yet; whoever does takes the allowance out.
#[allow(dead_code, unused_imports)]
mod store;

pub use store::{Entry, ParseVersionError, ScanOptions, Version};

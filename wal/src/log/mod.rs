//! Skeleton of the log's public calls.
mod api;
pub use api::*;

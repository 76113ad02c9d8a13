//! The log's locks, wake-ups and order under a scheduler that chooses them: `make shuttle`.
//!
//! It is the real code that runs, with the primitives of `src/sync.rs` exchanged. Each scenario is small and must
//! end; what it must keep is asserted where it happens: an acknowledged write is in the durable image at that
//! moment, a sink and a tail get records in order and once, nobody waits for nothing.
#![cfg(watershed_shuttle)]

mod disk;
mod ends;
mod gates;
mod sim;
mod toys;
mod world;
mod writers;

//! The types that prost makes of `proto/watershed/node/v1/`. They stay within this crate: what is in them
//! has not been checked.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
// Greetings carry nothing: whoever greets needs no type for it.
#![allow(dead_code)]

include!(concat!(env!("OUT_DIR"), "/watershed.node.v1.rs"));

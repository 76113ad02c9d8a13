//! The values that fields hold: numbers, ids, names, texts, ranges, enums, hashes.

use std::collections::BTreeMap;

use bytes::Bytes;
use watershed_wal::{Durability, Epoch, InstanceId, Seq, SeqRange, ShardId};

use super::fault::{Fault, Within};
use super::field::{Field, Wire};
use crate::messages::{FILE_NAME_MAX, RefusedKind, TEXT_MAX, proto};
use crate::words::{Attempt, DriverTerm, MigrationId, NodeId, Phase, Revision, SessionId};

/// Makes a value that is no message a field.
macro_rules! plain_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            type Proto = <Self as Wire>::Proto;

            fn put(&self) -> Self::Proto {
                self.to_proto()
            }

            fn take(proto: Self::Proto) -> Result<Self, Fault> {
                Self::from_proto(proto)
            }
        }
    )*};
}

plain_field!(
    bool,
    u32,
    u64,
    Bytes,
    String,
    NodeId,
    Seq,
    Epoch,
    ShardId,
    Attempt,
    DriverTerm,
    Revision,
    InstanceId,
    MigrationId,
    SessionId,
    Durability,
    Phase,
    RefusedKind
);

/// Values that stand for themselves.
macro_rules! same {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Proto = Self;

            fn to_proto(&self) -> Self {
                self.clone()
            }

            fn from_proto(proto: Self) -> Result<Self, Fault> {
                Ok(proto)
            }
        }
    )*};
}

same!(bool, u32, u64, Bytes);

macro_rules! number {
    ($($type:ident($inner:ty)),*) => {$(
        impl Wire for $type {
            type Proto = $inner;

            fn to_proto(&self) -> $inner {
                self.0
            }

            fn from_proto(proto: $inner) -> Result<Self, Fault> {
                Ok(Self(proto))
            }
        }
    )*};
}

number!(ShardId(u64), Attempt(u32), DriverTerm(u64), Revision(u64));

/// Numbers that have a greatest value below that of their type.
macro_rules! bounded_number {
    ($($type:ident),*) => {$(
        impl Wire for $type {
            type Proto = u64;

            fn to_proto(&self) -> u64 {
                self.0
            }

            fn from_proto(proto: u64) -> Result<Self, Fault> {
                Self::try_from(proto).map_err(|error| Fault::here(error.to_string()))
            }
        }
    )*};
}

bounded_number!(Seq, Epoch);

macro_rules! id {
    ($($type:ident),*) => {$(
        impl Wire for $type {
            type Proto = Bytes;

            fn to_proto(&self) -> Bytes {
                Bytes::copy_from_slice(&self.0.to_be_bytes())
            }

            fn from_proto(proto: Bytes) -> Result<Self, Fault> {
                if proto.is_empty() {
                    return Err(Fault::missing());
                }
                let bytes = proto[..].try_into().map_err(|_| {
                    Fault::here(format!("{} bytes, an id has 16", proto.len()))
                })?;
                Ok(Self(u128::from_be_bytes(bytes)))
            }
        }
    )*};
}

id!(InstanceId, MigrationId, SessionId);

impl Wire for NodeId {
    type Proto = String;

    fn to_proto(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_proto(proto: String) -> Result<Self, Fault> {
        if proto.is_empty() {
            return Err(Fault::missing());
        }
        Self::try_from(proto).map_err(|error| Fault::here(error.to_string()))
    }
}

impl Wire for String {
    type Proto = Self;

    fn to_proto(&self) -> Self {
        self.clone()
    }

    fn from_proto(proto: Self) -> Result<Self, Fault> {
        at_most("bytes of a text", proto, TEXT_MAX)
    }
}

/// The name of a checkpoint's file: a text with a bound of its own.
pub(super) struct FileName;

impl FileName {
    pub(super) fn put(name: &str) -> String {
        name.to_owned()
    }

    pub(super) fn take(name: String) -> Result<String, Fault> {
        at_most("bytes of a file name", name, FILE_NAME_MAX)
    }
}

fn at_most(list: &'static str, text: String, most: usize) -> Result<String, Fault> {
    match text.len() {
        found if found > most => Err(Fault::Bound { list, found, most }),
        _ => Ok(text),
    }
}

/// Ranges as pairs of numbers: the first Seq, and how many follow it.
impl Field for Vec<SeqRange> {
    type Proto = Vec<u64>;

    fn put(&self) -> Vec<u64> {
        let pairs = self.iter();
        pairs
            .flat_map(|range| [range.first().0, range.last().0 - range.first().0])
            .collect()
    }

    fn take(proto: Vec<u64>) -> Result<Self, Fault> {
        let (pairs, rest) = proto.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Fault::here(format!(
                "{} numbers, ranges have two each",
                proto.len()
            )));
        }
        let range = |[first, more]: &[u64; 2]| {
            let last = first.saturating_add(*more);
            // The greatest number of all is no Seq, so what was too much is refused here.
            SeqRange::new(Seq::from_proto(*first)?, Seq::from_proto(last)?)
                .ok_or_else(|| Fault::here("a range ends before it begins"))
        };
        let ranges = pairs.iter().enumerate();
        ranges.map(|(index, pair)| range(pair).at(index)).collect()
    }
}

/// Enums, with 0 for one that was left out.
macro_rules! choice {
    ($type:ident { $($variant:ident),* $(,)? }) => {
        impl Wire for $type {
            type Proto = i32;

            fn to_proto(&self) -> i32 {
                match self {
                    $(Self::$variant => proto::$type::$variant.into(),)*
                }
            }

            fn from_proto(number: i32) -> Result<Self, Fault> {
                match proto::$type::try_from(number) {
                    $(Ok(proto::$type::$variant) => Ok(Self::$variant),)*
                    Ok(proto::$type::Unspecified) => Err(Fault::missing()),
                    Err(_) => Err(Fault::here(format!("{number} is not known here"))),
                }
            }
        }
    };
}

choice!(Durability { Sync, Buffered });
choice!(Phase {
    Plan,
    BulkCopy,
    DualWrite,
    StopDualWrite,
    Drain,
    DeltaPass,
    Activate,
    Cleanup,
    Done,
    Aborted,
});
choice!(RefusedKind {
    StaleEpoch,
    StaleAttempt,
    StaleDriver,
    WrongInstance,
    NotOwner,
    NotReady,
    NoRoom,
    Gap,
    Conflict,
    Damaged,
    Busy,
    Unknown,
    NotSafe,
    Unsupported,
    Failed,
    OutcomeUnknown,
    UnknownSession,
    Settled,
    SessionFull,
});

/// How long each phase took, in the order of the phases, each once.
impl Field for BTreeMap<Phase, u64> {
    type Proto = Vec<proto::PhaseTime>;

    fn put(&self) -> Self::Proto {
        let time = |(phase, ms): (&Phase, &u64)| proto::PhaseTime {
            phase: phase.to_proto(),
            ms: *ms,
        };
        self.iter().map(time).collect()
    }

    fn take(proto: Self::Proto) -> Result<Self, Fault> {
        let mut times = Self::new();
        for (index, time) in proto.into_iter().enumerate() {
            let phase = Phase::from_proto(time.phase).within("phase").at(index)?;
            if times.insert(phase, time.ms).is_some() {
                return Err(Fault::here(format!("{phase} is there twice"))).at(index);
            }
        }
        Ok(times)
    }
}

/// The two halves of a hash, the more significant first.
pub(super) fn halves(hash: u128) -> [u64; 2] {
    let low = u64::try_from(hash & u128::from(u64::MAX)).expect("64 bits");
    let high = u64::try_from(hash >> 64).expect("64 bits");
    [high, low]
}

pub(super) fn whole(high: u64, low: u64) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

//! What requests for data hold: versions, conditions, bounds, entries.

use bytes::Bytes;
use watershed_wal::{Epoch, Seq, Term};

use super::fault::{Fault, Within};
use super::field::{Wire, message, message_field, put, take};
use super::values::{halves, whole};
use crate::messages::{
    Condition, DataEntry, EntryVersion, Expect, PageEntry, ScanBound, SessionMark, proto,
};

impl Wire for EntryVersion {
    type Proto = proto::EntryVersion;

    fn to_proto(&self) -> proto::EntryVersion {
        let Self { term, seq } = self;
        proto::EntryVersion {
            epoch: term.epoch.0,
            opening: term.opening,
            seq: seq.0,
        }
    }

    fn from_proto(proto: proto::EntryVersion) -> Result<Self, Fault> {
        let epoch = Epoch::from_proto(proto.epoch).within("epoch")?;
        Ok(Self {
            term: Term::new(epoch, proto.opening),
            seq: Seq::from_proto(proto.seq).within("seq")?,
        })
    }
}

message_field!(EntryVersion);

message!(DataEntry {
    key,
    value,
    version,
});

message!(SessionMark {
    session,
    number,
    low_water,
});

impl Wire for Condition {
    type Proto = proto::Condition;

    fn to_proto(&self) -> proto::Condition {
        let Self { key, expect } = self;
        let expect = match expect {
            Expect::Absent => proto::condition::Expect::Absent(proto::Absent {}),
            Expect::Version(version) => proto::condition::Expect::Version(version.to_proto()),
        };
        proto::Condition {
            key: key.clone(),
            expect: Some(expect),
        }
    }

    fn from_proto(proto: proto::Condition) -> Result<Self, Fault> {
        let expect = match proto.expect {
            Some(proto::condition::Expect::Absent(_)) => Ok(Expect::Absent),
            Some(proto::condition::Expect::Version(version)) => {
                EntryVersion::from_proto(version).map(Expect::Version)
            }
            None => Err(Fault::missing()),
        };
        Ok(Self {
            key: proto.key,
            expect: expect.within("expect")?,
        })
    }
}

impl Wire for ScanBound {
    type Proto = proto::KeyBound;

    fn to_proto(&self) -> proto::KeyBound {
        let at = match self {
            Self::Open => proto::key_bound::At::Open(proto::Open {}),
            Self::Included(key) => proto::key_bound::At::Included(key.clone()),
            Self::Excluded(key) => proto::key_bound::At::Excluded(key.clone()),
        };
        proto::KeyBound { at: Some(at) }
    }

    fn from_proto(proto: proto::KeyBound) -> Result<Self, Fault> {
        match proto.at {
            Some(proto::key_bound::At::Open(_)) => Ok(Self::Open),
            Some(proto::key_bound::At::Included(key)) => Ok(Self::Included(key)),
            Some(proto::key_bound::At::Excluded(key)) => Ok(Self::Excluded(key)),
            None => Err(Fault::missing()).within("at"),
        }
    }
}

message_field!(ScanBound);

impl Wire for PageEntry {
    type Proto = proto::PageEntry;

    fn to_proto(&self) -> proto::PageEntry {
        let Self {
            key,
            version,
            tombstone,
            hash,
        } = self;
        let [hash_high, hash_low] = halves(*hash);
        proto::PageEntry {
            key: key.clone(),
            version: put!(version),
            tombstone: *tombstone,
            hash_high,
            hash_low,
        }
    }

    fn from_proto(proto: proto::PageEntry) -> Result<Self, Fault> {
        Ok(Self {
            key: proto.key,
            version: take!(proto.version),
            tombstone: proto.tombstone,
            hash: whole(proto.hash_high, proto.hash_low),
        })
    }
}

/// What a key of a `Get` holds.
impl Wire for Option<(Bytes, EntryVersion)> {
    type Proto = proto::Value;

    fn to_proto(&self) -> proto::Value {
        let (value, version) = self.clone().unzip();
        proto::Value {
            value: value.unwrap_or_default(),
            version: put!(&version),
        }
    }

    fn from_proto(proto: proto::Value) -> Result<Self, Fault> {
        let version: Option<EntryVersion> = take!(proto.version);
        match version {
            Some(version) => Ok(Some((proto.value, version))),
            None if proto.value.is_empty() => Ok(None),
            None => Err(Fault::missing()).within("version"),
        }
    }
}

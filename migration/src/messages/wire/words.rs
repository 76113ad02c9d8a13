//! The messages that others hold: envelopes, marks, manifests, options.

use watershed_wal::{Epoch, LogDigest, Seq, Term, TermStart};

use super::fault::{Fault, Within};
use super::field::{Wire, message, message_field, put, take};
use super::values::{FileName, halves, whole};
use crate::config::{MigrationConfig, SafetyPolicy};
use crate::evidence::{SourceMarks, TargetMarks};
use crate::messages::{Envelope, FileInfo, Manifest, proto};

message!(Envelope {
    shard,
    migration,
    attempt,
    driver_term,
});

message!(Manifest {
    base,
    digest,
    files,
    terms,
});

message!(SourceMarks {
    migration,
    attempt,
    instance,
    term,
    base,
    f,
    durable,
    applied,
    digest_base,
    digest,
    revision,
});

message!(TargetMarks {
    migration,
    attempt,
    instance,
    source_instance,
    base,
    f,
    durable,
    applied,
    missing,
    digest_base,
    digest,
});

message!(SafetyPolicy {
    anti_entropy,
    delta_pass,
});

message!(MigrationConfig {
    safety,
    pause_max_ms,
    attempts_max,
    grace_ms,
    catch_up_lag,
    hold,
    rate_bytes_per_s,
    hold_bytes,
    hold_ms,
    adaptive_percent,
});

message!(Term { epoch, opening });

impl Wire for TermStart {
    type Proto = proto::TermStart;

    fn to_proto(&self) -> proto::TermStart {
        let Self { term, first } = self;
        proto::TermStart {
            epoch: term.epoch.0,
            opening: term.opening,
            first: first.0,
        }
    }

    fn from_proto(proto: proto::TermStart) -> Result<Self, Fault> {
        let epoch = Epoch::from_proto(proto.epoch).within("epoch")?;
        Ok(Self {
            term: Term::new(epoch, proto.opening),
            first: Seq::from_proto(proto.first).within("first")?,
        })
    }
}

impl Wire for LogDigest {
    type Proto = proto::LogDigest;

    fn to_proto(&self) -> proto::LogDigest {
        let Self { count, sum } = *self;
        let [sum_high, sum_low] = halves(sum);
        proto::LogDigest {
            count,
            sum_high,
            sum_low,
        }
    }

    fn from_proto(proto: proto::LogDigest) -> Result<Self, Fault> {
        Ok(Self {
            count: proto.count,
            sum: whole(proto.sum_high, proto.sum_low),
        })
    }
}

message_field!(LogDigest);

impl Wire for FileInfo {
    type Proto = proto::FileInfo;

    fn to_proto(&self) -> proto::FileInfo {
        let Self {
            name,
            len,
            xxh3_128,
        } = self;
        let [xxh3_high, xxh3_low] = halves(*xxh3_128);
        proto::FileInfo {
            name: FileName::put(name),
            len: *len,
            xxh3_high,
            xxh3_low,
        }
    }

    fn from_proto(proto: proto::FileInfo) -> Result<Self, Fault> {
        Ok(Self {
            name: take!(proto.name, FileName),
            len: proto.len,
            xxh3_128: whole(proto.xxh3_high, proto.xxh3_low),
        })
    }
}

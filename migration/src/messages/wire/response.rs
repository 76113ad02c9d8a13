//! The bodies of responses.

use watershed_wal::Epoch;

use super::fault::{Fault, Within};
use super::field::{Wire, message, message_field, put, take};
use super::walk::{self, Shape};
use super::{READABLE_FROM, Whole};
use crate::messages::proto::response::Body;
use crate::messages::{MESSAGE_VERSION, Refused, Response, SourceState, TargetState, proto};
use crate::words::NodeId;

message!(Refused {
    kind,
    message,
    owner,
});

message!(SourceState {
    forwarding,
    quiesced,
    assigned,
    durable,
    applied,
    forwarded,
    forward_failed,
});

message!(TargetState {
    copied_bytes,
    total_bytes,
    opened,
    base,
    has_max,
    durable,
    applied,
    files,
    error,
});

/// The owner of a shard, and its epoch.
impl Wire for (NodeId, Epoch) {
    type Proto = proto::Owner;

    fn to_proto(&self) -> proto::Owner {
        let (node, epoch) = self;
        proto::Owner {
            node: put!(node),
            epoch: put!(epoch),
        }
    }

    fn from_proto(proto: proto::Owner) -> Result<Self, Fault> {
        Ok((take!(proto.node), take!(proto.epoch)))
    }
}

/// Three kinds of responses: without a field; holding what is itself the body; and with the fields of the body of
/// its name, be they named or not.
macro_rules! bodies {
    (
        empty { $($empty:ident = $done:ident),* $(,)? }
        itself { $($itself:ident),* $(,)? }
        fields {
            $($variant:ident $(($($only:ident),*))? $({ $($field:ident),* $(,)? })?)*
        }
    ) => {
        fn body(response: &Response) -> Body {
            match response {
                $(Response::$empty => Body::$done(proto::$done {}),)*
                $(Response::$itself(held) => Body::$itself(held.to_proto()),)*
                $(Response::$variant $(($($only),*))? $({ $($field),* })? => {
                    Body::$variant(proto::$variant {
                        $($($only: put!($only)),*)?
                        $($($field: put!($field)),*)?
                    }.into())
                })*
            }
        }

        fn response(body: Body) -> Result<Response, Fault> {
            match body {
                $(Body::$done(_) => Ok(Response::$empty),)*
                $(Body::$itself(held) => {
                    let held = Wire::from_proto(held).within(stringify!($itself))?;
                    Ok(Response::$itself(held))
                })*
                $(Body::$variant(body) => {
                    let read = || Ok(Response::$variant
                        $(($(take!(body.$only)),*))?
                        $({ $($field: take!(body.$field)),* })?
                    );
                    read().within(stringify!($variant))
                })*
            }
        }
    };
}

bodies! {
    empty {
        Ok = Done,
        Reopened = Reopened,
    }
    itself {
        Refused,
        SourceState,
        TargetState,
    }
    fields {
        Prepared { source_instance, epoch, assigned, applied, bytes_estimate, terms }
        CheckpointMade (manifest)
        FileChunk { bytes, crc32 }
        Shipped { records, bytes }
        Quiesced { f }
        Drained (marks)
        Activated { record }
        NotActivated { record }
        Released { parked, pause_us }
        Retired { bytes }
        TargetBegun { instance, free_bytes }
        RecordsAck { durable_contiguous, stored }
        MissingRanges { ranges, more }
        Verified (marks)
        Serving { term, first_seq }
        Page { entries, done }
        Surveyed { version, free_bytes, owned_bytes }
        Written { version }
        ConditionFailed { index, found }
        SessionOpened { version, in_flight_max }
        Values (values)
        Entries { entries, done }
        Moved { owner, epoch }
    }
}

impl Wire for Response {
    type Proto = proto::Response;

    fn to_proto(&self) -> proto::Response {
        proto::Response {
            version: MESSAGE_VERSION,
            readable_from: READABLE_FROM,
            body: Some(body(self)),
        }
    }

    fn from_proto(proto: proto::Response) -> Result<Self, Fault> {
        response(proto.body.ok_or_else(Fault::missing)?)
    }
}

impl Whole for Response {
    const WHAT: &'static str = "response";
    const BODIES: &'static Shape = walk::RESPONSE;
}

//! The bodies of requests.

use watershed_wal::ShardId;

use super::fault::{Fault, Within};
use super::field::{Wire, put, take};
use super::values::FileName;
use super::walk::{self, Shape};
use super::{READABLE_FROM, Whole};
use crate::messages::proto::request::Body;
use crate::messages::{MESSAGE_VERSION, Request, ScanRequest, proto};

/// Each request whose fields are those of the body of its name.
macro_rules! bodies {
    ($($variant:ident { $($field:ident $(as $form:ident)?),* $(,)? })*) => {
        fn body(request: &Request) -> Body {
            match request {
                $(Request::$variant { $($field),* } => Body::$variant(proto::$variant {
                    $($field: put!($field $(, $form)?)),*
                }.into()),)*
                Request::Scan { shard, scan } => Body::Scan(scan_body(*shard, scan)),
            }
        }

        fn request(body: Body) -> Result<Request, Fault> {
            match body {
                $(Body::$variant(body) => {
                    let read = || Ok(Request::$variant {
                        $($field: take!(body.$field $(, $form)?)),*
                    });
                    read().within(stringify!($variant))
                })*
                Body::Scan(body) => scan(body).within("Scan"),
            }
        }
    };
}

bodies! {
    Prepare { env, target, config }
    Checkpoint { env }
    ReadFile { env, name as FileName, offset, len }
    StartForward { env, target_instance }
    SourceStatus { env }
    Ship { env, ranges, max_bytes }
    Quiesce { env, revision, pause_max_ms }
    Drain { env }
    Reopen { env }
    Activate { env, source, target }
    Release { env, epoch, owner }
    Retire { env, instance }
    AbortSource { env }
    BeginTarget { env, source, source_instance, epoch, config }
    Pull { env, manifest }
    TargetStatus { env }
    Records { env, from_instance, delta, records }
    Missing { env, through }
    Verify { env, f }
    BecomeOwner { env, epoch }
    DiscardTarget { env }
    ComparePage { env, after, limit }
    Survey { shard }
    Write { shard, epoch, body, durability, conditions, deadline_ms, session }
    OpenSession { shard, session, deadline_ms }
    Get { shard, keys }
}

/// The page that is asked for has no message of its own.
fn scan_body(shard: ShardId, scan: &ScanRequest) -> proto::Scan {
    let ScanRequest {
        from,
        to,
        reverse,
        limit,
        max_bytes,
    } = scan;
    proto::Scan {
        shard: put!(&shard),
        from: put!(from),
        to: put!(to),
        reverse: *reverse,
        limit: *limit,
        max_bytes: *max_bytes,
    }
}

fn scan(body: proto::Scan) -> Result<Request, Fault> {
    Ok(Request::Scan {
        shard: take!(body.shard),
        scan: ScanRequest {
            from: take!(body.from),
            to: take!(body.to),
            reverse: body.reverse,
            limit: body.limit,
            max_bytes: body.max_bytes,
        },
    })
}

impl Wire for Request {
    type Proto = proto::Request;

    fn to_proto(&self) -> proto::Request {
        proto::Request {
            version: MESSAGE_VERSION,
            readable_from: READABLE_FROM,
            body: Some(body(self)),
        }
    }

    fn from_proto(proto: proto::Request) -> Result<Self, Fault> {
        request(proto.body.ok_or_else(Fault::missing)?)
    }
}

impl Whole for Request {
    const WHAT: &'static str = "request";
    const BODIES: &'static Shape = walk::REQUEST;
}

//! gRPC services whose messages are encoded already, each with its methods and with who may call it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use watershed_migration::messages::MAX_MESSAGE_BYTES;

use super::codec::Encoded;
use super::server::Caller;
use crate::link::BoxFuture;

/// What an answer comes to.
pub(super) type Answered = Result<Bytes, Status>;

/// Answers the calls of one service.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    /// The service's name, with its package.
    const NAME: &'static str;

    /// Checks who calls, and answers; `method` is a path: the service's name and the method's.
    fn answer(
        &self,
        method: &str,
        caller: &Caller,
        request: Bytes,
    ) -> Result<BoxFuture<'static, Answered>, Status>;
}

/// What a handler says to a method that it does not have.
pub(super) fn no_such_method() -> Status {
    Status::unimplemented("this node does not know the method; upgrade the older of both sides")
}

/// A handler as a service of the server.
#[derive(Debug, Clone)]
pub(super) struct Raw<H>(pub(super) H);

impl<H: Handler> NamedService for Raw<H> {
    const NAME: &'static str = H::NAME;
}

impl<H: Handler> tower_service::Service<http::Request<Body>> for Raw<H> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let one = OneCall {
            handler: self.0.clone(),
            method: request.uri().path().to_owned(),
        };
        let mut grpc = Grpc::new(Encoded)
            .apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), Some(MAX_MESSAGE_BYTES));
        Box::pin(async move { Ok(grpc.unary(one, request).await) })
    }
}

/// Answers one call.
struct OneCall<H> {
    handler: H,
    method: String,
}

impl<H: Handler> tower_service::Service<Request<Bytes>> for OneCall<H> {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let caller = request.extensions().get::<Caller>().cloned();
        let answer = match caller {
            Some(caller) => self
                .handler
                .answer(&self.method, &caller, request.into_inner()),
            None => Err(Status::internal("the caller is not known")),
        };
        Box::pin(async move { answer?.await.map(Response::new) })
    }
}

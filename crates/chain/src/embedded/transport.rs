//! An alloy transport that calls the chain in this process.
//!
//! No socket and no HTTP; parameters and results still pass through JSON, so a provider over it behaves
//! as over a port. Work runs on tokio's blocking threads, never on the caller's task.

use std::task::{Context, Poll};

use alloy_json_rpc::{
    ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use serde_json::Value;
use serde_json::value::to_raw_value;
use tower::Service;

use super::{Embedded, RpcError};

/// Carries an alloy provider's requests to an [`Embedded`] chain. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct EmbeddedTransport {
    chain: Embedded,
}

impl EmbeddedTransport {
    pub(crate) fn new(chain: Embedded) -> Self {
        Self { chain }
    }

    fn answer(&self, request: &SerializedRequest) -> Response {
        let params = request
            .params()
            .map_or(Ok(Value::Null), |params| serde_json::from_str(params.get()));
        let outcome = params
            .map_err(|error| RpcError::invalid_params(error.to_string()))
            .and_then(|params| self.chain.request(request.method(), params))
            .and_then(|result| {
                to_raw_value(&result)
                    .map_err(|error| RpcError::new(RpcError::INTERNAL, error.to_string()))
            });
        let payload = match outcome {
            Ok(result) => ResponsePayload::Success(result),
            Err(error) => ResponsePayload::Failure(ErrorPayload {
                code: error.code,
                message: error.message.into(),
                data: error.data.and_then(|data| to_raw_value(&data).ok()),
            }),
        };
        Response {
            id: request.id().clone(),
            payload,
        }
    }
}

impl Service<RequestPacket> for EmbeddedTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || match packet {
                RequestPacket::Single(request) => {
                    ResponsePacket::Single(transport.answer(&request))
                }
                RequestPacket::Batch(requests) => ResponsePacket::Batch(
                    requests
                        .iter()
                        .map(|request| transport.answer(request))
                        .collect(),
                ),
            });
            work.await.map_err(TransportErrorKind::custom)
        })
    }
}

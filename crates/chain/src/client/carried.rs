//! JSON-RPC that somebody else carries: a line between two devices, or a door of this machine.
//!
//! The carrier moves bytes and bounds them; what they mean is read here. What it says of a failure decides whether the
//! client asks again.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use futures::future::BoxFuture;
use tower::Service;

/// Why a request did not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// The chain cannot be reached now, or is too busy. Asking again may help.
    #[error("{0}")]
    Away(String),
    /// The request or its reply breaks a bound, or the other side does not follow the protocol. Asking again does not
    /// help.
    #[error("{0}")]
    Refused(String),
}

/// Brings the body of a JSON-RPC request to a chain, and the body of the reply back.
pub trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// Carries one body, a call or a batch. Cancel-safe: a request that was sent may be done all the same.
    fn carry(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, CarryError>>;
}

/// A transport for alloy over a [`Carrier`].
#[derive(Debug, Clone)]
pub(super) struct Carried(pub(super) Arc<dyn Carrier>);

async fn exchange(
    carrier: Arc<dyn Carrier>,
    packet: RequestPacket,
) -> Result<ResponsePacket, TransportError> {
    let request = serde_json::to_vec(&packet).map_err(TransportError::ser_err)?;
    let reply = carrier.carry(request).await.map_err(|error| match error {
        CarryError::Away(reason) => TransportErrorKind::custom_str(&reason),
        CarryError::Refused(reason) => TransportErrorKind::non_retryable_str(&reason),
    })?;
    serde_json::from_slice(&reply).map_err(|err| TransportError::DeserError {
        err,
        text: String::new(),
    })
}

impl Service<RequestPacket> for Carried {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        Box::pin(exchange(Arc::clone(&self.0), packet))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hearth_protocol::id::ChainId;

    use super::*;
    use crate::client::{ChainClient, ErrorKind, HttpOptions};
    use crate::scripted::TestEnvironment;

    /// Answers each request with the next of some replies, and with the last from then on.
    #[derive(Debug)]
    struct Script {
        replies: Vec<Result<&'static str, CarryError>>,
        asked: AtomicUsize,
    }

    impl Carrier for Script {
        fn carry(&self, _request: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, CarryError>> {
            let at = self.asked.fetch_add(1, Ordering::SeqCst);
            let reply = self.replies[at.min(self.replies.len() - 1)].clone();
            Box::pin(async move { reply.map(|text| text.as_bytes().to_vec()) })
        }
    }

    fn client(replies: Vec<Result<&'static str, CarryError>>) -> (ChainClient, Arc<Script>) {
        let asked = AtomicUsize::new(0);
        let script = Arc::new(Script { replies, asked });
        let environment = Arc::new(TestEnvironment::default());
        let options = HttpOptions::default();
        let client = ChainClient::carried(script.clone(), ChainId(7), options, environment);
        (client, script)
    }

    #[tokio::test]
    async fn a_chain_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
        let away = Err(CarryError::Away("away".to_owned()));
        let (right, _) = client(vec![away, Ok(r#"{"jsonrpc":"2.0","id":0,"result":"0x7"}"#)]);
        right.connect().await.unwrap();
        let (refused, script) = client(vec![Err(CarryError::Refused("too long".to_owned()))]);
        let error = refused.connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(script.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_host_that_serves_another_chain_or_nonsense_is_not_believed() {
        let (other, _) = client(vec![Ok(r#"{"jsonrpc":"2.0","id":0,"result":"0x1"}"#)]);
        let error = other.head().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongChain);
        let (nonsense, _) = client(vec![Ok("nonsense")]);
        let error = nonsense.head().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

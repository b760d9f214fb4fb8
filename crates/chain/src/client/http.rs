//! JSON-RPC over HTTP, with a bound on everything a stranger's endpoint controls.
//!
//! alloy's own HTTP transport reads a reply of any size; this one stops at a limit, follows no redirect (a redirect
//! could point into the household's network), and uses no proxy from the environment. It does not retry: that is the
//! client's.

use std::{
    sync::Once,
    task::{Context, Poll},
    time::Duration,
};

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use reqwest::{Url, header, redirect};
use tower::Service;

use super::{error::ChainError, retry::RetryPolicy};

/// The largest answer that is read by default, in bytes.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 32 << 20;

/// The part of an error page that is kept for the message, in bytes.
const MAX_ERROR_PAGE_BYTES: usize = 1 << 10;

/// How an HTTP endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// The time one try may take, from connecting to the last byte.
    pub timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub max_response_bytes: usize,
    /// When and how often a failed try is repeated.
    pub retry: RetryPolicy,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            max_response_bytes: DEFAULT_MAX_RESPONSE_BYTES,
            retry: RetryPolicy::default(),
        }
    }
}

/// An alloy transport over HTTP whose answers are bounded.
#[derive(Clone, Debug)]
pub struct BoundedHttp {
    client: reqwest::Client,
    url: Url,
    max_response_bytes: usize,
}

impl BoundedHttp {
    /// Prepares connections to `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ChainError::Setup`] if the TLS provider or the client cannot be made.
    pub fn new(url: Url, options: &HttpOptions) -> Result<Self, ChainError> {
        install_tls_provider();
        let client = reqwest::Client::builder()
            .timeout(options.timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| ChainError::Setup {
                reason: words(&error),
            })?;
        Ok(Self {
            client,
            url,
            max_response_bytes: options.max_response_bytes,
        })
    }

    async fn exchange(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let response = self
            .client
            .post(self.url.clone())
            .json(&request)
            .send()
            .await
            .map_err(|error| TransportErrorKind::custom_str(&words(&error)))?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let limit = if status.is_success() {
            self.max_response_bytes
        } else {
            self.max_response_bytes.min(MAX_ERROR_PAGE_BYTES)
        };
        let body = read_bounded(response, limit).await;
        if !status.is_success() {
            let code = status.as_u16();
            // A JSON-RPC error may travel with another HTTP status than 200; it says more than the status, except
            // where the status says "later".
            if !matches!(code, 408 | 425 | 429 | 503)
                && let Some(answer) = body.ok().and_then(|body| error_answer(&body))
            {
                return Ok(answer);
            }
            return Err(TransportErrorKind::http_error_with_retry_after(
                code,
                String::new(),
                retry_after,
            ));
        }
        let body = body?;
        serde_json::from_slice(&body).map_err(|error| TransportError::DeserError {
            err: error,
            text: String::new(),
        })
    }
}

/// A JSON-RPC error object in the body of a failed HTTP request.
fn error_answer(body: &[u8]) -> Option<ResponsePacket> {
    let answer: ResponsePacket = serde_json::from_slice(body).ok()?;
    answer.is_error().then_some(answer)
}

/// Reads a body up to `limit` bytes, whatever length the header announced.
async fn read_bounded(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Vec<u8>, TransportError> {
    let too_large = || TransportErrorKind::non_retryable_str(&format!("more than {limit} bytes"));
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| TransportErrorKind::custom_str(&words(&error)))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
}

/// `Retry-After` in seconds; the form with a date is read as absent, and the usual backoff applies.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// An error with its causes, without the address: endpoints carry keys in it, and this text goes to logs.
fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let kind = if error.is_connect() {
        "could not connect"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the connection failed"
    };
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    cause.map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {cause}"))
}

/// Makes ring the TLS provider of this process, once; a provider that another part installed first stays.
fn install_tls_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // The only failure is that a provider is installed already, which serves as well.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().exchange(request))
    }
}

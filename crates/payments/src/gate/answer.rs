//! The gate's own answers: the 402, the statements, and everything that can be wrong.

use std::fmt;

use alloy_primitives::Address;
use axum::body::Body;
use axum::response::Response;
use hearth_api::error::ErrorBody;
use hearth_protocol::channel::provider::PaymentStatement;
use hearth_protocol::id::ChainId;
use hearth_protocol::x402::{
    ErrorCode, Extensions, PAYMENT_IDENTIFIER, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PaymentRequired,
    PaymentRequirements, ResourceInfo, SettleResponse, Version, encode_header,
    payment_identifier_offer,
};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, TE, TRAILER, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::error;

/// A request that is not served.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    body: ErrorBody,
    header: Option<(&'static str, String)>,
}

impl Problem {
    pub(super) fn status(status: StatusCode, message: impl Into<String>) -> Self {
        let code = status
            .canonical_reason()
            .unwrap_or("error")
            .to_lowercase()
            .replace(' ', "_");
        Self {
            status,
            body: ErrorBody::new(code, message),
            header: None,
        }
    }

    /// A payment that cannot be read.
    pub(super) fn malformed(code: ErrorCode, why: &dyn fmt::Display) -> Self {
        let message = format!("{} ({why})", code.message());
        Self {
            status: StatusCode::BAD_REQUEST,
            body: ErrorBody::new(code.as_str(), message),
            header: None,
        }
    }

    pub(super) fn conflict(message: &str) -> Self {
        Self::status(StatusCode::CONFLICT, message)
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        let message = format!("the request's body is longer than {bytes} bytes");
        Self::status(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn bad_gateway() -> Self {
        let message = "the service broke off its reply; nothing was charged";
        Self::status(StatusCode::BAD_GATEWAY, message)
    }

    pub(super) fn internal(cause: &dyn std::error::Error) -> Self {
        error!(%cause, "a payment could not be handled");
        let message = "the payment could not be handled; nothing was promised, try again later";
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A payment that was refused or failed for good: the reason is in the settlement header.
    pub(super) fn not_settled(network: ChainId, payer: Option<Address>, code: ErrorCode) -> Self {
        let response = SettleResponse::failure(network, payer, code);
        Self {
            status: StatusCode::PAYMENT_REQUIRED,
            body: ErrorBody::new(code.as_str(), code.message()),
            header: encode_header(&response)
                .ok()
                .map(|value| (PAYMENT_RESPONSE, value)),
        }
    }

    /// The request costs money, or more than was offered.
    pub(super) fn payment_required(
        resource: ResourceInfo,
        accepts: Vec<PaymentRequirements>,
        error: Option<ErrorCode>,
    ) -> Self {
        let mut extensions = Extensions::new();
        extensions.insert(PAYMENT_IDENTIFIER.to_owned(), payment_identifier_offer());
        let required = PaymentRequired {
            x402_version: Version,
            error: Some(
                error
                    .map_or("payment required", ErrorCode::as_str)
                    .to_owned(),
            ),
            resource,
            accepts,
            extensions,
        };
        let body = match error {
            Some(code) => ErrorBody::new(code.as_str(), code.message()),
            None => ErrorBody::new(
                "payment_required",
                "this costs money: the PAYMENT-REQUIRED header says how much, `hearth pay` pays it",
            ),
        };
        match encode_header(&required) {
            Ok(value) => Self {
                status: StatusCode::PAYMENT_REQUIRED,
                body,
                header: Some((PAYMENT_REQUIRED, value)),
            },
            Err(_) => Self::status(
                StatusCode::URI_TOO_LONG,
                "the request's address is too long",
            ),
        }
    }

    pub(super) fn into_response(self) -> Response {
        let json = serde_json::to_vec(&self.body).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        keep_nowhere(headers);
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.insert(name, value);
        }
        response
    }
}

/// A reply depends on who paid for it: no cache may give it to anybody else, whatever the service
/// behind the price says of it.
fn keep_nowhere(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(VARY, HeaderValue::from_static("payment-signature"));
}

fn put(headers: &mut HeaderMap, response: &SettleResponse) {
    match encode_header(response).map(HeaderValue::try_from) {
        Ok(Ok(value)) => {
            headers.insert(PAYMENT_RESPONSE, value);
        }
        _ => error!("a settlement response does not fit into a header"),
    }
}

/// Puts a channel's statement into the headers of a reply.
pub(super) fn state_batch(
    head: &mut http::response::Parts,
    network: ChainId,
    payer: Address,
    statement: &PaymentStatement,
) {
    keep_nowhere(&mut head.headers);
    put(&mut head.headers, &statement.response(network, payer));
}

/// Puts a one-off payment's statement into the headers of a reply.
pub(super) fn state_exact(
    head: &mut http::response::Parts,
    accepted: &PaymentRequirements,
    payer: Address,
    transaction: String,
) {
    let mut response = SettleResponse::success(accepted.network, payer);
    response.transaction = transaction;
    response.amount = Some(accepted.amount.to_string());
    keep_nowhere(&mut head.headers);
    put(&mut head.headers, &response);
}

/// The reply to a refund.
pub(super) fn refunded(network: ChainId, payer: Address, statement: &PaymentStatement) -> Response {
    let response = statement.response(network, payer);
    let json = serde_json::to_vec(&response).unwrap_or_default();
    let mut reply = Response::new(Body::from(json));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    keep_nowhere(reply.headers_mut());
    put(reply.headers_mut(), &response);
    reply
}

/// Whether the payer reads trailers.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        })
}

/// Says in the headers that the statement will follow in the trailers.
pub(super) fn announce_trailers(headers: &mut HeaderMap) {
    headers.insert(TRAILER, HeaderValue::from_static(PAYMENT_RESPONSE));
}

/// The trailers with the true charge of a stream.
pub(super) fn trailers(
    network: ChainId,
    payer: Address,
    statement: &PaymentStatement,
) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    put(&mut trailers, &statement.response(network, payer));
    trailers
}

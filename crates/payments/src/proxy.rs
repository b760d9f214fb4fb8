//! A reverse proxy to one HTTP service, for services that are sold without being changed.
//!
//! Replies stream through. The path that is priced is the path that is asked of the service, in its
//! one form ([`path`]). The service never sees the payment; it may say what a request really cost in
//! the header [`CHARGE`], in whole tokens as the price is given, which the payer never sees and
//! cannot send. A figure that cannot be meant, because it is not an amount or above the price,
//! counts as none: the price is charged, and the log says so (spec: payments, section 9).

pub mod path;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hearth_api::error::ErrorBody;
use hearth_causes::WithCauses;
use hearth_doors::read_body;
use hearth_protocol::money::{Amount, AmountError};
use hearth_protocol::x402::PAYMENT_SIGNATURE;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use thiserror::Error;
use tracing::warn;
use url::Url;

use self::path::canonical;
use crate::gate::{Gate, Meter, PaidLayer, REQUEST_BYTES_MAX};

/// By which a service says what a request cost, in whole tokens, such as `0.0004`.
pub const CHARGE: HeaderName = HeaderName::from_static("hearth-charge");

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Headers by which a client could have the service answer for another address than the one that was
/// priced, take it for another client, or speak for the service or for this door.
const NOT_FOR_SERVICES: [HeaderName; 13] = [
    CHARGE,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED,
    HOST,
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-http-host-override"),
    HeaderName::from_static("x-real-ip"),
];
/// What further headers of that kind begin with.
const NOT_FOR_SERVICES_FROM: [&str; 4] = ["x-envoy-", "x-forwarded-", "x-original-", "x-rewrite-"];
/// How long a body may take that the gate has read already.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The way to a service.
#[derive(Debug, Clone)]
pub struct Upstream {
    base: Url,
    http: reqwest::Client,
    decimals: u8,
}

/// Why what a service says of its cost is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum ChargeFault {
    #[error("it comes more than once")]
    Repeated,
    #[error("it is not a text")]
    NotText,
    #[error("it is not a number of whole tokens")]
    NotAnAmount(#[from] AmountError),
    #[error("it is above the price")]
    AbovePrice,
}

impl Upstream {
    /// The service at `base`; the path and query of each request are put in place of its own. It
    /// states what requests cost in whole tokens of `decimals` decimals.
    pub fn new(base: Url, http: reqwest::Client, decimals: u8) -> Self {
        Self {
            base,
            http,
            decimals,
        }
    }

    /// Everything goes to the service whose path is a plain one, and that `gate` lets through.
    pub fn router(self, gate: Gate) -> Router {
        Router::new()
            .fallback(forward)
            .with_state(self)
            .layer(PaidLayer(Arc::new(gate)))
            .layer(middleware::from_fn(plain))
    }

    /// Where a request goes; `None` where that would be another path than the one that was priced.
    fn target(&self, uri: &Uri) -> Option<Url> {
        let mut target = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/').to_owned();
        let path = format!("{prefix}{}", canonical(uri.path()).ok()?);
        target.set_path(&path);
        target.set_query(uri.query());
        (target.path() == path).then_some(target)
    }
}

/// Drops what is not for the other side, including what `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Drops what a client may not tell the service.
fn for_service(mut headers: HeaderMap) -> HeaderMap {
    // Some services read an underscore as a hyphen.
    let is_meant = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        let is_one = NOT_FOR_SERVICES.iter().any(|known| known.as_str() == name);
        is_one
            || NOT_FOR_SERVICES_FROM
                .iter()
                .any(|start| name.starts_with(start))
    };
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_meant(name))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers
}

/// Brings the target of a request into its one form, before it is priced. One that could be read in
/// two ways is refused.
async fn plain(mut request: Request, next: Next) -> Response {
    let uri = request.uri();
    let plain = canonical(uri.path()).map_err(|fault| fault.to_string());
    let plain = plain.and_then(|path| {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        target.parse().map_err(|_| "it cannot be read".to_owned())
    });
    match plain.map(|target: PathAndQuery| Uri::from(target)) {
        Ok(uri) => {
            *request.uri_mut() = uri;
            next.run(request).await
        }
        Err(fault) => ambiguous(&fault),
    }
}

fn ambiguous(fault: &str) -> Response {
    let message =
        format!("the path could be read in two ways ({fault}); send it in its plain form");
    let body = ErrorBody::new("ambiguous_path", message);
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let meter = request.extensions().get::<Meter>().cloned();
    let (parts, body) = request.into_parts();
    let Some(target) = upstream.target(&parts.uri) else {
        return ambiguous("it changes on its way");
    };
    let mut headers = parts.headers;
    strip(&mut headers);
    headers.remove(PAYMENT_SIGNATURE);
    let headers = for_service(headers);
    // Whole, so that its length is stated by this side, whatever the client stated.
    let Ok(body) = read_body(body, REQUEST_BYTES_MAX, BODY_TIMEOUT).await else {
        return (StatusCode::BAD_REQUEST, "the request's body broke off").into_response();
    };
    let sent = upstream
        .http
        .request(parts.method, target)
        .headers(headers)
        .body(body)
        .send()
        .await;
    match sent {
        Ok(reply) if reply.status().is_informational() => unreachable_service(),
        Ok(reply) => receive(reply, meter.as_ref(), upstream.decimals),
        Err(error) => {
            warn!(error = %error.without_url().with_causes(), "the service behind the price cannot be reached");
            unreachable_service()
        }
    }
}

fn receive(reply: reqwest::Response, meter: Option<&Meter>, decimals: u8) -> Response {
    let (mut head, body) = http::Response::<reqwest::Body>::from(reply).into_parts();
    if let Some(meter) = meter {
        match stated_charge(&head.headers, decimals, meter.ceiling) {
            Ok(Some(amount)) => meter.set(amount),
            Ok(None) => {}
            Err(fault) => {
                warn!(error = %fault.with_causes(), "the service's {CHARGE} is not believed; the price is charged");
            }
        }
    }
    strip(&mut head.headers);
    head.headers.remove(&CHARGE);
    Response::from_parts(head, Body::new(WithoutTrailers(body)))
}

/// The body of a service's reply, whose trailers could be taken for a statement of what was charged.
struct WithoutTrailers(reqwest::Body);

impl http_body::Body for WithoutTrailers {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        loop {
            match ready!(Pin::new(&mut self.0).poll_frame(context)) {
                Some(Ok(frame)) if frame.is_trailers() => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// What the service says that the request cost; `None` where it says nothing.
fn stated_charge(
    headers: &HeaderMap,
    decimals: u8,
    price: Amount,
) -> Result<Option<Amount>, ChargeFault> {
    let mut values = headers.get_all(CHARGE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ChargeFault::Repeated);
    }
    let text = value.to_str().map_err(|_| ChargeFault::NotText)?;
    let amount = Amount::parse_decimal(text.trim(), decimals)?;
    if amount > price {
        return Err(ChargeFault::AbovePrice);
    }
    Ok(Some(amount))
}

fn unreachable_service() -> Response {
    let message = "the service behind this price cannot be reached; nothing was charged";
    (
        StatusCode::BAD_GATEWAY,
        Json(ErrorBody::new("bad_gateway", message)),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stated(values: &[&[u8]]) -> Result<Option<Amount>, ChargeFault> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CHARGE, HeaderValue::from_bytes(value).unwrap());
        }
        stated_charge(&headers, 6, Amount::new(10_000))
    }

    #[test]
    fn a_cost_is_read_in_whole_tokens_up_to_the_price() {
        assert_eq!(stated(&[]), Ok(None));
        for (text, units) in [
            ("0", 0),
            ("0.000001", 1),
            (" 0.0004 ", 400),
            ("0.01", 10_000),
        ] {
            assert_eq!(
                stated(&[text.as_bytes()]),
                Ok(Some(Amount::new(units))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_cost_that_cannot_be_meant_is_a_fault_of_its_own() {
        assert_eq!(stated(&[b"0.010001"]), Err(ChargeFault::AbovePrice));
        assert_eq!(stated(&[b"0", b"0"]), Err(ChargeFault::Repeated));
        assert_eq!(stated(&[b"\xff"]), Err(ChargeFault::NotText));
        for text in ["", "-1", "1e-3", "0,5", "0.0000001", &"9".repeat(60)] {
            assert!(
                matches!(stated(&[text.as_bytes()]), Err(ChargeFault::NotAnAmount(_))),
                "{text}"
            );
        }
    }
}

//! A reverse proxy to one HTTP service, for services that are sold without being changed.
//!
//! Requests and replies stream through. The service never sees the payment; it may say what a
//! request cost in the header `hearth-charge` (atomic units, the price at most), which the payer
//! never sees.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, Router};
use hearth_api::error::ErrorBody;
use hearth_protocol::x402::PAYMENT_SIGNATURE;
use http::header::{
    CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use tracing::warn;
use url::Url;

use crate::payments::gate::Meter;

/// By which a service says what a request cost.
pub const CHARGE: HeaderName = HeaderName::from_static("hearth-charge");

/// Headers that belong to one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The way to a service.
#[derive(Debug, Clone)]
pub struct Upstream {
    base: Url,
    http: reqwest::Client,
}

impl Upstream {
    /// The service at `base`; the path and query of each request are put in place of its own.
    pub fn new(base: Url, http: reqwest::Client) -> Self {
        Self { base, http }
    }

    /// Everything goes to the service.
    pub fn router(self) -> Router {
        Router::new().fallback(forward).with_state(self)
    }

    fn target(&self, request: &Request) -> Url {
        let mut target = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/').to_owned();
        target.set_path(&format!("{prefix}{}", request.uri().path()));
        target.set_query(request.uri().query());
        target
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

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let meter = request.extensions().get::<Meter>().cloned();
    let target = upstream.target(&request);
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    strip(&mut headers);
    headers.remove(HOST);
    headers.remove(PAYMENT_SIGNATURE);
    let sent = upstream
        .http
        .request(parts.method, target)
        .headers(headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await;
    match sent {
        Ok(reply) => receive(reply, meter.as_ref()),
        Err(error) => {
            warn!(error = %error.without_url(), "the service behind the price cannot be reached");
            unreachable_service()
        }
    }
}

fn receive(reply: reqwest::Response, meter: Option<&Meter>) -> Response {
    let (mut head, body) = http::Response::<reqwest::Body>::from(reply).into_parts();
    strip(&mut head.headers);
    let charge = head.headers.remove(&CHARGE);
    if let (Some(charge), Some(meter)) = (charge, meter) {
        match charge.to_str().ok().and_then(|charge| charge.parse().ok()) {
            Some(amount) => meter.set(amount),
            None => warn!("the service's hearth-charge is no amount; the price is charged"),
        }
    }
    Response::from_parts(head, Body::new(body))
}

fn unreachable_service() -> Response {
    use axum::response::IntoResponse;
    let message = "the service behind this price cannot be reached; nothing was charged";
    (
        StatusCode::BAD_GATEWAY,
        Json(ErrorBody::new("bad_gateway", message)),
    )
        .into_response()
}

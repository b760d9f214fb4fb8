//! A reverse proxy to one HTTP service, for services that are sold without being changed.
//!
//! Requests and replies stream through. The service never sees the payment; it may say what a
//! request really cost in the header [`CHARGE`], in whole tokens as the price is given, which the
//! payer never sees. A figure that cannot be meant, because it is no amount or above the price,
//! counts as none: the price is charged, and the log says so (spec: payments, section 9).

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, Router};
use hearth_api::error::ErrorBody;
use hearth_protocol::money::{Amount, AmountError};
use hearth_protocol::x402::PAYMENT_SIGNATURE;
use http::header::{
    CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use thiserror::Error;
use tracing::warn;
use url::Url;

use crate::payments::gate::Meter;

/// By which a service says what a request cost, in whole tokens, such as `0.0004`.
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
    decimals: u8,
}

/// Why what a service says of its cost is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum ChargeFault {
    #[error("it comes more than once")]
    Repeated,
    #[error("it is no text")]
    NotText,
    #[error("it is no number of whole tokens: {0}")]
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
        Ok(reply) => receive(reply, meter.as_ref(), upstream.decimals),
        Err(error) => {
            warn!(error = %error.without_url(), "the service behind the price cannot be reached");
            unreachable_service()
        }
    }
}

fn receive(reply: reqwest::Response, meter: Option<&Meter>, decimals: u8) -> Response {
    let (mut head, body) = http::Response::<reqwest::Body>::from(reply).into_parts();
    strip(&mut head.headers);
    if let Some(meter) = meter {
        match stated_charge(&head.headers, decimals, meter.ceiling) {
            Ok(Some(amount)) => meter.set(amount),
            Ok(None) => {}
            Err(fault) => {
                warn!(%fault, "the service's {CHARGE} is not believed; the price is charged");
            }
        }
    }
    head.headers.remove(&CHARGE);
    Response::from_parts(head, Body::new(body))
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
    use axum::response::IntoResponse;
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

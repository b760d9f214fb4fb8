//! The same surface sold to anyone by x402: what a request may cost, and what it did cost.
//!
//! A request is priced from its own bytes, so that the price is the same when it comes again with
//! the payment, and whoever pays can compute it. A token stands for at least one byte of the text it
//! is made of, and JSON never makes text shorter: the request's length bounds the tokens of its
//! prompt, with an allowance for what the template adds. The bound is loose (text has about four
//! bytes a token), but only the reservation is: charged is what was read and generated.
//!
//! Counting with the tokenizer instead would make every 402 cost the provider the rendering of a
//! prompt that nobody has paid for yet.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use hearth_payments::gate::{Gate, Meter, PaidLayer, UNPAID_BYTES_MAX};
use hearth_payments::offer::{Price, Pricing};
use hearth_protocol::answer;
use hearth_protocol::answer::request::OUTPUT_TOKENS_MAX;
use hearth_protocol::audience::Openness;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::x402::PAYMENT_SIGNATURE;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::Body as _;
use serde::Deserialize;
use tokio::sync::watch;

use super::failure::{Failure, Form};
use super::keys::{ApiKey, BUYER};
use super::{At, Door, Surface, answer_routes, finish, listing, request, wrong_method};
use crate::answers::Tier;

/// The output that is paid for where a request does not say how much it wants, in tokens.
pub const OUTPUT_TOKENS_DEFAULT: u32 = 1_024;
/// What a template may add to a prompt, in tokens.
const TEMPLATE_TOKENS: u32 = 256;
/// When to come again while the owner needs the device, in seconds.
const CLOSED_RETRY_S: u32 = 30;

/// A model that is sold.
#[derive(Debug, Clone)]
pub struct ForSale {
    /// What it costs, one entry an asset.
    pub prices: Vec<answer::Price>,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
}

/// What models cost, by name, and how many are answered.
#[derive(Debug, Clone)]
pub struct PriceTable {
    /// The models that are sold; others are not there for buyers.
    pub models: BTreeMap<String, ForSale>,
    /// For how many requests like the one that is priced the quoted ceiling leaves room: clients sign one voucher for
    /// all that they ask at the same time. At least 1.
    pub requests_per_voucher: u32,
    /// How many answers are in progress at once for all buyers together.
    pub answers_at_once: u32,
    /// Who may use the device now. Buyers may where everybody may.
    pub open: watch::Receiver<Openness>,
}

impl PriceTable {
    /// How many tokens an answer has at most, if it was asked for `asked`.
    pub(super) fn output_tokens(&self, asked: Option<u32>) -> u32 {
        asked
            .unwrap_or(OUTPUT_TOKENS_DEFAULT)
            .min(OUTPUT_TOKENS_MAX)
    }

    /// By what an answer of `model` is charged.
    pub(super) fn tariff(&self, model: &str, meter: Meter) -> Option<Tariff> {
        let price = self.models.get(model)?.price(&meter.asset)?;
        Some(Tariff { price, meter })
    }

    /// The least that anything costs: what is quoted where nothing is asked for.
    fn least(&self, asset: &AssetId) -> Option<Price> {
        let prices = self.models.values().filter_map(|model| model.price(asset));
        let least = prices.map(|price| price.cost(1, 1)).min();
        least.map(|least| self.quoted(least))
    }

    fn of_request(&self, asset: &AssetId, path: &str, body: &Bytes) -> Option<Price> {
        let sought: Sought = serde_json::from_slice(body).ok()?;
        let model = self.models.get(&sought.model)?;
        let prompt = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let prompt = prompt.saturating_add(TEMPLATE_TOKENS);
        let output = self.output_tokens(sought.output_tokens(path));
        let context = model.context_tokens;
        let price = model.price(asset)?;
        Some(self.quoted(price.cost(prompt.min(context), output.min(context))))
    }

    fn quoted(&self, need: Amount) -> Price {
        let requests = u128::from(self.requests_per_voucher);
        Price {
            need,
            ceiling: need.saturating_mul(requests),
        }
    }
}

impl ForSale {
    fn price(&self, asset: &AssetId) -> Option<answer::Price> {
        self.prices
            .iter()
            .find(|price| price.asset == *asset)
            .copied()
    }
}

/// What must be known of a request to price it.
#[derive(Deserialize)]
struct Sought {
    model: String,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    max_output_tokens: Option<u64>,
}

impl Sought {
    /// The most tokens that are asked for, by the name that the API at `path` has for it.
    fn output_tokens(&self, path: &str) -> Option<u32> {
        let asked = match path {
            "/v1/chat/completions" => self.max_completion_tokens.or(self.max_tokens),
            "/v1/responses" => self.max_output_tokens,
            _ => self.max_tokens,
        };
        asked.map(|asked| u32::try_from(asked).unwrap_or(u32::MAX))
    }
}

/// Prices requests by a table.
#[derive(Debug)]
struct ByTokens(Arc<PriceTable>);

impl Pricing for ByTokens {
    fn needs_body(&self) -> bool {
        true
    }

    fn price(&self, asset: &AssetId, request: &Parts, body: &Bytes) -> Option<Price> {
        if request.method == Method::POST {
            self.0.of_request(asset, request.uri.path(), body)
        } else {
            // Clients look for the way to pay, and for refunds, with a GET.
            self.0.least(asset)
        }
    }
}

impl At {
    /// Whether a model can be asked at this door.
    pub(super) fn sells(&self, model: &str) -> bool {
        let prices = self.prices.as_ref();
        prices.is_none_or(|prices| prices.models.contains_key(model))
    }

    /// Whether others may use the device now.
    fn is_open(&self) -> bool {
        let prices = self.prices.as_ref();
        prices.is_none_or(|prices| prices.open.borrow().admits(false))
    }
}

/// The owner's other programs come first.
fn closed() -> Failure {
    let message = format!(
        "the owner of this device needs it now; ask again in {CLOSED_RETRY_S} s, or ask another"
    );
    let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "closed", message);
    failure.retry_after(CLOSED_RETRY_S)
}

/// What one answer is charged by.
#[derive(Debug, Clone)]
pub(super) struct Tariff {
    price: answer::Price,
    meter: Meter,
}

impl Tariff {
    /// The question is taken, and nothing is delivered yet: a stream that fails now costs nothing.
    pub(super) fn begins(&self) {
        self.meter.set(Amount::ZERO);
    }

    /// So much was delivered.
    pub(super) fn delivered(&self, prompt_tokens: u32, output_tokens: u32) {
        let cost = self.price.cost(prompt_tokens, output_tokens);
        self.meter.set(cost.min(self.meter.ceiling));
    }

    /// What the answer is charged, as far as it was delivered.
    pub(super) fn charged(&self) -> Option<(AssetId, Amount)> {
        let amount = self
            .meter
            .reading()
            .filter(|amount| *amount > Amount::ZERO)?;
        Some((self.meter.asset, amount))
    }
}

/// The surface behind a price: whoever pays may ask the models of `prices`, on this device only.
/// `gate` makes the gate around the pricing that it is given.
pub fn sold(
    surface: &Arc<Surface>,
    prices: PriceTable,
    gate: impl FnOnce(Box<dyn Pricing>) -> Gate,
) -> Router {
    let prices = Arc::new(prices);
    // What is bought here is answered here: it is not bought elsewhere to be sold again.
    let buyer = ApiKey {
        tier: Tier::Device,
        answers_at_once: prices.answers_at_once,
        ..ApiKey::new(BUYER, "")
    };
    let at = At {
        surface: Arc::clone(surface),
        door: Arc::new(Door::paid(buyer)),
        prices: Some(Arc::clone(&prices)),
    };
    let gate = gate(Box::new(ByTokens(prices)));
    let paid = answer_routes()
        // Behind the price as well: clients look for refunds with a GET.
        .method_not_allowed_fallback(wrong_method)
        .layer(PaidLayer(Arc::new(gate)))
        .layer(middleware::from_fn_with_state(at.clone(), check_first));
    let router = Router::new()
        .route("/health", get(listing::health))
        .route("/openapi.json", get(listing::openapi))
        .route("/v1/models", get(listing::models))
        .route("/v1/models/{*id}", get(listing::model))
        .merge(paid);
    finish(router, at)
}

/// Refuses what could not be served anyway, before anybody pays for it.
async fn check_first(State(at): State<At>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let form = Form::of(request.uri().path());
    if !at.is_open() {
        return closed().into_response_as(form);
    }
    let (parts, body) = request.into_parts();
    let has_payment = parts.headers.contains_key(PAYMENT_SIGNATURE);
    if !has_payment && body.size_hint().lower() > UNPAID_BYTES_MAX as u64 {
        return Failure::too_large(UNPAID_BYTES_MAX).into_response_as(form);
    }
    let bytes = match request::bytes(body).await {
        Ok(bytes) => bytes,
        Err(failure) => return failure.into_response_as(form),
    };
    match request::parse::<Sought>(&bytes) {
        Ok(sought) if at.sells(&sought.model) => {
            next.run(Request::from_parts(parts, Body::from(bytes)))
                .await
        }
        Ok(sought) => Failure::no_model(&sought.model).into_response_as(form),
        Err(failure) => failure.into_response_as(form),
    }
}

impl fmt::Debug for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sought")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asset() -> AssetId {
        "eip155:402402/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E"
            .parse()
            .unwrap()
    }

    fn table() -> PriceTable {
        let price = answer::Price {
            asset: asset(),
            per_million_prompt: Amount::new(1_000_000),
            per_million_output: Amount::new(10_000_000),
            floor: Amount::new(3),
        };
        let model = ForSale {
            prices: vec![price],
            context_tokens: 4_096,
        };
        PriceTable {
            models: [("m".to_owned(), model)].into(),
            requests_per_voucher: 3,
            answers_at_once: 1,
            open: watch::Sender::new(Openness::Everyone).subscribe(),
        }
    }

    fn need(path: &str, body: &str) -> Option<u128> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let price = table().of_request(&asset(), path, &body);
        price.map(|price| price.need.units())
    }

    #[test]
    fn a_request_is_priced_by_its_length_and_the_tokens_that_it_asks_for() {
        let chat = "/v1/chat/completions";
        let body = r#"{"model":"m","max_tokens":10}"#;
        let length = body.len() as u128;
        assert_eq!(need(chat, body), Some(length + 256 + 100));
        let both = r#"{"model":"m","max_tokens":10,"max_completion_tokens":20}"#;
        assert_eq!(need(chat, both), Some(both.len() as u128 + 256 + 200));
        let other = r#"{"model":"m","max_tokens":10}"#;
        let unsaid = need("/v1/responses", other).unwrap();
        assert_eq!(
            unsaid,
            length + 256 + 10_240,
            "the field of another API does not count"
        );
    }

    #[test]
    fn nothing_costs_more_than_the_context_can_hold() {
        let body = format!(
            r#"{{"model":"m","max_tokens":1000000000,"x":"{}"}}"#,
            "y".repeat(9_000)
        );
        assert_eq!(need("/v1/messages", &body), Some(4_096 + 40_960));
    }

    #[test]
    fn what_is_not_sold_has_no_price() {
        assert_eq!(need("/v1/messages", r#"{"model":"other"}"#), None);
        assert_eq!(need("/v1/messages", "no json"), None);
        let other: AssetId = "eip155:1/erc20:0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E"
            .parse()
            .unwrap();
        assert_eq!(table().least(&other), None);
        let least = table().least(&asset()).unwrap();
        assert_eq!(
            (least.need, least.ceiling),
            (Amount::new(11), Amount::new(33))
        );
    }
}

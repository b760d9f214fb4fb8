//! The gate: a tower layer that puts any HTTP service behind a price (spec: payments, section 9).
//!
//! A request without a payment gets a 402 that says what it costs. One with a payment is checked,
//! admitted, handed to the service, and charged what the service says it cost ([`Meter`]) or the
//! price. A reply of 400 and above costs nothing and carries no statement.
//!
//! Replies of known and moderate length are held until they are complete, and charged before
//! their headers leave. Streams leave at once: their headers state the most that the charge can
//! become, the charge follows their last byte, and a payer that asked for trailers gets the true
//! figure there. A payer that goes away is charged what the service had said by then.

mod answer;
mod body;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use hearth_doors::{BodyError, read_body};
use hearth_environment::Environment;
use hearth_protocol::channel::provider::Quote;
use hearth_protocol::channel::{Terms, check};
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchPayload, ErrorCode, ExactPayload, PAYMENT_SIGNATURE, PaymentPayload, PaymentRequirements,
    Scheme, decode_header, payment_identifier,
};
use http::StatusCode;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};

use super::cashier::{Cashier, Tendered};
use super::desk::{Admission, Alongside, Charged, Desk, Refusal, Ticket};
use super::offer::{AcceptedAsset, Price, Pricing, resource};
use super::replies::{Known, Replies, Slot};
use answer::Problem;
use body::{Charging, MeteredBody};

/// The longest request body that is read for a price or a fingerprint, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// The longest body that is read to say what it costs, where nothing is paid yet, in bytes.
pub const UNPAID_BYTES_MAX: usize = 1 << 20;
/// How long a request's body may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest reply that is held until it is complete, in bytes.
pub const HELD_BYTES_MAX: u64 = 1 << 20;

/// What stands behind a price, and what it costs.
#[derive(Debug)]
pub struct Gate {
    /// The tokens that are taken, the preferred one first.
    pub assets: Vec<AcceptedAsset>,
    /// What a request costs.
    pub pricing: Box<dyn Pricing>,
    /// Takes payments by channel.
    pub desk: Desk,
    /// Takes one-off payments.
    pub cashier: Cashier,
    /// Keeps replies for requests that are asked again.
    pub replies: Replies,
    /// The address under which the world knows this service, if it is not the `Host` of requests.
    pub base_url: Option<String>,
    /// What is sold, for people.
    pub description: Option<String>,
    /// The clock.
    pub environment: Arc<dyn Environment>,
}

/// Puts services behind a [`Gate`].
#[derive(Debug, Clone)]
pub struct PaidLayer(pub Arc<Gate>);

/// A service behind a price.
#[derive(Debug, Clone)]
pub struct Paid<S> {
    gate: Arc<Gate>,
    /// Of each of the gate's assets, in their order.
    terms: Arc<[Arc<Terms>]>,
    inner: S,
}

/// In the extensions of an admitted request: what it costs so far.
///
/// A service that never sets it is charged at the full price when it succeeds.
#[derive(Debug, Clone)]
pub struct Meter {
    /// In what it is paid.
    pub asset: AssetId,
    /// The most that this request can be charged.
    pub ceiling: Amount,
    reading: Arc<Mutex<Option<Amount>>>,
}

impl Meter {
    fn new(asset: AssetId, ceiling: Amount) -> Self {
        Self {
            asset,
            ceiling,
            reading: Arc::default(),
        }
    }

    /// Says what the request costs so far.
    pub fn set(&self, amount: Amount) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(amount);
    }

    /// What the request costs so far, if the service said so.
    pub fn reading(&self) -> Option<Amount> {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for PaidLayer {
    type Service = Paid<S>;

    fn layer(&self, inner: S) -> Paid<S> {
        let terms = self.0.assets.iter().map(|asset| Arc::new(asset.terms()));
        Paid {
            gate: Arc::clone(&self.0),
            terms: terms.collect(),
            inner,
        }
    }
}

impl<S> Service<Request> for Paid<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Readiness of the inner service is awaited once the payment is in order.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (gate, terms) = (Arc::clone(&self.gate), Arc::clone(&self.terms));
        let inner = self.inner.clone();
        let serve = move |request| inner.oneshot(request).boxed();
        gate.handled(terms, request, Box::new(serve))
    }
}

/// What serves a request once its payment is in order. Boxed, so that the gate is compiled once and not for each service.
type Serve = Box<dyn FnOnce(Request) -> BoxFuture<'static, Result<Response, Infallible>> + Send>;

/// A request whose price is known.
struct Priced {
    parts: Parts,
    /// As far as it was read.
    bytes: Bytes,
    body: Body,
    prices: Vec<Quoted>,
}

/// What a request costs in one token.
#[derive(Clone)]
struct Quoted {
    asset: AcceptedAsset,
    terms: Arc<Terms>,
    price: Price,
}

impl Priced {
    /// Of method, path and the body as far as it was read.
    fn fingerprint(&self) -> B256 {
        let path = self.parts.uri.path_and_query();
        let path = path.map_or("", http::uri::PathAndQuery::as_str);
        let hashes = [
            keccak256(self.parts.method.as_str()),
            keccak256(path),
            keccak256(&self.bytes),
        ];
        keccak256(hashes.concat())
    }
}

impl Gate {
    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    fn handled(
        self: Arc<Self>,
        terms: Arc<[Arc<Terms>]>,
        request: Request,
        serve: Serve,
    ) -> BoxFuture<'static, Result<Response, Infallible>> {
        Box::pin(async move { Ok(self.handle(&terms, request, serve).await) })
    }

    async fn handle(&self, terms: &[Arc<Terms>], request: Request, serve: Serve) -> Response {
        // What cannot be read as a payment is refused before a body is read for it.
        let payment = match header_payment(request.headers()) {
            Ok(payment) => payment,
            Err(problem) => return problem.into_response(),
        };
        let priced = match self.price(terms, request, payment.is_some()).await {
            Ok(priced) => priced,
            Err(problem) => return problem.into_response(),
        };
        let Some(payment) = payment else {
            return self.ask(&priced, None).into_response();
        };
        match self.admit(priced, payment, serve).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        }
    }

    async fn price(
        &self,
        terms: &[Arc<Terms>],
        request: Request,
        has_payment: bool,
    ) -> Result<Priced, Problem> {
        let (parts, body) = request.into_parts();
        let (body, bytes) = if has_payment || self.pricing.needs_body() {
            let most = if has_payment {
                REQUEST_BYTES_MAX
            } else {
                UNPAID_BYTES_MAX
            };
            let bytes = read_bounded(body, most).await?;
            (Body::from(bytes.clone()), bytes)
        } else {
            (body, Bytes::new())
        };
        let mut prices = Vec::with_capacity(self.assets.len());
        for (asset, terms) in self.assets.iter().zip(terms) {
            let Some(price) = self.pricing.price(&asset.asset, &parts, &bytes) else {
                continue;
            };
            let mut asset = asset.clone();
            // Not offered where its transfer would cost too much of what it brings.
            asset.exact = asset.exact
                && self
                    .cashier
                    .is_worth(asset.asset, price.need, self.now())
                    .await;
            let terms = Arc::clone(terms);
            prices.push(Quoted {
                asset,
                terms,
                price,
            });
        }
        Ok(Priced {
            parts,
            bytes,
            body,
            prices,
        })
    }

    /// The 402 that says what the request costs, and why a payment was not enough.
    fn ask(&self, priced: &Priced, error: Option<ErrorCode>) -> Problem {
        let accepts = priced
            .prices
            .iter()
            .flat_map(|quoted| quoted.asset.requirements(quoted.price))
            .collect();
        self.ask_for(&priced.parts, accepts, error)
    }

    fn ask_for(
        &self,
        parts: &Parts,
        accepts: Vec<PaymentRequirements>,
        error: Option<ErrorCode>,
    ) -> Problem {
        let resource = resource(self.base_url.as_deref(), parts, self.description.as_deref());
        Problem::payment_required(resource, accepts, error)
    }

    async fn admit(
        &self,
        priced: Priced,
        payment: PaymentPayload,
        serve: Serve,
    ) -> Result<Response, Problem> {
        let slot = match self.recall(&priced, &payment)? {
            Ok(slot) => slot,
            Err(kept) => return Ok(*kept),
        };
        let accepted = &payment.accepted;
        let offered = priced
            .prices
            .iter()
            .find(|quoted| quoted.asset.is_meant_by(accepted));
        let Some(quoted) = offered.cloned() else {
            return Err(self.ask(&priced, Some(ErrorCode::InvalidRequirements)));
        };
        match accepted.scheme {
            Scheme::Exact => {
                if accepted.amount != quoted.price.need {
                    return Err(self.ask(&priced, Some(ErrorCode::InvalidRequirements)));
                }
                self.admit_exact(priced, &payment, &quoted.asset, serve, slot)
                    .await
            }
            Scheme::BatchSettlement => {
                self.admit_batch(priced, &payment, quoted, serve, slot)
                    .await
            }
            Scheme::Other(_) => Err(self.ask(&priced, Some(ErrorCode::UnsupportedScheme))),
        }
    }

    /// The place for this request's reply, or the reply that was kept for it.
    #[allow(clippy::type_complexity)]
    fn recall(
        &self,
        priced: &Priced,
        payment: &PaymentPayload,
    ) -> Result<Result<Option<Slot>, Box<Response>>, Problem> {
        let id = payment_identifier(&payment.extensions)
            .map_err(|error| Problem::malformed(ErrorCode::InvalidPayload, &error))?;
        let Some(id) = id else { return Ok(Ok(None)) };
        let signed = serde_json::to_vec(&payment.payload).unwrap_or_default();
        let fingerprint = keccak256([priced.fingerprint(), keccak256(signed)].concat());
        let route = priced.parts.uri.path();
        let known = self.replies.look_up(route, id, fingerprint, self.now());
        match known.map_err(|error| Problem::internal(&error))? {
            Known::New(slot) => Ok(Ok(Some(slot))),
            Known::Reply(reply) => Ok(Err(reply)),
            Known::Conflict => Err(Problem::conflict(
                "the payment identifier belongs to another request; use a new one",
            )),
            Known::InHand => Err(Problem::conflict(
                "the same request is still being answered; ask again in a moment",
            )),
            Known::NotKept => Err(Problem::conflict(
                "the same request was answered by a reply too long to keep; use a new identifier",
            )),
        }
    }

    async fn admit_exact(
        &self,
        priced: Priced,
        payment: &PaymentPayload,
        asset: &AcceptedAsset,
        serve: Serve,
        slot: Option<Slot>,
    ) -> Result<Response, Problem> {
        let payload: ExactPayload = scheme_payload(&payment.payload, ErrorCode::InvalidPayload)?;
        let accepted = &payment.accepted;
        let (fingerprint, now) = (priced.fingerprint(), self.now());
        let tendered = self
            .cashier
            .tender(&payload, accepted, asset, fingerprint, now)
            .await;
        let mut tendered: Tendered = match tendered {
            Ok(tendered) => tendered,
            Err(code) => return Err(self.ask(&priced, Some(code))),
        };
        let payer = tendered.payer();
        let request = Request::from_parts(priced.parts, priced.body);
        tendered.set_worked_for(true);
        let Ok(response) = serve(request).await;
        tendered.set_worked_for(false);
        if response.status().as_u16() >= 400 {
            tendered.not_served().await;
            return Ok(response);
        }
        let (mut head, body) = response.into_parts();
        match tendered.take().await {
            Ok(transaction) => {
                answer::state_exact(&mut head, accepted, payer, transaction);
                let response = self.finish(head, body, slot).await?;
                // Beside the reply: a crash between the two would keep what was paid and never reply.
                tokio::spawn(tendered.served());
                Ok(response)
            }
            Err(code) => Err(Problem::not_settled(accepted.network, Some(payer), code)),
        }
    }

    async fn admit_batch(
        &self,
        priced: Priced,
        payment: &PaymentPayload,
        quoted: Quoted,
        serve: Serve,
        slot: Option<Slot>,
    ) -> Result<Response, Problem> {
        let Quoted {
            asset,
            terms,
            price,
        } = quoted;
        let payload: BatchPayload = scheme_payload(&payment.payload, ErrorCode::VoucherPayload)?;
        let accepted = &payment.accepted;
        let is_refund = matches!(payload, BatchPayload::Refund { .. });
        if accepted.amount < price.need && !is_refund {
            return Err(self.ask(&priced, Some(ErrorCode::InvalidRequirements)));
        }
        let payer = payload.config().payer;
        let checked = match check(&payload, &terms, self.now()) {
            Ok(checked) => checked,
            Err(code) => return Err(self.ask(&priced, Some(code))),
        };
        let quote = Quote {
            ceiling: accepted.amount,
            need: price.need,
            least_deposit: asset.least_deposit(price.ceiling),
        };
        let admission = self.desk.pay(asset.chain(), checked, quote).await;
        match admission.map_err(|error| Problem::internal(&error))? {
            Admission::Admitted(ticket) => {
                let meter = Meter::new(asset.asset, price.need);
                let mut request = Request::from_parts(priced.parts, priced.body);
                request.extensions_mut().insert(meter.clone());
                let trailers = answer::wants_trailers(request.headers());
                let mut serving = Serving {
                    ticket: Some(ticket),
                    meter: meter.clone(),
                };
                let Ok(response) = serve(request).await;
                let charging = Charging {
                    network: asset.chain(),
                    payer,
                    ticket: serving.ended(),
                    meter,
                    trailers,
                };
                self.charge(charging, response, slot).await
            }
            Admission::Refunded(statement) => {
                Ok(answer::refunded(asset.chain(), payer, &statement))
            }
            Admission::Refused(refusal) => {
                Err(self.refuse(&priced, &asset, price, is_refund, payer, refusal))
            }
        }
    }

    /// The 402 for a refused payment. One that can be recovered from carries no settlement
    /// header, because clients that find one do not recover.
    fn refuse(
        &self,
        priced: &Priced,
        asset: &AcceptedAsset,
        price: Price,
        is_refund: bool,
        payer: alloy_primitives::Address,
        refusal: Refusal,
    ) -> Problem {
        let Some(correction) = refusal.correction else {
            if is_refund {
                return Problem::not_settled(asset.chain(), Some(payer), refusal.code);
            }
            return self.ask(priced, Some(refusal.code));
        };
        // Clients look at the first entry for channels only, so the correction stands alone.
        let entry = asset.corrected(price, *correction);
        self.ask_for(&priced.parts, vec![entry], Some(refusal.code))
    }

    async fn charge(
        &self,
        charging: Charging,
        response: Response,
        slot: Option<Slot>,
    ) -> Result<Response, Problem> {
        let Charging {
            network,
            payer,
            ticket,
            meter,
            trailers,
        } = charging;
        let (mut head, body) = response.into_parts();
        if head.status.as_u16() >= 400 {
            // The ticket is dropped, and with it the reservation.
            return Ok(Response::from_parts(head, body));
        }
        let held = body
            .size_hint()
            .exact()
            .is_some_and(|length| length <= HELD_BYTES_MAX);
        if !held {
            let statement = ticket
                .state_early()
                .await
                .map_err(|error| Problem::internal(&error))?;
            answer::state_batch(&mut head, network, payer, &statement);
            self.not_kept(slot, &head).await?;
            let charging = Charging {
                network,
                payer,
                ticket,
                meter,
                trailers,
            };
            return Ok(MeteredBody::wrap(head, body, charging));
        }
        let Ok(body) = body.collect().await else {
            return Err(Problem::bad_gateway());
        };
        let bytes = body.to_bytes();
        let amount = meter.reading().unwrap_or(meter.ceiling);
        let keeping = slot.map(|slot| {
            let (mut head, bytes, now) = (head.clone(), bytes.clone(), self.now());
            let keep: Alongside = Box::new(move |charged: &Charged| {
                answer::state_batch(&mut head, network, payer, &charged.statement);
                slot.writing(&head, Some(&bytes), now)
            });
            keep
        });
        let charged = ticket
            .charge(amount, keeping)
            .await
            .map_err(|error| Problem::internal(&error))?;
        answer::state_batch(&mut head, network, payer, &charged.statement);
        Ok(Response::from_parts(head, Body::from(bytes)))
    }

    /// Keeps the reply where the payer asked for that and it is short, and answers.
    async fn finish(
        &self,
        head: http::response::Parts,
        body: Body,
        slot: Option<Slot>,
    ) -> Result<Response, Problem> {
        let Some(slot) = slot else {
            return Ok(Response::from_parts(head, body));
        };
        if body
            .size_hint()
            .exact()
            .is_none_or(|length| length > HELD_BYTES_MAX)
        {
            self.not_kept(Some(slot), &head).await?;
            return Ok(Response::from_parts(head, body));
        }
        let Ok(body) = body.collect().await else {
            return Err(Problem::bad_gateway());
        };
        let bytes = body.to_bytes();
        slot.keep(&head, Some(&bytes), self.now())
            .await
            .map_err(|error| Problem::internal(&error))?;
        Ok(Response::from_parts(head, Body::from(bytes)))
    }

    async fn not_kept(
        &self,
        slot: Option<Slot>,
        head: &http::response::Parts,
    ) -> Result<(), Problem> {
        let Some(slot) = slot else { return Ok(()) };
        slot.keep(head, None, self.now())
            .await
            .map_err(|error| Problem::internal(&error))
    }
}

/// A request while the service works on it. A payer that goes away before there is a reply is charged what the service
/// said until then.
struct Serving {
    ticket: Option<Ticket>,
    meter: Meter,
}

impl Serving {
    fn ended(&mut self) -> Ticket {
        let ticket = self.ticket.take();
        ticket.expect("a request is served once")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.charge_reading_on_drop(&self.meter, false);
        }
    }
}

async fn read_bounded(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    match read_body(body, bytes_max, REQUEST_TIMEOUT).await {
        Ok(bytes) => Ok(bytes),
        Err(BodyError::TooLong) => Err(Problem::too_large(bytes_max)),
        Err(error) => {
            let status = match error {
                BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
                BodyError::Full => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            Err(Problem::status(status, error.to_string()))
        }
    }
}

/// The payment that a request brings, if it brings one.
fn header_payment(headers: &http::HeaderMap) -> Result<Option<PaymentPayload>, Problem> {
    let mut values = headers.get_all(PAYMENT_SIGNATURE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::status(
            StatusCode::BAD_REQUEST,
            "the request has more than one PAYMENT-SIGNATURE header",
        ));
    }
    decode_header(value.as_bytes())
        .map(Some)
        .map_err(|error| Problem::malformed(ErrorCode::InvalidPayload, &error))
}

fn scheme_payload<T: DeserializeOwned>(payload: &Value, code: ErrorCode) -> Result<T, Problem> {
    T::deserialize(payload).map_err(|error| Problem::malformed(code, &error))
}

impl Ticket {
    /// What to charge if the payer goes away while its reply is on the way.
    fn charge_reading_on_drop(&mut self, meter: &Meter, delivered: bool) {
        if let Some(reading) = meter.reading() {
            self.charge_on_drop(reading);
        } else if delivered {
            self.charge_on_drop(meter.ceiling);
        }
    }
}

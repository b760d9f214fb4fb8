//! The facilitator API of x402 for this household's own services: `POST /verify`, `POST /settle`,
//! `GET /supported` (spec: payments, section 11).
//!
//! A service that another program sells (an Express server, say) can leave the chain to this node.
//! It serves only those who are paid into the household: a stranger's transactions would be paid
//! for with the household's gas. A client shows an API key of the household. It signs claims and
//! refunds with this device's session key for the service that first showed a good voucher of the
//! channel, and for no other: what is due on it only that one knows. It signs nothing for channels
//! on which this node is itself paid.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_api::error::ErrorBody;
use hearth_causes::WithCauses;
use hearth_doors::{BodyError, read_body};
use hearth_environment::Environment;
use hearth_protocol::channel::{
    CheckedDeposit, CheckedPayment, OnchainState, PaymentKind, Terms, channel_state, check,
};
use hearth_protocol::claim::{CLAIM_ROWS_MAX, row_channel};
use hearth_protocol::eip712::{SettlementDomain, TokenDomain};
use hearth_protocol::exact;
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchExtra, BatchPayload, ChargeStatement, ClaimPayload, ClaimRow, ErrorCode, ExactExtra,
    ExactPayload, Extensions, FacilitatorPayload, PaymentRequirements, RefundPayload, Scheme,
    SettlePayload, SettleResponse, VerifyRequest, VerifyResponse,
};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tracing::error;

use super::desk::{PROVIDER_CHANNELS, StoredChannel};
use super::escrow::{Escrow, Escrows};
use crate::store::{Batch, Store, StoreError, Table};

/// Whose channels are whose of those that ask the facilitator, by channel id.
const FACILITATED: Table<String> = Table::own("facilitated");
/// The longest request that is read, in bytes: a claim of [`CLAIM_ROWS_MAX`] rows.
const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Says whose API key a text is.
pub type FindCaller = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The household's services that may ask, and which channels are whose.
#[derive(Clone)]
pub struct Callers {
    store: Store,
    find: FindCaller,
}

/// A service that showed an API key: the key's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller(String);

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").finish_non_exhaustive()
    }
}

impl Callers {
    /// Those whose keys `find` knows. Whose channels are whose is kept in `store`.
    pub fn new(store: Store, find: FindCaller) -> Self {
        Self { store, find }
    }

    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let shown = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = shown.split_once(' ')?;
        let key = scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())?;
        (self.find)(key).map(Caller)
    }

    fn owner(&self, channel: ChannelId) -> Result<Option<Caller>, StoreError> {
        let name = self.store.get(FACILITATED, channel.0.as_slice())?;
        Ok(name.map(Caller))
    }

    /// The channel is the caller's, unless it is another's already.
    async fn claim(&self, channel: ChannelId, caller: &Caller) -> Result<(), StoreError> {
        if self.owner(channel)?.is_some() {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_new(FACILITATED, channel.0.as_slice(), &caller.0)?;
        self.store.commit(batch).await
    }
}

/// Verifies and settles payments to the household.
#[derive(Debug, Clone)]
pub struct Facilitator {
    escrows: Escrows,
    /// Whom payments may go to.
    receivers: Arc<BTreeSet<Address>>,
    callers: Callers,
    environment: Arc<dyn Environment>,
    /// The books of the desk beside it.
    desk: Option<Store>,
}

/// What a verified payment amounts to.
struct Verified {
    payer: Address,
    extra: Map<String, Value>,
}

type Outcome<T> = Result<T, (ErrorCode, Option<Address>)>;

fn refuse<T>(code: ErrorCode) -> Outcome<T> {
    Err((code, None))
}

fn read<T: DeserializeOwned>(value: &Value, code: ErrorCode) -> Outcome<T> {
    T::deserialize(value).map_err(|_| (code, None))
}

fn extra<T: DeserializeOwned>(requirements: &PaymentRequirements) -> Outcome<T> {
    T::deserialize(&requirements.extra).map_err(|_| (ErrorCode::InvalidRequirements, None))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Facilitator {
    /// A facilitator for payments to `receivers`, asked by `callers`.
    pub fn new(
        escrows: Escrows,
        receivers: BTreeSet<Address>,
        callers: Callers,
        environment: Arc<dyn Environment>,
    ) -> Self {
        Self {
            escrows,
            receivers: Arc::new(receivers),
            callers,
            environment,
            desk: None,
        }
    }

    /// The same beside a desk that keeps its channels in `store`: nothing is signed for those.
    #[must_use]
    pub fn beside_desk(self, store: Store) -> Self {
        Self {
            desk: Some(store),
            ..self
        }
    }

    /// Whether the session key may sign for this channel when `caller` asks for it.
    fn may_sign(&self, channel: ChannelId, caller: &Caller) -> Outcome<()> {
        let known: Option<StoredChannel> = match &self.desk {
            Some(store) => {
                let known = store.get(PROVIDER_CHANNELS, channel.0.as_slice());
                known.map_err(|error| unreadable(&error))?
            }
            None => None,
        };
        let owner = self.callers.owner(channel);
        let is_owner = owner.map_err(|error| unreadable(&error))?.as_ref() == Some(caller);
        if known.is_none() && is_owner {
            Ok(())
        } else {
            refuse(ErrorCode::ClaimAuthorizer)
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/verify", post(verify))
            .route("/settle", post(settle))
            .route("/supported", get(supported))
            .with_state(self)
    }

    /// What a coin of the chain is worth in what is paid.
    fn coin_worth(&self, requirements: &PaymentRequirements) -> Option<Amount> {
        self.escrows.coin_worth(AssetId {
            chain: requirements.network,
            token: requirements.asset,
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    fn escrow(&self, requirements: &PaymentRequirements) -> Outcome<Arc<Escrow>> {
        if !self.receivers.contains(&requirements.pay_to) {
            return refuse(ErrorCode::ReceiverMismatch);
        }
        self.escrows
            .get(requirements.network)
            .ok_or((ErrorCode::InvalidNetwork, None))
    }

    async fn verify(&self, request: &VerifyRequest, caller: &Caller) -> Outcome<Verified> {
        let (payment, requirements) = (&request.payment_payload, &request.payment_requirements);
        let escrow = self.escrow(requirements)?;
        if !requirements.is_meant_by(&payment.accepted) {
            return refuse(ErrorCode::InvalidRequirements);
        }
        match requirements.scheme {
            Scheme::Exact => {
                let payload: ExactPayload = read(&payment.payload, ErrorCode::InvalidPayload)?;
                let transfer = self.check_exact(&payload, requirements)?;
                let payer = transfer.payer;
                let worth = self.coin_worth(requirements);
                let least = ErrorCode::InvalidRequirements;
                escrow
                    .check_worth(transfer.value, exact::TRANSFER_GAS, worth, least)
                    .await
                    .map_err(|code| (code, Some(payer)))?;
                escrow
                    .check_transfer(requirements.asset, &transfer, &payload.signature)
                    .await
                    .map_err(|code| (code, Some(payer)))?;
                Ok(Verified {
                    payer,
                    extra: Map::new(),
                })
            }
            Scheme::BatchSettlement => {
                let payload: BatchPayload = read(&payment.payload, ErrorCode::VoucherPayload)?;
                self.verify_batch(&escrow, &payload, requirements, caller)
                    .await
            }
            Scheme::Other(_) => refuse(ErrorCode::UnsupportedScheme),
        }
    }

    fn check_exact(
        &self,
        payload: &ExactPayload,
        requirements: &PaymentRequirements,
    ) -> Outcome<exact::CheckedTransfer> {
        let ExactExtra { name, version, .. } = extra(requirements)?;
        let domain = TokenDomain::new(requirements.network, requirements.asset, &name, &version);
        let payer = payload.authorization.from;
        exact::check(payload, requirements, &domain, self.now()).map_err(|code| (code, Some(payer)))
    }

    async fn verify_batch(
        &self,
        escrow: &Escrow,
        payload: &BatchPayload,
        requirements: &PaymentRequirements,
        caller: &Caller,
    ) -> Outcome<Verified> {
        let payer = payload.config().payer;
        let told = |code| (code, Some(payer));
        let checked = check(payload, &terms(requirements)?, self.now()).map_err(told)?;
        let state = read_channel(escrow, checked.channel).await?;
        let (deposit, is_refund) = match &checked.kind {
            PaymentKind::Deposit(CheckedDeposit { amount, .. }) => (*amount, false),
            PaymentKind::Voucher => (Amount::ZERO, false),
            PaymentKind::Refund(_) => (Amount::ZERO, true),
        };
        let max = checked.voucher.max_claimable;
        let funds = state.balance.saturating_add(deposit);
        if funds.is_zero() {
            return Err(told(ErrorCode::ChannelNotFound));
        }
        if max > funds {
            return Err(told(ErrorCode::CumulativeExceedsBalance));
        }
        if max < state.total_claimed || (max == state.total_claimed && !is_refund) {
            return Err(told(ErrorCode::CumulativeBelowClaimed));
        }
        self.note_owner(checked.channel, caller).await?;
        Ok(Verified {
            payer,
            extra: snapshot(checked.channel, &state),
        })
    }

    /// The channel is the caller's from now on, if it is nobody's yet.
    async fn note_owner(&self, channel: ChannelId, caller: &Caller) -> Outcome<()> {
        let noted = self.callers.claim(channel, caller).await;
        noted.map_err(|error| unreadable(&error))
    }

    async fn settle(&self, request: &VerifyRequest, caller: &Caller) -> Outcome<SettleResponse> {
        let (payment, requirements) = (&request.payment_payload, &request.payment_requirements);
        let escrow = self.escrow(requirements)?;
        match requirements.scheme {
            Scheme::Exact => {
                self.verify(request, caller).await?;
                let payload: ExactPayload = read(&payment.payload, ErrorCode::InvalidPayload)?;
                let transfer = self.check_exact(&payload, requirements)?;
                let transaction = escrow
                    .transfer(requirements.asset, &transfer, &payload.signature)
                    .await
                    .map_err(|code| (code, Some(transfer.payer)))?;
                let amount = Some(transfer.value.to_string());
                Ok(settled(
                    requirements,
                    Some(transfer.payer),
                    transaction,
                    amount,
                    Map::new(),
                ))
            }
            Scheme::BatchSettlement => {
                let payload: FacilitatorPayload = read(&payment.payload, ErrorCode::PayloadType)?;
                self.settle_batch(&escrow, payload, requirements, caller)
                    .await
            }
            Scheme::Other(_) => refuse(ErrorCode::UnsupportedScheme),
        }
    }

    async fn settle_batch(
        &self,
        escrow: &Escrow,
        payload: FacilitatorPayload,
        requirements: &PaymentRequirements,
        caller: &Caller,
    ) -> Outcome<SettleResponse> {
        match payload {
            FacilitatorPayload::Deposit {
                channel_config,
                voucher,
                deposit,
            } => {
                let payload = BatchPayload::Deposit {
                    channel_config,
                    voucher,
                    deposit,
                };
                self.settle_deposit(escrow, &payload, requirements, caller)
                    .await
            }
            FacilitatorPayload::Claim(claim) => {
                self.settle_claim(escrow, &claim, requirements, caller)
                    .await
            }
            FacilitatorPayload::Settle(settle) => {
                self.settle_receiver(escrow, &settle, requirements).await
            }
            FacilitatorPayload::Refund(refund) => {
                self.settle_refund(escrow, &refund, requirements, caller)
                    .await
            }
        }
    }

    async fn settle_deposit(
        &self,
        escrow: &Escrow,
        payload: &BatchPayload,
        requirements: &PaymentRequirements,
        caller: &Caller,
    ) -> Outcome<SettleResponse> {
        let payer = payload.config().payer;
        let told = |code| (code, Some(payer));
        let checked: CheckedPayment =
            check(payload, &terms(requirements)?, self.now()).map_err(told)?;
        let PaymentKind::Deposit(deposit) = &checked.kind else {
            return refuse(ErrorCode::PayloadType);
        };
        let worth = self.coin_worth(requirements);
        let done = escrow
            .deposit(&checked.config, checked.channel, deposit, worth)
            .await
            .map_err(told)?;
        self.note_owner(checked.channel, caller).await?;
        let state = ChargeStatement {
            charged_amount: None,
            charged_total: None,
            channel_state: Some(channel_state(checked.channel, &done.onchain, None)),
        };
        let amount = Some(done.amount.to_string());
        let extra = state.into_map();
        Ok(settled(
            requirements,
            Some(payer),
            done.transaction,
            amount,
            extra,
        ))
    }

    async fn settle_claim(
        &self,
        escrow: &Escrow,
        claim: &ClaimPayload,
        requirements: &PaymentRequirements,
        caller: &Caller,
    ) -> Outcome<SettleResponse> {
        self.check_rows(&claim.claims)?;
        let entries: Vec<_> = claim
            .claims
            .iter()
            .map(|row| row_channel(escrow.domain(), row))
            .collect();
        let ours = |row: &ClaimRow| row.voucher.channel.receiver_authorizer == escrow.authorizer();
        let signature = match claim.claim_authorizer_signature {
            Some(signature) => signature,
            None if claim.claims.iter().all(ours) => {
                for entry in &entries {
                    self.may_sign(entry.channel, caller)?;
                }
                escrow.sign_claim(&entries)
            }
            None => return refuse(ErrorCode::ClaimAuthorizer),
        };
        let transaction = escrow
            .claim_only(&claim.claims, &signature)
            .await
            .map_err(|error| (error.code(ErrorCode::ClaimSimulation), None))?;
        let transaction = transaction.to_string();
        Ok(settled(
            requirements,
            None,
            transaction,
            Some(String::new()),
            Map::new(),
        ))
    }

    fn check_rows(&self, rows: &[ClaimRow]) -> Outcome<()> {
        if rows.is_empty() || rows.len() > CLAIM_ROWS_MAX {
            return refuse(ErrorCode::ClaimPayload);
        }
        if rows
            .iter()
            .any(|row| !self.receivers.contains(&row.voucher.channel.receiver))
        {
            return refuse(ErrorCode::ReceiverMismatch);
        }
        Ok(())
    }

    async fn settle_receiver(
        &self,
        escrow: &Escrow,
        settle: &SettlePayload,
        requirements: &PaymentRequirements,
    ) -> Outcome<SettleResponse> {
        if !self.receivers.contains(&settle.receiver) {
            return refuse(ErrorCode::ReceiverMismatch);
        }
        let moved = escrow
            .settle(settle.receiver, settle.token)
            .await
            .map_err(|error| (error.code(ErrorCode::SettleSimulation), None))?;
        let (transaction, amount) = match moved {
            Some((transaction, amount)) => (transaction.to_string(), amount),
            None => (String::new(), Amount::ZERO),
        };
        Ok(settled(
            requirements,
            None,
            transaction,
            Some(amount.to_string()),
            Map::new(),
        ))
    }

    async fn settle_refund(
        &self,
        escrow: &Escrow,
        refund: &RefundPayload,
        requirements: &PaymentRequirements,
        caller: &Caller,
    ) -> Outcome<SettleResponse> {
        let config = &refund.channel_config;
        let channel = escrow.domain().channel_id(config);
        let told = |code| (code, Some(config.payer));
        if channel != refund.voucher.channel_id {
            return Err(told(ErrorCode::ChannelIdMismatch));
        }
        if !self.receivers.contains(&config.receiver) {
            return Err(told(ErrorCode::ReceiverMismatch));
        }
        if !refund.claims.is_empty() {
            self.check_rows(&refund.claims)?;
        }
        if refund.refund_authorizer_signature.is_none() {
            self.may_sign(channel, caller)?;
        }
        if refund.claim_authorizer_signature.is_none() {
            for row in &refund.claims {
                self.may_sign(row_channel(escrow.domain(), row).channel, caller)?;
            }
        }
        let (chain, token) = (requirements.network, config.token);
        let worth = self.escrows.coin_worth(AssetId { chain, token });
        let done = escrow.refund_for(channel, refund, worth).await;
        let done = done.map_err(told)?;
        let state = ChargeStatement {
            charged_amount: None,
            charged_total: None,
            channel_state: Some(channel_state(channel, &done.onchain, None)),
        };
        let amount = Some(done.amount.to_string());
        let extra = state.into_map();
        Ok(settled(
            requirements,
            Some(config.payer),
            done.transaction,
            amount,
            extra,
        ))
    }
}

/// The terms under which a service was paid, as it states them.
fn terms(requirements: &PaymentRequirements) -> Outcome<Terms> {
    let BatchExtra {
        receiver_authorizer,
        withdraw_delay,
        name,
        version,
        ..
    } = extra(requirements)?;
    let chain = requirements.network;
    Ok(Terms {
        domain: SettlementDomain::new(chain),
        receiver: requirements.pay_to,
        receiver_authorizer,
        token: requirements.asset,
        token_domain: TokenDomain::new(chain, requirements.asset, &name, &version),
        withdraw_delay,
    })
}

async fn read_channel(escrow: &Escrow, channel: ChannelId) -> Outcome<OnchainState> {
    escrow
        .read(channel)
        .await
        .map_err(|_| (ErrorCode::ChannelStateRead, None))
}

fn snapshot(channel: ChannelId, state: &OnchainState) -> Map<String, Value> {
    object(serde_json::to_value(channel_state(channel, state, None)).unwrap_or_default())
}

fn settled(
    requirements: &PaymentRequirements,
    payer: Option<Address>,
    transaction: String,
    amount: Option<String>,
    extra: Map<String, Value>,
) -> SettleResponse {
    SettleResponse {
        success: true,
        error_reason: None,
        payer,
        transaction,
        network: requirements.network,
        amount,
        extra,
        extensions: Extensions::new(),
    }
}

fn unreadable(error: &StoreError) -> (ErrorCode, Option<Address>) {
    error!(error = %error.with_causes(), "the facilitator's books cannot be used");
    (ErrorCode::UnexpectedSettle, None)
}

fn problem(status: StatusCode, code: &str, message: &str, next: &str) -> Response {
    let body = ErrorBody::new(code, message).with_next(next);
    (status, Json(body)).into_response()
}

impl Facilitator {
    /// Reads which client asks, and for what. The key is looked at before the body is read.
    async fn asked(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Caller, VerifyRequest), Box<Response>> {
        let Some(caller) = self.callers.caller(headers) else {
            let message =
                "the facilitator is for the household's own services, which show an API key";
            let next = "`hearth keys new NAME` makes one; send it as `Authorization: Bearer KEY`";
            let status = StatusCode::UNAUTHORIZED;
            let mut refused = problem(status, "unauthorized", message, next);
            let bearer = http::HeaderValue::from_static("Bearer");
            refused.headers_mut().insert(WWW_AUTHENTICATE, bearer);
            return Err(Box::new(refused));
        };
        let bytes = read_body(body, REQUEST_BYTES_MAX, REQUEST_TIMEOUT).await;
        let bytes = bytes.map_err(|error| {
            let status = match error {
                BodyError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
                BodyError::Full => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            let next = "send the request again, as JSON of at most 128 KiB";
            Box::new(problem(status, "bad_request", &error.to_string(), next))
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(request) => Ok((caller, request)),
            Err(error) => {
                let message = format!("the request cannot be read: {error}");
                let next = "send what a server of x402 version 2 sends to a facilitator";
                let status = StatusCode::BAD_REQUEST;
                Err(Box::new(problem(status, "bad_request", &message, next)))
            }
        }
    }
}

async fn verify(
    State(facilitator): State<Facilitator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<VerifyResponse>, Response> {
    let asked = facilitator.asked(&headers, body).await;
    let (caller, request) = asked.map_err(|refused| *refused)?;
    Ok(Json(match facilitator.verify(&request, &caller).await {
        Ok(Verified { payer, extra }) => VerifyResponse {
            is_valid: true,
            invalid_reason: None,
            payer: Some(payer),
            extra,
        },
        Err((code, payer)) => VerifyResponse {
            is_valid: false,
            invalid_reason: Some(code.to_string()),
            payer,
            extra: Map::new(),
        },
    }))
}

async fn settle(
    State(facilitator): State<Facilitator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SettleResponse>, Response> {
    let asked = facilitator.asked(&headers, body).await;
    let (caller, request) = asked.map_err(|refused| *refused)?;
    let network = request.payment_requirements.network;
    Ok(Json(match facilitator.settle(&request, &caller).await {
        Ok(response) => response,
        Err((code, payer)) => SettleResponse::failure(network, payer, code),
    }))
}

async fn supported(State(facilitator): State<Facilitator>) -> Json<Value> {
    let mut kinds = Vec::new();
    let mut signers = BTreeSet::new();
    for escrow in facilitator.escrows.iter() {
        let network = escrow.domain().chain();
        kinds.push(json!({ "x402Version": 2, "scheme": Scheme::Exact, "network": network }));
        kinds.push(json!({
            "x402Version": 2,
            "scheme": Scheme::BatchSettlement,
            "network": network,
            "extra": { "receiverAuthorizer": escrow.authorizer().to_string() },
        }));
        signers.insert(escrow.account().to_string());
    }
    Json(json!({ "kinds": kinds, "extensions": [], "signers": { "eip155:*": signers } }))
}

//! The purse: pays for requests of this node's own, over HTTP (spec: payments, section 6).
//!
//! It asks, reads the price, chooses a way to pay within the household's limits, signs, and asks
//! again. What is signed is durable before it leaves. A provider whose figures differ is believed
//! only with this payer's own signature as proof, and once per request.

mod channels;
mod onchain;
mod open;
mod refund;
mod response;
mod tab;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use alloy_signer_local::PrivateKeySigner;
use axum::body::Bytes;
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_chain::client::ChainError;
use hearth_environment::{Environment, NoRandomness};
use hearth_protocol::channel::payer::{
    ChannelDistrust, CorrectionError, Outcome, PrepareError, Promise,
};
use hearth_protocol::channel::{Voucher, deposit_message};
use hearth_protocol::eip712::{ChannelConfig, SettlementDomain, TokenDomain};
use hearth_protocol::exact::transfer_message;
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{
    AssetLimit, Declined, Spending, TIMEOUT_S_MAX, asset_of, valid_before_s,
};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    Authorization, BatchExtra, BatchPayload, ChargeStatement, Deposit, DepositAuthorization,
    Erc3009Authorization, ErrorCode, ExactExtra, ExactPayload, HeaderError, PAYMENT_IDENTIFIER,
    PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, PaymentPayload, PaymentRequired,
    PaymentRequirements, QuotedEntries, Scheme, SettleResponse, Version, decode_header,
    encode_header, with_payment_identifier,
};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;
use tracing::{debug, warn};
use url::Url;

use super::escrow::{EscrowError, Escrows};
use super::signing::sign;
use crate::store::{Store, StoreError};
pub use channels::{CHANNELS_PER_PROVIDER_MAX, ChannelView, PAYER_CHANNELS, StoredPayerChannel};
use channels::{Channels, Held};
pub use onchain::Withdrawal;
pub use open::{ChannelQuote, OpenedChannel};
pub use refund::{Beginning, Refund, Refunded};
pub use response::{PaidBody, PaidResponse, REPLY_BYTES_MAX};
pub use tab::Tab;

/// A request that may cost something.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// Headers of the request's own.
    pub headers: HeaderMap,
    /// The body. It is sent twice: without, then with the payment.
    pub body: Bytes,
    /// How long a service that cannot be reached is tried again, in milliseconds.
    ///
    /// The same payment is sent again where the service honours payment identifiers, so that
    /// nothing is paid twice.
    pub patience_ms: u64,
}

/// The body of a request comes as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a body that comes as a stream cannot be sent twice, without and with the payment: read it first"
)]
pub struct StreamedBody;

impl TryFrom<reqwest::Request> for Purchase {
    type Error = StreamedBody;

    /// A request that is not tried again where the service cannot be reached.
    fn try_from(request: reqwest::Request) -> Result<Self, StreamedBody> {
        let body = match request.body() {
            Some(body) => Bytes::copy_from_slice(body.as_bytes().ok_or(StreamedBody)?),
            None => Bytes::new(),
        };
        Ok(Self {
            method: request.method().clone(),
            url: request.url().clone(),
            headers: request.headers().clone(),
            body,
            patience_ms: 0,
        })
    }
}

impl Purchase {
    /// A request that only asks what the service wants to be paid.
    fn probe(url: &Url) -> Self {
        Self {
            method: Method::GET,
            url: url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience_ms: 0,
        }
    }
}

/// What a first deposit is worth, in ceilings, where the service asks for nothing else.
const DEPOSIT_CEILINGS: u128 = 5;

/// How long a service may take until the head of its reply, in seconds: by then what was signed has expired.
const HEAD_TIMEOUT_S: u64 = TIMEOUT_S_MAX;

/// How often a service that cannot be reached is tried.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// What a request costs, before anything is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTag {
    /// The way to pay that was chosen.
    pub requirements: PaymentRequirements,
    /// What would be deposited first, if anything.
    pub deposit: Option<Amount>,
}

/// Why a request could not be paid or made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PayError {
    /// The service cannot be reached, or broke off.
    #[error(
        "the service cannot be reached (what was promised stays on record and is settled with the next payment)"
    )]
    Http(#[from] reqwest::Error),
    /// The service does not answer.
    #[error(
        "the service did not answer within {HEAD_TIMEOUT_S} s; what was promised stays on record and counts until the chain says less"
    )]
    Slow,
    /// Its 402 cannot be read.
    #[error("the service asks for a payment in a form that cannot be read")]
    Unreadable(#[source] HeaderError),
    /// No way to pay is within the limits.
    #[error("the service cannot be paid within your limits: {}", reasons(.0))]
    Declined(Vec<Declined>),
    /// The one who was asked said no.
    #[error("not paid: the price was not approved")]
    NotApproved,
    /// The way to pay lacks what it must say.
    #[error("the service's offer is incomplete: {0}")]
    Offer(String),
    /// The service refused the payment.
    #[error("the service refused the payment: {code}{}", explained(.code))]
    Refused {
        /// The code it gave.
        code: String,
    },
    /// The service corrected the figures without proof.
    #[error("the service states figures that it cannot prove, so nothing more was signed")]
    Correction(#[from] CorrectionError),
    /// The service said what cannot be true.
    #[error(
        "the service cannot be trusted, so the channel signs nothing more (get the rest back with `hearth channels close`)"
    )]
    Distrust(#[from] ChannelDistrust),
    /// The channel takes no payment.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The reply is longer than what is read.
    #[error("the service's reply is longer than {0} bytes; what it cost is paid")]
    ReplyTooLong(usize),
    /// The device that the channel is with cannot be reached, or broke off.
    #[error(
        "the device that the channel is with cannot be reached: {0}; what it returned all the same shows with `hearth channels look`"
    )]
    Unreached(String),
    /// The chain does not show a refund that the provider says it made.
    #[error("the other side says that it returned what is left, and the chain does not show it")]
    Unseen,
    /// The channel is with a device of the network, which only a node that is up can reach.
    #[error("the channel is with another device of the network, and no node is up to ask it")]
    NeedsNode,
    /// No channel is known.
    #[error("no open channel with this service; nothing to return")]
    NoChannel,
    /// Nothing has to be paid there.
    #[error("the service asks for no payment there, so that a channel with it would serve nothing")]
    Free,
    /// The service is paid in another way.
    #[error("the service takes no payments by channel; `hearth pay` pays it one by one")]
    NoChannelTaken,
    /// As many channels with the service as may be.
    #[error("there are as many channels with this service as there may be")]
    TooManyChannels,
    /// A deposit of the payer's own did not happen.
    #[error("the deposit was not made: {}", .0.message())]
    Deposit(ErrorCode),
    /// Gas has to be paid.
    #[error(
        "a transaction on {chain} needs gas, and the household's account {account} has not enough of the chain's own coin"
    )]
    NoCoin {
        /// The chain.
        chain: ChainId,
        /// The account that would pay.
        account: Address,
    },
    /// The chain is not configured, or cannot be asked.
    #[error("the chain {0} is not configured; add it to the configuration")]
    Chain(ChainId),
    /// The chain failed.
    #[error(transparent)]
    Read(#[from] ChainError),
    /// A transaction could not be sent, or it reverted.
    #[error(transparent)]
    Escrow(Box<EscrowError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller could not write down what the payment counts against, so that nothing was signed.
    #[error(transparent)]
    Uncounted(Box<dyn std::error::Error + Send + Sync>),
    /// The header would be too long.
    #[error("the payment does not fit into a header")]
    TooLong(#[source] HeaderError),
    /// No randomness.
    #[error("the payment was not made")]
    Randomness(#[from] NoRandomness),
}

impl From<EscrowError> for PayError {
    fn from(error: EscrowError) -> Self {
        Self::Escrow(Box::new(error))
    }
}

fn reasons(declined: &[Declined]) -> String {
    if declined.is_empty() {
        return "it offers none that is understood".to_owned();
    }
    declined
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn explained(code: &str) -> String {
    let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
    known
        .map(|known| format!(". {}", known.message()))
        .unwrap_or_default()
}

/// The keys that pay.
#[derive(Clone)]
pub struct PayerKeys {
    /// Whose tokens are spent: signs deposits and one-off payments.
    pub household: PrivateKeySigner,
    /// Signs vouchers.
    pub session: PrivateKeySigner,
}

impl std::fmt::Debug for PayerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PayerKeys({})", self.household.address())
    }
}

/// Pays. Clones share everything.
#[derive(Debug, Clone)]
pub struct Purse {
    keys: PayerKeys,
    spending: Arc<Spending>,
    escrows: Escrows,
    channels: Channels,
    http: reqwest::Client,
    environment: Arc<dyn Environment>,
}

/// A payment that was signed and made durable.
struct Signed {
    header: String,
    /// The channel that pays, if it is one.
    held: Option<Held>,
}

impl Purse {
    /// A purse over `store`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(
        keys: PayerKeys,
        spending: Spending,
        store: Store,
        escrows: Escrows,
        http: reqwest::Client,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, StoreError> {
        let channels = Channels::load(store)?;
        let spending = Arc::new(spending);
        Ok(Self {
            keys,
            spending,
            escrows,
            channels,
            http,
            environment,
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    /// Every channel that this node ever paid from.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn channels(&self) -> Result<Vec<ChannelView>, StoreError> {
        self.channels.view()
    }

    /// Makes a request, and pays for it if it costs something and `approve` says yes.
    ///
    /// # Errors
    /// See [`PayError`]. What was promised before an error stays on record.
    pub fn buy<'a>(
        &'a self,
        purchase: &'a Purchase,
        approve: impl Fn(&PriceTag) -> bool + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<PaidResponse, PayError>> {
        self.buying(purchase, Box::new(approve))
    }

    /// The same for whatever approves, so that it is compiled once.
    fn buying<'a>(
        &'a self,
        purchase: &'a Purchase,
        approve: Box<dyn Fn(&PriceTag) -> bool + Send + Sync + 'a>,
    ) -> BoxFuture<'a, Result<PaidResponse, PayError>> {
        Box::pin(self.bought(purchase, approve))
    }

    async fn bought<'a>(
        &'a self,
        purchase: &'a Purchase,
        approve: Box<dyn Fn(&PriceTag) -> bool + Send + Sync + 'a>,
    ) -> Result<PaidResponse, PayError> {
        let response = self.send(purchase, None, true).await?;
        let Some(required) = payment_required(&response)? else {
            return Ok(PaidResponse::free(response));
        };
        let (requirements, limit) = self.choose(&required.accepts).await?;
        let order = Order {
            purchase,
            required: &required,
            requirements,
            accepted: quoted_entry(&response, requirements)?,
        };
        let mut corrected = false;
        loop {
            let signed = self.sign(&order, &limit, &approve).await?;
            match self.pay(&order, signed, corrected).await? {
                Paid::Served(response) => return Ok(*response),
                Paid::Corrected => corrected = true,
            }
        }
    }

    /// The first way to pay that is within the limits. Where only a limit of the day stands against all, the chains are
    /// asked what counts no more. Nothing is counted yet: [`Purse::reserve`] does that, in one step with its check.
    async fn choose<'a>(
        &self,
        accepts: &'a [PaymentRequirements],
    ) -> Result<(&'a PaymentRequirements, AssetLimit), PayError> {
        let choose = || {
            self.spending.choose(accepts, |asset| {
                self.channels.spent_today(*asset, self.now())
            })
        };
        match choose() {
            Ok(chosen) => Ok(chosen),
            Err(declined) if declined.iter().any(may_count_less) => {
                self.recount().await?;
                choose().map_err(PayError::Declined)
            }
            Err(declined) => Err(PayError::Declined(declined)),
        }
    }

    /// Finds room within the limits for a promise that was begun, and counts it. Returns what it adds to what can be
    /// taken. Where there is no room, the payment is ended.
    async fn reserve(
        &self,
        requirements: &PaymentRequirements,
        held: &mut Held,
        promise: &Promise,
        limit: &AssetLimit,
    ) -> Result<Amount, PayError> {
        let asset = asset_of(requirements);
        let mut reserved = held.reserve(asset, promise, limit, self.now());
        if reserved.as_ref().is_err_and(may_count_less) {
            self.recount().await?;
            reserved = held.reserve(asset, promise, limit, self.now());
        }
        match reserved {
            Ok(counted) => Ok(counted),
            Err(declined) => {
                held.channel().finish(Outcome::NotCharged)?;
                Err(PayError::Declined(vec![declined]))
            }
        }
    }

    /// Sends a request, again and again while the service cannot be reached and it may be.
    async fn send(
        &self,
        purchase: &Purchase,
        payment: Option<&str>,
        may_repeat: bool,
    ) -> Result<reqwest::Response, PayError> {
        let until = self.now().plus_ms(purchase.patience_ms);
        loop {
            let mut request = self
                .http
                .request(purchase.method.clone(), purchase.url.clone())
                .headers(purchase.headers.clone())
                .body(purchase.body.clone());
            if let Some(payment) = payment {
                request = request
                    .header(PAYMENT_SIGNATURE, payment)
                    .header(http::header::TE, "trailers");
            }
            let answered = tokio::select! {
                biased;
                answered = request.send() => answered,
                () = self.environment.sleep(Duration::from_secs(HEAD_TIMEOUT_S)) => {
                    return Err(PayError::Slow);
                }
            };
            match answered {
                Err(error) if may_repeat && self.now() < until => {
                    debug!(error = %error.without_url().with_causes(), "trying again");
                    self.environment.sleep(RETRY_EVERY).await;
                }
                answered => return Ok(answered?),
            }
        }
    }

    async fn sign(
        &self,
        order: &Order<'_>,
        limit: &AssetLimit,
        approve: &impl Fn(&PriceTag) -> bool,
    ) -> Result<Signed, PayError> {
        match order.requirements.scheme {
            Scheme::Exact => self.sign_exact(order, limit, approve).await,
            _ => self.sign_batch(order, limit, approve).await,
        }
    }

    async fn sign_exact(
        &self,
        order: &Order<'_>,
        limit: &AssetLimit,
        approve: &impl Fn(&PriceTag) -> bool,
    ) -> Result<Signed, PayError> {
        let requirements = order.requirements;
        let extra: ExactExtra = extra(&requirements.extra)?;
        let (asset, amount) = (asset_of(requirements), requirements.amount);
        let reserved = self
            .channels
            .reserve_authorization(asset, amount, limit, self.now())
            .map_err(|declined| PayError::Declined(vec![declined]))?;
        let tag = PriceTag {
            requirements: requirements.clone(),
            deposit: None,
        };
        if !approve(&tag) {
            self.channels.release_authorization(reserved);
            return Err(PayError::NotApproved);
        }
        let authorization = Authorization {
            from: self.keys.household.address(),
            to: requirements.pay_to,
            value: requirements.amount,
            valid_after: 0,
            valid_before: self.valid_before(requirements),
            nonce: B256::from(self.environment.draw()?),
        };
        let domain = TokenDomain::new(
            requirements.network,
            requirements.asset,
            &extra.name,
            &extra.version,
        );
        let digest = domain.transfer_digest(&transfer_message(&authorization));
        let payload = ExactPayload {
            signature: sign(&self.keys.household, digest),
            authorization,
        };
        let (nonce, until) = (
            payload.authorization.nonce,
            payload.authorization.valid_before,
        );
        self.channels
            .save_authorized(reserved, nonce, until, self.now())
            .await?;
        Ok(Signed {
            header: order.header(payload, self.environment.draw()?)?,
            held: None,
        })
    }

    fn valid_before(&self, requirements: &PaymentRequirements) -> u64 {
        valid_before_s(self.now(), requirements.max_timeout_seconds)
    }

    async fn sign_batch(
        &self,
        order: &Order<'_>,
        limit: &AssetLimit,
        approve: &impl Fn(&PriceTag) -> bool,
    ) -> Result<Signed, PayError> {
        let requirements = order.requirements;
        let extra = channel_terms(requirements)?;
        let config = self.config(requirements, &extra, B256::from(self.environment.draw()?));
        let domain = SettlementDomain::new(requirements.network);
        let mut held = self
            .channels
            .take(&domain, config, order.purchase.url.as_str())
            .await?;
        if held.channel().record().deposit_in_doubt && !held.channel().covers(requirements.amount) {
            let state = self.read(domain.chain(), held.channel().id()).await?;
            held.channel().observe(&state);
        }
        let promise = begin_promise(requirements, &extra, &mut held, limit)?;
        self.reserve(requirements, &mut held, &promise, limit)
            .await?;
        let tag = PriceTag {
            requirements: requirements.clone(),
            deposit: promise.deposit,
        };
        if !approve(&tag) {
            held.release();
            held.channel().finish(Outcome::NotCharged)?;
            return Err(PayError::NotApproved);
        }
        let payload = self.sign_promise(requirements, &extra, &domain, &mut held, promise)?;
        held.save_signed(self.now()).await?;
        Ok(Signed {
            header: order.header(payload, self.environment.draw()?)?,
            held: Some(held),
        })
    }

    fn config(
        &self,
        requirements: &PaymentRequirements,
        extra: &BatchExtra,
        salt: B256,
    ) -> ChannelConfig {
        ChannelConfig {
            payer: self.keys.household.address(),
            payer_authorizer: self.keys.session.address(),
            receiver: requirements.pay_to,
            receiver_authorizer: extra.receiver_authorizer,
            token: requirements.asset,
            withdraw_delay: extra.withdraw_delay,
            salt,
        }
    }

    /// Signs what a payment promises. Nothing leaves yet.
    fn sign_promise(
        &self,
        requirements: &PaymentRequirements,
        extra: &BatchExtra,
        domain: &SettlementDomain,
        held: &mut Held,
        promise: Promise,
    ) -> Result<BatchPayload, PayError> {
        let channel = held.channel().id();
        let channel_config = held.channel().record().config;
        let digest = domain.voucher_digest(channel, promise.max_claimable);
        let voucher = Voucher {
            max_claimable: promise.max_claimable,
            signature: sign(&self.keys.session, digest),
        };
        held.channel().sign(self.now(), voucher);
        let voucher = voucher.on_channel(channel);
        let Some(amount) = promise.deposit else {
            return Ok(BatchPayload::Voucher {
                channel_config,
                voucher,
            });
        };
        let authorization = self.sign_deposit(requirements, extra, channel, amount)?;
        let authorization = DepositAuthorization {
            erc3009_authorization: Some(authorization),
            permit2_authorization: None,
        };
        let deposit = Deposit {
            amount,
            authorization,
        };
        Ok(BatchPayload::Deposit {
            channel_config,
            voucher,
            deposit,
        })
    }

    /// Signs that `amount` may be collected from the household into `channel`, for as long as a payment may take.
    fn sign_deposit(
        &self,
        requirements: &PaymentRequirements,
        extra: &BatchExtra,
        channel: ChannelId,
        amount: Amount,
    ) -> Result<Erc3009Authorization, PayError> {
        let mut authorization = Erc3009Authorization {
            valid_after: 0,
            valid_before: self.valid_before(requirements),
            salt: U256::from_be_bytes(self.environment.draw::<32>()?),
            signature: alloy_primitives::Bytes::new(),
        };
        let payer = self.keys.household.address();
        let message = deposit_message(payer, channel, amount, &authorization);
        let token = TokenDomain::new(
            requirements.network,
            requirements.asset,
            &extra.name,
            &extra.version,
        );
        let signature = sign(&self.keys.household, token.receive_digest(&message));
        authorization.signature = signature.as_bytes().to_vec().into();
        Ok(authorization)
    }

    /// Sends a payment and takes its outcome into the books.
    async fn pay(
        &self,
        order: &Order<'_>,
        signed: Signed,
        corrected: bool,
    ) -> Result<Paid, PayError> {
        let Signed { header, held } = signed;
        let sent = self
            .send(order.purchase, Some(&header), order.is_repeatable())
            .await;
        let Some(mut held) = held else {
            let response = sent?;
            refused_for_good(&response)?;
            if let Some(required) = payment_required(&response)? {
                let code = required.error.unwrap_or_default();
                return Err(PayError::Refused { code });
            }
            return Ok(Paid::Served(Box::new(PaidResponse::exact(
                response,
                order.requirements.clone(),
            ))));
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                held.channel().finish(Outcome::Unknown)?;
                held.save().await?;
                return Err(error);
            }
        };
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            return self.recover(order, held, &response, corrected).await;
        }
        let settled = settle_response(&response);
        let outcome = match &settled {
            Some(settled) if settled.success => match statement(settled) {
                Ok(statement) => Outcome::Stated(Box::new(statement)),
                Err(error) => return Err(PayError::Unreadable(error)),
            },
            _ if response.status().as_u16() >= 400 => Outcome::NotCharged,
            // Served without a statement: what was charged is known with the next payment.
            _ => Outcome::Unknown,
        };
        let trusted = held.channel().finish(outcome).map(|_| ());
        held.save().await?;
        trusted?;
        Ok(Paid::Served(Box::new(PaidResponse::batch(
            response,
            order.requirements.clone(),
            settled,
            self.channels.clone(),
            held.channel().id(),
        ))))
    }

    /// Takes a provider's correction, once per request.
    async fn recover(
        &self,
        order: &Order<'_>,
        mut held: Held,
        response: &reqwest::Response,
        corrected: bool,
    ) -> Result<Paid, PayError> {
        held.channel().finish(Outcome::NotCharged)?;
        refused_for_good(response)
            .inspect_err(|error| debug!(error = %error.with_causes(), "not recoverable"))?;
        let Some(required) = payment_required(response)? else {
            return Err(PayError::Refused {
                code: "payment required".to_owned(),
            });
        };
        let code = required.error.clone().unwrap_or_default();
        if corrected || !is_recoverable(&code) {
            held.save().await?;
            return Err(PayError::Refused { code });
        }
        let domain = SettlementDomain::new(order.requirements.network);
        self.correct(&required, &domain, &mut held).await?;
        held.save().await?;
        Ok(Paid::Corrected)
    }

    /// Takes the figures of a corrective 402 into a channel, as far as they are proved.
    async fn correct(
        &self,
        required: &PaymentRequired,
        domain: &SettlementDomain,
        held: &mut Held,
    ) -> Result<(), PayError> {
        let correction = required
            .accepts
            .iter()
            .filter(|entry| entry.scheme == Scheme::BatchSettlement)
            .find_map(|entry| extra::<BatchExtra>(&entry.extra).ok());
        let correction = correction.ok_or_else(|| PayError::Refused {
            code: required.error.clone().unwrap_or_default(),
        })?;
        let onchain = match self.escrows.get(domain.chain()) {
            Some(escrow) => match escrow.read(held.channel().id()).await {
                Ok(state) => Some(state),
                Err(error) => {
                    warn!(error = %error.with_causes(), "the chain could not be read while recovering");
                    None
                }
            },
            None => None,
        };
        held.channel()
            .correct(&correction, domain, onchain.as_ref())?;
        Ok(())
    }
}

/// Whether an honest payer can go on after a refusal with this code.
fn is_recoverable(code: &str) -> bool {
    [
        ErrorCode::CumulativeMismatch,
        ErrorCode::CumulativeBelowClaimed,
        ErrorCode::CumulativeExceedsBalance,
    ]
    .iter()
    .any(|recoverable| recoverable.as_str() == code)
}

/// Begins a payment on a channel, with the deposit that it needs first, within the limits.
fn begin_promise(
    requirements: &PaymentRequirements,
    extra: &BatchExtra,
    held: &mut Held,
    limit: &AssetLimit,
) -> Result<Promise, PayError> {
    let least = extra.min_deposit;
    let wanted = least
        .unwrap_or(requirements.amount.saturating_mul(DEPOSIT_CEILINGS))
        // A channel that was worth so much before is worth as much again: the number of
        // deposits grows with the logarithm of what is spent.
        .max(held.channel().record().deposited)
        .max(requirements.amount)
        .min(limit.per_deposit);
    let promise = held.channel().prepare(requirements.amount, wanted)?;
    // A service refuses a deposit below its least one, so none that the limit cuts is signed.
    let asked = promise
        .deposit
        .map(|deposit| deposit.max(least.unwrap_or_default()));
    if let Some(asked) = asked.filter(|asked| *asked > limit.per_deposit) {
        held.channel().finish(Outcome::NotCharged)?;
        let limit = limit.per_deposit;
        return Err(PayError::Declined(vec![Declined::PerDeposit {
            asked,
            limit,
        }]));
    }
    Ok(promise)
}

/// What is being bought, and how it will be paid.
struct Order<'a> {
    purchase: &'a Purchase,
    required: &'a PaymentRequired,
    requirements: &'a PaymentRequirements,
    /// The same as the service wrote it.
    accepted: Value,
}

impl Order<'_> {
    /// Whether the same payment may be sent again: the service would know it by its identifier.
    fn is_repeatable(&self) -> bool {
        self.required.extensions.contains_key(PAYMENT_IDENTIFIER)
    }

    /// The value of `PAYMENT-SIGNATURE` for a scheme's payload; `unique` goes into the payment's identifier.
    fn header<P: Serialize>(&self, payload: P, unique: [u8; 16]) -> Result<String, PayError> {
        let id = format!("hearth-{}", alloy_primitives::hex::encode(unique));
        let payment = PaymentPayload {
            x402_version: Version,
            resource: Some(self.required.resource.clone()),
            accepted: self.accepted.clone(),
            payload,
            extensions: with_payment_identifier(&self.required.extensions, &id),
        };
        encode_header(&payment).map_err(PayError::TooLong)
    }
}

enum Paid {
    Served(Box<PaidResponse>),
    Corrected,
}

fn extra<T: DeserializeOwned>(extra: &Map<String, Value>) -> Result<T, PayError> {
    T::deserialize(extra).map_err(|error| PayError::Offer(error.to_string()))
}

/// What a service asks of a channel with it.
fn channel_terms(requirements: &PaymentRequirements) -> Result<BatchExtra, PayError> {
    extra(&requirements.extra)
}

/// Whether the chains may say that less counts than is counted.
fn may_count_less(declined: &Declined) -> bool {
    matches!(
        declined,
        Declined::PerDay { .. } | Declined::DepositsPerDay { .. } | Declined::Locked { .. }
    )
}

fn header<T: DeserializeOwned>(
    response: &reqwest::Response,
    name: &str,
) -> Option<Result<T, HeaderError>> {
    response
        .headers()
        .get(name)
        .map(|value| decode_header(value.as_bytes()))
}

/// What a 402 asks for; nothing if the response is not one.
fn payment_required(response: &reqwest::Response) -> Result<Option<PaymentRequired>, PayError> {
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(None);
    }
    header(response, PAYMENT_REQUIRED)
        .transpose()
        .map_err(PayError::Unreadable)
}

/// The entry of a 402 that was understood as `requirements`, as it was written.
fn quoted_entry(
    response: &reqwest::Response,
    requirements: &PaymentRequirements,
) -> Result<Value, PayError> {
    let entries = header::<QuotedEntries>(response, PAYMENT_REQUIRED);
    let entry = entries.transpose().map_err(PayError::Unreadable)?;
    entry
        .and_then(|entries| entries.of(requirements))
        .ok_or_else(|| PayError::Offer("the way to pay that was chosen is not in it".to_owned()))
}

fn settle_response(response: &reqwest::Response) -> Option<SettleResponse> {
    header(response, PAYMENT_RESPONSE)?.ok()
}

fn statement(settled: &SettleResponse) -> Result<ChargeStatement, HeaderError> {
    use serde::Deserialize;
    ChargeStatement::deserialize(&settled.extra).map_err(HeaderError::Json)
}

/// A 402 with a settlement header is final.
fn refused_for_good(response: &reqwest::Response) -> Result<(), PayError> {
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(());
    }
    match settle_response(response) {
        Some(settled) => Err(PayError::Refused {
            code: settled.error_reason.unwrap_or_default(),
        }),
        None if !response.headers().contains_key(PAYMENT_REQUIRED) => Err(PayError::Refused {
            code: "payment required".to_owned(),
        }),
        None => Ok(()),
    }
}

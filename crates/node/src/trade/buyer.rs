//! Buying from any x402 service within the household's limits.

use axum::body::Bytes;
use futures::future::BoxFuture;
use hearth_api::money::Money;
use hearth_api::payments::{ChannelTerms, Opened, Payment, Refund, Refunds, Returned};
use hearth_causes::WithCauses;
use hearth_payments::purse::{
    CHANNELS_PER_PROVIDER_MAX, ChannelQuote, ChannelView, PayError, PayerKeys, PriceTag, Purchase,
    Purse, Refunded, Withdrawal,
};
use hearth_payments::store::{OpenError, Store, StoreError};
use hearth_payments::till::{Tasks, TillError, TillKeys, open_escrows};
use hearth_protocol::channel::payer::PrepareError;
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::asset_of;
use hearth_protocol::x402::{ChargeStatement, PaymentRequirements, Scheme, SettleResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use thiserror::Error;
use url::Url;

use crate::advice::{Advice, CHECK_DISK, SEE_HELP, START_AGAIN};
use crate::chains::AccessError;
use crate::home::{Config, Home, HomeError, HomeLock, Part};
use crate::keys::Unlocked;
use crate::roles::{self, payer::device_named};
use crate::terms::{chain_access, chain_accesses, environment, money_of, spending};

/// Why nothing was bought, or nothing came back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The chain.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal of transactions.
    #[error(transparent)]
    Till(#[from] TillError),
    /// The payment.
    #[error(transparent)]
    Pay(Box<PayError>),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The HTTP client.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
}

impl From<PayError> for BuyError {
    fn from(error: PayError) -> Self {
        Self::Pay(Box::new(error))
    }
}

impl Advice for BuyError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Open(_) | Self::Store(_) | Self::Till(_) => "store",
            Self::Pay(error) => match **error {
                PayError::Http(_) | PayError::Slow => "service_unreachable",
                PayError::Declined(_) => "beyond_limits",
                PayError::NotApproved => "not_confirmed",
                PayError::NoChannel | PayError::Prepare(PrepareError::Empty) => "no_channel",
                PayError::Unreached(_) => "device_unreachable",
                PayError::NeedsNode => "not_up",
                PayError::Unseen => "not_seen",
                PayError::Free => "free",
                PayError::NoChannelTaken => "no_channel_taken",
                PayError::Deposit(_) => "not_deposited",
                PayError::NoCoin { .. } => "no_coin",
                PayError::Refused { .. } => "payment_refused",
                _ => "not_paid",
            },
            Self::Asked(_) => "bad_request",
            Self::Http(_) => "http",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Access(error) => error.next_step(),
            Self::Open(_) | Self::Store(_) | Self::Till(_) => CHECK_DISK.to_owned(),
            Self::Pay(error) => match **error {
                PayError::Declined(_) => {
                    "Raise the limits in config.toml if you agree with the price".to_owned()
                }
                PayError::Free | PayError::NoChannelTaken => {
                    "Ask for an address that is sold for payments by channel".to_owned()
                }
                PayError::Deposit(_) => {
                    "See `hearth wallet balances` for what there is, and try again".to_owned()
                }
                PayError::NoCoin { .. } => {
                    "Send some of the chain's own coin to that account. `hearth pay` needs none: there the service \
                     sends the deposit"
                        .to_owned()
                }
                PayError::NotApproved => "Run it again if you change your mind".to_owned(),
                PayError::Unreached(_) => {
                    "Ask again when it is up, or take the rest back without it: `hearth channels close`".to_owned()
                }
                PayError::Unseen => {
                    "See `hearth channels look` in a minute; take the rest back without it: `hearth channels close`"
                        .to_owned()
                }
                PayError::NeedsNode => {
                    "Start `hearth up` and ask again, or take the rest back without the device: `hearth channels close`"
                        .to_owned()
                }
                PayError::Prepare(PrepareError::InFlight) => {
                    "Ask again when the answer that it pays for has ended".to_owned()
                }
                PayError::NoChannel | PayError::Prepare(PrepareError::Empty) => "See `hearth channels` for what there is".to_owned(),
                _ => "See `hearth channels` for what was promised, and try again".to_owned(),
            },
            Self::Asked(_) => SEE_HELP.to_owned(),
            Self::Http(_) => START_AGAIN.to_owned(),
        }
    }
}

/// A request as a person writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The address.
    pub url: String,
    /// Headers as `name: value`.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// How long a service that cannot be reached is tried again, in seconds.
    pub patience_s: u64,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How it was paid.
    pub payment: Option<Payment>,
    /// The body.
    pub body: Bytes,
}

/// What it would take to open a channel with a service, before anything is done.
#[derive(Debug, Clone)]
pub struct ChannelOffer {
    /// The terms.
    pub terms: ChannelTerms,
    url: Url,
    amount: Amount,
    quote: ChannelQuote,
}

/// Who buys for a data folder.
pub struct Buyer {
    purse: Purse,
    config: Config,
    /// The way to devices of the network, where a node is up.
    peers: Option<roles::payer::Payer>,
    /// What is held while no node is up.
    _own: Option<(Tasks, HomeLock)>,
}

impl Buyer {
    /// Opens the purse.
    ///
    /// # Errors
    /// See [`BuyError`].
    pub fn open<'a>(
        home: &'a Home,
        config: Config,
        keys: &'a Unlocked,
    ) -> BoxFuture<'a, Result<Self, BuyError>> {
        Box::pin(async move {
            let lock = home.lock(Part::Payer)?;
            home.make_private()?;
            let store = Store::open(&home.store_path(Part::Payer), &*environment())?;
            let session = keys.session(config.device.index);
            let till_keys = TillKeys {
                account: keys.household(),
                session: session.clone(),
            };
            let mut tasks = Tasks::new();
            let chains = chain_accesses(&config).await;
            if let Some(network) = config
                .network_chain
                .as_ref()
                .filter(|_| chains.all.is_empty())
            {
                // Nothing else could be paid on, so what keeps the network's chain away is the answer.
                chain_access(&config, network.id()).await?;
            }
            let escrows = open_escrows(chains.all, &till_keys, &store, &mut tasks)?;
            let payer_keys = PayerKeys {
                household: keys.household(),
                session,
            };
            let http = hearth_payments::http::client()?;
            let limits = spending(&config);
            let purse = Purse::new(payer_keys, limits, store, escrows, http, environment())?;
            Ok(Self {
                purse,
                config,
                peers: None,
                _own: Some((tasks, lock)),
            })
        })
    }

    /// The payer of a node that is up; `None` where it cannot pay.
    pub(crate) fn of_node(peers: roles::payer::Payer, config: Config) -> Option<Self> {
        Some(Self {
            purse: peers.purse()?.clone(),
            config,
            peers: Some(peers),
            _own: None,
        })
    }

    /// Makes a request; pays where `approve` agrees with the price and what would be deposited first.
    ///
    /// # Errors
    /// See [`BuyError`].
    pub fn buy<'a>(
        &'a self,
        request: &'a Request,
        approve: &'a (dyn Fn(&Money, Option<&Money>) -> bool + Sync),
    ) -> BoxFuture<'a, Result<Answer, BuyError>> {
        Box::pin(async move {
            let purchase = purchase(request)?;
            let agreed = |tag: &PriceTag| {
                let deposit = tag
                    .deposit
                    .map(|amount| self.money(&tag.requirements, amount));
                let price = self.money(&tag.requirements, tag.requirements.amount);
                approve(&price, deposit.as_ref())
            };
            let mut response = self.purse.buy(&purchase, agreed).await?;
            let body = response.bytes().await?;
            let payment = response.requirements.as_ref().map(|requirements| {
                self.payment(requirements, response.status, response.final_receipt())
            });
            Ok(Answer {
                status: response.status.as_u16(),
                payment,
                body,
            })
        })
    }

    fn money(&self, requirements: &PaymentRequirements, amount: Amount) -> Money {
        money_of(
            &self.config,
            requirements.network,
            requirements.asset,
            amount,
        )
    }

    fn payment(
        &self,
        requirements: &PaymentRequirements,
        status: StatusCode,
        receipt: Option<&SettleResponse>,
    ) -> Payment {
        let statement = receipt
            .and_then(|receipt| serde_json::from_value(Value::Object(receipt.extra.clone())).ok())
            .and_then(|statement: ChargeStatement| statement.charged_amount);
        let transaction = receipt.map(|receipt| receipt.transaction.clone());
        // A failure without a statement costs nothing; a success without one at most what was promised.
        let unstated = if receipt.is_none() && status.as_u16() >= 400 {
            Amount::ZERO
        } else {
            requirements.amount
        };
        Payment {
            scheme: scheme_name(&requirements.scheme),
            chain: requirements.network.to_string(),
            ceiling: self.money(requirements, requirements.amount),
            charged: self.money(requirements, statement.unwrap_or(unstated)),
            pay_to: requirements.pay_to.to_string(),
            transaction: transaction.filter(|hash| !hash.is_empty()),
            receipt: receipt.and_then(|receipt| serde_json::to_value(receipt).ok()),
        }
    }

    /// What a channel with the service at `url` and `deposit` whole tokens in it would mean.
    ///
    /// # Errors
    /// See [`BuyError`]; where the deposit makes no sense, or is beyond the limits.
    pub fn channel_offer<'a>(
        &'a self,
        url: &'a str,
        deposit: &'a str,
    ) -> BoxFuture<'a, Result<ChannelOffer, BuyError>> {
        Box::pin(async move {
            let url = service_url(url)?;
            let quote = self.purse.channel_quote(&url).await?;
            let requirements = &quote.requirements;
            let asset = asset_of(requirements).to_string();
            let (_, asset) = self
                .config
                .asset(&asset)
                .ok_or_else(|| BuyError::Asked(format!("the asset {asset:?} is not configured")))?;
            let amount = Amount::parse_decimal(deposit, asset.decimals)
                .map_err(|error| BuyError::Asked(format!("the deposit {deposit:?}: {error}")))?;
            if amount < requirements.amount || amount.is_zero() {
                let price = self.money(requirements, requirements.amount);
                return Err(BuyError::Asked(format!(
                    "a deposit of {deposit} does not cover one request, which costs {} {}",
                    price.amount, price.symbol
                )));
            }
            quote.allows(amount)?;
            let terms = ChannelTerms {
                price: self.money(requirements, requirements.amount),
                deposit: self.money(requirements, amount),
                pay_to: requirements.pay_to.to_string(),
                withdraw_delay_s: quote.withdraw_delay_s(),
            };
            Ok(ChannelOffer {
                terms,
                url,
                amount,
                quote,
            })
        })
    }

    /// Opens the channel that was offered, by a transaction of the household's account.
    ///
    /// # Errors
    /// See [`BuyError`].
    pub fn open_channel<'a>(
        &'a self,
        offer: &'a ChannelOffer,
    ) -> BoxFuture<'a, Result<Opened, BuyError>> {
        Box::pin(async move {
            let opened = self.purse.open_channel(&offer.quote, offer.amount).await?;
            Ok(Opened {
                channel: opened.channel.to_string(),
                chain: offer.quote.requirements.network.to_string(),
                counterpart: offer.terms.pay_to.clone(),
                url: offer.url.to_string(),
                deposit: offer.terms.deposit.clone(),
                transaction: opened.transaction,
            })
        })
    }

    /// Every channel that this device ever paid from.
    pub(super) fn channels(&self) -> Result<Vec<ChannelView>, StoreError> {
        self.purse.channels()
    }

    /// Brings the books up to date with the chains. Returns the channels whose chain could not be read.
    ///
    /// # Errors
    /// See [`BuyError`].
    pub fn look<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, BuyError>> {
        Box::pin(async move {
            let unread = self.purse.look().await?;
            Ok(unread.iter().map(ToString::to_string).collect())
        })
    }

    /// Asks whoever it is to return what is left: in the channel with that id, in those with the
    /// device that the list of channels names so, or in those with the service at that address.
    ///
    /// # Errors
    /// See [`BuyError`]. Once something came back, what fails is in its entry.
    pub fn refund<'a>(&'a self, with: &'a str) -> BoxFuture<'a, Result<Refunds, BuyError>> {
        Box::pin(async move {
            let channel: Option<ChannelId> = with.parse().ok();
            if channel.is_none() && device_named(with).is_none() {
                let url = service_url(with).map_err(|_| {
                    BuyError::Asked(format!(
                        "{with:?} names no channel: write a service's address, what `hearth channels` has under \"with\", or a \
                         channel's id"
                    ))
                })?;
                return self.refund_by(&url).await;
            }
            let is_meant = |view: &ChannelView| match channel {
                Some(channel) => view.channel == channel,
                None => view.stored.url == with && !view.stored.record.refundable().is_zero(),
            };
            let mut refunds = Vec::new();
            for view in self.purse.channels()?.iter().filter(|view| is_meant(view)) {
                let refunded = self.refund_one(view).await;
                self.note(Some(view.channel), refunded, &mut refunds)?;
            }
            if refunds.is_empty() {
                return Err(PayError::NoChannel.into());
            }
            Ok(Refunds { refunds })
        })
    }

    /// Takes back what is left in every channel with the service at `url`.
    async fn refund_by(&self, url: &Url) -> Result<Refunds, BuyError> {
        let mut refunds = Vec::new();
        for _ in 0..CHANNELS_PER_PROVIDER_MAX {
            match self.purse.refund(url, None, None).await {
                Err(PayError::NoChannel) if !refunds.is_empty() => break,
                refunded => {
                    let failed = refunded.is_err();
                    self.note(None, refunded.map_err(BuyError::from), &mut refunds)?;
                    if failed {
                        break;
                    }
                }
            }
        }
        Ok(Refunds { refunds })
    }

    async fn refund_one(&self, view: &ChannelView) -> Result<Refunded, BuyError> {
        let Some(device) = device_named(&view.stored.url) else {
            let url = service_url(&view.stored.url)?;
            return Ok(self.purse.refund(&url, Some(view.channel), None).await?);
        };
        let peers = self.peers.as_ref().ok_or(PayError::NeedsNode)?;
        Ok(peers.refund(device, view.channel).await?)
    }

    /// Adds what came of a refund. The first that fails is an error of its own.
    fn note(
        &self,
        channel: Option<ChannelId>,
        refunded: Result<Refunded, BuyError>,
        refunds: &mut Vec<Refund>,
    ) -> Result<(), BuyError> {
        let refund = match refunded {
            Ok(refunded) => {
                let AssetId { chain, token } = refunded.asset;
                let amount = refunded.settled.amount.as_deref();
                let amount = amount.and_then(|amount| amount.parse().ok());
                let hash = refunded.settled.transaction;
                Refund {
                    channel: Some(refunded.channel.to_string()),
                    returned: amount.map(|amount| money_of(&self.config, chain, token, amount)),
                    transaction: Some(hash).filter(|hash| !hash.is_empty()),
                    problem: None,
                }
            }
            Err(error) if refunds.is_empty() => return Err(error),
            Err(error) => Refund {
                channel: channel.map(|channel| channel.to_string()),
                returned: None,
                transaction: None,
                problem: Some(error.with_causes().to_string()),
            },
        };
        refunds.push(refund);
        Ok(())
    }

    /// Takes the rest of a channel back without the provider's help, in two steps.
    ///
    /// # Errors
    /// See [`BuyError`].
    pub fn close<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Returned, BuyError>> {
        Box::pin(async move {
            let channel: ChannelId = channel
                .parse()
                .map_err(|error| BuyError::Asked(format!("{channel:?}: {error}")))?;
            let (outcome, transaction, returned, ends_at_s) =
                match self.purse.withdraw(channel).await? {
                    Withdrawal::Begun {
                        transaction,
                        ends_at_s,
                    } => ("withdrawal_begun", Some(transaction), None, Some(ends_at_s)),
                    Withdrawal::Waiting { ends_at_s } => {
                        ("withdrawal_waiting", None, None, Some(ends_at_s))
                    }
                    Withdrawal::Finished {
                        transaction,
                        amount,
                        asset,
                    } => ("withdrawn", Some(transaction), Some((asset, amount)), None),
                };
            Ok(Returned {
                outcome: outcome.to_owned(),
                transaction,
                units: returned.map(|(_, amount)| amount.to_string()),
                money: returned.map(|(asset, amount)| {
                    money_of(&self.config, asset.chain, asset.token, amount)
                }),
                ends_at_s,
            })
        })
    }
}

fn scheme_name(scheme: &Scheme) -> String {
    match scheme {
        Scheme::Exact => "exact".to_owned(),
        Scheme::BatchSettlement => "batch-settlement".to_owned(),
        Scheme::Other(name) => name.clone(),
    }
}

fn service_url(text: &str) -> Result<Url, BuyError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| BuyError::Asked(format!("{text:?} is not an http or https URL")))
}

fn purchase(request: &Request) -> Result<Purchase, BuyError> {
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| BuyError::Asked(format!("{:?} is no HTTP method", request.method)))?;
    let mut headers = HeaderMap::new();
    for line in &request.headers {
        let bad = || BuyError::Asked(format!("{line:?} is no header: write \"name: value\""));
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        let value: HeaderValue = value.trim().parse().map_err(|_| bad())?;
        headers.append(name, value);
    }
    Ok(Purchase {
        method,
        url: service_url(&request.url)?,
        headers,
        body: Bytes::from(request.body.clone()),
        patience_ms: request.patience_s.saturating_mul(1_000),
    })
}

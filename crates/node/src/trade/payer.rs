//! Buying from any x402 service within the household's limits.

use std::collections::BTreeMap;

use axum::body::Bytes;
use futures::future::BoxFuture;
use hearth_api::money::Money;
use hearth_api::payments::{ChannelTerms, Opened, Payment, Refund, Refunds, Returned};
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Spending, asset_of};
use hearth_protocol::x402::{ChargeStatement, PaymentRequirements, Scheme, SettleResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::{TradeError, chain_access, chain_accesses, environment, money_of};
use crate::home::{Config, Home, HomeLock, Part};
use crate::keys::Unlocked;
use crate::payments::purse::{
    CHANNELS_PER_PROVIDER_MAX, ChannelQuote, ChannelView, PayError, PayerKeys, PriceTag, Purchase,
    Purse, Refunded, Withdrawal,
};
use crate::payments::till::{Tasks, TillKeys, open_escrows};
use crate::roles::{self, payer::device_named};
use crate::store::Store;

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

/// The payer of a data folder.
pub struct Payer {
    purse: Purse,
    config: Config,
    /// The way to devices of the network, where a node is up.
    peers: Option<roles::payer::Payer>,
    /// What is held while no node is up.
    _own: Option<(Tasks, HomeLock)>,
}

impl Payer {
    /// Opens the purse.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub fn open<'a>(
        home: &'a Home,
        config: Config,
        keys: &'a Unlocked,
    ) -> BoxFuture<'a, Result<Self, TradeError>> {
        Box::pin(async move {
            let lock = home.lock(Part::Payer)?;
            home.make_private()?;
            let store = Store::open(&home.store_path(Part::Payer))?;
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
            let http = crate::http::client()?;
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
    /// See [`TradeError`].
    pub fn buy<'a>(
        &'a self,
        request: &'a Request,
        approve: &'a (dyn Fn(&Money, Option<&Money>) -> bool + Sync),
    ) -> BoxFuture<'a, Result<Answer, TradeError>> {
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
    /// See [`TradeError`]; where the deposit makes no sense, or is beyond the limits.
    pub fn channel_offer<'a>(
        &'a self,
        url: &'a str,
        deposit: &'a str,
    ) -> BoxFuture<'a, Result<ChannelOffer, TradeError>> {
        Box::pin(async move {
            let url = service_url(url)?;
            let quote = self.purse.channel_quote(&url).await?;
            let requirements = &quote.requirements;
            let asset = asset_of(requirements).to_string();
            let (_, asset) = self.config.asset(&asset).ok_or_else(|| {
                TradeError::Asked(format!("the asset {asset:?} is not configured"))
            })?;
            let amount = Amount::parse_decimal(deposit, asset.decimals)
                .map_err(|error| TradeError::Asked(format!("the deposit {deposit:?}: {error}")))?;
            if amount < requirements.amount || amount.is_zero() {
                let price = self.money(requirements, requirements.amount);
                return Err(TradeError::Asked(format!(
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
    /// See [`TradeError`].
    pub fn open_channel<'a>(
        &'a self,
        offer: &'a ChannelOffer,
    ) -> BoxFuture<'a, Result<Opened, TradeError>> {
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
    ///
    /// # Errors
    /// See [`TradeError`].
    pub fn channels(&self) -> Result<Vec<ChannelView>, TradeError> {
        Ok(self.purse.channels()?)
    }

    /// Brings the books up to date with the chains. Returns the channels whose chain could not be read.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub fn look<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, TradeError>> {
        Box::pin(async move {
            let unread = self.purse.look().await?;
            Ok(unread.iter().map(ToString::to_string).collect())
        })
    }

    /// Asks whoever it is to return what is left: in the channel with that id, in those with the
    /// device that the list of channels names so, or in those with the service at that address.
    ///
    /// # Errors
    /// See [`TradeError`]. Once something came back, what fails is in its entry.
    pub fn refund<'a>(&'a self, with: &'a str) -> BoxFuture<'a, Result<Refunds, TradeError>> {
        Box::pin(async move {
            let channel: Option<ChannelId> = with.parse().ok();
            if channel.is_none() && device_named(with).is_none() {
                let url = service_url(with).map_err(|_| {
                    TradeError::Asked(format!(
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
    async fn refund_by(&self, url: &Url) -> Result<Refunds, TradeError> {
        let mut refunds = Vec::new();
        for _ in 0..CHANNELS_PER_PROVIDER_MAX {
            match self.purse.refund(url, None, None).await {
                Err(PayError::NoChannel) if !refunds.is_empty() => break,
                refunded => {
                    let failed = refunded.is_err();
                    self.note(None, refunded.map_err(TradeError::from), &mut refunds)?;
                    if failed {
                        break;
                    }
                }
            }
        }
        Ok(Refunds { refunds })
    }

    async fn refund_one(&self, view: &ChannelView) -> Result<Refunded, TradeError> {
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
        refunded: Result<Refunded, TradeError>,
        refunds: &mut Vec<Refund>,
    ) -> Result<(), TradeError> {
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
                problem: Some(error.to_string()),
            },
        };
        refunds.push(refund);
        Ok(())
    }

    /// Takes the rest of a channel back without the provider's help, in two steps.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub fn close<'a>(&'a self, channel: &'a str) -> BoxFuture<'a, Result<Returned, TradeError>> {
        Box::pin(async move {
            let channel: ChannelId = channel
                .parse()
                .map_err(|error| TradeError::Asked(format!("{channel:?}: {error}")))?;
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

pub(crate) fn spending(config: &Config) -> Spending {
    let limit = |asset: &crate::home::AssetConfig| AssetLimit {
        per_payment: asset.limits.per_payment,
        per_deposit: asset.limits.per_deposit,
        per_day: asset.limits.per_day,
        deposits_per_day: asset.limits.deposits_per_day,
        locked: asset.limits.locked,
        withdraw_delay_s_max: asset.limits.withdraw_delay_s_max,
    };
    let limits: BTreeMap<AssetId, AssetLimit> = config
        .assets
        .values()
        .map(|asset| (asset.id, limit(asset)))
        .collect();
    Spending(limits)
}

fn service_url(text: &str) -> Result<Url, TradeError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| TradeError::Asked(format!("{text:?} is not an http or https URL")))
}

fn purchase(request: &Request) -> Result<Purchase, TradeError> {
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| TradeError::Asked(format!("{:?} is no HTTP method", request.method)))?;
    let mut headers = HeaderMap::new();
    for line in &request.headers {
        let bad = || TradeError::Asked(format!("{line:?} is no header: write \"name: value\""));
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

//! Buying from any x402 service within the household's limits.

use std::collections::BTreeMap;

use axum::body::Bytes;
use hearth_api::money::Money;
use hearth_api::payments::{Opened, Payment, Returned};
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Spending, asset_of};
use hearth_protocol::x402::{ChargeStatement, PaymentRequirements, Scheme, SettleResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::{TradeError, environment, money_of, reachable_chains};
use crate::home::{Config, Home, HomeLock, Part};
use crate::keys::Unlocked;
use crate::payments::purse::{
    ChannelQuote, ChannelView, PayerKeys, PriceTag, Purchase, Purse, Withdrawal,
};
use crate::payments::till::{Tasks, TillKeys, open_escrows};
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
    /// The most that one request costs.
    pub price: Money,
    /// What would go into the channel.
    pub deposit: Money,
    /// Who would be paid.
    pub pay_to: String,
    /// How long it takes to withdraw without the service, in seconds.
    pub withdraw_delay_s: u64,
    url: Url,
    amount: Amount,
    quote: ChannelQuote,
}

/// The payer of a data folder.
#[derive(Debug)]
pub struct Payer {
    purse: Purse,
    config: Config,
    _tasks: Tasks,
    _lock: HomeLock,
}

impl Payer {
    /// Opens the purse.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub async fn open(home: &Home, config: Config, keys: &Unlocked) -> Result<Self, TradeError> {
        let lock = home.lock(Part::Payer)?;
        let store = Store::open(&home.store_path(Part::Payer))?;
        let session = keys.session(config.device.index);
        let till_keys = TillKeys {
            account: keys.household(),
            session: session.clone(),
        };
        let mut tasks = Tasks::new();
        let chains = reachable_chains(&config).await;
        let escrows = open_escrows(chains, &till_keys, &store, &mut tasks)?;
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
            _tasks: tasks,
            _lock: lock,
        })
    }

    /// Makes a request; pays where `approve` agrees with the price and what would be deposited first.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub async fn buy(
        &self,
        request: &Request,
        approve: impl Fn(&Money, Option<&Money>) -> bool,
    ) -> Result<Answer, TradeError> {
        let purchase = purchase(request)?;
        let agreed = async |tag: &PriceTag| {
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
    pub async fn channel_offer(
        &self,
        url: &str,
        deposit: &str,
    ) -> Result<ChannelOffer, TradeError> {
        let url = service_url(url)?;
        let quote = self.purse.channel_quote(&url).await?;
        let requirements = &quote.requirements;
        let asset = asset_of(requirements).to_string();
        let (_, asset) = self
            .config
            .asset(&asset)
            .ok_or_else(|| TradeError::Asked(format!("the asset {asset:?} is not configured")))?;
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
        Ok(ChannelOffer {
            price: self.money(requirements, requirements.amount),
            deposit: self.money(requirements, amount),
            pay_to: requirements.pay_to.to_string(),
            withdraw_delay_s: quote.withdraw_delay_s(),
            url,
            amount,
            quote,
        })
    }

    /// Opens the channel that was offered, by a transaction of the household's account.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub async fn open_channel(&self, offer: &ChannelOffer) -> Result<Opened, TradeError> {
        let opened = self.purse.open_channel(&offer.quote, offer.amount).await?;
        Ok(Opened {
            channel: opened.channel.to_string(),
            chain: offer.quote.requirements.network.to_string(),
            counterpart: offer.pay_to.clone(),
            url: offer.url.to_string(),
            deposit: offer.deposit.clone(),
            transaction: opened.transaction,
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
    pub async fn look(&self) -> Result<Vec<String>, TradeError> {
        let unread = self.purse.look().await?;
        Ok(unread.iter().map(ToString::to_string).collect())
    }

    /// Asks the service at `url` to return what is left.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub async fn refund(&self, url: &str) -> Result<Returned, TradeError> {
        let url = service_url(url)?;
        let settled = self.purse.refund(&url, None, None).await?;
        Ok(Returned {
            outcome: "refunded".to_owned(),
            transaction: Some(settled.transaction).filter(|hash| !hash.is_empty()),
            units: settled.amount.filter(|amount| !amount.is_empty()),
            ends_at_s: None,
        })
    }

    /// Takes the rest of a channel back without the provider's help, in two steps.
    ///
    /// # Errors
    /// See [`TradeError`].
    pub async fn close(&self, channel: &str) -> Result<Returned, TradeError> {
        let channel: ChannelId = channel
            .parse()
            .map_err(|error| TradeError::Asked(format!("{channel:?}: {error}")))?;
        let (outcome, transaction, units, ends_at_s) = match self.purse.withdraw(channel).await? {
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
            } => (
                "withdrawn",
                Some(transaction),
                Some(amount.to_string()),
                None,
            ),
        };
        Ok(Returned {
            outcome: outcome.to_owned(),
            transaction,
            units,
            ends_at_s,
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

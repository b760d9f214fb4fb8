//! What was promised on either side, and claims on demand.

use alloy_primitives::B256;
use futures::future::BoxFuture;
use hearth_api::payments::{Channel, Channels, Claim, Claims};
use hearth_causes::WithCauses;
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::purse::{PAYER_CHANNELS, StoredPayerChannel};
use hearth_payments::settlement::ClaimReport;
use hearth_payments::store::{OpenError, Store, StoreError};
use hearth_payments::till::{Tasks, Till};
use hearth_protocol::channel::payer::Status;
use hearth_protocol::id::{AssetId, ChannelId};
use hearth_protocol::money::Amount;
use thiserror::Error;

use super::Buyer;
use super::service::{OpenTillError, open_till};
use crate::advice::{Advice, CHECK_DISK, SEE_HELP, START_AGAIN};
use crate::home::{Config, Home, HomeError, HomeLock, Part};
use crate::keys::Unlocked;
use crate::terms::{environment, money_of, policy};

/// Why what was promised cannot be shown or settled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BooksError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The books, and the way to the chain.
    #[error(transparent)]
    Till(#[from] OpenTillError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// A part stopped by itself.
    #[error("{0} stopped")]
    Stopped(&'static str),
}

impl Advice for BooksError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Till(error) => error.code(),
            Self::Open(_) | Self::Store(_) => "store",
            Self::Asked(_) => "bad_request",
            Self::Stopped(_) => "stopped",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Till(error) => error.next_step(),
            Self::Open(_) | Self::Store(_) => CHECK_DISK.to_owned(),
            Self::Asked(_) => SEE_HELP.to_owned(),
            Self::Stopped(_) => START_AGAIN.to_owned(),
        }
    }
}

/// Every channel of this device, on both sides, as the stores have them. A store in use is reported, not waited for.
///
/// # Errors
/// See [`BooksError`].
pub fn list(home: &Home, config: &Config) -> Result<Channels, BooksError> {
    let mut problems = Vec::new();
    let mut channels = Vec::new();
    if let Some((store, _lock)) = idle_store(home, Part::Payer, &mut problems)? {
        channels = paying_in(config, &store)?;
    }
    with_earning(home, config, channels, problems)
}

/// The same from stores that a running node has open; it may earn nothing.
pub(crate) fn list_open(
    config: &Config,
    payer: &Store,
    provider: Option<&Store>,
) -> Result<Channels, StoreError> {
    let earning = provider.map(|store| earning_in(config, store));
    Ok(Channels {
        paying: paying_in(config, payer)?,
        earning: earning.transpose()?.unwrap_or_default(),
        problems: Vec::new(),
    })
}

fn paying_in(config: &Config, store: &Store) -> Result<Vec<Channel>, StoreError> {
    let mut channels = Vec::new();
    store.each(PAYER_CHANNELS, |key, stored: StoredPayerChannel| {
        channels.push(paying(config, channel_id(key), &stored));
    })?;
    Ok(channels)
}

fn earning_in(config: &Config, store: &Store) -> Result<Vec<Channel>, StoreError> {
    let mut channels = Vec::new();
    store.each(PROVIDER_CHANNELS, |key, stored: StoredChannel| {
        channels.push(earning(config, key, &stored));
    })?;
    Ok(channels)
}

/// The same where `payer` has the payer's store.
///
/// # Errors
/// See [`BooksError`].
pub fn list_with(home: &Home, config: &Config, payer: &Buyer) -> Result<Channels, BooksError> {
    let views = payer.channels()?;
    let channels = views
        .iter()
        .map(|view| paying(config, view.channel.to_string(), &view.stored))
        .collect();
    with_earning(home, config, channels, Vec::new())
}

fn with_earning(
    home: &Home,
    config: &Config,
    paying: Vec<Channel>,
    mut problems: Vec<String>,
) -> Result<Channels, BooksError> {
    let mut channels = Vec::new();
    if let Some((store, _lock)) = idle_store(home, Part::Provider, &mut problems)? {
        channels = earning_in(config, &store)?;
    }
    Ok(Channels {
        paying,
        earning: channels,
        problems,
    })
}

/// The store of a part that has one and that no process is using.
fn idle_store(
    home: &Home,
    part: Part,
    problems: &mut Vec<String>,
) -> Result<Option<(Store, HomeLock)>, BooksError> {
    let path = home.store_path(part);
    if !path.exists() {
        return Ok(None);
    }
    match home.lock(part) {
        Ok(lock) => Ok(Some((Store::open(&path, &*environment())?, lock))),
        Err(error) => {
            problems.push(error.with_causes().to_string());
            Ok(None)
        }
    }
}

fn channel_id(key: &[u8]) -> String {
    B256::try_from(key).map_or_else(|_| String::new(), |id| ChannelId(id).to_string())
}

fn paying(config: &Config, channel: String, stored: &StoredPayerChannel) -> Channel {
    let record = &stored.record;
    let parameters = &record.config;
    let money = |amount| money_of(config, stored.chain, parameters.token, amount);
    let status = match record.status {
        Status::Open => "open",
        Status::Refunding => "refunding",
        Status::Closed => "closed",
        Status::Distrusted(_) => "distrusted",
    };
    Channel {
        channel,
        chain: stored.chain.to_string(),
        counterpart: parameters.receiver.to_string(),
        url: Some(stored.url.clone()),
        status: status.to_owned(),
        balance: money(record.balance),
        reserved: money(record.reserved()),
        charged: money(record.charged),
        claimed: money(record.total_claimed),
        due: money(record.refundable()),
    }
}

fn earning(config: &Config, key: &[u8], stored: &StoredChannel) -> Channel {
    let record = &stored.record;
    let parameters = &record.config;
    let money = |amount| money_of(config, stored.chain, parameters.token, amount);
    let onchain = record.onchain.unwrap_or_default();
    let signed = record
        .voucher
        .as_ref()
        .map_or(Amount::ZERO, |voucher| voucher.max_claimable);
    Channel {
        channel: channel_id(key),
        chain: stored.chain.to_string(),
        counterpart: parameters.payer.to_string(),
        url: None,
        status: "open".to_owned(),
        balance: money(onchain.balance),
        reserved: money(signed.saturating_sub(record.charged)),
        charged: money(record.charged),
        claimed: money(onchain.total_claimed),
        due: money(record.unclaimed()),
    }
}

/// The provider's books of a data folder, while no service is running.
#[derive(Debug)]
pub struct Books {
    till: Till,
    config: Config,
    _tasks: Tasks,
    _lock: HomeLock,
}

impl Books {
    /// Opens the books, with the way to the chain of the asset named.
    ///
    /// # Errors
    /// See [`BooksError`]; a service that is running has the books.
    pub fn open<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        asset: &'a str,
    ) -> BoxFuture<'a, Result<Self, BooksError>> {
        Box::pin(async move {
            let (_, asset) = config.asset(asset).ok_or_else(|| {
                BooksError::Asked(format!("the asset {asset:?} is not configured"))
            })?;
            let lock = home.lock(Part::Provider)?;
            let mut tasks = Tasks::new();
            // Nothing is claimed for being old or large while the books are open: only what is asked for.
            let patient = policy(&config.provider.claim, Amount::MAX);
            let till = open_till(home, config, keys, asset, patient, None, &mut tasks).await?;
            Ok(Self {
                till,
                config: config.clone(),
                _tasks: tasks,
                _lock: lock,
            })
        })
    }

    /// Claims everything that is due.
    ///
    /// # Errors
    /// See [`BooksError`]; what goes wrong on a chain is in its claim.
    pub fn claim<'a>(&'a self) -> BoxFuture<'a, Result<Claims, BooksError>> {
        Box::pin(async move { claim_all(&self.till, &self.config).await })
    }
}

/// Claims everything that is due on the channels of `till`.
pub(crate) async fn claim_all(till: &Till, config: &Config) -> Result<Claims, BooksError> {
    let reports = till.settlement.claim(true).await?;
    // Who looks at the books next sees what was claimed.
    let written = till.desk.written().await;
    written.map_err(|_| BooksError::Stopped("the payment desk"))?;
    Ok(Claims {
        claims: reports.iter().map(|report| claim(report, config)).collect(),
    })
}

fn claim(report: &ClaimReport, config: &Config) -> Claim {
    let (transaction, units, problem) = match &report.outcome {
        Ok((hash, amount)) => (Some(hash.to_string()), Some(amount.to_string()), None),
        Err(error) => (None, None, Some(error.with_causes().to_string())),
    };
    let AssetId { chain, token } = report.asset;
    let money = report.outcome.as_ref().ok();
    let money = money.map(|(_, amount)| money_of(config, chain, token, *amount));
    let dropped = |(channel, reason): &(ChannelId, String)| format!("{channel}: {reason}");
    Claim {
        chain: chain.to_string(),
        channels: report.channels,
        transaction,
        units,
        money,
        problem,
        dropped: report.dropped.iter().map(dropped).collect(),
    }
}

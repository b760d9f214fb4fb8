//! A paid reverse proxy in front of any HTTP service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use alloy_primitives::Address;
use futures::future::BoxFuture;
use hearth_api::payments::ServiceReady;
use hearth_causes::WithCauses;
use hearth_chain::client::ChainError;
use hearth_payments::facilitator::{Callers, Facilitator, FindCaller};
use hearth_payments::gate::Gate;
use hearth_payments::offer::{AcceptedAsset, FixedPrice, Price};
use hearth_payments::proxy::Upstream;
use hearth_payments::store::{OpenError, Store};
use hearth_payments::till::{Tasks, Till, TillError, TillKeys, open_escrows};
use hearth_payments::watchtower::TowerClient;
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::id::ChainId;
use hearth_protocol::money::Amount;
use thiserror::Error;
use url::Url;

use crate::advice::{Advice, CHECK_DISK, SEE_HELP, START_AGAIN};
use crate::api_keys::Keys;
use crate::chains::AccessError;
use crate::home::{AT_ONCE_MAX, AssetConfig, Config, Home, HomeError, HomeLock, Part};
use crate::http::{self, Budget, ListenError, Listener, Policy, Shutdown, bind};
use crate::keys::Unlocked;
use crate::terms::{accepted, chain_access, environment, policy};
use crate::wallet::money;

/// Why a till cannot be opened over a data folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenTillError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The chain.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The journal of transactions.
    #[error(transparent)]
    Till(#[from] TillError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
}

impl Advice for OpenTillError {
    fn code(&self) -> &str {
        match self {
            Self::Open(_) | Self::Till(_) => "store",
            Self::Access(error) => error.code(),
            Self::Randomness => "no_randomness",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Open(_) | Self::Till(_) => CHECK_DISK.to_owned(),
            Self::Access(error) => error.next_step(),
            Self::Randomness => START_AGAIN.to_owned(),
        }
    }
}

/// Why a service is not sold.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The books, and the way to the chain.
    #[error(transparent)]
    Till(#[from] OpenTillError),
    /// The chain failed.
    #[error("the chain could not be asked")]
    Chain(#[from] ChainError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The facilitator would be open to others.
    #[error("others could reach a facilitator at {0}")]
    NotLoopback(SocketAddr),
    /// The watchtower serves others.
    #[error("the watchtower does not serve this device's session key {0}")]
    Unserved(Address),
    /// The watchtower knows nothing of the chain.
    #[error("the watchtower does not watch {0}")]
    Unwatched(ChainId),
    /// The HTTP client.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
    /// A part stopped by itself.
    #[error("{0} stopped")]
    Stopped(&'static str),
}

impl Advice for ServeError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Till(error) => error.code(),
            Self::Chain(_) => "chain_unavailable",
            Self::Asked(_) => "bad_request",
            Self::Listen(error) => error.code(),
            Self::NotLoopback(_) => "not_loopback",
            Self::Unserved(_) | Self::Unwatched(_) => "not_watched",
            Self::Http(_) => "http",
            Self::Stopped(_) => "stopped",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Till(error) => error.next_step(),
            Self::Chain(_) => "Try again, or name another endpoint in config.toml".to_owned(),
            Self::Asked(_) => SEE_HELP.to_owned(),
            Self::Listen(error) => error.next_step(),
            Self::NotLoopback(_) => {
                "Name a loopback address such as 127.0.0.1:4023, or add --facilitator-beyond-loopback if you trust \
                 everyone who can reach it"
                    .to_owned()
            }
            Self::Unserved(key) => format!("Start the watchtower with `hearth watch --for {key}`"),
            Self::Unwatched(chain) => {
                format!("Add {chain} to the watchtower's config.toml, and start it again")
            }
            Self::Http(_) | Self::Stopped(_) => START_AGAIN.to_owned(),
        }
    }
}

/// What to sell, for how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeOptions {
    /// The price of a request, in whole tokens.
    pub price: String,
    /// The asset, by name or CAIP-19 id.
    pub asset: String,
    /// For how many requests at once the quoted ceiling leaves room on one voucher; 1 to
    /// [`AT_ONCE_MAX`].
    pub at_once: u32,
    /// The service behind the price.
    pub upstream: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address under which the world knows the service.
    pub base_url: Option<String>,
    /// What is sold, for people.
    pub description: Option<String>,
    /// Claims wait until a claim brings this many whole tokens, unless one is urgent.
    pub claim_at_least: String,
    /// The watchtower to which claims are handed.
    pub watchtower: Option<String>,
    /// Where the facilitator listens, if there shall be one.
    pub facilitator: Option<FacilitatorOptions>,
    /// Whether one-off payments are taken too. Each costs this device a transaction.
    pub exact: bool,
}

/// Where a facilitator listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FacilitatorOptions {
    /// The address.
    pub listen: SocketAddr,
    /// Whether it may be one that others can reach. Whoever has an API key of the household can spend its gas there, and
    /// have its session key sign for channels of which it is the first to show a voucher.
    pub beyond_loopback: bool,
}

/// A paid service that listens, and answers once it is served.
#[derive(Debug)]
pub struct PaidService {
    ready: ServiceReady,
    router: axum::Router,
    listener: Listener,
    budget: Budget,
    tasks: Tasks,
    _lock: HomeLock,
}

impl PaidService {
    /// Opens the books, the way to the chain, and the port.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn open<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        options: ServeOptions,
    ) -> BoxFuture<'a, Result<Self, ServeError>> {
        Box::pin(async move {
            let (symbol, asset) = config.asset(&options.asset).ok_or_else(|| {
                ServeError::Asked(format!("the asset {:?} is not configured", options.asset))
            })?;
            let price = price(&options, asset)?;
            let upstream = http_url(&options.upstream)?;
            let least = Amount::parse_decimal(&options.claim_at_least, asset.decimals)
                .map_err(|error| ServeError::Asked(format!("what to claim at least: {error}")))?;
            let accepted = AcceptedAsset {
                exact: options.exact,
                ..taken(config, keys, asset)?
            };
            let lock = home.lock(Part::Provider)?;
            home.make_private()?;
            let (listener, address) = bind(options.listen).await?;
            let mut warnings = Vec::new();
            let tower = match &options.watchtower {
                Some(url) => Some(tower(url, &accepted, &mut warnings).await?),
                None => None,
            };
            let mut tasks = Tasks::new();
            let budget = Budget::of_process();
            let policy = policy(&config.provider.claim, least);
            let till = open_till(home, config, keys, asset, policy, tower, &mut tasks).await?;
            warnings.extend(unweighed_gas(&till, symbol, asset).await?);
            let office = Office(home, config, keys, &till, &budget);
            let facilitator = office.open(options.facilitator, &mut tasks, &mut warnings);
            let facilitator = facilitator.await?;
            let ready = ServiceReady {
                url: format!("http://{address}"),
                upstream: upstream.to_string(),
                price: money(symbol, asset, price.need),
                ceiling: money(symbol, asset, price.ceiling),
                pay_to: accepted.receiver.to_string(),
                receiver_authorizer: accepted.receiver_authorizer.to_string(),
                withdraw_delay_s: accepted.withdraw_delay,
                facilitator,
                watchtower: options.watchtower,
                warnings,
            };
            let gate = Gate {
                assets: vec![accepted],
                pricing: Box::new(FixedPrice(vec![(asset.id, price)])),
                desk: till.desk,
                cashier: till.cashier,
                replies: till.replies,
                base_url: options.base_url,
                description: options.description,
                environment: environment(),
            };
            let router = Upstream::new(upstream, hearth_payments::http::client()?, asset.decimals)
                .router(gate);
            Ok(Self {
                ready,
                router,
                listener,
                budget,
                tasks,
                _lock: lock,
            })
        })
    }

    /// Where it is and what it costs.
    pub fn ready(&self) -> &ServiceReady {
        &self.ready
    }

    /// Answers until `shutdown` resolves, then finishes the requests it has.
    ///
    /// # Errors
    /// [`ServeError::Stopped`] where a part ended by itself: nothing more can be promised then.
    pub fn serve(self, shutdown: Shutdown) -> BoxFuture<'static, Result<(), ServeError>> {
        Box::pin(self.serve_until(shutdown))
    }

    async fn serve_until(mut self, shutdown: Shutdown) -> Result<(), ServeError> {
        let policy = Policy::public(self.budget).opaque();
        let served = http::serve(self.listener, self.router, policy, shutdown);
        tokio::select! {
            () = served => Ok(()),
            ended = self.tasks.join_next() => {
                let part = ended.and_then(Result::ok).unwrap_or("a part of the till");
                Err(ServeError::Stopped(part))
            }
        }
    }
}

/// The till of a data folder, for the chain of one asset.
pub(super) async fn open_till(
    home: &Home,
    config: &Config,
    keys: &Unlocked,
    asset: &AssetConfig,
    policy: ClaimPolicy,
    tower: Option<TowerClient>,
    tasks: &mut Tasks,
) -> Result<Till, OpenTillError> {
    let environment = environment();
    let store = Store::open(&home.store_path(Part::Provider), &*environment)?;
    let chains = vec![chain_access(config, asset.id.chain).await?];
    let till_keys = TillKeys {
        account: keys.household(),
        session: keys.session(config.device.index),
    };
    let mut escrows = open_escrows(chains, &till_keys, &store, tasks)?;
    for asset in config.assets.values() {
        if let Some(worth) = asset.coin_worth {
            escrows.set_coin_worth(asset.id, worth);
        }
    }
    let run = environment
        .draw_u64()
        .map_err(|_| OpenTillError::Randomness)?;
    Ok(Till::open(
        &store,
        escrows,
        policy,
        tower,
        &environment,
        run,
        tasks,
    ))
}

/// The terms on which an asset is taken.
fn taken(
    config: &Config,
    keys: &Unlocked,
    asset: &AssetConfig,
) -> Result<AcceptedAsset, ServeError> {
    accepted(config, keys, asset).ok_or_else(|| {
        let reason = "the asset has no eip712 name and version in config.toml";
        ServeError::Asked(reason.to_owned())
    })
}

/// The price of a request, and the ceiling that is quoted for it. A client signs one voucher for all
/// the requests that it makes at the same time, so a ceiling of several prices lets several through.
fn price(options: &ServeOptions, asset: &AssetConfig) -> Result<Price, ServeError> {
    let text = &options.price;
    let need = Amount::parse_decimal(text, asset.decimals)
        .map_err(|error| ServeError::Asked(format!("the price {text:?}: {error}")))?;
    if need.is_zero() {
        return Err(ServeError::Asked("a price of nothing".to_owned()));
    }
    if !(1..=AT_ONCE_MAX).contains(&options.at_once) {
        return Err(ServeError::Asked(format!(
            "a ceiling is quoted for 1 to {AT_ONCE_MAX} requests at once"
        )));
    }
    let ceiling = need.saturating_mul(u128::from(options.at_once));
    Ok(Price { need, ceiling })
}

/// The warning that claims cannot be weighed against their gas.
async fn unweighed_gas(
    till: &Till,
    symbol: &str,
    asset: &AssetConfig,
) -> Result<Option<String>, ServeError> {
    let Some(escrow) = till.escrows.get(asset.id.chain) else {
        return Ok(None);
    };
    if asset.coin_worth.is_some() || escrow.client().gas_price().await? == 0 {
        return Ok(None);
    }
    Ok(Some(format!(
        "Gas is not free on {}, and config.toml does not say what its coin is worth in {symbol} (coin_worth): claims are \
         made from --claim-at-least on, whatever their gas costs",
        asset.id.chain
    )))
}

/// What a facilitator is opened with.
struct Office<'a>(&'a Home, &'a Config, &'a Unlocked, &'a Till, &'a Budget);

impl Office<'_> {
    /// A warning where nobody has a key yet that would be let in.
    fn keyless(&self) -> Option<String> {
        let known = Keys::open(self.0).ok()?;
        let warning = "No service can use the facilitator yet: `hearth keys new NAME` makes the API key that it shows";
        known.list().is_empty().then(|| warning.to_owned())
    }

    /// Starts the facilitator beside the till if there shall be one, and says where it is.
    async fn open(
        &self,
        wanted: Option<FacilitatorOptions>,
        tasks: &mut Tasks,
        warnings: &mut Vec<String>,
    ) -> Result<Option<String>, ServeError> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let Self(_, config, keys, till, budget) = self;
        if !wanted.beyond_loopback && !wanted.listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback(wanted.listen));
        }
        let (listener, address) = bind(wanted.listen).await?;
        warnings.extend(self.keyless());
        let receivers = BTreeSet::from([keys.address()]);
        let callers = Callers::new(till.store.clone(), self.find_caller());
        let escrows = till.escrows.clone();
        let facilitator = Facilitator::new(escrows, receivers, callers, environment())
            .beside_desk(till.store.clone());
        let policy = Policy::household(address, &config.api.names, (*budget).clone());
        tasks.spawn(async move {
            let never = Box::pin(std::future::pending());
            http::serve(listener, facilitator.router(), policy, never).await;
            "the facilitator"
        });
        Ok(Some(format!("http://{address}")))
    }

    /// Looks keys up in the file each time, so that one that was just made or taken away counts at once.
    fn find_caller(&self) -> FindCaller {
        let (home, config) = (self.0.clone(), self.1.clone());
        Arc::new(move |text| {
            let table = Keys::open(&home).and_then(|keys| keys.table(&config));
            match table {
                Ok(table) => table.find(text).map(|key| key.name.clone()),
                Err(error) => {
                    tracing::warn!(error = %error.with_causes(), "the facilitator knows no API key");
                    None
                }
            }
        })
    }
}

/// The way to a watchtower. One that serves others is refused, because it would refuse every claim; one that does not
/// answer may come later.
async fn tower(
    url: &str,
    accepted: &AcceptedAsset,
    warnings: &mut Vec<String>,
) -> Result<TowerClient, ServeError> {
    let url = http_url(url)?;
    let client = TowerClient::new(&url, hearth_payments::http::client()?)
        .map_err(|error| ServeError::Asked(format!("the watchtower at {url}: {error}")))?;
    match client.scope().await {
        Ok(scope) if !scope.authorizers.contains(&accepted.receiver_authorizer) => {
            return Err(ServeError::Unserved(accepted.receiver_authorizer));
        }
        Ok(scope) if !scope.networks.contains(&accepted.chain()) => {
            return Err(ServeError::Unwatched(accepted.chain()));
        }
        Ok(_) => {}
        Err(error) => warnings.push(format!(
            "Nobody watches yet: {}; claims are handed over once {url} answers",
            error.with_causes()
        )),
    }
    Ok(client)
}

fn http_url(text: &str) -> Result<Url, ServeError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| ServeError::Asked(format!("{text:?} is not an http or https URL")))
}

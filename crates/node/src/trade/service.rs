//! A paid reverse proxy in front of any HTTP service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use hearth_api::payments::ServiceReady;
use hearth_causes::WithCauses;
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::money::Amount;
use url::Url;

use super::{TradeError, bind, chain_access, environment};
use crate::home::{AssetConfig, ClaimConfig, Config, Home, HomeLock, Part};
use crate::household::keys::Keys;
use crate::http::proxy::Upstream;
use crate::http::{self, Budget, Listener, Policy, Shutdown};
use crate::keys::Unlocked;
use crate::payments::facilitator::{Callers, Facilitator, FindCaller};
use crate::payments::gate::Gate;
use crate::payments::offer::{AcceptedAsset, DEPOSIT_CEILINGS, FixedPrice, Price};
use crate::payments::till::{Tasks, Till, TillKeys, open_escrows};
use crate::payments::watchtower::TowerClient;
use crate::store::Store;
use crate::wallet::money;

/// The most requests for which a quoted ceiling leaves room: no channel works on more.
pub const AT_ONCE_MAX: u32 = 256;
/// Millionths in a percent.
const PPM_PER_PERCENT: u32 = 10_000;

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
    /// See [`TradeError`].
    pub fn open<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        options: ServeOptions,
    ) -> BoxFuture<'a, Result<Self, TradeError>> {
        Box::pin(async move {
            let (symbol, asset) = config.asset(&options.asset).ok_or_else(|| {
                TradeError::Asked(format!("the asset {:?} is not configured", options.asset))
            })?;
            let price = price(&options, asset)?;
            let upstream = http_url(&options.upstream)?;
            let least = Amount::parse_decimal(&options.claim_at_least, asset.decimals)
                .map_err(|error| TradeError::Asked(format!("what to claim at least: {error}")))?;
            let accepted = AcceptedAsset {
                exact: options.exact,
                ..accepted(config, keys, asset)?
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
            let router =
                Upstream::new(upstream, crate::http::client()?, asset.decimals).router(gate);
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
    /// [`TradeError::Stopped`] where a part ended by itself: nothing more can be promised then.
    pub fn serve(self, shutdown: Shutdown) -> BoxFuture<'static, Result<(), TradeError>> {
        Box::pin(self.serve_until(shutdown))
    }

    async fn serve_until(mut self, shutdown: Shutdown) -> Result<(), TradeError> {
        let policy = Policy::public(self.budget).opaque();
        let served = http::serve(self.listener, self.router, policy, shutdown);
        tokio::select! {
            () = served => Ok(()),
            ended = self.tasks.join_next() => {
                let part = ended.and_then(Result::ok).unwrap_or("a part of the till");
                Err(TradeError::Stopped(part))
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
) -> Result<Till, TradeError> {
    let store = Store::open(&home.store_path(Part::Provider))?;
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
    let run = getrandom::u64().map_err(|_| TradeError::Randomness)?;
    Ok(Till::open(
        &store,
        escrows,
        policy,
        tower,
        &environment(),
        run,
        tasks,
    ))
}

/// When to claim, as the configuration says. What gas costs is asked when a claim is planned, where the configuration
/// says what the chain's coin is worth; elsewhere gas counts as free, and the smallest claim guards against dust.
pub(crate) fn policy(claim: &ClaimConfig, amount_min: Amount) -> ClaimPolicy {
    ClaimPolicy {
        gas_price_nano: 0,
        gas_share_ppm: u32::from(claim.gas_share_percent).saturating_mul(PPM_PER_PERCENT),
        age_ms_max: claim.after_s.saturating_mul(1_000),
        amount_min,
        withdrawal_margin_s: claim.before_withdrawal_s,
    }
}

fn accepted(
    config: &Config,
    keys: &Unlocked,
    asset: &AssetConfig,
) -> Result<AcceptedAsset, TradeError> {
    let eip712 = asset.eip712.clone().ok_or_else(|| {
        TradeError::Asked("the asset has no eip712 name and version in config.toml".to_owned())
    })?;
    Ok(AcceptedAsset {
        asset: asset.id,
        name: eip712.name,
        version: eip712.version,
        receiver: keys.address(),
        receiver_authorizer: keys.session(config.device.index).address(),
        withdraw_delay: config.provider.withdraw_delay_s,
        deposit_ceilings: DEPOSIT_CEILINGS,
        batch: true,
        exact: true,
    })
}

/// Every asset that can be taken by channel: those whose EIP-712 name and version are known.
pub(crate) fn accepted_by_channel(config: &Config, keys: &Unlocked) -> Vec<AcceptedAsset> {
    let assets = config.assets.values();
    let accepted = assets.filter_map(|asset| accepted(config, keys, asset).ok());
    accepted
        .map(|asset| AcceptedAsset {
            exact: false,
            ..asset
        })
        .collect()
}

/// The price of a request, and the ceiling that is quoted for it. A client signs one voucher for all
/// the requests that it makes at the same time, so a ceiling of several prices lets several through.
fn price(options: &ServeOptions, asset: &AssetConfig) -> Result<Price, TradeError> {
    let text = &options.price;
    let need = Amount::parse_decimal(text, asset.decimals)
        .map_err(|error| TradeError::Asked(format!("the price {text:?}: {error}")))?;
    if need.is_zero() {
        return Err(TradeError::Asked("a price of nothing".to_owned()));
    }
    if !(1..=AT_ONCE_MAX).contains(&options.at_once) {
        return Err(TradeError::Asked(format!(
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
) -> Result<Option<String>, TradeError> {
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
    ) -> Result<Option<String>, TradeError> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let Self(_, config, keys, till, budget) = self;
        if !wanted.beyond_loopback && !wanted.listen.ip().is_loopback() {
            return Err(TradeError::NotLoopback(wanted.listen));
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
) -> Result<TowerClient, TradeError> {
    let url = http_url(url)?;
    let client = TowerClient::new(&url, crate::http::client()?)
        .map_err(|error| TradeError::Asked(format!("the watchtower at {url}: {error}")))?;
    match client.scope().await {
        Ok(scope) if !scope.authorizers.contains(&accepted.receiver_authorizer) => {
            return Err(TradeError::Unserved(accepted.receiver_authorizer));
        }
        Ok(scope) if !scope.networks.contains(&accepted.chain()) => {
            return Err(TradeError::Unwatched(accepted.chain()));
        }
        Ok(_) => {}
        Err(error) => warnings.push(format!(
            "Nobody watches yet: {}; claims are handed over once {url} answers",
            error.with_causes()
        )),
    }
    Ok(client)
}

fn http_url(text: &str) -> Result<Url, TradeError> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| TradeError::Asked(format!("{text:?} is not an http or https URL")))
}

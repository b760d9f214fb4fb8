//! A watchtower on this device: claims for devices that sleep, when a payer begins to withdraw.
//!
//! It takes signed claims over HTTP from those whose session keys it was told of, and sends them with this household's
//! account. It decides nothing else: see [`crate::payments::watchtower`] (spec: payments, section 12).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use alloy_primitives::Address;
use futures::future::BoxFuture;
use hearth_api::payments::{WatchEvent, WatchReady, WatchedClaim};
use hearth_protocol::id::AssetId;
use tokio::sync::mpsc;

use super::{TradeError, bind, chain_access, environment, money_of};
use crate::home::{Config, Home, HomeLock, Part};
use crate::http::{self, Budget, Listener, Policy, Shutdown};
use crate::keys::{DeviceIndex, Unlocked};
use crate::payments::escrow::Escrows;
use crate::payments::till::{ChainAccess, Tasks, TillKeys, open_escrows};
use crate::payments::watchtower::{REPORTS_MAX, WatchReport, Watchtower};
use crate::store::Store;

/// Devices of the own household that are served where nobody is named.
pub const HOUSEHOLD_DEVICES: u32 = 16;

/// For whom to watch, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// The session keys that are served; empty for the first [`HOUSEHOLD_DEVICES`] devices of this household.
    pub authorizers: Vec<String>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How often the watched channels are looked at, in seconds; at least 1.
    pub every_s: u64,
}

/// A watchtower that listens, and answers once it is served.
#[derive(Debug)]
pub struct WatchService {
    config: Config,
    ready: WatchReady,
    tower: Watchtower,
    every: Duration,
    reports: mpsc::Receiver<WatchReport>,
    listener: Listener,
    policy: Policy,
    tasks: Tasks,
    _lock: HomeLock,
}

impl WatchService {
    /// Opens the store, the ways to the chains, and the port.
    ///
    /// # Errors
    /// See [`TradeError`]; where none of the configured chains answers, what the last one said.
    pub fn open<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        options: WatchOptions,
    ) -> BoxFuture<'a, Result<Self, TradeError>> {
        Box::pin(async move {
            if options.every_s == 0 {
                let reason = "a watchtower looks every second at most";
                return Err(TradeError::Asked(reason.to_owned()));
            }
            let authorizers = authorizers(&options.authorizers, keys)?;
            let lock = home.lock(Part::Watchtower)?;
            home.make_private()?;
            let (listener, address) = bind(options.listen).await?;
            let policy = Policy::household(address, &config.api.names, Budget::of_process());
            let (chains, mut warnings) = answering(config).await?;
            let store = Store::open(&home.store_path(Part::Watchtower))?;
            let mut tasks = Tasks::new();
            let till_keys = TillKeys {
                account: keys.household(),
                session: keys.session(config.device.index),
            };
            let escrows = open_escrows(chains, &till_keys, &store, &mut tasks)?;
            warnings.extend(without_gas(&escrows).await?);
            let ready = WatchReady {
                url: format!("http://{address}"),
                authorizers: authorizers.iter().map(ToString::to_string).collect(),
                chains: escrows
                    .iter()
                    .map(|escrow| escrow.domain().chain().to_string())
                    .collect(),
                account: keys.address().to_string(),
                warnings,
            };
            let (sender, reports) = mpsc::channel(REPORTS_MAX);
            let tower =
                Watchtower::new(store, escrows, authorizers, environment()).reporting(sender);
            Ok(Self {
                config: config.clone(),
                ready,
                tower,
                every: Duration::from_secs(options.every_s),
                reports,
                listener,
                policy,
                tasks,
                _lock: lock,
            })
        })
    }

    /// Where it is and for whom.
    pub fn ready(&self) -> &WatchReady {
        &self.ready
    }

    /// Watches until `shutdown` resolves; `tell` hears what happens.
    ///
    /// # Errors
    /// [`TradeError::Stopped`] where a part ended by itself: nothing is watched any more then.
    pub fn serve<'a>(
        self,
        shutdown: Shutdown,
        tell: &'a mut (dyn FnMut(WatchEvent) + Send),
    ) -> BoxFuture<'a, Result<(), TradeError>> {
        Box::pin(self.serve_until(shutdown, tell))
    }

    async fn serve_until(
        mut self,
        shutdown: Shutdown,
        tell: &mut (dyn FnMut(WatchEvent) + Send),
    ) -> Result<(), TradeError> {
        let watching = self.tower.clone().run(self.every);
        self.tasks.spawn(async move {
            watching.await;
            "the watch"
        });
        let router = self.tower.router();
        let mut served = pin!(http::serve(self.listener, router, self.policy, shutdown));
        loop {
            tokio::select! {
                () = &mut served => return Ok(()),
                ended = self.tasks.join_next() => {
                    let part = ended.and_then(Result::ok).unwrap_or("a part of the watchtower");
                    return Err(TradeError::Stopped(part));
                }
                Some(report) = self.reports.recv() => tell(event(&self.config, report)),
            }
        }
    }
}

/// The session keys that are served.
fn authorizers(named: &[String], keys: &Unlocked) -> Result<BTreeSet<Address>, TradeError> {
    if named.is_empty() {
        let devices = (0..HOUSEHOLD_DEVICES).filter_map(|index| DeviceIndex::new(index).ok());
        return Ok(devices
            .map(|device| keys.session(device).address())
            .collect());
    }
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            TradeError::Asked(format!(
                "{text:?} is no address of a session key; `hearth wallet sessions` shows them"
            ))
        })
    };
    named.iter().map(parse).collect()
}

/// The chains that answer, and a warning for each that does not.
async fn answering(config: &Config) -> Result<(Vec<ChainAccess>, Vec<String>), TradeError> {
    let (mut chains, mut warnings, mut last) = (Vec::new(), Vec::new(), None);
    for chain in config.chains.keys() {
        match chain_access(config, *chain).await {
            Ok(access) => chains.push(access),
            Err(error) => {
                warnings.push(format!("{chain} is not watched: {error}"));
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if chains.is_empty() => Err(error),
        _ if chains.is_empty() => Err(TradeError::Asked("no chain is configured".to_owned())),
        _ => Ok((chains, warnings)),
    }
}

/// A warning for each chain on which the account cannot pay for a claim.
async fn without_gas(escrows: &Escrows) -> Result<Vec<String>, TradeError> {
    let mut warnings = Vec::new();
    for escrow in escrows.iter() {
        let client = escrow.client();
        let is_free = client.gas_price().await? == 0;
        if !is_free && client.native_balance(escrow.account()).await?.is_zero() {
            let (account, chain) = (escrow.account(), client.chain());
            warnings.push(format!(
                "{account} has no coin on {chain} and cannot pay for a claim's gas there"
            ));
        }
    }
    Ok(warnings)
}

fn event(config: &Config, report: WatchReport) -> WatchEvent {
    let money = |asset: AssetId, amount| money_of(config, asset.chain, asset.token, amount);
    match report {
        WatchReport::Taken {
            asset,
            channel,
            total_claimed,
        } => WatchEvent::Watching(WatchedClaim {
            chain: asset.chain.to_string(),
            channel: channel.to_string(),
            units: total_claimed.to_string(),
            money: Some(money(asset, total_claimed)),
            transaction: None,
            problem: None,
        }),
        WatchReport::Claimed {
            asset,
            channel,
            total_claimed,
            outcome,
        } => {
            let (transaction, problem) = match outcome {
                Ok(hash) => (Some(hash.to_string()), None),
                Err(problem) => (None, Some(problem)),
            };
            WatchEvent::Claimed(WatchedClaim {
                chain: asset.chain.to_string(),
                channel: channel.to_string(),
                units: total_claimed.to_string(),
                money: Some(money(asset, total_claimed)),
                transaction,
                problem,
            })
        }
    }
}

//! A watchtower on this device: claims for devices that sleep, when a payer begins to withdraw.
//!
//! It takes signed claims over HTTP from those whose session keys it was told of, and sends them with this household's
//! account. It decides nothing else: see [`hearth_payments::watchtower`] (spec: payments, section 12).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use alloy_primitives::Address;
use futures::future::{BoxFuture, join_all};
use hearth_api::payments::{WatchEvent, WatchReady, WatchedClaim};
use hearth_causes::WithCauses;
use hearth_chain::client::ChainError;
use hearth_payments::escrow::Escrows;
use hearth_payments::store::{OpenError, Store};
use hearth_payments::till::{ChainAccess, Tasks, TillError, TillKeys, open_escrows};
use hearth_payments::watchtower::{REPORTS_MAX, WatchReport, Watchtower};
use hearth_protocol::id::AssetId;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::advice::{Advice, CHECK_DISK, SEE_HELP, START_AGAIN};
use crate::chains::AccessError;
use crate::home::{Config, Home, HomeError, HomeLock, Part};
use crate::http::{self, Budget, ListenError, Listener, Policy, Shutdown, bind};
use crate::keys::{DeviceIndex, Unlocked};
use crate::terms::{all_chains, environment, money_of, silent_access};

/// Devices of the own household that are served where nobody is named.
pub const HOUSEHOLD_DEVICES: u32 = 16;

/// How long a start waits for a chain to say what the account has there.
const GAS_PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing is watched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No chain answers.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal of transactions.
    #[error(transparent)]
    Till(#[from] TillError),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Asked(String),
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A part stopped by itself.
    #[error("{0} stopped")]
    Stopped(&'static str),
}

impl Advice for WatchError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Open(_) | Self::Till(_) => "store",
            Self::Asked(_) => "bad_request",
            Self::Listen(error) => error.code(),
            Self::Stopped(_) => "stopped",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Access(error) => error.next_step(),
            Self::Open(_) | Self::Till(_) => CHECK_DISK.to_owned(),
            Self::Asked(_) => SEE_HELP.to_owned(),
            Self::Listen(error) => error.next_step(),
            Self::Stopped(_) => START_AGAIN.to_owned(),
        }
    }
}

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
    /// See [`WatchError`]; where none of the configured chains answers, what the last one said.
    pub fn open<'a>(
        home: &'a Home,
        config: &'a Config,
        keys: &'a Unlocked,
        options: WatchOptions,
    ) -> BoxFuture<'a, Result<Self, WatchError>> {
        Box::pin(async move {
            if options.every_s == 0 {
                let reason = "a watchtower looks every second at most";
                return Err(WatchError::Asked(reason.to_owned()));
            }
            let authorizers = authorizers(&options.authorizers, keys)?;
            let lock = home.lock(Part::Watchtower)?;
            home.make_private()?;
            let (listener, address) = bind(options.listen).await?;
            let policy = Policy::household(address, &config.api.names, Budget::of_process());
            let (chains, mut warnings) = watched_chains(config).await?;
            let store = Store::open(&home.store_path(Part::Watchtower), &*environment())?;
            let mut tasks = Tasks::new();
            let till_keys = TillKeys {
                account: keys.household(),
                session: keys.session(config.device.index),
            };
            let mut escrows = open_escrows(chains, &till_keys, &store, &mut tasks)?;
            for asset in config.assets.values() {
                if let Some(worth) = asset.coin_worth {
                    escrows.set_coin_worth(asset.id, worth);
                }
            }
            warnings.extend(without_gas(&escrows).await);
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
    /// [`WatchError::Stopped`] where a part ended by itself: nothing is watched any more then.
    pub fn serve<'a>(
        self,
        shutdown: Shutdown,
        tell: &'a mut (dyn FnMut(WatchEvent) + Send),
    ) -> BoxFuture<'a, Result<(), WatchError>> {
        Box::pin(self.serve_until(shutdown, tell))
    }

    async fn serve_until(
        mut self,
        shutdown: Shutdown,
        tell: &mut (dyn FnMut(WatchEvent) + Send),
    ) -> Result<(), WatchError> {
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
                    return Err(WatchError::Stopped(part));
                }
                Some(report) = self.reports.recv() => tell(event(&self.config, report)),
            }
        }
    }
}

/// The session keys that are served.
fn authorizers(named: &[String], keys: &Unlocked) -> Result<BTreeSet<Address>, WatchError> {
    if named.is_empty() {
        let devices = (0..HOUSEHOLD_DEVICES).filter_map(|index| DeviceIndex::new(index).ok());
        return Ok(devices
            .map(|device| keys.session(device).address())
            .collect());
    }
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            WatchError::Asked(format!(
                "{text:?} is no address of a session key; `hearth wallet sessions` shows them"
            ))
        })
    };
    named.iter().map(parse).collect()
}

/// The ways to all chains, and a warning for each that does not answer now: it is watched once it does.
async fn watched_chains(config: &Config) -> Result<(Vec<ChainAccess>, Vec<String>), WatchError> {
    let (mut chains, mut silent) = all_chains(config).await;
    if chains.is_empty() {
        let last = silent.pop().map(|(.., error)| error);
        let none = || WatchError::Asked("no chain is configured".to_owned());
        return Err(last.map_or_else(none, WatchError::from));
    }
    let mut warnings = Vec::new();
    for (chain, settings, error) in silent {
        match silent_access(chain, settings) {
            Ok(access) => {
                warnings.push(format!(
                    "{chain} is watched once it answers: {}",
                    error.with_causes()
                ));
                chains.push(access);
            }
            Err(error) => warnings.push(format!("{chain} is not watched: {}", error.with_causes())),
        }
    }
    Ok((chains, warnings))
}

/// A warning for each chain on which the account cannot pay for a claim. A chain that does not answer is passed over.
async fn without_gas(escrows: &Escrows) -> Vec<String> {
    let asked = escrows.iter().map(|escrow| async move {
        let price = escrow.client().gas_price().await?;
        let account = escrow.account();
        let is_short = price != 0 && escrow.client().native_balance(account).await?.is_zero();
        Ok::<_, ChainError>(is_short.then(|| {
            let chain = escrow.client().chain();
            format!("{account} has no coin on {chain} and cannot pay for a claim's gas there")
        }))
    });
    let asked = asked.map(|asked| tokio::time::timeout(GAS_PATIENCE, asked));
    let answers = join_all(asked).await.into_iter();
    answers.filter_map(|answer| answer.ok()?.ok()?).collect()
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

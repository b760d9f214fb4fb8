//! Paying and being paid from a data folder: the parts of `payments`, put together as the configuration says.
//!
//! A [`PaidService`] sells an HTTP service; a [`Payer`] buys; [`Books`] shows and settles what was promised; a
//! [`WatchService`] claims for devices that sleep. Each takes its store for itself. Nothing is decided here: prices and limits come from the caller and the configuration.

mod books;
mod payer;
mod service;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use alloy_primitives::{Address, U256};
use futures::future::join_all;
use hearth_api::money::Money;
use hearth_chain::client::{ChainClient, ChainError, Environment, HttpOptions, SystemEnvironment};
use hearth_chain::sender::SenderConfig;
use hearth_protocol::channel::payer::PrepareError;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use thiserror::Error;

use crate::advice::Advice;
use crate::chains::{self, AccessError, ChainChoice};
use crate::home::{ChainConfig, Config, HomeError};
use crate::http::Listener;
use crate::payments::purse::PayError;
use crate::payments::till::{ChainAccess, TillError};
use crate::store::{OpenError, StoreError};
use crate::wallet::{money, money_of_units};

pub use books::{Books, list, list_with};
pub(crate) use books::{claim_all, list_open};
pub(crate) use payer::spending;
pub use payer::{Answer, ChannelOffer, Payer, Request};
pub use service::{AT_ONCE_MAX, FacilitatorOptions, PaidService, ServeOptions};
pub(crate) use service::{accepted_by_channel, policy};
pub use watch::{HOUSEHOLD_DEVICES, WatchOptions, WatchService};

/// How often the chain is asked while somebody waits for a transaction, in milliseconds.
const POLL_INTERVAL_MS: u64 = 250;
/// The same where a block is made for each transaction at once: a payer that waits for its first deposit waits for an answer.
const INSTANT_POLL_INTERVAL_MS: u64 = 50;

/// Why nothing could be sold or bought.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TradeError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The chain.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The chain failed.
    #[error("the chain could not be asked: {0}")]
    Chain(#[from] ChainError),
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
    /// The port.
    #[error("{address} cannot be listened on: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
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
    #[error("the HTTP client cannot be set up: {0}")]
    Http(#[from] reqwest::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Randomness,
    /// A part stopped by itself.
    #[error("{0} stopped")]
    Stopped(&'static str),
}

impl From<PayError> for TradeError {
    fn from(error: PayError) -> Self {
        Self::Pay(Box::new(error))
    }
}

impl Advice for TradeError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Access(error) => error.code(),
            Self::Chain(_) => "chain_unavailable",
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
            Self::Listen { .. } => "port_in_use",
            Self::NotLoopback(_) => "not_loopback",
            Self::Unserved(_) | Self::Unwatched(_) => "not_watched",
            Self::Http(_) => "http",
            Self::Randomness => "no_randomness",
            Self::Stopped(_) => "stopped",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Access(error) => error.next_step(),
            Self::Chain(_) => "Try again, or name another endpoint in config.toml".to_owned(),
            Self::Open(_) | Self::Store(_) | Self::Till(_) => {
                "Check the disk with `hearth doctor`, then start again".to_owned()
            }
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
            Self::Asked(_) => "See the command's --help".to_owned(),
            Self::Listen { .. } => {
                "Stop what uses the port, or name another with --listen or in config.toml".to_owned()
            }
            Self::NotLoopback(_) => {
                "Name a loopback address such as 127.0.0.1:4023, or add --facilitator-beyond-loopback if you trust \
                 everyone who can reach it"
                    .to_owned()
            }
            Self::Unserved(key) => format!("Start the watchtower with `hearth watch --for {key}`"),
            Self::Unwatched(chain) => {
                format!("Add {chain} to the watchtower's config.toml, and start it again")
            }
            Self::Http(_) | Self::Randomness | Self::Stopped(_) => "Start again".to_owned(),
        }
    }
}

pub(crate) fn environment() -> Arc<dyn Environment> {
    Arc::new(SystemEnvironment)
}

/// Listens, and says where.
pub(crate) async fn bind(address: SocketAddr) -> Result<(Listener, SocketAddr), TradeError> {
    match Listener::bind(address).await {
        Ok(listener) => {
            let address = listener.address();
            Ok((listener, address))
        }
        Err(source) => Err(TradeError::Listen {
            address: address.to_string(),
            source,
        }),
    }
}

/// The way to one chain, for transactions.
async fn chain_access(config: &Config, chain: ChainId) -> Result<ChainAccess, TradeError> {
    let choice = ChainChoice {
        chain: Some(chain.to_string()),
        rpc: None,
    };
    let access = chains::connect(config, &choice).await?;
    Ok(ChainAccess {
        sender: sender_config(access.confirmations),
        client: access.client,
    })
}

/// The ways to the configured chains.
pub(crate) struct ChainAccesses {
    pub(crate) all: Vec<ChainAccess>,
    /// Chains that do not answer now.
    pub(crate) silent: Vec<ChainId>,
}

/// The way to every configured chain. One that does not answer now is used once it does; until then nothing that rests
/// on it is sold or bought.
pub(crate) async fn chain_accesses(config: &Config) -> ChainAccesses {
    let (mut all, unanswered) = all_chains(config).await;
    let mut silent = Vec::new();
    for (chain, settings, error) in unanswered {
        if settings.rpc.is_empty() {
            // The network's chain has no endpoint to wait for: who has it says what is missing.
            tracing::warn!(%chain, %error, "the network's chain is left out");
            continue;
        }
        tracing::warn!(%chain, %error, "the chain is used once it answers");
        silent.push(chain);
        match silent_access(chain, settings) {
            Ok(access) => all.push(access),
            Err(error) => tracing::warn!(%chain, %error, "the chain is left out"),
        }
    }
    ChainAccesses { all, silent }
}

/// A chain that does not answer now, how it is reached, and what was met.
type Silent<'a> = (ChainId, &'a ChainConfig, TradeError);

/// The ways to the configured chains that answer, and the others. All are asked at once, so that none waits for another.
async fn all_chains(config: &Config) -> (Vec<ChainAccess>, Vec<Silent<'_>>) {
    let ask =
        |(chain, settings)| async move { (chain, settings, chain_access(config, chain).await) };
    let chains = config.chains.iter();
    let asked = chains.map(|(chain, settings)| ask((*chain, settings)));
    let (mut reachable, mut silent) = (Vec::new(), Vec::new());
    for (chain, settings, access) in join_all(asked).await {
        match access {
            Ok(access) => reachable.push(access),
            Err(error) => silent.push((chain, settings, error)),
        }
    }
    (reachable, silent)
}

/// The way to a chain that does not answer now. Its client refuses any other chain once something answers.
fn silent_access(chain: ChainId, settings: &ChainConfig) -> Result<ChainAccess, ChainError> {
    let (rpc, options) = (settings.rpc.clone(), HttpOptions::default());
    Ok(ChainAccess {
        client: ChainClient::http_in(rpc, chain, options, environment())?,
        sender: sender_config(settings.confirmations),
    })
}

pub(crate) fn sender_config(confirmations: u64) -> SenderConfig {
    SenderConfig {
        confirmations,
        poll_interval_ms: if confirmations == 1 {
            INSTANT_POLL_INTERVAL_MS
        } else {
            POLL_INTERVAL_MS
        },
        ..SenderConfig::default()
    }
}

/// An amount of a token, with its name where it is configured.
fn money_of(config: &Config, chain: ChainId, token: Address, amount: Amount) -> Money {
    let id = AssetId { chain, token };
    match config.asset(&id.to_string()) {
        Some((symbol, asset)) => money(symbol, asset, amount),
        None => money_of_units("units", id.to_string(), 0, U256::from(amount.units())),
    }
}

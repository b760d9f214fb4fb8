//! The embedded chain of a data folder, served on a loopback port.
//!
//! It is one sequencer for one household or for development: whoever runs it orders the transactions. It starts with
//! the payment contracts at their canonical addresses, a ledger where it has founders, and a worthless test token
//! that anybody can mint. Deliberately absent: any address but loopback, and any key (accounts are funded by a key that is
//! made for that one transaction and forgotten).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use futures::future::BoxFuture;
use hearth_api::chain::{ChainReady, Funded};
use hearth_api::money::Money;
use hearth_causes::WithCauses;
use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::TestDollar::mintCall;
use hearth_chain::client::{ChainClient, ChainError};
use hearth_chain::deployment::LedgerTerms;
use hearth_chain::embedded::{
    DEFAULT_CHAIN_ID, Embedded, EmbeddedConfig, Genesis, LEDGER_ADDRESSES, Mining, OpenError,
    RpcError, TEST_DOLLAR_ADDRESS,
};
use hearth_chain::sender::{
    IntentId, JournalError, RedbJournal, SendError, Sender, SenderConfig, TxIntent,
};
use hearth_environment::{Environment, NoRandomness, SystemEnvironment};
use hearth_protocol::address;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use thiserror::Error;
use url::Url;

use crate::advice::Advice;
use crate::home::{
    ConfigError, Home, HomeError, HomeLock, LedgerConfig, LedgerConfigError, NetworkChain, Part,
};
use crate::http::{Budget, Listener, Shutdown};
use crate::keys::Keystore;

/// The port unless another is chosen: the one that tools expect a development chain on.
pub const DEFAULT_PORT: u16 = 8_545;
/// The most accounts that are funded at a start.
pub const FUND_MAX: usize = 64;
/// Digits behind the point of the test token.
const TEST_DOLLAR_DECIMALS: u8 = 6;
/// The name under which the test token is shown.
const TEST_DOLLAR_SYMBOL: &str = "TESTUSD";
/// The most gas that minting test tokens takes.
const MINT_GAS_MAX: u64 = 200_000;
/// How long an account may take to be funded, in milliseconds.
const MINT_DEADLINE_MS: u64 = 60_000;

/// The file in which the chain says where it answers.
const URL_FILE: &str = "chain.url";
/// The longest such file, in bytes.
const URL_BYTES_MAX: u64 = 256;

/// How to run a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChainOptions {
    /// The loopback port; 0 lets the system choose.
    pub port: u16,
    /// The chain's number; absent for that of the data folder's chain, or the usual one for a new chain.
    pub chain_id: Option<u64>,
    /// Milliseconds between blocks; on demand where absent.
    pub block_time_ms: Option<u64>,
    /// Whether time can be moved through the port. For tests only.
    pub dev_rpc: bool,
    /// Accounts to give test tokens, as `0x…=AMOUNT` in whole tokens.
    pub fund: Vec<String>,
    /// Households that found the ledger of a new chain, as `0x…`; the wallet of the data folder where none is said. Without
    /// either a new chain has no ledger.
    pub founders: Vec<String>,
    /// Seconds of an epoch of that ledger, instead of what the configuration says.
    pub epoch_s: Option<u64>,
    /// Seconds of its challenge window, instead of what the configuration says.
    pub window_s: Option<u64>,
}

impl Default for LocalChainOptions {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            chain_id: None,
            block_time_ms: None,
            dev_rpc: false,
            fund: Vec::new(),
            founders: Vec::new(),
            epoch_s: None,
            window_s: None,
        }
    }
}

/// Why a chain does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocalChainError {
    /// The data folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The chain's file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The port.
    #[error("port {port} cannot be listened on")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An account to fund.
    #[error("{given:?} does not say whom to fund: {reason}")]
    Fund {
        /// What was given.
        given: String,
        /// Why not.
        reason: String,
    },
    /// The ledger cannot begin so.
    #[error(transparent)]
    Ledger(#[from] LedgerConfigError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The chain does not answer in its own process.
    #[error("the chain does not answer")]
    Answer(#[from] ChainError),
    /// A block time of nothing.
    #[error("blocks cannot be 0 milliseconds apart")]
    BlockTime,
    /// Test tokens could not be minted.
    #[error("the test tokens could not be minted")]
    Mint(#[source] Box<SendError>),
    /// No account could be drawn that mints.
    #[error("the test tokens could not be minted")]
    Randomness(#[from] NoRandomness),
    /// The store of the minting.
    #[error("the test tokens could not be minted")]
    Journal(#[from] JournalError),
    /// The chain stopped by itself.
    #[error("the chain failed")]
    Chain(#[from] RpcError),
    /// The listener failed.
    #[error("the port failed")]
    Serve(#[source] std::io::Error),
}

impl From<SendError> for LocalChainError {
    fn from(error: SendError) -> Self {
        Self::Mint(Box::new(error))
    }
}

impl Advice for LocalChainError {
    fn code(&self) -> &str {
        match self {
            Self::Home(error) => error.code(),
            Self::Open(OpenError::Busy) => "home_busy",
            Self::Open(OpenError::OtherChain { .. }) => "other_chain",
            Self::Open(_) => "chain_store",
            Self::Port { .. } => "port_in_use",
            Self::Fund { .. } => "bad_fund",
            Self::Ledger(error) => error.code(),
            Self::Config(error) => error.code(),
            Self::BlockTime => "bad_block_time",
            Self::Mint(_) | Self::Randomness(_) | Self::Journal(_) => "not_funded",
            Self::Chain(_) | Self::Serve(_) | Self::Answer(_) => "chain_failed",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Home(error) => error.next_step(),
            Self::Open(OpenError::OtherChain { found, .. }) => {
                format!(
                    "Start again without --chain-id, or with --chain-id {found}; or use another data folder with --home"
                )
            }
            Self::Open(_) => "Check the data folder with `hearth doctor`".to_owned(),
            Self::Port { .. } => {
                "Stop what uses the port, or choose another with --port (0 lets the system choose)"
                    .to_owned()
            }
            Self::Fund { .. } => "Say --fund 0x…=100 for 100 test dollars".to_owned(),
            Self::Ledger(error) => error.next_step(),
            Self::Config(error) => error.next_step(),
            Self::BlockTime => {
                "Say --block-time 1000 for a block every second, or leave it out".to_owned()
            }
            Self::Mint(_)
            | Self::Randomness(_)
            | Self::Journal(_)
            | Self::Chain(_)
            | Self::Answer(_)
            | Self::Serve(_) => "Start the chain again; what is in blocks is safe".to_owned(),
        }
    }
}

/// A chain that is open and listens, and answers once it is served.
#[derive(Debug)]
pub struct LocalChain {
    home: Home,
    chain: Embedded,
    listener: Listener,
    ready: ChainReady,
    _lock: HomeLock,
}

impl LocalChain {
    /// Opens the chain of `home`, or makes it, funds accounts, and takes the port.
    ///
    /// # Errors
    /// See [`LocalChainError`].
    pub fn open<'a>(
        home: &'a Home,
        options: LocalChainOptions,
    ) -> BoxFuture<'a, Result<Self, LocalChainError>> {
        Box::pin(Self::open_now(home, options))
    }

    async fn open_now(home: &Home, options: LocalChainOptions) -> Result<Self, LocalChainError> {
        let fund = parse_fund(&options.fund)?;
        let mining = match options.block_time_ms {
            None => Mining::OnDemand,
            Some(0) => return Err(LocalChainError::BlockTime),
            Some(interval_ms) => Mining::Every { interval_ms },
        };
        let terms = ledger_terms(home, &options)?;
        let lock = home.lock(Part::Chain)?;
        home.make_private()?;
        let port = options.port;
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .await
            .map_err(|source| LocalChainError::Port { port, source })?;
        let address = listener.address();
        let store = home.store_path(Part::Chain);
        let config = |chain_id| EmbeddedConfig {
            chain_id,
            mining,
            dev_rpc: options.dev_rpc,
            ..EmbeddedConfig::new(genesis(terms.as_ref()))
        };
        let chain =
            match Embedded::open(&store, config(options.chain_id.unwrap_or(DEFAULT_CHAIN_ID))) {
                Err(OpenError::OtherChain { found, .. }) if options.chain_id.is_none() => {
                    Embedded::open(&store, config(found))?
                }
                opened => opened?,
            };
        let id = ChainId(chain.chain_id());
        note_own(home, id)?;
        let client = ChainClient::from_transport(chain.transport(), id);
        let has_ledger = !client.code(LEDGER_ADDRESSES.runs).await?.is_empty();
        let ready = ChainReady {
            url: format!("http://{address}"),
            chain: id.to_string(),
            funded: mint(client, id, fund).await?,
            block: chain.block_number()?,
            store: store.display().to_string(),
            test_dollar: test_dollar(id).to_string(),
            settlement: SETTLEMENT_ADDRESS.to_string(),
            ledger: has_ledger.then(|| LEDGER_ADDRESSES.runs.to_string()),
        };
        say_running_at(home, &ready.url);
        Ok(Self {
            home: home.clone(),
            chain,
            listener,
            ready,
            _lock: lock,
        })
    }

    /// Where it is and what it has.
    pub fn ready(&self) -> &ChainReady {
        &self.ready
    }

    /// Answers until `shutdown` resolves, then finishes what it has taken and closes the file. Returns the height.
    ///
    /// # Errors
    /// See [`LocalChainError`].
    pub fn serve(self, shutdown: Shutdown) -> BoxFuture<'static, Result<u64, LocalChainError>> {
        Box::pin(self.serve_until(shutdown))
    }

    async fn serve_until(self, shutdown: Shutdown) -> Result<u64, LocalChainError> {
        self.chain
            .serve(self.listener, Budget::of_process(), shutdown)
            .await
            .map_err(LocalChainError::Serve)?;
        unsay(&self.home);
        let block = self.chain.block_number()?;
        self.chain.shutdown();
        Ok(block)
    }
}

/// Opens the chain of a data folder for this process, as `hearth up` and the owner's commands do: no port, no
/// development methods, a block for each transaction. Makes it with the id `own` where there is none, and with a ledger
/// where `terms` are given; a chain that is there stays as it was made.
///
/// # Errors
/// See [`LocalChainError`].
pub(crate) fn open_own(
    home: &Home,
    own: ChainId,
    terms: Option<&LedgerTerms>,
) -> Result<(Embedded, ChainId, HomeLock), LocalChainError> {
    let lock = home.lock(Part::Chain)?;
    let store = home.store_path(Part::Chain);
    let config = EmbeddedConfig {
        chain_id: own.0,
        ..EmbeddedConfig::new(genesis(terms))
    };
    match Embedded::open(&store, config) {
        Ok(chain) => {
            note_own(home, own)?;
            Ok((chain, own, lock))
        }
        Err(error) => {
            if let OpenError::OtherChain { found, .. } = &error {
                // The configuration was read for another id; the next start reads it for this one.
                note_own(home, ChainId(*found))?;
            }
            Err(error.into())
        }
    }
}

fn url_path(home: &Home) -> PathBuf {
    home.root().join(URL_FILE)
}

/// Says where the chain answers, for the other commands of its data folder. They look whether it is true.
fn say_running_at(home: &Home, url: &str) {
    if let Err(error) = std::fs::write(url_path(home), url) {
        tracing::warn!(error = %error.with_causes(), "other commands do not find this chain by themselves");
    }
}

/// Takes that back.
fn unsay(home: &Home) {
    // One that stays behind is looked at and not believed.
    drop(std::fs::remove_file(url_path(home)));
}

/// Where `hearth chain run` says that it answers.
pub(crate) fn running_at(home: &Home) -> Option<Url> {
    let path = url_path(home);
    if std::fs::metadata(&path).ok()?.len() > URL_BYTES_MAX {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Remembers the id of the chain that this data folder has.
fn note_own(home: &Home, own: ChainId) -> Result<(), LocalChainError> {
    let noted =
        NetworkChain::of(home.root(), &SystemEnvironment).and_then(|mut chain| chain.note_own(own));
    noted.map_err(|source| {
        LocalChainError::Home(HomeError::Io {
            path: home.root().join(NetworkChain::FILE),
            source,
        })
    })
}

/// An account that nobody has used yet.
fn drawn_account(environment: &dyn Environment) -> Result<PrivateKeySigner, LocalChainError> {
    loop {
        let key = environment.draw()?;
        // All but one in 2^128 numbers of 32 bytes are keys.
        if let Ok(signer) = PrivateKeySigner::from_bytes(&B256::new(key)) {
            return Ok(signer);
        }
    }
}

/// What a new chain begins with.
fn genesis(terms: Option<&LedgerTerms>) -> Genesis {
    let standard = Genesis::standard(nobody());
    match terms {
        Some(terms) => standard.with_ledger(terms),
        None => standard,
    }
}

/// The terms of a new chain's ledger; nothing where nobody founds it.
fn ledger_terms(
    home: &Home,
    options: &LocalChainOptions,
) -> Result<Option<LedgerTerms>, LocalChainError> {
    let mut founders = LedgerConfig::founders(&options.founders)?;
    if founders.is_empty() {
        // A wallet that cannot be read is the business of the commands that need it.
        let wallet = Keystore::read(&home.keystore_path()).ok();
        founders.extend(wallet.map(|wallet| wallet.household()));
    }
    let usual = home.config()?.ledger;
    let epoch_s = options.epoch_s.unwrap_or(usual.epoch_s);
    let window_s = options.window_s.unwrap_or(usual.window_s);
    let terms = LedgerConfig::new(epoch_s, window_s)?;
    Ok((!founders.is_empty()).then(|| terms.terms(founders)))
}

/// An account to which no key is known: without a ledger nobody mints Ember.
fn nobody() -> Address {
    Address::from_word(keccak256("hearth: nobody mints Ember on this chain"))
}

fn test_dollar(chain: ChainId) -> AssetId {
    AssetId {
        chain,
        token: TEST_DOLLAR_ADDRESS,
    }
}

fn parse_fund(given: &[String]) -> Result<Vec<(Address, Amount)>, LocalChainError> {
    let bad = |given: &str, reason: String| LocalChainError::Fund {
        given: given.chars().take(100).collect(),
        reason,
    };
    if given.len() > FUND_MAX {
        let reason = format!("at most {FUND_MAX} accounts are funded at a start");
        return Err(bad(&given[FUND_MAX], reason));
    }
    let parse = |text: &String| {
        let (account, amount) = text
            .split_once('=')
            .ok_or_else(|| bad(text, "there is no '='".to_owned()))?;
        let account = address::typed(account).map_err(|error| bad(text, error.to_string()))?;
        let amount = Amount::parse_decimal(amount, TEST_DOLLAR_DECIMALS)
            .map_err(|error| bad(text, error.to_string()))?;
        Ok((account, amount))
    };
    given.iter().map(parse).collect()
}

/// Mints test tokens, which anybody may. The key is new and is forgotten: gas is free, so it needs nothing.
async fn mint(
    client: ChainClient,
    id: ChainId,
    fund: Vec<(Address, Amount)>,
) -> Result<Vec<Funded>, LocalChainError> {
    if fund.is_empty() {
        return Ok(Vec::new());
    }
    let database = redb::Database::builder()
        .create_with_backend(redb::backends::InMemoryBackend::new())
        .map_err(JournalError::from)?;
    let journal = RedbJournal::new(Arc::new(database))?;
    let config = SenderConfig {
        confirmations: 1,
        poll_interval_ms: 20,
        ..SenderConfig::default()
    };
    let signer = Arc::new(drawn_account(client.environment().as_ref())?);
    let (sender, task) = Sender::new(client.clone(), signer, Arc::new(journal), config)?;
    let work = async {
        let mut funded = Vec::new();
        for (account, amount) in fund {
            let call = mintCall {
                to: account,
                value: U256::from(amount.units()),
            };
            let intent = TxIntent {
                to: TEST_DOLLAR_ADDRESS,
                data: call.abi_encode().into(),
                value: U256::ZERO,
                gas_cap: MINT_GAS_MAX,
                deadline_ms: client
                    .environment()
                    .now_ms()
                    .saturating_add(MINT_DEADLINE_MS),
            };
            let name = IntentId::new(format!("fund:{}", funded.len()))
                .expect("the name is shorter than an intent's may be");
            sender.submit(name, intent).await?;
            funded.push(Funded {
                account: account.to_string(),
                money: Money::of_units(
                    TEST_DOLLAR_SYMBOL,
                    test_dollar(id).to_string(),
                    TEST_DOLLAR_DECIMALS,
                    U256::from(amount.units()),
                ),
            });
        }
        Ok(funded)
    };
    tokio::select! {
        outcome = work => outcome,
        _stopped = task.run() => Err(SendError::Stopped.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_to_fund_is_said_in_one_way_only() {
        let account = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        let parsed = parse_fund(&[format!("{account}=1.5")]).unwrap();
        assert_eq!(parsed[0].1, Amount::new(1_500_000));
        for bad in [
            account.to_owned(),
            format!("{account}="),
            format!("{account}=x"),
            format!("{account}:1"),
            "=1".to_owned(),
            "0x12=1".to_owned(),
        ] {
            let error = parse_fund(std::slice::from_ref(&bad)).unwrap_err();
            assert_eq!(error.code(), "bad_fund", "{bad}");
        }
        assert!(parse_fund(&vec![format!("{account}=1"); FUND_MAX + 1]).is_err());
    }
}

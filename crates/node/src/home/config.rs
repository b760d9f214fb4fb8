//! `config.toml`: read, checked, and refused with the line and the reason.
//!
//! Unknown names are refused everywhere: a misspelt limit must not become no limit. What comes out is checked once
//! and for all: amounts are in atomic units, and every asset's chain is configured.

mod answers;
mod ledger;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use alloy_primitives::Address;
use hearth_environment::SystemEnvironment;
use hearth_protocol::content::ContentHash;
use hearth_protocol::eip712::{WITHDRAW_DELAY_MAX_S, WITHDRAW_DELAY_MIN_S};
use hearth_protocol::household::is_device_name;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, WITHDRAW_DELAY_S_DEFAULT};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;
use url::Url;

use crate::advice::Advice;
use crate::home::NetworkChain;
use crate::keys::{DEVICE_NAME_BYTES_MAX, DeviceIndex};

pub use answers::{
    AT_ONCE_MAX, ApiConfig, EngineConfig, HoursError, HoursWindow, MODELS_MAX, ModelConfig,
    NetworkConfig, ReachConfig, SharingConfig, SoldConfig,
};
pub use ledger::{LedgerConfig, LedgerConfigError};

/// The longest configuration, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 262_144;
/// The most chains.
pub const CHAINS_MAX: usize = 64;
/// The most assets.
pub const ASSETS_MAX: usize = 256;
/// The most endpoints of one chain.
pub const RPC_URLS_MAX: usize = 8;
/// The most confirmations that make sense to wait for.
const CONFIRMATIONS_MAX: u64 = 1_000;
/// The most decimals a token can have for its amounts to fit in 128 bits.
const DECIMALS_MAX: u8 = 38;
/// What the id of an asset begins with whose chain is not said.
const ERC20: &str = "erc20:";
/// The longest name of a chain or an asset, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// Why a configuration is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// More than [`CONFIG_BYTES_MAX`], or not UTF-8.
    #[error("the configuration {} is not a text of at most {CONFIG_BYTES_MAX} bytes", path.display())]
    NotText {
        /// Where.
        path: PathBuf,
    },
    /// A line is wrong.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// Where.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl Advice for ConfigError {
    fn code(&self) -> &str {
        match self {
            Self::Io { .. } => "config_io",
            Self::NotText { .. } | Self::Line { .. } => "bad_config",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Line { path, line, .. } => format!(
                "Correct line {line} of {}; move the file away to get a fresh one with explanations",
                path.display()
            ),
            Self::Io { path, .. } | Self::NotText { path } => format!(
                "Check {}; move it away to get a fresh one with explanations",
                path.display()
            ),
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This device.
    pub device: DeviceConfig,
    /// The chains in use.
    pub chains: BTreeMap<ChainId, ChainConfig>,
    /// The network's chain, where the file names none; it is the one in `chains`.
    pub network_chain: Option<NetworkChain>,
    /// The assets in use, by their names.
    pub assets: BTreeMap<String, AssetConfig>,
    /// What the ledger of a chain begins with that it makes.
    pub ledger: LedgerConfig,
    /// How this device is paid.
    pub provider: ProviderConfig,
    /// How it finds and reaches others.
    pub network: NetworkConfig,
    /// How it runs models.
    pub engine: EngineConfig,
    /// Where programs ask it.
    pub api: ApiConfig,
    /// When others may use it.
    pub sharing: SharingConfig,
    /// The models that it runs, by their names.
    pub models: BTreeMap<String, ModelConfig>,
    /// Names of other models that the owner accepts, and the hashes of their files.
    pub names: BTreeMap<String, ContentHash>,
}

/// This device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Its number, from which its session key is derived.
    pub index: DeviceIndex,
    /// Its name for people.
    pub name: String,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainConfig {
    /// Its name for people.
    pub name: String,
    /// Its endpoints in the order in which they are tried: at least one, but for the network's chain, which has none.
    pub rpc: Vec<Url>,
    /// Blocks that make a transaction final, its own included; at least 1.
    pub confirmations: u64,
    /// Where the `Runs` of its ledger stands, where that is said.
    pub ledger: Option<Address>,
}

/// An asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetConfig {
    /// Which token on which chain.
    pub id: AssetId,
    /// Digits behind the point.
    pub decimals: u8,
    /// What its EIP-712 domain says, where that is known.
    pub eip712: Option<Eip712Name>,
    /// What one whole coin of its chain is worth in it, in atomic units, where that is known.
    pub coin_worth: Option<Amount>,
    /// What may be spent.
    pub limits: Limits,
}

/// The name and version in a token's EIP-712 domain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eip712Name {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
}

/// What may be spent of an asset, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// By one payment.
    pub per_payment: Amount,
    /// By one deposit.
    pub per_deposit: Amount,
    /// In one day by UTC; what is promised counts until the chain says less.
    pub per_day: Amount,
    /// By all deposits of one day.
    pub deposits_per_day: Amount,
    /// In channels at once, as far as it was not charged.
    pub locked: Amount,
    /// The longest withdraw delay of a channel, in seconds.
    pub withdraw_delay_s_max: u64,
}

/// How this device is paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Seconds between the start of a payer's withdrawal and its end.
    pub withdraw_delay_s: u64,
    /// When to claim.
    pub claim: ClaimConfig,
}

/// When to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimConfig {
    /// The most that gas may cost, in percent of the claim.
    pub gas_share_percent: u8,
    /// Claim what is older than this, in seconds.
    pub after_s: u64,
    /// Claim at once where a withdrawal ends within this many seconds.
    pub before_withdrawal_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    device: Spanned<RawDevice>,
    chains: Option<BTreeMap<Spanned<String>, Spanned<RawChain>>>,
    #[serde(default)]
    assets: BTreeMap<Spanned<String>, RawAsset>,
    ledger: Option<ledger::RawLedger>,
    provider: RawProvider,
    #[serde(default)]
    network: answers::RawNetwork,
    engine: Option<answers::RawEngine>,
    api: Option<answers::RawApi>,
    sharing: Option<answers::RawSharing>,
    #[serde(default)]
    models: BTreeMap<Spanned<String>, answers::RawModel>,
    #[serde(default)]
    names: BTreeMap<Spanned<String>, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    index: Spanned<u32>,
    name: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChain {
    name: String,
    rpc: Spanned<Vec<Spanned<String>>>,
    confirmations: Spanned<u64>,
    ledger: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAsset {
    id: Spanned<String>,
    decimals: Spanned<u8>,
    eip712: Option<Eip712Name>,
    coin_worth: Option<Spanned<String>>,
    per_payment: Spanned<String>,
    per_deposit: Spanned<String>,
    per_day: Spanned<String>,
    deposits_per_day: Option<Spanned<String>>,
    locked_at_once: Option<Spanned<String>>,
    withdraw_delay_s_max: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    withdraw_delay_s: Spanned<u64>,
    claim: RawClaim,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClaim {
    gas_share_percent: Spanned<u8>,
    after_s: u64,
    before_withdrawal_s: Spanned<u64>,
}

/// A place in the text and what is wrong there.
struct Fault {
    offset: usize,
    reason: String,
}

fn fault<T>(place: &Spanned<T>, reason: impl Into<String>) -> Fault {
    Fault {
        offset: place.span().start,
        reason: reason.into(),
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Io {
            path: path.to_owned(),
            source,
        };
        let not_text = || ConfigError::NotText {
            path: path.to_owned(),
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .map_err(failed)?
            .take(CONFIG_BYTES_MAX.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if u64::try_from(bytes.len()).map_or(true, |length| length > CONFIG_BYTES_MAX) {
            return Err(not_text());
        }
        let text = String::from_utf8(bytes).map_err(|_| not_text())?;
        let network = if names_chains(&text) {
            None
        } else {
            let folder = path.parent().unwrap_or(Path::new("."));
            let found = NetworkChain::of(folder, &SystemEnvironment);
            Some(found.map_err(|source| ConfigError::Io {
                path: folder.join(NetworkChain::FILE),
                source,
            })?)
        };
        Self::parse(&text, network.as_ref()).map_err(|Fault { offset, reason }| ConfigError::Line {
            path: path.to_owned(),
            line: line_of(&text, offset),
            reason,
        })
    }

    /// Whether a text would be a configuration.
    ///
    /// # Errors
    /// The line and the reason why not, as a sentence.
    pub(crate) fn check(text: &str) -> Result<(), String> {
        let network = (!names_chains(text)).then(NetworkChain::any);
        let checked = Self::parse(text, network.as_ref());
        checked.map(|_| ()).map_err(|Fault { offset, reason }| {
            format!(
                "line {} of config.toml would be wrong: {reason}",
                line_of(text, offset)
            )
        })
    }

    /// Reads a text. `network` is the network's chain, for a text that names no chains.
    fn parse(text: &str, network: Option<&NetworkChain>) -> Result<Self, Fault> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| Fault {
            offset: error.span().map_or(0, |span| span.start),
            reason: error.message().to_owned(),
        })?;
        let chains = match network {
            Some(network) => BTreeMap::from([(network.id(), network_chain())]),
            None => chains(raw.chains.unwrap_or_default())?,
        };
        let assets = assets(raw.assets, &chains, network)?;
        Ok(Self {
            device: device(raw.device.into_inner())?,
            chains,
            network_chain: network.cloned(),
            ledger: ledger::ledger(raw.ledger)?,
            provider: provider(raw.provider)?,
            network: answers::network(raw.network)?,
            engine: answers::engine(raw.engine)?,
            api: answers::api(raw.api)?,
            sharing: answers::sharing(raw.sharing)?,
            models: answers::models(raw.models, &assets)?,
            names: answers::names(raw.names)?,
            assets,
        })
    }

    /// The asset with this name or CAIP-19 id.
    pub fn asset(&self, name_or_id: &str) -> Option<(&str, &AssetConfig)> {
        let id = name_or_id.parse::<AssetId>().ok();
        self.assets
            .iter()
            .find(|(name, asset)| *name == name_or_id || Some(asset.id) == id)
            .map(|(name, asset)| (name.as_str(), asset))
    }

    /// The chain with this name or CAIP-2 id.
    pub fn chain(&self, name_or_id: &str) -> Option<(ChainId, &ChainConfig)> {
        let id = name_or_id.parse::<ChainId>().ok();
        self.chains
            .iter()
            .find(|(known, chain)| chain.name == name_or_id || Some(**known) == id)
            .map(|(known, chain)| (*known, chain))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        .saturating_add(1)
}

fn device(raw: RawDevice) -> Result<DeviceConfig, Fault> {
    let index = DeviceIndex::new(*raw.index.get_ref())
        .map_err(|error| fault(&raw.index, error.to_string()))?;
    let name = raw.name.get_ref();
    if !is_device_name(name) {
        let reason = format!(
            "the device's name has 1 to {DEVICE_NAME_BYTES_MAX} bytes, none of them unseen, and no space at its ends"
        );
        return Err(fault(&raw.name, reason));
    }
    Ok(DeviceConfig {
        index,
        name: raw.name.into_inner(),
    })
}

/// Whether a text has a table of chains; one that is no TOML counts as such, and is refused when it is read.
fn names_chains(text: &str) -> bool {
    let table: Result<toml::Table, _> = toml::from_str(text);
    table.map_or(true, |table| table.contains_key("chains"))
}

/// The network's chain as a chain of the configuration. One device orders it, so its newest block is final.
fn network_chain() -> ChainConfig {
    ChainConfig {
        name: "network".to_owned(),
        rpc: Vec::new(),
        confirmations: 1,
        ledger: None,
    }
}

fn chains(
    raw: BTreeMap<Spanned<String>, Spanned<RawChain>>,
) -> Result<BTreeMap<ChainId, ChainConfig>, Fault> {
    let mut chains = BTreeMap::new();
    for (key, chain) in raw {
        let id: ChainId = key
            .get_ref()
            .parse()
            .map_err(|error| fault(&key, format!("{error}, not {:?}", key.get_ref())))?;
        if chains.len() >= CHAINS_MAX {
            return Err(fault(
                &key,
                format!("there are more than {CHAINS_MAX} chains"),
            ));
        }
        if chain.get_ref().name.len() > NAME_BYTES_MAX {
            let reason = format!("a chain's name has at most {NAME_BYTES_MAX} bytes");
            return Err(fault(&chain, reason));
        }
        let chain = chain.into_inner();
        if !(1..=CONFIRMATIONS_MAX).contains(chain.confirmations.get_ref()) {
            let reason = format!("confirmations are 1 to {CONFIRMATIONS_MAX}");
            return Err(fault(&chain.confirmations, reason));
        }
        chains.insert(
            id,
            ChainConfig {
                rpc: endpoints(&chain.rpc)?,
                ledger: ledger::address_of(chain.ledger.as_ref())?,
                confirmations: chain.confirmations.into_inner(),
                name: chain.name,
            },
        );
    }
    Ok(chains)
}

fn endpoints(raw: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<Url>, Fault> {
    if !(1..=RPC_URLS_MAX).contains(&raw.get_ref().len()) {
        return Err(fault(
            raw,
            format!("a chain has 1 to {RPC_URLS_MAX} endpoints"),
        ));
    }
    let parse = |text: &Spanned<String>| {
        Url::parse(text.get_ref())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| fault(text, "an endpoint is an http or https URL"))
    };
    raw.get_ref().iter().map(parse).collect()
}

fn assets(
    raw: BTreeMap<Spanned<String>, RawAsset>,
    chains: &BTreeMap<ChainId, ChainConfig>,
    network: Option<&NetworkChain>,
) -> Result<BTreeMap<String, AssetConfig>, Fault> {
    let mut assets: BTreeMap<String, AssetConfig> = BTreeMap::new();
    for (name, asset) in raw {
        if assets.len() >= ASSETS_MAX {
            return Err(fault(
                &name,
                format!("there are more than {ASSETS_MAX} assets"),
            ));
        }
        let text = name.get_ref();
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain || !(1..=NAME_BYTES_MAX).contains(&text.len()) {
            let reason = format!(
                "an asset's name has 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'"
            );
            return Err(fault(&name, reason));
        }
        let id = asset_id(&asset.id, network)?;
        if !chains.contains_key(&id.chain) {
            let reason = format!(
                "the asset is on {}, which is not among the chains",
                id.chain
            );
            return Err(fault(&asset.id, reason));
        }
        if assets.values().any(|other| other.id == id) {
            return Err(fault(&asset.id, "this asset has another name already"));
        }
        let decimals = *asset.decimals.get_ref();
        if decimals > DECIMALS_MAX {
            let reason = format!("a token has at most {DECIMALS_MAX} decimals");
            return Err(fault(&asset.decimals, reason));
        }
        let limits = limits(&asset, decimals)?;
        let coin_worth = asset.coin_worth.as_ref();
        let coin_worth = coin_worth
            .map(|text| coin_worth_of(text, decimals))
            .transpose()?;
        assets.insert(
            name.into_inner(),
            AssetConfig {
                id,
                decimals,
                eip712: asset.eip712,
                coin_worth,
                limits,
            },
        );
    }
    Ok(assets)
}

/// The id of an asset. One without a chain is on the network's.
fn asset_id(text: &Spanned<String>, network: Option<&NetworkChain>) -> Result<AssetId, Fault> {
    let said = text.get_ref();
    let whole = match (said.starts_with(ERC20), network) {
        (false, _) => said.clone(),
        (true, Some(network)) => format!("{}/{said}", network.id()),
        (true, None) => {
            let reason = format!(
                "the asset is on the network's chain, which is not used where [chains] names others: write \
                 \"eip155:NUMBER/{said}\", or take the section out"
            );
            return Err(fault(text, reason));
        }
    };
    AssetId::typed(&whole).map_err(|error| fault(text, format!("{error}, not {said:?}")))
}

fn whole_tokens(text: &Spanned<String>, decimals: u8) -> Result<Amount, Fault> {
    Amount::parse_decimal(text.get_ref(), decimals).map_err(|error| {
        let reason = format!(
            "{:?} is not a number of whole tokens such as \"1.25\": {error}",
            text.get_ref()
        );
        fault(text, reason)
    })
}

fn coin_worth_of(text: &Spanned<String>, decimals: u8) -> Result<Amount, Fault> {
    let worth = whole_tokens(text, decimals)?;
    if worth.is_zero() {
        let reason = "a coin is worth something; leave coin_worth out where nobody knows";
        return Err(fault(text, reason));
    }
    Ok(worth)
}

fn limits(asset: &RawAsset, decimals: u8) -> Result<Limits, Fault> {
    let amount = |text: &Spanned<String>| whole_tokens(text, decimals);
    let usual = AssetLimit::new(
        amount(&asset.per_payment)?,
        amount(&asset.per_deposit)?,
        amount(&asset.per_day)?,
    );
    let or_usual = |text: &Option<Spanned<String>>, usual: Amount| match text {
        Some(text) => amount(text),
        None => Ok(usual),
    };
    let deposits_per_day = or_usual(&asset.deposits_per_day, usual.deposits_per_day)?;
    let locked = or_usual(&asset.locked_at_once, usual.locked.max(deposits_per_day))?;
    let limits = Limits {
        per_payment: usual.per_payment,
        per_deposit: usual.per_deposit,
        per_day: usual.per_day,
        deposits_per_day,
        locked,
        withdraw_delay_s_max: longest_delay(asset.withdraw_delay_s_max.as_ref())?,
    };
    for (limit, text) in [
        (deposits_per_day, &asset.deposits_per_day),
        (locked, &asset.locked_at_once),
    ] {
        if let Some(text) = text.as_ref().filter(|_| limit < limits.per_deposit) {
            let reason = "less than one deposit may be (per_deposit), so that none would fit";
            return Err(fault(text, reason));
        }
    }
    if limits.per_payment > limits.per_day {
        return Err(fault(
            &asset.per_payment,
            "one payment may not exceed the limit of a day",
        ));
    }
    if limits.per_deposit > limits.per_day {
        return Err(fault(
            &asset.per_deposit,
            "one deposit may not exceed the limit of a day",
        ));
    }
    Ok(limits)
}

fn longest_delay(delay_s: Option<&Spanned<u64>>) -> Result<u64, Fault> {
    let Some(delay_s) = delay_s else {
        return Ok(WITHDRAW_DELAY_S_DEFAULT);
    };
    if !(WITHDRAW_DELAY_MIN_S..=WITHDRAW_DELAY_MAX_S).contains(delay_s.get_ref()) {
        let reason =
            format!("a withdraw delay is {WITHDRAW_DELAY_MIN_S} to {WITHDRAW_DELAY_MAX_S} seconds");
        return Err(fault(delay_s, reason));
    }
    Ok(*delay_s.get_ref())
}

fn provider(raw: RawProvider) -> Result<ProviderConfig, Fault> {
    let withdraw_delay_s = *raw.withdraw_delay_s.get_ref();
    if !(WITHDRAW_DELAY_MIN_S..=WITHDRAW_DELAY_MAX_S).contains(&withdraw_delay_s) {
        let reason = format!(
            "the withdraw delay is {WITHDRAW_DELAY_MIN_S} to {WITHDRAW_DELAY_MAX_S} seconds"
        );
        return Err(fault(&raw.withdraw_delay_s, reason));
    }
    let claim = ClaimConfig {
        gas_share_percent: *raw.claim.gas_share_percent.get_ref(),
        after_s: raw.claim.after_s,
        before_withdrawal_s: *raw.claim.before_withdrawal_s.get_ref(),
    };
    if claim.before_withdrawal_s >= withdraw_delay_s {
        let reason = "before_withdrawal_s must be shorter than withdraw_delay_s";
        return Err(fault(&raw.claim.before_withdrawal_s, reason));
    }
    if claim.gas_share_percent > 100 {
        let reason = "gas_share_percent is 0 to 100";
        return Err(fault(&raw.claim.gas_share_percent, reason));
    }
    Ok(ProviderConfig {
        withdraw_delay_s,
        claim,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    use hearth_protocol::offer::Audience;

    /// The default as it is where the chain that `hearth chain run` serves is named.
    static DEFAULT_CONFIG: LazyLock<String> =
        LazyLock::new(|| crate::home::naming_the_embedded_chain(crate::home::DEFAULT_CONFIG));

    fn parsed(text: &str) -> Result<Config, String> {
        let network = (!names_chains(text)).then(NetworkChain::any);
        Config::parse(text, network.as_ref())
            .map_err(|Fault { offset, reason }| format!("{}: {reason}", line_of(text, offset)))
    }

    #[test]
    fn the_default_is_for_the_networks_chain() {
        let config = parsed(crate::home::DEFAULT_CONFIG).unwrap();
        let network = config.network_chain.clone().unwrap();
        assert_eq!(config.chains.keys().collect::<Vec<_>>(), [&network.id()]);
        let (_, dollar) = config.asset("TESTUSD").unwrap();
        assert_eq!(dollar.id.chain, network.id());
        assert_eq!(dollar.id.token, hearth_chain::embedded::TEST_DOLLAR_ADDRESS);
        assert_eq!(config.chain("network").unwrap().0, network.id());
        // An asset of another chain is not taken for one of the network's.
        let other = crate::home::DEFAULT_CONFIG.replace("\"erc20:", "\"eip155:8453/erc20:");
        assert!(parsed(&other).unwrap_err().contains("not among the chains"));
    }

    #[test]
    fn a_table_of_chains_means_those_and_no_others() {
        let none = format!("[chains]\n{}", crate::home::DEFAULT_CONFIG);
        let refused = parsed(&none).unwrap_err();
        assert!(refused.contains("eip155:NUMBER/erc20:"), "{refused}");
        let (before, _) = none.split_once("[assets.").unwrap();
        let (_, after) = none.split_once("# How this device is paid").unwrap();
        let without = parsed(&format!("{before}# {after}")).unwrap();
        assert!(without.chains.is_empty() && without.network_chain.is_none());
        assert!(parsed(&DEFAULT_CONFIG).unwrap().network_chain.is_none());
    }

    #[test]
    fn the_default_with_a_chain_is_for_that_chain() {
        let config = parsed(&DEFAULT_CONFIG).unwrap();
        let chain = ChainId(hearth_chain::embedded::DEFAULT_CHAIN_ID);
        assert!(config.chains.contains_key(&chain));
        let (name, dollar) = config.asset("TESTUSD").unwrap();
        assert_eq!(dollar.id.token, hearth_chain::embedded::TEST_DOLLAR_ADDRESS);
        assert_eq!(dollar.id.chain, chain);
        assert_eq!(dollar.limits.per_payment, Amount::new(100_000));
        assert_eq!(config.asset(&dollar.id.to_string()).unwrap().0, name);
        assert_eq!(config.chain("embedded").unwrap().0, chain);
        assert_eq!(config.chain("eip155:402402").unwrap().0, chain);
        assert!(config.asset("EUR").is_none() && config.chain("eip155:1").is_none());
    }

    #[test]
    fn an_asset_with_a_slip_of_the_hand_is_refused_with_its_right_form() {
        let right = hearth_chain::embedded::TEST_DOLLAR_ADDRESS.to_checksum(None);
        assert!(DEFAULT_CONFIG.contains(&right));
        let wrong = "0x569b35Ed675c9ca42DBD1b6Dd75bdC2965D5ec8E";
        let refused = parsed(&DEFAULT_CONFIG.replace(&right, wrong)).unwrap_err();
        assert!(refused.contains(&right), "{refused}");
        for same in [
            right.to_lowercase(),
            format!("0x{}", right[2..].to_uppercase()),
        ] {
            assert!(
                parsed(&DEFAULT_CONFIG.replace(&right, &same)).is_ok(),
                "{same}"
            );
        }
    }

    #[test]
    fn a_name_that_hides_something_is_refused() {
        for hidden in [
            "kit\\u202echen",
            "kit\\u200bchen",
            " kitchen",
            "kitchen\\ufeff",
        ] {
            let refused = parsed(&DEFAULT_CONFIG.replace("this device", hidden)).unwrap_err();
            assert!(refused.contains("name"), "{hidden:?}: {refused}");
        }
    }

    /// The line of the default that shows how hours are said.
    const HOURS: &str = "# hours = [\"22:00-07:00\", \"12:30-13:30\"]";

    #[test]
    fn the_limits_that_the_default_shows_are_right() {
        assert_eq!(parsed(&DEFAULT_CONFIG).unwrap().sharing.hours, []);
        let text = DEFAULT_CONFIG.replacen("# hours", "hours", 1);
        let sharing = parsed(&text.replacen("# watts", "watts", 1))
            .unwrap()
            .sharing;
        assert!(sharing.hours[0].covers(0) && !sharing.hours[0].covers(7 * 60));
        assert!(sharing.hours[1].covers(13 * 60) && sharing.watts == Some(65));
        assert!(
            "00:00-24:00"
                .parse::<super::HoursWindow>()
                .unwrap()
                .covers(1_439)
        );
    }

    #[test]
    fn a_wrong_line_is_named_with_the_reason() {
        let cases = [
            ("index = 0", "index = -1", "u32"),
            ("index = 0", "indx = 0", "indx"),
            ("index = 0", "index = 4294967295", "2147483648"),
            ("name = \"this device\"", "name = \"\"", "name"),
            (
                "[chains.\"eip155:402402\"]",
                "[chains.\"embedded\"]",
                "CAIP-2",
            ),
            ("\"http://127.0.0.1:8545\"", "\"ftp://x\"", "http"),
            ("rpc = [\"http://127.0.0.1:8545\"]", "rpc = []", "endpoints"),
            ("confirmations = 1", "confirmations = 0", "1 to"),
            (
                "id = \"eip155:402402/",
                "id = \"eip155:1/",
                "not among the chains",
            ),
            ("decimals = 6", "decimals = 39", "decimals"),
            (
                "per_payment = \"0.10\"",
                "per_payment = \"0.0000001\"",
                "6 digits",
            ),
            ("per_payment = \"0.10\"", "per_payment = 0.1", "string"),
            (
                "per_payment = \"0.10\"",
                "per_payments = \"0.10\"",
                "per_payments",
            ),
            (
                "per_payment = \"0.10\"",
                "per_payment = \"21\"",
                "limit of a day",
            ),
            ("per_deposit = \"5\"", "per_deposit = \"-5\"", "digits"),
            (
                "decimals = 6",
                "coin_worth = \"x\"\ndecimals = 6",
                "whole tokens",
            ),
            (
                "decimals = 6",
                "coin_worth = \"0\"\ndecimals = 6",
                "worth something",
            ),
            ("withdraw_delay_s = 86400", "withdraw_delay_s = 60", "900"),
            (
                "before_withdrawal_s = 21600",
                "before_withdrawal_s = 86400",
                "shorter",
            ),
            (
                "gas_share_percent = 1",
                "gas_share_percent = 101",
                "0 to 100",
            ),
            ("[provider]", "[provider", ""),
        ];
        assert_all_refused(&cases);
    }

    #[test]
    fn limits_on_escrow_may_be_left_out_and_make_sense_where_they_are_said() {
        let per_day = "per_day = \"20\"";
        for (line, reason) in [
            ("deposits_per_day = \"4\"", "less than one deposit"),
            ("locked_at_once = \"4.9\"", "less than one deposit"),
            ("locked_at_once = 100", "string"),
            ("withdraw_delay_s_max = 899", "900"),
            ("withdraw_delay_s_max = 2592001", "2592000"),
        ] {
            let text = DEFAULT_CONFIG.replacen(per_day, &format!("{line}\n{per_day}"), 1);
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
        let said = "deposits_per_day = \"6\"\nlocked_at_once = \"7\"\nwithdraw_delay_s_max = 900";
        let text = DEFAULT_CONFIG.replacen(per_day, &format!("{said}\n{per_day}"), 1);
        let limits = |text: &str| parsed(text).unwrap().assets["TESTUSD"].limits;
        let (usual, said) = (limits(&DEFAULT_CONFIG), limits(&text));
        let whole = |tokens: u128| Amount::new(tokens * 1_000_000);
        assert_eq!(
            (usual.deposits_per_day, usual.locked),
            (whole(20), whole(100))
        );
        assert_eq!(usual.withdraw_delay_s_max, 604_800);
        assert_eq!((said.deposits_per_day, said.locked), (whole(6), whole(7)));
        assert_eq!(said.withdraw_delay_s_max, 900);
    }

    /// Each of `(good, bad, reason)`, put into the default, is refused at its line.
    fn assert_all_refused(cases: &[(&str, &str, &str)]) {
        for (good, bad, reason) in cases {
            assert!(DEFAULT_CONFIG.contains(good), "{good}");
            let text = DEFAULT_CONFIG.replacen(good, bad, 1);
            let line = line_of(&text, text.find(bad).unwrap());
            let error = parsed(&text).unwrap_err();
            assert!(error.starts_with(&format!("{line}: ")), "{bad}: {error}");
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    /// The default with the section on selling, which it only shows.
    fn with_sold() -> String {
        let (before, section) = DEFAULT_CONFIG.split_once("# [api.sold]\n").unwrap();
        let (section, after) = section.split_once("\n\n").unwrap();
        let section = section.replace("# ", "");
        format!("{before}[api.sold]\n{section}\n\n{after}")
    }

    #[test]
    fn the_section_on_selling_is_what_it_is_shown_to_be() {
        assert_eq!(parsed(&DEFAULT_CONFIG).unwrap().api.sold, None);
        let sold = parsed(&with_sold()).unwrap().api.sold.unwrap();
        let usual = SoldConfig::at("127.0.0.1:4042".parse().unwrap());
        assert_eq!((sold.listen, sold.at_once), (usual.listen, usual.at_once));
        assert_eq!(
            sold.base_url.unwrap().host_str(),
            Some("answers.example.org")
        );
        for (good, bad, reason) in [
            ("\"127.0.0.1:4042\"", "\"here\"", "4040"),
            ("at_once = 4", "at_once = 0", "1 to"),
            ("\"https://answers.example.org\"", "\"answers\"", "https"),
        ] {
            let text = with_sold().replacen(good, bad, 1);
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn a_model_answers_the_household_unless_it_says_otherwise() {
        let (before, shown) = DEFAULT_CONFIG.split_once("# [models.").unwrap();
        let with = |lines: &str| parsed(&format!("{before}[models.\"a-model\"]\n{lines}\n"));
        let audience = |lines: &str| with(lines).unwrap().models["a-model"].audience;
        let (_, prices) = shown.split_once("# ").unwrap();
        assert_eq!(audience(""), Audience::Household);
        assert_eq!(audience("audience = \"everyone\""), Audience::Everyone);
        assert_eq!(audience(prices), Audience::Everyone);
        let both = with(&format!("audience = \"household\"\n{prices}")).unwrap_err();
        assert!(both.contains("household pays nothing"), "{both}");
        let unknown = with("audience = \"friends\"").unwrap_err();
        assert!(unknown.contains("everyone"), "{unknown}");
    }

    #[test]
    fn a_name_of_a_model_stands_for_the_hash_of_its_file() {
        assert!(parsed(&DEFAULT_CONFIG).unwrap().names.is_empty());
        let shown = DEFAULT_CONFIG.replacen("# \"a-model\" =", "\"a-model\" =", 1);
        let names = parsed(&shown).unwrap().names;
        let hash = names["a-model"].to_string();
        assert!(hash.starts_with("0123456789abcdef"), "{hash}");
        for bad in [hash[1..].to_owned(), hash.replace('0', "g"), String::new()] {
            let refused = parsed(&shown.replacen(&hash, &bad, 1)).unwrap_err();
            assert!(refused.contains("64 hexadecimal digits"), "{refused}");
        }
    }

    #[test]
    fn a_limit_of_sharing_that_makes_no_sense_is_refused() {
        assert_all_refused(&[
            ("busy_percent = 50", "busy_percent = 101", "0 to 100"),
            (HOURS, "hours = [\"22-7\"]", "22:00-07:00"),
            (HOURS, "hours = [\"07:00-07:00\"]", "differ"),
            (HOURS, "hours = [\"22:60-24:01\"]", "22:00-07:00"),
            (HOURS, "hours = []", "enabled = false"),
            ("# watts = 65", "watts = 0", "1 to"),
        ]);
    }

    #[test]
    fn the_coins_worth_is_read_in_the_token() {
        let worth = |text: &str| parsed(text).unwrap().assets["TESTUSD"].coin_worth;
        assert_eq!(worth(&DEFAULT_CONFIG), None);
        assert!(DEFAULT_CONFIG.contains("# coin_worth = \"2500\""));
        let with = DEFAULT_CONFIG.replacen("# coin_worth", "coin_worth", 1);
        assert_eq!(worth(&with), Some(Amount::new(2_500_000_000)));
    }

    #[test]
    fn an_absurd_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, vec![b'#'; 300_000]).unwrap();
        assert!(matches!(
            Config::read(&path),
            Err(ConfigError::NotText { .. })
        ));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(
            Config::read(&path),
            Err(ConfigError::NotText { .. })
        ));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Config::read(&path).unwrap_err().code(), "config_io");
        assert!(parsed(&"[".repeat(100_000)).is_err());
    }
}

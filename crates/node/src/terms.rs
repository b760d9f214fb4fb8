//! What the configuration means for money: how a chain is reached, which tokens are taken on what terms, when to claim,
//! what may be spent, and how amounts and prices are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, U256};
use futures::future::join_all;
use hearth_api::household::{self as api, ModelPrice};
use hearth_api::money::Money;
use hearth_causes::WithCauses;
use hearth_chain::client::{ChainClient, ChainError, HttpOptions};
use hearth_chain::sender::SenderConfig;
use hearth_environment::{Environment, SystemEnvironment};
use hearth_payments::offer::{AcceptedAsset, DEPOSIT_CEILINGS};
use hearth_payments::till::ChainAccess;
use hearth_protocol::answer::Price;
use hearth_protocol::claim::ClaimPolicy;
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::Audience;
use hearth_protocol::spending::{AssetLimit, Spending};

use crate::chains::{self, AccessError, ChainChoice};
use crate::home::{AssetConfig, ChainConfig, ClaimConfig, Config};
use crate::keys::Unlocked;
use crate::wallet::{money, money_of_units};

/// How often the chain is asked while somebody waits for a transaction, in milliseconds.
const POLL_INTERVAL_MS: u64 = 250;
/// The same where a block is made for each transaction at once: a payer that waits for its first deposit waits for an answer.
const INSTANT_POLL_INTERVAL_MS: u64 = 50;
/// Millionths in a percent.
const PPM_PER_PERCENT: u32 = 10_000;

/// The clock, and where random numbers come from.
pub(crate) fn environment() -> Arc<dyn Environment> {
    Arc::new(SystemEnvironment)
}

/// The way to one chain, for transactions.
pub(crate) async fn chain_access(
    config: &Config,
    chain: ChainId,
) -> Result<ChainAccess, AccessError> {
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
            tracing::warn!(%chain, error = %error.with_causes(), "the network's chain is left out");
            continue;
        }
        tracing::warn!(%chain, error = %error.with_causes(), "the chain is used once it answers");
        silent.push(chain);
        match silent_access(chain, settings) {
            Ok(access) => all.push(access),
            Err(error) => {
                tracing::warn!(%chain, error = %error.with_causes(), "the chain is left out")
            }
        }
    }
    ChainAccesses { all, silent }
}

/// A chain that does not answer now, how it is reached, and what was met.
pub(crate) type Silent<'a> = (ChainId, &'a ChainConfig, AccessError);

/// The ways to the configured chains that answer, and the others. All are asked at once, so that none waits for another.
pub(crate) async fn all_chains(config: &Config) -> (Vec<ChainAccess>, Vec<Silent<'_>>) {
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
pub(crate) fn silent_access(
    chain: ChainId,
    settings: &ChainConfig,
) -> Result<ChainAccess, ChainError> {
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

/// The terms on which an asset is taken, by channel and one-off; nothing where the configuration has no EIP-712 name and
/// version of it.
pub(crate) fn accepted(
    config: &Config,
    keys: &Unlocked,
    asset: &AssetConfig,
) -> Option<AcceptedAsset> {
    let eip712 = asset.eip712.clone()?;
    Some(AcceptedAsset {
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
    let accepted = assets.filter_map(|asset| accepted(config, keys, asset));
    accepted
        .map(|asset| AcceptedAsset {
            exact: false,
            ..asset
        })
        .collect()
}

/// What may be spent of each token, as the configuration says.
pub(crate) fn spending(config: &Config) -> Spending {
    let limit = |asset: &AssetConfig| AssetLimit {
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

/// An amount of a token, with its name where it is configured.
pub(crate) fn money_of(config: &Config, chain: ChainId, token: Address, amount: Amount) -> Money {
    let id = AssetId { chain, token };
    match config.asset(&id.to_string()) {
        Some((symbol, asset)) => money(symbol, asset, amount),
        None => money_of_units("units", id.to_string(), 0, U256::from(amount.units())),
    }
}

/// Whom a model answers, as it is shown.
pub(crate) fn shown_audience(audience: Audience) -> api::Audience {
    match audience {
        Audience::Household => api::Audience::Household,
        Audience::Everyone => api::Audience::Everyone,
    }
}

/// Prices as they are shown: those in tokens that have a name.
pub(crate) fn shown_prices(config: &Config, prices: &[Price]) -> Vec<ModelPrice> {
    let known = prices.iter().filter_map(|price| {
        let (symbol, asset) = config.asset(&price.asset.to_string())?;
        Some(ModelPrice {
            per_million_prompt: money(symbol, asset, price.per_million_prompt),
            per_million_output: money(symbol, asset, price.per_million_output),
            floor: money(symbol, asset, price.floor),
        })
    });
    known.collect()
}

//! What a household holds, and how it sends it.
//!
//! Balances are read from the chains as they are now; nothing is remembered. Sending goes through the chain's sender
//! with a journal, so that a transfer is made exactly once even if the process dies. Asking the owner, and unlocking
//! the keys, is the caller's part. Deliberately absent: channels (see `payments`), swaps, prices.

mod send;

use alloy_primitives::{Address, U256};
use futures::future::BoxFuture;
use futures::future::join_all;
use hearth_api::money::Money;
use hearth_api::wallet::{Balances, ChainBalances};
use hearth_causes::WithCauses;
use hearth_chain::client::ChainError;
use hearth_protocol::id::ChainId;
use hearth_protocol::money::Amount;

use crate::chains::{self, ChainAccess, ChainChoice};
use crate::home::{AssetConfig, Config};

pub(crate) use send::parse_account;
pub use send::{Order, OrderError, TransferError, TransferPlan};

/// Digits behind the point of a chain's own coin.
const COIN_DECIMALS: u8 = 18;

/// An amount of a configured asset as programs and people read it.
pub fn money(symbol: &str, asset: &AssetConfig, amount: Amount) -> Money {
    money_of_units(
        symbol,
        asset.id.to_string(),
        asset.decimals,
        U256::from(amount.units()),
    )
}

/// Adds an amount to the sums of each asset.
pub fn add(sums: &mut Vec<Money>, more: &Money) {
    let units = |money: &Money| money.units.parse::<U256>().unwrap_or_default();
    match sums.iter_mut().find(|sum| sum.asset == more.asset) {
        Some(sum) => {
            let all = units(sum).saturating_add(units(more));
            *sum = money_of_units(&more.symbol, more.asset.clone(), more.decimals, all);
        }
        None => sums.push(more.clone()),
    }
}

/// An amount of a chain's own coin.
pub fn coin(chain: ChainId, wei: U256) -> Money {
    money_of_units("coin", format!("{chain}/slip44:60"), COIN_DECIMALS, wei)
}

/// An amount of so many atomic units.
pub(crate) fn money_of_units(symbol: &str, asset: String, decimals: u8, units: U256) -> Money {
    Money::of_units(symbol, asset, decimals, units)
}

/// What `household` holds on every configured chain. A chain that does not answer is reported in its place.
pub fn balances<'a>(config: &'a Config, household: Address) -> BoxFuture<'a, Balances> {
    Box::pin(async move {
        let all = config.chains.iter().map(|(id, chain)| async move {
            let choice = ChainChoice {
                chain: Some(id.to_string()),
                rpc: None,
            };
            let outcome = match chains::connect(config, &choice).await {
                Ok(access) => balances_on(config, &access, household)
                    .await
                    .map_err(|error| error.with_causes().to_string()),
                Err(error) => Err(error.with_causes().to_string()),
            };
            let (balances, problem) = match outcome {
                Ok(balances) => (balances, None),
                Err(problem) => (Vec::new(), Some(problem)),
            };
            ChainBalances {
                chain: id.to_string(),
                name: chain.name.clone(),
                balances,
                problem,
            }
        });
        Balances {
            household: household.to_string(),
            chains: join_all(all).await,
        }
    })
}

/// What `account` holds on one chain: its coin and every configured asset.
///
/// # Errors
/// What asking the chain meets.
pub async fn balances_on(
    config: &Config,
    access: &ChainAccess,
    account: Address,
) -> Result<Vec<Money>, ChainError> {
    let wei = access.client.native_balance(account).await?;
    let mut held = vec![coin(access.id, wei)];
    for (symbol, asset) in &config.assets {
        if asset.id.chain != access.id {
            continue;
        }
        let units = access.client.balance_of(asset.id.token, account).await?;
        held.push(money_of_units(
            symbol,
            asset.id.to_string(),
            asset.decimals,
            units,
        ));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coin_has_eighteen_digits_behind_the_point() {
        assert_eq!(
            coin(ChainId(1), U256::from(10).pow(U256::from(19))).amount,
            "10"
        );
        let most = money_of_units("X", String::new(), 18, U256::MAX);
        assert_eq!(most.units, U256::MAX.to_string());
    }
}

//! What the doctor looks at on each chain: that it answers as itself, its clock, and the contracts.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use hearth_api::doctor::{Finding, Health};
use hearth_causes::WithCauses;
use hearth_chain::bindings::{
    COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Settlement, TestDollar, collector_runtime,
    settlement_runtime,
};
use hearth_chain::client::{BlockAt, ChainClient, ChainError};
use hearth_chain::embedded::is_embedded_id;
use hearth_protocol::eip712::{SETTLEMENT_DOMAIN_NAME, SETTLEMENT_DOMAIN_VERSION};
use hearth_protocol::id::ChainId;

use super::{failed, fault, good};
use crate::advice::Advice;
use crate::chains::{self, AccessError, ChainAccess, ChainChoice};
use crate::home::{AssetConfig, Config};

/// A chain may be this far ahead of this device's clock, in seconds: signed times (ERC-3009) have more room.
const CLOCK_AHEAD_MAX_S: u64 = 30;
/// A public chain without a block for this long is said, in seconds.
const SILENT_WARN_S: u64 = 600;

/// Looks at every configured chain.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for id in config.chains.keys() {
        let check = format!("chain {id}");
        let choice = ChainChoice {
            chain: Some(id.to_string()),
            rpc: None,
        };
        match chains::connect(config, &choice).await {
            Err(AccessError::NotMade) => findings.push(good(
                &check,
                "`hearth up` will run it: no chain is named in config.toml, and none was joined",
            )),
            Err(AccessError::NodeNeeded(_)) => findings.push(good(
                &check,
                "another device of the network runs it, which this one asks while `hearth up` runs",
            )),
            Err(error @ AccessError::HostAway { .. }) => {
                let (message, mend) = (error.to_string(), error.next_step());
                findings.push(fault(&check, Health::Warning, message, mend));
            }
            Err(error) => findings.push(failed(&check, &error)),
            Ok(access) => {
                findings.push(good(
                    &check,
                    format!("{} answers at {}", access.name, access.place),
                ));
                findings.extend(look(config, &access).await);
            }
        }
    }
    findings
}

async fn look(config: &Config, access: &ChainAccess) -> Vec<Finding> {
    let id = access.id;
    let mut findings = vec![clock(access).await, contracts(access).await];
    for (symbol, asset) in &config.assets {
        if asset.id.chain != id {
            continue;
        }
        let check = format!("asset {symbol}");
        findings.push(match token(&access.client, asset).await {
            Ok(None) => good(&check, format!("the token {} is as configured", asset.id)),
            Ok(Some(problem)) => {
                let mend = format!("Correct [assets.{symbol}] in config.toml");
                fault(&check, Health::Bad, problem, mend)
            }
            Err(error) => silent(&check, &error),
        });
    }
    findings
}

/// The chain answered before and does not now.
fn silent(check: &str, error: &ChainError) -> Finding {
    fault(
        check,
        Health::Bad,
        format!("the chain could not be asked: {}", error.with_causes()),
        "Run `hearth doctor` again; if it persists, name another endpoint in config.toml",
    )
}

async fn clock(access: &ChainAccess) -> Finding {
    let check = format!("clock {}", access.id);
    match access.client.head().await {
        Err(error) => silent(&check, &error),
        Ok(head) => {
            let now_s = access.client.environment().now_ms() / 1_000;
            clock_finding(&check, access.id, now_s, head.timestamp_s)
        }
    }
}

/// What the newest block's time says about this device's clock. Payments carry times that the chain judges by its own.
fn clock_finding(check: &str, chain: ChainId, now_s: u64, head_s: u64) -> Finding {
    if head_s > now_s.saturating_add(CLOCK_AHEAD_MAX_S) {
        let ahead = head_s.saturating_sub(now_s);
        return fault(
            check,
            Health::Bad,
            format!(
                "the chain is {ahead} s ahead of this device's clock: payments would be refused"
            ),
            "Set the clock (for example `timedatectl set-ntp true`), or start a development chain anew",
        );
    }
    let behind = now_s.saturating_sub(head_s);
    // The embedded chain makes no block when there is nothing to put into it.
    if !is_embedded_id(chain.0) && behind > SILENT_WARN_S {
        return fault(
            check,
            Health::Warning,
            format!(
                "the newest block is {behind} s old: the endpoint lags, or this device's clock is ahead"
            ),
            "Compare the clock with another device, or name another endpoint in config.toml",
        );
    }
    good(check, "this device's clock agrees with the chain")
}

async fn contracts(access: &ChainAccess) -> Finding {
    let check = format!("contracts {}", access.id);
    let mend = "Use a chain that has the x402 batch-settlement contracts; `exact` payments work without them";
    match settlement(&access.client, access.id).await {
        Ok(Ok(message)) => good(&check, message),
        Ok(Err(problem)) => fault(&check, Health::Bad, problem, mend),
        Err(error) => silent(&check, &error),
    }
}

/// What stands at the canonical addresses, or what is wrong with it.
async fn settlement(
    client: &ChainClient,
    chain: ChainId,
) -> Result<Result<String, String>, ChainError> {
    let code = client.code(SETTLEMENT_ADDRESS).await?;
    if code.is_empty() {
        return Ok(Err(format!(
            "there is no settlement contract at {SETTLEMENT_ADDRESS}: no channel can be opened"
        )));
    }
    let data = Settlement::eip712DomainCall {}.abi_encode();
    let Some(answer) = call(client, SETTLEMENT_ADDRESS, data).await? else {
        return Ok(Err(
            "the settlement contract does not state its domain".to_owned()
        ));
    };
    let right = Settlement::eip712DomainCall::abi_decode_returns(&answer).is_ok_and(|domain| {
        domain.name == SETTLEMENT_DOMAIN_NAME
            && domain.version == SETTLEMENT_DOMAIN_VERSION
            && domain.chainId == U256::from(chain.0)
            && domain.verifyingContract == SETTLEMENT_ADDRESS
    });
    if !right {
        return Ok(Err(
            "the settlement contract states another domain: vouchers would not be valid".to_owned(),
        ));
    }
    let collector = client.code(COLLECTOR_ADDRESS).await?;
    if collector.is_empty() {
        return Ok(Err(format!(
            "there is no deposit collector at {COLLECTOR_ADDRESS}: nothing can be deposited"
        )));
    }
    let ours = code == settlement_runtime() && collector == collector_runtime(SETTLEMENT_ADDRESS);
    let whose = if ours { "Hearth's own" } else { "by others" };
    Ok(Ok(format!(
        "the payment contracts are at their canonical addresses, with the right domain ({whose})"
    )))
}

/// What is wrong with a configured token.
async fn token(client: &ChainClient, asset: &AssetConfig) -> Result<Option<String>, ChainError> {
    let address = asset.id.token;
    if client.code(address).await?.is_empty() {
        return Ok(Some(format!("there is no contract at {address}")));
    }
    let data = TestDollar::decimalsCall {}.abi_encode();
    if let Some(answer) = call(client, address, data).await?
        && let Ok(decimals) = TestDollar::decimalsCall::abi_decode_returns(&answer)
        && decimals != asset.decimals
    {
        return Ok(Some(format!(
            "the token has {decimals} decimals, and the configuration says {}: amounts would be wrong",
            asset.decimals
        )));
    }
    let Some(named) = &asset.eip712 else {
        return Ok(None);
    };
    let data = TestDollar::eip712DomainCall {}.abi_encode();
    // Older tokens do not state their domain (ERC-5267); then nothing can be compared.
    if let Some(answer) = call(client, address, data).await?
        && let Ok(domain) = TestDollar::eip712DomainCall::abi_decode_returns(&answer)
        && (domain.name != named.name || domain.version != named.version)
    {
        return Ok(Some(format!(
            "the token's domain is {:?} version {:?}, and the configuration says {:?} version {:?}: signatures would \
             be refused",
            domain.name, domain.version, named.name, named.version
        )));
    }
    Ok(None)
}

/// The answer of a contract; `None` where it refuses.
async fn call(
    client: &ChainClient,
    to: Address,
    data: Vec<u8>,
) -> Result<Option<Bytes>, ChainError> {
    match client.call(to, data.into(), BlockAt::Latest).await {
        Ok(answer) => Ok(Some(answer)),
        Err(ChainError::Reverted { .. } | ChainError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use hearth_chain::embedded::{DEFAULT_CHAIN_ID, OWN_CHAIN_IDS};

    use super::*;

    #[test]
    fn a_clock_that_the_chain_would_not_accept_is_a_fault() {
        let health =
            |chain, now_s, head_s| clock_finding("clock", ChainId(chain), now_s, head_s).health;
        assert_eq!(health(1, 1_000, 1_000), Health::Good);
        assert_eq!(health(1, 1_000, 1_030), Health::Good);
        assert_eq!(health(1, 1_000, 1_031), Health::Bad);
        assert_eq!(health(1, 1_000, 400), Health::Good);
        assert_eq!(health(1, 1_000, 399), Health::Warning);
        assert_eq!(health(DEFAULT_CHAIN_ID, 1_000, 0), Health::Good);
        assert_eq!(health(OWN_CHAIN_IDS.start, 1_000, 0), Health::Good);
        assert_eq!(health(DEFAULT_CHAIN_ID, 0, u64::MAX), Health::Bad);
    }
}

//! Blocks, transactions and balances of any chain, for people to look at.
//!
//! Read-only and without memory. What a chain says is parsed into the types of `api` at once; a field it leaves out
//! is left out here. Deliberately absent: any index, so nothing is searched for that a node cannot name directly.

use alloy_primitives::{Address, B256, Bytes, U64, U256, b256};
use futures::future::BoxFuture;
use hearth_api::chain::{AccountBalances, Block, Blocks, Transaction, TransactionStatus, Transfer};
use hearth_api::money::Money;
use hearth_chain::client::ChainError;
use hearth_protocol::id::{AccountId, AssetId};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::advice::Advice;
use crate::chains::ChainAccess;
use crate::home::Config;
use crate::wallet::{OrderError, balances_on, coin, money_of_units, parse_account};

/// The most blocks that are listed at once.
pub const BLOCKS_MAX: u64 = 100;
/// How much of a call is shown, in bytes.
const INPUT_SHOWN_BYTES: usize = 68;
/// The most movements of tokens that are shown of one transaction.
const TRANSFERS_MAX: usize = 100;
/// The topic of `Transfer(address,address,uint256)` (ERC-20).
const TRANSFER_TOPIC: B256 =
    b256!("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");

/// Why something cannot be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExploreError {
    /// Neither a height nor a hash.
    #[error("{0:?} is neither a block's number nor its hash")]
    BadBlock(String),
    /// Not a hash.
    #[error("{0:?} is not a transaction's hash")]
    BadHash(String),
    /// Not an account.
    #[error(transparent)]
    BadAccount(#[from] OrderError),
    /// The chain does not have it.
    #[error("the chain has no {what} {which}")]
    Unknown {
        /// Block or transaction.
        what: &'static str,
        /// Which.
        which: String,
    },
    /// The chain could not be asked.
    #[error("the chain could not be asked")]
    Chain(#[from] ChainError),
}

impl Advice for ExploreError {
    fn code(&self) -> &str {
        match self {
            Self::BadBlock(_) => "bad_block",
            Self::BadHash(_) => "bad_hash",
            Self::BadAccount(error) => error.code(),
            Self::Unknown { .. } => "not_found",
            Self::Chain(_) => "chain_unavailable",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::BadBlock(_) => {
                "Give a number such as 12, `latest`, or 0x and 64 hex digits".to_owned()
            }
            Self::BadHash(_) => "Give 0x and 64 hex digits".to_owned(),
            Self::BadAccount(error) => error.next_step(),
            Self::Unknown { .. } => {
                "Check that you mean this chain (--chain); `hearth chain blocks` lists the newest"
                    .to_owned()
            }
            Self::Chain(_) => "Try again, or name another endpoint with --rpc".to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlock {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    gas_used: U64,
    transactions: Vec<B256>,
}

impl From<WireBlock> for Block {
    fn from(wire: WireBlock) -> Self {
        Self {
            number: wire.number.to(),
            hash: wire.hash.to_string(),
            parent_hash: wire.parent_hash.to_string(),
            timestamp_s: wire.timestamp.to(),
            gas_used: wire.gas_used.to(),
            transactions: wire.transactions.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTransaction {
    hash: B256,
    from: Address,
    to: Option<Address>,
    nonce: U64,
    value: U256,
    input: Bytes,
}

/// The newest `count` blocks, newest first.
///
/// # Errors
/// See [`ExploreError`].
pub fn blocks<'a>(
    access: &'a ChainAccess,
    count: u64,
) -> BoxFuture<'a, Result<Blocks, ExploreError>> {
    Box::pin(async move {
        let head = access.client.head().await?.number;
        let first = head.saturating_sub(count.clamp(1, BLOCKS_MAX).saturating_sub(1));
        let mut blocks = Vec::new();
        for number in (first..=head).rev() {
            blocks.push(block(access, &number.to_string()).await?);
        }
        Ok(Blocks {
            chain: access.id.to_string(),
            blocks,
        })
    })
}

/// The block with this number or hash; `latest` is the newest.
///
/// # Errors
/// See [`ExploreError`].
pub fn block<'a>(
    access: &'a ChainAccess,
    which: &'a str,
) -> BoxFuture<'a, Result<Block, ExploreError>> {
    Box::pin(async move {
        let found: Option<WireBlock> = if which == "latest" {
            access
                .client
                .request("eth_getBlockByNumber", json!(["latest", false]))
                .await?
        } else if let Ok(number) = which.parse::<u64>() {
            access
                .client
                .request("eth_getBlockByNumber", json!([U64::from(number), false]))
                .await?
        } else {
            let hash = hash(which).ok_or_else(|| ExploreError::BadBlock(shortened(which)))?;
            access
                .client
                .request("eth_getBlockByHash", json!([hash, false]))
                .await?
        };
        found.map(Block::from).ok_or_else(|| ExploreError::Unknown {
            what: "block",
            which: which.to_owned(),
        })
    })
}

/// The transaction with this hash, and what became of it.
///
/// # Errors
/// See [`ExploreError`].
pub fn transaction<'a>(
    config: &'a Config,
    access: &'a ChainAccess,
    which: &'a str,
) -> BoxFuture<'a, Result<Transaction, ExploreError>> {
    Box::pin(async move {
        let hash = hash(which).ok_or_else(|| ExploreError::BadHash(shortened(which)))?;
        let found: Option<WireTransaction> = access
            .client
            .request("eth_getTransactionByHash", json!([hash]))
            .await?;
        let wire = found.ok_or_else(|| ExploreError::Unknown {
            what: "transaction",
            which: which.to_owned(),
        })?;
        let receipt = access.client.receipt(hash).await?;
        let status = match &receipt {
            None => TransactionStatus::Pending,
            Some(receipt) if receipt.success => TransactionStatus::Succeeded,
            Some(_) => TransactionStatus::Reverted,
        };
        let logs = receipt.iter().flat_map(|receipt| &receipt.logs);
        let transfers = logs
            .filter_map(|log| {
                transfer(
                    config,
                    access,
                    log.address(),
                    log.topics(),
                    &log.data().data,
                )
            })
            .take(TRANSFERS_MAX)
            .collect();
        let shown = &wire.input[..wire.input.len().min(INPUT_SHOWN_BYTES)];
        Ok(Transaction {
            chain: access.id.to_string(),
            hash: wire.hash.to_string(),
            status,
            from: wire.from.to_string(),
            to: wire.to.map(|to| to.to_string()),
            contract: receipt
                .as_ref()
                .and_then(|receipt| receipt.contract_address)
                .map(|contract| contract.to_string()),
            nonce: wire.nonce.to(),
            value: coin(access.id, wire.value),
            input: alloy_primitives::hex::encode_prefixed(shown),
            input_bytes: wire.input.len(),
            block: receipt.as_ref().map(|receipt| receipt.block_number),
            gas_used: receipt.as_ref().map(|receipt| receipt.gas_used),
            transfers,
        })
    })
}

fn transfer(
    config: &Config,
    access: &ChainAccess,
    token: Address,
    topics: &[B256],
    data: &[u8],
) -> Option<Transfer> {
    let [TRANSFER_TOPIC, from, to] = topics else {
        return None;
    };
    let units = U256::from_be_slice(data.get(..32)?);
    let id = AssetId {
        chain: access.id,
        token,
    };
    let configured = config.asset(&id.to_string());
    Some(Transfer {
        token: token.to_string(),
        from: Address::from_word(*from).to_string(),
        to: Address::from_word(*to).to_string(),
        units: units.to_string(),
        money: configured.map(|(symbol, asset)| -> Money {
            money_of_units(symbol, id.to_string(), asset.decimals, units)
        }),
    })
}

/// What an account holds on this chain.
///
/// # Errors
/// See [`ExploreError`].
pub fn balances<'a>(
    config: &'a Config,
    access: &'a ChainAccess,
    account: &'a str,
) -> BoxFuture<'a, Result<AccountBalances, ExploreError>> {
    Box::pin(async move {
        let address = parse_account(account)?;
        let id = AccountId {
            chain: access.id,
            address,
        };
        Ok(AccountBalances {
            account: id.to_string(),
            balances: balances_on(config, access, address).await?,
        })
    })
}

fn hash(text: &str) -> Option<B256> {
    let digits = text.strip_prefix("0x")?;
    (digits.len() == 64).then(|| digits.parse().ok())?
}

/// Enough of what somebody typed to recognise it.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_hashes_are_hashes() {
        assert!(hash(&format!("0x{}", "a".repeat(64))).is_some());
        for bad in [
            "",
            "0x",
            "12",
            &"a".repeat(64),
            &format!("0x{}", "a".repeat(63)),
            &format!("0x{}", "g".repeat(64)),
            &format!("0x0x{}", "a".repeat(62)),
        ] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}

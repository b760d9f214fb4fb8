//! What `hearth chain` prints.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// One line of a running chain's output with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ChainEvent {
    /// The chain answers.
    Ready(ChainReady),
    /// It has stopped as asked, and everything is on disk.
    Stopped {
        /// Height of the newest block.
        block: u64,
    },
}

/// A chain that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainReady {
    /// Where its JSON-RPC is.
    pub url: String,
    /// CAIP-2 id.
    pub chain: String,
    /// Height of the newest block.
    pub block: u64,
    /// The file it lives in.
    pub store: String,
    /// The worthless test token.
    pub test_dollar: String,
    /// The settlement contract.
    pub settlement: String,
    /// The ledger, by its `Runs`; absent on a chain that has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ledger: Option<String>,
    /// What was put into accounts by `--fund`.
    pub funded: Vec<Funded>,
}

/// A ledger that was put up on a chain, or that stood there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerDeployed {
    /// CAIP-2 id.
    pub chain: String,
    /// Households that founded it.
    pub founders: Vec<String>,
    /// Seconds of an epoch.
    pub epoch_s: u64,
    /// Seconds in which a record can be challenged.
    pub window_s: u64,
    /// Registrations and bonds.
    pub devices: String,
    /// The token of checked work.
    pub ember: String,
    /// Earned votes.
    pub voice: String,
    /// Who validates.
    pub validators: String,
    /// Records of epochs, and claims.
    pub rewards: String,
    /// Runs; its address in the configuration names the whole ledger.
    pub runs: String,
    /// Hashes of the transactions that put it up now; none where everything stood there.
    pub transactions: Vec<String>,
}

/// Test tokens that an account got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funded {
    /// The account.
    pub account: String,
    /// How much.
    pub money: Money,
}

/// The newest blocks, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// CAIP-2 id.
    pub chain: String,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: String,
    /// Hash of the block before.
    pub parent_hash: String,
    /// Seconds since the Unix epoch.
    pub timestamp_s: u64,
    /// Gas used by its transactions.
    pub gas_used: u64,
    /// Hashes of its transactions.
    pub transactions: Vec<String>,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// CAIP-2 id.
    pub chain: String,
    /// Hash.
    pub hash: String,
    /// `pending`, `succeeded` or `reverted`.
    pub status: TransactionStatus,
    /// Who sent it.
    pub from: String,
    /// To whom; absent where it made a contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The contract it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// The sender's count of transactions before it.
    pub nonce: u64,
    /// The chain's own coin that it carried.
    pub value: Money,
    /// Its call, in hex, cut after some bytes.
    pub input: String,
    /// How many bytes the call has.
    pub input_bytes: usize,
    /// Height of its block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// Gas it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_used: Option<u64>,
    /// Movements of tokens that it caused, as their contracts reported them.
    pub transfers: Vec<Transfer>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionStatus {
    /// In no block yet.
    Pending,
    /// It did what it was asked.
    Succeeded,
    /// It changed nothing but its sender's count and fee.
    Reverted,
}

/// A movement of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The token's contract.
    pub token: String,
    /// From whom.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Atomic units, in decimal digits.
    pub units: String,
    /// In whole tokens with the configured name, where the token is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
}

/// The chain that a data folder uses after it left another device's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLeft {
    /// CAIP-2 id of its own chain.
    pub chain: String,
    /// CAIP-2 id of the one that it left; absent where it used its own already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// The balances of one account on one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountBalances {
    /// CAIP-10 id.
    pub account: String,
    /// The chain's own coin, and every configured asset of the chain.
    pub balances: Vec<Money>,
}

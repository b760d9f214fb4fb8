//! What `hearth wallet` prints.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// A wallet that was made or recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletCreated {
    /// The household's account.
    pub household: String,
    /// The file that holds the phrase, encrypted.
    pub keystore: String,
    /// The recovery phrase of a new wallet: shown this once. Absent after a recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_phrase: Option<String>,
}

/// What can be told of a wallet without its passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletShown {
    /// The household's account.
    pub household: String,
    /// The file that holds the phrase, encrypted.
    pub keystore: String,
    /// The data folder.
    pub home: String,
    /// This device's number.
    pub device_index: u32,
    /// This device's name.
    pub device_name: String,
    /// The chains that are configured, by CAIP-2 id.
    pub chains: Vec<String>,
}

/// Balances on every chain that is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balances {
    /// The household's account.
    pub household: String,
    /// One entry for each chain.
    pub chains: Vec<ChainBalances>,
}

/// Balances on one chain, or why they are not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainBalances {
    /// CAIP-2 id.
    pub chain: String,
    /// The configured name.
    pub name: String,
    /// What is held; empty where the chain could not be asked.
    pub balances: Vec<Money>,
    /// Why the chain could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A transfer that was sent and is final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// From which account.
    pub from: String,
    /// To which account.
    pub to: String,
    /// How much of what.
    pub sent: Money,
    /// CAIP-2 id.
    pub chain: String,
    /// Hash of the transaction.
    pub transaction: String,
    /// Height of its block.
    pub block: u64,
    /// What it cost, in the chain's own coin.
    pub fee: Money,
}

/// A keystore that was sealed with another passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseChanged {
    /// The household's account.
    pub household: String,
    /// The file that holds the phrase, encrypted.
    pub keystore: String,
}

/// A secret that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The household's account.
    pub household: String,
    /// The recovery phrase, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_phrase: Option<String>,
    /// The account's private key in hex, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
}

/// The session keys of a household's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// The household's account.
    pub household: String,
    /// One entry for each device that was asked for.
    pub sessions: Vec<Session>,
}

/// One device's session key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The device's number.
    pub device_index: u32,
    /// The session key's address.
    pub key: String,
    /// Whether it is this device.
    pub this_device: bool,
    /// The household's signed statements, one for each chain, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorizations: Vec<serde_json::Value>,
}
